"""The faults of a space file: every rule it breaks, and the line that breaks it."""

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
"""The path of a value in a TOML file: ("recipe", "momentum"), or ("format",)."""

Fault = Callable[[dict[str, Any]], str | None]
"""A function that returns the first error of a space file's content, None where there is none."""


class Problem(NamedTuple):
    """An error in a space file, and its line where a single line causes it."""

    line: int | None
    message: str


def problems(path: Path, input_shape: Sequence[int], classes: int) -> list[Problem]:
    """Return the faults of a space file for images of this shape, by line.

    A knob with a fault is removed with all that depend on it, and the others are checked again. A fault of no single knob, or of
    the network, ends the check: further errors would only follow from it.
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

    faults = []
    while (message := fault(data)) is not None:
        culprit = _culprit(data, message, fault)
        faults.append(Problem(line_of(text, culprit) if culprit else None, message))
        if culprit is None or len(culprit) == 1 or culprit[1] == "network":
            break
        data = _without(data, _with_dependents(data, culprit))
        if not _knobs(data):
            break
    return sorted(faults, key=lambda problem: problem.line or 0) or [
        Problem(None, first)
    ]  # the file name does not end in .toml


def _culprit(data: dict[str, Any], message: str, fault: Fault) -> Key | None:
    """Return the key whose removal removes the error; None where no single one does.

    Keys are tried in this order: knobs that the error mentions, other knobs, the network, top-level keys that it mentions.
    """
    knobs = {key: _with_dependents(data, key) for key in _knobs(data)}

    def order(key: Key) -> tuple[bool, bool, int]:
        return (GROUPS[0], "network") in knobs[key], key[1] not in message, len(knobs[key])

    for key in sorted(knobs, key=order):
        if fault(_without(data, knobs[key])) != message:
            return key
    return next(((key,) for key in data if key in message and fault(_without(data, {(key,)})) != message), None)


def _knobs(data: dict[str, Any]) -> list[Key]:
    return [(group, name) for group in GROUPS if isinstance(data.get(group), dict) for name in data[group]]


def _with_dependents(data: dict[str, Any], key: Key) -> set[Key]:
    """Return a knob and the knobs whose conditions depend on it."""
    keys = {key}
    while True:
        names = {name for _, name in keys}
        more = {(group, name) for group, name in _knobs(data) if names & _conditions(data[group][name])} - keys
        if not more:
            return keys
        keys |= more


def _conditions(spec: Any) -> set[str]:
    when = spec.get("when") if isinstance(spec, dict) else None
    return set(when) if isinstance(when, dict) else set()


def _without(data: dict[str, Any], removed: set[Key]) -> dict[str, Any]:
    """Return the content of a file without some top-level keys or knobs."""
    return {
        key: {name: spec for name, spec in value.items() if (key, name) not in removed}
        if key in GROUPS and isinstance(value, dict)
        else value
        for key, value in data.items()
        if (key,) not in removed
    }


# -------------------------------------------------------------------------------------------------------------- lines


def line_of(text: str, key: Key | None) -> int | None:
    """Return the line, counted from 1, of the TOML statement that first sets a key; None where none does.

    With None for the key: the line of the first invalid statement.
    """
    start = 1
    for line, content in _statements(text):
        if key is not None and _contains(content, key):
            return start
        start = line + 1
    return start if key is None else None


def _statements(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the last line of each statement, blank line and comment, and the content of the text up to there.

    A text that is cut within a statement is invalid TOML, which shows where statements end.
    """
    lines = text.split("\n")
    for end in range(1, len(lines) + 1):
        try:
            yield end, tomllib.loads("\n".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue


def _contains(content: Any, key: Key) -> bool:
    return not key or (isinstance(content, dict) and key[0] in content and _contains(content[key[0]], key[1:]))
