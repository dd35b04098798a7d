"""What each knob is worth near a known recipe, by the rows of the tables that cross them (`benchmarks.tables.make --drawn crossed`).

    python -m benchmarks.search.effects --to benchmarks/results/effects.json

Each of these trainings has about half of the factors, so every training says something about every factor. Least squares fits one effect for
each factor and one mean for each data set to the accuracies, under equal seconds. Standard errors come from the residuals. A second fit, to the
logarithm of the seconds of a step, says how much slower a factor makes the steps.

What the best combination of the factors would gain: ridge regression shrinks the effects in each data set as if they were drawn with the
deviation `--prior-deviation`, and the positive ones are added up. The sum is too high, as the luckiest count most, and it ignores interactions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import machine, write
from benchmarks.search.pretrain import TABLES
from benchmarks.tables.crossings import CROSSED, CROSSINGS
from benchmarks.tables.table import Row, Table
from jointnas.space.knob_space import Candidate

Array = NDArray[np.float64]


def has(candidate: Candidate, factor: Mapping[str, Any]) -> bool:
    """Return whether a candidate has all values of a factor."""
    knobs = {**candidate["architecture"], **candidate["recipe"]}
    return all(knobs.get(name) == value for name, value in factor.items())


def effects(held: NDArray[np.bool_], tables: Sequence[str], values: Array) -> tuple[Array, Array, float]:
    """Return the (k,) effects of (n, k) factors on (n,) values, their standard errors, and the deviation of the residuals.

    tables: the (n,) names of their tables. The fit has one mean for each table.
    """
    names = sorted(set(tables))
    x = np.concatenate([held - 0.5, [[float(own == name) for name in names] for own in tables]], axis=1)
    found = np.linalg.lstsq(x, values, rcond=None)[0]
    errors = values - x @ found
    deviation = float(np.sqrt(errors @ errors / (len(values) - x.shape[1])))
    spread = deviation * np.sqrt(np.diag(np.linalg.inv(x.T @ x)))
    k = held.shape[1]
    return found[:k], spread[:k], deviation


def best_combination(held: NDArray[np.bool_], values: Array, deviation: float, prior_deviation: float) -> float:
    """Return the sum of the positive effects of (n, k) factors on (n,) values of one table, shrunk by ridge regression.

    deviation: of one training about the fit. prior_deviation: of the effects.
    """
    x = np.concatenate([np.ones((len(values), 1)), held], axis=1)
    penalty = np.diag([0.0, *np.full(held.shape[1], (deviation / prior_deviation) ** 2)])
    found = np.linalg.solve(x.T @ x + penalty, x.T @ values)
    return float(np.maximum(found[1:], 0).sum())


def main() -> None:
    """Fit and print, the best factors first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=TABLES)
    parser.add_argument("--drawn", choices=CROSSINGS, default=CROSSED)
    parser.add_argument("--prior-deviation", type=float, default=0.006, help="of effects, for the best combination")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="tables to read; default: all that have such rows")
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    rows: list[tuple[str, Row]] = []
    for path in sorted(options.tables.glob("*.csv")):
        if options.only is None or path.stem in options.only:
            rows += [
                (path.stem, row)
                for row in Table.read(path).rows
                if row.drawn == options.drawn and row.accuracy is not None
            ]
    if not rows:
        raise SystemExit("no table has crossed rows with an accuracy: make some with benchmarks.tables.make")
    tables, factors = [name for name, _ in rows], CROSSINGS[options.drawn].factors
    if len(rows) <= len(factors) + len(set(tables)):
        raise SystemExit(f"{len(factors)} effects need more trainings, got {len(rows)}: make more rows")
    held = np.array([[has(row.candidate, factor) for factor in factors] for _, row in rows])
    accuracy = np.array([row.accuracy for _, row in rows], dtype=np.float64)
    seconds = np.log([row.quiet_step_seconds or np.nan for _, row in rows])
    found, spread, deviation = effects(held, tables, accuracy)
    slower = effects(held, tables, seconds)[0]
    order = np.argsort(-found)
    listed = [
        {
            "factor": factors[i],
            "accuracy": round(float(found[i]), 4),
            "standard_error": round(float(spread[i]), 4),
            "seconds_of_a_step": round(float(np.expm1(slower[i])), 3),
        }
        for i in order
    ]
    for one in listed:
        print(
            f"{json.dumps(one['factor']):36} {one['accuracy']:+.4f} ± {one['standard_error']:.4f}, "
            f"step {one['seconds_of_a_step']:+.0%}"
        )
    trainings = {name: tables.count(name) for name in dict.fromkeys(tables)}
    gains = {}
    for name in trainings:
        own = np.array(tables) == name
        gains[name] = round(best_combination(held[own], accuracy[own], deviation, options.prior_deviation), 4)
    print("best combination:", json.dumps(gains))
    answer = {"machine": machine(), "trainings": trainings, "deviation": round(deviation, 4), "effects": listed}
    write(answer | {"prior_deviation": options.prior_deviation, "best_combination": gains}, options.to)


if __name__ == "__main__":
    main()
