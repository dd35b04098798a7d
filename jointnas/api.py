"""The functions of the library: run a whole campaign, build a candidate's network, train one candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from jointnas.campaign.campaign import run
from jointnas.campaign.events import Callback
from jointnas.campaign.options import make_spec
from jointnas.campaign.result import Campaign
from jointnas.campaign.spec import NashSpec, SearchSpec
from jointnas.data.dataset import load_data
from jointnas.data.spec import DataSpec
from jointnas.efficiency.models import reference_named
from jointnas.errors import SearchError
from jointnas.execution.slots import share_slots
from jointnas.network.module import Network
from jointnas.network.module import build as build_network
from jointnas.space.knob_space import check_candidate
from jointnas.space.space import Space
from jointnas.training.clock import StepClock, WallClock
from jointnas.training.recipe import Recipe
from jointnas.training.trained_blueprint import trained_blueprint
from jointnas.training.trainer import Training, train_network
from jointnas.units import parse_duration


def run_search(
    data: str | Path | DataSpec | None = None,
    constraints: Sequence[str] = (),
    train_time: str | float | None = None,
    *,
    rounds: int | None = None,
    batch: int | None = None,
    workers: int | None = None,
    space: str | Path | Space | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Campaign:
    """Run a whole campaign, as `jointnas search` does, and return its result, a view of the run's folder.

    data: a name, a path, or a `DataSpec`, whose seed sets the split (default: digits). train_time: the budget of each training,
    as "60s" or in seconds (default: 10m). workers: trainings side by side (default: 1, or one for each GPU). space: a built-in name, a TOML
    file, or a `Space` (default: resnet9). out: the run's folder; by default a new one in runs/.
    callbacks: called with every event (`jointnas.campaign.events`). options: the other settings of `jointnas search`, such as
    train_steps, train_images, seed, objective, relative_to (a run or a table), engine, prior, start, early_stop, confirm, fix,
    kind ("direct", which is `--real`, "nash", "policy"), train_fn.
    Starts worker processes: call it below `if __name__ == "__main__":` in a script. Raises `JointNASError` for what is wrong
    with the settings, and `SearchError` when all trainings of the first round failed.
    """
    settings = {
        "data": data,
        "constraints": list(constraints),
        "train_time": train_time,
        "rounds": rounds,
        "batch": batch,
        "workers": workers,
        "space": space,
    }
    if isinstance(options.get("relative_to"), str | Path):
        options["relative_to"] = reference_named(options["relative_to"]).to_json()
    spec = make_spec({**settings, **options})
    if not isinstance(spec, SearchSpec | NashSpec):
        raise SearchError(
            f"run_search runs a search, got the kind {spec.kind!r}: use 'search', 'direct', 'nash' or 'policy'"
        )
    return run(spec, callbacks, out=None if out is None else Path(out), resume=resume)


def build(candidate: Mapping[str, Any], input_shape: Sequence[int], classes: int, seed: int = 0) -> Network:
    """Return the candidate's network with fresh weights, an `nn.Module` from (n, C, H, W) images of the data's own size.

    Raises `BlueprintError` for an unknown network or knob.
    """
    check_candidate(candidate)
    shape = tuple(int(d) for d in input_shape)
    return build_network(trained_blueprint(candidate, shape, classes), torch.Generator().manual_seed(seed))


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
    network = trained_blueprint(candidate, loaded.input_shape, len(loaded.classes))
    recipe = Recipe.from_knobs(candidate["recipe"])
    return train_network(network, recipe, loaded, clock, seed=seed, device=slot.name, stop_at=stop_at)
