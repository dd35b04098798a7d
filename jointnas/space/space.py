"""The search space: knobs read from TOML, bound to images, and what its candidates stand for: networks, recipes, costs, identities.

What can be done with knobs alone (`KnobSpace`) stands in `knob_space`.
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
from jointnas.network.cost import METRICS, scoring_cost
from jointnas.network.operations.operation import Shape
from jointnas.resources import resource_folder
from jointnas.space.cost_table import Architectures
from jointnas.space.knob_space import Candidate, KnobSpace
from jointnas.space.knobs import Codes, Continuous, Fixed, Value
from jointnas.space.restriction import with_values
from jointnas.space.toml import Definition, check_definition, read_definition, write_definition
from jointnas.training.recipe import Recipe, default_of, effective_rows, views

CostFunction = Callable[[Candidate], Mapping[str, float]]


@dataclass(frozen=True)
class Space(KnobSpace):
    """A search space, bound to an input shape (C, H, W) and class count once it has to cost, pool or predict.

    Without a `network` knob it is abstract: any knob names, costs from a function of the candidate.
    """

    input_shape: Shape | None = None
    classes: int | None = None
    cost_function: CostFunction | None = None
    _costs: dict[bytes, tuple[float, ...]] = field(
        default_factory=dict, compare=False, repr=False
    )  # of an abstract space

    def __post_init__(self) -> None:
        check_definition(Definition(self.name, self.description, *self._by_group))
        _ = self._order

    # ------------------------------------------------------------------------------------------------ making one

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
            raise SpaceError(f"a space is a readable TOML file, got {str(path)!r} ({error}): check the path") from error
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
        """Return the space as TOML; `from_toml` gives an equal one back."""
        return write_definition(Definition(self.name, self.description, *self._by_group))

    def bind(self, input_shape: Sequence[int] | None, classes: int | None) -> Space:
        """Return the space for images of this shape (C, H, W) and this many classes. Raises `SpaceError`."""
        if input_shape is None or classes is None:
            raise SpaceError("a space is bound to an input shape and a class count, got one of them: give both")
        bound = replace(self, input_shape=tuple(int(d) for d in input_shape), classes=int(classes))
        if not self.is_abstract:
            bound._check_networks()
        return bound

    def with_cost(self, function: CostFunction | None) -> Space:
        """Return the space with costs from `function(candidate) -> {metric: number}`; None leaves it as it is."""
        if function is None:
            return self
        if not self.is_abstract:
            raise SpaceError(f"only an abstract space takes a cost function, got one for {self.name!r}: drop it")
        return replace(self, cost_function=function, _costs={})

    def fix(self, values: Mapping[str, Value]) -> Space:
        """Return the space with knobs held at one value each. Raises `SpaceError` or `CandidateError`."""
        knobs = list(self.knobs)
        for name, value in values.items():
            index = self._index(name)
            knobs[index] = Fixed(name, knobs[index].when, knobs[index].value(knobs[index].code(value)))
        return replace(self, knobs=tuple(knobs), _costs={})

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

    # ------------------------------------------------------------------------------------------------- its structure

    @property
    def is_abstract(self) -> bool:
        """Whether candidates are nothing but their knobs: no network, no recipe."""
        return "network" not in self._names[: self.n_architecture]

    @property
    def is_bound(self) -> bool:
        """Whether the input shape and class count are known (or not needed)."""
        return self.is_abstract or self.input_shape is not None

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The names that constraints may use."""
        if not self.is_abstract:
            return METRICS
        if self.cost_function is None:
            return ()
        middle = self.to_candidates(self.settled(np.full((1, len(self.knobs)), np.nan)))
        return tuple(self.cost_function(middle[0]))

    def _check_networks(self) -> None:
        """Build the blueprint at every value of every architecture knob, the others in the middle, knobs switched on for it."""
        for i, knob in enumerate(self._by_group[0]):
            for value in knob.extremes:
                codes = self._switched_on(np.full((1, len(self.knobs)), np.nan), i)
                codes[0, i] = knob.code(value)
                try:
                    self.architectures.blueprint(self.settled(codes)[0, : self.n_architecture])
                except BlueprintError as error:
                    raise SpaceError(
                        f"every network of a space exists, got {knob.name} = {value!r}: {error}"
                    ) from error

    # ------------------------------------------------------------------------------------- what a candidate stands for

    @cached_property
    def architectures(self) -> Architectures:
        """The networks of this space. Raises `SpaceError` when it is abstract or not bound."""
        if self.is_abstract:
            raise SpaceError(f"the space {self.name!r} has no network: its candidates have no blueprint")
        if self.input_shape is None or self.classes is None:
            raise SpaceError(f"the space {self.name!r} is bound before it costs, got no input shape: use Space.bind")
        return Architectures(self._by_group[0], self.input_shape, self.classes)

    def blueprint(self, candidate: Mapping[str, Any]) -> Blueprint:
        """Return the candidate's network. Raises `SpaceError` when the space is abstract or not bound."""
        return self.architectures.blueprint(self.to_codes([candidate])[0, : self.n_architecture])

    def recipe(self, candidate: Mapping[str, Any]) -> Recipe:
        """Return the candidate's recipe."""
        return Recipe.from_knobs(candidate["recipe"])

    def costs(self, codes: Codes) -> dict[str, NDArray[np.float64]]:
        """Return each metric's exact (n,) values for (n, knobs) codes, of all views that are scored.

        Equal architectures are computed once.
        """
        if not self.is_abstract:
            table = self.architectures.costs(codes[:, : self.n_architecture])
            return scoring_cost(dict(zip(METRICS, table.T, strict=True)), self.views(codes))
        table = np.array([self._cost(row) for row in codes] if self.metrics else []).reshape(
            len(codes), len(self.metrics)
        )
        return {metric: table[:, j] for j, metric in enumerate(self.metrics)}

    def views(self, codes: Codes) -> NDArray[np.int64]:
        """Return how many views of an image each of (n, knobs) codes scores."""
        return views(self.recipe_columns(codes, ("test_flip",)), len(codes))

    def _cost(self, row: Codes) -> tuple[float, ...]:
        """Return what the user's function says of a candidate of an abstract space; it is asked once."""
        assert self.cost_function is not None
        key = row.tobytes()
        if key not in self._costs:
            found = self.cost_function(self.to_candidates(row[None, :])[0])
            self._costs[key] = tuple(float(found[m]) for m in self.metrics)
        return self._costs[key]

    def cost(self, candidate: Mapping[str, Any]) -> dict[str, float]:
        """Return what the candidate costs: macs, params, activations, size and memory in bytes. Raises `SpaceError`."""
        found = self.costs(self.to_codes([candidate]))
        return {m: int(v[0]) if float(v[0]).is_integer() else float(v[0]) for m, v in found.items()}

    def identities(self, codes: Codes) -> list[str]:
        """Return a hash for each of (n, knobs) codes that equal networks trained by equal recipes share."""
        if self.is_abstract:
            return [_hash(json.dumps(list(c.values()), sort_keys=True).encode()) for c in self.to_candidates(codes)]
        _, height, width = self.input_shape or (0, 0, 0)
        recipes = effective_rows(self.recipe_columns(codes), len(codes), height, width)
        digests = self.architectures.digests(codes[:, : self.n_architecture])
        return [_hash(digest.encode() + row.tobytes()) for digest, row in zip(digests, recipes, strict=True)]

    def distinct(self, codes: Codes) -> tuple[list[int], list[str]]:
        """Return the rows of (n, knobs) codes whose identity no row before them has, in order, and these identities."""
        first: dict[str, int] = {}
        for row, identity in enumerate(self.identities(codes)):
            first.setdefault(identity, row)
        return list(first.values()), list(first)

    def recipe_columns(self, codes: Codes, names: Container[str] | None = None) -> dict[str, NDArray[Any]]:
        """Return the (n,) values of each recipe knob, its default where it is inactive; of these names alone where given."""
        columns = {}
        places = np.where(np.isnan(codes), -1, codes)
        for i, (knob, values) in enumerate(
            zip(self._by_group[1], self._recipe_values, strict=True), self.n_architecture
        ):
            if names is not None and knob.name not in names:
                continue
            if isinstance(knob, Continuous):
                columns[knob.name] = np.where(np.isnan(codes[:, i]), values[-1], codes[:, i])
            else:
                columns[knob.name] = values[places[:, i].astype(np.int64)]
        return columns

    @cached_property
    def _recipe_values(self) -> list[NDArray[Any]]:
        """For each recipe knob: the values that its codes stand for, and at the end its default."""
        found = []
        for knob in self._by_group[1]:
            default = default_of(knob.name)
            kind = object if isinstance(default, bool | str) else np.float64
            found.append(np.array([*knob.extremes, default], dtype=kind))
        return found

    def identity(self, candidate: Mapping[str, Any]) -> str:
        """Return the candidate's hash; candidates with equal blueprint and effective recipe share it."""
        return self.identities(self.to_codes([candidate]))[0]


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def built_in_spaces() -> list[str]:
    """Return the names of the spaces that travel with the package."""
    return sorted(path.stem for path in resource_folder("spaces").glob("*.toml"))
