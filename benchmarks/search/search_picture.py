"""Draw what `benchmarks/search/search.py` found: the best accuracy after each training, medians and quartiles over the seeds.

python -m benchmarks.search.search_picture benchmarks/results/search.json benchmarks/results/search_unbounded.json --to docs/search.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

FROM = 4  # trainings: before them there is only luck
COLUMNS = 3
OURS = ("jointnas", "jointnas, no prior")
OTHERS = plt.colormaps["tab10"]


def draw(axes: Axes, runs: list[dict[str, Any]], arms: list[str]) -> None:
    """Draw one objective under one bound."""
    for i, arm in enumerate(arms):
        curves = np.array([one["best"] for one in runs if one["arm"] == arm])
        if not len(curves):
            continue
        low, middle, high = np.quantile(curves, [0.25, 0.5, 0.75], axis=0)
        trainings = np.arange(1, curves.shape[1] + 1)
        mine = arm in OURS
        colour = "black" if mine else OTHERS(i % 10)
        style = {
            "color": colour,
            "lw": 2.2 if mine else 1.2,
            "ls": "--" if arm == OURS[1] else "-",
            "zorder": 3 if mine else 2,
        }
        axes.plot(trainings, middle, label=arm, **style)
        axes.fill_between(trainings, low, high, color=colour, alpha=0.12, lw=0)
    axes.set(xscale="log", xlabel="trainings", xlim=(FROM, None))
    ticks = [n for n in (4, 8, 16, 32, 64, 128, 256) if n <= len(runs[0]["best"])]
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    reached = [value for one in runs for value in one["best"][2 * FROM :]]
    axes.set_ylim(float(np.quantile(reached, 0.05)), max(reached))


def main() -> None:
    """Read the results and write the picture, a panel for each file and bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    found = [json.loads(path.read_text()) for path in options.results]
    panels = [(one, bound) for one in found for bound in sorted({run["bound"] for run in one["runs"]}, reverse=True)]
    arms = list(dict.fromkeys(run["arm"] for one in found for run in one["runs"]))
    arms.sort(key=lambda arm: OURS.index(arm) if arm in OURS else len(OURS))
    plt.style.use("seaborn-v0_8-whitegrid")
    lines = -(-len(panels) // COLUMNS)
    figure, grid = plt.subplots(
        lines, COLUMNS, figsize=(5.3 * COLUMNS, 4.2 * lines + 0.8), layout="constrained", squeeze=False
    )
    every = grid.flatten()[: len(panels)]
    for axes, (one, bound) in zip(every, panels, strict=True):
        draw(axes, [run for run in one["runs"] if run["bound"] == bound], arms)
        what = "surrogate" if "cross-validated" in one["objective"] else "the table's rows"
        axes.set_title(f"{what} ({one['objective']['rows']} trainings), {bound.replace('none', 'no bound')}")
    for axes in grid.flatten()[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy of what looked best so far")
    handles = {label: line for axes in every for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.suptitle(
        "medians and quartiles over the seeds; off the axis: nothing within the bound yet, or worse", fontsize=10
    )
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(options.to, dpi=130)


if __name__ == "__main__":
    main()
