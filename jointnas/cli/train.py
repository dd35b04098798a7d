"""`jointnas train`: one candidate, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    weights: Annotated[
        Path | None,
        typer.Option(help="Start from this trained network of the same architecture, as to give it fewer bits."),
    ] = None,
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
      jointnas train mine-2-bits.toml --weights trained/ --train-time 5m --to small/
    """
    from jointnas.campaign.candidate_file import data_spec_of, find_candidate, make_writable
    from jointnas.campaign.options import clock_json
    from jointnas.campaign.winner_file import Member, WinnerFile
    from jointnas.data.dataset import load_data
    from jointnas.errors import JointNASError
    from jointnas.execution.slots import share_slots
    from jointnas.training.clock import clock_from_json
    from jointnas.training.job import TrainingJob, TrainingResult, member_files, trial_executor
    from jointnas.training.observation import Observation
    from jointnas.training.recipe import Recipe
    from jointnas.training.trained_blueprint import trained_blueprint

    file = find_candidate(candidate).with_members(members, ensemble)
    spec = data_spec_of(file.training, data, train_images, val_images, image_size, fit)
    loaded = load_data(spec)
    clock = clock_json(train_time, train_steps, file.training.get("clock"))
    clock_from_json(dict(clock))
    network = trained_blueprint(file.candidate, loaded.input_shape, len(loaded.classes))
    parent = None if weights is None else _parent(weights, file.members)
    name = f"seed-{seed}.safetensors"
    if to is not None:
        make_writable(to)
    job = TrainingJob(
        file.candidate,
        clock,
        seed,
        weights=str(to / name) if to else None,
        parent=parent,
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
    if to is not None:
        flip = Recipe.from_knobs(file.candidate["recipe"]).test_flip
        files = member_files(to / name, result.members)
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


def _parent(folder: Path, members: int) -> dict[str, Any]:
    """Return what a training starts from: the single network in a winner's or a run's folder. Raises `ExportError`."""
    from jointnas.campaign.folders import BEST, WINNER_FILE
    from jointnas.campaign.winner_file import WinnerFile
    from jointnas.errors import ExportError

    folder = folder / BEST if (folder / BEST / WINNER_FILE).is_file() else folder
    winner = WinnerFile.read(folder)
    if len(winner.members) > 1 or members > 1:
        raise ExportError("weights are of one network, got --weights with an ensemble: train its members alone")
    return {
        "architecture": winner.candidate["architecture"],
        "weights": str((folder / winner.members[0].weights).resolve()),
    }
