"""An abstract space, a cube, whose accuracy has one peak: what the tests of the search share."""

from __future__ import annotations

from typing import Any

from jointnas.search.search import Search
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space

PEAK = (0.8, 0.2, 0.6, 0.5)


def cube(knobs: int = 4) -> Space:
    lines = "\n".join(f"x{i} = {{ low = 0.0, high = 1.0 }}" for i in range(knobs))
    return Space.from_toml(f"format = 1\n[architecture]\n{lines}")


def point(*x: float) -> Candidate:
    return {"architecture": {f"x{i}": v for i, v in enumerate(x)}, "recipe": {}}


def numbers(candidate: Candidate) -> list[float]:
    return [float(v) for v in candidate["architecture"].values()]


def truth(candidate: Candidate) -> float:
    """Return an accuracy with one peak, of 0.9."""
    return 0.9 - 0.5 * sum((v - p) ** 2 for v, p in zip(numbers(candidate), PEAK, strict=False))


def total(candidate: Candidate) -> dict[str, float]:
    return {"total": sum(numbers(candidate))}


def light(space: Space, seed: int = 0, **more: Any) -> Search:
    """Return a search with a small pool and few members, enough for a test."""
    search = Search(space, seed=seed, pool_size=500, **more)
    search.predictor.members = 2
    return search
