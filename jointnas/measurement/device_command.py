"""The latency of networks on another device, as a command of the user's measures it there."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from jointnas.errors import ConstraintError, UnitError
from jointnas.network.blueprint import Blueprint
from jointnas.network.module import build
from jointnas.network.onnx_file import write_onnx
from jointnas.training.deployable import Deployable, DeployableMember
from jointnas.training.recipe import Recipe
from jointnas.units import parse_duration

PLACE = "{onnx}"
PATIENCE_SECONDS = 600.0


class DeviceCommand:
    """A command that is given an ONNX file in the place of `{onnx}` and prints the latency of one image as its last word, such as 3.2ms.

    The file is the network with random weights, as `jointnas export` would write it; to fit a forecast, single blocks of networks are measured
    too, whose inputs have other shapes. Raises `ConstraintError` for a command without
    `{onnx}`.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._words = shlex.split(text)
        except ValueError as error:
            raise ConstraintError(
                f"--latency-command is a command with {PLACE}, got {text!r} ({error}): correct it"
            ) from error
        if not any(PLACE in word for word in self._words):
            raise ConstraintError(
                f"--latency-command has {PLACE} where the network's file goes, got {text!r}: write it like './bench {PLACE}'"
            )

    @property
    def identity(self) -> str:
        """What its measurements depend on: its text, and the program and files before the network's, as they are now."""
        end = next(i for i, word in enumerate(self._words) if PLACE in word)
        found = [shutil.which(word) or word for word in self._words[:end] if "\0" not in word]
        files = [(str(Path(name).resolve()), Path(name).stat()) for name in found if os.path.isfile(name)]
        return json.dumps([self.text, *([name, stat.st_size, stat.st_mtime_ns] for name, stat in files)])

    def latency(self, network: Blueprint, recipe: Recipe) -> float:
        """Return the seconds that the command prints for a network. Raises `ConstraintError` where it fails."""
        channels, height, width = network.input_shape
        module = build(network, torch.Generator().manual_seed(0))
        member = DeployableMember(module, (0.5,) * channels, (0.25,) * channels, recipe.test_flip)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            images = torch.zeros(2, channels, height, width, dtype=torch.uint8)
            try:
                write_onnx(Deployable([member]).eval().requires_grad_(False), images, path)
            except Exception as error:  # PyTorch's exporter has no common type for what it cannot write
                raise ConstraintError(
                    f"--latency-command needs the network as ONNX, which PyTorch cannot write ({error}): leave this network out"
                ) from error
            return self._run(path)

    def _run(self, path: Path) -> float:
        words = [word.replace(PLACE, str(path)) for word in self._words]
        try:
            done = subprocess.run(words, capture_output=True, timeout=PATIENCE_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConstraintError(f"--latency-command cannot be run ({error}): correct {self.text!r}") from error
        out, errors = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
        last = (out.split() or [""])[-1]
        if done.returncode != 0:
            reason = errors.strip().splitlines()[-1:] or ["no message"]
            raise ConstraintError(
                f"--latency-command {self.text!r} ended with code {done.returncode} ({reason[0]}): correct it"
            )
        try:
            seconds = parse_duration(last)
        except UnitError as error:
            raise ConstraintError(
                f"--latency-command prints a latency such as 3.2ms as its last word, got {last!r} from {self.text!r}: correct it"
            ) from error
        if not seconds > 0:
            raise ConstraintError(f"a latency is above 0, got {last!r} from {self.text!r}: correct the command")
        return seconds
