"""How well predictors rank candidates they have not seen, by how many trainings they were fitted to, on the table of real trainings.

    python -m benchmarks.search.predictor --splits 20 --workers 2 --to benchmarks/results/predictor.json

Ours starts from the predictor of an earlier campaign on other data (`--prior`, the digits), and is also shown without it; a random
forest with that predictor's predictions as inputs, for the steps of its own budget, is among the peers. Each split draws the candidates to
fit to and ranks all the others: Kendall's τ, Spearman's ρ and how many of the true ten best are among the predicted ten best. What is
compared stands in `rankers.py`. The ceiling is what a predictor would reach that knew every candidate's true mean: the noise that
repeated trainings show, drawn anew on the accuracies shrunk by as much. Differences are paired over the splits, with 95 % intervals:
of splits of this one table, not of other tables.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr, t

from benchmarks.measure import machine, write
from benchmarks.search.rankers import Arm, Array, Examples, all_arms
from benchmarks.tables.table import TABLE, Table
from jointnas.predictor.contract import Predictor

SIZES = (16, 32, 64, 128, 256)
TOP = 10
KEYS = ("tau", "rho", "top10")


def scores(predicted: Array, true: Array) -> tuple[float, float, float]:
    """Return Kendall's τ, Spearman's ρ, and the share of the true best among the predicted best."""
    best = set(np.argsort(-predicted)[:TOP]) & set(np.argsort(-true)[:TOP])
    return float(kendalltau(predicted, true).statistic), float(spearmanr(predicted, true).statistic), len(best) / TOP


def ceiling(accuracies: Array, deviation: float, draws: int = 20) -> tuple[float, float, float]:
    """Return the scores of a predictor that knows the true means."""
    kept = np.sqrt(max(0.0, 1 - deviation**2 / accuracies.var()))
    true = accuracies.mean() + kept * (accuracies - accuracies.mean())
    rng = np.random.default_rng(0)
    found = [scores(true, true + deviation * rng.standard_normal(len(true))) for _ in range(draws)]
    return tuple(np.mean(found, axis=0))  # type: ignore[return-value]


def paired(ours: Array, theirs: Array) -> dict[str, float]:
    """Return the mean difference over the splits with its 95 % interval."""
    differences = ours - theirs
    half = t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
    mean = differences.mean()
    return {"mean": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


EXAMPLES: Examples
ARMS: dict[str, Arm]


def begin(table: Path, prior: Path) -> None:
    """Read the table and the prior that the splits of this process are made with."""
    global EXAMPLES, ARMS
    torch.set_num_threads(1)
    EXAMPLES = Examples(Table.read(table).commonest())
    ARMS = all_arms(EXAMPLES, Predictor.load(prior))


def run(job: tuple[int, int], names: Sequence[str]) -> dict[str, Any]:
    """Return what every predictor scores on one split, fitted to n candidates and asked about all others."""
    n, split = job
    order = np.random.default_rng([split, n]).permutation(len(EXAMPLES.accuracies))
    known, asked = order[:n], order[n:]
    found, seconds = {}, {}
    for name in names:
        began = time.process_time()
        predicted = ARMS[name](EXAMPLES, known, asked, split)
        seconds[name] = time.process_time() - began
        found[name] = scores(predicted, EXAMPLES.accuracies[asked])
    return {"n": n, "split": split, "scores": found, "seconds": seconds}


def summary(runs: list[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Return means and deviations of all scores, what ours is above the others, and seconds, by size and predictor."""
    out: dict[str, Any] = {"scores": {}, "ours_minus": {}, "no_prior_minus": {}, "processor_seconds": {}}
    for n in sorted({one["n"] for one in runs}):
        own = sorted((one for one in runs if one["n"] == n), key=lambda one: one["split"])
        found = {name: np.array([one["scores"][name] for one in own]) for name in names}  # (splits, 3)
        out["scores"][str(n)] = {
            name: {
                key: {"mean": round(column.mean(), 4), "sd": round(column.std(ddof=1), 4)}
                for key, column in zip(KEYS, rows.T, strict=True)
            }
            for name, rows in found.items()
        }
        for key, mine in (("ours_minus", "ours"), ("no_prior_minus", "ours, no prior")):
            if mine in found:
                others = {name: rows for name, rows in found.items() if name != mine}
                out[key][str(n)] = {name: paired(found[mine][:, 0], rows[:, 0]) for name, rows in others.items()}
        out["processor_seconds"][str(n)] = {
            name: round(float(np.median([one["seconds"][name] for one in own])), 3) for name in names
        }
    return out


def main() -> None:
    """Fit every predictor to every split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--prior", type=Path, default=Path(__file__).parents[2] / "predictors" / "resnet9-digits")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--arms", nargs="+")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    begin(options.table, options.prior)
    names = options.arms or list(ARMS)
    jobs = [(n, split) for n in options.sizes for split in range(options.splits)]
    runs = []
    with multiprocessing.get_context("spawn").Pool(options.workers, begin, (options.table, options.prior)) as workers:
        for one in workers.imap_unordered(partial(run, names=names), jobs):
            runs.append(one)
            print(
                one["n"], one["split"], {name: round(found[0], 3) for name, found in one["scores"].items()}, flush=True
            )
    deviation = EXAMPLES.noise
    write(
        {
            "machine": machine(),
            "candidates": len(EXAMPLES.accuracies),
            "splits": options.splits,
            "noise": round(deviation, 4),
            "ceiling": dict(zip(KEYS, ceiling(EXAMPLES.accuracies, deviation), strict=True)),
            **summary(runs, names),
        },
        options.to,
    )


if __name__ == "__main__":
    main()
