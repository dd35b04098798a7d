"""What is wrong with a space file: every rule it breaks, and the lines that do."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from jointnas.errors import JointNASError
from jointnas.space.space import Space
from jointnas.space.toml import GROUPS

Key = tuple[str, ...]
"""Where something stands in a TOML file: ("recipe", "momentum"), or ("format",)."""

Fault = Callable[[dict[str, Any]], str | None]
"""The first error of a space file's content, None where there is none."""


class Problem(NamedTuple):
    """A rule that a space file breaks, the value received and the remedy; and the line, where one line is to blame."""

    line: int | None
    message: str


def problems(path: Path, input_shape: Sequence[int], classes: int) -> list[Problem]:
    """Return what is wrong with a space file for images of this shape, by line; nothing where all is right.

    After each knob that breaks a rule, the others are checked without it and what rests on it. A mistake that is not a single
    knob's, or is the network's, ends the check: what follows from it would be no news.
    """
    try:
        Space.load(path, input_shape, classes)
        return []
    except JointNASError as error:
        first = str(error)
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except (OSError, UnicodeDecodeError):
        return [Problem(None, first)]
    except tomllib.TOMLDecodeError:
        return [Problem(line_of(text, None), first)]

    def fault(content: dict[str, Any]) -> str | None:
        try:
            Space.from_toml(tomli_w.dumps(content), input_shape, classes, name=path.stem)
            return None
        except JointNASError as error:
            return str(error)

    found = []
    while (message := fault(data)) is not None:
        culprit = _culprit(data, message, fault)
        found.append(Problem(line_of(text, culprit) if culprit else None, message))
        if culprit is None or len(culprit) == 1 or culprit[1] == "network":
            break
        data = _without(data, _resting_on(data, culprit))
        if not _knobs(data):
            break
    return sorted(found, key=lambda problem: problem.line or 0) or [Problem(None, first)]  # a file that is no .toml


def _culprit(data: dict[str, Any], message: str, fault: Fault) -> Key | None:
    """Return the key without which the error is not made; None where no single one makes it.

    They are tried in this order: the knobs that the error mentions, the other ones, the network, top-level keys it mentions.
    """
    knobs = {key: _resting_on(data, key) for key in _knobs(data)}

    def turn(key: Key) -> tuple[bool, bool, int]:
        return (GROUPS[0], "network") in knobs[key], key[1] not in message, len(knobs[key])

    for key in sorted(knobs, key=turn):
        if fault(_without(data, knobs[key])) != message:
            return key
    return next(((key,) for key in data if key in message and fault(_without(data, {(key,)})) != message), None)


def _knobs(data: dict[str, Any]) -> list[Key]:
    return [(group, name) for group in GROUPS if isinstance(data.get(group), dict) for name in data[group]]


def _resting_on(data: dict[str, Any], key: Key) -> set[Key]:
    """Return a knob, and the knobs whose conditions rest on it."""
    found = {key}
    while True:
        names = {name for _, name in found}
        more = {(group, name) for group, name in _knobs(data) if names & _conditions(data[group][name])} - found
        if not more:
            return found
        found |= more


def _conditions(spec: Any) -> set[str]:
    when = spec.get("when") if isinstance(spec, dict) else None
    return set(when) if isinstance(when, dict) else set()


def _without(data: dict[str, Any], gone: set[Key]) -> dict[str, Any]:
    """Return the content of a file less some top-level keys or knobs."""
    return {
        key: {name: spec for name, spec in value.items() if (key, name) not in gone}
        if key in GROUPS and isinstance(value, dict)
        else value
        for key, value in data.items()
        if (key,) not in gone
    }


# -------------------------------------------------------------------------------------------------------------- lines


def line_of(text: str, key: Key | None) -> int | None:
    """Return the line, counted from 1, of the statement of a TOML text that first gives a key a value; None where none does.

    With None for the key: the line of the first statement that cannot be read.
    """
    begun = 1
    for line, content in _statements(text):
        if key is not None and _holds(content, key):
            return begun
        begun = line + 1
    return begun if key is None else None


def _statements(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the last line of each statement, blank line and comment, and what the text says up to there.

    A text that ends within a statement is no TOML: that tells where statements end.
    """
    lines = text.split("\n")
    for end in range(1, len(lines) + 1):
        try:
            yield end, tomllib.loads("\n".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue


def _holds(content: Any, key: Key) -> bool:
    return not key or (isinstance(content, dict) and key[0] in content and _holds(content[key[0]], key[1:]))
