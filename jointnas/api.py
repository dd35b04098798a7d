"""The two functions that need neither a search nor a run: build a candidate's network, train a candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from jointnas.data import DataSpec, load_data
from jointnas.execution import share_slots
from jointnas.network.families import make_blueprint
from jointnas.network.module import Network
from jointnas.network.module import build as build_network
from jointnas.space.knob_space import check_candidate
from jointnas.training.clock import StepClock, WallClock
from jointnas.training.recipe import Recipe
from jointnas.training.trainer import Training, train_network
from jointnas.units import parse_duration


def build(candidate: Mapping[str, Any], input_shape: Sequence[int], classes: int, seed: int = 0) -> Network:
    """Return the candidate's network with fresh weights, an `nn.Module` from (n, C, H, W) images of the data's own size.

    Raises `BlueprintError` for an unknown network or knob.
    """
    check_candidate(candidate)
    shape = tuple(int(d) for d in input_shape)
    return build_network(make_blueprint(candidate["architecture"], shape, classes), torch.Generator().manual_seed(seed))


def train(
    candidate: Mapping[str, Any],
    data: str | DataSpec = "digits",
    train_time: str | float = "10m",
    *,
    train_steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    stop_at: float = 1.0,
) -> Training:
    """Train a candidate in this process; return its observation and the trained model.

    data: a source's name or path, or a `DataSpec`. train_time: a duration such as "60s", or seconds; train_steps replaces it.
    stop_at: fraction of the budget after which the training ends and is scored; schedules are those of the whole budget.
    Uses PyTorch's present number of threads. Raises `JointNASError` for whatever is wrong with the input.
    """
    check_candidate(candidate)
    slot = share_slots(1, device)
    loaded = load_data(data if isinstance(data, DataSpec) else DataSpec(data))
    seconds = parse_duration(train_time) if isinstance(train_time, str) else train_time
    clock = WallClock(seconds) if train_steps is None else StepClock(train_steps)
    network = make_blueprint(candidate["architecture"], loaded.input_shape, len(loaded.classes))
    recipe = Recipe.from_knobs(candidate["recipe"])
    return train_network(network, recipe, loaded, clock, seed=seed, device=slot.device, stop_at=stop_at)
