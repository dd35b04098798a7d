"""Stage-two engines side by side on one predictor: what each finds after equal evaluations and after equal seconds.

    python -m benchmarks.search.engines --seeds 20 --to benchmarks/results/engines.json

The predictor is fitted to real trainings: 48 candidates of the space `resnet9` on the digits, a fixed number of steps each, so that
anyone gets the same. Two problems are searched on it. `small` holds all knobs but eight in the middle of their ranges: its true
optimum comes from scoring all that is left. `whole` is the space with all its knobs, continuous ones too; what is best there is
the best that any engine of any seed found. Each engine starts from the same 100 feasible Sobol points of the seed and may score
3,000 candidates of `small`, 20,000 of `whole`; random search, the rest of that Sobol sequence, is the measure of all.

Regret is in accuracy: the optimum's predicted accuracy less that of the best found.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import jointnas
from benchmarks.measure import machine, write
from jointnas.predictor.contract import Predictor
from jointnas.search.engines import ENGINES, Evaluation, Problem
from jointnas.search.engines.problem import BATCH
from jointnas.space.constraint import Constraint
from jointnas.space.knobs import Codes, Fixed
from jointnas.space.sampling import draw_pool, feasible
from jointnas.space.space import Space

TRAININGS, STEPS = 48, 40
START = 100
BUDGETS = {"small": 3000, "whole": 20_000}
EVALUATIONS = (300, 1000, 3000, 10_000, 20_000)
SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
ROUNDING = 1e-6  # of predictions, which are computed in batches of other sizes
BOUND = "macs<400K"
FREE = ("width", "depth1", "depth3", "resolution", "optimizer", "batch_size", "schedule", "label_smoothing")


def fitted() -> Predictor:
    """Return a predictor of the space `resnet9`, fitted to trainings on the digits."""
    space = Space.load("resnet9", input_shape=(1, 8, 8), classes=10)
    candidates = space.sample(TRAININGS, seed=0)
    found = [jointnas.train(c, data="digits", train_steps=STEPS, seed=i)[0] for i, c in enumerate(candidates)]
    predictor = Predictor(space, seed=0)
    predictor.fit(candidates, found)
    print(f"predictor: τ {predictor.rank_correlation:.2f} after {TRAININGS} trainings", flush=True)
    return predictor


def small_space(whole: Space) -> Space:
    """Return the space with all knobs but `FREE` held in the middle of their ranges."""
    middle = {k.name: k.value(k.default) for k in whole.knobs if k.name not in FREE}
    return whole.fix(middle)


def every_candidate(space: Space) -> Codes:
    """Return the codes of all candidates of a space without continuous knobs."""
    grid = itertools.product(*[range(len(knob.extremes)) for knob in space.knobs])
    return space.settled(np.array(list(grid), dtype=np.float64))


class Traced:
    """A predictor as an evaluation of its space, or of that with knobs held, that notes the best so far and when."""

    def __init__(self, predictor: Predictor, space: Space) -> None:
        self.predictor = predictor
        self.held = {
            i: knob.code(ours.value(0.0))
            for i, (knob, ours) in enumerate(zip(predictor.space.knobs, space.knobs, strict=True))
            if isinstance(ours, Fixed)
        }
        self.began = time.perf_counter()
        self.best = np.inf
        self.scored = 0
        self.trace: list[tuple[int, float, float]] = []

    def __call__(self, codes: Codes) -> Evaluation:
        """Return the negative predicted accuracies as the one objective."""
        values = self.objective(codes)
        self.scored += len(codes)
        self.best = min(self.best, float(values.min()))
        self.trace.append((self.scored, time.perf_counter() - self.began, self.best))
        return Evaluation(values[:, None], np.zeros((len(codes), 0)), np.zeros(len(codes), dtype=bool))

    def objective(self, codes: Codes) -> NDArray[np.float64]:
        """Return the (n,) negative predicted accuracies of (n, knobs) codes."""
        whole = codes.copy()
        for i, code in self.held.items():
            whole[:, i] = np.where(np.isnan(codes[:, i]), np.nan, code)
        return -self.predictor.predict_codes(whole)[0]

    def after(self, column: int, limit: float) -> float:
        """Return the best objective when the evaluations (column 0) or seconds (column 1) reached a limit."""
        return next((row[2] for row in reversed(self.trace) if row[column] <= limit), np.inf)


def random_search(problem: Problem) -> None:
    """Score the feasible points of a Sobol sequence."""
    problem.evaluate(problem.start)
    for codes in problem.space.stream(problem.seed):
        before = problem.spent
        for part in np.array_split(codes, len(codes) // BATCH):
            problem.evaluate(part)
        if problem.exhausted or problem.spent == before:
            break


def race(predictor: Predictor, space: Space, budget: int, seeds: int) -> dict[str, list[Traced]]:
    """Return each arm's traces over the seeds; the arms take turns."""
    constraints = (Constraint.parse(BOUND),)
    arms: dict[str, Callable[[Problem], None]] = {**ENGINES, "random": random_search}
    found: dict[str, list[Traced]] = {name: [] for name in arms}
    for seed in range(seeds):
        start = draw_pool(space, START, constraints, seed)
        for name, arm in arms.items():
            traced = Traced(predictor, space)
            arm(Problem(space, constraints, traced, start, budget, seed))
            found[name].append(traced)
        print(f"{space.name} seed {seed}: " + ", ".join(f"{n} {-t[-1].best:.5f}" for n, t in found.items()), flush=True)
    return found


def summary(found: dict[str, list[Traced]], optimum: float) -> dict[str, Any]:
    """Return quartiles of the regret after each number of evaluations and seconds, and how often nothing is left of it."""
    return {
        name: {
            "evaluations": {n: _quartiles([t.after(0, n) - optimum for t in traces]) for n in EVALUATIONS},
            "seconds": {s: _quartiles([t.after(1, s) - optimum for t in traces]) for s in SECONDS},
            "optimum_found": sum(t.best <= optimum + ROUNDING for t in traces),
            "scored": int(np.median([t.scored for t in traces])),
            "took_seconds": round(float(np.median([t.trace[-1][1] for t in traces])), 2),
        }
        for name, traces in found.items()
    }


def _quartiles(values: list[float]) -> list[float | None]:
    return [round(float(q), 6) if np.isfinite(q) else None for q in np.quantile(values, (0.25, 0.5, 0.75))]


def main() -> None:
    """Fit the predictor, race the engines on both problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    predictor = fitted()
    whole = predictor.space
    small = small_space(whole)
    everything = every_candidate(small)
    everything = everything[feasible(small, (Constraint.parse(BOUND),), everything)]
    optimum = float(Traced(predictor, small).objective(everything).min())
    print(f"small: {len(everything)} feasible candidates, the best predicted {-optimum:.5f}", flush=True)
    results = {
        "small": {
            "candidates": len(everything),
            "optimum": -optimum,
            **summary(race(predictor, small, BUDGETS["small"], options.seeds), optimum),
        }
    }
    races = race(predictor, whole, BUDGETS["whole"], options.seeds)
    best = min(t.best for traces in races.values() for t in traces)
    results["whole"] = {"optimum": -best, **summary(races, best)}
    write(
        {
            "machine": machine(),
            "bound": BOUND,
            "seeds": options.seeds,
            "rank_correlation": predictor.rank_correlation,
            "problems": results,
        },
        options.to,
    )


if __name__ == "__main__":
    main()
