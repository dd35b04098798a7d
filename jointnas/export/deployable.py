"""Trained models for deployment: where they lie, and the same models by operations that small runtimes have."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from jointnas.campaign.folders import BEST, RETRAINED, WINNER, WINNER_FILE
from jointnas.errors import ExportError
from jointnas.network.layers import Resize
from jointnas.training.deployable import Deployable


class GlobalMaxPool(nn.Module):
    """The largest value of each channel, by an operation that small runtimes have."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, C, 1, 1)."""
        return x.amax(dim=(2, 3), keepdim=True)


class MatrixResize(nn.Module):
    """Antialiased bilinear resizing as products with two matrices, which every runtime has: resizing is linear along each side."""

    rows: Tensor
    columns: Tensor

    def __init__(self, source: tuple[int, int], target: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("rows", _resizing(source[0], target[0]))  # (height, H)
        self.register_buffer("columns", _resizing(source[1], target[1]).T.contiguous())  # (W, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, C, height, width)."""
        return self.rows @ x @ self.columns


def _resizing(source: int, target: int) -> Tensor:
    """Return the (target, source) matrix that resizes a side."""
    unit = torch.eye(source)[None, None]  # each row is one pixel of the side
    return nn.functional.interpolate(unit, size=(source, target), mode="bilinear", antialias=True)[0, 0].T.contiguous()


def portable(model: Deployable, image: Tensor) -> Deployable:
    """Return a copy of a model that computes the same by operations of PyTorch's core set alone. image: (1, C, H, W) uint8."""
    model = copy.deepcopy(model)
    sizes: dict[str, tuple[int, int]] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, inputs, output: sizes.__setitem__(name, (inputs[0].shape[-2], inputs[0].shape[-1]))

    resizes = {name: module for name, module in model.named_modules() if isinstance(module, Resize)}
    hooks = [module.register_forward_hook(note(name)) for name, module in resizes.items()]
    model(image)
    for hook in hooks:
        hook.remove()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.AdaptiveMaxPool2d):
            model.set_submodule(name, GlobalMaxPool())
        elif isinstance(module, Resize) and name in sizes:
            source = sizes[name]
            model.set_submodule(name, nn.Identity() if source == module.size else MatrixResize(source, module.size))
    return model.eval()


def trained_folder(source: Path) -> Path:
    """Return the winner's folder that a run's or a winner's folder names. Raises `ExportError` where nothing is trained."""
    for folder in (source, source / BEST):
        if (folder / WINNER_FILE).is_file():
            return folder
    raise ExportError(
        f"{str(source)!r} holds no trained network: train a winner with jointnas retrain and name {RETRAINED}/{WINNER}-1 in the run, "
        "or export candidates with --format toml"
    )
