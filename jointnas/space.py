"""The search space: knobs in two groups, read from TOML, and everything that turns them into candidates.

A candidate is `{"architecture": {…}, "recipe": {…}}` with inactive knobs absent. Inside, a batch of n candidates is one
(n, knobs) float array of codes (see `knobs`), architecture first; dictionaries stand only at the border.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from jointnas.architectures import Architectures
from jointnas.blueprint import Blueprint, Shape
from jointnas.cost import METRICS
from jointnas.errors import BlueprintError, CandidateError, SpaceError, suggest
from jointnas.knobs import Codes, Continuous, Fixed, Knob, Value
from jointnas.networks import family
from jointnas.recipe import Recipe, default_of, effective_rows
from jointnas.resources import resource_folder
from jointnas.space_file import GROUPS, Definition, check_definition, read_definition, write_definition


class Candidate(TypedDict):
    """One point of a space: the knobs that are active in it."""

    architecture: dict[str, Value]
    recipe: dict[str, Value]


CostFunction = Callable[[Candidate], Mapping[str, float]]


@dataclass(frozen=True)
class Space:
    """A search space, bound to an input shape (C, H, W) and class count once it has to cost, pool or predict.

    Without a `network` knob it is abstract: any knob names, costs from a function of the candidate.
    """

    name: str
    description: str
    knobs: tuple[Knob, ...]
    n_architecture: int
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

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(k.name for k in self.knobs)

    @property
    def _by_group(self) -> tuple[tuple[Knob, ...], tuple[Knob, ...]]:
        return self.knobs[: self.n_architecture], self.knobs[self.n_architecture :]

    @cached_property
    def _defaults(self) -> Codes:
        return np.array([k.default for k in self.knobs])

    @cached_property
    def _free(self) -> NDArray[np.bool_]:
        return np.array([len(k.extremes) > 1 for k in self.knobs], dtype=bool)

    @property
    def free_knobs(self) -> int:
        """How many knobs the search may change."""
        return int(self._free.sum())

    @cached_property
    def _conditions(self) -> tuple[tuple[tuple[int, Codes], ...], ...]:
        """For each knob: the knobs that switch it on, with the codes that do."""
        return tuple(tuple((self._index(o), self._codes_of(o, vs)) for o, vs in knob.when) for knob in self.knobs)

    def _codes_of(self, name: str, values: tuple[Value, ...]) -> Codes:
        """Return the codes of those values that a knob can take; one that was fixed since may take none of them."""
        knob = self.knobs[self._index(name)]
        return np.array([knob.code(v) for v in values if not isinstance(knob, Fixed) or knob.holds(v)])

    @cached_property
    def _order(self) -> tuple[int, ...]:
        """Knob indices, each after the knobs that switch it on. Raises `SpaceError` for a circle."""
        order: list[int] = []
        while len(order) < len(self.knobs):
            ready = [
                i for i in range(len(self.knobs)) if i not in order and all(p in order for p, _ in self._conditions[i])
            ]
            if not ready:
                circle = [k.name for i, k in enumerate(self.knobs) if i not in order]
                raise SpaceError(
                    f"conditions lead from knob to knob without a circle, got one among {', '.join(circle)}"
                )
            order.extend(ready)
        return tuple(order)

    def _index(self, name: str) -> int:
        if name not in self._names:
            raise SpaceError(f"the space {self.name!r} has no knob {name!r}: {suggest(name, self._names)}")
        return self._names.index(name)

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

    def _switched_on(self, codes: Codes, i: int) -> Codes:
        """Return (1, knobs) codes in which the knobs that switch knob i on, and theirs, stand at a value that does."""
        for parent, wanted in self._conditions[i]:
            if len(wanted):  # else a fixed knob keeps it off
                codes = self._switched_on(codes, parent)
                codes[0, parent] = wanted[0]
        return codes

    # ---------------------------------------------------------------------------------------------- drawing and moving

    def sample(self, n: int, seed: int = 0) -> list[Candidate]:
        """Return n candidates from a scrambled Sobol sequence. The same seed gives the same candidates."""
        return self.to_candidates(next(self.stream(seed, chunk=max(1, n)))[:n])

    def stream(self, seed: int, chunk: int = 8192) -> Iterator[Codes]:
        """Yield (chunk, knobs) arrays of codes, one unending scrambled Sobol sequence (chunk rounded up to a power of 2)."""
        free = np.flatnonzero(self._free)
        size = 1 << (chunk - 1).bit_length()
        sobol = qmc.Sobol(max(1, len(free)), scramble=True, seed=np.random.default_rng(seed))
        while True:
            u = np.zeros((size, len(self.knobs)))
            u[:, free] = sobol.random(size)[:, : len(free)]
            yield self._settle(np.full(u.shape, np.nan), self._from_unit(u))

    def _from_unit(self, u: Codes) -> Codes:
        return np.stack([knob.from_unit(u[:, i]) for i, knob in enumerate(self.knobs)], axis=1)

    def _settle(self, codes: Codes, fill: Codes) -> Codes:
        """Return codes whose conditions hold: knobs switched off become NaN, knobs switched on take their `fill`."""
        out = np.empty_like(codes)
        for i in self._order:
            active = np.ones(len(codes), dtype=bool)
            for parent, wanted in self._conditions[i]:
                active &= (out[:, parent, None] == wanted).any(axis=1)
            out[:, i] = np.where(active, np.where(np.isnan(codes[:, i]), fill[:, i], codes[:, i]), np.nan)
        return out

    def settled(self, codes: Codes) -> Codes:
        """Return (n, knobs) codes whose conditions hold: knobs that are switched on stand in the middle of their ranges."""
        return self._settle(codes, np.broadcast_to(self._defaults, codes.shape))

    def mutate_codes(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Return (n, knobs) codes in which each active knob changed with probability 1/(active knobs), one at least."""
        movable = ~np.isnan(codes) & self._free
        chosen = movable & (rng.random(codes.shape) < 1 / np.maximum(1, movable.sum(axis=1, keepdims=True)))
        lottery = np.where(movable, rng.random(codes.shape), -1.0)
        rows = np.flatnonzero(~chosen.any(axis=1) & movable.any(axis=1))
        chosen[rows, lottery[rows].argmax(axis=1)] = True
        out = codes.copy()
        for i, knob in enumerate(self.knobs):
            moved = chosen[:, i]
            if moved.any():
                out[moved, i] = knob.mutate(codes[moved, i], rng)
        return self._settle(out, self._from_unit(rng.random(codes.shape)))

    def cross_codes(self, a: Codes, b: Codes, rng: np.random.Generator) -> Codes:
        """Return (n, knobs) children that take each knob from parent a or b with equal chance (uniform crossover)."""
        mixed = np.where(rng.random(a.shape) < 0.5, a, b)
        return self._settle(mixed, np.where(np.isnan(a), np.where(np.isnan(b), self._defaults, b), a))

    def neighbour_codes(self, code: Codes) -> Codes:
        """Return the (m, knobs) codes one step from one (knobs,) candidate, apart from knobs switched on or off."""
        return self._moved(code, lambda knob, value: knob.neighbours(value))

    def line_codes(self, code: Codes) -> Codes:
        """Return the (m, knobs) codes that differ from one candidate in one knob: all its values, or 33 over its range."""

        def line(knob: Knob, value: float) -> Iterable[float]:
            if isinstance(knob, Continuous):
                return [*knob.from_unit(np.linspace(0, 1, 33)).tolist(), *knob.neighbours(value)]
            return map(float, range(len(knob.extremes)))

        return self._moved(code, line)

    def _moved(self, code: Codes, steps: Callable[[Knob, float], Iterable[float]]) -> Codes:
        rows = []
        for i in np.flatnonzero(~np.isnan(code) & self._free):
            for step in steps(self.knobs[i], float(code[i])):
                rows.append(code.copy())
                rows[-1][i] = step
        return self.settled(np.array(rows).reshape(-1, len(self.knobs)))

    def mutate(self, candidate: Candidate, rng: np.random.Generator) -> Candidate:
        """Return a changed candidate. Raises `CandidateError`."""
        return self.to_candidates(self.mutate_codes(self.to_codes([candidate]), rng))[0]

    def neighbours(self, candidate: Candidate) -> list[Candidate]:
        """Return every candidate one step away in one knob, apart from the knobs that it switches on or off."""
        return self.to_candidates(self.neighbour_codes(self.to_codes([candidate])[0]))

    # --------------------------------------------------------------------------------------------------- the border

    def to_candidates(self, codes: Codes) -> list[Candidate]:
        """Return the candidates behind (n, knobs) codes."""
        return [{"architecture": self._values(row, 0), "recipe": self._values(row, 1)} for row in codes]

    def _values(self, row: Codes, group: int) -> dict[str, Value]:
        start = 0 if group == 0 else self.n_architecture
        knobs = self._by_group[group]
        return {
            k.name: k.value(c) for k, c in zip(knobs, row[start : start + len(knobs)].tolist(), strict=True) if c == c
        }

    def to_codes(self, candidates: Sequence[Mapping[str, Any]]) -> Codes:
        """Return the (n, knobs) codes of valid candidates. Raises `CandidateError` that names the knob."""
        codes = np.full((len(candidates), len(self.knobs)), np.nan)
        for row, candidate in zip(codes, candidates, strict=True):
            self._check_groups(candidate)
            start = 0
            for group, knobs in zip(GROUPS, self._by_group, strict=True):
                for i, knob in enumerate(knobs, start):
                    if knob.name in candidate[group]:
                        row[i] = knob.code(candidate[group][knob.name])
                start += len(knobs)
        settled = self._settle(codes, np.full_like(codes, np.inf))
        wrong = np.argwhere(np.isinf(settled) | (np.isnan(settled) & ~np.isnan(codes)))
        if len(wrong):
            knob = self.knobs[wrong[0, 1]]
            if np.isnan(codes[tuple(wrong[0])]):
                raise CandidateError(
                    f"a candidate of {self.name!r} has every active knob, got none for {knob.name}: add it"
                )
            when = " and ".join(f"{other} is one of {list(values)}" for other, values in knob.when)
            raise CandidateError(f"the knob {knob.name} is there only when {when}, got it otherwise: drop it")
        return codes

    def _check_groups(self, candidate: Mapping[str, Any]) -> None:
        check_candidate(candidate)
        for group, knobs in zip(GROUPS, self._by_group, strict=True):
            names = [k.name for k in knobs]
            for name in candidate[group]:
                if name not in names:
                    raise CandidateError(
                        f"the space {self.name!r} has no {group} knob {name!r}: {suggest(name, names)}"
                    )

    def nearest(self, candidate: Mapping[str, Any]) -> Candidate:
        """Return the candidate of this space that is nearest to any: one from another space, or a hand-written one.

        A knob that it lacks stands where its network or a recipe has it by default, else in the middle of its range; a value
        that this space does not hold gives way to the nearest number, or to the only value. Raises `CandidateError` where
        nothing is near: another network, another word.
        """
        check_candidate(candidate)
        codes = []
        for group, knobs in zip(GROUPS, self._by_group, strict=True):
            defaults = self._default_knobs(group, candidate)
            for knob in knobs:
                given = candidate[group].get(knob.name)
                if knob.name == "network":
                    codes.append(knob.code(given))
                elif given is not None:
                    codes.append(knob.nearest(given))
                else:
                    codes.append(default_code(knob, defaults))
        return self.to_candidates(self.settled(np.array(codes)[None, :]))[0]

    def _default_knobs(self, group: str, candidate: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.is_abstract:
            return {}
        if group == GROUPS[1]:
            return {knob.name: default_of(knob.name) for knob in self._by_group[1]}
        network = candidate[group].get("network")
        return family(network).knobs if isinstance(network, str) else {}

    def validate(self, candidate: Mapping[str, Any]) -> None:
        """Raise `CandidateError` unless the candidate fits this space."""
        self.to_codes([candidate])

    # ------------------------------------------------------------------------------------------------------- encoding

    def encode(self, candidates: Sequence[Mapping[str, Any]]) -> tuple[Codes, Codes]:
        """Return two float arrays, (n, d_architecture) and (n, d_recipe); see `encode_codes`."""
        return self.encode_codes(self.to_codes(candidates))

    def decode(self, architecture: Codes, recipe: Codes) -> list[Candidate]:
        """Return the candidates nearest to encoded arrays; the inverse of `encode`."""
        columns = []
        for features, knobs in zip((architecture, recipe), self._by_group, strict=True):
            start = 0
            for knob in knobs:
                columns.append(knob.decode(features[:, start : start + knob.columns]))
                start += knob.columns + (1 if knob.when else 0)
        codes = np.stack(columns, axis=1)
        return self.to_candidates(self._settle(codes, codes))

    def encode_codes(self, codes: Codes) -> tuple[Codes, Codes]:
        """Return the features of (n, knobs) codes by group: one-hot categories, numbers min–max in [0, 1].

        A conditional knob brings one more column, 1 where it is active; where it is not, its features are neutral
        (0.5 for numbers, 1/k for k categories).
        """
        parts = self.knob_features(codes)
        first = [np.zeros((len(codes), 0)), *parts[: self.n_architecture]]
        return np.concatenate(first, axis=1), np.concatenate([first[0], *parts[self.n_architecture :]], axis=1)

    def knob_features(self, codes: Codes) -> list[Codes]:
        """Return the features of (n, knobs) codes by knob, as `encode_codes` joins them."""
        parts: list[Codes] = []
        for knob, column in zip(self.knobs, codes.T, strict=True):
            active = ~np.isnan(column)
            if active.all():
                features = knob.encode(column)
            else:
                features = np.full((len(codes), knob.columns), 0.5 if knob.columns == 1 else 1 / max(1, knob.columns))
                features[active] = knob.encode(column[active])
            parts.append(np.column_stack([features, active]) if knob.when else features)
        return parts

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
        """Return each metric's exact (n,) values for (n, knobs) codes; equal architectures are computed once."""
        if not self.is_abstract:
            table = self.architectures.costs(codes[:, : self.n_architecture])
        elif self.metrics:
            table = np.array([self._cost(row) for row in codes]).reshape(len(codes), len(self.metrics))
        else:
            table = np.zeros((len(codes), 0))
        return {metric: table[:, j] for j, metric in enumerate(self.metrics)}

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

    def recipe_columns(self, codes: Codes) -> dict[str, NDArray[Any]]:
        """Return the (n,) values of each recipe knob, its default where it is inactive."""
        columns = {}
        places = np.where(np.isnan(codes), -1, codes)
        for i, (knob, values) in enumerate(
            zip(self._by_group[1], self._recipe_values, strict=True), self.n_architecture
        ):
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


def default_code(knob: Knob, defaults: Mapping[str, Any]) -> float:
    """Return the code nearest to a knob's default, or the middle of its range where it has none that is near."""
    with suppress(CandidateError):
        if knob.name in defaults:
            return knob.nearest(defaults[knob.name])
    return knob.default


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def check_candidate(candidate: object) -> None:
    """Raise `CandidateError` unless a candidate has its two groups of knobs."""
    right = isinstance(candidate, Mapping) and set(candidate) == set(GROUPS)
    if not isinstance(candidate, Mapping) or not right or not all(isinstance(candidate[g], Mapping) for g in GROUPS):
        raise CandidateError(f"a candidate is {{architecture: {{…}}, recipe: {{…}}}}, got {candidate!r}: write both")


def built_in_spaces() -> list[str]:
    """Return the names of the spaces that travel with the package."""
    return sorted(path.stem for path in resource_folder("spaces").glob("*.toml"))
