"""What networks and their trainings cost on this device, measured, kept, and estimated for those not measured."""

from jointnas.measurement.estimate import Estimate, Estimator
from jointnas.measurement.features import FEATURES, block_features, features
from jointnas.measurement.inference import BATCH, Timing, measure_inference
from jointnas.measurement.meter import Meter, check_metrics, measure, prepare_measurements
from jointnas.measurement.store import Store
from jointnas.measurement.training import TRAINING_METRICS, TrainingCost, measure_training

__all__ = [
    "BATCH",
    "FEATURES",
    "TRAINING_METRICS",
    "Estimate",
    "Estimator",
    "Meter",
    "Store",
    "Timing",
    "TrainingCost",
    "block_features",
    "check_metrics",
    "features",
    "measure",
    "measure_inference",
    "measure_training",
    "prepare_measurements",
]
