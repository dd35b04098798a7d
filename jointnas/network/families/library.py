"""Networks of torchvision and timm: each is one opaque operation, of which only the input size can be searched."""

from __future__ import annotations

from jointnas.network.blueprint import Blueprint
from jointnas.network.families.family import Family
from jointnas.network.families.parts import open_block
from jointnas.network.library_networks import find
from jointnas.network.operations.operation import Shape


def _library(input_shape: Shape, classes: int, *, name: str = "resnet18", resolution: float = 1.0) -> Blueprint:
    block = open_block("library", input_shape, resolution)
    block.add("opaque", library=find(name).library, name=name, features=classes)
    return Blueprint.chain(input_shape, [block.build()])


LIBRARY = Family.of(_library)
"""An image classifier of torchvision or timm, without pretrained weights (`library_networks`).

name: what its library calls it. resolution: multiplier of the data's size, or pixels; see `parts.resized`.
"""
