"""How the pretrained network ranks trainings of longer budgets on data sets that are left out: built-in recipes and predicted candidates too.

    python -m benchmarks.search.longer_budgets tiny-twenty tiny-vehicles tiny-scenes cifar10-photos \\
        --to benchmarks/results/longer_budgets.json

No group of 30 s or more has enough random candidates to be measured in `transfer`. These rows are the region in which a search chooses.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from scipy.stats import kendalltau

from benchmarks.measure import machine, write
from benchmarks.search.pretrain import Source, Training, groups_of, network_without

FEWEST = 10  # candidates of a group


def main() -> None:
    """Fit without each table, and rank its rows of longer budgets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", metavar="NAME")
    parser.add_argument("--seconds", type=float, default=30.0, help="the shortest budget")
    parser.add_argument("--networks", type=Path, metavar="FOLDER", help="see `pretrain`")
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = Source(networks=options.networks)
    groups = groups_of(source)
    answer: dict[str, Any] = {"machine": machine(), "groups": {}}
    for name in options.tables:
        fitted = network_without(source, Training(), name)
        for group in groups:
            part = max(group.parts, key=lambda own: len(own.codes))
            if group.table == name and group.seconds >= options.seconds and len(part.codes) >= FEWEST:
                scores = fitted.scores(part.space, part.codes, part.budget)
                tau = float(kendalltau(scores, group.targets(part)).statistic)
                answer["groups"][group.name] = {"candidates": len(part.codes), "tau": round(tau, 3)}
                print(group.name, answer["groups"][group.name], flush=True)
    write(answer, options.to)


if __name__ == "__main__":
    main()
