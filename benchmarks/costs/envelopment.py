"""Efficiencies beside those of pyStoNED, an established implementation of data envelopment analysis.

    pip install pystoned highspy
    python -m benchmarks.costs.envelopment
    python -m benchmarks.costs.envelopment --resamples 1000

Random tables of models with constant and variable returns, by costs and by gains. The largest difference of θ is printed for each. Both are
solved by HiGHS: the programs are written twice, the solver is the same. With `--resamples` the ranking of 100 models with 6 metrics is timed
instead, each metric resampled so many times.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from importlib.metadata import version
from itertools import product
from pathlib import Path

import numpy as np

from jointnas.efficiency.envelopment import ORIENTATIONS, RETURNS, Analysis, efficiencies
from jointnas.efficiency.models import Metric, Model
from jointnas.efficiency.ranking import rank


def peer_thetas(costs: np.ndarray, gains: np.ndarray, orientation: str, returns: str) -> np.ndarray:
    """Return the (n,) efficiencies of pyStoNED; those by gains are inverted, so that they are at most 1 too."""
    from pyomo.environ import SolverFactory
    from pystoned import DEA
    from pystoned.constant import ORIENT_IO, ORIENT_OO, RTS_CRS, RTS_VRS

    orient = ORIENT_IO if orientation == "input" else ORIENT_OO
    rts = RTS_CRS if returns == "constant" else RTS_VRS
    model = DEA.DEA(gains, costs, orient=orient, rts=rts)
    with contextlib.redirect_stdout(io.StringIO()):
        SolverFactory("appsi_highs").solve(model.__model__)
    found = np.array([model.__model__.theta[i].value for i in model.__model__.I])
    return found if orientation == "input" else 1 / found


def seconds_of(resamples: int, models: int = 100) -> float:
    """Return how long a ranking of models with 4 costs and 2 gains takes."""
    rng = np.random.default_rng(0)
    names = ("a", "b", "c", "d", "gain", "other gain")
    means = rng.lognormal(0, 0.5, (models, len(names)))
    drawn = [
        Model(str(i), {n: Metric((float(v),), 0.05 * float(v)) for n, v in zip(names, row, strict=True)})
        for i, row in enumerate(means)
    ]
    began = time.perf_counter()
    rank(drawn, names[:4], names[4:], resamples=resamples)
    return time.perf_counter() - began


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=20)
    parser.add_argument("--models", type=int, default=30)
    parser.add_argument("--resamples", type=int)
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    if options.resamples is not None:
        print(f"{options.resamples} resamples of 100 models with 6 metrics: {seconds_of(options.resamples):.1f} s")
        return
    rng = np.random.default_rng(0)
    tables = [
        (rng.lognormal(0, 0.7, (options.models, 1 + i % 4)), rng.lognormal(0, 0.4, (options.models, 1 + i % 2)))
        for i in range(options.tables)
    ]
    lines = []
    for orientation, returns in product(ORIENTATIONS, RETURNS):
        largest = 0.0
        for costs, gains in tables:
            own = np.array([e.theta for e in efficiencies(costs, gains, Analysis(orientation, returns))])
            largest = max(largest, float(np.abs(own - peer_thetas(costs, gains, orientation, returns)).max()))
        lines.append(f"{orientation:<8}{returns:<10}largest difference {largest:.1e}")
    packages = ", ".join(f"{name} {version(name)}" for name in ("pystoned", "pyomo", "highspy", "scipy"))
    text = "\n".join([*lines, f"{options.tables} tables of {options.models} models; {packages}"])
    print(text)
    if options.to:
        options.to.write_text(text + "\n")


if __name__ == "__main__":
    main()
