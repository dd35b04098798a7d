"""Exports: every format computes what the network computes, in every family and in ensembles."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from jointnas.campaign.winner_file import Member, WinnerFile, load
from jointnas.errors import ExportError
from jointnas.export.deployable import portable
from jointnas.export.formats import FORMATS, Exported, Source, export_trained
from jointnas.export.onnx_check import TOLERANCE, TOLERANCE_OF_STEPS, run_onnx
from jointnas.network.families import make_blueprint
from jointnas.network.module import BatchNorm, build, layers_of_few_bits
from jointnas.network.weights_file import save_weights
from jointnas.training.proxconnect import ProxConnect
from jointnas.training.recipe import Recipe
from jointnas.training.trained_blueprint import trained_blueprint

CLASSES = ("cat", "dog", 'a "quoted" one')
ARCHITECTURES = {
    "chain": {"network": "chain", "width": 8, "stages": 2},
    "resnet": {"network": "resnet", "width": 0.1},
    "resnet9": {"network": "resnet9", "width": 8, "resolution": 0.75},
    "senet": {"network": "senet", "width": 0.1},
    "fbnet": {"network": "fbnet"},
    "morphed": {
        "network": "chain",
        "width": 16,
        "stages": 3,
        "depth3": 2,
        "morphisms": [
            "deeper 4.2 kernel 3",
            "deeper 4.2 kernel 3",
            "deeper 4.2 kernel 5",
            "skip 4.9 from 4.5 blend",
            "skip 4.6 from 3.0 concat",
        ],
    },
}
SHAPE = (3, 20, 24)


def winner(folder: Path, *architectures: dict[str, object], flip: bool = True) -> Path:
    """Write a winner whose networks have random weights and running statistics."""
    members = []
    for i, architecture in enumerate(architectures):
        network = build(make_blueprint(architecture, SHAPE, len(CLASSES)), torch.Generator().manual_seed(i))
        for module in network.modules():
            if isinstance(module, BatchNorm):
                module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
        save_weights(network, folder / f"member-{i}.safetensors")
        members.append(
            Member(network.blueprint, f"member-{i}.safetensors", (0.4, 0.5, 0.6), (0.2, 0.2, 0.3), flip and i == 0)
        )
    WinnerFile(tuple(members), CLASSES, {"architecture": dict(architectures[0]), "recipe": {}}, {}).write(folder)
    return folder


def images(n: int = 5) -> torch.Tensor:
    return torch.randint(0, 256, (n, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def exported(folder: Path, kind: str, to: Path) -> Exported:
    return export_trained(Source.of(folder), kind, to)


@pytest.fixture(params=[*ARCHITECTURES, "ensemble"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A winner of each family, and one of two networks."""
    names = ("resnet9", "chain") if request.param == "ensemble" else (request.param,)
    try:
        return winner(tmp_path / "winner", *(ARCHITECTURES[name] for name in names))
    except Exception as error:
        pytest.fail(f"{request.param}: {error}")


def test_an_onnx_file_and_a_python_file_compute_what_the_network_computes(folder: Path, tmp_path: Path) -> None:
    expected = load(folder)(images()).detach().numpy()
    onnx_file = exported(folder, "onnx", tmp_path / "onnx").files[0]
    np.testing.assert_allclose(run_onnx(onnx_file, images().numpy()), expected, atol=TOLERANCE)
    np.testing.assert_allclose(run_onnx(onnx_file, images(1).numpy()), expected[:1], atol=TOLERANCE)  # any batch
    python_file = exported(folder, "python", tmp_path / "python").files[0]
    torch.save(images(), tmp_path / "images.pt")
    code = (
        f"import sys, torch; sys.path.insert(0, {str(python_file.parent)!r}); import model; "
        f"torch.save(model.load()(torch.load({str(tmp_path / 'images.pt')!r})), {str(tmp_path / 'out.pt')!r}); "
        "assert not any(name.startswith('jointnas') for name in sys.modules); print(model.CLASSES[2])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.stderr, done.stdout.strip()) == ("", CLASSES[2])
    np.testing.assert_allclose(torch.load(tmp_path / "out.pt").detach().numpy(), expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    "knobs", [{}, {"int8_activations": True}, {"level_scales": "tensor", "quantised_layers": "all"}]
)
def test_weights_of_few_bits_are_integers_in_onnx_and_floats_elsewhere(
    knobs: dict[str, object], tmp_path: Path
) -> None:
    candidate = {
        "architecture": ARCHITECTURES["resnet9"],
        "recipe": {"quantiser": "binaryconnect", "weight_bits": 2, **knobs},
    }
    network = build(trained_blueprint(candidate, SHAPE, len(CLASSES)), torch.Generator().manual_seed(0))
    network.train()(torch.randn(16, *SHAPE))  # moves statistics and ranges
    ProxConnect(network, Recipe.from_knobs(candidate["recipe"])).project(network)
    folder = tmp_path / "winner"
    save_weights(network, folder / "network.safetensors")
    member = Member(network.blueprint, "network.safetensors", (0.4, 0.5, 0.6), (0.2, 0.2, 0.3), True)
    WinnerFile((member,), CLASSES, candidate, {}).write(folder)
    expected = load(folder)(images()).detach().numpy()
    file = exported(folder, "onnx", tmp_path / "onnx").files[0]
    graph = onnx.load(file).graph
    kinds = [node.op_type for node in graph.node]
    layers = sum(1 for _ in layers_of_few_bits(network))
    steps = layers if "int8_activations" in knobs else 0
    assert kinds.count("DequantizeLinear") >= layers + steps
    assert (kinds.count("QuantizeLinear") > 0) == (steps > 0)
    assert sum(tensor.data_type == onnx.TensorProto.INT8 for tensor in graph.initializer) >= layers
    close = TOLERANCE if not steps else TOLERANCE_OF_STEPS
    np.testing.assert_allclose(run_onnx(file, images().numpy()), expected, atol=close)
    if steps:  # ranges were learned, so that no training images are needed
        in_8_bits = exported(folder, "int8-onnx", tmp_path / "int8").files[0]
        np.testing.assert_allclose(run_onnx(in_8_bits, images().numpy()), expected, atol=close)
    program = torch.export.load(exported(folder, "pt2", tmp_path / "pt2").files[0]).module()
    np.testing.assert_allclose(program(images()).detach(), expected, atol=close)
    exported(folder, "python", tmp_path / "python")  # which compares the outputs
    np.testing.assert_array_equal(
        load(exported(folder, "safetensors", tmp_path / "copy").files[0].parent)(images()).detach(), expected
    )


def test_a_portable_copy_computes_the_same(folder: Path) -> None:
    model = Source.of(folder).model
    np.testing.assert_allclose(portable(model, images(1))(images(1)), model(images(1)), atol=1e-5)


def test_an_exported_program_takes_batches_of_any_size(tmp_path: Path) -> None:
    folder = winner(tmp_path / "winner", ARCHITECTURES["resnet9"])
    program = torch.export.load(exported(folder, "pt2", tmp_path / "pt2").files[0]).module()
    for n in (1, 5):
        np.testing.assert_allclose(program(images(n)), load(folder)(images(n)).detach(), atol=TOLERANCE)


def test_executorch_runs_a_network_of_core_operations(tmp_path: Path) -> None:
    pytest.importorskip("executorch", reason="ExecuTorch is not installed")
    folder = winner(tmp_path / "winner", ARCHITECTURES["resnet9"])
    file = exported(folder, "executorch", tmp_path / "executorch").files[0]  # which compares the outputs
    assert file.stat().st_size > 10_000


def test_safetensors_are_the_winner_itself(tmp_path: Path) -> None:
    folder = winner(tmp_path / "winner", ARCHITECTURES["chain"])
    done = exported(folder, "safetensors", tmp_path / "copy")
    assert load_file(done.files[0]).keys() == load_file(folder / "member-0.safetensors").keys()
    np.testing.assert_array_equal(load(tmp_path / "copy")(images()).detach(), load(folder)(images()).detach())


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    folder = winner(tmp_path / "winner", ARCHITECTURES["chain"])
    done = exported(folder, "onnx", tmp_path / "onnx")
    about = {entry.key: entry.value for entry in onnx.load(done.files[0]).metadata_props}
    assert about["classes"] == '["cat", "dog", "a \\"quoted\\" one"]'
    assert (tmp_path / "onnx" / "classes.txt").read_text().splitlines() == list(CLASSES)
    card = (tmp_path / "onnx" / "model.onnx.md").read_text()
    assert "uint8" in card
    assert "| file | model.onnx |" in card


def test_eight_bits_need_training_images(tmp_path: Path) -> None:
    folder = winner(tmp_path / "winner", ARCHITECTURES["chain"])
    with pytest.raises(ExportError, match="8 bits need training images"):
        exported(folder, "int8-onnx", tmp_path / "int8")


def test_an_unknown_format_and_a_folder_without_a_network_are_refused(tmp_path: Path) -> None:
    folder = winner(tmp_path / "winner", ARCHITECTURES["chain"])
    with pytest.raises(ExportError, match=r"no format is called 'onx': did you mean 'onnx'\?"):
        exported(folder, "onx", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExportError, match=r"holds no trained network: .* name retrained/winner-1"):
        exported(tmp_path / "empty", "onnx", tmp_path)
    assert "onnx" in FORMATS


def test_names_of_strangers_are_no_code_in_a_python_file(tmp_path: Path) -> None:
    folder = winner(tmp_path / "winner", ARCHITECTURES["chain"])
    text = (folder / "winner.json").read_text()
    hostile = "stem\\nimport os; os.abort()"
    assert '"name": "' in text or '"stem"' in text
    (folder / "winner.json").write_text(text.replace('"cat"', f'"{hostile}"').replace('"stem"', f'"{hostile}"'))
    done = exported(folder, "python", tmp_path / "python")  # which imports the file
    assert "\nimport os" not in done.files[0].read_text()
