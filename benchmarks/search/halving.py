"""What stopping the worse half of a batch early is worth under our predictor, on the rows of a table of real trainings.

    python -m benchmarks.search.halving --seeds 20 --workers 2 --to benchmarks/results/halving.json

Only the table's candidates may be asked, and a training has the accuracies of its row, at each rung too. A search without halving trains
each batch whole. With halving a batch starts wider: at the rung all but the best share stop, so that each batch costs as much as one
without. What the predictor gets of a stopped training is nothing (`dropped`), or its accuracy at the rung carried to the end by the line
that fits the whole trainings so far in log odds, as a fraction of a training (`carried`). Measured is the mean of the table's accuracies,
over seeds, of the best whole training so far, and of the candidate that `best` names first.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit

from benchmarks.measure import machine, write
from benchmarks.tables.table import TABLE, Table
from jointnas.campaign.early_stop import accuracy_at
from jointnas.campaign.registry import find_prior
from jointnas.predictor.task import Task
from jointnas.search.search import Search
from jointnas.space.knob_space import Candidate
from jointnas.training.observation import Observation

BATCH, RUNG = 8, 0.25
EDGE = 0.01
TIMED = 24  # candidates whose steps are known before the first training
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Way:
    """How batches are trained. kept: the share that runs to its end. carried: whether stopped trainings are reported."""

    kept: float = 1.0
    carried: bool = False

    @property
    def width(self) -> int:
        """How many candidates a batch starts, for the price of `BATCH` whole trainings."""
        return int(BATCH / (RUNG + (1 - RUNG) * self.kept)) if self.kept < 1 else BATCH


WAYS = {
    "whole": Way(),
    "half, dropped": Way(0.5),
    "half, carried": Way(0.5, carried=True),
    "quarter, dropped": Way(0.25),
    "quarter, carried": Way(0.25, carried=True),
}


def run(job: tuple[str, int], table: Path, budgets: int, prior: str) -> dict[str, Any]:
    """Return a way's accuracies after each batch."""
    name, seed = job
    torch.set_num_threads(1)
    rows = Table.read(table).commonest()
    trainings = {rows.space.identity(c): own[0].observation for c, own in rows.trained() if own[0].accuracy is not None}
    pool = [c for c, own in rows.trained() if own[0].accuracy is not None]
    steps = [trainings[identity] for identity in rows.space.identities(rows.space.to_codes(pool[:TIMED]))]
    task = Task(rows.images, rows.space.to_codes(pool[:TIMED]), np.array([o.steps for o in steps if o], float))
    start = find_prior(prior, rows.space)
    search = Search(rows.space, [str(c) for c in rows.constraints], seed, pool=pool, prior=start, task=task)
    way, whole, best, named = WAYS[name], list[Observation](), list[float](), list[float]()
    for _ in range(budgets // BATCH):
        batch = search.ask(way.width)
        observations = [trainings[identity] for identity in batch.identities]
        ended = select(observations, way)
        whole += [observations[i] for i in ended]
        tell(search, batch, observations, ended, whole, way)
        best.append(max(o.accuracy or 0.0 for o in whole))
        chosen = trainings[rows.space.identity(search.best(1)[0].candidate)]
        named.append(chosen.accuracy or 0.0 if chosen else 0.0)
    return {"way": name, "seed": seed, "best": best, "named": named}


def select(observations: Sequence[Observation | None], way: Way) -> list[int]:
    """Return which trainings of a batch run to their end."""
    if way.kept == 1:
        return list(range(len(observations)))
    readings = [accuracy_at(o, RUNG) or 0.0 for o in observations if o is not None]
    return np.argsort(-np.array(readings), kind="stable")[: round(way.kept * len(readings))].tolist()


def tell(
    search: Search,
    batch: Sequence[Candidate],
    observations: Sequence[Observation],
    ended: Sequence[int],
    whole: Sequence[Observation],
    way: Way,
) -> None:
    """Report a batch to the search."""
    search.tell([batch[i] for i in ended], [observations[i] for i in ended])
    stopped = [i for i in range(len(batch)) if i not in ended]
    if not (stopped and way.carried):
        return
    x = share(np.array([accuracy_at(o, RUNG) or 0.0 for o in whole]))
    y = share(np.array([o.accuracy or 0.0 for o in whole]))
    slope = float(np.clip(np.cov(x, y)[0, 1] / max(x.var(ddof=1), 1e-6), 0, 2))
    at_rung = share(np.array([accuracy_at(observations[i], RUNG) or 0.0 for i in stopped]))
    carried = expit(y.mean() + slope * (at_rung - x.mean()))
    noise = float(np.var(y - y.mean() - slope * (x - x.mean())))
    weight = float(
        np.clip(0.05 * y.var() / max(noise, 1e-6), 0.02, 1)
    )  # of a training whose noise is a twentieth of the spread
    found = [replace(observations[i], accuracy=float(a)) for i, a in zip(stopped, carried, strict=True)]
    search.tell([batch[i] for i in stopped], [replace(o, trainings=weight) for o in found])


def share(accuracies: Array) -> Array:
    """Return the log odds of accuracies."""
    return np.asarray(logit(accuracies.clip(EDGE, 1 - EDGE)))


def main() -> None:
    """Run all ways with all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--budgets", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--prior", default="resnet9-digits", help="a predictor or a pretrained network, or none")
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    jobs = [(name, seed) for seed in range(options.seeds) for name in WAYS]
    work = partial(run, table=options.table, budgets=options.budgets, prior=options.prior)
    with multiprocessing.get_context("spawn").Pool(options.workers) as workers:
        runs = list(workers.imap_unordered(work, jobs))
    found: dict[str, Any] = {
        "machine": machine(),
        "rung": RUNG,
        "seeds": options.seeds,
        "prior": Path(options.prior).name,
    }
    for name in WAYS:
        own = sorted((one for one in runs if one["way"] == name), key=lambda one: one["seed"])
        found[name] = {"starts_a_batch": WAYS[name].width}
        for key in ("best", "named"):
            values = np.array([one[key] for one in own])
            found[name][key] = {
                str(BATCH * (i + 1)): {
                    "mean": round(float(column.mean()), 4),
                    "sd": round(float(column.std(ddof=1)), 4),
                }
                for i, column in enumerate(values.T)
            }
    write(found, options.to)


if __name__ == "__main__":
    main()
