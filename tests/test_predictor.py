"""The predictor: proxies are learned for nothing, accuracies from few examples, and its files are only ever read."""

import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy.stats import kendalltau

from jointnas.ensemble import Ensemble, fit_heads
from jointnas.errors import PredictorError
from jointnas.predictor import Predictor, _expected_accuracies, mean_and_std
from jointnas.space import Candidate, Space
from jointnas.training import Observation

LINES = "\n".join(f"x{i} = {{ low = 0.0, high = 1.0 }}" for i in range(3))


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


@pytest.fixture(scope="module")
def pretrained() -> tuple[Predictor, float]:
    predictor = Predictor(Space.load("resnet9", (1, 8, 8), 10))
    return predictor, predictor.pretrain()


@pytest.fixture(scope="module")
def small() -> Predictor:
    space = abstract()
    candidates = space.sample(8)
    return Predictor(space, members=2).fit(candidates, [float(c["architecture"]["x0"]) for c in candidates])


# ------------------------------------------------------------------------------------------------------- what it learns


def test_pretraining_learns_what_a_candidate_costs(pretrained: tuple[Predictor, float]) -> None:
    _, loss = pretrained
    assert 0 < loss < 0.01  # Huber, of statistics with deviation 1; the mean alone gives about 0.4


def test_it_ranks_candidates_it_has_not_seen(pretrained: tuple[Predictor, float]) -> None:
    predictor, _ = pretrained
    examples, unseen = predictor.space.sample(96, seed=5), predictor.space.sample(256, seed=9)
    predictor.fit(examples, [score(c) for c in examples])
    mean, std = predictor.predict(unseen)
    truth = [score(c) for c in unseen]
    assert kendalltau(mean, truth).statistic > 0.5
    assert predictor.rank_correlation is not None
    assert predictor.rank_correlation > 0.5
    assert np.abs(mean - truth).mean() < np.abs(np.mean(truth) - truth).mean()
    assert (std > 0).all()
    members = predictor.predict_members(unseen)
    assert members.shape == (predictor.members, 256)
    np.testing.assert_allclose(members.mean(axis=0), mean)


def test_it_is_less_sure_far_from_its_examples() -> None:
    space = abstract()
    near = [{"architecture": {"x0": x / 100, "x1": y / 100, "x2": 0.1}, "recipe": {}} for x, y in np.ndindex(5, 5)]
    far = [{"architecture": {"x0": 1.0, "x1": 1.0, "x2": x}, "recipe": {}} for x in (0.9, 1.0)]
    predictor = Predictor(space, members=2).fit(near, [0.5 + float(c["architecture"]["x0"]) for c in near])
    assert predictor.predict(far)[1].min() > predictor.predict(near)[1].max()


def test_failures_are_left_out() -> None:
    space = abstract()
    candidates = space.sample(5)
    results = [0.1, 0.5, 0.3]
    observed = [Observation(accuracy=r) for r in results]
    failures = [Observation.failed("out of memory"), Observation.failed("diverged")]
    with_failures = Predictor(space, members=2).fit(candidates, [*observed, *failures])
    without = Predictor(space, members=2).fit(candidates[:3], results)
    np.testing.assert_array_equal(with_failures.predict(candidates), without.predict(candidates))
    assert with_failures.candidates == candidates[:3]


def test_accuracies_outside_zero_and_one_are_taken_as_they_are() -> None:
    space = abstract()
    candidates = space.sample(24)
    values = [-40 + 100 * float(c["architecture"]["x0"]) for c in candidates]
    mean, _ = Predictor(space, members=2).fit(candidates, values).predict(candidates)
    assert np.corrcoef(mean, values)[0, 1] > 0.9
    assert mean.min() < -10
    assert mean.max() > 20


def test_accuracies_between_zero_and_one_are_predicted_there(small: Predictor) -> None:
    members = small.predict_members(small.space.sample(200, seed=3))
    assert members.min() > 0
    assert members.max() < 1


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
        ([], r"2 accuracies or more, got 0"),
        ([0.5], r"2 accuracies or more, got 1"),
        ([0.5, Observation.failed("diverged")], r"2 accuracies or more, got 1"),
        ([0.5, 0.6, float("nan")], r"finite number"),
    ],
)
def test_what_cannot_be_fitted_is_refused(results: list[float | Observation], message: str) -> None:
    space = abstract()
    with pytest.raises(PredictorError, match=message):
        Predictor(space).fit(space.sample(4)[: len(results)], results)


def test_every_candidate_needs_its_accuracy(small: Predictor) -> None:
    with pytest.raises(PredictorError, match="got 3 and 2"):
        small.fit(small.space.sample(3), [0.1, 0.2])


def test_nothing_is_predicted_or_saved_before_a_fit(tmp_path: Path) -> None:
    predictor = Predictor(abstract())
    with pytest.raises(PredictorError, match="once it is fitted"):
        predictor.predict(predictor.space.sample(2))
    with pytest.raises(PredictorError, match="once it is fitted"):
        predictor.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_deviations_of_members_and_of_what_they_share_add_as_squares() -> None:
    mean, std = mean_and_std(np.array([[1.0, 2.0], [7.0, 2.0]]), np.array([4.0, 0.5]))
    np.testing.assert_allclose(mean, [4, 2])
    np.testing.assert_allclose(std, [5, 0.5])


# --------------------------------------------------------------------------------------------------------- its ensemble


def random_features(n: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(n, width, generator=generator) for width in (5, 2, 3)]
    return draws[0], draws[1], draws[2]


def layers(part: torch.nn.Module, member: int, x: torch.Tensor) -> torch.Tensor:
    """Apply one member's linear layers one after another, SiLU between them."""
    state = list(part.state_dict().values())
    for i in range(0, len(state), 2):
        weight, bias = state[i][member], state[i + 1][member, 0]
        x = F.linear(x if i == 0 else F.silu(x), weight.T, bias)
    return x


def test_an_ensemble_in_one_batch_is_its_members_one_by_one() -> None:
    features = random_features()
    ensemble = Ensemble.for_features(3, features, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for tensor in ensemble.parameters():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(2)))
    scores = ensemble.scores(features)
    for member in range(3):
        embedding = F.silu(layers(ensemble.encoder, member, features[0]))
        inputs = torch.cat([embedding, *features[1:]], dim=1) * ensemble.gates[member].detach()
        alone = layers(ensemble.accuracy_head, member, inputs)[:, 0]
        torch.testing.assert_close(scores[member], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(scores[0], scores[1])


def test_a_fold_never_sees_the_targets_it_gives_no_weight() -> None:
    features = random_features()
    targets = torch.linspace(-1, 1, 12)
    weights = torch.ones(2, 12)
    weights[0, 3] = 0
    pretrained = Ensemble.for_features(2, features, torch.Generator().manual_seed(1))

    def fitted(third: float) -> torch.Tensor:
        changed = targets.clone()
        changed[3] = third
        return fit_heads(pretrained, features, changed, weights, torch.Generator().manual_seed(2)).scores(features)

    before, after = fitted(-1.0), fitted(3.0)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_members_with_equal_weights_still_differ() -> None:
    features = random_features()
    pretrained = Ensemble.for_features(2, features, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    scores = fit_heads(pretrained, features, torch.linspace(-1, 1, 12), torch.ones(2, 12), generator).scores(features)
    assert not torch.allclose(scores[0], scores[1])
    assert (scores - torch.linspace(-1, 1, 12)).abs().mean() < 0.4  # both fit their targets


# ------------------------------------------------------------------------------------------------------------ on the disk


def test_a_saved_predictor_predicts_the_same(small: Predictor, tmp_path: Path) -> None:
    small.context = {"data": "digits"}
    small.save(tmp_path / "saved")
    loaded = Predictor.load(tmp_path / "saved")
    grid = small.space.sample(50, seed=2)
    np.testing.assert_allclose(loaded.predict(grid), small.predict(grid), rtol=1e-6)
    np.testing.assert_allclose(loaded.predict_members(grid), small.predict_members(grid), rtol=1e-6)
    assert loaded.rank_correlation == small.rank_correlation
    assert loaded.context == {"data": "digits"}
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


def change(folder: Path, **fields: Any) -> None:
    about = json.loads((folder / "predictor.json").read_text())
    (folder / "predictor.json").write_text(json.dumps({**about, **fields}))


def without_tensors(folder: Path, prefix: str) -> None:
    tensors = load_file(folder / "predictor.safetensors")
    save_file({k: v for k, v in tensors.items() if not k.startswith(prefix)}, folder / "predictor.safetensors")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no json": lambda folder: (folder / "predictor.json").unlink(),
    "no tensors": lambda folder: (folder / "predictor.safetensors").unlink(),
    "json cut off": lambda folder: (folder / "predictor.json").write_text('{"format": 1,'),
    "json of another kind": lambda folder: (folder / "predictor.json").write_text("[1]"),
    "json that is no text": lambda folder: (folder / "predictor.json").write_bytes(b"\xff\xfe\x00"),
    "tensors cut off": lambda folder: (folder / "predictor.safetensors").write_bytes(
        (folder / "predictor.safetensors").read_bytes()[:500]
    ),
    "no fitted tensors": lambda folder: without_tensors(folder, "fitted."),
    "no pretrained tensors": lambda folder: without_tensors(folder, "pretrained."),
    "one tensor missing": lambda folder: without_tensors(folder, "fitted.encoder.0.weight"),
    "another format": lambda folder: change(folder, format=99),
    "no examples": lambda folder: change(folder, trials=[]),
    "examples of another space": lambda folder: change(
        folder, trials=[{"candidate": {"architecture": {"y": 1}, "recipe": {}}, "accuracy": 1}]
    ),
    "examples that are none": lambda folder: change(folder, trials="many"),
    "a space that is none": lambda folder: change(folder, space="format = 1"),
    "a space that is a number": lambda folder: change(folder, space=5),
    "more members than tensors": lambda folder: change(folder, members=3),
    "no members": lambda folder: change(folder, members=0),
    "a short kernel": lambda folder: change(folder, kernel=[0.0]),
    "no kernel": lambda folder: change(folder, kernel=[]),
    "other proxies": lambda folder: change(folder, proxies={"names": ["macs"], "mean": [0], "std": [1]}),
    "an accuracy that is a list": lambda folder: change(folder, accuracy=[]),
    "a seed that is a word": lambda folder: change(folder, seed="seven"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused(small: Predictor, tmp_path: Path, damage: str) -> None:
    small.save(tmp_path)
    DAMAGE[damage](tmp_path)
    with pytest.raises(PredictorError):
        Predictor.load(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PredictorError, match=r"got '.*nowhere'"):
        Predictor.load(tmp_path / "nowhere")


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


def test_an_uncertain_prediction_near_one_is_lower_and_wider_than_its_middle():
    """Quadrature against a slow twin: the mean and deviation of many draws."""
    log_odds, deviations = np.array([[5.0, 0.3, -2.0], [4.0, 0.1, -1.0]]), np.array([2.0, 0.5, 0.0])
    members, shared = _expected_accuracies(log_odds, deviations)
    draws = np.random.default_rng(0).normal(size=(400_000, 1, 1)) * deviations + log_odds
    assert members == pytest.approx((1 / (1 + np.exp(-draws))).mean(axis=0), abs=2e-3)
    assert shared == pytest.approx((1 / (1 + np.exp(-draws))).mean(axis=1).std(axis=0), abs=4e-3)
    assert members[0, 0] < 1 / (1 + np.exp(-5.0))
    assert shared[2] == pytest.approx(0, abs=1e-6)
