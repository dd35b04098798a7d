"""Which reading of the validation images says most about a training: its accuracy, its log-loss or its smoothed accuracy.

    python -m benchmarks.search.smoothed --data tiny-vehicles.zip --image-size 64 --hold-out 150 --train-images 2500 --val-images 1000 \\
        --recipe resnet9-1m-photos-64 --to benchmarks/results/smoothed-vehicles.json

Trains `--candidates` candidates that have some knobs of a random one and all others of a recipe. Then draws `--size` of the validation and
test images together, `SPLITS` times, and reads each training on them. The truth is its accuracy on all the other images. For each reading
of the best candidates: its correlation with the truth; its slope by the truth; `regret`, the accuracy that is lost where the highest
reading chooses; and `noise`, the variance about the line by the truth, in units of the truth, as a share of the binomial variance. That
holds the noise of the truth too. The images of a split are the same for all candidates, as in a search. The machine must be left alone
meanwhile.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import machine, write
from benchmarks.search.proof import parser_of, space_of, with_larger_test
from jointnas.campaign.candidate_file import find_candidate
from jointnas.data.dataset import Data, Split, load_data
from jointnas.data.spec import DataSpec
from jointnas.execution.slots import share_slots
from jointnas.network.module import Network
from jointnas.network.weights_file import load_weights
from jointnas.space.constraint import parse_all, violations
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.space.transfer import nearest_candidate
from jointnas.training.batches import Normalise
from jointnas.training.job import TrainingJob, trial_executor
from jointnas.training.recipe import Recipe
from jointnas.training.scoring import accuracy, log_loss, predict, smoothed_accuracy
from jointnas.training.trained_blueprint import trained_blueprint

SPLITS = 100
CHANGED = (2, 5)  # knobs of a candidate: from 2 to 4
FIRST_SEED = 2_100_000_000
READINGS = {
    "accuracy": accuracy,
    "log_loss": lambda logits, labels: -(log_loss(logits, labels) or math.inf),
    "smoothed_accuracy": smoothed_accuracy,
}


class Trained(NamedTuple):
    """The networks of n candidates: their (n, images, classes) logits, and the labels of the images."""

    logits: Tensor
    labels: Tensor


def candidates_near(space: Space, recipe: Candidate, bound: str, count: int, seed: int) -> list[Candidate]:
    """Return candidates within the bound that have some knobs of a random candidate and the others of the recipe."""
    rng, constraints = np.random.default_rng(seed), parse_all([bound], space.metrics)
    found: list[Candidate] = []
    for other in space.sample(50 * count, seed=seed):
        mixed = {part: dict(recipe[part]) for part in recipe}
        own = [(part, name) for part in other for name in other[part] if name != "network"]
        for i in rng.choice(len(own), rng.integers(*CHANGED), replace=False):
            part, name = own[i]
            mixed[part][name] = other[part][name]
        candidate, _ = nearest_candidate(space, mixed)
        costs = {name: np.array([value]) for name, value in space.cost(candidate).items()}
        if candidate not in found and not violations(constraints, costs).any():
            found.append(candidate)
        if len(found) == count:
            break
    return found


def train(spec: DataSpec, data: Data, candidates: Sequence[Candidate], seconds: float, workers: int) -> Trained:
    """Train each candidate once, and score the validation and the test images."""
    test, device = data.test(), torch.device("cpu")
    images = Split(torch.cat([data.val.images, test.images]), torch.cat([data.val.labels, test.labels]))
    normalise, logits = Normalise(data.mean, data.std, device), []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.safetensors" for i in range(len(candidates))]
        jobs = [
            TrainingJob(candidate, {"train_seconds": seconds}, FIRST_SEED + i, weights=str(files[i])).numbered(i)
            for i, candidate in enumerate(candidates)
        ]
        with trial_executor(spec, share_slots(workers, "cpu"), data.fingerprint) as executor:
            for event in executor.results(jobs):
                if event.kind in ("done", "failed"):
                    print(event.number, event.reason or event.result["observation"]["accuracy"], flush=True)
        for candidate, file in zip(candidates, files, strict=True):
            if file.is_file():
                blueprint = trained_blueprint(candidate, data.input_shape, len(data.classes))
                flip = Recipe.from_knobs(candidate["recipe"]).test_flip
                network = load_weights(Network(blueprint), file)
                logits.append(predict(network, images, normalise, device, flip))
    return Trained(torch.stack(logits), images.labels)


def compared(trained: Trained, size: int, best: float) -> dict[str, dict[str, float]]:
    """Return for each reading of `size` images how it stands to the accuracy on the others, over this share of the candidates."""
    logits, labels = trained
    right = (logits.argmax(2) == labels).double().mean(dim=1).numpy()
    kept = np.argsort(-right, kind="stable")[: max(3, round(best * len(right)))]
    rng = np.random.default_rng(0)
    rows: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in READINGS}
    level = float(right[kept].mean())
    for _ in range(SPLITS):
        order = torch.from_numpy(rng.permutation(len(labels)))
        own, rest = order[:size], order[size:]
        truth = np.array([accuracy(logits[i][rest], labels[rest]) for i in kept])
        for name, read in READINGS.items():
            values = np.array([read(logits[i][own], labels[own]) for i in kept])
            slope = np.cov(values, truth)[0, 1] / truth.var(ddof=1)
            noise = (values / slope - truth).var(ddof=1) / (level * (1 - level) / size)
            correlation, regret = np.corrcoef(values, truth)[0, 1], truth.max() - truth[values.argmax()]
            rows[name].append((float(correlation), float(regret), float(slope), float(noise)))
    names = ("correlation", "regret", "slope", "noise")
    return {name: dict(zip(names, map(fmean, zip(*of, strict=True)), strict=True)) for name, of in rows.items()}


def main() -> None:
    """Train, read and compare."""
    parser = parser_of(__doc__)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, nargs="+", default=[300, 1000])
    parser.add_argument(
        "--best", type=float, nargs="+", default=[1.0, 0.75, 0.5], help="shares of the candidates to compare"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = with_larger_test(options.data, options.hold_out, Path(folder)) if options.hold_out else options.data
        spec = DataSpec(str(source), options.train_images, options.val_images, options.image_size, options.seed)
        data = load_data(spec)
        recipe = find_candidate(options.recipe).candidate
        candidates = candidates_near(space_of(data), recipe, options.bound, options.candidates, options.seed)
        trained = train(spec, data, candidates, options.seconds, options.workers)
    found = [
        {"size": size, "best": best, "readings": compared(trained, size, best)}
        for size in options.size
        for best in options.best
    ]
    answer = {"machine": machine(), "data": options.data.name, "trained": len(trained.logits), "compared": found}
    names = ("image_size", "hold_out", "train_images", "val_images", "bound", "seconds", "workers", "recipe", "seed")
    write({**answer, **{name: getattr(options, name) for name in names}}, options.to)


if __name__ == "__main__":
    main()
