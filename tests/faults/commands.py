"""Fast commands that faults happen to, each in a folder of its own, and what must hold of the folder afterwards."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jointnas.campaign.store import DATABASE, Run
from jointnas.campaign.trial import Trial
from jointnas.errors import JointNASError

MARK = "JOINTNAS_FAULT"
DEADLINE = 180.0
TEMPORARY = ("*.half", "*.tmp", "*.partial", "*-journal")

TOY_SPACE = """
format = 1
[recipe]
x = { low = 0.0, high = 1.0 }
y = { low = 0.0, high = 1.0 }
"""
TOY_TASK = """
import os, subprocess, sys, time

def train(candidate, seed, clock):
    x, y = candidate["recipe"]["x"], candidate["recipe"]["y"]
    does, marker = os.environ.get("TOY_DOES", ""), "toy-has-done-it"
    if does and not os.path.exists(marker):
        open(marker, "w").close()
        if does == "exit":
            os._exit(3)
        if does == "fork":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        if does == "print":
            os.write(1, b"printed by a training\\n")
    time.sleep(float(os.environ.get("TOY_SECONDS", "0.02")))
    return 1 - (x - 0.3) ** 2 - 0.1 * (y - 0.7) ** 2
"""

WORKERS = str(min(2, os.cpu_count() or 1))
SMALL = ("--train-images", "200", "--val-images", "100", "--train-steps", "2", "--workers", WORKERS)
TOY = ("search", "--space", "toy.toml", "--train-fn", "toy:train", "--train-steps", "1", "--workers", WORKERS)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The last line on stderr."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


@dataclass
class Command:
    """A `jointnas` command in a folder.

    run: the folder of its run in this one. trials: how many it trains in all, None where that is not fixed. goes_on: what is added to go
    on after an interruption. Every process that it starts carries a mark, so that none is overlooked.
    """

    folder: Path
    arguments: Sequence[str]
    run: str = "run"
    trials: int | None = None
    goes_on: Sequence[str] = ("--resume",)
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mark = uuid.uuid4().hex

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder / self.run

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start it in a session of its own, as a terminal does; Ctrl-C is heeded."""
        environment = {
            **os.environ,
            **self.environment,
            "PYTHONPATH": os.pathsep.join([str(self.folder), *self._python_path()]),
            MARK: self.mark,
        }
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("jointnas")), *self.arguments, *more],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_as_from_a_terminal,
        )

    def _python_path(self) -> list[str]:
        paths = (self.environment.get("PYTHONPATH"), os.environ.get("PYTHONPATH"))
        return [path for path in paths if path]

    def complete(self, *more: str) -> Ended:
        """Run it to its end."""
        return wait_for_end(self.start(*more))

    def finish(self) -> Ended:
        """Go on with it to its end after an interruption; anew where the run was not made yet."""
        if not (self.path / DATABASE).is_file():
            return self.complete()
        ended = self.complete(*self.goes_on)
        if ended.code == 1 and any(
            text in ended.sentence for text in ("holds nothing", "a run is a folder", "is empty")
        ):
            remove(self.path)  # as the sentence says
            return self.complete()
        return ended

    def ended_trials(self) -> list[Trial]:
        """Return the ended trials of its run, which may not be there yet."""
        try:
            with Run.open(self.path) as run:
                return [t for t in run.trials() if t.observation is not None]
        except (JointNASError, sqlite3.Error):
            return []

    def wait_for_trials(self, process: subprocess.Popen[str], count: int) -> None:
        """Wait until so many trials have ended."""
        until(lambda: len(self.ended_trials()) >= count or process.poll() is not None)

    def running(self) -> list[int]:
        """Return the processes that it started and that still run."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                try:
                    is_own = f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
                    if is_own and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def workers(self) -> list[int]:
        """Return its worker processes: each leads a group of its own."""
        found = []
        for pid in self.running():
            try:
                if os.getpgid(pid) == pid and os.getsid(pid) != pid:
                    found.append(pid)
            except ProcessLookupError:
                continue
        return found

    def check(self, ended: Ended, before: Sequence[Trial] = ()) -> None:
        """Raise `AssertionError` unless the command has done all it should: each trial once, those from before unchanged, nothing left."""
        assert ended.code == 0, f"exit {ended.code}: {ended.err[-2000:]}"
        trials = self.ended_trials()
        if self.trials is not None:
            assert len(trials) == self.trials, f"{len(trials)} trials, not {self.trials}"
        assert [t.number for t in trials] == list(range(1, len(trials) + 1))
        assert len({(t.identity, t.kind, t.repeat) for t in trials}) == len(trials)
        own = {t.number: t for t in trials}
        assert [own[t.number] for t in before] == list(before), "an ended trial was changed"
        if "--json" in self.arguments:
            json.loads(ended.out)
        self.check_clean()

    def check_processes(self) -> None:
        """Raise `AssertionError` unless nothing runs any more."""
        until(lambda: not self.running(), "processes are left running")

    def check_clean(self) -> None:
        """Raise `AssertionError` unless nothing runs any more and no temporary file is left."""
        self.check_processes()
        left = [path for pattern in TEMPORARY for path in self.folder.rglob(pattern)]
        assert not left, f"temporary files are left: {left}"


def _as_from_a_terminal() -> None:
    """Heed Ctrl-C, and use all cores, also where the tests run on a part of them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))


def toy_search(folder: Path, **settings: Any) -> Command:
    """Return a search of twelve trainings of a function, without networks."""
    write_toy(folder)
    arguments = (*TOY, "--rounds", "3", "--batch", "4", "--confirm", "2", "--out", "run", "--json")
    return Command(folder, arguments, trials=12, **settings)


def write_toy(folder: Path) -> None:
    """Write the function's module and its space into a folder."""
    (folder / "toy.toml").write_text(TOY_SPACE)
    (folder / "toy.py").write_text(TOY_TASK)


def network_search(folder: Path, **settings: Any) -> Command:
    """Return a search of four small networks, whose best one is kept."""
    arguments = (
        "search",
        "-c",
        "macs<300K",
        *SMALL,
        "--rounds",
        "2",
        "--batch",
        "2",
        "--confirm",
        "1",
        "--portfolio",
        "1",
    )
    return Command(folder, (*arguments, "--top", "2", "--out", "run", "--json"), trials=4, **settings)


def nash(folder: Path, **settings: Any) -> Command:
    """Return a climb of two steps."""
    arguments = ("search", "--engine", "nash", "--real", "-c", "macs<3M", *SMALL, "--rounds", "2", "--batch", "3")
    return Command(folder, (*arguments, "--out", "run", "--json"), trials=8, **settings)


def policy_search(folder: Path, **settings: Any) -> Command:
    """Return a search of six policies."""
    arguments = ("policy", "search", *SMALL, "--rounds", "2", "--batch", "3", "--top", "2")
    return Command(folder, (*arguments, "--out", "run", "--json"), trials=6, **settings)


def retrain(folder: Path, **settings: Any) -> Command:
    """Return a retraining of the two winners of a search, which is run first."""
    search = network_search(folder)
    search.check(search.complete())
    return Command(folder, ("retrain", "run", "--top", "2", "--seeds", "2", "--json"), goes_on=(), trials=4, **settings)


COMMANDS: dict[str, Callable[..., Command]] = {
    "search": toy_search,
    "search of networks": network_search,
    "nash": nash,
    "policy search": policy_search,
    "retrain": retrain,
}


def wait_for_end(process: subprocess.Popen[str], seconds: float = DEADLINE) -> Ended:
    """Wait for the end of a command. Raises `AssertionError`."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"no end within {seconds:.0f} seconds: {err[-2000:]}") from None
    return Ended(process.returncode, out, err)


def until(condition: Callable[[], object], problem: str = "waited in vain", seconds: float = 30.0) -> None:
    """Wait until a condition holds. Raises `AssertionError`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, problem
        time.sleep(0.02)


def remove(folder: Path) -> None:
    """Delete a folder with all that it holds."""
    import shutil

    shutil.rmtree(folder)
