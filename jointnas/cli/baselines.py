"""`jointnas baselines`: the eighteen networks to start from, trained alike on several subsets and ranked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jointnas.cli.common import (
    DataOption,
    Device,
    ImageSize,
    Json,
    Measured,
    TrainImages,
    TrainSteps,
    TrainTime,
    ValImages,
    Workers,
    check_seed,
    clock_json,
    figure_texts,
    figures_of,
    interruptible,
    messages,
    print_json,
    print_table,
    spread_text,
)

if TYPE_CHECKING:
    from jointnas.campaign.store import Trial
    from jointnas.data import DataSpec


def baselines(
    data: DataOption = None,
    train_images: TrainImages = None,
    val_images: ValImages = None,
    image_size: ImageSize = None,
    train_time: TrainTime = None,
    train_steps: TrainSteps = None,
    repeats: Annotated[
        int, typer.Option(help="Trainings of each, every one on images that a seed of its own draws.")
    ] = 10,
    measure: Measured = None,
    only: Annotated[list[str] | None, typer.Option(help="A baseline to train; repeatable (default: all 18).")] = None,
    workers: Workers = 1,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the first repeat's images, and of the trainings.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The run's folder (default: a new one in runs/).")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run; --repeats may differ from before.")
    ] = False,
    export: Annotated[
        str | None,
        typer.Option(help="Print this baseline as a candidate file, to edit or to start from; trains nothing."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train the usual image classifiers by one plain recipe and rank them by their mean validation accuracy.

    \b
    Examples:
      jointnas baselines --data cifar10 --train-images 5000 --val-images 1000 --train-time 10m
      jointnas baselines --data photos/ --only senet18 --only resnet18 --repeats 3 --train-time 60s --workers 2
      jointnas baselines --export senet18 > mine.toml
    """
    if export is not None:
        _print_candidate(export)
        return
    from jointnas.campaign.baselines import ARCHITECTURES, trainable
    from jointnas.data import DataSpec
    from jointnas.errors import SearchError
    from jointnas.training.clock import clock_from_json

    check_seed(seed)
    if repeats < 1:
        raise SearchError(f"--repeats is 1 or more, got {repeats}: raise it")
    asked = list(dict.fromkeys(only or ARCHITECTURES))
    names = trainable(asked)
    missing = [name for name in asked if name not in names]
    if not names:
        raise SearchError(f"{', '.join(missing)} need timm, got none: pip install 'jointnas[baselines]'")
    if missing:
        messages.print(f"left out without timm (pip install 'jointnas[baselines]'): {', '.join(missing)}")
    clock = clock_json(train_time, train_steps)
    clock_from_json(clock)
    spec = DataSpec(data or "digits", train_images, val_images, image_size, seed)
    _conduct(names, repeats, spec, clock, measure or [], workers, device, out, resume, as_json)


def _print_candidate(name: str) -> None:
    import tomli_w

    from jointnas.campaign.baselines import candidate
    from jointnas.campaign.candidate_file import FORMAT

    typer.echo(tomli_w.dumps({"format": FORMAT, **candidate(name)}), nl=False)


def _conduct(
    names: list[str],
    repeats: int,
    spec: DataSpec,
    clock: dict[str, Any],
    measure: list[str],
    workers: int,
    device: str,
    out: Path | None,
    resume: bool,
    as_json: bool,
) -> None:
    from jointnas.campaign.baselines import rank, train_baselines
    from jointnas.cli.folders import open_run
    from jointnas.data import load_data
    from jointnas.errors import SearchError
    from jointnas.execution import share_slots
    from jointnas.measurement.meter import Meter, check_metrics
    from jointnas.space.toml import GROUPS
    from jointnas.training.clock import clock_from_json

    slot = share_slots(workers, device)
    loaded = load_data(spec)
    for note in loaded.notes:
        messages.print(note)
    specification = {
        "baselines": names,
        "rounds": repeats,  # which a resumption may change
        "data": spec.to_json(),
        "fingerprint": loaded.fingerprint,
        "input_shape": list(loaded.input_shape),
        "classes": list(loaded.classes),
        "clock": clock,
        "seed": spec.seed,
        "slot": slot.to_json(),
        "constraints": [],
    }
    check_metrics(measure, slot.device)
    run = open_run(out, specification, "baselines", resume)

    def watch(name: str, trial: Trial) -> None:
        messages.print(_line(name, trial, repeats))

    with run, interruptible(f"go on with the same command, --resume and --out {run.path}"):
        train_baselines(run, names, repeats, spec, slot, clock_from_json(clock), watch)
        trials = run.trials()
    rows = rank(trials, names, loaded.input_shape, len(loaded.classes))
    fitting = [row for row in rows if row["macs"] is not None]
    with Meter(slot, loaded.input_shape, len(loaded.classes)) as meter:
        candidates = [{group: row[group] for group in GROUPS} for row in fitting]
        for row, figures in zip(fitting, figures_of(meter, candidates, measure), strict=True):
            row.update(figures)
    failed = sum(len(row["failures"]) for row in rows)
    if as_json:
        print_json({"run": str(run.path), "trials": len(trials), "failed": failed, "baselines": rows})
    else:
        _print_rows(str(run.path), rows, measure)
    if failed == len(trials):
        raise SearchError(f"baselines are ranked by trainings that succeed, got {failed} failures: see above")


def _line(name: str, trial: Trial, repeats: int) -> str:
    """Return one line on a training that has ended."""
    from jointnas.units import format_duration

    o = trial.observation
    if o is None or o.accuracy is None:
        said = f"failed: {o.failure if o else 'no result'}"
    else:
        said = f"accuracy {o.accuracy:.4f}  ({o.steps} steps, {format_duration(o.seconds or 0)})"
    return f"repeat {trial.round} of {repeats}  {name:<14}  {said}"


def _print_rows(path: str, rows: list[dict[str, Any]], measured: list[str]) -> None:
    metrics = ["macs", "params", *measured]
    shown = []
    for row in rows:
        accuracy, speed = row["val_accuracy"], row["images_per_second"]
        shown.append(
            (
                str(row["rank"]),
                row["name"],
                spread_text(accuracy) if accuracy["seeds"] else row["failures"][0],
                f"{len(accuracy['seeds'])}/{len(accuracy['seeds']) + len(row['failures'])}",
                *figure_texts(row, metrics),
                "" if speed is None else f"{speed:.0f}",
            )
        )
    columns = ("rank", "baseline", "validation accuracy", "trained", *metrics, "images/s")
    print_table(f"baselines of {path}", columns, shown)
