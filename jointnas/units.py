"""Numbers as people write them: durations `30s 10m 3h`, counts `600K 40M 1.2G`, sizes `4MB 64MiB`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import TypeGuard

from jointnas.errors import UnitError

DURATIONS: Mapping[str, float] = {"": 1, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "min": 60, "h": 3600}
COUNTS: Mapping[str, float] = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
SIZES: Mapping[str, float] = {
    "": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip

_NUMBER = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)\s*")


def is_finite(value: object) -> TypeGuard[int | float]:
    """Return whether this is a number that a float holds; booleans are none, and a whole number may be too large."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _parse(text: str, kind: str, units: Mapping[str, float], example: str) -> float:
    match, with_unit = _NUMBER.fullmatch(text), " with a unit" if len(units) > 1 else ""
    if match is None:
        raise UnitError(f"{kind} is a number{with_unit}, got {text!r}: write it like {example}")
    number, unit = match.groups()
    spelled = {name.lower(): factor for name, factor in units.items()}
    factor = units.get(unit, spelled.get(unit.lower()))
    if factor is None:
        names = ", ".join(name for name in units if name)
        rule = f"has one of the units {names}" if names else "has no unit"
        raise UnitError(f"{kind} {rule}, got {unit!r} in {text!r}: write it like {example}")
    try:
        value = float(
            Decimal(number.replace("_", "")) * Decimal(str(factor))
        )  # so that 1.001K is 1001, not a hair less
    except ArithmeticError:  # too large for a decimal number
        value = math.inf
    if not math.isfinite(value) or value < 0:
        raise UnitError(f"{kind} is finite and not negative, got {text!r}: write it like {example}")
    return value


def parse_duration(text: str) -> float:
    """Return the seconds in `text` such as `30s`, `10m` or `1.5h`; a bare number is seconds. Raises `UnitError`."""
    return _parse(text, "a duration", DURATIONS, "30s, 10m or 3h")


def parse_count(text: str) -> float:
    """Return the number in `text` such as `600K`, `40M` or `1.2G`. Raises `UnitError`."""
    return _parse(text, "a count", COUNTS, "600K, 40M or 1.2G")


def parse_size(text: str) -> float:
    """Return the bytes in `text` such as `4MB` (10^6 bytes each) or `64MiB` (2^20 bytes each). Raises `UnitError`."""
    return _parse(text, "a size", SIZES, "500KB, 4MB or 1GB")


def parse_accuracy(text: str) -> float:
    """Return the accuracy in `text` such as `0.9`. Raises `UnitError`."""
    return _parse(text, "an accuracy", {"": 1}, "0.9")


def _scaled(value: float, units: tuple[tuple[str, float], ...]) -> str:
    for name, factor in units:
        if abs(value) >= factor:
            return f"{value / factor:.4g}{name}"
    name, factor = units[-1]
    return f"{value / factor:.4g}{name}"


def format_count(value: float) -> str:
    """Return `value` with four significant digits and a unit: 40_000_000 is `40M`."""
    return _scaled(value, (("G", 1e9), ("M", 1e6), ("K", 1e3), ("", 1)))


def format_size(value: float) -> str:
    """Return bytes with four significant digits and a decimal unit: 4_000_000 is `4MB`."""
    return _scaled(value, (("GB", 1e9), ("MB", 1e6), ("KB", 1e3), ("B", 1)))


def format_latency(seconds: float) -> str:
    """Return a short time with four significant digits: 0.0051 is `5.1ms`."""
    return _scaled(seconds, (("s", 1), ("ms", 1e-3), ("us", 1e-6)))


def format_duration(seconds: float) -> str:
    """Return seconds for reading: `8s`, `1m 30s`, `2h 05m`."""
    if round(seconds) < 60:
        return f"{seconds:.3g}s" if seconds < 10 else f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s" if rest else f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m"
