"""Fit a predictor to a table of real trainings, to be shipped in predictors/.

python -m benchmarks.search.ship --table benchmarks/tables/digits.csv --data digits --to predictors/resnet9-digits
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.tables.table import Table
from jointnas.data.dataset import load_data
from jointnas.predictor.contract import Predictor


def main() -> None:
    """Fit and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--data", required=True, help="The table's images, by the name that users know them by.")
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    table = Table.read(options.table).commonest()
    ended = [(candidate, row.observation) for candidate, rows in table.trained() for row in rows if row.observation]
    predictor = Predictor(table.space).fit(*zip(*ended, strict=True))
    spec = table.data_spec(options.data)
    data = load_data(spec, fingerprint=table.card["fingerprint"])
    predictor.context = {
        "data": {**spec.to_json(), "source": options.data},  # as it was named, wherever it lay
        "fingerprint": data.fingerprint,
        "classes": list(data.classes),
        "clock": {"train_seconds": table.budget_seconds},
        "slot": {"device": "cpu", "threads": 1, "workers": 2},  # two side by side, on a core each
        "command": f"python -m benchmarks.search.ship --table {options.table} --data {options.data} --to {options.to}",
    }
    predictor.save(options.to)
    print(f"{len(predictor.candidates)} trials, rank correlation {predictor.rank_correlation:.3f}")


if __name__ == "__main__":
    main()
