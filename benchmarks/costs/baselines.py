"""The baselines by efficiency: whether their order holds in a second measurement, and what the Pareto front of two metrics says instead.

    jointnas rank baselines resnet9-1m --measure latency --repeats 10 --save a-32.csv
    jointnas rank baselines resnet9-1m --measure latency --repeats 10 --input-shape 3x224x224 --save a-224.csv
    ...an hour later the same, to b-32.csv and b-224.csv
    python -m benchmarks.costs.baselines --first a-32.csv a-224.csv --second b-32.csv b-224.csv --runs runs/minute runs/longer \
        --to benchmarks/results/baselines.json

`--runs` are runs of `jointnas baselines` with the accuracies; a model of several has that of the last one. Only the latencies are measured
twice. `latency` is that at 32 pixels, `latency_224` that at 224. The metrics of the
first measurement, with the accuracies, are written beside the JSON as a table for `jointnas rank`. Returns are variable, so that a model is
compared with mixtures of others.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

from benchmarks.measure import machine, write
from jointnas.campaign.baselines import ARCHITECTURES
from jointnas.efficiency.measured import write_table
from jointnas.efficiency.models import Model, joined, read_run, read_table
from jointnas.efficiency.ranking import Ranking, rank
from jointnas.search.reference import non_dominated

COSTS, GAINS = ("latency", "latency_224", "size"), ("accuracy", "train_images_per_second")


def together(small: Path, large: Path, runs: Sequence[Path]) -> list[Model]:
    """Return the models that have an accuracy, with their latencies at both sizes and their costs at the small one."""
    speeds = [
        Model(model.name, {name: model.metrics["latency"]})
        for name, table in (("latency", small), ("latency_224", large))
        for model in read_table(table)
    ]
    trained = {model.name: model for run in runs for model in read_run(run)}
    models = joined([*trained.values(), *speeds])
    return [model for model in models if {*COSTS, *GAINS} <= set(model.metrics)]


def ranked(models: Sequence[Model], seed: int) -> Ranking:
    """Return the ranking by all metrics, resampled by a seed."""
    return rank(models, COSTS, GAINS, returns="variable", seed=seed)


def on_front(models: Sequence[Model], cost: str) -> list[str]:
    """Return the models that no other beats in accuracy at this cost or less, by their means."""
    costs, gains = (np.array([[m.metrics[name].mean] for m in models]) for name in (cost, GAINS[0]))
    return [models[i].name for i in non_dominated(costs, gains)]


def agreement(first: Ranking, second: Ranking) -> dict[str, Any]:
    """Return how far two rankings of the same models agree: their orders, mean efficiencies and latencies."""
    one, other = (
        {r.models[i].name: (place, r.stochastic.mean[i] if r.stochastic else 0.0) for place, i in enumerate(r.order)}
        for r in (first, second)
    )
    pairs = np.array([(*one[name], *other[name]) for name in one])
    ratios = np.array(
        [
            [b.metrics[cost].mean / a.metrics[cost].mean for cost in COSTS[:2]]
            for a, b in zip(first.models, second.models, strict=True)
        ]
    )
    return {
        "latency_ratio": {
            "least": float(ratios.min()),
            "median": float(np.median(ratios)),
            "largest": float(ratios.max()),
        },
        "spearman": float(spearmanr(pairs[:, 0], pairs[:, 2]).statistic),
        "kendall": float(kendalltau(pairs[:, 0], pairs[:, 2]).statistic),
        "largest_change_of_efficiency": float(np.abs(pairs[:, 1] - pairs[:, 3]).max()),
        "largest_change_of_rank": float(np.abs(pairs[:, 0] - pairs[:, 2]).max()),
    }


def rows_of(ranking: Ranking, fronts: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return a row for each model, the most efficient first."""
    rows = []
    for row in ranking.to_json()["models"]:
        model = next(m for m in ranking.models if m.name == row["model"])
        metrics = {name: {"mean": m.mean, "std": m.std, "repeats": len(m.values)} for name, m in model.metrics.items()}
        kept = {key: value for key, value in row.items() if key not in ("ranks", "super_efficiency", "slacks")}
        rows.append({**kept, "metrics": metrics, "fronts": [c for c, names in fronts.items() if model.name in names]})
    return rows


def main() -> None:
    """Rank and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=Path, nargs=2, required=True, metavar=("AT_32", "AT_224"))
    parser.add_argument("--second", type=Path, nargs=2, required=True, metavar=("AT_32", "AT_224"))
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    first, second = (together(*tables, options.runs) for tables in (options.first, options.second))
    write_table(first, options.to.with_suffix(".csv"))
    found: dict[str, Any] = {"machine": machine(), "costs": COSTS, "gains": GAINS}
    baselines = [model.name for model in first if model.name in ARCHITECTURES]
    for name, chosen in (("baselines", baselines), ("with ours", [model.name for model in first])):
        one, other = (
            ranked([m for m in models if m.name in chosen], seed) for seed, models in enumerate((first, second))
        )
        fronts = {cost: on_front(one.models, cost) for cost in ("macs", "latency", "size")}
        found[name] = {"again": agreement(one, other), "models": rows_of(one, fronts)}
    write(found, options.to)


if __name__ == "__main__":
    main()
