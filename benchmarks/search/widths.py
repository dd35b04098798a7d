"""A recipe's network at other widths: how much smaller should it be where the budget holds only a share of the recipe's steps?

    python -m benchmarks.search.widths --data tiny-vehicles.zip --hold-out 150 --train-images 2500 --val-images 1000 \\
        --recipe resnet9-1m-photos-64 --widths 4 6 8 12 --to benchmarks/results/widths-vehicles.json

Trains the recipe, which scores one view of an image, with its network at each width and with each seed, `--workers` at a time. Shorter budgets
(`--seconds`) stand for slower machines. The machine must be left alone meanwhile.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, write
from benchmarks.search.proof import parser_of, trained, with_larger_test
from jointnas.campaign.candidate_file import find_candidate
from jointnas.data.spec import DataSpec


def main() -> None:
    """Train the recipe at every width."""
    parser = parser_of(__doc__)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--widths", type=int, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    own = find_candidate(options.recipe).candidate
    members = {
        str(width): {
            "architecture": {**own["architecture"], "width": width},
            "recipe": {**own["recipe"], "test_flip": False},
        }
        for width in options.widths
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in members}
    with tempfile.TemporaryDirectory() as folder:
        source = with_larger_test(options.data, options.hold_out, Path(folder)) if options.hold_out else options.data
        for seed in options.seeds:
            spec = DataSpec(str(source), options.train_images, options.val_images, options.image_size, seed)
            for name, (result,) in trained(spec, options, members, seed).items():
                seen = result.observation
                found[name].append({"test": result.test_accuracy, "val": seen.accuracy, "steps": seen.steps})
    answer = {"machine": machine(), "data": options.data.name, "widths": found}
    names = ("image_size", "hold_out", "train_images", "val_images", "seconds", "workers", "recipe", "seeds")
    write({**answer, **{name: getattr(options, name) for name in names}}, options.to)


if __name__ == "__main__":
    main()
