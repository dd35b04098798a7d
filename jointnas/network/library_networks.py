"""Whole networks of torchvision and timm that a blueprint may hold as one operation.

`NETWORKS` is all there is: a blueprint names an entry of it and never something to import, and weights are always fresh.
Images of fewer than 64 pixels a side get the form that CIFAR made usual: the first convolution is 3×3 with stride 1, and the
poolings that follow it, which all but EfficientNet-B0 have, are left out. Dropout and stochastic depth inside a network are off,
and the recipe's act on our own operations alone. PyTorch is imported when a network is first built.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from jointnas.errors import BlueprintError, suggest

if TYPE_CHECKING:
    from torch import nn

SMALL_SIDE = 64  # pixels; below, an image is small


class Opaque(NamedTuple):
    """Where a network comes from and, by their paths in its module, which of its layers small images change."""

    library: str
    stem: str  # the first convolution
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


def find(name: str, library: str | None = None) -> Opaque:
    """Return the entry of a network, which is of this library where one is given. Raises `BlueprintError`."""
    if name not in NETWORKS:
        raise BlueprintError(f"no library's network is called {name!r}: {suggest(name, NETWORKS)}")
    entry = NETWORKS[name]
    if library not in (None, entry.library):
        raise BlueprintError(f"{name} is taken from {entry.library}, got {library!r}: change it")
    return entry


def build(library: str, name: str, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a fresh network from (n, *input_shape) images to (n, classes) logits.

    Raises `BlueprintError` for one outside `NETWORKS`, or whose library is not installed.
    """
    from torch import nn

    entry = find(name, library)
    network = _make(entry, name, classes)
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
        raise BlueprintError(f"{name} is taken from timm, got none: pip install 'jointnas[baselines]'") from error
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
    """What one image costs in a network: numbers trained and fixed, and as in `BlockCost`, the peak in values."""

    trained: int
    fixed: int
    macs: int
    activations: int
    peak: int


@lru_cache(maxsize=1024)
def trace(library: str, name: str, input_shape: tuple[int, ...], classes: int) -> Traced:
    """Return a network's costs, read off one pass in which no number is computed (PyTorch's meta device).

    macs, activations: of its convolutions and linear layers, as fvcore counts them. peak: the most that one of its modules
    reads and writes together, an approximation from below, since what a shortcut holds meanwhile is not seen.
    fixed: running statistics. Raises `BlueprintError` as `build` does, and for images that are too small.
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

    with torch.device("meta"), torch.no_grad():
        network = build(library, name, input_shape, classes).eval()
        for module in network.modules():
            module.register_forward_hook(count)
        try:
            network(torch.empty(1, *input_shape))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise BlueprintError(
                f"{name} reads images that it can halve, got shape {input_shape} ({reason}): raise resolution"
            ) from error
    trained = sum(p.numel() for p in network.parameters())
    fixed = sum(b.numel() for b in network.buffers() if b.is_floating_point())
    return Traced(trained, fixed, macs, activations, peak)


def _values(data: Any) -> int:
    """Return how many numbers the tensors in nested tuples and lists hold."""
    if isinstance(data, tuple | list):
        return sum(map(_values, data))
    return int(data.numel()) if hasattr(data, "numel") else 0
