"""Candidates by the hundred thousand: how long pools and their exact costs take, and how much memory.

    python -m benchmarks.search.pools --spaces fbnet resnet9 joint --to benchmarks/results/pools.json

For each space, each in a process of its own that has computed nothing before: a pool of 100,000 under a bound that half of the
space meets; 20,000 under one that one point in ten thousand meets; the refusal of one that nothing meets; the costs of
1,000,000 sampled candidates. Seconds, the process's peak memory, and, for scale, the same costs network by network.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import machine, write
from jointnas.errors import ConstraintError
from jointnas.network.cost import blueprint_cost
from jointnas.space.constraint import Constraint
from jointnas.space.sampling import draw_pool, feasible
from jointnas.space.space import Space

POOL, RARE_POOL, COSTS, ONE_BY_ONE = 100_000, 20_000, 1_000_000, 2_000
RARE = 1e-4


def load(name: str) -> Space:
    """Return the space bound to CIFAR's shape, with nothing computed of it."""
    return Space.load(name, input_shape=(3, 32, 32), classes=10)


def bound(name: str, share: float) -> Constraint:
    """Return the bound on MACs that this share of the space meets."""
    space = load(name)
    macs = space.costs(next(space.stream(1, chunk=65_536)))["macs"]
    return Constraint("macs", "<=", float(np.floor(np.quantile(macs, share))))


def half(name: str) -> dict[str, Any]:
    """Fill a pool of which every second point is a member."""
    return _filled(name, POOL, 0.5)


def rare(name: str) -> dict[str, Any]:
    """Fill a pool of which one point in ten thousand is a member."""
    return _filled(name, RARE_POOL, RARE)


def _filled(name: str, n: int, share: float) -> dict[str, Any]:
    constraint, space = bound(name, share), load(name)
    start = time.perf_counter()
    codes = draw_pool(space, n, [constraint], seed=0)
    seconds = time.perf_counter() - start
    assert bool(feasible(space, [constraint], codes).all())
    assert len(set(space.identities(codes))) == len(codes)
    return {"bound": str(constraint), "candidates": len(codes), "seconds": round(seconds, 2)}


def impossible(name: str) -> dict[str, Any]:
    """Ask for what no network of the space is."""
    space = load(name)
    start = time.perf_counter()
    try:
        draw_pool(space, POOL, [Constraint("macs", "<", 1.0)])
    except ConstraintError as error:
        return {"seconds": round(time.perf_counter() - start, 2), "message": str(error)}
    raise AssertionError("a network of less than one MAC")


def million(name: str) -> dict[str, Any]:
    """Cost a million candidates at once, and a few of them one by one."""
    space = load(name)
    start = time.perf_counter()
    chunks = itertools.islice(space.stream(0, chunk=65_536), -(-COSTS // 65_536))
    codes = np.concatenate(list(chunks))[:COSTS]
    sampled = time.perf_counter()
    space.costs(codes)
    seconds = time.perf_counter() - sampled
    candidates = space.to_candidates(codes[:ONE_BY_ONE])
    start_each = time.perf_counter()
    for candidate in candidates:
        blueprint_cost(space.blueprint(candidate))
    each = (time.perf_counter() - start_each) / ONE_BY_ONE
    return {
        "sampling_seconds": round(sampled - start, 2),
        "cost_seconds": round(seconds, 2),
        "network_by_network": round(each * COSTS / seconds, 1),
    }


ARMS: dict[str, Callable[[str], dict[str, Any]]] = {
    "half": half,
    "rare": rare,
    "impossible": impossible,
    "million": million,
}


def run(arm: str, name: str) -> dict[str, Any]:
    """Return what an arm found, with the process's peak memory."""
    found = ARMS[arm](name)
    return {**found, "peak_gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)}


def main() -> None:
    """Run every arm over every space, each in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="+", default=["fbnet", "resnet9", "joint"])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, help="others stay as the file has them")
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    known = options.to is not None and options.to.exists()
    found: dict[str, Any] = {
        "spaces": {},
        **(json.loads(options.to.read_text()) if known else {}),
        "machine": machine(),
    }
    for name in options.spaces:
        for arm in options.arms:
            with multiprocessing.get_context("spawn").Pool(1) as process:
                found["spaces"].setdefault(name, {})[arm] = process.apply(run, (arm, name))
    write(found, options.to)


if __name__ == "__main__":
    main()
