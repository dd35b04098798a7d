"""Weights of few bits on the command line: training, fine-tuning, showing, predicting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import jointnas as library
from jointnas.campaign.store import Run
from jointnas.campaign.winner_file import WinnerFile
from jointnas.network.module import Network, layers_of_few_bits
from jointnas.network.weights_file import load_weights
from tests.helpers import answer, jointnas, mistake, save_image

PLAIN = '[architecture]\nnetwork = "resnet9"\nwidth = 4\n[recipe]\nbatch_size = 32\n'
FEW = f'{PLAIN}quantiser = "proxconnect"\nweight_bits = 2\n'


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    plain, few = tmp_path / "plain.toml", tmp_path / "few.toml"
    plain.write_text(PLAIN)
    few.write_text(FEW)
    return plain, few


def test_a_trained_network_gets_few_bits_and_predicts_from_its_packed_file(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    plain, few = files
    floats, small = tmp_path / "floats", tmp_path / "small"
    before = answer("train", plain, "--train-steps", "160", "--to", floats)["accuracy"]
    after = answer("train", few, "--train-steps", "20", "--weights", floats, "--to", small)["accuracy"]
    scratch = answer("train", few, "--train-steps", "20", "--to", tmp_path / "scratch")["accuracy"]
    assert before > 0.5
    assert after > scratch
    sizes = [next(folder.glob("*.safetensors")).stat().st_size for folder in (floats, small)]
    assert sizes[1] < sizes[0] / 2
    save_image(tmp_path / "digit.png")
    shown = jointnas("predict", small, tmp_path / "digit.png")
    assert shown.code == 0, shown.err
    model = library.load(small)
    assert isinstance(model(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)), torch.Tensor)


def test_show_prints_the_bits_of_each_layer(files: tuple[Path, Path]) -> None:
    plain, few = files
    assert "bits" not in jointnas("show", plain, "--layers").out.splitlines()[0]
    lines = [line.split("\t") for line in jointnas("show", few, "--layers").out.splitlines()]
    assert lines[0][-1] == "bits"
    bits = {row[2].partition("-")[0]: set() for row in lines[1:] if len(row) == len(lines[0])}
    for row in lines[1:]:
        if len(row) == len(lines[0]):
            bits[row[2].partition("-")[0]].add(row[-1])
    assert bits["conv3×3"] >= {"2"}
    assert bits["linear"] == {""}
    costs = json.loads(jointnas("show", few, "--json").out)["members"][0]["costs"]
    assert costs["bitops"] < 1024 * costs["macs"]


def test_a_quantised_network_is_retrained_from_a_search(tmp_path: Path) -> None:
    run = tmp_path / "run"
    budget = ("--train-steps", "3", "--rounds", "1", "--batch", "3", "--confirm", "0", "--portfolio", "0")
    found = answer("search", "--space", "resnet9-quantised", "--max", "size=30KB", *budget, "--out", run)
    assert all(row["size"] <= 30_000 for row in found["winners"])
    assert jointnas("retrain", run, "--top", "1", "--seeds", "1").code == 0
    assert jointnas("export", run / "retrained" / "winner-1", "--to", tmp_path / "export").code == 0


def is_on_levels(folder: Path, most: int) -> bool:
    """Return whether the weights of few bits in a winner's folder have so many values at most in each channel."""
    winner = WinnerFile.read(folder)
    network = load_weights(Network(winner.members[0].blueprint), folder / winner.members[0].weights)
    layers = [layer for _, layer in layers_of_few_bits(network)]
    return bool(layers) and all(len(row.unique()) <= most for layer in layers for row in layer.weight.flatten(1))


def test_networks_that_grow_keep_their_few_bits(files: tuple[Path, Path], tmp_path: Path) -> None:
    budget = ("--train-steps", "4", "--rounds", "1", "--batch", "2", "--morphisms", "2")
    found = answer("search", "--real", "--engine", "nash", "--start", files[1], *budget, "--out", tmp_path / "run")
    assert all(row["recipe"]["quantiser"] == "proxconnect" for row in found["winners"])
    assert is_on_levels(tmp_path / "run" / "best", 4)


def test_few_bits_go_with_an_early_stop_and_8_bit_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jointnas.campaign.rounds.stop_fraction", lambda *_: 0.5)
    run = tmp_path / "run"
    budget = ("--train-steps", "10", "--rounds", "2", "--batch", "3", "--confirm", "1", "--final", "best")
    knobs = ("quantiser=proxconnect", "weight_bits=1", "width=4", "batch_size=32", "gradient=plain", "policy=none")
    fixed = [part for knob in knobs for part in ("--fix", knob)]
    stop = ("--early-stop", "0.01", "--portfolio", "0")
    answer("search", "--space", "resnet9-quantised", *fixed, *budget, *stop, "--out", run)
    with Run.open(run) as opened:
        assert {trial.observation.fraction for trial in opened.trials() if trial.observation} != {1.0}
    assert is_on_levels(run / "best", 2)
    exported = jointnas("export", run / "best", "--format", "int8-onnx", "--to", tmp_path / "export")
    assert exported.code == 0, exported.err


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("weight_bits = 9", "the recipe knob weight_bits must be between 1 and 8, got 9"),
        ("weight_bits = 2.5", "the recipe knob weight_bits must be a whole number, got 2.5"),
        ('quantiser = "binary"', "the recipe knob quantiser must be one of none, binaryconnect"),
        ("prox_rho = 1.5", "the recipe knob prox_rho must be between 0 and 1, got 1.5"),
    ],
)
def test_bits_that_no_layer_takes_are_one_clear_sentence(text: str, rule: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(PLAIN + text + "\n")
    assert rule in mistake(jointnas("train", file, "--train-steps", "1"))


def test_what_cannot_be_quantised_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "library.toml"
    file.write_text(
        '[architecture]\nnetwork = "library"\nname = "shufflenet_v2_x1_0"\n[recipe]\nquantiser = "binaryconnect"\n'
    )
    assert "a quantiser needs convolutions or linear layers" in mistake(jointnas("train", file, "--train-steps", "1"))
    few = files[1]
    assert "with winner.json" in mistake(jointnas("train", few, "--train-steps", "1", "--weights", tmp_path))
    assert "the smallest" in mistake(jointnas("search", "--space", "resnet9-quantised", "--max", "size=100"))


def test_weights_of_another_architecture_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    plain, few = files
    assert jointnas("train", plain, "--train-steps", "1", "--to", tmp_path / "floats").code == 0
    few.write_text(FEW.replace("width = 4", "width = 6"))
    text = mistake(jointnas("train", few, "--train-steps", "1", "--weights", tmp_path / "floats"))
    assert "weights go with a network of the same architecture" in text
