"""Where runs lie: new folders in `runs/`, those that are named, and those that are resumed; and what the folders of networks are called."""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import count
from pathlib import Path

from jointnas.campaign.spec import Spec
from jointnas.campaign.store import DATABASE, Context, Run
from jointnas.errors import JointNASError, RunError, suggest

RUNS = Path("runs")
WINNER_FILE = "winner.json"  # in the folder of a trained network
BEST = "best"  # the folder of a run's best network
RETRAINED = "retrained"  # the folder of its retrained winners
WINNER = "winner"  # what the folder of each is called, before its rank


def list_runs(folder: Path = RUNS) -> list[Path]:
    """Return the run folders below `folder`, oldest first; those that cannot be read come before all others."""

    def created(path: Path) -> float:
        try:
            with Run.open(path) as run:
                return run.created_at
        except RunError:
            return 0.0

    return sorted((path.parent for path in folder.glob(f"*/{DATABASE}")), key=created)


def find_run(name: str | Path) -> Path:
    """Return the folder of a run named by its path, or by its name in `runs/`. Raises `RunError` that suggests the nearest."""
    for path in (Path(name), RUNS / name):
        if (path / DATABASE).is_file():
            return path
    near = [path.name for path in list_runs(Path(name).parent if Path(name).parent.name else RUNS)]
    raise RunError(f"no run is called {str(name)!r}: {suggest(Path(name).name, near)}")


def new_folder(source: str, what: str) -> Path:
    """Make a folder in `runs/`, named after the data and what is done with them, and return it: of no other command."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{Path(source).stem}-{what}").strip("-")
    numbers = count(1)
    while True:
        path = RUNS / f"{stem}-{next(numbers)}"
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(
                f"the run folder {str(path)!r} cannot be made ({error.strerror}): name another with --out"
            ) from error


def open_run(out: Path | None, spec: Spec, context: Context, resume: bool, name: str = "") -> Run:
    """Return a new run in `out`, or in a new folder of `runs/`; with `resume` the run in `out`, or the latest of this spec.

    name: what a new folder is called after, beside its data. Raises `RunError` for a folder that cannot be used and for a run of
    another spec.
    """
    if not resume:
        source = spec.data.source if spec.data else "function"
        return Run.create(out or new_folder(source, name or spec.kind), spec, context)
    run = Run.open(find_run(out) if out is not None else _latest(spec, context), write=True)
    changed = _differences(run, spec, context)
    if not changed:
        run.replace_spec(spec)  # with the settings that may change
        return run
    path, before = run.path, {**run.spec.to_json(), **run.context.to_json()}
    run.close()
    now = {**spec.to_json(), **context.to_json()}
    setting = changed[0]
    shown = (
        "" if setting in ("space", "fingerprint") else f" ({before.get(setting)!r} before, {now.get(setting)!r} now)"
    )
    raise RunError(
        f"a run is resumed with the settings that it was started with, but {setting} differs from that of {str(path)!r}{shown}: "
        "repeat the first command"
    )


def _latest(spec: Spec, context: Context) -> Path:
    for path in reversed(list_runs()):
        with suppress(JointNASError), Run.open(path) as run:
            if not _differences(run, spec, context):
                return path
    raise RunError(f"--resume needs a run of the same settings, got none in {str(RUNS)!r}: name the run with --out")


def _differences(run: Run, spec: Spec, context: Context) -> list[str]:
    changed = run.spec.differences(spec)
    before, now = run.context.to_json(), context.to_json()
    return changed + [name for name in now if before[name] != now[name]]


def retrained_name(query: int) -> str:
    """Return what the folders of a query's retrained winners are called, before the rank: those of the search's own query are plain."""
    return WINNER if query <= 1 else f"query-{query}-{WINNER}"
