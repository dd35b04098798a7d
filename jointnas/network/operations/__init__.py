"""The operations of networks, each declared once: its shape, attributes, costs, layer, and what morphisms and forecasts need."""

from __future__ import annotations

from collections.abc import Mapping

from jointnas.network.operations.elementwise import ELEMENTWISE
from jointnas.network.operations.joins import JOINS
from jointnas.network.operations.layout import LAYOUT
from jointnas.network.operations.operation import Operation
from jointnas.network.operations.pooling import POOLING
from jointnas.network.operations.weighted import WEIGHTED

OPERATIONS: Mapping[str, Operation] = {**WEIGHTED, **ELEMENTWISE, **POOLING, **LAYOUT, **JOINS}

__all__ = ["OPERATIONS", "Operation"]
