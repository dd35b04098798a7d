"""Modules as ONNX files."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

OPSET = 18  # the first with antialiased resizing
INPUT, OUTPUT = "images", "probabilities"


def write_onnx(model: nn.Module, images: Tensor, path: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write a module of (n, C, H, W) uint8 images as ONNX, for batches of any size.

    images: two or more examples. about: text that the file carries.
    """
    with quiet_exporters():
        program = torch.onnx.export(
            model,
            (images[:2],),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update({name: _text(value) for name, value in (about or {}).items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(path, external_data=False)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Keep what exporters print about themselves from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root", "")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
