"""Faults that happen to running commands: real signals, disks, permissions and locks. Each raises `AssertionError` where something is lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np

from jointnas.campaign.store import DATABASE
from jointnas.execution.executor import HANG_SECONDS
from tests.faults.commands import (
    COMMANDS,
    DEADLINE,
    Command,
    network_search,
    toy_search,
    until,
    wait_for_end,
    write_toy,
)

WRITE_POINTS = str(Path(__file__).parent / "write_points")
JUMPING_CLOCK = str(Path(__file__).parent / "jumping_clock")

Fault = Callable[[Path, random.Random], None]
"""Happens to a command in a new folder; the generator draws the moment."""


class CannotHappen(Exception):
    """This system does not let the fault happen; the text says why."""


# ----------------------------------------------------------------------------------------------------------------- kills


def kill(kind: str, target: str, duration: float, folder: Path, rng: random.Random) -> None:
    """`kill -9` at a random moment of a command: of the command, of one of its workers, or of all its processes at once."""
    command = COMMANDS[kind](folder)
    process = command.start()
    if target == "worker":
        until(lambda: command.workers() or process.poll() is not None, seconds=60)
        time.sleep(rng.uniform(0, duration / 4))
        victims = command.workers()
        for pid in rng.sample(victims, min(1, len(victims))):
            _kill(pid)
        command.check(wait_for_end(process))
        if not victims:
            raise CannotHappen("the command had ended before its worker could be killed")
        return
    time.sleep(rng.uniform(0, duration))
    for pid in [process.pid] if target == "command" else command.running():
        _kill(pid)
    wait_for_end(process)
    command.check_processes()
    before = command.ended_trials()
    command.check(command.finish(), before)


def kill_at_write(kind: str, number: int, folder: Path, rng: random.Random) -> None:
    """`kill -9` of a command right before its write of this number."""
    command = COMMANDS[kind](folder)
    interrupted = Command(
        folder, command.arguments, environment={"JOINTNAS_KILL_AT": str(number), "PYTHONPATH": WRITE_POINTS}
    )
    ended = interrupted.complete()
    assert ended.code == -signal.SIGKILL, f"the command has no write {number}"
    interrupted.check_processes()
    before = command.ended_trials()
    command.check(command.finish(), before)


def count_writes(kind: str, folder: Path) -> int:
    """Return how many writes a whole command does."""
    command, target = COMMANDS[kind](folder), folder / "writes"
    counted = Command(
        folder, command.arguments, environment={"JOINTNAS_WRITES": str(target), "PYTHONPATH": WRITE_POINTS}
    )
    counted.check(counted.complete())
    return int(target.read_text())


def interrupt(times: int, folder: Path, rng: random.Random) -> None:
    """Ctrl-C, once or twice."""
    command = toy_search(folder, environment={"TOY_SECONDS": "0.2"})
    process = command.start()
    command.wait_for_trials(process, 3)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
    ended = wait_for_end(process)
    assert ended.code in ((130,) if times == 1 else (130, -signal.SIGINT)), ended
    assert "Traceback" not in ended.err
    assert times > 1 or "--resume" in ended.sentence
    command.check_processes()
    before = command.ended_trials()
    assert len(before) >= 3
    command.check(command.finish(), before)


# ------------------------------------------------------------------------------------------------- disks and permissions


def full_disk(folder: Path, rng: random.Random) -> None:
    """The disk is full from one moment on."""
    with small_disk(folder) as disk:
        command = toy_search(disk, environment={"TOY_SECONDS": "0.2"})
        process = command.start()
        command.wait_for_trials(process, rng.randint(1, 4))
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        ended = wait_for_end(process)
        _check_sentence(ended, "make room")
        filler.unlink()
        before = command.ended_trials()
        command.check(command.finish(), before)


def full_disk_at_the_end(folder: Path, rng: random.Random) -> None:
    """The disk is full when the best network is kept."""
    with small_disk(folder, 512) as disk:
        command = network_search(disk, environment={"JOINTNAS_CACHE": str(folder / "cache")})
        ended = command.complete()
        if ended.code == 0:
            assert "were not kept" in ended.err, ended.err
        else:
            _check_sentence(ended, "room", "space")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        before = command.ended_trials()
        command.check(command.finish(), before)


def read_only_folder(folder: Path, rng: random.Random) -> None:
    """The run's folder cannot be written any more."""
    command = toy_search(folder, environment={"TOY_SECONDS": "0.2"})
    process = command.start()
    command.wait_for_trials(process, 3)
    with read_only([command.path]):
        ended = wait_for_end(process)
        _check_sentence(ended, "writable", "permission", "permitted", "room")
    before = command.ended_trials()
    command.check(command.finish(), before)


def removed_images(folder: Path, rng: random.Random) -> None:
    """The images and the cache of decoded images are deleted, and a worker has to be replaced."""
    images, cache = folder / "images", folder / "cache"
    _write_images(images)
    command = network_search(folder, environment={"JOINTNAS_CACHE": str(cache)})
    command.arguments = (*command.arguments, "--data", "images")
    process = command.start()
    command.wait_for_trials(process, 1)
    shutil.move(images, folder / "aside")
    shutil.rmtree(cache)
    for pid in command.workers():
        _kill(pid)
    ended = wait_for_end(process)
    _check_sentence(ended, "images")
    shutil.move(folder / "aside", images)
    before = command.ended_trials()
    command.check(command.finish(), before)


# ------------------------------------------------------------------------------------------------------------- databases


def locked_database(seconds: float, folder: Path, rng: random.Random) -> None:
    """Another program holds the database for some seconds."""
    command = toy_search(folder, environment={"TOY_SECONDS": "0.2"})
    process = command.start()
    command.wait_for_trials(process, rng.randint(1, 6))
    other = sqlite3.connect(command.path / DATABASE, isolation_level=None, timeout=10)
    other.execute("BEGIN EXCLUSIVE")
    time.sleep(seconds)
    other.execute("ROLLBACK")
    other.close()
    ended = wait_for_end(process)
    before = command.ended_trials()
    if ended.code:
        _check_sentence(ended, "end the program that holds it")
        ended = command.finish()
    command.check(ended, before)


def damaged_database(how: str, folder: Path, rng: random.Random) -> None:
    """The database is cut off, or a part of it overwritten: refused in a sentence; the restored one goes on."""
    command = toy_search(folder)
    process = command.start()
    command.wait_for_trials(process, 4)
    for pid in command.running():
        _kill(pid)
    wait_for_end(process)
    before = command.ended_trials()
    shutil.copytree(command.path, folder / "kept")
    for log in command.path.glob(f"{DATABASE}-*"):
        log.unlink()
    database = command.path / DATABASE
    content = bytearray(database.read_bytes())
    if how == "cut off":
        content = content[: rng.randrange(1, len(content))]
    else:
        start = rng.randrange(len(content) - 512)
        content[start : start + 512] = rng.randbytes(512)
    database.write_bytes(content)
    ended = command.complete(*command.goes_on)
    if ended.code:
        _check_sentence(ended)
    else:  # the damage is in an unused part
        command.check(ended, before)
    shutil.rmtree(command.path)
    shutil.move(folder / "kept", command.path)
    command.check(command.finish(), before)


def two_at_once(folder: Path, rng: random.Random) -> None:
    """Two searches are started on one run at the same instant."""
    command = toy_search(folder)
    both = [command.start() for _ in range(2)]
    ended = [wait_for_end(process) for process in both]
    assert sorted(e.code for e in ended) == [0, 1], ended
    _check_sentence(next(e for e in ended if e.code == 1), "exists", "in use")
    command.check(next(e for e in ended if e.code == 0))


# ----------------------------------------------------------------------------------------------------------------- files


def damaged_weights(folder: Path, rng: random.Random) -> None:
    """The weights of a kept network are cut off."""
    command = network_search(folder)
    command.check(command.complete())
    weights = next((command.path / "best").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[: rng.randrange(1, weights.stat().st_size)])
    _write_images(folder / "images")
    photo = next((folder / "images").rglob("*.png"))
    ended = Command(folder, ("predict", "run", str(photo))).complete()
    _check_sentence(ended, weights.name)


def damaged_cache(folder: Path, rng: random.Random) -> None:
    """A file of decoded images is cut off: they are decoded again."""
    images, cache = folder / "images", folder / "cache"
    _write_images(images)
    environment = {"JOINTNAS_CACHE": str(cache)}
    train = ("train", "nash", "--data", "images", "--train-steps", "1", "--json")
    first = Command(folder, train, environment=environment).complete()
    assert first.code == 0, first.err
    victim = rng.choice(sorted((cache / "packs").glob("*/*")))
    victim.write_bytes(victim.read_bytes()[: rng.randrange(victim.stat().st_size)])
    again = Command(folder, train, environment=environment)
    ended = again.complete()
    assert ended.code == 0, ended.err
    again.check_clean()


# --------------------------------------------------------------------------------------------------------------- workers


def training_that(does: str, folder: Path, rng: random.Random) -> None:
    """A training calls `os._exit`, starts a process that never ends, or prints on stdout."""
    command = toy_search(folder, environment={"TOY_DOES": does})
    ended = command.complete()
    command.check(ended)
    failed = [t for t in command.ended_trials() if t.accuracy is None]
    assert len(failed) == (does == "exit"), failed


def stopped_worker(folder: Path, rng: random.Random) -> None:
    """A worker is stopped in the middle of a training: it fails as one that hangs, and the others go on."""
    command = network_search(folder)
    command.arguments = (*command.arguments, "--train-steps", "2000")
    process = command.start()
    until(lambda: len(command.workers()) == 2, seconds=60)
    time.sleep(rng.uniform(4, 8))
    os.kill(command.workers()[0], signal.SIGSTOP)
    command.check(wait_for_end(process, HANG_SECONDS + DEADLINE))
    assert any("hung" in str(t.observation and t.observation.failure) for t in command.ended_trials())


def sixteen_at_once(folder: Path, rng: random.Random) -> None:
    """Sixteen processes ask and tell in one storage at once."""
    write_toy(folder)
    script = (
        "import sys, toy; from jointnas import Search, Space\n"
        "s = Search(Space.load('toy.toml'), storage='toy.sqlite', seed=int(sys.argv[1]), pool_size=500)\n"
        "for _ in range(4):\n  b = s.ask(1)\n  s.tell(b, [toy.train(c, 0, None) for c in b])"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(n)], cwd=folder) for n in range(16)]
    assert [process.wait(DEADLINE) for process in processes] == [0] * 16
    with sqlite3.connect(folder / "toy.sqlite") as db:
        rows = db.execute("SELECT identity, observation IS NOT NULL FROM trials").fetchall()
    db.close()
    assert len(rows) == len({identity for identity, _ in rows}) == sum(ended for _, ended in rows) == 64


def jumping_clock(folder: Path, rng: random.Random) -> None:
    """The system's clock jumps by hours, forwards and backwards."""
    command = toy_search(folder, environment={"PYTHONPATH": JUMPING_CLOCK, "TOY_SECONDS": "0.1"})
    process = command.start()
    command.wait_for_trials(process, 4)
    os.killpg(process.pid, signal.SIGKILL)
    wait_for_end(process)
    before = command.ended_trials()
    command.check(command.finish(), before)


# -------------------------------------------------------------------------------------------------------------- the list


def faults() -> dict[str, tuple[Fault, int]]:
    """Return every fault but the kills by its name, with how often the benchmark tries it."""
    return {
        "Ctrl-C": (partial(interrupt, 1), 5),
        "Ctrl-C twice": (partial(interrupt, 2), 5),
        "the disk is full": (full_disk, 5),
        "the disk is full when the network is kept": (full_disk_at_the_end, 1),
        "the run's folder becomes read-only": (read_only_folder, 3),
        "images and cache are removed, a worker dies": (removed_images, 2),
        "the database is locked for 2 s": (partial(locked_database, 2.0), 3),
        "the database is locked for 40 s": (partial(locked_database, 40.0), 2),
        "the database is cut off": (partial(damaged_database, "cut off"), 5),
        "a part of the database is overwritten": (partial(damaged_database, "overwritten"), 5),
        "two searches on one run at once": (two_at_once, 5),
        "a file of weights is cut off": (damaged_weights, 3),
        "a file of the image cache is cut off": (damaged_cache, 4),
        "a training calls os._exit": (partial(training_that, "exit"), 2),
        "a training starts a process that never ends": (partial(training_that, "fork"), 2),
        "a training prints on stdout": (partial(training_that, "print"), 2),
        "a worker is stopped (SIGSTOP)": (stopped_worker, 2),
        "sixteen processes on one storage": (sixteen_at_once, 2),
        "the system's clock jumps": (jumping_clock, 3),
    }


@contextmanager
def read_only(paths: Sequence[Path]) -> Iterator[None]:
    """Let files and folders be read-only: by their modes, and for root, who heeds none, by the file system's flag."""
    if os.geteuid() != 0:
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)
    elif (
        not shutil.which("chattr")
        or subprocess.run(["chattr", "+i", *paths], capture_output=True, check=False).returncode
    ):
        raise CannotHappen("this file system has no flag for read-only files")
    try:
        yield
    finally:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", *paths], check=True)
        else:
            for path in paths:
                path.chmod(0o755 if path.is_dir() else 0o644)


@contextmanager
def small_disk(folder: Path, kilobytes: int = 2048) -> Iterator[Path]:
    """A disk of its own in the folder. Raises `CannotHappen` where this process may not mount one."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        raise CannotHappen("this user may not mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def _check_sentence(ended: object, *parts: str) -> None:
    """Raise `AssertionError` unless a command ended with exit 1 and one sentence that holds one of the parts."""
    code, text, sentence = ended.code, ended.err, ended.sentence  # type: ignore[attr-defined]
    assert code == 1, f"exit {code}: {text[-2000:]}"
    assert "Traceback" not in text, text[-2000:]
    assert sentence.startswith("jointnas: "), sentence
    assert not parts or any(part in sentence.lower() for part in parts), sentence


def _write_images(folder: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("circles", "squares"):
        (folder / name).mkdir(parents=True)
        for i in range(250):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / name / f"{i}.png")


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
