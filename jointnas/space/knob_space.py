"""Knobs in two groups, some of them conditional: sampling, mutation, neighbours, validation and encoding of candidates.

A candidate is `{"architecture": {…}, "recipe": {…}}` with inactive knobs absent. Inside, a batch of n candidates is one
(n, knobs) float array of codes (see `knobs`), architecture first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import CandidateError, SpaceError, suggest
from jointnas.space.continuous import Continuous
from jointnas.space.knobs import Codes, Fixed, Knob, Value
from jointnas.space.toml import GROUPS


class Candidate(TypedDict):
    """One point of a space: the knobs that are active in it."""

    architecture: dict[str, Value]
    recipe: dict[str, Value]


@dataclass(frozen=True)
class KnobSpace:
    """Knobs by name, those of the architecture first. Their meaning is defined in `Space`."""

    name: str
    description: str
    knobs: tuple[Knob, ...]
    n_architecture: int

    # ------------------------------------------------------------------------------------------------- its structure

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
        """The number of knobs that the search may change."""
        return int(self._free.sum())

    @cached_property
    def _conditions(self) -> tuple[tuple[tuple[int, Codes], ...], ...]:
        """For each knob: the knobs that activate it, and their codes that do."""
        return tuple(tuple((self._index(o), self._codes_of(o, vs)) for o, vs in knob.when) for knob in self.knobs)

    def _codes_of(self, name: str, values: tuple[Value, ...]) -> Codes:
        """Return the codes of those values that a knob has; a knob that was fixed later may have none of them."""
        knob = self.knobs[self._index(name)]
        return np.array([knob.code(v) for v in values if not isinstance(knob, Fixed) or knob.holds(v)])

    @cached_property
    def _order(self) -> tuple[int, ...]:
        """Knob indices, each after the knobs that activate it. Raises `SpaceError` for circular conditions."""
        order: list[int] = []
        while len(order) < len(self.knobs):
            ready = [
                i for i in range(len(self.knobs)) if i not in order and all(p in order for p, _ in self._conditions[i])
            ]
            if not ready:
                circle = [k.name for i, k in enumerate(self.knobs) if i not in order]
                raise SpaceError(f"the conditions of {', '.join(circle)} depend on each other in a circle: remove one")
            order.extend(ready)
        return tuple(order)

    def _index(self, name: str) -> int:
        if name not in self._names:
            raise SpaceError(f"the space {self.name!r} has no knob {name!r}: {suggest(name, self._names)}")
        return self._names.index(name)

    def _activated(self, codes: Codes, i: int) -> Codes:
        """Return (1, knobs) codes in which the knobs that knob i depends on have values that activate it."""
        for parent, wanted in self._conditions[i]:
            if len(wanted):  # else a fixed knob keeps it inactive
                codes = self._activated(codes, parent)
                codes[0, parent] = wanted[0]
        return codes

    # ---------------------------------------------------------------------------------------------- sampling and mutation

    def sample(self, n: int, seed: int = 0) -> list[Candidate]:
        """Return n candidates from a scrambled Sobol sequence. The same seed gives the same candidates."""
        return self.to_candidates(next(self.stream(seed, chunk=max(1, n)))[:n])

    def stream(self, seed: int, chunk: int = 8192) -> Iterator[Codes]:
        """Yield (chunk, knobs) arrays of codes from one scrambled Sobol sequence without end (chunk rounded up to a power of 2)."""
        from scipy.stats import qmc  # half a second, which most commands do without

        if seed < 0:
            raise SpaceError(f"a seed is 0 or more, got {seed}: change it")
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
        """Return codes that meet all conditions: inactive knobs become NaN, newly active ones take their `fill`."""
        out = np.empty_like(codes)
        for i in self._order:
            active = np.ones(len(codes), dtype=bool)
            for parent, wanted in self._conditions[i]:
                active &= (out[:, parent, None] == wanted).any(axis=1)
            out[:, i] = np.where(active, np.where(np.isnan(codes[:, i]), fill[:, i], codes[:, i]), np.nan)
        return out

    def settled(self, codes: Codes) -> Codes:
        """Return (n, knobs) codes that meet all conditions: newly active knobs take the middle of their ranges."""
        return self._settle(codes, np.broadcast_to(self._defaults, codes.shape))

    def mutate_codes(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Return (n, knobs) codes in which each active knob is mutated with probability 1/(active knobs), at least one."""
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
        """Return (n, knobs) children of parents a and b by uniform crossover."""
        mixed = np.where(rng.random(a.shape) < 0.5, a, b)
        return self._settle(mixed, np.where(np.isnan(a), np.where(np.isnan(b), self._defaults, b), a))

    def neighbour_codes(self, code: Codes) -> Codes:
        """Return the (m, knobs) codes one step from one (knobs,) candidate, apart from knobs that it activates or deactivates."""
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
        """Return a mutated candidate. Raises `CandidateError`."""
        return self.to_candidates(self.mutate_codes(self.to_codes([candidate]), rng))[0]

    def neighbours(self, candidate: Candidate) -> list[Candidate]:
        """Return every candidate one step away in one knob, apart from the knobs that it activates or deactivates."""
        return self.to_candidates(self.neighbour_codes(self.to_codes([candidate])[0]))

    # --------------------------------------------------------------------------------------------------- dictionaries

    def to_candidates(self, codes: Codes) -> list[Candidate]:
        """Return the candidates of (n, knobs) codes."""
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
                    f"a candidate lacks the active knob {knob.name} of the space {self.name!r}: add it"
                )
            when = " and ".join(f"{other} is one of {list(values)}" for other, values in knob.when)
            raise CandidateError(f"the knob {knob.name} is active only when {when}: remove it")
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

        A conditional knob has one more column, 1 where it is active; where it is not, its features are neutral
        (0.5 for numbers, 1/k for k categories).
        """
        parts = self.knob_features(codes)
        first = [np.zeros((len(codes), 0)), *parts[: self.n_architecture]]
        return np.concatenate(first, axis=1), np.concatenate([first[0], *parts[self.n_architecture :]], axis=1)

    def feature_names(self, knobs: Sequence[Knob]) -> list[str]:
        """Return the name of each column that `knob_features` gives for these knobs; those of recipe knobs mean the same in every space."""
        return [
            name for knob in knobs for name in (*knob.column_names, *([f"{knob.name} is active"] if knob.when else []))
        ]

    def knob_features(self, codes: Codes) -> list[Codes]:
        """Return the features of (n, knobs) codes by knob, which `encode_codes` joins."""
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


def check_candidate(candidate: object) -> None:
    """Raise `CandidateError` unless a candidate has the two groups of knobs."""
    right = isinstance(candidate, Mapping) and set(candidate) == set(GROUPS)
    if not isinstance(candidate, Mapping) or not right or not all(isinstance(candidate[g], Mapping) for g in GROUPS):
        raise CandidateError(f"a candidate must be {{architecture: {{…}}, recipe: {{…}}}}, got {candidate!r}")
