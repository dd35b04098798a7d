"""Which built-in recipes a search should start from: chosen greedily on the trainings of recipes in the tables.

    python -m benchmarks.search.portfolio --to benchmarks/results/portfolio.json

The tables hold every built-in recipe, made for a bound and a budget as a search makes it (`benchmarks.tables.make --drawn recipe`). A case is
one data set, bound and budget. The loss of some recipes in a case is what the best of them is below the best of all recipes there, in
accuracy on the validation images. Each step adds the recipe that lowers the mean loss most: cases of a data set are averaged first. `alone`
is the mean loss of one recipe over the cases that it was trained in.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.measure import machine, write
from benchmarks.search.pretrain import TABLES
from benchmarks.tables.plan import RECIPE
from benchmarks.tables.table import Table

Case = tuple[str, str, float]
"""Table, bound and seconds of a budget."""


def recipe_accuracies(folder: Path) -> dict[Case, dict[str, float]]:
    """Return the accuracy of each recipe in each case, 0 where its training failed."""
    found: dict[Case, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("*.csv")):
        for row in Table.read(path).rows:
            if row.drawn.startswith(f"{RECIPE} ") and row.observation is not None:
                case = path.stem, row.bound, row.budget_seconds
                found[case][row.drawn.removeprefix(f"{RECIPE} ")].append(row.observation.accuracy or 0.0)
    return {case: {name: fmean(own) for name, own in recipes.items()} for case, recipes in found.items()}


def mean_loss(cases: Mapping[Case, Mapping[str, float]], chosen: Sequence[str]) -> float:
    """Return how far the best of the chosen recipes is below the best of all, the mean over data sets."""
    losses: dict[str, list[float]] = defaultdict(list)
    for (table, _, _), own in cases.items():
        losses[table].append(max(own.values()) - max((own[name] for name in chosen if name in own), default=0.0))
    return fmean(fmean(own) for own in losses.values())


def greedy(cases: Mapping[Case, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return the recipes in the order in which they are chosen, each with the mean loss of all up to it."""
    names = sorted({name for own in cases.values() for name in own})
    chosen: list[str] = []
    steps = []
    while len(chosen) < len(names):
        loss, name = min((mean_loss(cases, [*chosen, name]), name) for name in names if name not in chosen)
        chosen.append(name)
        own = {case: recipes for case, recipes in cases.items() if name in recipes}
        steps.append({"recipe": name, "mean_loss": round(loss, 4), "alone": round(mean_loss(own, [name]), 4)})
    return steps


def main() -> None:
    """Choose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=TABLES)
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    cases = recipe_accuracies(options.tables)
    for case, own in cases.items():
        print(*case, {name: round(a, 3) for name, a in sorted(own.items(), key=lambda one: -one[1])})
    listed = [
        {"table": table, "bound": bound, "seconds": seconds, "accuracies": {n: round(a, 4) for n, a in own.items()}}
        for (table, bound, seconds), own in cases.items()
    ]
    write({"machine": machine(), "chosen": greedy(cases), "cases": listed}, options.to)


if __name__ == "__main__":
    main()
