"""`jointnas combine`: an ensemble of networks from several runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import jointnas as library
from jointnas.campaign.combine import log_probabilities
from jointnas.campaign.winner_file import WinnerFile, load
from jointnas.data.dataset import load_data
from jointnas.data.spec import DataSpec
from jointnas.training.scoring import accuracies
from tests.cli.commands import RUN, SEARCH
from tests.helpers import answer, jointnas, mistake

WINNER = f"{RUN}/retrained/winner-1"


@pytest.fixture(scope="module")
def other_seed(tmp_path_factory):
    """A run of other images of the same data set."""
    folder = tmp_path_factory.mktemp("other") / "run"
    answer(*SEARCH, "--seed", "1", "--out", folder)
    return folder


def test_an_ensemble_answers_with_the_mean_of_its_members(in_copy):
    combined = answer("combine", RUN, WINNER, "--to", "both")
    winner = WinnerFile.read(Path("both"))
    assert len(winner.members) == 2 - combined["left_out"]
    images = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8)
    whole = load("both")(images)
    alone = [load(f"{RUN}/best"), load(WINNER)]
    if combined["left_out"] == 0:
        assert torch.allclose(whole, torch.stack([m(images) for m in alone]).mean(0), atol=1e-6)
    assert combined["costs"]["macs"] == sum(member.costs["macs"] for member in winner.members)
    assert answer("predict", "both", "seven.png")["predictions"][0]["class"] in winner.classes


def test_its_accuracies_are_those_of_the_loaded_model(in_copy):
    combined = answer("combine", RUN, WINNER, "--to", "both")
    data = load_data(DataSpec("digits"))
    model = load("both")
    for split, key in ((data.val, "val_accuracy"), (data.test(), "test_accuracy")):
        assert accuracies(log_probabilities(model, split), split.labels)[0] == pytest.approx(combined[key])
    assert len(combined["members"]) == 2 - combined["left_out"]


def test_a_member_that_says_the_same_is_left_out(in_copy):
    combined = answer("combine", RUN, f"{RUN}/best", "--to", "same")
    assert combined["left_out"] == 1
    assert len(library.load("same").networks) == 1


def test_all_members_stay_where_the_runs_have_other_validation_images(in_copy, other_seed):
    combined = answer("combine", RUN, other_seed, "--to", "both")
    assert combined["left_out"] == 0
    assert combined["val_accuracy"] is None
    assert "different validation images" in combined["note"]
    assert len(load("both").networks) == 2


def test_the_bound_holds_for_the_sum(in_copy, other_seed):
    line = mistake(jointnas("combine", RUN, other_seed, "--to", "both", "-c", "macs<1k"))
    assert "the sum of 2 members must keep macs<1K, got macs = " in line
    assert not Path("both").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((RUN,), "two networks or more, got 1"),
        ((RUN, "runs/none"), "no run is called 'runs/none'"),
        ((RUN, "trained"), "got 'trained' in none"),
        ((RUN, WINNER, "-c", "latency<1ms"), "latency"),
    ],
)
def test_mistakes(in_copy, arguments, words):
    assert words in mistake(jointnas("combine", *arguments, "--to", "both"))


def test_networks_of_other_classes_are_refused(in_copy):
    path = Path(WINNER) / "winner.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "classes": ["other", *data["classes"][1:]]}))
    assert "got other classes" in mistake(jointnas("combine", RUN, WINNER, "--to", "both"))


def test_torn_weights_are_named(in_copy):
    path = next(Path(WINNER).glob("seed-0.safetensors"))
    path.write_bytes(path.read_bytes()[:100])
    assert "seed-0.safetensors" in mistake(jointnas("combine", RUN, WINNER, "--to", "both"))
