"""Faults that happen to running commands, and how many of them the commands survive.

    python -m benchmarks.faults --to benchmarks/results/faults.json

Each try starts a fast command in a new folder and lets one real fault happen to it: `kill -9` at random moments and before each kind of
write, a full disk, a locked or damaged database, a hanging or forking training … It has survived when the command, or its continuation
after a clear refusal, does all that it should: every trial is there once, those that had ended are unchanged, no process and no
temporary file is left. The faults are in `tests/faults/faults.py`.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, write
from tests.faults.commands import COMMANDS
from tests.faults.faults import CannotHappen, Fault, count_writes, faults, kill, kill_at_write

KILLS = {
    "search": (30, 20, 20),
    "search of networks": (6, 6, 6),
    "nash": (6, 6, 6),
    "policy search": (6, 6, 6),
    "retrain": (4, 4, 4),
}
TARGETS = ("command", "worker", "all processes")
WRITES = {"search": 60, "search of networks": 12, "nash": 8}
"""How often each command is killed: at random moments, by target; and right before a write."""


def attempt(fault: Fault, seed: int) -> str:
    """Return what one try of a fault ended with: survived, the problem, or why it cannot happen here."""
    with tempfile.TemporaryDirectory(prefix="fault-") as folder:
        try:
            fault(Path(folder), random.Random(seed))
        except CannotHappen as reason:
            return f"cannot happen here: {reason}"
        except Exception as problem:  # whatever goes wrong is a fault that was not survived
            return f"{type(problem).__name__}: {problem}"
    return "survived"


def kills(chosen: list[str], share: float) -> list[tuple[str, Fault]]:
    """Return a share of the kills of the chosen commands, each at its own moment."""
    found: list[tuple[str, Fault]] = []
    for kind in chosen:
        with tempfile.TemporaryDirectory(prefix="fault-") as folder:
            command, start = COMMANDS[kind](Path(folder)), time.monotonic()
            command.check(command.complete())
            duration = time.monotonic() - start
        if kind == "retrain":  # the search before it is not what is killed
            duration /= 2
        for target, times in zip(TARGETS, KILLS[kind], strict=True):
            found += [(f"kill -9: {kind}, {target}", partial(kill, kind, target, duration))] * ceil(share * times)
        if kind in WRITES:
            with tempfile.TemporaryDirectory(prefix="fault-") as folder:
                writes = count_writes(kind, Path(folder))
            numbers = random.Random(0).sample(range(1, writes + 1), min(writes, ceil(share * WRITES[kind])))
            found += [
                (f"kill -9: {kind}, before a write (of {writes})", partial(kill_at_write, kind, n)) for n in numbers
            ]
    return found


def main() -> None:
    """Try them all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="parts of the names of faults, or of commands that are killed")
    parser.add_argument("--workers", type=int, default=2, help="commands side by side")
    parser.add_argument("--share", type=float, default=1.0, help="of the 216 kills")
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    wanted = lambda name: not options.only or any(part in name for part in options.only)  # noqa: E731
    tries = kills([kind for kind in KILLS if wanted(f"kill -9: {kind}")], options.share)
    tries += [(name, fault) for name, (fault, times) in faults().items() if wanted(name) for _ in range(times)]
    ends: dict[str, list[str]] = defaultdict(list)
    with ThreadPoolExecutor(options.workers) as threads:
        running = [(name, threads.submit(attempt, fault, seed)) for seed, (name, fault) in enumerate(tries)]
        for name, end in running:
            ends[name].append(end.result())
            if ends[name][-1] != "survived":
                print(f"{name}, try {len(ends[name])}: {ends[name][-1]}", flush=True)
    rows: list[dict[str, Any]] = [
        {
            "fault": name,
            "tried": sum(not end.startswith("cannot") for end in own),
            "survived": own.count("survived"),
            "problems": sorted({end for end in own if end != "survived"}),
        }
        for name, own in ends.items()
    ]
    for row in rows:
        print(f"{row['fault']:<64}{row['survived']:>4} of {row['tried']}")
    write({"machine": machine(), "faults": rows}, options.to)


if __name__ == "__main__":
    main()
