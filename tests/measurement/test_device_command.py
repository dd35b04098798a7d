"""Latency on another device: a fake one, whose command reads the file that it is given."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from jointnas.api import run_search
from jointnas.campaign.ask import FittedCampaign
from jointnas.errors import ConstraintError
from jointnas.execution.slots import Slot
from jointnas.measurement.device_command import DeviceCommand
from jointnas.measurement.meter import Meter
from jointnas.measurement.store import Store
from jointnas.network.families import make_blueprint
from jointnas.training.recipe import Recipe
from jointnas.training.trained_blueprint import trained_blueprint

NETWORK = make_blueprint({"network": "resnet9", "width": 4}, (1, 8, 8), 10)


@pytest.fixture
def device(tmp_path: Path) -> str:
    """A command that takes a microsecond for each kilobyte of a network, and notes each call."""
    script = tmp_path / "bench.py"
    script.write_text(
        "import onnx, os, sys\n"
        "model = onnx.load(sys.argv[1])\n"
        "onnx.checker.check_model(model)\n"
        "open(sys.argv[2], 'a').write('called\\n')\n"
        "print('device 7 warmed up')\n"
        "print('latency:', f'{os.path.getsize(sys.argv[1]) / 1000:.3f}us')\n"
    )
    return f"{sys.executable} {script} {{onnx}} {tmp_path / 'calls'}"


def calls(tmp_path: Path) -> int:
    return len((tmp_path / "calls").read_text().splitlines()) if (tmp_path / "calls").exists() else 0


def test_the_last_word_is_the_latency(device: str, tmp_path: Path) -> None:
    assert 10e-6 < DeviceCommand(device).latency(NETWORK, Recipe()) < 1e-3
    assert calls(tmp_path) == 1


def test_a_network_that_cannot_be_exported_is_one_sentence(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no symbolic function")

    monkeypatch.setattr("jointnas.measurement.device_command.write_onnx", fail)
    with pytest.raises(ConstraintError, match=r"PyTorch cannot write \(no symbolic function\): leave this network out"):
        DeviceCommand(device).latency(NETWORK, Recipe())


def test_the_device_gets_integers_for_weights_of_few_bits(device: str) -> None:
    architecture = {"network": "resnet9", "width": 32}
    floats, few = (
        DeviceCommand(device).latency(
            trained_blueprint({"architecture": architecture, "recipe": knobs}, (1, 8, 8), 10), Recipe()
        )
        for knobs in ({}, {"quantiser": "binaryconnect", "weight_bits": 2})
    )
    assert few < floats / 3  # as the file is smaller


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("./bench model.onnx", r"has \{onnx\} where the network's file goes"),
        ("./bench '{onnx}", "is a command with"),
        ("/no/such/program {onnx}", "cannot be run"),
        (f"{sys.executable} -c 'import sys; sys.exit(\"no device\")' {{onnx}}", r"ended with code 1 \(no device\)"),
        (f"{sys.executable} -c 'print(\"fast\")' {{onnx}}", "as its last word, got 'fast'"),
        (f"{sys.executable} -c 'print(0)' {{onnx}}", "a latency is above 0"),
    ],
)
def test_mistakes(text: str, words: str) -> None:
    with pytest.raises(ConstraintError, match=words):
        DeviceCommand(text).latency(NETWORK, Recipe())


def test_a_command_may_have_a_long_script_in_it() -> None:
    command = f"python -c '{'pass;' * 100}' {{onnx}}"
    assert command in DeviceCommand(command).identity


def test_a_meter_measures_each_network_once(device: str, tmp_path: Path) -> None:
    candidates = [
        {"architecture": {"network": "resnet9", "width": width}, "recipe": {"learning_rate": rate}}
        for width in (4, 8)
        for rate in (0.1, 0.2)
    ]
    store = Store(tmp_path / "store.sqlite")
    for _ in range(2):
        with Meter(Slot("cpu", 1, 1), (1, 8, 8), 10, store, DeviceCommand(device)) as meter:
            rows = meter.measure(candidates, ["latency"])
    assert rows[0] == rows[1] != rows[2] == rows[3]
    assert calls(tmp_path) == 2


def test_a_search_meets_a_bound_on_the_device(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jointnas.measurement.forecast.CALIBRATION", 6)
    monkeypatch.setattr("jointnas.measurement.forecast.BLOCKS", 2)
    settings = {"train_steps": 4, "rounds": 1, "batch": 2, "confirm": 0, "portfolio": 0, "top": 2}
    campaign = run_search("digits", ["latency<0.3ms"], out=tmp_path / "run", latency_command=device, **settings)
    assert all(winner.costs["latency"] < 0.3e-3 for winner in campaign.winners)
    before = calls(tmp_path)
    assert before > 2
    with FittedCampaign(str(tmp_path / "run")) as fitted:  # a stored command is not run: the run may be a stranger's
        (winner,) = fitted.ask(["macs<1M"], top=1, measure=["latency"]).winners
        assert winner.costs["latency"] > 0
    assert calls(tmp_path) == before
    assert json.loads(json.dumps(winner.candidate)) == winner.candidate
