"""One contract suite for every kind of predictor: the built-in ones, and a ridge regression that an installed package adds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

import jointnas
from jointnas.errors import PredictorError
from jointnas.predictor.accuracies import filled_accuracies
from jointnas.predictor.contract import (
    PREDICTORS,
    Array,
    Predictor,
    PredictorModel,
    find_model,
    predictor_names,
)
from jointnas.predictor.files import digest
from jointnas.predictor.prior import Prior
from jointnas.predictor.targets import TransformPosterior
from jointnas.predictor.task import Task
from jointnas.predictor.validation import cross_validated_tau
from jointnas.search.search import Search
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.space.space import Space
from jointnas.training.observation import Observation
from tests.plugins import install_package

RIDGE = "ridge"
TEXT = "format = 1\n[architecture]\n" + "\n".join(f"x{i} = {{ low = 0.0, high = 1.0 }}" for i in range(3))
every_kind = pytest.mark.parametrize("kind", [*PREDICTORS, RIDGE])


class RidgeModel(PredictorModel):
    """Bayesian ridge regression on the encoded knobs: a whole predictor in forty lines."""

    def __init__(self, space: Space, seed: int, prior: Prior | None, reference: Codes, task: Task) -> None:
        self.space, self.seed = space, seed
        self._weights: Array | None = None

    @property
    def is_fitted(self) -> bool:
        return self._weights is not None

    def _features(self, codes: Codes) -> Array:
        return np.concatenate([*self.space.encode_codes(codes), np.ones((len(codes), 1))], axis=1)

    def fit(self, codes: Codes, observations: Sequence[Observation]) -> None:
        self._accuracies = filled_accuracies(observations)
        self.targets = TransformPosterior.fit(self._accuracies)
        self._x, self._y = self._features(codes), self.targets.mean.scores(self._accuracies)
        self._weights, self._covariance = self._solve(np.arange(len(codes)))

    def _solve(self, rows: Array) -> tuple[Array, Array]:
        covariance = np.linalg.inv(self._x[rows].T @ self._x[rows] + 0.1 * np.eye(self._x.shape[1]))
        return covariance @ self._x[rows].T @ self._y[rows], 0.1 * covariance

    def cross_validate(self) -> float | None:
        return cross_validated_tau(
            self._x, self._accuracies, lambda train, held_out: self._x[held_out] @ self._solve(train)[0], self.seed
        )

    def scores(self, codes: Codes, log_steps: Array | None = None) -> Array:
        assert self._weights is not None
        return self._features(codes) @ self._weights

    def predict_scores(self, codes: Codes, *, noise: bool = True) -> tuple[Array, Array]:
        x = self._features(codes)
        return self.scores(codes), np.sqrt(((x @ self._covariance) * x).sum(axis=1) + 0.1 * noise)

    def sample_scores(self, codes: Codes, count: int, seed: Sequence[int]) -> Array:
        weights = np.random.default_rng(seed).multivariate_normal(self._weights, self._covariance, count)
        return weights @ self._features(codes).T

    def state(self) -> dict[str, Array]:
        return {}

    def restore(self, codes: Codes, observations: Sequence[Observation], state: Mapping[str, Array]) -> None:
        self.fit(codes, observations)


@pytest.fixture(scope="module", autouse=True)
def _ridge_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Install a package whose entry point is the ridge regression."""
    with install_package(
        tmp_path_factory.mktemp("site"), "jointnas.predictors", RIDGE, f"{__name__}:{RidgeModel.__name__}"
    ):
        yield


def abstract() -> Space:
    return Space.from_toml(TEXT)


def truth(candidate: Candidate) -> float:
    x = [float(v) for v in candidate["architecture"].values()]
    return 0.3 + 0.4 * x[0] - 0.1 * x[1]


@cache
def fitted(kind: str, n: int = 32) -> Predictor:
    candidates = abstract().sample(n)
    return Predictor(abstract(), kind=kind).fit(candidates, [truth(c) for c in candidates])


@every_kind
def test_it_ranks_new_candidates_and_reports_its_rank_correlation(kind: str) -> None:
    predictor, new = fitted(kind), abstract().sample(64, seed=9)
    mean, std = predictor.predict(new)
    assert mean.shape == std.shape == (64,)
    assert (std > 0).all()
    assert kendalltau(mean, [truth(c) for c in new]).statistic > 0.8
    assert predictor.rank_correlation is not None
    assert predictor.rank_correlation > 0.8
    assert fitted(kind, 3).rank_correlation is None  # too few to hold any out


@every_kind
def test_medians_scores_and_means_rank_alike(kind: str) -> None:
    predictor = fitted(kind)
    codes = predictor.space.to_codes(predictor.space.sample(64, seed=9))
    means, medians, scores = predictor.predict_codes(codes)[0], predictor.median_codes(codes), predictor.scores(codes)
    assert kendalltau(medians, scores).statistic == pytest.approx(1)
    assert kendalltau(medians, means).statistic > 0.9


@every_kind
def test_samples_are_functions_of_the_posterior_and_a_seed_repeats_them(kind: str) -> None:
    predictor = fitted(kind)
    codes = predictor.space.to_codes(predictor.space.sample(20, seed=9))
    samples = predictor.sample_codes(codes, 200, [1])
    assert samples.shape == (200, 20)
    np.testing.assert_allclose(samples.mean(axis=0), predictor.predict_codes(codes)[0], atol=0.02)
    np.testing.assert_allclose(predictor.sample_codes(codes[:5], 200, [1]), samples[:, :5], rtol=1e-6)
    assert not np.allclose(predictor.sample_codes(codes, 200, [2]), samples)
    assert predictor.predict_members(predictor.space.sample(3)).shape == (predictor.members, 3)


@every_kind
def test_accuracies_have_a_deviation_of_one_in_scores(kind: str) -> None:
    predictor = fitted(kind, 64)
    codes = predictor.space.to_codes(predictor.candidates)
    assert predictor.sample_scores(codes, 50, [1]).std(axis=1).mean() == pytest.approx(1, abs=0.15)


@every_kind
def test_a_failure_counts_as_the_lowest_accuracy(kind: str) -> None:
    candidates = abstract().sample(5)
    results = [*(Observation(accuracy=a) for a in (0.2, 0.5, 0.3)), *[Observation.failed("diverged")] * 2]
    predictor = Predictor(abstract(), kind=kind).fit(candidates, results)
    assert predictor.accuracies.tolist() == [0.2, 0.5, 0.3, 0.2, 0.2]
    assert np.isfinite(predictor.predict(candidates)).all()


@pytest.mark.parametrize("kind", PREDICTORS)
def test_a_cost_that_is_not_finite_is_refused(kind: str) -> None:
    space = Space.from_toml("format = 1\n[architecture]\nx = { low = 0.0, high = 1.0 }\n")
    predictor = Predictor(space.with_cost(lambda c: {"price": float("nan")}), kind=kind)
    with pytest.raises(PredictorError, match="not finite"):
        predictor.fit(space.sample(4), [0.1, 0.2, 0.3, 0.4])


@every_kind
def test_nothing_is_predicted_or_saved_before_a_fit(kind: str, tmp_path: Path) -> None:
    predictor = Predictor(abstract(), kind=kind)
    assert not predictor.is_fitted
    with pytest.raises(PredictorError, match="not fitted"):
        predictor.predict(abstract().sample(2))
    with pytest.raises(PredictorError, match="not fitted"):
        predictor.save(tmp_path)
    with pytest.raises(PredictorError, match="2 accuracies or more, got 1"):
        predictor.fit(abstract().sample(1), [0.5])


@every_kind
def test_a_copy_from_before_a_fit_predicts_as_before(kind: str) -> None:
    predictor, grid = fitted(kind), abstract().sample(20, seed=3)
    before = predictor.predict(grid)
    search = Search(abstract(), predictor=predictor, pool_size=50)
    search.tell(grid, [0.01] * 20)
    assert not np.allclose(search.fitted().predict(grid)[0], before[0])
    np.testing.assert_array_equal(predictor.predict(grid), before)


@every_kind
def test_a_loaded_predictor_is_of_its_kind_and_predicts_the_same(kind: str, tmp_path: Path) -> None:
    predictor, grid = fitted(kind), abstract().sample(20, seed=3)
    predictor.save(tmp_path)
    loaded = jointnas.Predictor.load(tmp_path)
    assert isinstance(loaded, jointnas.Predictor)
    assert loaded.kind == kind
    assert loaded.rank_correlation == predictor.rank_correlation
    np.testing.assert_allclose(loaded.predict(grid), predictor.predict(grid), rtol=1e-6)
    np.testing.assert_allclose(loaded.predict_members(grid), predictor.predict_members(grid), rtol=1e-6)


def smoothed(kind: str, n: int = 32) -> Predictor:
    """Return a predictor of accuracies that are all alike, but whose smoothed ones are the truth."""
    candidates = abstract().sample(n)
    return Predictor(abstract(), kind=kind).fit(
        candidates, [Observation(0.5, smoothed_accuracy=truth(c)) for c in candidates]
    )


@pytest.mark.parametrize("kind", PREDICTORS)
def test_smoothed_accuracies_are_learned_and_a_loaded_predictor_has_them(kind: str, tmp_path: Path) -> None:
    predictor, others = smoothed(kind), abstract().sample(100, seed=3)
    mean, std = predictor.predict(others)
    assert kendalltau(mean, [truth(c) for c in others]).statistic > 0.6
    predictor.save(tmp_path / "saved")
    loaded = Predictor.load(tmp_path / "saved").predict(others)
    np.testing.assert_allclose(np.stack(loaded), np.stack([mean, std]), atol=1e-6)


@every_kind
def test_a_search_runs_on_it(kind: str) -> None:
    search = Search(abstract(), ["total<2"], cost=total, predictor_kind=kind, pool_size=300)
    for _ in range(2):
        batch = search.ask(12)
        search.tell(batch, [truth(c) for c in batch])
    assert search.fitted().kind == kind
    winners = search.best(3)
    assert all(total(w.candidate)["total"] < 2 for w in winners)
    assert truth(winners[0].candidate) > 0.6
    costs = [w.costs["total"] for w in search.front("total", 4)]
    assert costs == sorted(costs)


def total(candidate: Candidate) -> dict[str, float]:
    return {"total": sum(float(v) for v in candidate["architecture"].values())}


@every_kind
def test_it_serves_as_the_prior_of_the_default_predictor(kind: str) -> None:
    new = abstract().sample(64, seed=9)
    predictor = Predictor(abstract(), prior=fitted(kind))
    assert kendalltau(predictor.predict(new)[0], [truth(c) for c in new]).statistic > 0.8


def test_a_full_disk_leaves_the_predictor_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fitted("gp")
    before.save(tmp_path)

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:9])  # what still fits
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PredictorError, match="No space left"):
        fitted("gp").save(tmp_path)
    monkeypatch.undo()
    assert jointnas.Predictor.load(tmp_path).digest == before.digest


def test_the_default_is_a_gaussian_process_also_for_files_that_name_no_kind(tmp_path: Path) -> None:
    assert jointnas.Predictor(abstract()).kind == "gp"
    fitted("gp").save(tmp_path)
    about = json.loads((tmp_path / "predictor.json").read_text())
    assert about.pop("predictor") == "gp"
    about["digest"] = digest(about, (tmp_path / "predictor.safetensors").read_bytes())
    (tmp_path / "predictor.json").write_text(json.dumps(about))
    assert jointnas.Predictor.load(tmp_path).kind == "gp"


def test_kinds_are_found_by_name() -> None:
    assert predictor_names() == [*PREDICTORS, RIDGE]
    assert find_model(RIDGE) is RidgeModel
    with pytest.raises(PredictorError, match="no predictor is called 'rigde': did you mean 'ridge'"):
        Predictor(abstract(), kind="rigde")


def test_a_package_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    with (
        install_package(tmp_path, "jointnas.predictors", "broken", "no_such_module:Model"),
        pytest.raises(PredictorError, match=r"'broken' of the package 'jointnas-test-broken' .*no_such_module"),
    ):
        find_model("broken")
