"""What one round costs when many trials are known, and how fast candidates are scored.

    python -m benchmarks.search.scale --to benchmarks/results/scale.json --picture docs/scale.png

A search of `resnet9` with the default prior and a pool of a million candidates gets so many made-up accuracies, then fits its predictor and
asks for the next batch of eight. Each count of trials in a fresh process, one after the other, all cores free; the memory is that of the
whole process.

Rates, medians of five: seconds to fit the predictor to 256 rows of the table of real trainings; predictions a second of that predictor, with
the pretrained network to start from and without; distinct candidates a second that evolution scores in stage two on the shipped
predictor, operators, constraint checks and predictor included; seconds of whole commands that ask it for the winners under one constraint
and for a front of twenty. `--rates` measures these alone, into results that are there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import machine, write
from benchmarks.search.rankers import Examples
from benchmarks.tables.table import Table
from jointnas.campaign.registry import find_predictor, find_prior
from jointnas.predictor.contract import Predictor
from jointnas.search.search import Search
from jointnas.space.space import Space

TRIALS = (10, 100, 1000, 10_000)
BATCH = 8
CONSTRAINT = "macs<40M"
SHIPPED = "resnet9-digits"
COMMAND = (sys.executable, "-c", "from jointnas.cli import main; main()", "search", "--from", SHIPPED)
QUESTIONS = {
    "answer_seconds": ("--constraint", "macs<500K"),
    "front_seconds": ("--frontier", "macs", "--top", "20"),
}
REPEATS, FITTED_TO, PREDICTED, BOUND = 5, 256, 50_000, "macs<400K"


def measured(job: tuple[int, int]) -> dict[str, Any]:
    """Return what a round costs after so many trials, with a pool of this size."""
    trials, pool = job
    space = Space.load("resnet9", (3, 32, 32), 10)
    began = time.perf_counter()
    search = Search(space, [CONSTRAINT], prior=find_prior(None, space), pool_size=pool)
    made = time.perf_counter()
    candidates = space.sample(trials, seed=1)
    rates = [float(np.log(c["recipe"]["learning_rate"])) for c in candidates]
    noise = 0.02 * np.random.default_rng(0).standard_normal(trials)
    search.tell(candidates, [float(np.clip(0.5 + 0.1 * r + e, 0, 1)) for r, e in zip(rates, noise, strict=True)])
    told = time.perf_counter()
    search.fitted()
    fitted = time.perf_counter()
    search.ask(BATCH)
    return {
        "trials": trials,
        "pool_seconds": round(made - began, 2),
        "tell_seconds": round(told - made, 2),
        "fit_seconds": round(fitted - told, 2),
        "ask_seconds": round(time.perf_counter() - fitted, 2),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def rates() -> dict[str, float]:
    """Return how fast predictors are fitted, predictions are made and evolution scores candidates."""
    shipped, examples = Predictor.load(find_predictor(SHIPPED)[0]), Examples(Table.read().commonest())
    known = examples.candidates[:FITTED_TO], examples.observations[:FITTED_TO]
    codes = next(examples.space.stream(0, chunk=PREDICTED))[:PREDICTED]
    found: dict[str, list[float]] = {}
    for seed in range(REPEATS):
        for name, prior in (("", find_prior(None, examples.space)), (", no prior", None)):
            predictor = Predictor(examples.space, seed, prior=prior)
            began = time.perf_counter()
            predictor.fit(*known)
            fitted = time.perf_counter()
            predictor.median_codes(codes)
            scored = time.perf_counter()
            found.setdefault(f"fit_seconds{name}", []).append(fitted - began)
            found.setdefault(f"predictions_per_second{name}", []).append(len(codes) / (scored - fitted))
        search = Search(shipped.space, [BOUND], seed, predictor=shipped)
        search.best()
        found.setdefault("evolved_per_second", []).append(search.reports[0].scored / search.reports[0].seconds)
        for name, question in QUESTIONS.items():
            began = time.perf_counter()
            subprocess.run([*COMMAND, *question], check=True, capture_output=True)
            found.setdefault(name, []).append(time.perf_counter() - began)
    return {name: round(statistics.median(values), 2) for name, values in found.items()}


def draw(rows: list[dict[str, Any]], pool: int, to: Path) -> None:
    """Draw the seconds of a round, and what a cost that grows with the trials would be."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    trials = [row["trials"] for row in rows]
    for part in ("fit", "ask"):
        axes.plot(
            trials,
            [row[f"{part}_seconds"] for row in rows],
            marker="o",
            label={"fit": "predictor fitted", "ask": "batch chosen"}[part],
        )
    first = rows[0]["ask_seconds"] / trials[0]
    axes.plot(trials, [first * n for n in trials], color="grey", ls=":", label="if it grew with the trials")
    axes.set(
        xscale="log", yscale="log", xlabel="trials known", ylabel="seconds", title=f"one round, a pool of {pool:,}"
    )
    axes.legend()
    figure.savefig(to, dpi=150)


def main() -> None:
    """Measure each count of trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=int, default=1_000_000)
    parser.add_argument("--trials", type=int, nargs="+", default=TRIALS)
    parser.add_argument("--to", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--rates", action="store_true")
    options = parser.parse_args()
    if options.rates:
        kept = json.loads(options.to.read_text()) if options.to and options.to.exists() else {}
        write({**kept, "machine": machine(), "rates": rates()}, options.to)
        return
    context = multiprocessing.get_context("spawn")
    rows = []
    for trials in options.trials:
        with context.Pool(1) as fresh:
            rows.append(fresh.apply(measured, ((trials, options.pool),)))
        print(rows[-1], flush=True)
    write({"machine": machine(), "pool": options.pool, "rounds": rows, "rates": rates()}, options.to)
    if options.picture:
        draw(rows, options.pool, options.picture)


if __name__ == "__main__":
    main()
