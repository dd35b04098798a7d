"""`jointnas export` of the trained network of a run, and in 8 bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import answer, jointnas, mistake


@pytest.fixture(scope="module", params=["resnet9", "chain"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two trainings of a family, whose best network is kept."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        given = (
            "--space",
            request.param,
            "-c",
            "macs<1M",
            "--train-steps",
            "40",
            "--rounds",
            "1",
            "--batch",
            "2",
            "--confirm",
            "0",
        )
        answer("search", *given, "--portfolio", "1", "--fix", "batch_size=64", "--out", "run", "--top", "1")
    return folder / "run"


def test_the_default_is_the_trained_network_as_onnx(trained: Path) -> None:
    done = jointnas("export", trained)
    assert done.code == 0
    names = [Path(line).name for line in done.out.splitlines()]
    assert names == ["model.onnx", "classes.txt", "model.onnx.md"]
    assert "difference from PyTorch" in done.err
    assert "validation accuracy" in done.err


def test_eight_bits_are_smaller_and_give_nearly_always_the_same_class(trained: Path, tmp_path: Path) -> None:
    facts = answer("export", trained, "--format", "int8-onnx", "--to", tmp_path)["facts"]
    assert float(facts["same class as in float32"].split("%")[0]) > 90
    whole = Path(answer("export", trained, "--to", tmp_path)["files"][0])
    assert (tmp_path / "model-int8.onnx").stat().st_size < 0.7 * whole.stat().st_size


def test_mistakes(trained: Path, tmp_path: Path) -> None:
    assert "choose candidates" in mistake(jointnas("export", trained, "--top", "1", "--format", "onnx"))
    assert "no format is called 'onxx': did you mean 'onnx'?" in mistake(
        jointnas("export", trained, "--format", "onxx")
    )
    (tmp_path / "file").write_text("")
    assert "cannot be written" in mistake(jointnas("export", trained, "--to", tmp_path / "file" / "inner"))
