"""Training one network by one recipe under a clock."""

from jointnas.training.clock import Clock, StepClock, WallClock
from jointnas.training.observation import CurvePoint, Observation
from jointnas.training.trainer import Training, train_network

__all__ = ["Clock", "CurvePoint", "Observation", "StepClock", "Training", "WallClock", "train_network"]
