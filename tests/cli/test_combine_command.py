"""`jointnas combine`: an ensemble of networks from several runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import jointnas as library
from jointnas.campaign.winner_file import WinnerFile, load
from jointnas.data.dataset import load_data
from jointnas.data.spec import DataSpec
from tests.cli.commands import RUN, SMALL
from tests.helpers import answer, jointnas, mistake

WINNER = f"{RUN}/retrained/winner-1"


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Runs of another seed: with other images, with the same ones, and with the same ones and a last training on all of them."""
    folder = tmp_path_factory.mktemp("others")
    budget = ("--train-steps", "5", "--rounds", "1", "--batch", "3", "--confirm", "0", "--portfolio", "0")
    short = ("search", "-c", "macs<1M", *budget, *SMALL)
    answer(*short, "--seed", "1", "--out", folder / "images")
    answer(*short, "--seed", "1", "--data-seed", "0", "--out", folder / "seed")
    answer(*short, "--seed", "2", "--data-seed", "0", "--final", "train+val", "--out", folder / "all")
    return folder


def accuracy(model, split):
    """The share of a split's images that a loaded model classifies right."""
    with torch.inference_mode():
        found = model(split.images.permute(0, 3, 1, 2)).argmax(1)
    return float((found == split.labels).double().mean())


def test_an_ensemble_answers_with_the_mean_of_its_members(in_copy, others):
    combined = answer("combine", RUN, others / "images", "--to", "both")
    images = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean = torch.stack([load(folder)(images) for folder in (RUN, others / "images")]).mean(0)
    assert torch.allclose(load("both")(images), mean, atol=1e-6)
    winner = WinnerFile.read(Path("both"))
    assert combined["costs"]["macs"] == sum(member.costs["macs"] for member in winner.members)
    assert [row["candidate"] for row in combined["members"]] == [
        WinnerFile.read(folder / "best").candidate for folder in (Path(RUN), others / "images")
    ]


def test_its_accuracies_are_those_of_the_loaded_model(in_copy, others):
    combined = answer("combine", RUN, WINNER, others / "seed", "--to", "three")
    data = load_data(DataSpec("digits"))
    assert combined["note"] is None
    assert accuracy(load("three"), data.val) == pytest.approx(combined["val_accuracy"])
    assert accuracy(load("three"), data.test()) == pytest.approx(combined["test_accuracy"])
    assert len(combined["members"]) == 3 - combined["left_out"] == len(load("three").networks)


def test_a_member_that_is_the_same_as_another_is_left_out(in_copy):
    shutil.copytree(f"{RUN}/best", f"{RUN}/retrained/winner-2")
    assert answer("combine", RUN, f"{RUN}/retrained/winner-2", "--to", "same")["left_out"] == 1
    assert len(library.load("same").networks) == 1


@pytest.mark.parametrize(
    ("other", "reason"), [("images", "different validation images"), ("all", "trained on the validation images too")]
)
def test_all_members_stay_where_no_images_can_judge_them(in_copy, others, other, reason):
    combined = answer("combine", RUN, others / other, "--to", "both")
    assert reason in combined["note"]
    assert (combined["left_out"], combined["val_accuracy"], len(load("both").networks)) == (0, None, 2)


def test_the_table_has_a_row_for_each_member_and_one_for_the_ensemble(in_copy, others):
    ended = jointnas("combine", RUN, others / "images", "--to", "both")
    rows = [line.split("\t") for line in ended.out.splitlines()]
    assert [row[0] for row in rows[1:]] == [
        f"{RUN}/best/network.safetensors", str(others / "images/best/network.safetensors"), "both",
    ]  # fmt: skip
    assert "different validation images" in ended.err


def test_the_bound_holds_for_the_sum(in_copy, others):
    line = mistake(jointnas("combine", RUN, others / "images", "--to", "both", "-c", "macs<1k"))
    assert "the sum of 2 members must keep macs<1K, got macs = " in line
    assert not Path("both").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((RUN,), "two networks or more, got 1"),
        ((RUN, "runs/none"), "no run is called 'runs/none'"),
        ((RUN, "trained"), "combine takes runs, and winners that were retrained inside a run (RUN/retrained/winner-1), got 'trained'"),
        ((RUN, f"{RUN}/best"), "each network counts once, got 'runs/digits-resnet9-1/best' twice"),
        ((RUN, WINNER, "-c", "latency<1ms"), "members add up exact costs (macs, params, "),
        ((RUN, WINNER, "--to", WINNER), "an ensemble goes into a new folder, got 'runs/digits-resnet9-1/retrained/winner-1'"),
        ((RUN, WINNER, "--to", RUN), "which holds run.sqlite: choose another --to"),
        ((RUN, WINNER, "--to", "seven.png"), "'seven.png' cannot be written (File exists): choose another folder with --to"),
    ],
)  # fmt: skip
def test_mistakes(in_copy, arguments, words):
    before = Path(WINNER, "winner.json").read_text()
    assert words in mistake(jointnas("combine", "--to", "both", *arguments))
    assert Path(WINNER, "winner.json").read_text() == before


def test_networks_of_other_classes_are_refused(in_copy):
    path = Path(WINNER) / "winner.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "classes": ["other", *data["classes"][1:]]}))
    assert "got 'other' for '0' in" in mistake(jointnas("combine", RUN, WINNER, "--to", "both"))


def test_a_run_without_a_trained_network_is_refused(in_copy):
    shutil.rmtree(f"{RUN}/best")
    assert "without one: continue it with --resume" in mistake(jointnas("combine", RUN, WINNER, "--to", "both"))


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:100]), Path.unlink])
def test_weights_that_cannot_be_read_are_named(in_copy, damage):
    damage(Path(WINNER, "seed-0.safetensors"))
    assert "seed-0.safetensors" in mistake(jointnas("combine", RUN, WINNER, "--to", "both"))
