"""The search space: knobs from TOML, bound to an input shape; networks, recipes, costs and identities of its candidates.

Operations on the knobs alone are in `knob_space`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import BlueprintError, SpaceError, suggest
from jointnas.network.blueprint import Blueprint
from jointnas.network.cost import FLOAT_BITOPS, METRICS, scoring_cost
from jointnas.network.operations.operation import Shape
from jointnas.network.operations.packing import CHANNEL, UNIFORM, Packing
from jointnas.network.quantisation import INNER, Quantisation, quantised
from jointnas.resources import resource_folder
from jointnas.space.continuous import Continuous
from jointnas.space.cost_table import COSTS, Architectures
from jointnas.space.knob_space import Candidate, KnobSpace
from jointnas.space.knobs import Codes, Fixed, Ordered, Value
from jointnas.space.quantised_costs import quantised_costs
from jointnas.space.restriction import with_large, with_values
from jointnas.space.toml import Definition, check_definition, read_definition, write_definition
from jointnas.training.recipe import (
    NO_QUANTISER,
    QUANTISATION_KNOBS,
    Recipe,
    check_value,
    default_of,
    is_text,
    knob_fields,
)
from jointnas.training.recipe_columns import effective_rows, views

CostFunction = Callable[[Candidate], Mapping[str, float]]

LARGE_SIDE = 48  # pixels of images that are large: their networks may see a quarter of it


@dataclass(frozen=True)
class Space(KnobSpace):
    """A search space; costs, pools and predictions need one that is bound to an input shape (C, H, W) and class count.

    Without a `network` knob it is abstract: any knob names, costs from a function of the candidate.
    """

    input_shape: Shape | None = None
    classes: int | None = None
    cost_function: CostFunction | None = None
    cost_example: Candidate | None = field(default=None, compare=False, repr=False)
    _costs: dict[bytes, tuple[float, ...]] = field(
        default_factory=dict, compare=False, repr=False
    )  # of an abstract space

    def __post_init__(self) -> None:
        check_definition(Definition(self.name, self.description, *self._by_group))
        _ = self._order

    # ------------------------------------------------------------------------------------------------ construction

    @classmethod
    def load(cls, name: str | Path, input_shape: Sequence[int] | None = None, classes: int | None = None) -> Space:
        """Return the built-in space `name`, or the one in a TOML file. Raises `SpaceError`."""
        path = Path(name)
        if path.suffix != ".toml":
            path = resource_folder("spaces") / f"{name}.toml"
            if not path.is_file():
                raise SpaceError(
                    f"no space is called {str(name)!r}: {suggest(name, built_in_spaces())}, or give a .toml file"
                )
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpaceError(f"cannot read the space file {str(path)!r} ({error}): check the path") from error
        return cls.from_toml(text, input_shape, classes, name=path.stem)

    @classmethod
    def from_toml(
        cls, text: str, input_shape: Sequence[int] | None = None, classes: int | None = None, name: str = "space"
    ) -> Space:
        """Return the space that TOML `text` describes. Raises `SpaceError`."""
        definition = read_definition(text, name)
        space = cls(
            definition.name,
            definition.description,
            (*definition.architecture, *definition.recipe),
            len(definition.architecture),
        )
        return space if input_shape is None and classes is None else space.bind(input_shape, classes)

    def to_toml(self) -> str:
        """Return the space as TOML; `from_toml` returns an equal one."""
        return write_definition(Definition(self.name, self.description, *self._by_group))

    def bind(self, input_shape: Sequence[int] | None, classes: int | None) -> Space:
        """Return the space for images of this shape (C, H, W) and this many classes. Raises `SpaceError`."""
        if input_shape is None or classes is None:
            raise SpaceError("a space needs both an input shape and a class count, got one of them: give both")
        try:
            shape, count = tuple(int(d) for d in input_shape), int(classes)
        except (TypeError, ValueError, OverflowError) as error:
            raise SpaceError(
                f"a space is bound to (C, H, W) and a number of classes, got {input_shape!r} and {classes!r}"
            ) from error
        knobs = self.knobs if min(shape[1:], default=0) < LARGE_SIDE else tuple(map(with_large, self.knobs))
        bound = replace(self, knobs=knobs, input_shape=shape, classes=count, _costs={})
        if not self.is_abstract:
            bound._check_networks()
        return bound

    def with_cost(self, function: CostFunction | None, example: Candidate | None = None) -> Space:
        """Return the space with costs from `function(candidate) -> {metric: number}`; None changes nothing.

        example: the candidate whose costs give the names of the metrics; by default the middle of the space.
        """
        if function is None:
            return self
        if not self.is_abstract:
            raise SpaceError(
                f"only an abstract space takes a cost function, but {self.name!r} has a network: remove the function"
            )
        return replace(self, cost_function=function, cost_example=example, _costs={})

    def fix(self, values: Mapping[str, Value]) -> Space:
        """Return the space with some knobs fixed; those of recipes that are fixed already, or missing, may get another value.

        Raises `SpaceError`, `CandidateError` or `RecipeError`.
        """
        knobs = list(self.knobs)
        for name, value in values.items():
            if not self.is_abstract and name in knob_fields() and name not in self._names:
                check_value(name, value)
                knobs.append(Fixed(name, (), value))
                continue
            index = self._index(name)
            if isinstance(knobs[index], Fixed) and name in knob_fields() and not self.is_abstract:
                check_value(name, value)
                knobs[index] = Fixed(name, knobs[index].when, value)
            elif isinstance(knob := knobs[index], Ordered) and value in knob.large:
                knobs[index] = Fixed(name, knob.when, value)
            elif is_text(name, value):  # of which no space lists all
                check_value(name, value)
                knobs[index] = Fixed(name, knobs[index].when, value)
            else:
                knobs[index] = Fixed(name, knobs[index].when, knobs[index].value(knobs[index].code(value)))
        fixed = replace(self, knobs=tuple(knobs), _costs={})
        if not self.is_abstract and self.is_bound and any(name in QUANTISATION_KNOBS for name in values):
            fixed._check_networks()
        return fixed

    def restricted(self, train_images: int) -> Space:
        """Return the space without batch sizes above the number of training images. Raises `SpaceError` when none is left."""
        if self.is_abstract:
            return self
        knob = next((k for k in self._by_group[1] if k.name == "batch_size"), None)
        sizes = knob.extremes if knob else (default_of("batch_size"),)
        allowed = [size for size in sizes if float(size) <= train_images]
        if not allowed:
            raise SpaceError(
                f"the smallest batch_size in the space {self.name!r} is {min(sizes, key=float)}, but there are only {train_images} "
                "training images: add a smaller batch_size to its [recipe], or more images"
            )
        if len(allowed) == len(sizes):
            return self
        kept = with_values(self.knobs, "batch_size", allowed)
        architecture = {k.name for k in self._by_group[0]}
        return replace(self, knobs=kept, n_architecture=sum(k.name in architecture for k in kept), _costs={})

    def with_architecture(self, architecture: Mapping[str, Value]) -> Space:
        """Return the space whose only network is this one: `{"network": family, knob: value, …}`. Raises `SpaceError`."""
        fixed = tuple(Fixed(name, (), value) for name, value in architecture.items())
        space = replace(self, knobs=(*fixed, *self._by_group[1]), n_architecture=len(fixed), _costs={})
        return space.bind(self.input_shape, self.classes) if self.input_shape else space

    # ------------------------------------------------------------------------------------------------- structure

    @property
    def is_abstract(self) -> bool:
        """Whether the space has no networks and recipes, only knobs."""
        return "network" not in self._names[: self.n_architecture]

    @property
    def is_bound(self) -> bool:
        """Whether the input shape and class count are set (or not needed)."""
        return self.is_abstract or self.input_shape is not None

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The names that constraints may use."""
        if not self.is_abstract:
            return METRICS
        if self.cost_function is None:
            return ()
        middle = self.settled(np.full((1, len(self.knobs)), np.nan))
        return tuple(self.cost_function(self.cost_example or self.to_candidates(middle)[0]))

    @property
    def predictor_metrics(self) -> tuple[str, ...]:
        """The metrics that are inputs of a predictor; `bitops` follow from `macs` and the recipe."""
        return self.metrics if self.is_abstract else COSTS

    def _check_networks(self) -> None:
        """Raise `SpaceError` unless each value of each architecture knob, the others in the middle, gives a network."""
        for i, knob in enumerate(self._by_group[0]):
            for value in knob.extremes:
                codes = self._activated(np.full((1, len(self.knobs)), np.nan), i)
                codes[0, i] = knob.code(value)
                try:
                    network = self.architectures.blueprint(self.settled(codes)[0, : self.n_architecture])
                    for quantisation in self._quantisations:
                        quantised(network, quantisation)
                except BlueprintError as error:
                    raise SpaceError(
                        f"the space {self.name!r} has no valid network with {knob.name} = {value!r}: {error}"
                    ) from error

    @cached_property
    def _quantisations(self) -> list[Quantisation]:
        """A quantisation for each choice of layers, if a recipe of the space may quantise weights."""
        knobs = {knob.name: knob for knob in self._by_group[1]}
        if "quantiser" not in knobs or set(knobs["quantiser"].extremes) == {NO_QUANTISER}:
            return []
        layers = knobs["quantised_layers"].extremes if "quantised_layers" in knobs else (INNER,)
        return [Quantisation(Packing(1, UNIFORM, CHANNEL), str(own)) for own in layers]

    # ------------------------------------------------------------------------------------- networks, costs, identities

    @cached_property
    def architectures(self) -> Architectures:
        """The networks of this space. Raises `SpaceError` when it is abstract or not bound."""
        if self.is_abstract:
            raise SpaceError(f"the space {self.name!r} is abstract: its candidates have no network")
        if self.input_shape is None or self.classes is None:
            raise SpaceError(f"the space {self.name!r} has no input shape yet: call Space.bind first")
        return Architectures(self._by_group[0], self.input_shape, self.classes)

    def blueprint(self, candidate: Mapping[str, Any]) -> Blueprint:
        """Return the candidate's network, with the bits of its recipe. Raises `SpaceError` when the space is abstract or not bound."""
        network = self.architectures.blueprint(self.to_codes([candidate])[0, : self.n_architecture])
        return quantised(network, self.recipe(candidate).quantisation)

    def recipe(self, candidate: Mapping[str, Any]) -> Recipe:
        """Return the candidate's recipe."""
        return Recipe.from_knobs(candidate["recipe"])

    def costs(self, codes: Codes) -> dict[str, NDArray[np.float64]]:
        """Return each metric's exact (n,) values for (n, knobs) codes, of all scored views.

        Costs of equal architectures are computed once.
        """
        if not self.is_abstract:
            costs = self.float_costs(codes)
            recipes = self.recipe_columns(codes, ("test_flip", *QUANTISATION_KNOBS))
            if "quantiser" in recipes:
                costs = quantised_costs(costs, self.architectures, codes[:, : self.n_architecture], recipes)
            return scoring_cost(costs, views(recipes, len(codes)))
        table = np.array([self._cost(row) for row in codes] if self.metrics else []).reshape(
            len(codes), len(self.metrics)
        )
        return {metric: table[:, j] for j, metric in enumerate(self.metrics)}

    def float_costs(self, codes: Codes) -> dict[str, NDArray[np.float64]]:
        """Return the exact (n,) costs of one view for (n, knobs) codes of a space with networks, were all weights in float32."""
        table = self.architectures.costs(codes[:, : self.n_architecture])
        costs = dict(zip(COSTS, table.T, strict=True))
        return {**costs, "bitops": costs["macs"] * FLOAT_BITOPS}

    def views(self, codes: Codes) -> NDArray[np.int64]:
        """Return the (n,) numbers of views of an image that (n, knobs) codes score."""
        return views(self.recipe_columns(codes, ("test_flip",)), len(codes))

    def _cost(self, row: Codes) -> tuple[float, ...]:
        """Return the user's costs of a candidate of an abstract space; the function is called once for each candidate."""
        assert self.cost_function is not None
        key = row.tobytes()
        if key not in self._costs:
            costs = self.cost_function(self.to_candidates(row[None, :])[0])
            self._costs[key] = tuple(float(costs[m]) for m in self.metrics)
        return self._costs[key]

    def cost(self, candidate: Mapping[str, Any]) -> dict[str, float]:
        """Return the candidate's costs: macs, params, activations, size and memory in bytes. Raises `SpaceError`."""
        costs = self.costs(self.to_codes([candidate]))
        return {m: int(v[0]) if float(v[0]).is_integer() else float(v[0]) for m, v in costs.items()}

    def identities(self, codes: Codes) -> list[str]:
        """Return a hash for each of (n, knobs) codes; equal networks trained by equal recipes share it."""
        if self.is_abstract:
            return [_hash(json.dumps(list(c.values()), sort_keys=True).encode()) for c in self.to_candidates(codes)]
        _, height, width = self.input_shape or (0, 0, 0)
        recipes = effective_rows(self.recipe_columns(codes), len(codes), height, width)
        digests = self.architectures.digests(codes[:, : self.n_architecture])
        return [_hash(digest.encode() + row) for digest, row in zip(digests, recipes, strict=True)]

    def distinct(self, codes: Codes) -> tuple[list[int], list[str]]:
        """Return the first row of each identity among (n, knobs) codes, in order, and these identities."""
        first: dict[str, int] = {}
        for row, identity in enumerate(self.identities(codes)):
            first.setdefault(identity, row)
        return list(first.values()), list(first)

    def recipe_columns(self, codes: Codes, names: Container[str] | None = None) -> dict[str, NDArray[Any]]:
        """Return the (n,) values of each recipe knob, its default where it is inactive; only those in `names` where given."""
        columns = {}
        indices = np.where(np.isnan(codes), -1, codes)
        for i, (knob, values) in enumerate(
            zip(self._by_group[1], self._recipe_values, strict=True), self.n_architecture
        ):
            if names is not None and knob.name not in names:
                continue
            if isinstance(knob, Continuous):
                columns[knob.name] = np.where(np.isnan(codes[:, i]), values[-1], codes[:, i])
            else:
                columns[knob.name] = values[indices[:, i].astype(np.int64)]
        return columns

    @cached_property
    def _recipe_values(self) -> list[NDArray[Any]]:
        """For each recipe knob: the values of its codes, and at the end its default."""
        tables = []
        for knob in self._by_group[1]:
            default = default_of(knob.name)
            kind = object if isinstance(default, bool | str) else np.float64
            tables.append(np.array([*knob.extremes, default], dtype=kind))
        return tables

    def identity(self, candidate: Mapping[str, Any]) -> str:
        """Return the candidate's hash; candidates with equal blueprint and effective recipe share it."""
        return self.identities(self.to_codes([candidate]))[0]


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def built_in_spaces() -> list[str]:
    """Return the names of the built-in spaces."""
    return sorted(path.stem for path in resource_folder("spaces").glob("*.toml"))
