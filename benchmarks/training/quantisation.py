"""Weights of few bits: ProxConnect and its relatives, torchao's PARQ, and post-training quantisation, at the same bits and seconds.

    python -m benchmarks.training.quantisation --data cifar10-images.zip --to benchmarks/results/quantisation.json

Each training is one budget on one core, two at a time. `float` has no quantiser. `fine-tuned` starts from the weights of the float network of
the same seed, so it has two budgets in all. `binaryconnect-int8` also gives the inputs of layers 8 bits. PARQ (Jin et al. 2025) has its
least-squares levels a channel and anneals until 80 % of the budget; post-training quantisation (`ptq`) projects the float network by least
squares, and re-estimates batch norm's statistics on 1,000 training images. The recipe is the built-in `resnet9-1m` without the average of
weights, which PARQ lacks. The first and the last layer stay floats, but for `--layers all`. The test images are scored once a training. Rows
in the file are not repeated. Needs torchao.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import machine
from jointnas.campaign.candidate_file import find_candidate
from jointnas.data.dataset import Data, load_data
from jointnas.data.spec import DataSpec
from jointnas.execution.executor import Job, LocalExecutor
from jointnas.execution.slots import share_slots
from jointnas.execution.worker import Handler, Progress
from jointnas.network.cost import blueprint_cost
from jointnas.network.levels import Levels
from jointnas.network.module import Network, layers_of_few_bits, with_weights
from jointnas.network.weights_file import load_weights
from jointnas.space.knob_space import Candidate
from jointnas.training.averages import reestimate_norms
from jointnas.training.batches import Normalise
from jointnas.training.clock import clock_from_json
from jointnas.training.job import TrainingJob, run_job
from jointnas.training.recipe import QUANTISERS, Recipe
from jointnas.training.scoring import accuracy, predict
from jointnas.training.trained_blueprint import trained_blueprint
from jointnas.training.trainer import Trainer, seeded

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "resnet9": find_candidate("resnet9-1m").candidate["architecture"],
    "resnet20": {"network": "resnet", "width": 0.25, "depth1": 3, "depth2": 3, "depth3": 3, "depth4": 0},
}
BITS = (1, 2, 4)
STARTS = ("scratch", "fine-tuned")
INT8 = "binaryconnect-int8"  # with activations of 8 bits
METHODS = ("float", *QUANTISERS[1:], INT8, "parq", "ptq")
REFINEMENTS = 20  # of the scales of post-training quantisation
NORM_IMAGES = 1000
ANNEALED, CLOCK_STEPS = 0.8, 10_000  # of the budget, and the whole of it in steps of PARQ's annealing
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Arm:
    """One training. start: "scratch" or "fine-tuned". bits: 0 of floats."""

    network: str
    method: str
    bits: int
    start: str
    seed: int

    @property
    def key(self) -> str:
        """Its name."""
        return json.dumps(asdict(self))


def arms(network: str, seed: int) -> Iterator[Arm]:
    """Yield the trainings of a network and seed: those that others need come first."""
    yield Arm(network, "float", 0, "scratch", seed)
    for bits in BITS:
        for method in QUANTISERS[1:]:
            yield Arm(network, method, bits, "scratch", seed)
    for bits in BITS:
        yield Arm(network, "parq", bits, "scratch", seed)
        yield Arm(network, "ptq", bits, "fine-tuned", seed)
        for method in QUANTISERS[1:]:
            yield Arm(network, method, bits, "fine-tuned", seed)
        if network == "resnet9":
            yield Arm(network, INT8, bits, "scratch", seed)


def candidate(arm: Arm, layers: str) -> Candidate:
    """Return what an arm trains."""
    recipe = {**find_candidate("resnet9-1m").candidate["recipe"], "ema": 0.0}
    if arm.bits:
        quantiser = arm.method if arm.method in QUANTISERS else "binaryconnect"
        recipe |= {"quantiser": quantiser, "weight_bits": arm.bits, "quantised_layers": layers}
        recipe |= {"int8_activations": arm.method == INT8}
    return {"architecture": dict(NETWORKS[arm.network]), "recipe": recipe}


@dataclass(frozen=True)
class Prepare:
    """Loads the images and returns the function that runs an arm."""

    spec: DataSpec
    seconds: float
    folder: str
    layers: str

    def __call__(self) -> Handler:
        """Return it."""
        data = load_data(self.spec)
        warm_up = TrainingJob({"architecture": {"network": "resnet9", "width": 4}, "recipe": {}}, {"train_steps": 1}, 0)
        run_job(warm_up, data, "cpu")

        def handle(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
            return train(Arm(**payload["arm"]), data, self, progress)

        return handle


def train(arm: Arm, data: Data, settings: Prepare, progress: Progress) -> dict[str, Any]:
    """Return the outcome of an arm."""
    own = candidate(arm, settings.layers)
    floats = Path(settings.folder) / f"{arm.network}-{arm.seed}.safetensors"
    if arm.method == "ptq":
        return post_training(own, data, floats)
    if arm.method == "parq":
        return parq(own, data, arm, settings)
    parent = {"architecture": own["architecture"], "weights": str(floats)} if arm.start == "fine-tuned" else None
    weights = str(floats) if arm.method == "float" else None
    clock = {"train_seconds": settings.seconds}
    result = run_job(
        TrainingJob(own, clock, arm.seed, test=True, weights=weights, parent=parent), data, "cpu", progress
    )
    seen = result.observation
    return {"accuracy": seen.accuracy, "test": result.test_accuracy, "steps": seen.steps, "cpu_share": seen.cpu_share}


def post_training(own: Candidate, data: Data, floats: Path) -> dict[str, Any]:
    """Quantise the float network without training."""
    network = trained_blueprint(own, data.input_shape, len(data.classes))
    recipe = Recipe.from_knobs(own["recipe"])
    float_own: Candidate = {"architecture": own["architecture"], "recipe": {}}
    source = load_weights(Network(trained_blueprint(float_own, data.input_shape, len(data.classes))), floats)
    model = with_weights(network, source.state_dict())
    with torch.no_grad():
        for _, layer in layers_of_few_bits(model):
            assert layer.packing is not None
            levels = Levels(layer.packing)
            scales = levels.first_scales(layer.weight)
            for _ in range(REFINEMENTS):
                scales = levels.fitted_scales(layer.weight, scales)
            layer.weight_scale.copy_(scales)
            layer.weight.copy_(levels.projected(layer.weight, scales))
    plainly = score(model, data, recipe)
    normalise = Normalise(data.mean, data.std, CPU)
    reestimate_norms(model, [normalise(part) for part in torch.split(data.train.images[:NORM_IMAGES], 250)])
    return {**score(model, data, recipe), "without norms": plainly["test"]}


def score(model: Network, data: Data, recipe: Recipe) -> dict[str, Any]:
    """Return the accuracies of a network."""
    normalise = Normalise(data.mean, data.std, CPU)
    found = {}
    for name, split in (("accuracy", data.val), ("test", data.test())):
        found[name] = accuracy(predict(model, split, normalise, CPU, recipe.test_flip), split.labels)
    return found


def parq(own: Candidate, data: Data, arm: Arm, settings: Prepare) -> dict[str, Any]:
    """Train by torchao's PARQ around the recipe's optimizer."""
    from torchao.prototype.parq.optim import ProxPARQ, QuantOptimizer
    from torchao.prototype.parq.quant import LSBQuantizer

    network = trained_blueprint(own, data.input_shape, len(data.classes))
    recipe = Recipe.from_knobs({**own["recipe"], "quantiser": "none"})
    clock = clock_from_json({"train_seconds": settings.seconds})
    clock.start()
    with seeded(arm.seed, CPU):
        trainer = Trainer(network, recipe, data, clock, arm.seed, CPU)
        chosen = {id(layer.weight) for _, layer in layers_of_few_bits(trainer.network)}
        groups = []
        for group in trainer.optimizer.param_groups:
            few = [p for p in group["params"] if id(p) in chosen]
            rest = [p for p in group["params"] if id(p) not in chosen]
            groups += [{**group, "params": rest}] if rest else []
            groups += [{**group, "params": few, "quant_bits": arm.bits}] if few else []
            for p in few:
                p.data = p.data.contiguous()  # in channels-last memory PARQ writes into a copy
        trainer.optimizer.param_groups = groups

        class ByClock(ProxPARQ):  # type: ignore[misc]
            def apply_(self, p: Any, q: Any, levels: Any, step_count: int, dim: Any = None) -> float:
                return float(super().apply_(p, q, levels, int(CLOCK_STEPS * clock.fraction()), dim))

        quantizer = LSBQuantizer(optimal=arm.bits <= 2)
        anneal = ByClock(0, int(ANNEALED * CLOCK_STEPS))
        trainer.optimizer = QuantOptimizer(trainer.optimizer, quantizer, anneal, quant_period=1, quant_per_channel=True)
        observation, model = trainer.run()
    levels = max(len(row.unique()) for _, layer in layers_of_few_bits(model) for row in layer.weight.flatten(1))
    test = score(model, data, recipe)["test"]
    return {
        "accuracy": observation.accuracy,
        "test": test,
        "steps": observation.steps,
        "cpu_share": observation.cpu_share,
        "most levels of a channel": levels,
    }


def main() -> None:
    """Train what the file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--train-images", type=int, default=5000)
    parser.add_argument("--val-images", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--layers", default="inner")
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    settings = {name: getattr(options, name) for name in ("train_images", "val_images", "seconds", "layers")}
    settings |= {"data": options.data.name, "torchao": version("torchao")}
    found = {"machine": machine(), "settings": settings, "rows": []}
    found = json.loads(options.to.read_text()) if options.to.exists() else found
    if found["settings"] != settings:
        parser.error(f"{options.to} has other settings ({found['settings']}): choose another file")
    done = {row["key"]: row for row in found["rows"] if "failure" not in row}
    folder = options.to.parent / f"{options.to.stem}-weights"
    folder.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        spec = DataSpec(str(options.data), options.train_images, options.val_images, None, seed)
        prepare = Prepare(spec, options.seconds, str(folder), options.layers)
        with LocalExecutor(prepare, share_slots(2, "cpu"), 900.0, ("torch._dynamo",)) as executor:
            chosen = [
                arm
                for network in options.networks
                for arm in arms(network, seed)
                if arm.method in options.methods and arm.start in options.starts
            ]
            for stage in stages(chosen):
                missing = [arm for arm in stage if arm.key not in done]
                jobs = [Job(i, {"arm": asdict(arm)}) for i, arm in enumerate(missing)]
                for event in executor.results(jobs):
                    if event.kind not in ("done", "failed"):
                        continue
                    arm = missing[event.number]
                    row = {"key": arm.key, "arm": asdict(arm), "costs": costs(arm, options.layers)}
                    row |= event.result if event.kind == "done" else {"failure": event.reason}
                    print(arm, row.get("test"), row.get("failure", ""), flush=True)
                    done[arm.key] = row
                    options.to.write_text(json.dumps({**found, "rows": list(done.values())}, indent=1) + "\n")


def stages(chosen: list[Arm]) -> list[list[Arm]]:
    """Return the arms in two stages: the second needs weights of the first."""
    return [[arm for arm in chosen if arm.start == start] for start in STARTS]


def costs(arm: Arm, layers: str) -> dict[str, int]:
    """Return the costs of an arm's network on images of CIFAR-10."""
    return blueprint_cost(trained_blueprint(candidate(arm, layers), (3, 32, 32), 10))


if __name__ == "__main__":
    main()
