"""`jointnas train`: one candidate, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jointnas.cli.common import (
    DataOption,
    Device,
    Ensemble,
    Fit,
    ImageSize,
    Json,
    Members,
    TrainImages,
    TrainSteps,
    TrainTime,
    ValImages,
    interruptible,
    print_json,
    print_table,
)


def train_command(
    candidate: Annotated[str, typer.Argument(help="A candidate file, TOML or JSON, or a built-in recipe's name.")],
    data: DataOption = None,
    train_images: TrainImages = None,
    val_images: ValImages = None,
    image_size: ImageSize = None,
    fit: Fit = None,
    train_time: TrainTime = None,
    train_steps: TrainSteps = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights and of the order of images.")] = 0,
    members: Members = None,
    ensemble: Ensemble = None,
    device: Device = "auto",
    to: Annotated[Path | None, typer.Option(help="Folder to keep the trained network in.")] = None,
    as_json: Json = False,
) -> None:
    """Train one candidate once and score it on the validation images.

    A file that a run exported brings its data, image counts and budget; options replace them.

    \b
    Examples:
      jointnas train mine.toml --train-time 30s
      jointnas train resnet9-sam-ip --data cifar10 --train-images 5000
      jointnas train mine.toml --data photos/ --train-time 10m --to trained/
    """
    from jointnas.campaign.candidate_file import data_spec_of, find_candidate, make_writable
    from jointnas.campaign.options import clock_json
    from jointnas.campaign.winner_file import Member, WinnerFile
    from jointnas.data.dataset import load_data
    from jointnas.errors import JointNASError
    from jointnas.execution.slots import share_slots
    from jointnas.network.families import make_blueprint
    from jointnas.training.clock import clock_from_json
    from jointnas.training.job import TrainingJob, TrainingResult, member_files, trial_executor
    from jointnas.training.observation import Observation
    from jointnas.training.recipe import Recipe

    file = find_candidate(candidate).with_members(members, ensemble)
    spec = data_spec_of(file.training, data, train_images, val_images, image_size, fit)
    loaded = load_data(spec)
    clock = clock_json(train_time, train_steps, file.training.get("clock"))
    clock_from_json(dict(clock))
    network = make_blueprint(file.candidate["architecture"], loaded.input_shape, len(loaded.classes))
    weights = None
    if to is not None:
        make_writable(to)
        weights = f"seed-{seed}.safetensors"
    job = TrainingJob(
        file.candidate,
        clock,
        seed,
        weights=str(to / weights) if to and weights else None,
        members=file.members,
        ensemble=file.ensemble,
    )
    result = TrainingResult(Observation.failed("the training gave no result"))
    with (
        interruptible(lambda: "nothing was kept"),
        trial_executor(spec, share_slots(1, device), loaded.fingerprint) as executor,
    ):
        for event in executor.results([job.numbered(1)]):
            if event.kind in ("done", "failed"):
                result = TrainingResult.of(event)
    observation = result.observation
    if observation.accuracy is None:
        raise JointNASError(f"the training failed: {observation.failure}")
    if result.unsaved:
        raise JointNASError(
            f"the network cannot be written to {str(to)!r} ({result.unsaved}): make room, then train again"
        )
    outcome = {**observation.to_json(), "folder": str(to) if to else None}
    if to is not None and weights is not None:
        flip = Recipe.from_knobs(file.candidate["recipe"]).test_flip
        files = member_files(to / weights, result.members)
        kept = tuple(Member(network, path.name, loaded.mean, loaded.std, flip) for path in files)
        WinnerFile(kept, loaded.classes, file.candidate, outcome, loaded.fit).write(to)
    if as_json:
        print_json(outcome)
        return
    print_table(
        "",
        ("accuracy", "balanced", "steps", "images/s", "seconds"),
        [
            (
                f"{observation.accuracy:.4f}",
                f"{observation.balanced_accuracy:.4f}",
                str(observation.steps),
                f"{observation.images_per_second:.0f}",
                f"{observation.seconds:.2f}",
            )
        ],
    )
