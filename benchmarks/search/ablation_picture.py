"""Draw what `ten_minutes.py --without-each` found: how much test accuracy each part of a recipe is worth.

python -m benchmarks.search.ablation_picture benchmarks/results/ablation.json --to docs/ablation.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    """Read the rows, the whole recipe first, and draw each one's difference to it with both deviations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    found = json.loads(options.results.read_text())
    whole, *rows = [row for row in found["rows"] if row["test_accuracy"]["mean"] is not None]
    rows.sort(key=lambda row: -row["test_accuracy"]["mean"])
    base, spread = whole["test_accuracy"]["mean"], whole["test_accuracy"]["std"] or 0.0
    names = [row["recipe"].removeprefix(f"{whole['recipe']} ") for row in rows]
    differences = [100 * (row["test_accuracy"]["mean"] - base) for row in rows]
    deviations = [100 * ((row["test_accuracy"]["std"] or 0.0) ** 2 + spread**2) ** 0.5 for row in rows]
    figure, axes = plt.subplots(figsize=(8, 0.32 * len(rows) + 1.2), layout="constrained")
    colours = ["tab:red" if d < 0 else "tab:green" for d in differences]
    axes.barh(names, differences, xerr=deviations, color=colours, alpha=0.75, ecolor="0.3", capsize=2)
    axes.axvline(0, color="0.2", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel("difference in test accuracy, percentage points")
    seeds = whole["seeds"]
    axes.set_title(
        f"{whole['recipe']}: {100 * base:.1f} ± {100 * spread:.1f} % in {found['train_time']}, {seeds} seeds",
        fontsize=10,
    )
    axes.grid(axis="x", alpha=0.3)
    options.to.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.to, dpi=130)


if __name__ == "__main__":
    main()
