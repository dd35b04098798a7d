"""Knobs of a space with fewer values of one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jointnas.space.knobs import Choice, Knob, Ordered, Value, index_of


def with_values(knobs: Sequence[Knob], name: str, values: Sequence[Value]) -> tuple[Knob, ...]:
    """Return the knobs with only these values of `name`, a countable knob, and without the knobs that can then never be active."""
    kept = {k.name: _narrowed(k, values) if k.name == name else _with_condition(k, name, values) for k in knobs}
    while True:
        inactive = [k.name for k in kept.values() if not all(other in kept and wanted for other, wanted in k.when)]
        if not inactive:
            return tuple(kept.values())
        kept = {other: knob for other, knob in kept.items() if other not in inactive}


def with_large(knob: Knob) -> Knob:
    """Return a knob with the further values that it has for large images."""
    if not isinstance(knob, Ordered) or not knob.large:
        return knob
    numbers = sorted([*knob.large, *knob.values], key=float)
    return replace(knob, values=tuple(numbers), large=())


def _narrowed(knob: Knob, values: Sequence[Value]) -> Knob:
    """Return a countable knob with only these values; of a grid they are the first ones."""
    if isinstance(knob, Choice):
        return replace(knob, choices=tuple(values))
    assert isinstance(knob, Ordered)
    if knob.grid is None or len(values) == 1:
        return replace(knob, values=tuple(values), grid=None)
    low, _, step, log = knob.grid
    return replace(knob, values=tuple(values), grid=(low, low + step * (len(values) - 1), step, log))


def _with_condition(knob: Knob, name: str, values: Sequence[Value]) -> Knob:
    """Return a knob whose condition on `name` lists only these values."""
    when = tuple(
        (other, tuple(v for v in wanted if other != name or index_of(v, values) is not None))
        for other, wanted in knob.when
    )
    return replace(knob, when=when)
