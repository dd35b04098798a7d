"""Algorithm 1's early stop: the smallest share of the budget that already gives the final ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jointnas.training.observation import CURVE_FRACTIONS, Observation

FEWEST = 12  # trainings from which a fraction is judged
RESAMPLES = 500
DOUBT = 0.05  # share of the resamples that may rank worse than the threshold
ROUNDING = 1e-9  # scipy's τ of equal rankings falls short of 1 by as little


def accuracy_at(observation: Observation, fraction: float) -> float | None:
    """Return the accuracy that a training had at a fraction of its budget; None where its curve was not read there.

    The end of a training counts as the fraction it ran. A curve is read at the first step past each fraction.
    """
    if observation.accuracy is None or fraction >= observation.fraction:
        return observation.accuracy
    return next((point.accuracy for point in observation.curve if point.fraction >= fraction), None)


def stop_fraction(observations: Sequence[Observation], threshold: float, seed: int = 0) -> float:
    """Return the least fraction at which the trainings stand in their final order, by Kendall's τ of `threshold` or more.

    A few trainings agree by chance: all but a twentieth of the resamples of these trainings (a bootstrap) have to reach the
    threshold. 1 where no fraction does, or fewer than twelve trainings ended well. Source: Dai et al., CVPR 2021, algorithm 1,
    whose threshold is 0.92, of one value of τ.
    """
    from scipy.stats import kendalltau  # half a second, which most commands do without

    ended = [o for o in observations if o.accuracy is not None and o.fraction == 1]
    if len(ended) < FEWEST:
        return 1.0
    final = np.array([o.accuracy for o in ended], dtype=np.float64)
    resamples = np.random.default_rng(seed).integers(0, len(ended), (RESAMPLES, len(ended)))
    for fraction in CURVE_FRACTIONS:
        early = np.array([accuracy_at(o, fraction) for o in ended], dtype=np.float64)  # NaN where it was not read
        if np.isnan(early).any():
            continue
        taus = [kendalltau(early[rows], final[rows]).statistic for rows in resamples]
        if np.quantile(np.nan_to_num(taus, nan=-1.0), DOUBT) >= threshold - ROUNDING:
            return fraction
    return 1.0


def at_fraction(observation: Observation, fraction: float) -> Observation:
    """Return the observation as if the training had ended at `fraction`, so that all labels are of one fraction."""
    if observation.accuracy is None or observation.fraction <= fraction:
        return observation
    accuracy = accuracy_at(observation, fraction)
    read = next((point for point in observation.curve if point.fraction >= fraction), None)
    curve = tuple(point for point in observation.curve if point.fraction < fraction)
    failure = None if accuracy is not None else f"its accuracy after {fraction:g} of the budget was not read"
    return replace(
        observation,
        accuracy=accuracy,
        balanced_accuracy=None,
        log_loss=read.log_loss if read else None,
        smoothed_accuracy=None,
        fraction=fraction,
        seconds=read.seconds if read else None,
        steps=read.steps if read else None,
        curve=curve,
        failure=failure,
    )
