"""Hostile input: how much of what strangers may send is read, or refused in one clear sentence, and what is not.

    python -m benchmarks.fuzz --inputs 200000 --to benchmarks/results/fuzz.json

Damaged and hostile texts, files and images are read as the commands read them (`tests/fuzz/targets.py`). Any other error than one sentence,
more than 20 seconds or 6 GB, anything that is executed, and any write outside the input's folder is a problem.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, write
from jointnas.cores import available_cores
from tests.fuzz.runs import Outcome, Watch, limit_memory, run
from tests.fuzz.targets import Read, Seeds, make_seeds, targets

CHUNK = 200  # inputs that a process reads before the next target

_targets: dict[str, tuple[Read, int]] = {}
_watch: list[Watch] = []


def prepare(folder: str) -> None:
    """Set up a process: its targets, its watch and its limit of memory."""
    _targets.update(targets(Seeds(Path(folder))))
    for name in ("constraint", "predictor", "trained network", "image", "run database"):
        run(_targets[name][0], range(3), Watch())  # imports what is imported late
    _watch.append(Watch())
    limit_memory()


def read_chunk(name: str, first: int, count: int) -> Outcome:
    """Read so many inputs of a target, from a seed on."""
    return run(_targets[name][0], range(first, first + count), _watch[0])


def main() -> None:
    """Read them all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        chosen = {n: share for n, (_, share) in targets(make_seeds(Path(folder))).items() if n in (options.only or [n])}
        each = options.inputs / sum(chosen.values())
        chunks = [
            (name, options.first_seed + start, min(CHUNK, round(each * share) - start))
            for name, share in chosen.items()
            for start in range(0, round(each * share), CHUNK)
        ]
        found = {name: Outcome() for name in chosen}
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.workers, context, prepare, (folder,)) as pool:
            for (name, *_), part in zip(chunks, pool.map(read_chunk, *zip(*chunks, strict=True)), strict=True):
                own = found[name]
                own.read, own.refused = own.read + part.read, own.refused + part.refused
                own.problems += part.problems
                for problem in part.problems[:3]:
                    print(f"{name}, {problem}", flush=True)
    total = Counter[str]()
    rows: dict[str, dict[str, Any]] = {}
    for name, own in found.items():
        rows[name] = {**asdict(own), "problems": own.problems[:20], "problem_count": len(own.problems)}
        total.update(read=own.read, refused=own.refused, problems=len(own.problems))
        print(f"{name:<20}{own.read:>8} read{own.refused:>8} refused{len(own.problems):>6} problems")
    print(
        f"{total.total():,} inputs: {total['read']:,} read, {total['refused']:,} refused, {total['problems']:,} problems"
    )
    write({"machine": machine(), "inputs": total.total(), "targets": rows}, options.to)


if __name__ == "__main__":
    main()
