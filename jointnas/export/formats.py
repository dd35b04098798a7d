"""The formats of deployed networks: each writes its files into a folder and checks that they compute what the network computes."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jointnas import __version__
from jointnas.campaign.best import TRAINING_IMAGES
from jointnas.campaign.candidate_file import data_spec_of, make_writable, write_text
from jointnas.campaign.folders import RETRAINED, WINNER_FILE
from jointnas.campaign.winner_file import WinnerFile, load
from jointnas.data.dataset import Data, load_data
from jointnas.errors import ExportError, JointNASError, suggest
from jointnas.export.deployable import portable, trained_folder
from jointnas.export.onnx_check import CALIBRATION_IMAGES, run_onnx, tolerance_of, write_checked, write_int8
from jointnas.export.python_file import write_python
from jointnas.network.onnx_file import has_steps
from jointnas.training.deployable import Deployable
from jointnas.units import format_count, format_size

NAME = "model"
ACCURACIES = ("val_accuracies", "val_accuracy", "test_accuracy")  # of a winner's results
CHECKED = 8  # images that an export is checked with


@dataclass(frozen=True)
class Exported:
    """The files of an export, the first of them the network; what was measured of it, as text by name."""

    files: tuple[Path, ...]
    facts: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return what `export --json` prints."""
        return {"files": [str(path) for path in self.files], "facts": self.facts}


@dataclass(frozen=True)
class Source:
    """A trained network to export: its folder, what is in it, the model, and the images of its run where they are at hand."""

    folder: Path
    winner: WinnerFile
    model: Deployable
    data: Data | None

    @classmethod
    def of(cls, name: Path, data_table: Mapping[str, Any] | None = None) -> Source:
        """Return the trained network in a run's or a winner's folder.

        data_table: the [training] table of its run, which names its images. Raises `ExportError`.
        """
        folder = trained_folder(name)
        winner = WinnerFile.read(folder)
        model = load(folder).deployable.requires_grad_(False)
        return cls(folder, winner, model, _images(data_table))

    @property
    def about(self) -> dict[str, Any]:
        """What a file says about itself: classes, input, costs, accuracies."""
        shape = self.winner.members[0].blueprint.input_shape
        return {
            "producer": f"jointnas {__version__}",
            "classes": list(self.winner.classes),
            "input": f"uint8, RGB or grey, shape (n, {', '.join(map(str, shape))}), values 0 to 255, not normalised",
            "output": "probabilities by class",
            "members": len(self.winner.members),
            "costs": self.winner.costs,
            "results": {name: self.winner.results[name] for name in ACCURACIES if name in self.winner.results},
        }

    @property
    def val_is_unseen(self) -> bool:
        """Whether the network was not trained on the validation images; networks of earlier versions do not say."""
        return self.folder.parent.name == RETRAINED or self.winner.results.get("trained_on") == TRAINING_IMAGES

    def images(self) -> Tensor:
        """Return (n, C, H, W) uint8 images to check an export with: of the validation set, else random ones."""
        if self.data is not None and len(self.data.val) >= CHECKED:
            return self.data.val.images[:CHECKED].permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
        shape = self.winner.members[0].blueprint.input_shape
        return torch.randint(0, 256, (CHECKED, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def export_trained(source: Source, kind: str, to: Path) -> Exported:
    """Write a trained network into a folder in the format `kind`, with its class names and a card. Raises `ExportError`."""
    if kind not in WRITERS:
        raise ExportError(f"no format is called {kind!r}: {suggest(kind, FORMATS)}")
    make_writable(to)
    try:
        files, facts = WRITERS[kind](source, to)
    except ImportError as error:
        raise ExportError(
            f"the format {kind} needs {error.name}, which is not installed: pip install {str(error.name).partition('.')[0]}"
        ) from error
    classes, card = to / "classes.txt", to / f"{files[0].name}.md"
    write_text(classes, "\n".join(source.winner.classes) + "\n")
    facts = {"size": format_size(files[0].stat().st_size), **facts}
    write_text(card, _card(source, files, facts))
    return Exported((*files, classes, card), facts)


def _onnx(source: Source, to: Path) -> tuple[list[Path], dict[str, str]]:
    path = to / f"{NAME}.onnx"
    difference = write_checked(source.model, source.images(), path, source.about)
    return [path], {"difference from PyTorch": f"{difference:.1e}", **_onnx_accuracy(source, path)}


def _int8(source: Source, to: Path) -> tuple[list[Path], dict[str, str]]:
    path = to / f"{NAME}-int8.onnx"
    if has_steps(source.model):  # trained for 8 bits: their ranges are known
        difference = write_checked(source.model, source.images(), path, source.about)
        return [path], {"difference from PyTorch": f"{difference:.1e}", **_onnx_accuracy(source, path)}
    if source.data is None:
        raise ExportError(
            "8 bits need training images to set their ranges on, but those of the run cannot be read: restore them, or use --format onnx"
        )
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / f"{NAME}.onnx"
        write_checked(source.model, source.images(), whole, source.about, packed=False)
        write_int8(whole, _pixels(source.data.train.images[:CALIBRATION_IMAGES]), path)
        facts = {
            "size in float32": format_size(whole.stat().st_size),
            "same class as in float32": _agreement(_pixels(source.data.val.images), path, whole),
        }
        own, of_whole = _onnx_accuracy(source, path), _onnx_accuracy(source, whole)
    return [path], {**facts, **own, **{f"{name} in float32": value for name, value in of_whole.items()}}


def _onnx_accuracy(source: Source, path: Path) -> dict[str, str]:
    """Return the accuracy of an ONNX file on the validation images; empty where the network was trained on them too."""
    if source.data is None or not source.val_is_unseen:
        return {}
    val = source.data.val
    predicted = run_onnx(path, _pixels(val.images)).argmax(axis=1)
    return {"validation accuracy": f"{float((predicted == val.labels.numpy()).mean()):.4f} ({len(val)} images)"}


def _agreement(images: NDArray[np.uint8], path: Path, whole: Path) -> str:
    """Return the share of images to which two ONNX files give the same class."""
    same = run_onnx(path, images).argmax(axis=1) == run_onnx(whole, images).argmax(axis=1)
    return f"{float(same.mean()):.2%} of {len(images)} validation images"


def _pt2(source: Source, to: Path) -> tuple[list[Path], dict[str, str]]:
    path, images = to / f"{NAME}.pt2", source.images()
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    torch.export.save(torch.export.export(source.model, (images[:2],), dynamic_shapes=shapes), path)
    _check(path, torch.export.load(path).module()(images), source.model(images), source)
    return [path], {}


def _executorch(source: Source, to: Path) -> tuple[list[Path], dict[str, str]]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    path, image = to / f"{NAME}.pte", source.images()[:1]
    program = torch.export.export(portable(source.model, image), (image,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    path.write_bytes(lowered.buffer)
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    _check(path, method.execute([image])[0], source.model(image), source)
    return [path], {"batch": "1 image at a time"}


def _python(source: Source, to: Path) -> tuple[list[Path], dict[str, str]]:
    path, weights = to / f"{NAME}.py", to / f"{NAME}.pt"
    blueprints = [member.blueprint for member in source.winner.members]
    title = f"An image classifier of {len(source.winner.classes)} classes, found by jointnas {__version__}."
    text, state = write_python(source.model, blueprints, source.winner.classes, title)
    write_text(path, text)
    torch.save(state, weights)
    names: dict[str, Any] = {"__name__": NAME, "__file__": str(path)}
    exec(compile(text, str(path), "exec"), names)  # importing it would leave a cache of bytecode beside it
    images = source.images()
    with torch.inference_mode():
        _check(path, names["load"]()(images), source.model(images), source)
    return [path, weights], {}


def _safetensors(source: Source, to: Path) -> tuple[list[Path], dict[str, str]]:
    names = [*dict.fromkeys(member.weights for member in source.winner.members), WINNER_FILE]
    if source.folder.resolve() != to.resolve():
        for name in names:
            shutil.copyfile(source.folder / name, to / name)
    return [to / name for name in names], {}


Writer = Callable[[Source, Path], tuple[list[Path], dict[str, str]]]
WRITERS: Mapping[str, Writer] = {
    "onnx": _onnx,
    "int8-onnx": _int8,
    "pt2": _pt2,
    "executorch": _executorch,
    "python": _python,
    "safetensors": _safetensors,
}
FORMATS = tuple(WRITERS)


def _check(path: Path, outputs: Tensor, expected: Tensor, source: Source) -> None:
    """Raise `ExportError` where an export's (n, classes) outputs differ from the network's."""
    difference, tolerance = float((outputs - expected).abs().max()), tolerance_of(source.model)
    if not difference <= tolerance:
        raise ExportError(
            f"the outputs of an export agree with the network's to {tolerance:g}, got a difference of {difference:.2g} for {str(path)!r}: "
            "use another format"
        )


def _pixels(images: Tensor) -> NDArray[np.uint8]:
    """Return (n, C, H, W) of (n, H, W, C) images."""
    return np.ascontiguousarray(images.permute(0, 3, 1, 2).numpy())


def _images(table: Mapping[str, Any] | None) -> Data | None:
    """Return the images of a run, None where they cannot be read any more."""
    if table is None:
        return None
    try:
        return load_data(data_spec_of(table), fingerprint=table.get("fingerprint"))
    except JointNASError:
        return None


def _card(source: Source, files: list[Path], facts: Mapping[str, str]) -> str:
    """Return the card beside an export: what it is, what goes in and comes out, how accurate it is, how it was trained."""
    about = source.about
    costs = ", ".join(f"{format_count(about['costs'][name])} {name}" for name in ("macs", "params"))
    rows = [
        ("file", files[0].name),
        ("input", about["input"]),
        ("output", f"{about['output']}, in the order of classes.txt"),
        ("cost of an image", costs),
        *facts.items(),
        *((name, json.dumps(value)) for name, value in about["results"].items()),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    knobs = json.dumps(source.winner.candidate, indent=1)
    title = f"# An image classifier of {len(source.winner.classes)} classes"
    return f"{title}\n\n| | |\n|---|---|\n{table}\n\n## Network and recipe\n\n```json\n{knobs}\n```\n"
