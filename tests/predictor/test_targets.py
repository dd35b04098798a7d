"""The scale that accuracies are fitted on: there and back, what is attainable, and what uncertainty does near its ends."""

import numpy as np
import pytest
from numpy.typing import NDArray

from jointnas.predictor.targets import EARLIER_COUNT, EDGE, AccuracyScale, Belief

Array = NDArray[np.float64]
SOME = np.array([0.1, 0.35, 0.5, 0.52, 0.58])


@pytest.mark.parametrize("level", [1.0, 0.7, 0.59])
def test_scores_have_mean_zero_and_deviation_one_and_lead_back(level: float) -> None:
    scale = AccuracyScale.of(SOME, level)
    scores = scale.scores(SOME)
    assert scores.mean() == pytest.approx(0)
    assert scores.std() == pytest.approx(1)
    np.testing.assert_allclose(scale.accuracies(scores), SOME)
    assert scale.accuracies(np.array([50.0])) == pytest.approx(level)


def test_accuracies_outside_zero_and_one_stay_as_they_are() -> None:
    values = np.array([-40.0, 3.0, 60.0])
    scale = AccuracyScale.of(values, 0.7)
    assert scale.attainable is None
    np.testing.assert_allclose(np.diff(scale.scores(values)), np.diff(values) / values.std())
    np.testing.assert_allclose(scale.accuracies(scale.scores(values)), values)
    mean, deviation = scale.expected(scale.scores(values), np.full(3, 0.5))
    np.testing.assert_allclose(mean, values)
    np.testing.assert_allclose(deviation, 0.5 * values.std())


def test_the_spread_of_an_earlier_campaign_counts_for_some_accuracies() -> None:
    wide, alike = AccuracyScale(0.9, spread=1.0), np.array([0.50, 0.51, 0.52, 0.53])
    own = AccuracyScale.of(alike, 0.7)
    few = AccuracyScale.of(alike, 0.7, wide)
    assert own.spread < 0.1
    assert few.spread**2 == pytest.approx((len(alike) * own.spread**2 + EARLIER_COUNT) / (len(alike) + EARLIER_COUNT))
    assert few.centre == own.centre
    many = np.tile(alike, 10_000)
    assert AccuracyScale.of(many, 0.7, wide).spread == pytest.approx(own.spread, rel=0.02)
    unlike = AccuracyScale(None, spread=30.0)  # of units of its own
    for values in (alike, 100 * alike):
        assert AccuracyScale.of(values, 0.7, unlike) == AccuracyScale.of(values, 0.7)


def test_accuracies_near_an_end_are_kept_apart_by_a_smaller_edge() -> None:
    assert AccuracyScale.of(np.array([0.2, 0.5, 1.0])).edge == EDGE
    near = np.array([0.9990, 0.9995, 1.0])
    assert (np.diff(AccuracyScale.of(near).scores(near)) > 0).all()


def test_the_slope_is_that_of_the_scores() -> None:
    scale = AccuracyScale.of(SOME, 0.8)
    slopes = (scale.scores(SOME + 1e-6) - scale.scores(SOME - 1e-6)) / 2e-6
    assert scale.log_slope(SOME) == pytest.approx(np.log(slopes).sum(), rel=1e-6)


def independent(scores: Array) -> Array:
    """Return −2 log of the likelihoods of standard normal scores."""
    return np.asarray((scores**2).sum(axis=0))


def independent_of_scale(scores: Array) -> Array:
    """Return the same of normal scores of whatever mean and deviation."""
    return np.asarray(len(scores) * np.log(scores.var(axis=0)))


def learned(accuracies: Array) -> float:
    return Belief.learned(accuracies, np.arange(len(accuracies)), independent).levels[0]


@pytest.mark.parametrize("level", [0.65, 0.9])
def test_what_is_attainable_is_learned_from_many_accuracies(level: float) -> None:
    """Accuracies whose log odds of their share of a level are normal tell the level; few of them tell little."""
    odds = np.random.default_rng(0).normal(0.5, 1.5, 4000)
    many = level / (1 + np.exp(-odds))
    assert learned(many) == pytest.approx(level, abs=0.02)
    few = many[:4]
    assert 0.2 < (learned(few) - few.max()) / (1 - few.max()) < 0.8


def test_only_the_rows_that_are_named_tell_it() -> None:
    odds = np.random.default_rng(0).normal(0.5, 1.5, 2000)
    ended = 0.8 / (1 + np.exp(-odds))
    failed = np.full(500, ended.min())
    alone, among = (
        Belief.learned(told, np.arange(2000), independent_of_scale).levels
        for told in (ended, np.concatenate([ended, failed]))
    )
    assert among == pytest.approx(alone, abs=0.005)


@pytest.mark.parametrize("accuracies", [[0.5, 0.7, 1.0], [0.5, 0.7, np.nextafter(1, 0)], [1e-17, 0.4, 1.0]])
def test_the_ends_can_be_fitted(accuracies: list[float]) -> None:
    assert learned(np.array(accuracies)) == 1
    assert np.isfinite(AccuracyScale.of(np.array(accuracies)).scores(np.array(accuracies))).all()


@pytest.mark.parametrize("low", [0.3, 0.9, 0.995])
def test_accuracies_of_a_narrow_band_are_kept_apart_at_every_level(low: float) -> None:
    """Late in a search all accuracies are much alike; a level just above the best must not make them one."""
    band = low + 0.003 * np.sort(np.random.default_rng(0).random(40))
    for level in (band[-1] + 1e-4, learned(band)):
        scores = AccuracyScale.of(band, level).scores(band)
        assert (np.diff(scores) > 0).all()
        assert scores.std() == pytest.approx(1)


def test_what_few_accuracies_leave_open_is_in_their_deviations() -> None:
    """Against a slow twin: draws of a level, then of a score. Beyond the best the scales part, at the mean they agree."""
    belief = Belief.of(SOME, [0.75, 0.6, 0.7, 0.9])
    scores, deviations = np.array([0.0, 3.0]), np.array([0.3, 0.3])
    mean, std = belief.expected(scores, deviations)
    draws = belief.drawn(scores + deviations * np.random.default_rng(0).normal(size=(300_000, 2)))
    assert mean == pytest.approx(draws.mean(axis=0), abs=1e-3)
    assert std == pytest.approx(draws.std(axis=0), abs=1e-3)
    one = Belief.of(SOME, [0.75]).expected(scores, deviations)[1]
    assert std[1] > 3 * one[1]
    assert std[0] == pytest.approx(one[0], rel=0.15)
    assert Belief.of(SOME, belief.levels) == belief
    wider = Belief.of(SOME, belief.levels, AccuracyScale(spread=2.0))
    assert all(wide.spread > scale.spread for wide, scale in zip(wider.probable, belief.probable, strict=True))


@pytest.mark.parametrize("wrong", [[0.57], [0.7, 1.1], [np.nan], [-1.0]])
def test_levels_below_the_best_or_above_one_are_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="come near to"):
        Belief.of(SOME, wrong)


def test_an_uncertain_prediction_near_one_is_lower_and_wider_than_its_middle() -> None:
    """Quadrature against a slow twin: the mean and deviation of many draws."""
    log_odds, deviations = np.array([5.0, 0.3, -2.0]), np.array([2.0, 0.5, 0.0])
    mean, std = AccuracyScale(0.9).expected(log_odds, deviations)
    draws = 0.9 / (1 + np.exp(-(np.random.default_rng(0).normal(size=(400_000, 1)) * deviations + log_odds)))
    assert mean == pytest.approx(draws.mean(axis=0), abs=2e-3)
    assert std == pytest.approx(draws.std(axis=0), abs=4e-3)
    assert mean[0] < 0.9 / (1 + np.exp(-5.0))
    assert std[2] == pytest.approx(0, abs=1e-6)
