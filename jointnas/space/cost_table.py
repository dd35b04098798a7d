"""Costs and digests of whole batches of architectures, computed once for each distinct part of a network.

A family is a sequence of parts (see `families.family`), and each part depends on few knobs: a hundred thousand networks have
some thousand different parts. Costs add up over the parts, except the peak of the live values, which is their maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jointnas.network import families
from jointnas.network.blueprint import Blueprint, joined_digest
from jointnas.network.cost import blueprint_cost
from jointnas.network.families.family import Family, Part
from jointnas.network.operations.operation import Shape
from jointnas.space.continuous import Continuous
from jointnas.space.knobs import Codes, Knob

Index = NDArray[np.int64]
COSTS = ("macs", "params", "activations", "size", "memory")  # of float32 networks
SUMMED = COSTS[:4]
LARGEST_KEY = 2**62
FEW = 16  # rows up to which each is looked up by itself
SMALL = 1024  # networks up to which each is cached by itself
KEPT = 20_000  # networks whose parts are cached, at most

Key = tuple[float | None, ...]
"""The key of a part's blueprint: the index of its input shape, and codes of knobs, None where inactive."""

Sums = Callable[[Blueprint], Sequence[float]]
"""A function that returns numbers of a part of a network which add up over its parts."""


class Architectures:
    """The networks of a space's architecture knobs for one input shape (C, H, W) and class count."""

    def __init__(self, knobs: Sequence[Knob], input_shape: Shape, classes: int) -> None:
        self.knobs, self.input_shape, self.classes = tuple(knobs), input_shape, classes
        self._network = next(i for i, knob in enumerate(knobs) if knob.name == "network")
        self._families: dict[str, _Parts] = {}

    def costs(self, codes: Codes) -> NDArray[np.float64]:
        """Return the (n, 5) costs, in the order of `COSTS`, of (n, knobs) codes. Raises `BlueprintError`."""
        table = np.empty((len(codes), len(COSTS)))
        for family, where in self._by_network(codes):
            table[where] = family.costs(codes[where])
        return table

    def digests(self, codes: Codes) -> list[str]:
        """Return each network's digest, equal to `Blueprint.digest`."""
        digests = np.empty(len(codes), dtype=object)
        for family, where in self._by_network(codes):
            digests[where] = family.digests(codes[where])
        return list(digests)

    def sums(self, codes: Codes, of: Sums) -> NDArray[np.float64]:
        """Return (n, k) sums over the parts of each network of the k numbers that `of` returns for a part."""
        parts = [(family.sums(codes[where], of), where) for family, where in self._by_network(codes)]
        table = np.zeros((len(codes), parts[0][0].shape[1] if parts else 0))
        for values, where in parts:
            table[where] = values
        return table

    def ends(self, codes: Codes, of_first: Sums, of_last: Sums) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the (n, k) numbers of the first and of the last part of each network for which a function returns other ones than 0."""
        own = [(family.ends(codes[where], of_first, of_last), where) for family, where in self._by_network(codes)]
        first, last = (np.zeros((len(codes), own[0][0][0].shape[1] if own else 0)) for _ in range(2))
        for values, where in own:
            first[where], last[where] = values
        return first, last

    def blueprint(self, row: Codes) -> Blueprint:
        """Return the network of one row of codes. Raises `BlueprintError`."""
        values = {k.name: k.value(c) for k, c in zip(self.knobs, row.tolist(), strict=True) if c == c}
        return families.make_blueprint(values, self.input_shape, self.classes)

    def _by_network(self, codes: Codes) -> list[tuple[_Parts, Index]]:
        knob = self.knobs[self._network]
        rows_of = []
        for code in np.unique(codes[:, self._network]).tolist():
            name = str(knob.value(code))
            if name not in self._families:
                families.check_input(self.input_shape, self.classes)
                self._families[name] = _Parts(families.find_family(name), self.knobs, self.input_shape, self.classes)
            rows_of.append((self._families[name], np.flatnonzero(codes[:, self._network] == code)))
        return rows_of


class _Parts:
    """The parts of one family, with their computed blueprints."""

    def __init__(self, family: Family, knobs: tuple[Knob, ...], input_shape: Shape, classes: int) -> None:
        self.input_shape = input_shape
        shapes = _Shapes(input_shape)
        self.parts = [_PartTable(part, family, knobs, classes, shapes) for part in family.parts]
        self._latest: tuple[bytes | None, list[tuple[_PartTable, Index]]] = None, []
        self._cached: dict[bytes, Index] = {}  # by a network's codes

    def _lookup(self, codes: Codes) -> list[tuple[_PartTable, Index]]:
        """Return for each part the (n,) indices of the blueprints that n networks have.

        The latest result is cached, as costs, digests and sums of the same networks are usually computed one after another. Those of single
        networks are cached too, as an evolution proposes few networks with many recipes.
        """
        key = codes.tobytes() if len(codes) <= KEPT else None
        if key is not None and key == self._latest[0]:
            return self._latest[1]
        indices = self._cached_indices(codes) if len(codes) <= SMALL else self._indices(codes)
        found = list(zip(self.parts, indices, strict=True))
        if key is not None:
            self._latest = key, found
        return found

    def _cached_indices(self, codes: Codes) -> Index:
        """Return the (parts, n) indices of few networks."""
        keys = [row.tobytes() for row in codes]
        missing = {key: i for i, key in enumerate(keys) if key not in self._cached}
        if missing:
            if len(self._cached) > KEPT:
                self._cached, missing = {}, {key: i for i, key in enumerate(keys)}
            self._cached.update(zip(missing, self._indices(codes[list(missing.values())]).T, strict=True))
        return np.array([self._cached[key] for key in keys], dtype=np.int64).reshape(len(keys), len(self.parts)).T

    def _indices(self, codes: Codes) -> Index:
        """Return the (parts, n) indices of n networks."""
        entering = np.zeros(len(codes), dtype=np.int64)
        indices = []
        for part in self.parts:
            indices.append(part.indices(codes, entering))
            entering = part.leaving.array[indices[-1]]
        return np.array(indices)

    def costs(self, codes: Codes) -> NDArray[np.float64]:
        total, peak = np.zeros((len(codes), 4)), np.zeros(len(codes))
        for part, which in self._lookup(codes):
            values = part.costs.array[which]
            total += values[:, :4]
            peak = np.maximum(peak, values[:, 4])
        return np.column_stack([total, total[:, 3] + peak])

    def digests(self, codes: Codes) -> list[str]:
        looked_up = self._lookup(codes)
        first, inverse = distinct([(which, len(part.traces)) for part, which in looked_up])
        traces = [part.traces.array[which[first]].tolist() for part, which in looked_up]
        digests = [joined_digest(self.input_shape, row) for row in zip(*traces, strict=True)]
        return [digests[i] for i in inverse.tolist()]

    def sums(self, codes: Codes, of: Sums) -> NDArray[np.float64]:
        tables = [(part.sums(of), which) for part, which in self._lookup(codes)]
        return sum((table[which] for table, which in tables[1:]), start=tables[0][0][tables[0][1]])

    def ends(self, codes: Codes, of_first: Sums, of_last: Sums) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        looked_up = self._lookup(codes)
        first = _first_other_than_zero([part.sums(of_first)[which] for part, which in looked_up])
        return first, _first_other_than_zero([part.sums(of_last)[which] for part, which in reversed(looked_up)])


def _first_other_than_zero(tables: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return for each row of (n, k) tables the first one that is not all zeros."""
    found = tables[0].copy()
    for table in tables[1:]:
        empty = ~found.any(axis=1)
        found[empty] = table[empty]
    return found


class _Shapes:
    """The input shapes of the parts of a family, each with an index."""

    def __init__(self, first: Shape) -> None:
        self.shapes = [first]
        self._indices = {first: 0}

    def index(self, shape: Shape) -> int:
        index = self._indices.setdefault(shape, len(self.shapes))
        if index == len(self.shapes):
            self.shapes.append(shape)
        return index


class _Column:
    """A growing list of values, and the same as an array."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._values: list[Any] = []
        self._array = np.empty(0, dtype=kind)

    def __len__(self) -> int:
        return len(self._values)

    def extend(self, values: Iterable[Any]) -> None:
        self._values.extend(values)

    @property
    def array(self) -> NDArray[Any]:
        if len(self._array) != len(self._values):
            self._array = np.array(self._values, dtype=self._kind)
        return self._array


class _PartTable:
    """The distinct blueprints of one part: their costs, traces and output shapes, in parallel columns.

    The blueprints themselves are not kept: those of a family of one part would fill the memory.
    """

    def __init__(self, part: Part, family: Family, knobs: tuple[Knob, ...], classes: int, shapes: _Shapes) -> None:
        self.part, self.family, self.classes, self.shapes = part, family, classes, shapes
        names = set(part.knobs.values())
        self.columns = [i for i, knob in enumerate(knobs) if knob.name in names]
        self.knobs = [knobs[i] for i in self.columns]
        self.keys: dict[Key, int] = {}
        self.costs = _Column(np.float64)  # macs, params, activations, size, peak of the live values
        self.traces = _Column(object)
        self.leaving = _Column(np.int64)  # index of the output's shape
        self._sums: dict[Sums, _Column] = {}

    def indices(self, codes: Codes, entering: Index) -> Index:
        """Return (n,) indices of the blueprints for (n, knobs) codes and (n,) indices of input shapes."""
        if len(codes) <= FEW:
            rows = np.column_stack([entering, codes[:, self.columns]])
            return np.array([self._index(row) for row in rows.tolist()], dtype=np.int64)
        first, inverse = distinct(
            [
                (entering, len(self.shapes.shapes)),
                *(_numbered(knob, codes[:, i]) for i, knob in zip(self.columns, self.knobs, strict=True)),
            ]
        )
        rows = np.column_stack([entering[first], codes[first][:, self.columns]])
        return np.array([self._index(row) for row in rows.tolist()], dtype=np.int64)[inverse]

    def _index(self, row: list[float]) -> int:
        key = tuple(None if value != value else value for value in row)
        if key not in self.keys:
            blueprint = self._blueprint(key)
            cost = blueprint_cost(blueprint)
            self.leaving.extend([self.shapes.index(blueprint.output_shape)])
            self.traces.extend([blueprint.trace()])
            self.costs.extend([(*(cost[m] for m in SUMMED), cost["memory"] - cost["size"])])
            self.keys[key] = len(self.keys)
        return self.keys[key]

    def _blueprint(self, key: Key) -> Blueprint:
        shape_index, *codes = key
        shape = self.shapes.shapes[int(shape_index or 0)]
        given = {knob.name: knob.value(code) for knob, code in zip(self.knobs, codes, strict=True) if code is not None}
        values = self.family.part_values(self.part.knobs.values(), given)
        return self.part.blueprint(shape, self.classes, values)

    def sums(self, of: Sums) -> NDArray[np.float64]:
        """Return the (m, k) numbers of the m blueprints in this table."""
        sums = self._sums.setdefault(of, _Column(np.float64))
        if len(sums) < len(self.keys):
            sums.extend([of(self._blueprint(key)) for key in islice(self.keys, len(sums), None)])
        return sums.array


def _numbered(knob: Knob, codes: Codes) -> tuple[Index, int]:
    """Return (n,) whole numbers for a knob's codes, and their exclusive upper bound."""
    if isinstance(knob, Continuous):
        values, index = np.unique(codes, return_inverse=True)
        return index, len(values)
    return np.where(np.isnan(codes), 0, codes + 1).astype(np.int64), len(knob.extremes) + 1


def distinct(columns: Sequence[tuple[Index, int]]) -> tuple[Index, Index]:
    """Return the first index of each distinct row, and for each row the index of its distinct row.

    columns: (n,) whole numbers from 0 and their exclusive upper bound. Equivalent to `np.unique(axis=0)`, many times faster.
    """
    key, size = np.zeros_like(columns[0][0]), 1
    for column, bound in columns:
        if size * bound > LARGEST_KEY:
            key = np.unique(key, return_inverse=True)[1]
            size = int(key.max(initial=0)) + 1
        key = key * bound + column
        size *= bound
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return first, inverse
