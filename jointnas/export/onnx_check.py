"""ONNX files of trained models, in float32 and in 8 bits, checked by onnxruntime."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jointnas.errors import ExportError
from jointnas.network.onnx_file import INPUT, OUTPUT, has_steps, quiet_exporters, write_onnx

TOLERANCE = 1e-4  # of probabilities
TOLERANCE_OF_STEPS = 0.05  # where layers read 8 bits: rounding may fall on either side of a step
CALIBRATION_IMAGES = 256
CALIBRATION_BATCH = 32

Pixels = NDArray[np.uint8]  # (n, C, H, W)


def write_checked(model: nn.Module, images: Tensor, path: Path, about: Mapping[str, Any], packed: bool = True) -> float:
    """Write a model as ONNX (`write_onnx`), and return how far onnxruntime's outputs are from its own for these images.

    Raises `ExportError` where they differ by more than `tolerance_of`.
    """
    write_onnx(model, images, path, about, packed)
    tolerance = tolerance_of(model)
    with torch.inference_mode():
        expected = model(images).numpy()
    difference = float(np.abs(run_onnx(path, images.numpy()) - expected).max())
    if not difference <= tolerance:
        raise ExportError(
            f"the outputs of an export agree with the network's to {tolerance:g}, got a difference of {difference:.2g} for {str(path)!r}: "
            "report it with the run's #1"
        )
    return difference


def tolerance_of(model: nn.Module) -> float:
    """Return how far the probabilities of an export may be from the model's."""
    return TOLERANCE_OF_STEPS if has_steps(model) else TOLERANCE


def write_int8(path: Path, calibration: Pixels, to: Path) -> None:
    """Write an ONNX file with convolutions and linear layers in 8 bits, their ranges set on (n, C, H, W) calibration images."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(np.split(calibration, range(CALIBRATION_BATCH, len(calibration), CALIBRATION_BATCH)))

        def get_next(self) -> dict[str, Pixels] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    with tempfile.TemporaryDirectory() as folder, quiet_exporters():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(to),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )


def run_onnx(path: Path, images: Pixels) -> NDArray[np.float32]:
    """Return the (n, classes) probabilities that onnxruntime computes for (n, C, H, W) uint8 images."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    batches = [images[i : i + 500] for i in range(0, len(images), 500)]
    return np.concatenate([session.run([OUTPUT], {INPUT: batch})[0] for batch in batches])
