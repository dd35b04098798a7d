"""What the early stop saves and what it loses, on the learning curves of the table of real trainings.

    python -m benchmarks.training.early_stop --to benchmarks/results/early_stop.json

Each split draws so many trainings, lets the rule choose the part of the budget that ranks them as their ends do, and trains all others for
that part alone. Saved is the share of the others' budget. Lost is what the best of a hundred of them by their early accuracy has less at
its end than the best by their ends. Beside it the rule as it is in the paper, of one value of τ and no bootstrap. Curves
are read on as many validation images as the table's card says, ends on all.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from benchmarks.measure import machine, write
from benchmarks.tables.table import TABLE, Table
from jointnas.campaign.early_stop import accuracy_at, stop_fraction
from jointnas.training.observation import CURVE_FRACTIONS, Observation

SIZES, THRESHOLDS = (16, 32, 64), (0.92, 0.8, 0.7)
ASKED = 100  # others, of which the best is taken


def in_the_paper(observations: list[Observation], threshold: float) -> float:
    """Return the least fraction at which τ itself reaches the threshold."""
    final = [o.accuracy for o in observations]
    for fraction in CURVE_FRACTIONS:
        if kendalltau([accuracy_at(o, fraction) for o in observations], final).statistic >= threshold:
            return fraction
    return 1.0


def compared(trainings: list[Observation], n: int, threshold: float, splits: int) -> dict[str, Any]:
    """Return what both rules save and lose, over the splits."""
    found: dict[str, list[tuple[float, float]]] = {"bootstrap": [], "paper": []}
    for split in range(splits):
        order = np.random.default_rng([split, n]).permutation(len(trainings))
        known, asked = ([trainings[i] for i in rows] for rows in (order[:n], order[n : n + ASKED]))
        final = np.array([o.accuracy for o in asked], dtype=np.float64)
        for name, fraction in (
            ("bootstrap", stop_fraction(known, threshold, split)),
            ("paper", in_the_paper(known, threshold)),
        ):
            early = np.array([accuracy_at(o, fraction) for o in asked], dtype=np.float64)
            found[name].append((1 - fraction, float(final.max() - final[early.argmax()])))
    return {
        name: {
            "saved": round(float(np.mean([saved for saved, _ in rows])), 3),
            "stopped": round(float(np.mean([saved > 0 for saved, _ in rows])), 3),
            "lost": round(float(np.mean([lost for _, lost in rows])), 4),
        }
        for name, rows in found.items()
    }


def main() -> None:
    """Compare both rules at each size and threshold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--splits", type=int, default=40)
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    table = Table.read(options.table).commonest()
    ended = [rows[0].observation for _, rows in table.trained() if rows[0].observation]
    trainings = [o for o in ended if all(accuracy_at(o, f) is not None for f in (*CURVE_FRACTIONS, 1.0))]
    final = [o.accuracy for o in trainings]
    ranks = {
        f"{f:g}": round(float(kendalltau([accuracy_at(o, f) for o in trainings], final).statistic), 3)
        for f in CURVE_FRACTIONS
    }
    results = {
        f"{n} trainings, {threshold:g}": compared(trainings, n, threshold, options.splits)
        for n in SIZES
        for threshold in THRESHOLDS
    }
    write({"machine": machine(), "trainings": len(trainings), "tau_with_the_end": ranks, "rules": results}, options.to)


if __name__ == "__main__":
    main()
