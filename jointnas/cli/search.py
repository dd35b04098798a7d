"""`jointnas search`: its options, and which of them go together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from jointnas.cli.answers import ask_again
from jointnas.cli.campaign import conduct
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
    parse_assignments,
)

ASKED_AGAIN = (
    "from_",
    "constraint",
    "objective",
    "measure",
    "engine",
    "top",
    "seed",
    "frontier",
    "sweep",
    "out",
    "as_json",
)
"""What `--from` takes."""


def search(
    context: typer.Context,
    constraint: Annotated[
        list[str] | None,
        typer.Option(
            "--constraint",
            "-c",
            help="A bound such as 'macs<40M', on macs, params, activations, size or memory, or, measured on this device, "
            "on latency, batch_latency (or the 95th percentile of either, as in latency_p95), images_per_second, train_memory or energy, or on "
            "accuracy; repeatable.",
        ),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="'max accuracy', or 'min METRIC' beside a constraint such as 'accuracy>=0.8'.")
    ] = "max accuracy",
    measure: Measured = None,
    space: Annotated[str, typer.Option(help="A built-in space (see `jointnas spaces`) or a TOML file.")] = "resnet9",
    data: DataOption = None,
    train_images: TrainImages = None,
    val_images: ValImages = None,
    image_size: ImageSize = None,
    train_time: TrainTime = None,
    train_steps: TrainSteps = None,
    rounds: Annotated[int, typer.Option(help="Batches that are trained, the predictor refitted after each.")] = 4,
    batch: Annotated[int, typer.Option(help="Candidates in a batch.")] = 8,
    total_time: Annotated[
        str | None, typer.Option(help="Time of all trainings together, those that confirm winners too; sets the batch.")
    ] = None,
    early_stop: Annotated[
        float | None,
        typer.Option(
            help="Kendall's τ, 0.92 in the paper: later rounds train only the part of the budget that surely ranks so well."
        ),
    ] = None,
    confirm: Annotated[
        int | None,
        typer.Option(
            help="Winners trained once more in the end, at the whole budget, with another seed (default: 0; all of them with "
            "--early-stop or --total-time)."
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(help="What searches the predictor in stage two: evolution, mads, hillclimb, or all of them."),
    ] = "evolution",
    real: Annotated[
        bool,
        typer.Option("--real", help="Let the engine search real trainings, --rounds times --batch of them at most."),
    ] = False,
    repeats: Annotated[
        int,
        typer.Option(help="With --real: trainings of a candidate before it counts as the best; their mean decides."),
    ] = 1,
    start: Annotated[
        list[str] | None,
        typer.Option(
            help="A candidate file or built-in recipe to train first; with --real, where it starts; repeatable."
        ),
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(
            help="A predictor of an earlier campaign to start from: built-in, a folder, a run, or none (default: the built-in one "
            "of the space's network)."
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Winners to return.")] = 5,
    workers: Workers = 1,
    device: Device = "auto",
    fix: Annotated[
        list[str] | None, typer.Option(help="Hold a knob at a value, as in optimizer=sgd; repeatable.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Hold the network of a candidate file or built-in recipe; search recipes alone.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the data's split, the pool, the trainings and the predictor.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The run's folder (default: a new one in runs/).")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with a run; --rounds, --batch, --top, --engine, --repeats and --confirm may differ from before.",
        ),
    ] = False,
    from_: Annotated[
        str | None, typer.Option("--from", help="Ask an ended run or a saved predictor instead of training: seconds.")
    ] = None,
    frontier: Annotated[
        str | None,
        typer.Option(
            help="With --from: a cost such as macs or latency; returns --top candidates that trade accuracy for it."
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="With --from: one bound after another, as in 'macs<5M,10M,20M'; --top winners under each; repeatable."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained and how long it would take.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Search a space for the most accurate architecture and recipe under cost constraints.

    \b
    Examples:
      jointnas search --constraint 'macs<2M' --train-time 5s --rounds 3 --batch 6
      jointnas search -c 'macs<40M' -c 'size<4MB' --data photos/ --workers 2 --out runs/photos
      jointnas search --from runs/photos --constraint 'macs<10M' --constraint 'latency<2ms'
      jointnas search --from runs/photos --objective 'min latency' --constraint 'accuracy>=0.8'
      jointnas search --from runs/photos --frontier macs --top 20
      jointnas search --from runs/photos --sweep 'macs<5M,10M,20M' --top 1
      jointnas search --from runs/photos --engine all
      jointnas search --space autotrain --architecture resnet9-baseline --data photos/
      jointnas search --space nomad-nas --real --engine mads --objective 'min macs' --constraint 'accuracy>=0.6' --repeats 3
    """
    from jointnas.errors import SearchError
    from jointnas.search.engines import engine_names, find_engine
    from jointnas.search.search import ALL
    from jointnas.space.space import Space

    for name in engine_names() if engine == ALL else [engine]:
        find_engine(name)
    check_seed(seed)
    for name, value in (("--rounds", rounds), ("--batch", batch), ("--top", top), ("--repeats", repeats)):
        if value < 1:
            raise SearchError(f"{name} is 1 or more, got {value}: raise it")
    if early_stop is not None and not 0 < early_stop <= 1:
        raise SearchError(f"--early-stop is a rank correlation in (0, 1], got {early_stop:g}: say 0.92")
    if from_ is not None:
        for name in context.params:
            if name not in ASKED_AGAIN and _said(context, name):
                option = f"--{name.replace('_', '-')}"
                raise SearchError(
                    "--from trains nothing and takes --constraint, --objective, --measure, --engine, --frontier, --sweep, --top, "
                    f"--seed and --out, got {option}: drop it"
                )
        if frontier is not None and (_said(context, "engine") or _said(context, "objective")):
            raise SearchError(
                "--frontier has an engine and objectives of its own, got --engine or --objective: drop it"
            )
        if frontier is not None and any(text.strip().startswith("accuracy") for text in constraint or []):
            raise SearchError("--frontier trades accuracy itself, got a bound on it beside --frontier: drop it")
        if frontier is not None and sweep:
            raise SearchError(
                f"--frontier and --sweep are two questions, got --sweep {sweep[0]} beside --frontier: drop one"
            )
        asked = constraint or [], objective, measure or [], engine, top, seed, frontier, sweep or [], out
        ask_again(from_, *asked, as_json)
        return
    from jointnas.campaign.candidate_file import find_candidate  # it imports PyTorch, which asking does without
    from jointnas.execution import share_slots

    for name, question in (("--frontier", frontier), ("--sweep", next(iter(sweep or []), None))):
        if question is not None:
            raise SearchError(f"{name} asks an ended run, got {name} {question} without --from: name the run")
    if real and engine == ALL:
        raise SearchError("--real trains what one engine proposes, got --engine all: choose one")
    if real and early_stop is not None:
        raise SearchError("--real trains the whole budget, got --early-stop: drop one")
    if repeats > 1 and not real:
        raise SearchError(f"--repeats goes with --real, got --repeats {repeats} alone: add --real or drop it")
    if confirm is not None and not 0 <= confirm <= top:
        raise SearchError(f"--confirm lies between 0 and the {top} winners of --top, got {confirm}: change it")
    if real and confirm is not None:
        raise SearchError(f"--real confirms winners by --repeats, got --confirm {confirm}: drop it")
    clock = clock_json(train_time, train_steps)
    if confirm is None:
        confirm = top if not real and (early_stop is not None or total_time is not None) else 0
    if total_time is not None:
        if _said(context, "batch"):
            raise SearchError(f"--total-time sets the batch, got --batch {batch} beside it: drop one")
        if repeats > 1:
            raise SearchError(
                f"--total-time counts one training a candidate, got --repeats {repeats} beside it: drop one"
            )
        batch = _batch_for(total_time, clock, rounds, share_slots(workers, device).workers, confirm)
    spec = {
        "data": {
            "source": data or "digits",
            "train_images": train_images,
            "val_images": val_images,
            "image_size": image_size,
        },
        "clock": clock,
        "seed": seed,
        "rounds": rounds,
        "batch": batch,
        "top": top,
        "engine": engine,
        "early_stop": early_stop,
        "confirm": confirm,
        "objective": objective,
        "measure": measure or [],
        "real": real,
        "repeats": repeats,
        "prior": prior,
    }
    held = find_candidate(architecture).candidate["architecture"] if architecture is not None else None
    unbound = Space.load(space)  # before the data: a wrong name costs no decoding
    unbound = (unbound if held is None else unbound.with_architecture(held)).fix(parse_assignments(fix or []))
    starts = {name: find_candidate(name).candidate for name in start or []}
    conduct(spec, unbound, constraint or [], starts, workers, device, out, resume, dry_run, as_json)


def _said(context: typer.Context, name: str) -> bool:
    """Return whether an option stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _batch_for(total_time: str, clock: dict[str, Any], rounds: int, workers: int, confirm: int) -> int:
    """Return the batch of rounds that fill the time, but for a share in which winners are confirmed."""
    from jointnas.errors import BudgetError
    from jointnas.units import format_duration, parse_duration

    if "train_seconds" not in clock:
        raise BudgetError("--total-time needs a training time, got --train-steps: say --train-time or --batch")
    kept = math.ceil(confirm / workers)
    waves = (int(parse_duration(total_time) / clock["train_seconds"]) - kept) // rounds
    if waves < 1:
        least = format_duration((rounds + kept) * clock["train_seconds"])
        share = f" and of the {confirm} winners to confirm" if confirm else ""
        raise BudgetError(
            f"--total-time holds one training a round{share}, got {total_time} for {rounds} rounds: say {least} or more"
        )
    return waves * workers
