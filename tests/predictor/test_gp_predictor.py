"""The default predictor: what it learns from few examples and from a prior, and that loading its files executes nothing."""

import json
import math
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save
from scipy.stats import kendalltau

from jointnas.errors import PredictorError
from jointnas.predictor.contract import Predictor
from jointnas.predictor.files import digest
from jointnas.predictor.gp_predictor import GPModel
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.training.observation import Observation

Array = NDArray[np.float64]
LINES = "\n".join(f"x{i} = {{ low = 0.0, high = 1.0 }}" for i in range(3))


def draw(space: Space, n: int, seed: int) -> list[Candidate]:
    """Return n candidates of a long Sobol sequence, whose first points alone would tie knobs to each other."""
    rows = np.random.default_rng(seed).permutation(4096)[:n]
    return space.to_candidates(next(space.stream(seed, chunk=4096))[rows])


def abstract() -> Space:
    return Space.from_toml(f"format = 1\n[architecture]\n{LINES}")


def score(candidate: Candidate) -> float:
    """Return an accuracy of a resnet9 candidate: a smooth function of six of its knobs."""
    a, r = candidate["architecture"], candidate["recipe"]
    rate = math.log10(float(r["learning_rate"])) + 0.7
    return (
        0.5
        + 0.25 * math.log2(float(a["width"]) / 4) / 4
        + 0.04 * float(a["depth3"])
        + 0.04 * bool(a["whitening"])
        - 0.15 * rate**2
        - 0.1 * float(r["cutout"])
    )


def x0(candidate: Candidate) -> float:
    return float(candidate["architecture"]["x0"])


@pytest.fixture(scope="module")
def small() -> Predictor:
    space = abstract()
    candidates = space.sample(8)
    return Predictor(space, members=2).fit(candidates, [float(c["architecture"]["x0"]) for c in candidates])


# ------------------------------------------------------------------------------------------------------- what it learns


def test_it_ranks_candidates_it_has_not_seen() -> None:
    predictor = Predictor(Space.load("resnet9", (1, 8, 8), 10))
    examples, unseen = draw(predictor.space, 96, 5), predictor.space.sample(256, seed=9)
    predictor.fit(examples, [score(c) for c in examples])
    mean, std = predictor.predict(unseen)
    truth = [score(c) for c in unseen]
    assert kendalltau(mean, truth).statistic > 0.5
    assert predictor.rank_correlation is not None
    assert predictor.rank_correlation > 0.5
    assert np.abs(mean - truth).mean() < np.abs(np.mean(truth) - truth).mean()
    assert (std > 0).all()


def test_its_members_have_the_mean_and_deviation_of_its_predictions() -> None:
    space = abstract()
    candidates, unseen = space.sample(12), space.sample(40, seed=3)
    predictor = Predictor(space, members=400).fit(candidates, [0.3 + 0.4 * x0(c) for c in candidates])
    mean, std = predictor.predict(unseen)
    members = predictor.predict_members(unseen)
    assert members.shape == (400, 40)
    np.testing.assert_allclose(members.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(members.std(axis=0), std, atol=0.02)


def test_a_prior_ranks_where_few_trainings_cannot() -> None:
    prior = Predictor(Space.load("resnet9", (1, 8, 8), 10))
    examples = draw(prior.space, 128, 5)
    prior.fit(examples, [score(c) for c in examples])
    space = Space.load("resnet9", (3, 32, 32), 4)
    few, unseen = draw(space, 8, 1), space.sample(256, seed=9)
    truth = [score(c) for c in unseen]
    alone, taught = Predictor(space), Predictor(space, prior=prior)
    taus = [
        kendalltau(p.fit(few, [0.6 * score(c) for c in few]).predict(unseen)[0], truth).statistic
        for p in (alone, taught)
    ]
    assert taus[1] > 0.5
    assert taus[1] > taus[0] + 0.2


def test_the_spread_of_a_first_batch_that_a_prior_chose_is_widened() -> None:
    """The candidates of such a batch are alike: the prior knows better how far others lie from them."""
    space, rng = Space.load("resnet9", (3, 32, 32), 4), np.random.default_rng(0)

    def trained(candidate: Candidate) -> float:
        return 0.6 * score(candidate) - 0.05 * float(candidate["architecture"]["depth1"]) + 0.01 * rng.standard_normal()

    covered = []
    for seed in range(3):
        prior = Predictor(Space.load("resnet9", (1, 8, 8), 10))
        examples, pool = draw(prior.space, 128, 5 + seed), draw(space, 400, 1 + seed)
        prior.fit(examples, [score(c) for c in examples])
        order = np.argsort(-Predictor(space, prior=prior).predict(pool)[0])
        batch, others = ([pool[i] for i in part] for part in (order[:6], order[6:]))
        mean, std = Predictor(space, prior=prior).fit(batch, [trained(c) for c in batch]).predict(others)
        covered.append((np.abs(mean - [trained(c) for c in others]) <= 2 * std).mean())
    assert np.mean(covered) > 0.7


def test_a_wrong_prior_is_overruled() -> None:
    space = abstract()
    wrong = Predictor(space).fit(space.sample(32), [1 - x0(c) for c in space.sample(32)])
    examples, unseen = space.sample(64, seed=4), space.sample(100, seed=9)
    predictor = Predictor(space, prior=wrong).fit(examples, [x0(c) for c in examples])
    assert kendalltau(predictor.predict(unseen)[0], [x0(c) for c in unseen]).statistic > 0.8


def test_how_poor_a_poor_candidate_is_changes_little_of_what_a_prior_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    space = abstract()
    prior = Predictor(space).fit(space.sample(64), [0.3 + 0.5 * x0(c) for c in space.sample(64)])
    trained, unseen = space.sample(12, seed=4), space.sample(100, seed=9)
    accuracies = [0.3 + 0.5 * x0(c) for c in trained]
    worst = int(np.argmin(accuracies))

    def change() -> float:
        means = []
        for accuracy in (accuracies[worst], 0.05):
            accuracies[worst] = accuracy
            means.append(Predictor(space, prior=prior).fit(trained, accuracies).predict(unseen)[0])
        accuracies[worst] = 0.3 + 0.5 * x0(trained[worst])
        return float(np.abs(means[1] - means[0]).mean())

    with_noise = change()
    monkeypatch.setattr(GPModel, "_poor_noise", lambda self: np.zeros(len(trained)))
    assert with_noise < change() / 2


def test_the_speed_of_candidates_is_learned_from_recorded_steps() -> None:
    space = Space.load("resnet9", (1, 8, 8), 10).fix(
        {"test_flip": False}
    )  # MACs are then proportional to a step's work
    examples, unseen = draw(space, 32, 5), space.sample(200, seed=9)

    def steps(candidate: Candidate) -> float:
        recipe = candidate["recipe"]
        again = {"sam": 1 / float(recipe.get("sam_every", 1)), "mltp": 1.0, "plain": 0.0}[str(recipe["gradient"])]
        return 1e10 / (3e7 + (1 + again) * space.cost(candidate)["macs"] * float(recipe["batch_size"]))

    def learned(candidate: Candidate) -> float:
        return 0.6 - 0.03 * (math.log(steps(candidate)) - 3) ** 2

    observations = [Observation(accuracy=learned(c), steps=round(steps(c))) for c in examples]
    predictor = Predictor(space).fit(examples, observations)
    blind = Predictor(space).fit(examples, [learned(c) for c in examples])
    truth = [learned(c) for c in unseen]
    taus = [kendalltau(p.predict(unseen)[0], truth).statistic for p in (blind, predictor)]
    assert taus[1] > max(taus[0] + 0.2, 0.65)


def test_it_is_less_certain_far_from_its_examples() -> None:
    space = abstract()
    near = [{"architecture": {"x0": x / 100, "x1": y / 100, "x2": 0.1}, "recipe": {}} for x, y in np.ndindex(5, 5)]
    far = [{"architecture": {"x0": 1.0, "x1": 1.0, "x2": x}, "recipe": {}} for x in (0.9, 1.0)]
    predictor = Predictor(space, members=2).fit(near, [0.5 + float(c["architecture"]["x0"]) for c in near])
    assert predictor.predict(far)[1].min() > predictor.predict(near)[1].max()


def test_a_failure_counts_as_the_lowest_accuracy() -> None:
    space = abstract()
    candidates = space.sample(5)
    failures = [Observation.failed("out of memory"), Observation.failed("diverged")]
    predictor = Predictor(space).fit(candidates, [*(Observation(accuracy=r) for r in (0.2, 0.5, 0.3)), *failures])
    assert predictor.accuracies.tolist() == [0.2, 0.5, 0.3, 0.2, 0.2]
    same = Predictor(space).fit(candidates, [0.2, 0.5, 0.3, 0.2, 0.2])
    np.testing.assert_allclose(
        predictor.predict(candidates), same.predict(candidates), atol=0.01
    )  # failures are no evidence of the attainable accuracy


def test_a_prior_predicts_for_the_steps_of_this_budget() -> None:
    space = Space.load("resnet9", (1, 8, 8), 10).fix({"test_flip": False})
    examples, few, unseen = draw(space, 128, 5), draw(space, 16, 1), space.sample(256, seed=9)

    def observe(candidates: list[Candidate], *, macs: bool) -> list[Observation]:
        """Return accuracies that follow the logarithm of the steps, on a machine where MACs take time or one where images do."""
        images = [float(c["recipe"]["batch_size"]) for c in candidates]
        times = [i * (space.cost(c)["macs"] / 1e6 if macs else 1) for c, i in zip(candidates, images, strict=True)]
        return [Observation(accuracy=0.5 + 0.05 * math.log(100 / t), steps=round(1e5 / t)) for t in times]

    prior = Predictor(space).fit(examples, observe(examples, macs=False))
    truth = [o.accuracy for o in observe(unseen, macs=True)]
    alone = kendalltau(prior.predict(unseen)[0], truth).statistic
    predictor = Predictor(space, prior=prior).fit(few, observe(few, macs=True))
    assert kendalltau(predictor.predict(unseen)[0], truth).statistic > max(alone + 0.2, 0.8)
    asked: list[np.ndarray | None] = []
    own = prior.scores
    predictor.prior.predictor.scores = lambda codes, log_steps=None: asked.append(log_steps) or own(codes, log_steps)  # type: ignore
    predictor.predict(unseen)
    (steps,) = asked
    assert steps is not None
    assert np.corrcoef(steps, np.log([o.steps or 1 for o in observe(unseen, macs=True)]))[0, 1] > 0.95


def test_with_a_prior_it_predicts_before_any_training() -> None:
    space = abstract()
    prior = Predictor(space).fit(space.sample(32), [x0(c) for c in space.sample(32)])
    unseen = space.sample(100, seed=9)
    predictor = Predictor(space, prior=prior)
    mean, deviation = predictor.predict(unseen)
    assert kendalltau(mean, [x0(c) for c in unseen]).statistic > 0.8
    assert (deviation > prior.predict(unseen)[1]).all()


def test_accuracies_outside_zero_and_one_are_fitted_linearly() -> None:
    space = abstract()
    candidates = space.sample(24)
    values = [-40 + 100 * float(c["architecture"]["x0"]) for c in candidates]
    mean, _ = Predictor(space, members=2).fit(candidates, values).predict(candidates)
    assert np.corrcoef(mean, values)[0, 1] > 0.9
    assert mean.min() < -10
    assert mean.max() > 20


def test_fitting_again_replaces_what_was_fitted() -> None:
    space = abstract()
    candidates, grid = space.sample(3), space.sample(20, seed=1)
    twice = Predictor(space, members=2).fit(candidates[:2], [0.9, 0.1]).fit(candidates, [0.1, 0.2, 0.3])
    once = Predictor(space, members=2).fit(candidates, [0.1, 0.2, 0.3])
    np.testing.assert_allclose(twice.predict(grid), once.predict(grid))


def test_equal_accuracies_can_be_fitted() -> None:
    space = abstract()
    mean, std = Predictor(space, members=2).fit(space.sample(5), [0.5] * 5).predict(space.sample(9, seed=4))
    np.testing.assert_allclose(mean, 0.5, atol=1e-3)
    assert np.isfinite(std).all()


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], r"needs 2 accuracies or more, got 0"),
        ([0.5], r"needs 2 accuracies or more, got 1"),
        ([0.5, Observation.failed("diverged")], r"needs 2 accuracies or more, got 1"),
        ([0.5, 0.6, float("nan")], r"not a finite number"),
    ],
)
def test_what_cannot_be_fitted_is_refused(results: list[float | Observation], message: str) -> None:
    space = abstract()
    with pytest.raises(PredictorError, match=message):
        Predictor(space).fit(space.sample(4)[: len(results)], results)


def test_each_candidate_needs_one_accuracy(small: Predictor) -> None:
    with pytest.raises(PredictorError, match="got 3 candidates and 2 accuracies"):
        small.fit(small.space.sample(3), [0.1, 0.2])


def test_nothing_is_predicted_or_saved_before_a_fit(tmp_path: Path) -> None:
    predictor = Predictor(abstract())
    with pytest.raises(PredictorError, match="is not fitted"):
        predictor.predict(predictor.space.sample(2))
    with pytest.raises(PredictorError, match="is not fitted"):
        predictor.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------ on the disk


def test_a_saved_predictor_predicts_the_same(small: Predictor, tmp_path: Path) -> None:
    small.context = {"data": {"source": "digits"}}
    small.save(tmp_path / "saved")
    loaded = Predictor.load(tmp_path / "saved")
    grid = small.space.sample(50, seed=2)
    np.testing.assert_allclose(loaded.predict(grid), small.predict(grid), rtol=1e-6)
    np.testing.assert_allclose(loaded.predict_members(grid), small.predict_members(grid), rtol=1e-6)
    assert loaded.rank_correlation == small.rank_correlation
    assert loaded.context == {"data": {"source": "digits"}}
    assert loaded.candidates == small.candidates
    assert loaded.accuracies.tolist() == small.accuracies.tolist()


def test_a_saved_predictor_can_be_fitted_on_and_saved_again(small: Predictor, tmp_path: Path) -> None:
    small.save(tmp_path)
    loaded = Predictor.load(tmp_path)
    candidates = small.space.sample(3, seed=8)
    values = [0.1, 0.5, 0.3]
    loaded.fit(candidates, values)
    fresh = Predictor(abstract(), members=2).fit(candidates, values)
    np.testing.assert_allclose(loaded.predict(candidates), fresh.predict(candidates), rtol=1e-5)


def change(folder: Path, signed: bool = True, **fields: Any) -> None:
    """Write other fields into a description, with the digest that belongs to them or the one from before."""
    about = {**json.loads((folder / "predictor.json").read_text()), **fields}
    if signed:
        about["digest"] = digest(about, (folder / "predictor.safetensors").read_bytes())
    (folder / "predictor.json").write_text(json.dumps(about))


def changed_accuracy(folder: Path) -> list[Any]:
    trials = json.loads((folder / "predictor.json").read_text())["trials"]
    return [{**trials[0], "accuracy": 0.123}, *trials[1:]]


def at_levels(folder: Path, levels: list[float]) -> None:
    """Put other attainable accuracies in place of a predictor's, with the digest that belongs to them."""
    tensors = load((folder / "predictor.safetensors").read_bytes())
    (folder / "predictor.safetensors").write_bytes(save({**tensors, "levels": np.array(levels)}))
    change(folder)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no json": lambda folder: (folder / "predictor.json").unlink(),
    "no tensors": lambda folder: (folder / "predictor.safetensors").unlink(),
    "json cut off": lambda folder: (folder / "predictor.json").write_text('{"format": 1,'),
    "json of another kind": lambda folder: (folder / "predictor.json").write_text("[1]"),
    "json that is no text": lambda folder: (folder / "predictor.json").write_bytes(b"\xff\xfe\x00"),
    "tensors cut off": lambda folder: (folder / "predictor.safetensors").write_bytes(
        (folder / "predictor.safetensors").read_bytes()[:-8]
    ),
    "other tensors": lambda folder: (folder / "predictor.safetensors").write_bytes(save({"x": np.zeros(3)})),
    "a level above 1": lambda folder: at_levels(folder, [2.0]),
    "a level below the best": lambda folder: at_levels(folder, [0.3, 0.9]),
    "no levels": lambda folder: at_levels(folder, []),
    "another format": lambda folder: change(folder, format=99),
    "no examples": lambda folder: change(folder, trials=[]),
    "examples of another space": lambda folder: change(
        folder, trials=[{"candidate": {"architecture": {"y": 1}, "recipe": {}}, "accuracy": 1}]
    ),
    "examples of another type": lambda folder: change(folder, trials="many"),
    "a space without knobs": lambda folder: change(folder, space="format = 1"),
    "a space that is a number": lambda folder: change(folder, space=5),
    "members that are a word": lambda folder: change(folder, members="many"),
    "no members": lambda folder: change(folder, members=0),
    "no context": lambda folder: change(folder, context=None),
    "other accuracies": lambda folder: change(folder, trials=changed_accuracy(folder)),
    "other costs": lambda folder: change(folder, metrics=["macs"]),
    "a prior that is not there": lambda folder: change(folder, prior=True),
    "a seed that is a word": lambda folder: change(folder, seed="seven"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused(small: Predictor, tmp_path: Path, damage: str) -> None:
    small.save(tmp_path)
    DAMAGE[damage](tmp_path)
    with pytest.raises(PredictorError):
        Predictor.load(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PredictorError, match=r"in '.*nowhere'"):
        Predictor.load(tmp_path / "nowhere")
    with pytest.raises(PredictorError, match="too long"):
        Predictor.load("x" * 300)


def swapped(folder: Path) -> list[Any]:
    trials = json.loads((folder / "predictor.json").read_text())["trials"]
    first, second = trials[0]["candidate"], trials[1]["candidate"]
    return [{**trials[0], "candidate": second}, {**trials[1], "candidate": first}, *trials[2:]]


TAMPERED: dict[str, Callable[[Path], dict[str, Any]]] = {
    "a better rank correlation": lambda folder: {"rank_correlation": 0.99},
    "candidates that changed places": lambda folder: {"trials": swapped(folder)},
    "another seed": lambda folder: {"seed": 5},
    "another budget": lambda folder: {"context": {"clock": {"train_seconds": 600}}},
    "no prior": lambda folder: {"prior": None},
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_changed_since_it_was_saved_is_refused(tmp_path: Path, name: str) -> None:
    space = abstract()
    prior = Predictor(space).fit(space.sample(16), [x0(c) for c in space.sample(16)])
    Predictor(space, prior=prior).fit(space.sample(6, seed=3), [x0(c) for c in space.sample(6, seed=3)]).save(tmp_path)
    change(tmp_path, signed=False, **TAMPERED[name](tmp_path))
    with pytest.raises(PredictorError, match="changed since they were saved"):
        Predictor.load(tmp_path)


class Evil:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["predictor.safetensors", "predictor.json"])
def test_a_pickle_in_place_of_a_file_is_refused_and_never_unpickled(
    small: Predictor, tmp_path: Path, name: str
) -> None:
    trap = tmp_path / "trap"
    small.save(tmp_path / "saved")
    torch.save({"fitted": Evil(trap)}, tmp_path / "saved" / name)
    with pytest.raises(PredictorError):
        Predictor.load(tmp_path / "saved")
    (tmp_path / "saved" / name).write_bytes(pickle.dumps(Evil(trap)))
    with pytest.raises(PredictorError):
        Predictor.load(tmp_path / "saved")
    assert not trap.exists()


def test_accuracies_near_one_are_ranked() -> None:
    """Differences down to 0.0001, those of 10,000 validation images, are ranked."""
    space = abstract()
    candidates, grid = space.sample(48), space.sample(64, seed=5)
    predictor = Predictor(space).fit(candidates, [0.9951 + 0.0048 * x0(c) for c in candidates])
    assert predictor.rank_correlation is not None
    assert predictor.rank_correlation > 0.9
    assert kendalltau(predictor.predict(grid)[0], [x0(c) for c in grid]).statistic > 0.9


def test_all_accuracies_at_one_can_be_fitted() -> None:
    space = abstract()
    mean, std = Predictor(space).fit(space.sample(8), [1.0] * 8).predict(space.sample(4, seed=1))
    assert np.isfinite([mean, std]).all()
    assert (mean > 0.98).all()


def test_deviations_are_those_of_trainings() -> None:
    """Of noisy trainings that it has not seen, about 95 in 100 lie within two of its deviations."""
    space, rng = abstract(), np.random.default_rng(0)
    candidates, grid = space.sample(64), space.sample(256, seed=5)
    noisy = [[0.3 + 0.4 * x0(c) + 0.03 * rng.standard_normal() for c in part] for part in (candidates, grid)]
    mean, std = Predictor(space).fit(candidates, noisy[0]).predict(grid)
    within = np.abs(mean - noisy[1]) <= 2 * std
    assert 0.88 < within.mean() < 0.995


@pytest.mark.parametrize("low", [0.3, 0.9, 0.995])
def test_accuracies_of_a_narrow_band_are_ranked(low: float) -> None:
    space = abstract()
    candidates, grid = space.sample(24), space.sample(64, seed=5)
    predictor = Predictor(space).fit(candidates, [low + 0.003 * x0(c) for c in candidates])
    mean, _ = predictor.predict(grid)
    assert kendalltau(mean, [x0(c) for c in grid]).statistic > 0.9
    assert np.abs(mean - [low + 0.003 * x0(c) for c in grid]).max() < 0.001


@pytest.mark.parametrize("odd", [np.nextafter(1, 0), 1.0, 1e-17, 0.0])
def test_accuracies_at_the_ends_can_be_fitted(odd: float) -> None:
    space = abstract()
    mean, std = (
        Predictor(space).fit(space.sample(11), [*np.linspace(0.5, 0.9, 10), odd]).predict(space.sample(9, seed=1))
    )
    assert np.isfinite([mean, std]).all()


def test_the_attainable_accuracy_is_inferred_with_and_without_failures() -> None:
    space = abstract()
    candidates, rng = draw(space, 96, 3), np.random.default_rng(0)
    observations = [
        Observation(0.8 / (1 + math.exp(-6 * (x0(c) - 0.4 + 0.03 * rng.standard_normal())))) for c in candidates[:64]
    ]
    levels = [
        Predictor(space)
        .fit(candidates[: 64 + n], [*observations, *[Observation.failed("out of memory")] * n])
        .attainable
        for n in (0, 32)
    ]
    assert levels == pytest.approx([0.8, 0.8], abs=0.03)


def test_the_best_of_many_is_not_predicted_above_the_attainable_accuracy() -> None:
    """Where effects saturate at 0.6, the best of ten times as many new candidates reach their predictions."""
    rng = np.random.default_rng(0)
    names = [f"x{i}" for i in range(8)]
    lines = "\n".join(f"{name} = {{ low = 0.0, high = 1.0 }}" for name in names)
    space = Space.from_toml(f"format = 1\n[architecture]\n{lines}")

    def reached(candidates: list[Candidate]) -> Array:
        sums = np.array([sum(float(c["architecture"][name]) for name in names) for c in candidates])
        return np.asarray(0.6 / (1 + np.exp(-2 * (sums - 4))))

    candidates, unseen = draw(space, 200, 1), space.sample(2000, seed=9)
    unseen += [{"architecture": dict.fromkeys(names, x), "recipe": {}} for x in (0.9, 0.95, 1.0)]
    observations = np.clip(reached(candidates) + 0.01 * rng.standard_normal(200), 0.001, 0.599)
    mean, _ = Predictor(space).fit(candidates, observations).predict(unseen)  # type: ignore[arg-type]
    best = np.argsort(-mean)[:50]
    assert abs((mean - reached(unseen))[best].mean()) < 0.025  # 0.063 on a scale that ends at 1
    assert mean.max() < 0.65  # 0.8


def test_a_saved_predictor_keeps_its_prior(tmp_path: Path) -> None:
    space = abstract()
    prior = Predictor(space).fit(space.sample(16), [x0(c) for c in space.sample(16)])
    candidates, grid = space.sample(4, seed=3), space.sample(20, seed=4)
    predictor = Predictor(space, prior=prior).fit(candidates, [0.5 + 0.1 * x0(c) for c in candidates])
    predictor.save(tmp_path / "saved")
    loaded = Predictor.load(tmp_path / "saved")
    np.testing.assert_allclose(loaded.predict(grid), predictor.predict(grid), rtol=1e-6)


def test_another_prior_than_it_was_fitted_with_is_refused(tmp_path: Path) -> None:
    space = abstract()
    priors = [Predictor(space).fit(space.sample(16), [s * x0(c) for c in space.sample(16)]) for s in (1, 0.5)]
    for number, prior in enumerate(priors):
        examples = space.sample(4, seed=3)
        Predictor(space, prior=prior).fit(examples, [x0(c) for c in examples]).save(tmp_path / str(number))
    shutil.rmtree(tmp_path / "0" / "prior")
    with pytest.raises(PredictorError, match="there is no predictor"):
        Predictor.load(tmp_path / "0")
    shutil.copytree(tmp_path / "1" / "prior", tmp_path / "0" / "prior")
    with pytest.raises(PredictorError, match="not the one it was fitted with"):
        Predictor.load(tmp_path / "0")


def test_a_prior_is_fitted_and_has_networks_where_its_successor_has() -> None:
    space = abstract()
    with pytest.raises(PredictorError, match="prior is not fitted"):
        Predictor(space, prior=Predictor(space))
    fitted = Predictor(space).fit(space.sample(8), [x0(c) for c in space.sample(8)])
    with pytest.raises(PredictorError, match="has no network, but this space has one"):
        Predictor(Space.load("resnet9", (1, 8, 8), 10), prior=fitted)


def test_an_abstract_space_with_costs_may_start_from_networks(tmp_path: Path) -> None:
    networks = Space.load("resnet9", (1, 8, 8), 10)
    prior = Predictor(networks).fit(networks.sample(8), [score(c) for c in networks.sample(8)])
    space = abstract()
    predictor = Predictor(space, cost=lambda c: {"price": x0(c)}, prior=prior)
    predictor.fit(space.sample(8), [x0(c) for c in space.sample(8)]).save(tmp_path / "saved")
    loaded = Predictor.load(tmp_path / "saved", cost=lambda c: {"price": x0(c)})
    np.testing.assert_allclose(loaded.predict(space.sample(5)), predictor.predict(space.sample(5)), rtol=1e-6)
