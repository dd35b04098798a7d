"""Modules as ONNX files, whose layers of few bits have integers and QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jointnas.network.layers import HIGHEST, EightBits
from jointnas.network.levels import Levels
from jointnas.network.module import layers_of_few_bits

OPSET = 18  # the first with antialiased resizing
INPUT, OUTPUT = "images", "probabilities"


class OnnxSteps(nn.Module):
    """`EightBits` of a trained network by operations that become QuantizeLinear and DequantizeLinear."""

    def __init__(self, steps: EightBits) -> None:
        super().__init__()
        from torch.ao.quantization.fx import _decomposed  # noqa: F401  (it registers the operations)

        scale, zero = steps.steps()
        self.settings = (float(scale), int(zero), 0, HIGHEST, torch.uint8)

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        own = torch.ops.quantized_decomposed
        result: Tensor = own.dequantize_per_tensor(own.quantize_per_tensor(x, *self.settings), *self.settings)
        return result


def has_steps(model: nn.Module) -> bool:
    """Return whether layers of a model read 8 bits."""
    return any(isinstance(module, EightBits) for module in model.modules())


def write_onnx(
    model: nn.Module, images: Tensor, path: Path, about: Mapping[str, Any] | None = None, packed: bool = True
) -> None:
    """Write a module of (n, C, H, W) uint8 images as ONNX, for batches of any size.

    images: two or more examples. about: text that the file carries. packed: whether weights of few bits are integers, one byte each, which
    DequantizeLinear multiplies by their scales; otherwise they are floats.
    """
    original = model
    if has_steps(model):
        model = copy.deepcopy(model)
        for name, module in list(model.named_modules()):
            if isinstance(module, EightBits):
                model.set_submodule(name, OnnxSteps(module))
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
    if packed and any(True for _ in layers_of_few_bits(original)):
        _pack(path, original)


def _pack(path: Path, model: nn.Module) -> None:
    """Replace the weights of few bits in a file by integers and DequantizeLinear.

    The exporter merges a batch norm that follows a layer into its weights, so their scales are read from the file, one for each channel.
    Weights that the exporter renamed, or merged with equal ones, stay floats.
    """
    import onnx
    from onnx import helper, numpy_helper

    file = onnx.load(path)
    graph, first = file.graph, []
    places = {tensor.name: i for i, tensor in enumerate(graph.initializer)}
    for name, layer in layers_of_few_bits(model):
        assert layer.packing is not None
        levels, weights = Levels(layer.packing), f"{name}.weight"
        if weights not in places:
            continue
        indices = levels.indices(layer.weight.detach(), layer.weight_scale)
        codes = levels.codes[indices].reshape(layer.weight.shape).numpy()
        written = numpy_helper.to_array(graph.initializer[places[weights]])
        own = (f"{weights}.codes", f"{weights}.scales", f"{weights}.zero")
        scales = _channel_scales(written, codes)
        graph.initializer[places[weights]].CopyFrom(numpy_helper.from_array(codes.astype(np.int8), own[0]))
        graph.initializer.append(numpy_helper.from_array(scales, own[1]))
        graph.initializer.append(numpy_helper.from_array(np.zeros(len(scales), np.int8), own[2]))
        first.append(helper.make_node("DequantizeLinear", list(own), [weights], axis=0))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*first, *rest])
    onnx.save(file, path)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _channel_scales(weights: NDArray[np.float32], codes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the (channels,) scales by which codes give weights: the quotient at each channel's largest code."""
    w, c = weights.reshape(len(weights), -1), codes.reshape(len(codes), -1)
    rows, largest = np.arange(len(c)), np.abs(c).argmax(axis=1)
    chosen = c[rows, largest]
    return np.where(chosen == 0, 1, w[rows, largest] / np.where(chosen == 0, 1, chosen)).astype(np.float32)


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
