"""`jointnas baselines`: the eighteen networks to start from, trained alike on several subsets and ranked."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jointnas.cli.common import (
    Alone,
    DataOption,
    Device,
    Fit,
    ImageSize,
    Json,
    Measured,
    MixMachines,
    Quiet,
    Ray,
    Threads,
    TrainImages,
    TrainSteps,
    TrainTime,
    ValImages,
    Workers,
    WorkersPerDevice,
    figure_texts,
    figures_of,
    given_options,
    interruptible,
    messages,
    print_json,
    print_table,
    spread_text,
)

if TYPE_CHECKING:
    from jointnas.campaign.spec import BaselinesSpec


def baselines_command(
    context: typer.Context,
    data: DataOption = None,
    train_images: TrainImages = None,
    val_images: ValImages = None,
    image_size: ImageSize = None,
    fit: Fit = None,
    train_time: TrainTime = None,
    train_steps: TrainSteps = None,
    repeats: Annotated[int, typer.Option(help="Trainings of each, each on images that another seed draws.")] = 10,
    measure: Measured = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Train them by the recipe of this candidate file or built-in recipe (default: a plain one)."),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="A candidate file or built-in recipe to train beside them, by its own recipe; repeatable."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="A baseline to train; repeatable (default: all 18).")] = None,
    workers: Workers = 1,
    device: Device = "auto",
    workers_per_device: WorkersPerDevice = None,
    alone: Alone = False,
    ray: Ray = None,
    threads: Threads = None,
    mix_machines: MixMachines = False,
    seed: Annotated[int, typer.Option(help="Seed of the first repeat's images, and of the trainings.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The run's folder (default: a new one in runs/).")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run; --repeats may differ from before.")
    ] = False,
    export: Annotated[
        str | None,
        typer.Option(help="Print this baseline as a candidate file, to edit or to start from; trains nothing."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train the usual image classifiers by one recipe and rank them by their mean validation accuracy.

    \b
    Examples:
      jointnas baselines --data cifar10 --train-images 5000 --val-images 1000 --train-time 10m
      jointnas baselines --data photos/ --only senet18 --only resnet18 --repeats 3 --train-time 60s --workers 2
      jointnas baselines --data photos/ --also mine.toml --recipe resnet9-1m --train-time 60s
      jointnas baselines --export senet18 > mine.toml
    """
    if export is not None:
        _print_candidate(export)
        return
    from jointnas.campaign.baselines import ARCHITECTURES, trainable
    from jointnas.campaign.candidate_file import find_candidate
    from jointnas.campaign.options import make_spec
    from jointnas.campaign.spec import BaselinesSpec
    from jointnas.errors import SearchError

    selected = list(dict.fromkeys(only or ARCHITECTURES))
    names = trainable(selected)
    missing = [name for name in selected if name not in names]
    if not names:
        raise SearchError(f"{', '.join(missing)} need timm, which is not installed: pip install timm")
    if missing:
        messages.print(f"left out, as timm is not installed (pip install timm): {', '.join(missing)}")
    no_setting = ("only", "recipe", "also", "measure", "out", "resume", "export", "as_json", "quiet")
    settings = {name: value for name, value in given_options(context).items() if name not in no_setting}
    beside: dict[str, Any] = {}
    for given in also or []:
        file, name = find_candidate(given), Path(given).stem
        if name in beside or name in ARCHITECTURES:
            raise SearchError(
                f"--also needs a different name for each file, and none of a baseline, got {name!r} again: rename a file"
            )
        if file.members > 1:
            raise SearchError(
                f"baselines are single networks, got {given!r} with {file.members} members: choose another"
            )
        beside[name] = file.candidate
    own = None if recipe is None else find_candidate(recipe).candidate["recipe"]
    spec = make_spec({**settings, "baselines": names, "recipe": own, "also": beside}, "baselines")
    assert isinstance(spec, BaselinesSpec)
    _train_and_print(spec, measure or [], out, resume, as_json)


def _print_candidate(name: str) -> None:
    import tomli_w

    from jointnas.campaign.baselines import candidate
    from jointnas.campaign.candidate_file import FORMAT

    typer.echo(tomli_w.dumps({"format": FORMAT, **candidate(name)}), nl=False)


def _train_and_print(spec: BaselinesSpec, measure: list[str], out: Path | None, resume: bool, as_json: bool) -> None:
    from jointnas.campaign.baselines import by_accuracy, train_baselines
    from jointnas.campaign.events import Event, TrialEnded
    from jointnas.campaign.folders import open_run
    from jointnas.campaign.store import Context
    from jointnas.cli.display import outcome_text
    from jointnas.data.dataset import load_data
    from jointnas.errors import SearchError
    from jointnas.measurement.meter import Meter, check_metrics
    from jointnas.space.toml import GROUPS

    assert spec.data is not None
    slot, data = spec.slot, load_data(spec.data)
    for note in data.notes:
        messages.print(note)
    check_metrics(measure, slot.device)
    run = open_run(out, spec, Context.of(None, data, slot), resume)

    def print_trial(event: Event) -> None:
        if isinstance(event, TrialEnded):
            trial = event.trial
            messages.print(f"repeat {trial.round} of {spec.repeats}  {trial.identity:<14}  {outcome_text(trial)}")

    with run, interruptible(lambda: f"continue with the same command, --resume and --out {shlex.quote(str(run.path))}"):
        train_baselines(run, print_trial)
        trials = run.trials()
    rows = by_accuracy(trials, spec, data.input_shape, len(data.classes))
    fitting = [row for row in rows if row["macs"] is not None]
    with Meter(slot, data.input_shape, len(data.classes)) as meter:
        candidates = [{group: row[group] for group in GROUPS} for row in fitting]
        for row, figures in zip(fitting, figures_of(meter, candidates, measure), strict=True):
            row.update(figures)
    failed = sum(len(row["failures"]) for row in rows)
    if as_json:
        print_json({"run": str(run.path), "trials": len(trials), "failed": failed, "baselines": rows})
    else:
        _print_rows(str(run.path), rows, measure)
    if failed == len(trials):
        raise SearchError(f"all {failed} trainings failed, so nothing is ranked: see the reasons above")


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
