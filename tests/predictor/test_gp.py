"""The Gaussian process: the gradient of its likelihood, what it learns, and what it predicts at new points."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import multivariate_normal

from jointnas.predictor import gp
from jointnas.predictor.gp import (
    Examples,
    GaussianProcess,
    Hyperparameters,
    fit_hyperparameters,
    negative_log_likelihood,
)

Array = NDArray[np.float64]


def examples(n: int = 60, d: int = 12, noise: float = 0.1) -> Examples:
    """Return features of which the first two matter, a constant trend, and standardised targets."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d))
    y = truth(x) + noise * rng.standard_normal(n)
    return Examples(x, constant(n), (y - y.mean()) / y.std())


def truth(x: Array) -> Array:
    return np.asarray(np.sin(1.5 * x[:, 0]) + 0.3 * x[:, 1])


def fitted(train: Examples) -> GaussianProcess:
    """Return the process in which each feature is a group."""
    groups = np.arange(train.x.shape[1])
    return GaussianProcess(train, groups, fit_hyperparameters(train, groups))


def constant(n: int) -> Array:
    return np.ones((n, 1))


def test_the_gradient_is_that_of_the_likelihood() -> None:
    plain, rng = examples(40, 5), np.random.default_rng(1)
    plain.x[30:] = plain.x[:10]  # candidates with two examples
    trend, trainings = rng.standard_normal((40, 2)), rng.integers(1, 4, 40).astype(np.float64)
    train = Examples(plain.x, trend, plain.y, trainings, known_noise=rng.uniform(0, 0.5, 40))
    groups = np.array([0, 0, 1, 2, 2])
    vector = np.array([0.1, -0.5, -1.0, 1.0, 0.4, -0.2, 0.3, -1.5, -1.0])
    gradient = negative_log_likelihood(train, groups, Hyperparameters.from_vector(vector))[1]
    for i, step in enumerate(1e-5 * np.eye(len(vector))):
        above, below = (
            negative_log_likelihood(train, groups, Hyperparameters.from_vector(vector + s))[0] for s in (step, -step)
        )
        assert gradient[i] == pytest.approx((above - below) / 2e-5, abs=1e-6)


def test_the_gradient_by_relevance_is_that_of_the_likelihood() -> None:
    plain, groups = examples(40, 5), np.array([0, 0, 1, 2, 2])
    hyperparameters = Hyperparameters.from_vector(np.array([0.1, -0.5, -1.0, 1.0, 0.4, -0.2, 0.3, -1.5, -1.0]))
    logs = np.array([0.5, -0.3, 0.0, 1.0, -1.0])

    def likelihood(logs: Array) -> tuple[float, Array, Array]:
        return negative_log_likelihood(replace(plain, relevance=np.exp(logs)), groups, hyperparameters)

    for i, step in enumerate(1e-5 * np.eye(5)):
        above, below = likelihood(logs + step)[0], likelihood(logs - step)[0]
        assert likelihood(logs)[2][i] == pytest.approx((above - below) / 2e-5, abs=1e-6)


def test_a_few_examples_are_enough_to_learn_the_effect_of_a_relevant_feature() -> None:
    rng = np.random.default_rng(0)
    x, test = rng.standard_normal((8, 30)), rng.standard_normal((200, 30))
    hyperparameters, errors = Hyperparameters(np.zeros(1), np.zeros(1), -9.0, -9.0, -3.0), []
    for factors in (np.ones(30), np.array([30.0, *np.full(29, 0.01)])):
        process = GaussianProcess(
            Examples(x, constant(8) * 0, x[:, 0], relevance=factors), np.zeros(30, dtype=np.int64), hyperparameters
        )
        errors.append(float(np.abs(process.mean(test, constant(200) * 0) - test[:, 0]).mean()))
    assert errors[1] < 0.2 < 0.5 < errors[0]


@pytest.mark.parametrize("cores", [1, 3])
def test_parts_computed_side_by_side_are_those_of_the_whole(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    process = fitted(examples())
    test = examples(100)

    def answers() -> list[Array]:
        return [
            process.mean(test.x, test.trend),
            *process.predict(test.x, test.trend),
            process.sample(test.x, test.trend, 3, [0]),
        ]

    whole = answers()
    monkeypatch.setattr(gp, "CHUNK_ROWS", 7)
    monkeypatch.setattr("jointnas.cores.available_cores", lambda: cores)
    for answer, expected in zip(answers(), whole, strict=True):
        np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_deviances_rank_other_targets_as_their_densities_do() -> None:
    """Against SciPy's multivariate normal, with the process's covariance of its examples."""
    train = examples(30, 4)
    process = fitted(train)
    targets = np.stack([train.y, train.y[::-1], np.zeros(30)], axis=1)
    covariance = process._covariance(train.x, train.trend) + process.noise * np.eye(30)
    densities = multivariate_normal(np.zeros(30), covariance).logpdf(targets.T)
    np.testing.assert_allclose(np.diff(process.deviances(targets)), -2 * np.diff(densities))


def test_what_matters_gets_the_shortest_length_scale_and_the_steepest_slope() -> None:
    train = examples()
    train = replace(train, y=np.sin(2 * train.x[:, 0]) + 0.5 * train.x[:, 1])
    fit = fit_hyperparameters(train, np.arange(12))
    assert np.argmin(fit.lengths) == 0
    assert np.argmax(fit.slopes) == 1
    assert fit.noise < -1


def test_features_of_one_group_share_its_hyperparameters() -> None:
    train = examples()
    fit = fit_hyperparameters(train, np.array([0, 0] + [1] * 10))
    assert fit.lengths.shape == fit.slopes.shape == (2,)
    assert fit.lengths[0] < fit.lengths[1]
    slope, length = fit.scales(np.array([0, 0] + [1] * 10))
    assert slope[0] == pytest.approx(np.sqrt(np.exp(fit.slopes[0]) / 2))
    assert length[-1] == pytest.approx(np.exp(-fit.lengths[1]) / np.sqrt(10))


def test_hyperparameters_stay_near_a_given_prior_mean_where_examples_are_few() -> None:
    train = examples(4)
    expected = Hyperparameters(np.linspace(-4, 1, 12), np.linspace(-1, 4, 12), 0.5, -1.0, -3.0)
    assert fit_hyperparameters(train, np.arange(12), expected).to_vector() == pytest.approx(
        expected.to_vector(), abs=1.5
    )
    assert fit_hyperparameters(train, np.arange(12)).lengths != pytest.approx(expected.lengths, abs=1.5)


@pytest.mark.parametrize(("factor", "sign"), [(4.0, 1), (0.25, -1)])
def test_a_few_examples_tell_how_large_all_effects_of_another_process_are_here(factor: float, sign: int) -> None:
    train, groups = examples(16), np.arange(12)
    expected = Hyperparameters.prior_mean(12)
    fit = fit_hyperparameters(replace(train, y=factor * train.y), groups, expected)
    shifts = [*(fit.slopes - expected.slopes), fit.amplitude - expected.amplitude, fit.effect - expected.effect]
    assert min(sign * np.array(shifts)) > 0.5
    assert fit.lengths == pytest.approx(expected.lengths, abs=0.5)


def test_it_predicts_new_points_and_is_less_certain_far_away() -> None:
    process = fitted(examples())
    fresh = np.random.default_rng(1).standard_normal((500, 12))
    mean, deviation = process.predict(fresh, constant(500))
    assert np.corrcoef(mean, truth(fresh))[0, 1] > 0.9
    np.testing.assert_allclose(process.mean(fresh, constant(500)), mean, atol=1e-4)
    assert process.predict(np.full((1, 12), 9.0), constant(1))[1][0] > 2 * deviation.max()


def test_without_noise_it_passes_through_its_examples() -> None:
    train = examples(30, 3, noise=0.0)
    process = GaussianProcess(train, np.arange(3), Hyperparameters(np.zeros(3), np.zeros(3), 0.0, -20.0, -20.0))
    mean, deviation = process.predict(train.x, train.trend)
    assert mean == pytest.approx(train.y, abs=1e-3)
    assert deviation.max() < 0.02


def test_noise_is_taken_for_noise() -> None:
    rng = np.random.default_rng(2)
    process = fitted(Examples(rng.standard_normal((80, 6)), constant(80), rng.standard_normal(80)))
    assert process.mean(rng.standard_normal((200, 6)), constant(200)).std() < 0.5


def test_a_line_and_a_trend_go_on_beyond_the_examples() -> None:
    x = np.random.default_rng(0).standard_normal((40, 2))
    train = Examples(x, x[:, :1], 2 * x[:, 0] + x[:, 1])
    far = np.full((1, 2), 6.0)
    assert fitted(train).mean(far, far[:, :1])[0] == pytest.approx(18, abs=2)


def test_without_examples_it_predicts_its_prior() -> None:
    hyperparameters = Hyperparameters.prior_mean(12)
    process = GaussianProcess(
        Examples(np.zeros((0, 12)), np.zeros((0, 1)), np.zeros(0)), np.arange(12), hyperparameters
    )
    fresh = np.random.default_rng(1).standard_normal((300, 12))
    mean, deviation = process.predict(fresh, constant(300))
    assert not mean.any()
    samples = process.sample(fresh, constant(300), 2000, [0])
    own_effect = np.exp(hyperparameters.effect)  # of a new candidate: in its deviation, in no sampled function
    assert samples.std(axis=0) == pytest.approx(np.sqrt(deviation**2 - own_effect), rel=0.15)


def test_sampled_functions_have_the_mean_and_deviation_of_the_posterior() -> None:
    process = fitted(examples(20))
    fresh = np.random.default_rng(1).standard_normal((60, 12))
    mean, deviation = process.predict(fresh, constant(60))
    samples = process.sample(fresh, constant(60), 2000, [3])
    assert samples.shape == (2000, 60)
    assert np.abs(samples.mean(axis=0) - mean).max() < 0.15
    own_effect = np.exp(process.hyperparameters.effect)
    assert samples.std(axis=0) == pytest.approx(np.sqrt(deviation**2 - own_effect), rel=0.2, abs=0.02)
    assert np.corrcoef(samples.T[:2])[0, 1] < 0.99
    np.testing.assert_allclose(process.sample(fresh[:7], constant(7), 2000, [3]), samples[:, :7], rtol=1e-9, atol=1e-9)


def test_a_candidate_stands_out_from_its_neighbours_by_as_much_as_its_trainings_show() -> None:
    train = examples(20, 3)
    train.y[0] += 3  # nothing in its features says so
    hyperparameters = Hyperparameters(np.full(3, -2.0), np.ones(3), -1.0, 0.0, -3.0)
    once = GaussianProcess(train, np.arange(3), hyperparameters)
    often = GaussianProcess(replace(train, trainings=np.full(20, 100.0)), np.arange(3), hyperparameters)
    beside = train.x[:1] + 1e-6
    for process in (once, often):
        own, neighbour = (process.mean(x, constant(1))[0] for x in (train.x[:1], beside))
        assert own - neighbour > 1
        np.testing.assert_allclose(process.predict(train.x[:1], constant(1))[0], own, atol=1e-4)
    assert often.predict(train.x[:1], constant(1))[1] < 0.5 * once.predict(train.x[:1], constant(1))[1]
    samples = once.sample(train.x[:1], constant(1), 3000, [0])
    mean, deviation = once.predict(train.x[:1], constant(1))
    assert samples.mean() == pytest.approx(mean[0], abs=0.03)
    assert samples.std() == pytest.approx(deviation[0], rel=0.1)


def test_a_candidate_is_recognised_though_its_features_differ_in_the_last_bits() -> None:
    train = replace(examples(), y=np.where(np.arange(60) == 7, 5.0, 0.0))
    process = GaussianProcess(train, np.arange(12), replace(Hyperparameters.prior_mean(12), effect=0.0))
    same = train.x[7:8] * (1 + 1e-15)
    assert (same != train.x[7:8]).any()
    np.testing.assert_allclose(process.mean(same, constant(1)), process.mean(train.x[7:8], constant(1)), rtol=1e-5)
    np.testing.assert_allclose(
        process.predict(same, constant(1)), process.predict(train.x[7:8], constant(1)), rtol=1e-5
    )


def test_known_noise_is_added_to_the_noise_of_each_example() -> None:
    train, groups = examples(), np.arange(12)
    hyperparameters = replace(Hyperparameters.prior_mean(12), noise=np.log(0.1))
    quieter = GaussianProcess(replace(train, known_noise=np.full(60, 0.2)), groups, hyperparameters)
    noisier = GaussianProcess(train, groups, replace(hyperparameters, noise=np.log(0.3)))
    for one, other in zip(quieter.predict(train.x, constant(60)), noisier.predict(train.x, constant(60)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    samples = [process.sample(train.x, constant(60), 3, [1]) for process in (quieter, noisier)]
    np.testing.assert_allclose(*samples, atol=1e-6)


def test_two_examples_of_a_candidate_count_as_one_example_of_their_mean() -> None:
    train = examples(20, 3)
    twice = Examples(np.concatenate([train.x, train.x[:1]]), constant(21), np.append(train.y, train.y[0] + 1))
    means = replace(train, y=np.append(train.y[0] + 0.5, train.y[1:]), trainings=np.array([2.0, *np.ones(19)]))
    hyperparameters = Hyperparameters.prior_mean(3)
    one, other = (GaussianProcess(t, np.arange(3), hyperparameters) for t in (twice, means))
    points = np.concatenate([train.x, np.random.default_rng(3).standard_normal((10, 3))])
    np.testing.assert_allclose(one.predict(points, constant(30)), other.predict(points, constant(30)), atol=1e-6)
    np.testing.assert_allclose(one.mean(points, constant(30)), other.mean(points, constant(30)), atol=1e-5)
