"""Runs a target on many inputs under limits of time and memory, and watches that nothing is run and nothing written elsewhere."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from jointnas.errors import JointNASError
from tests.fuzz.targets import Read, check_sentence

SECONDS = 20  # for one input
BYTES = 6 * 1024**3  # of address space
EXECUTES = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class")
WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.symlink", "os.link", "shutil.copyfile")

TO_THE_SECOND = ("os.rename", "os.symlink", "os.link", "shutil.copyfile")


class Violation(Exception):
    """An input made a target do what reading must not do."""


@dataclass
class Outcome:
    """What became of a target's inputs: how many were read, how many refused in a sentence, and the problems, by seed."""

    read: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)


class Watch:
    """An audit hook that raises `Violation` while it is on; a process can never remove one."""

    def __init__(self) -> None:
        self.folder: str | None = None
        sys.addaudithook(self._see)

    @contextmanager
    def on(self, folder: Path) -> Iterator[None]:
        """Watch reads whose files may lie in this folder alone."""
        self.folder = str(folder)
        try:
            yield
        finally:
            self.folder = None

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in EXECUTES or (event == "ctypes.dlopen" and str(arguments[0]).startswith(self.folder)):
            raise Violation(f"{event}{arguments[:1]!r}")
        if event == "open":
            path, mode, flags = arguments
            writes = any(sign in mode for sign in "wax+") if mode else flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and isinstance(path, str | bytes):
                self._check(os.fsdecode(path))
        elif event in WRITES:
            path = arguments[1 if event in TO_THE_SECOND else 0]
            within = (
                arguments[1] if event in ("os.remove", "os.rmdir") else -1
            )  # an open folder that the path is relative to
            if within == -1 and isinstance(path, str | bytes | os.PathLike):
                self._check(os.fsdecode(path))

    def _check(self, path: str) -> None:
        whole = os.path.abspath(path)
        if self.folder is not None and not whole.startswith(self.folder) and whole != os.devnull:
            raise Violation(f"writes {whole}")


def run(read: Read, seeds: range, watch: Watch) -> Outcome:
    """Read an input of each seed and return what became of them."""
    outcome = Outcome()
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with watch.on(Path(name)), _limited_time():
                    read(random.Random(seed), Path(name))
                outcome.read += 1
            except JointNASError as error:
                try:
                    check_sentence(error)
                    outcome.refused += 1
                except AssertionError as problem:
                    outcome.problems.append(f"seed {seed}: {problem}")
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                frames = traceback.extract_tb(error.__traceback__)
                place = next(
                    (f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames) if "jointnas" in f.filename), ""
                )
                outcome.problems.append(f"seed {seed}: {type(error).__name__} at {place}: {str(error)[:200]}")
    return outcome


def limit_memory() -> None:
    """Let this process have no more than `BYTES` of address space."""
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))


@contextmanager
def _limited_time() -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise Violation(f"takes more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
