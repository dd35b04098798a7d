"""Where commands keep their runs: a new folder, the one that is named, or the one that is resumed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from jointnas.campaign.store import RUNS, Run, find_run, list_runs
from jointnas.errors import RunError

CHANGEABLE = ("rounds", "batch", "top", "engine", "repeats", "confirm")  # between a run and its resumption


def open_run(
    out: Path | None,
    specification: dict[str, Any],
    what: str,
    resume: bool,
    changeable: Sequence[str] = CHANGEABLE,
) -> Run:
    """Return a new run in `out` or a folder of its own in runs/; with `resume`, the one there or the latest of its kind.

    changeable: what may differ from the run's specification then.
    Raises `RunError` for a folder that cannot be used, and for a run of another command.
    """
    if not resume:
        return Run.create(out or new_folder(specification["data"]["source"], what), specification)
    run = Run.open(_resumed(out, specification), write=True)
    before = run.specification
    for key in _differences(before, specification, changeable):
        run.close()
        shown = (
            "" if key in ("space", "fingerprint") else f", {before.get(key)!r} before and {specification[key]!r} now"
        )
        raise RunError(
            f"a run is resumed with the command that started it, got another {key} in {str(run.path)!r}{shown}: "
            "repeat the first command"
        )
    return run


def new_folder(source: str, what: str) -> Path:
    """Return a folder in runs/ that is not there yet, named after the data and what is done with them."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{Path(source).stem}-{what}").strip("-")
    return next(path for number in count(1) if not (path := RUNS / f"{stem}-{number}").exists())


def _resumed(out: Path | None, specification: dict[str, Any]) -> Path:
    if out is not None:
        return find_run(str(out))
    for path in reversed(list_runs()):
        with suppress(RunError), Run.open(path) as run:
            if not _differences(run.specification, specification, CHANGEABLE):
                return path
    raise RunError(f"--resume goes on with a run of the same kind, got none in {str(RUNS)!r}: name it with --out")


def _differences(before: dict[str, Any], now: dict[str, Any], changeable: Sequence[str]) -> list[str]:
    return [key for key in now if key not in changeable and before.get(key) != now[key]]
