"""Networks of torchvision and timm that a blueprint can use as one operation.

A blueprint names a classifier that one of them lists, never something to import, and weights are always fresh.
With those of `NETWORKS`, images of fewer than 64 pixels a side get the usual form for CIFAR: the first convolution is 3×3 with stride 1, and
the pools that follow it are left out. All others are as their library makes them, for images of three channels. Dropout and stochastic depth
inside those of `NETWORKS` are off, and the recipe's do not reach into any. PyTorch is imported when a network is first built.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from jointnas.errors import BlueprintError, suggest

if TYPE_CHECKING:
    from torch import nn

LIBRARIES = ("torchvision", "timm")
SMALL_SIDE = 64  # pixels; below, an image is small


class Opaque(NamedTuple):
    """The library of a network, and the paths in its module of the layers that change for small images.

    stem: the first convolution; empty for a network that stays as it is.
    """

    library: str
    stem: str = ""
    dropped: tuple[str, ...] = ()  # poolings that small images go without
    options: Mapping[str, Any] = {}


NETWORKS: Mapping[str, Opaque] = {
    "resnet18": Opaque("torchvision", "conv1", ("maxpool",)),
    "densenet121": Opaque("torchvision", "features.conv0", ("features.pool0",)),
    "googlenet": Opaque(
        "torchvision",
        "conv1.conv",
        ("maxpool1", "maxpool2"),
        options={"aux_logits": False, "init_weights": False, "dropout": 0.0},
    ),
    "shufflenet_v2_x1_0": Opaque("torchvision", "conv1.0", ("maxpool",)),
    "efficientnet_b0": Opaque("torchvision", "features.0.0", options={"dropout": 0.0, "stochastic_depth_prob": 0.0}),
    "dpn92": Opaque("timm", "features.conv1_1.conv", ("features.conv1_pool",)),
}
"""The networks by the names that their libraries give them."""

OPTIONS: Mapping[str, Mapping[str, Any]] = {"inception_v3": {"aux_logits": False, "init_weights": False}}
"""Options of networks that would otherwise give more than logits."""


@lru_cache
def listed(library: str) -> frozenset[str]:
    """Return the names of a library's image classifiers; none of one that is not installed."""
    if library == "torchvision":
        from torchvision import models

        return frozenset(models.list_models(module=models))
    try:
        from timm import list_models
    except ImportError:
        return frozenset()
    return frozenset(list_models())


def is_known(name: str) -> bool:
    """Return whether a network of this name can be built."""
    return name in NETWORKS or any(name in listed(library) for library in LIBRARIES)


def find(name: str, library: str | None = None) -> Opaque:
    """Return the entry of a network. Raises `BlueprintError` for an unknown name, or one of another library."""
    if name in NETWORKS:
        entry = NETWORKS[name]
    else:
        own = next((own for own in LIBRARIES if library in (None, own) and name in listed(own)), None)
        if own is None:
            near = difflib.get_close_matches(name, [n for own in LIBRARIES for n in listed(own)], n=1, cutoff=0.6)
            remedy = suggest(name, [*NETWORKS, *near]) if near else "choose one of torchvision.models.list_models()"
            missing = "" if listed("timm") else ", or install timm for its networks"
            raise BlueprintError(f"no library's network is called {name!r}: {remedy}{missing}")
        entry = Opaque(own, options=OPTIONS.get(name, {}))
    if library not in (None, entry.library):
        raise BlueprintError(f"{name} is a network of {entry.library}, got library {library!r}")
    return entry


def build(library: str, name: str, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a fresh network from (n, *input_shape) images to (n, classes) logits.

    Raises `BlueprintError` for one that its library does not have, or whose library is not installed.
    """
    from torch import nn

    entry = find(name, library)
    network = _make(entry, name, classes)
    if not entry.stem:
        if input_shape[0] != 3:
            raise BlueprintError(f"{name} reads images of 3 channels, got {input_shape[0]}: choose another network")
        return network
    small = min(input_shape[1:]) < SMALL_SIDE
    network.set_submodule(entry.stem, _stem(network.get_submodule(entry.stem), input_shape[0], small))
    for path in entry.dropped if small else ():
        network.set_submodule(path, nn.Identity())
    return network


def _make(entry: Opaque, name: str, classes: int) -> nn.Module:
    made: nn.Module
    if entry.library == "torchvision":
        from torchvision.models import get_model

        made = get_model(name, weights=None, num_classes=classes, **entry.options)
        return made
    try:
        from timm import create_model
    except ImportError as error:
        raise BlueprintError(f"{name} needs timm, which is not installed: pip install timm") from error
    made = create_model(name, pretrained=False, num_classes=classes, **entry.options)
    return made


def _stem(conv: nn.Module, channels: int, small: bool) -> nn.Module:
    """Return the first convolution for images of `channels` channels."""
    from torch import nn

    assert isinstance(conv, nn.Conv2d)
    kernel = 3 if small else int(conv.kernel_size[0])
    stride = 1 if small else int(conv.stride[0])
    return nn.Conv2d(channels, conv.out_channels, kernel, stride, kernel // 2, bias=conv.bias is not None)


class Traced(NamedTuple):
    """The cost of a network for one image, as in `NodeCost`; `peak` in values."""

    trained: int
    fixed: int
    macs: int
    activations: int
    peak: int


@lru_cache(maxsize=1024)
def trace(library: str, name: str, input_shape: tuple[int, ...], classes: int) -> Traced:
    """Return a network's costs from one forward pass on PyTorch's meta device, which computes no values.

    macs, activations: of its convolutions and linear layers, as fvcore counts them. peak: the most values that one of its
    modules reads and writes together; a lower bound, as values held for a shortcut are not counted. fixed: running
    statistics. Raises `BlueprintError` as `build` does, and for images that are too small.
    """
    import torch
    from torch import nn

    macs = activations = peak = 0

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal macs, activations, peak
        written = _values(output)
        peak = max(peak, _values(inputs) + written)
        if isinstance(module, nn.Conv2d | nn.Linear):
            macs += written * module.weight[0].numel()
            activations += written

    network = _on_meta(library, name, input_shape, classes)
    with torch.device("meta"), torch.no_grad():
        for module in network.modules():
            module.register_forward_hook(count)
        try:
            network(torch.empty(1, *input_shape))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise _misfit(name, input_shape, error) from error
    trained = sum(p.numel() for p in network.parameters())
    fixed = sum(b.numel() for b in network.buffers() if b.is_floating_point())
    return Traced(trained, fixed, macs, activations, peak)


def _on_meta(library: str, name: str, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a network on PyTorch's meta device; those that compute with their shapes are built on the CPU first."""
    import torch

    try:
        try:
            with torch.device("meta"), torch.no_grad():
                return build(library, name, input_shape, classes).eval()
        except (RuntimeError, NotImplementedError):
            return build(library, name, input_shape, classes).eval().to("meta")
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise _misfit(name, input_shape, error) from error


def _misfit(name: str, input_shape: tuple[int, ...], error: Exception) -> BlueprintError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    shape = "×".join(map(str, input_shape))
    return BlueprintError(
        f"{name} does not fit images of {shape} ({reason}): raise the resolution or choose another network"
    )


def _values(data: Any) -> int:
    """Return how many numbers the tensors in nested tuples and lists hold."""
    if isinstance(data, tuple | list):
        return sum(map(_values, data))
    return int(data.numel()) if hasattr(data, "numel") else 0
