"""`jointnas retrain`: winners trained again with several seeds, and scored on the test images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jointnas.cli.common import (
    Ensemble,
    Json,
    Measured,
    Members,
    Quiet,
    Ray,
    Threads,
    TrainSteps,
    TrainTime,
    figure_texts,
    figures_of,
    interruptible,
    messages,
    print_json,
    print_table,
    spread_text,
)
from jointnas.cli.evaluate import print_confusion


def retrain_command(
    source: Annotated[str, typer.Argument(help="A run (folder, or name in runs/), or an exported candidate file.")],
    query: Annotated[int | None, typer.Option(help="Whose winners: a query's number (default: the latest).")] = None,
    top: Annotated[int, typer.Option(help="How many winners.")] = 3,
    seeds: Annotated[int, typer.Option(help="Trainings of each winner.")] = 5,
    train_time: TrainTime = None,
    train_steps: TrainSteps = None,
    workers: Annotated[int | None, typer.Option(help="Trainings side by side (default: the run's).")] = None,
    members: Members = None,
    ensemble: Ensemble = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:0,1 or mps (default: the run's).")] = None,
    ray: Ray = None,
    threads: Threads = None,
    to: Annotated[Path | None, typer.Option(help="Folder for the networks (default: RUN/retrained).")] = None,
    measure: Measured = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train winners again with several seeds, in the run's own kind of slot, and score the test images once for each.

    Each training is kept as it ends: after an interruption the same command goes on. The run keeps what they reached, the
    latest of each budget and slot: see `jointnas runs show`.

    \b
    Examples:
      jointnas retrain runs/digits-resnet9-1 --top 3 --seeds 3
      jointnas retrain winner-1.toml --seeds 5 --train-time 10m --to final/
    """
    from jointnas.campaign.retrain import RetrainingEnded
    from jointnas.campaign.retraining import Retraining, check_seeds
    from jointnas.errors import ExportError, printable
    from jointnas.measurement.meter import Meter

    check_seeds(seeds)
    retraining = Retraining.of(
        source,
        query=query,
        top=top,
        train_time=train_time,
        train_steps=train_steps,
        workers=workers,
        device=device,
        to=to,
        members=members,
        ensemble=ensemble,
        ray=ray,
        threads=threads,
    )
    if measure and any(file.members > 1 for file in retraining.files):
        raise ExportError(f"--members adds up exact costs, got --measure {measure[0]}: drop one of them")
    for note in retraining.notes:
        messages.print(note)
    data = retraining.data

    def print_training(news: RetrainingEnded) -> None:
        accuracy = news.result.test_accuracy
        outcome = f"failed: {news.result.observation.failure}" if accuracy is None else f"test accuracy {accuracy:.4f}"
        messages.print(f"training {news.ended} of {news.total}  {outcome}")

    with interruptible(lambda: "repeat the command: trainings that ended are kept"):
        with Meter(retraining.slot, data.input_shape, len(data.classes)) as meter:
            measured = figures_of(meter, [file.candidate for file in retraining.files], measure or [])
        retrained = retraining.conduct(seeds, print_training)
    rows = [{**one.to_json(), **figures} for one, figures in zip(retrained, measured, strict=True)]
    if as_json:
        print_json({"winners": rows})
    else:
        for one in retrained:
            for failure in one.failures:
                typer.echo(f"winner {one.rank}: {printable(failure)}", err=True)
        _print_retrained(rows, measure or [], data.test_images, seeds)
        first = next((one for one in retrained if one.confusion is not None), None)
        if first is not None and first.confusion is not None:
            typer.echo()
            print_confusion(first.confusion)
    if not any(one.test_accuracies for one in retrained):
        raise ExportError(f"all {len(retrained) * seeds} trainings failed: see the reasons above")


def _print_retrained(rows: list[dict[str, Any]], measured: list[str], test_images: int, seeds: int) -> None:
    metrics = ["macs", *measured]
    print_table(
        f"{seeds} seeds each, {test_images} test images",
        ("rank", "test accuracy", "validation", "predicted", *metrics, "folder"),
        [
            (
                str(row["rank"]),
                spread_text(row["test_accuracy"]),
                spread_text(row["val_accuracy"]),
                "" if row["predicted_accuracy"] is None else f"{row['predicted_accuracy']:.4f}",
                *figure_texts(row, metrics),
                row["folder"],
            )
            for row in rows
        ],
    )
