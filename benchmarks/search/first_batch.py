"""What the prior of a search chooses before the first training: variations of the built-in recipes, or anything.

    python -m benchmarks.search.first_batch --data tiny-mammals.zip --image-size 32 --hold-out 150 --train-images 2500 --val-images 1000 \\
        --to benchmarks/results/first-batch.json

Each arm lets the search choose `--candidates` by its prior: beside the built-in recipes, which it varies, or without any. All are trained
once, the recipes too, `--workers` at a time, for `--seconds`: accuracies on the validation images. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, write
from benchmarks.search.proof import parser_of, with_larger_test
from jointnas.campaign.campaign import make_executor, prepare
from jointnas.campaign.options import make_spec
from jointnas.campaign.retrain import spread
from jointnas.campaign.spec import SearchSpec
from jointnas.data.spec import DataSpec
from jointnas.search.search import GUARD_EVERY
from jointnas.space.knob_space import Candidate
from jointnas.training.job import TrainingJob, TrainingResult

ARMS = {"varied recipes": None, "anything": 0}  # built-in recipes in the first batch
FIRST_SEED = 2_100_000_000  # of no search


def main() -> None:
    """Choose by each arm, and train all."""
    parser = parser_of(__doc__)
    parser.add_argument("--candidates", type=int, default=4, help="that the prior chooses in each arm")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = with_larger_test(options.data, options.hold_out, Path(folder)) if options.hold_out else options.data
        data = DataSpec(str(source), options.train_images, options.val_images, options.image_size, options.seed)
        names = ("seconds", "bound", "workers", "seed", "candidates", "train_images", "val_images")
        answer: dict[str, Any] = {"machine": machine(), "data": options.data.name}
        answer |= {name: getattr(options, name) for name in names}
        settings = {"train_time": options.seconds, "workers": options.workers, "seed": options.seed, "data": data}
        chosen: list[tuple[str, Candidate]] = []
        for arm, portfolio in ARMS.items():
            given = {"constraints": [options.bound], "rounds": 3, "batch": 6, "portfolio": portfolio}
            spec = make_spec({**settings, **given})
            assert isinstance(spec, SearchSpec)
            setup = prepare(spec, lambda event: None)
            starts = setup.search.space.to_candidates(setup.search.pool.start)
            n = len(starts) + options.candidates
            batch = setup.search.ask(n + n // (GUARD_EVERY - 1))  # the last ones are drawn
            chosen += [("recipe", own) for own in starts]
            chosen += [(arm, own) for own in batch[len(starts) : n]]
        jobs = [
            TrainingJob(candidate, spec.clock, FIRST_SEED + i, test=True).numbered(i)
            for i, (_, candidate) in enumerate(chosen)
        ]
        predicted = setup.search.predictor.predict([candidate for _, candidate in chosen])[0].tolist()
        rows = []
        with make_executor(setup) as executor:
            for event in executor.results(jobs):
                if event.kind not in ("done", "failed"):
                    continue
                result, (arm, candidate) = TrainingResult.of(event), chosen[event.number]
                rows.append(
                    {
                        "arm": arm,
                        "val": result.observation.accuracy,
                        "test": result.test_accuracy,
                        "steps": result.observation.steps,
                        "predicted": round(predicted[event.number], 4),
                        "candidate": candidate,
                    }
                )
                print({**rows[-1], "candidate": candidate["recipe"].get("flip")}, flush=True)
        arms = dict.fromkeys(arm for arm, _ in chosen)
        answer["val"] = {arm: spread([row["val"] or 0.0 for row in rows if row["arm"] == arm]) for arm in arms}
        write({**answer, "rows": rows}, options.to)


if __name__ == "__main__":
    main()
