"""Trains a surrogate's winners for real, to check the results of `benchmarks/search/search.py` against real trainings.

    python -m benchmarks.search.search_winners benchmarks/results/search.json --data cifar10-images.zip --workers 2

The candidates that looked best to each optimiser at its end, of the first `--seeds` seeds, trained as the table's rows were and with seeds
that no row had; one that fails counts as 0. May be stopped at any time: the same command trains what has no result yet.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.tables.make import train
from benchmarks.tables.table import TABLE, TABLES, Row, Table

FIRST_SEED = 1_000_000  # above those of the table's rows
WINNERS = TABLES / "winners.csv"


def planned(runs: list[dict[str, Any]], table: Table, to: Path) -> Table:
    """Return a table whose rows are the winners, in the order of the runs."""
    space, budget = table.rows[0].space, table.budget_seconds
    rows = [Row(space, run["bound"], budget, "search", run["winner"], FIRST_SEED + i) for i, run in enumerate(runs)]
    return Table(to, table.card, rows)


def main() -> None:
    """Train the winners and set what they reach beside what the surrogate said."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--to", type=Path, default=WINNERS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    runs = json.loads(options.results.read_text())["runs"]
    runs = sorted(
        (r for r in runs if r["seed"] < options.seeds and r["winner"]), key=lambda r: (r["bound"], r["arm"], r["seed"])
    )
    winners = planned(runs, Table.read(options.table).commonest(), options.to)
    if options.to.exists():
        kept = Table.read(options.to)
        if [(row.candidate, row.seed) for row in kept.rows] != [(row.candidate, row.seed) for row in winners.rows]:
            raise SystemExit(
                f"trainings go on for the winners that they began with, got others in {options.to}: remove it"
            )
        winners = kept
    winners = train(winners, options.data, options.workers)
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for run, row in zip(runs, winners.rows, strict=True):
        found[run["bound"], run["arm"]].append((run["best"][-1], row.accuracy or 0.0))
    for (bound, arm), pairs in found.items():
        said, reached = zip(*pairs, strict=True)
        spread = f" ± {stdev(reached):.3f}" if len(reached) > 1 else ""
        print(
            f"{bound}  {arm:22}  surrogate {fmean(said):.3f}  trained {fmean(reached):.3f}{spread}  ({len(pairs)} winners)"
        )


if __name__ == "__main__":
    main()
