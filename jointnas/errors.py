"""Every error a user can cause, on one page.

A message is one sentence that gives the rule, the value received and the remedy. The command line prints it and exits 1;
anything that is not a `JointNASError` is a defect of this package and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 1000  # characters of a message; what was received may be of any length


def printable(text: str) -> str:
    """Return a text in one line that a terminal may show: line breaks become blanks, other control characters are escaped."""
    line = " ".join(text.split("\n"))
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in line)


class JointNASError(Exception):
    """Base class of all errors that a caller can cause and mend. Its message is one line, whatever names and values are in it."""

    def __init__(self, message: object = "") -> None:
        text = printable(str(message))
        super().__init__(text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}")


class UnitError(JointNASError):
    """A duration, count or size that cannot be read."""


class BlueprintError(JointNASError):
    """A network that cannot exist: unknown operation, shapes that do not fit, architecture values out of range."""


class MorphismError(JointNASError):
    """A change that a network cannot make without changing what it computes."""


class RecipeError(JointNASError):
    """A recipe knob that does not exist or a value outside its range."""


class SpaceError(JointNASError):
    """A search space that is malformed, unknown or not bound to an input."""


class CandidateError(JointNASError):
    """A candidate that does not fit its space."""


class ConstraintError(JointNASError):
    """A constraint that cannot be read, names an unknown metric, or that nothing in the space meets."""


class DataError(JointNASError):
    """A data set that is unknown, unreadable or too small for what is asked of it."""


class BudgetError(JointNASError):
    """A training budget too short for one step and its scoring."""


class DivergenceError(JointNASError):
    """A training whose loss stopped being a finite number."""


class PredictorError(JointNASError):
    """A predictor that cannot be fitted, loaded or used for these candidates."""


class SearchError(JointNASError):
    """A search asked for something it cannot give."""


class RunError(JointNASError):
    """A run folder that is missing, in use, unwritable or not from this version."""


class EfficiencyError(JointNASError):
    """Models whose efficiency cannot be compared: metrics that are missing, not positive or on both sides."""


class ExportError(JointNASError):
    """A candidate or winner file that cannot be read or written."""


def suggest(name: object, choices: Iterable[object]) -> str:
    """Return the end of a sentence that names the choice nearest to `name`, or all choices when none is near."""
    names = [str(choice) for choice in choices]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"choose from {', '.join(names)}" if names else "none is available"
