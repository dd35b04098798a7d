"""Algorithm 1's early stop: after the first round, the least fraction of the budget that already ranks its trainings right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scipy.stats import kendalltau

from jointnas.training.observation import Observation
from jointnas.training.trainer import CURVE_FRACTIONS

SMALLEST_ROUND = 4  # trainings from which a fraction is judged
ROUNDING = 1e-9  # scipy's τ of equal rankings falls short of 1 by as little


def accuracy_at(observation: Observation, fraction: float) -> float | None:
    """Return the accuracy that a training had at a fraction of its budget; None where its curve was not read there.

    The end of a training counts as the fraction it ran. A curve is read at the first step past each fraction.
    """
    if observation.accuracy is None or fraction >= observation.fraction:
        return observation.accuracy
    return next((point.accuracy for point in observation.curve if point.fraction >= fraction), None)


def stop_fraction(observations: Sequence[Observation], threshold: float) -> float:
    """Return the least fraction at which the trainings stand in their final order, by Kendall's τ of `threshold` or more.

    1 where no fraction does, or fewer than four trainings ended well. Source: Dai et al., CVPR 2021, algorithm 1, whose
    threshold is 0.92.
    """
    ended = [o for o in observations if o.accuracy is not None and o.fraction == 1]
    if len(ended) < SMALLEST_ROUND:
        return 1.0
    for fraction in CURVE_FRACTIONS:
        early = [accuracy_at(o, fraction) for o in ended]
        if any(value is None for value in early):
            continue
        if kendalltau(early, [o.accuracy for o in ended]).statistic >= threshold - ROUNDING:
            return fraction
    return 1.0


def at_fraction(observation: Observation, fraction: float) -> Observation:
    """Return the observation as if the training had ended at `fraction`, so that all labels are of one fraction."""
    if observation.accuracy is None or observation.fraction <= fraction:
        return observation
    accuracy = accuracy_at(observation, fraction)
    curve = tuple(point for point in observation.curve if point.fraction < fraction)
    failure = None if accuracy is not None else f"its accuracy after {fraction:g} of the budget was not read"
    return replace(
        observation, accuracy=accuracy, balanced_accuracy=None, fraction=fraction, curve=curve, failure=failure
    )
