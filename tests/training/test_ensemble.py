"""Ensembles: what their members are, what they share, and which of them pay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jointnas.data.dataset import Data, load_data
from jointnas.data.spec import DataSpec
from jointnas.errors import BudgetError
from jointnas.network.families import make_blueprint
from jointnas.network.module import Network
from jointnas.network.weights_file import load_weights
from jointnas.training.clock import StepClock
from jointnas.training.ensemble import SEED_STRIDE, helpful_members, train_ensemble
from jointnas.training.job import TrainingJob, member_files, run_job
from jointnas.training.members import SNAPSHOTS, part_of
from jointnas.training.recipe import Recipe
from jointnas.training.scoring import ensemble_logits, smoothed_accuracy
from jointnas.training.trainer import train_network

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = make_blueprint({"network": "resnet9", "width": 4}, (1, 8, 8), 10)
RECIPE = Recipe(batch_size=32, optimizer="adamw", start_resolution=0.5)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data(DataSpec("digits", train_images=300, val_images=100))


def equal(one: Network, other: Network) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def certain(classes: list[int], n: int = 3, by: float = 5.0) -> Tensor:
    """Return logits of networks that predict these classes."""
    return by * torch.nn.functional.one_hot(torch.tensor(classes), n).float()


def test_the_vote_is_the_mean_of_the_probabilities() -> None:
    logits = [torch.randn(6, 4), torch.randn(6, 4), torch.randn(6, 4)]
    mean = torch.stack([own.softmax(1) for own in logits]).mean(0)
    torch.testing.assert_close(ensemble_logits(logits).exp(), mean)
    assert ensemble_logits(logits[:1]) is logits[0]


def test_members_share_a_budget_equally() -> None:
    assert part_of({"train_seconds": 60.0}, 3) == {"train_seconds": 20.0}
    assert part_of({"train_steps": 100}, 3) == {"train_steps": 33}
    with pytest.raises(BudgetError, match="5 members need a step each, got a budget of 4 steps"):
        part_of({"train_steps": 4}, 5)


def test_members_that_do_not_pay_are_left_out() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    right, wrong = certain([0, 1, 2, 0, 1, 2]), certain([1, 2, 0, 1, 2, 0])
    assert helpful_members([wrong, right, wrong], labels) == [1]
    first, second = right.clone(), right.clone()
    first[3:], second[:3] = certain([1, 2, 0], by=1.0), certain([1, 2, 0], by=1.0)  # wrong, but less sure
    assert helpful_members([first, second], labels) == [0, 1]
    assert helpful_members([first, second, right], labels) == [2]


def test_a_member_is_the_network_that_is_trained_alone_on_its_part(digits: Data) -> None:
    together = train_ensemble(PLAN, RECIPE, digits, {"train_steps": 20}, 2, seed=3, keep_all=True)
    alone = [train_network(PLAN, RECIPE, digits, StepClock(10), seed=3 + i * SEED_STRIDE) for i in range(2)]
    assert all(equal(one, other.model) for one, other in zip(together.networks, alone, strict=True))
    assert together.observation.steps == 10
    assert not equal(*together.networks)


def test_snapshots_are_copies_of_one_training(digits: Data) -> None:
    recipe = replace(RECIPE, warmup=0.0)
    together = train_ensemble(PLAN, recipe, digits, {"train_steps": 30}, 3, SNAPSHOTS, seed=3, keep_all=True)
    cyclic = replace(recipe, schedule="sgdr", cycles=3, cycle_growth=1.0)
    whole = train_network(PLAN, cyclic, digits, StepClock(30), seed=3)
    first, second, last = together.networks
    assert equal(last, whole.model)
    assert not equal(first, second)
    assert all(network.resize.training_size is None for network in together.networks)
    assert all(not network.training for network in together.networks)
    stopped = train_network(PLAN, cyclic, digits, StepClock(30), seed=3, stop_at=1 / 3)
    assert equal(first, stopped.model)


def test_a_budget_without_a_step_for_each_snapshot_is_refused(digits: Data) -> None:
    with pytest.raises(BudgetError, match="4 snapshots need as many steps"):
        train_ensemble(PLAN, RECIPE, digits, {"train_steps": 2}, 4, SNAPSHOTS)


@pytest.mark.parametrize("kind", ["seeds", "snapshots"])
def test_a_job_scores_and_keeps_the_members_together(digits: Data, tmp_path: Path, kind: str) -> None:
    candidate = {"architecture": {"network": "resnet9", "width": 4}, "recipe": {"batch_size": 32, "optimizer": "adamw"}}
    first = tmp_path / "trial-1.safetensors"
    job = TrainingJob(candidate, {"train_steps": 30}, 0, test=True, weights=str(first), members=3, ensemble=kind)
    result = run_job(job, digits, "cpu")
    files = member_files(first, result.members)
    assert sorted(tmp_path.iterdir()) == sorted(files)
    networks = [load_weights(Network(PLAN), file).eval() for file in files]
    seen, voted = result.observation, []
    for split, accuracy in ((digits.val, seen.accuracy), (digits.test(), result.test_accuracy)):
        images = (split.images.float() / 255 - digits.mean[0]) / digits.std[0]
        votes = ensemble_logits([network(images.permute(0, 3, 1, 2)).detach() for network in networks])
        assert (votes.argmax(1) == split.labels).double().mean().item() == pytest.approx(accuracy)
        voted.append(smoothed_accuracy(votes, split.labels))
    assert seen.smoothed_accuracy == pytest.approx(voted[0])


def test_the_last_training_on_all_images_keeps_all_members(digits: Data, tmp_path: Path) -> None:
    candidate = {"architecture": {"network": "resnet9", "width": 4}, "recipe": {"batch_size": 32}}
    job = TrainingJob(candidate, {"train_steps": 6}, 0, with_val=True, members=3)
    result = run_job(job, digits, "cpu")
    assert (result.members, result.observation.accuracy, result.observation.smoothed_accuracy) == (3, None, None)


def test_members_of_an_interrupted_training_are_not_taken_for_new_ones(digits: Data, tmp_path: Path) -> None:
    candidate = {"architecture": {"network": "resnet9", "width": 4}, "recipe": {"batch_size": 32}}
    first = tmp_path / "trial-1.safetensors"
    for stale in member_files(first, 5):
        stale.write_bytes(b"of a training that nobody recorded")
    job = TrainingJob(candidate, {"train_steps": 6}, 0, weights=str(first), members=2)
    result = run_job(job, digits, "cpu")
    assert sorted(tmp_path.iterdir()) == sorted(member_files(first, result.members))
