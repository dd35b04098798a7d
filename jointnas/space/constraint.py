"""Hard bounds on the costs of a candidate, such as `macs<40M` or `size<=4MB`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import ConstraintError, UnitError, suggest
from jointnas.network.cost import METRICS
from jointnas.units import (
    format_count,
    format_latency,
    format_size,
    parse_accuracy,
    parse_count,
    parse_duration,
    parse_size,
)

MEASURED = (
    "latency",
    "latency_p95",
    "batch_latency",
    "batch_latency_p95",
    "images_per_second",
    "train_memory",
    "energy",
)
"""Metrics measured on a device: seconds for one image and for a batch of 64 (median, 95th percentile), training images a second,
peak bytes of a training step, joules an image where the device reports its power."""


TRAINING_METRICS = ("images_per_second", "train_memory")
"""Measured metrics that depend on the recipe; the others are of inference."""


class Unit(NamedTuple):
    """How values of a metric are parsed and formatted, and an example."""

    parse: Callable[[str], float]
    format: Callable[[float], str]
    example: str


COUNT = Unit(parse_count, format_count, "40M")
SIZE = Unit(parse_size, format_size, "4MB")
TIME = Unit(parse_duration, format_latency, "5ms")
_UNITS: Mapping[str, Unit] = {
    "accuracy": Unit(parse_accuracy, "{:.6g}".format, "0.9"),
    **dict.fromkeys(("size", "memory", "train_memory"), SIZE),
    **dict.fromkeys(("latency", "latency_p95", "batch_latency", "batch_latency_p95"), TIME),
}


def unit_of(metric: str) -> Unit:
    """Return the unit of a metric: bytes, seconds, or a count for all others."""
    return _UNITS.get(metric, COUNT)


_TEXT = re.compile(r"\s*([A-Za-z_]\w*)\s*(<=|>=|<|>)\s*([^\s<>=].*?)\s*")


@dataclass(frozen=True)
class Constraint:
    """`metric comparison bound`, the bound in single units (MACs, parameters, bytes)."""

    metric: str
    comparison: str
    bound: float

    @classmethod
    def parse(cls, text: str, metrics: Iterable[str] = METRICS) -> Constraint:
        """Return the constraint in `text`, whose metric is one of `metrics`. Raises `ConstraintError`."""
        allowed = tuple(metrics)
        match = _TEXT.fullmatch(text)
        if match is None:
            word = re.match(r"\s*([A-Za-z_]\w*)", text)
            name = word.group(1) if word else "macs"
            raise ConstraintError(
                f"cannot read the constraint {text!r}: write metric, comparison and bound, "
                f"quoted for the shell, as in '{name}<{unit_of(name).example}'"
            )
        metric, comparison, bound = match.groups()
        if metric not in allowed:
            raise ConstraintError(f"no metric is called {metric!r} in {text!r}: {_remedy(metric, bound, allowed)}")
        try:
            value = unit_of(metric).parse(bound)
        except UnitError as error:
            raise ConstraintError(f"cannot read the bound of {text!r}: {error}") from error
        return cls(metric, comparison, value)

    @property
    def is_upper(self) -> bool:
        """Whether the metric is bounded from above."""
        return self.comparison.startswith("<")

    def violation(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far (n,) values of the metric lie beyond the bound, as a share of it; 0 where it holds.

        A value at a strict bound has the smallest positive violation; NaN has an infinite one.
        """
        x = np.asarray(values, dtype=np.float64)
        beyond = (x - self.bound if self.is_upper else self.bound - x) / max(abs(self.bound), 1e-12)
        held = beyond <= 0 if self.comparison.endswith("=") else beyond < 0
        excess = np.where(held, 0.0, np.maximum(beyond, np.finfo(np.float64).tiny))
        return np.where(np.isnan(x), np.inf, excess)

    def __str__(self) -> str:
        short = format_metric(self.metric, self.bound)
        exact = unit_of(self.metric).parse(short) == self.bound
        return f"{self.metric}{self.comparison}{short if exact else f'{self.bound:.17g}'}"


def _remedy(metric: str, bound: str, allowed: Sequence[str]) -> str:
    """Return what to write in place of an unknown metric."""
    if metric.lower() in ("flops", "flop") and "macs" in allowed:
        return f"multiply-accumulates are counted, two FLOPs each; write macs<{bound} where a paper counts a multiply-add once, else half of it"
    return suggest(metric, allowed)


def format_metric(metric: str, value: float) -> str:
    """Return a metric's value with its unit."""
    return unit_of(metric).format(value)


def parse_all(constraints: Sequence[str | Constraint], metrics: Iterable[str]) -> tuple[Constraint, ...]:
    """Return constraints, parsed where they are text, all on some of `metrics`. Raises `ConstraintError`."""
    allowed = tuple(metrics)
    parsed = tuple(Constraint.parse(c, allowed) if isinstance(c, str) else c for c in constraints)
    for constraint in parsed:
        if constraint.metric not in allowed:
            raise ConstraintError(f"no metric is called {constraint.metric!r}: {suggest(constraint.metric, allowed)}")
    return parsed


def read_sweep(text: str) -> list[str]:
    """Return the constraints of a sweep, such as 'macs<5M,10M,20M', one for each bound. Raises `ConstraintError`."""
    first, *others = text.split(",")
    match = _TEXT.fullmatch(first)
    if match is None or not all(other.strip() for other in others):
        raise ConstraintError(f"cannot read the sweep {text!r}: write it like 'macs<5M,10M,20M'")
    metric, comparison, bound = match.groups()
    return [f"{metric}{comparison}{each.strip()}" for each in (bound, *others)]


def violations(constraints: Sequence[Constraint], costs: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return (n, c) violations of c constraints by n candidates with these (n,) costs; a feasible candidate has only zeros."""
    if not constraints:
        n = len(next(iter(costs.values()))) if costs else 0
        return np.zeros((n, 0))
    return cast(NDArray[np.float64], np.stack([c.violation(costs[c.metric]) for c in constraints], axis=1))
