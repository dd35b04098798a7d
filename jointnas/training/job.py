"""The job that a search sends to its workers: train one candidate; for a finished winner, also test and keep it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from jointnas.data import Data, DataSpec, load_data
from jointnas.execution.worker import Handler, Progress
from jointnas.network import families
from jointnas.network.families import make_blueprint
from jointnas.network.module import save_weights
from jointnas.training.batches import Normalise
from jointnas.training.clock import StepClock, clock_from_json
from jointnas.training.recipe import Recipe
from jointnas.training.scoring import accuracies, predict
from jointnas.training.trainer import CURVE_IMAGES, train_network

WORKER_MODULES = ("jointnas.training.job", "torch._dynamo")  # optimizers import the latter in their first step


def prepare_trials(spec: dict[str, Any], device: str, fingerprint: str) -> Handler:
    """Load the data and warm the libraries up, before any clock runs; return what trains the payload's candidate."""
    data = load_data(DataSpec(**spec), fingerprint=fingerprint)
    _warm_up(data, device)

    def handle(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
        return train_payload(payload, data, device, progress)

    return handle


def train_payload(payload: dict[str, Any], data: Data, device: str, progress: Progress | None = None) -> dict[str, Any]:
    """Train `payload["candidate"]` under `payload["clock"]` with `payload["seed"]` and return its observation as JSON.

    With `stop_at`, it ends after that fraction of its budget. With `curve_images`, its learning curve is read on so many
    validation images. With `weights`, the weights are kept in that file; with `test`, the test images are scored, after the clock.
    """
    candidate = payload["candidate"]
    network = make_blueprint(candidate["architecture"], data.input_shape, len(data.classes))
    recipe = Recipe.from_knobs(candidate["recipe"])
    clock = clock_from_json(payload["clock"])
    observation, model = train_network(
        network,
        recipe,
        data,
        clock,
        seed=payload["seed"],
        device=device,
        stop_at=payload.get("stop_at", 1.0),
        curve_images=payload.get("curve_images", CURVE_IMAGES),
        progress=progress,
    )
    result: dict[str, Any] = {"observation": observation.to_json()}
    if payload.get("test"):
        split = data.test()
        normalise = Normalise(data.mean, data.std, torch.device(device))
        tell = (lambda: progress(1.0, observation.seconds or 0.0)) if progress else (lambda: None)
        logits = predict(model, split, normalise, torch.device(device), recipe.test_flip, tell)
        result["test_accuracy"] = accuracies(logits, split.labels)[0]
    if payload.get("weights"):
        save_weights(model, Path(payload["weights"]))
    return result


def _warm_up(data: Data, device: str) -> None:
    """Take one step with a tiny network, so that imports and first calls do not count against a budget."""
    network = families.make_blueprint({"network": "resnet9", "width": 4}, data.input_shape, len(data.classes))
    recipe = Recipe(batch_size=min(32, len(data.train)), optimizer="adamw")
    train_network(network, recipe, data, StepClock(1), device=device)
