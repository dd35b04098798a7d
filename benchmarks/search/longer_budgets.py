"""How the predictor ranks trainings of longer budgets on data sets that are left out: built-in recipes and predicted candidates too.

    python -m benchmarks.search.longer_budgets tiny-twenty tiny-vehicles tiny-scenes cifar10-photos tiny-vehicles-64 tiny-scenes-64 \\
        --to benchmarks/results/longer_budgets.json

No group of 30 s or more has enough random candidates to be measured in `transfer`. These rows are the region in which a search chooses.
`tau` is that of the pretrained network among all rows of the space that most rows of a group have. Then a campaign trains `--known` of the rows
that are at most `NEAR` below the best one: Kendall's τ among the others of them, `before` and `after`, and how much of the differences between
its own trainings the predictor `kept`, a mean of `--splits`. Two trainings of one candidate differ too, so less than all of a difference is
real: `repeats` says by how much, as a share of the binomial variance on the validation images (`jointnas.predictor.task.SAMPLING_NOISE`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from benchmarks.measure import machine, write
from benchmarks.search.pooled import Part
from benchmarks.search.pretrain import Source, Training, corrected_networks, groups_of
from benchmarks.tables.table import Table
from jointnas.predictor.contract import Predictor
from jointnas.predictor.pretrained import Pretrained
from jointnas.predictor.task import Task
from jointnas.training.observation import Observation

FEWEST = 10  # candidates of a group, or that a campaign ranks
NEAR = 0.08  # of accuracy
TIMED = 24  # candidates whose steps are known before any training


def campaign(
    network: Pretrained, part: Part, val_images: int | None, known: int, split: int
) -> dict[str, float] | None:
    """Return what trainings of some of the best candidates change; None where too few others are left."""
    near = np.flatnonzero(part.accuracies >= part.accuracies.max() - NEAR)
    order = np.random.default_rng(split).permutation(near)
    trained, others = order[:known], order[known:]
    if len(others) < FEWEST:
        return None
    task = Task(part.budget.images, part.codes[order[-TIMED:]], part.steps[order[-TIMED:]], val_images)
    predictor = Predictor(part.space, split, kind="gp", prior=network, task=task)
    true = part.accuracies[others]
    before = kendalltau(predictor.scores(part.codes[others]), true).statistic
    observed = [
        Observation(part.accuracies[i], trainings=int(part.trainings[i]), steps=int(part.steps[i])) for i in trained
    ]
    predictor.fit_codes(part.codes[trained], observed)
    after = kendalltau(predictor.scores(part.codes[others]), true).statistic
    kept = np.polyfit(part.accuracies[trained], predictor.median_codes(part.codes[trained]), 1)[0]
    return {"before": float(before), "after": float(after), "kept": float(kept)}


def repeats(folder: Path, seconds: float) -> dict[str, float]:
    """Return the variance between trainings of one candidate, as a share of the binomial variance: its mean and median over candidates."""
    shares = []
    for path in sorted(folder.glob("*.csv")):
        table = Table.read(path)
        for rows in table.by_candidate():
            accuracies = np.array([row.accuracy for row in rows if row.accuracy is not None])
            if len(accuracies) > 1 and rows[0].budget_seconds >= seconds:
                mean = accuracies.mean()
                shares.append(accuracies.var(ddof=1) / (mean * (1 - mean) / table.card["val_images"]))
    return {"candidates": len(shares), "mean": float(np.mean(shares)), "median": float(np.median(shares))}


def main() -> None:
    """Fit without each table, and rank its rows of longer budgets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", metavar="NAME")
    parser.add_argument("--seconds", type=float, default=30.0, help="the shortest budget")
    parser.add_argument("--known", type=int, default=14, help="trainings of a campaign")
    parser.add_argument("--splits", type=int, default=12)
    parser.add_argument("--networks", type=Path, metavar="FOLDER", help="see `pretrain`")
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = Source(networks=options.networks)
    networks = corrected_networks(source, Training())
    answer: dict[str, Any] = {"machine": machine(), "known": options.known, "splits": options.splits, "groups": {}}
    answer["repeats"] = repeats(source.tables, options.seconds)
    for group in groups_of(source):
        part = max(group.parts, key=lambda own: len(own.codes))
        if group.table not in options.tables or group.seconds < options.seconds or len(part.codes) < FEWEST:
            continue
        network = networks[group.images]
        tau = kendalltau(network.scores(part.space, part.codes, part.budget), group.targets(part)).statistic
        found = {"candidates": len(part.codes), "tau": round(float(tau), 3)}
        splits = [campaign(network, part, group.val_images, options.known, split) for split in range(options.splits)]
        done = [split for split in splits if split is not None]
        if done:
            found |= {name: round(float(np.mean([split[name] for split in done])), 3) for name in done[0]}
        answer["groups"][group.name] = found
        print(group.name, found, flush=True)
    write(answer, options.to)


if __name__ == "__main__":
    main()
