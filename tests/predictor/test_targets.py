"""The target transform: accuracies to scores and back, the attainable accuracy, and uncertainty near the ends."""

import numpy as np
import pytest
from numpy.typing import NDArray

from jointnas.predictor.targets import EDGE, PRIOR_SPREAD_WEIGHT, TargetTransform, TransformPosterior

Array = NDArray[np.float64]
SOME = np.array([0.1, 0.35, 0.5, 0.52, 0.58])


@pytest.mark.parametrize("level", [1.0, 0.7, 0.59])
def test_scores_have_mean_zero_and_deviation_one_and_lead_back(level: float) -> None:
    transform = TargetTransform.fit(SOME, level)
    scores = transform.scores(SOME)
    assert scores.mean() == pytest.approx(0)
    assert scores.std() == pytest.approx(1)
    np.testing.assert_allclose(transform.accuracies(scores), SOME)
    assert transform.accuracies(np.array([50.0])) == pytest.approx(level)


def test_accuracies_outside_zero_and_one_stay_as_they_are() -> None:
    values = np.array([-40.0, 3.0, 60.0])
    transform = TargetTransform.fit(values, 0.7)
    assert transform.attainable is None
    np.testing.assert_allclose(np.diff(transform.scores(values)), np.diff(values) / values.std())
    np.testing.assert_allclose(transform.accuracies(transform.scores(values)), values)
    mean, deviation = transform.expected(transform.scores(values), np.full(3, 0.5))
    np.testing.assert_allclose(mean, values)
    np.testing.assert_allclose(deviation, 0.5 * values.std())


def test_the_spread_of_a_prior_counts_for_some_accuracies() -> None:
    wide, alike = TargetTransform(0.9, spread=1.0), np.array([0.50, 0.51, 0.52, 0.53])
    own = TargetTransform.fit(alike, 0.7)
    few = TargetTransform.fit(alike, 0.7, wide)
    assert own.spread < 0.1
    assert few.spread**2 == pytest.approx(
        (len(alike) * own.spread**2 + PRIOR_SPREAD_WEIGHT) / (len(alike) + PRIOR_SPREAD_WEIGHT)
    )
    assert few.centre == own.centre
    many = np.tile(alike, 10_000)
    assert TargetTransform.fit(many, 0.7, wide).spread == pytest.approx(own.spread, rel=0.02)
    unlike = TargetTransform(None, spread=30.0)  # of units of its own
    for values in (alike, 100 * alike):
        assert TargetTransform.fit(values, 0.7, unlike) == TargetTransform.fit(values, 0.7)


def test_accuracies_near_an_end_stay_distinct_by_a_smaller_edge() -> None:
    assert TargetTransform.fit(np.array([0.2, 0.5, 1.0])).edge == EDGE
    near = np.array([0.9990, 0.9995, 1.0])
    assert (np.diff(TargetTransform.fit(near).scores(near)) > 0).all()


def test_the_jacobian_is_that_of_the_scores() -> None:
    transform = TargetTransform.fit(SOME, 0.8)
    slopes = (transform.scores(SOME + 1e-6) - transform.scores(SOME - 1e-6)) / 2e-6
    assert transform.log_jacobian(SOME) == pytest.approx(np.log(slopes).sum(), rel=1e-6)


def independent(scores: Array) -> Array:
    """Return −2 log of the likelihoods of standard normal scores."""
    return np.asarray((scores**2).sum(axis=0))


def independent_of_scale(scores: Array) -> Array:
    """Return the same of normal scores of whatever mean and deviation."""
    return np.asarray(len(scores) * np.log(scores.var(axis=0)))


def inferred(accuracies: Array) -> float:
    return TransformPosterior.infer(accuracies, np.arange(len(accuracies)), independent).levels[0]


@pytest.mark.parametrize("level", [0.65, 0.9])
def test_the_attainable_accuracy_is_inferred_from_many_accuracies(level: float) -> None:
    """Accuracies whose log odds of their share of a level are normal tell the level; few of them tell little."""
    odds = np.random.default_rng(0).normal(0.5, 1.5, 4000)
    many = level / (1 + np.exp(-odds))
    assert inferred(many) == pytest.approx(level, abs=0.02)
    few = many[:4]
    assert 0.2 < (inferred(few) - few.max()) / (1 - few.max()) < 0.8


def test_it_is_inferred_from_the_given_rows_only() -> None:
    odds = np.random.default_rng(0).normal(0.5, 1.5, 2000)
    ended = 0.8 / (1 + np.exp(-odds))
    failed = np.full(500, ended.min())
    alone, among = (
        TransformPosterior.infer(accuracies, np.arange(2000), independent_of_scale).levels
        for accuracies in (ended, np.concatenate([ended, failed]))
    )
    assert among == pytest.approx(alone, abs=0.005)


@pytest.mark.parametrize("accuracies", [[0.5, 0.7, 1.0], [0.5, 0.7, np.nextafter(1, 0)], [1e-17, 0.4, 1.0]])
def test_the_ends_can_be_fitted(accuracies: list[float]) -> None:
    assert inferred(np.array(accuracies)) == 1
    assert np.isfinite(TargetTransform.fit(np.array(accuracies)).scores(np.array(accuracies))).all()


@pytest.mark.parametrize("low", [0.3, 0.9, 0.995])
def test_accuracies_of_a_narrow_band_are_kept_apart_at_every_level(low: float) -> None:
    """Late in a search all accuracies are much alike; a level just above the best must not make them one."""
    band = low + 0.003 * np.sort(np.random.default_rng(0).random(40))
    for level in (band[-1] + 1e-4, inferred(band)):
        scores = TargetTransform.fit(band, level).scores(band)
        assert (np.diff(scores) > 0).all()
        assert scores.std() == pytest.approx(1)


def test_the_uncertainty_of_few_accuracies_is_in_the_deviations() -> None:
    """Against a slow twin: draws of a level, then of a score. Beyond the best the scales part, at the mean they agree."""
    posterior = TransformPosterior.fit(SOME, [0.75, 0.6, 0.7, 0.9])
    scores, deviations = np.array([0.0, 3.0]), np.array([0.3, 0.3])
    mean, std = posterior.expected(scores, deviations)
    draws = posterior.sampled(scores + deviations * np.random.default_rng(0).normal(size=(300_000, 2)))
    assert mean == pytest.approx(draws.mean(axis=0), abs=1e-3)
    assert std == pytest.approx(draws.std(axis=0), abs=1e-3)
    one = TransformPosterior.fit(SOME, [0.75]).expected(scores, deviations)[1]
    assert std[1] > 3 * one[1]
    assert std[0] == pytest.approx(one[0], rel=0.15)
    assert TransformPosterior.fit(SOME, posterior.levels) == posterior
    wider = TransformPosterior.fit(SOME, posterior.levels, TargetTransform(spread=2.0))
    assert all(wide.spread > narrow.spread for wide, narrow in zip(wider.quantiles, posterior.quantiles, strict=True))


@pytest.mark.parametrize("wrong", [[0.57], [0.7, 1.1], [np.nan], [-1.0]])
def test_levels_below_the_best_or_above_one_are_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="below an accuracy or above 1"):
        TransformPosterior.fit(SOME, wrong)


def test_an_uncertain_prediction_near_one_is_lower_and_wider_than_its_middle() -> None:
    """Quadrature against a slow twin: the mean and deviation of many draws."""
    log_odds, deviations = np.array([5.0, 0.3, -2.0]), np.array([2.0, 0.5, 0.0])
    mean, std = TargetTransform(0.9).expected(log_odds, deviations)
    draws = 0.9 / (1 + np.exp(-(np.random.default_rng(0).normal(size=(400_000, 1)) * deviations + log_odds)))
    assert mean == pytest.approx(draws.mean(axis=0), abs=2e-3)
    assert std == pytest.approx(draws.std(axis=0), abs=4e-3)
    assert mean[0] < 0.9 / (1 + np.exp(-5.0))
    assert std[2] == pytest.approx(0, abs=1e-6)
