"""How well priors rank candidates on data sets that they have not seen, before any training and after a few.

    python -m benchmarks.search.transfer --to benchmarks/results/transfer.json

Each data set is left out in turn, with all tables of its images; what is pretrained is fitted to the others. Each split of a left-out group
(a table under one budget, the space that most of its rows have) draws 16 random candidates that a campaign trains; all arms rank the other
random candidates: Kendall's τ, and τ among the best quarter where it has 8 candidates or more. Every arm knows the number of training
images and the steps of 24 candidates. The ceiling is what a predictor would reach that knew the mean of each candidate; beside it stands
how well the trainings of one seed rank those of another.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from benchmarks.measure import machine, write
from benchmarks.search.pooled import Group, Part
from benchmarks.search.predictor import ceiling
from benchmarks.search.pretrain import (
    TABLES,
    Source,
    Training,
    commonest,
    corrected_networks,
    groups_of,
    network_alone,
    without,
)
from benchmarks.search.teachers import Teacher, boosting, forest, levelled
from jointnas.campaign.registry import find_predictor
from jointnas.predictor.contract import Predictor
from jointnas.predictor.pretrained import Pretrained
from jointnas.predictor.prior import Budget, Prior
from jointnas.predictor.steps import StepsModel
from jointnas.predictor.task import Task
from jointnas.training.observation import Observation

KNOWN, TIMED = 16, 24
FEWEST_ASKED, FEWEST_BEST = 8, 8
CAMPAIGNS = {
    "digits": "resnet9-digits",
    "cifar10": "resnet9-cifar10",
}  # the tables that built-in predictors were fitted to
Array = NDArray[np.float64]
Score = Callable[[Part, Task], Array]
"""The (n,) scores of a part's candidates before any training."""


@dataclass(frozen=True)
class Left:
    """One group of a data set that was left out, and what was fitted to the others."""

    group: Group
    part: Part
    pretrained: Pretrained
    pooled: dict[str, Score]
    campaigns: dict[str, Predictor]


def estimated(part: Part, task: Task) -> Budget:
    """Return the budget of a part's candidates, with the steps that are estimated from the timed ones."""
    model = StepsModel.fit(part.space, part.codes[:0], [], 0, task)
    return replace(part.budget, log_steps=np.log(model.steps(part.codes)))


def before_training(teacher: Teacher) -> Score:
    """Return what a model of the pooled rows scores before any training of a part's data set."""
    return lambda part, task: teacher(part.space, part.codes, estimated(part, task))


def left_out(source: Source, training: Training) -> Iterator[Left]:
    """Yield each group of each data set with what is fitted to the other data sets."""
    groups = groups_of(source)
    built_in = {table: Predictor.load(find_predictor(name)[0]) for table, name in CAMPAIGNS.items()}
    by_images = {images: [g for g in groups if g.images == images] for images in sorted({g.images for g in groups})}
    networks = corrected_networks(source, training)
    for images, own in by_images.items():
        parts = [(group, commonest(group)) for group in own]
        asked = [(group, part) for group, part in parts if part.drawn_at_random.sum() >= KNOWN + FEWEST_ASKED]
        if not asked:
            continue
        levels, pretrained = levelled(without(groups, [own[0].table])), networks[images]
        pooled_models = {
            "pooled forest": before_training(forest(levels)),
            "pooled boosting": before_training(boosting(levels)),
            "network alone": before_training(network_alone(levels, training).scores),
            "pretrained": before_training(pretrained.scores),
        }
        tables = {group.table for group in own}
        campaigns = {CAMPAIGNS[table]: predictor for table, predictor in built_in.items() if table not in tables}
        for group, part in asked:
            yield Left(group, part, pretrained, pooled_models, campaigns)


def run(left: Left, split: int) -> dict[str, tuple[float, float]]:
    """Return τ and τ among the best quarter of every arm on one split."""
    part = left.part
    random = np.random.default_rng([split, part.codes.shape[0]]).permutation(np.flatnonzero(part.drawn_at_random))
    known, asked = random[:KNOWN], random[KNOWN:]
    timed, val_images = random[-TIMED:], left.group.val_images
    task = Task(part.budget.images, part.codes[timed], part.steps[timed], val_images)
    observed = [
        Observation(part.accuracies[i], trainings=int(part.trainings[i]), steps=int(part.steps[i])) for i in known
    ]

    def campaign(kind: str, prior: Prior | Predictor | None, fitted: bool) -> Array:
        predictor = Predictor(part.space, split, kind=kind, prior=prior, task=task)
        if fitted:
            predictor.fit_codes(part.codes[known], observed)
        return predictor.scores(part.codes)

    found = {f"0: {name}": score(part, task) for name, score in left.pooled.items()}
    for name, predictor in left.campaigns.items():
        found[f"0: {name}"] = campaign("gp", predictor, False)
        found[f"{KNOWN}: gp, {name}"] = campaign("gp", predictor, True)
    for kind in ("gp", "mlp"):
        found[f"{KNOWN}: {kind}, pretrained"] = campaign(kind, left.pretrained, True)
        found[f"{KNOWN}: {kind}, no prior"] = campaign(kind, None, True)
    true = part.accuracies[asked]
    return {name: ranked(scores[asked], true) for name, scores in found.items()}


def ranked(scores: Array, true: Array) -> tuple[float, float]:
    """Return Kendall's τ, and that among the best quarter, NaN where it is small."""
    best = true >= np.quantile(true, 0.75)
    among = float(kendalltau(scores[best], true[best]).statistic) if best.sum() >= FEWEST_BEST else float("nan")
    return float(kendalltau(scores, true).statistic), among


def seed_agreement(accuracies: Array, deviation: float, draws: int = 20) -> tuple[float, float]:
    """Return τ and τ among the best quarter between trainings of (n,) candidates with one seed and with another.

    The candidates' means are their accuracies moved towards each other, so that means and noise together vary as the accuracies do.
    """
    kept = np.sqrt(max(0.0, 1 - deviation**2 / accuracies.var()))
    means = accuracies.mean() + kept * (accuracies - accuracies.mean())
    rng = np.random.default_rng(0)
    seeds = means + deviation * rng.standard_normal((draws, 2, len(means)))
    found = np.array([ranked(one, other) for one, other in seeds])
    return float(found[:, 0].mean()), float(found[:, 1].mean())


def main() -> None:
    """Leave out each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=TABLES)
    parser.add_argument("--splits", type=int, default=4)
    parser.add_argument("--networks", type=Path, metavar="FOLDER", help="see `pretrain`")
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    began, found = time.perf_counter(), {}
    for left in left_out(Source(options.tables, networks=options.networks), Training()):
        splits = [run(left, split) for split in range(options.splits)]
        targets = left.group.targets(left.part)[left.part.drawn_at_random]
        own: dict[str, Any] = {"candidates": len(targets)}
        if np.isfinite(left.group.noise):
            noise = left.group.noise / left.group.spread
            own["ceiling"] = round(float(ceiling(targets, noise)[0]), 3)
            own["two_seeds"], own["two_seeds_best_quarter"] = (round(t, 3) for t in seed_agreement(targets, noise))
        means = {arm: np.mean([split[arm] for split in splits], axis=0) for arm in splits[0]}
        own["tau"] = {arm: round(float(mean[0]), 3) for arm, mean in means.items()}
        own["tau_best_quarter"] = {arm: round(float(m[1]), 3) for arm, m in means.items() if np.isfinite(m[1])}
        found[left.group.name] = own
        print(left.group.name, own, flush=True)
    arms = sorted({arm for own in found.values() for arm in own["tau"]})
    overall = {
        arm: {
            "groups": len(taus := [own["tau"][arm] for own in found.values() if arm in own["tau"]]),
            "tau": round(float(np.mean(taus)), 3),
        }
        for arm in arms
    }
    seconds = round(time.perf_counter() - began)
    write(
        {"machine": machine(), "splits": options.splits, "mean": overall, "groups": found, "seconds": seconds},
        options.to,
    )


if __name__ == "__main__":
    main()
