"""Weights as safetensors: floats, and the packed codes of layers of few bits. Reading runs no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from jointnas.errors import ExportError
from jointnas.network.levels import Levels, pack, unpack
from jointnas.network.module import OF_FEW_BITS, Network, layers_of_few_bits
from jointnas.network.operations.packing import ATTRIBUTES, MOST_BITS_OF_POWERS, POWERS_OF_TWO, Packing

PACKED = "packed"  # metadata: of each packed tensor its bits, levels, scales and shape
CODES = "codes"  # what the name of a packed tensor ends with, in place of "weight"


def save_weights(network: Network, path: Path) -> None:
    """Write a network's parameters and running statistics; weights of few bits as codes of that many bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    packed = {}
    for name, layer in layers_of_few_bits(network):
        packing = layer.packing
        assert packing is not None
        weights = tensors.pop(f"{name}.weight")
        tensors[f"{name}.{CODES}"] = pack(Levels(packing), weights, tensors[f"{name}.weight_scale"])
        packed[name] = {
            "bits": packing.bits,
            "levels": packing.levels,
            "scales": packing.scales,
            "shape": list(weights.shape),
        }
    save_file(tensors, path, {PACKED: json.dumps(packed)} if packed else None)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors that `save_weights` wrote, with all weights as floats. Raises `ExportError`."""
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Packing]]:
    """Return the tensors of a file, with all weights as floats, and how those of each layer were packed."""
    try:
        with safe_open(path, "pt") as file:
            described = json.loads((file.metadata() or {}).get(PACKED, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        packings = {name: _packing(about) for name, about in described.items()}
        for name, packing in packings.items():
            codes, scales = tensors.pop(f"{name}.{CODES}"), tensors[f"{name}.weight_scale"]
            tensors[f"{name}.weight"] = unpack(Levels(packing), codes, scales, tuple(described[name]["shape"]))
    except (OSError, SafetensorError) as error:
        raise _misfit(path, str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, MemoryError) as error:
        raise ExportError(f"the packed weights in {str(path)!r} are damaged ({error!r}): retrain it") from error
    return tensors, packings


def _packing(about: Mapping[str, Any]) -> Packing:
    """Return how a tensor is packed. Raises `ValueError` for what no layer has."""
    own = {name: about[name] for name in ("bits", "levels", "scales")}
    for name, value in own.items():
        if not ATTRIBUTES[name].holds(value):
            raise ValueError(f"{name} = {value!r}")
    if own["levels"] == POWERS_OF_TWO and own["bits"] > MOST_BITS_OF_POWERS:
        raise ValueError(f"powers of two of {own['bits']} bits")
    return Packing(**own)


def load_weights(network: Network, path: Path) -> Network:
    """Load weights that `save_weights` wrote into a network of the same blueprint; no code runs. Raises `ExportError`."""
    tensors, packings = _read(path)
    for name, layer in layers_of_few_bits(network):
        assert layer.packing is not None
        if packings.get(name) != layer.packing._replace(activation_bits=None):
            raise _misfit(path, f"{name} has other bits")
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise _misfit(path, str(error)) from error
    return network


def _misfit(path: Path, reason: str) -> ExportError:
    lines = reason.splitlines() or [""]
    return ExportError(f"the weights in {str(path)!r} do not fit their blueprint ({lines[-1].strip()}): retrain it")


def float_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a network's tensors without the scales and ranges of few bits."""
    return {name: t for name, t in tensors.items() if not name.endswith(OF_FEW_BITS)}
