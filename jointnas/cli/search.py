"""`jointnas search`: the campaign, its resumption, and questions to a campaign that has ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
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
    architecture_text,
    clock_json,
    interruptible,
    messages,
    parse_assignments,
    print_json,
    print_table,
    recipe_text,
)

if TYPE_CHECKING:
    from jointnas.search import EngineReport, Search
    from jointnas.space import Candidate, Space

ASKED_AGAIN = ("from_", "constraint", "objective", "measure", "engine", "top", "seed", "frontier", "as_json")
"""What `--from` takes."""


def search(
    context: typer.Context,
    constraint: Annotated[
        list[str] | None,
        typer.Option(
            "--constraint",
            "-c",
            help="A bound such as 'macs<40M', on macs, params, activations, size or memory, or, measured on this device, "
            "on latency, batch_latency, images_per_second, train_memory or energy, or on accuracy; repeatable.",
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
    total_time: Annotated[str | None, typer.Option(help="Time of all trainings together; sets the batch.")] = None,
    early_stop: Annotated[
        float | None,
        typer.Option(
            help="Kendall's τ, 0.92 in the paper: later rounds train only the part of the budget that ranks the first so well."
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
            help="Go on with a run; --rounds, --batch, --top, --engine and --repeats may differ from before.",
        ),
    ] = False,
    from_: Annotated[
        str | None, typer.Option("--from", help="Ask an ended run or a saved predictor instead of training: seconds.")
    ] = None,
    frontier: Annotated[
        str | None,
        typer.Option(help="With --from: a cost such as macs; returns --top candidates that trade accuracy for it."),
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
      jointnas search --from runs/photos --engine all
      jointnas search --space autotrain --architecture resnet9-baseline --data photos/
      jointnas search --space nomad-nas --real --engine mads --objective 'min macs' --constraint 'accuracy>=0.6' --repeats 3
    """
    from jointnas.engines import ENGINES, find_engine
    from jointnas.errors import SearchError
    from jointnas.export import find_candidate
    from jointnas.search import ALL
    from jointnas.space import Space

    for name in ENGINES if engine == ALL else [engine]:
        find_engine(name)
    if seed < 0:
        raise SearchError(f"--seed is 0 or more, got {seed}: raise it")
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
                    "--from trains nothing and takes --constraint, --objective, --measure, --engine, --frontier, --top and "
                    f"--seed, got {option}: drop it"
                )
        if frontier is not None and (_said(context, "engine") or _said(context, "objective")):
            raise SearchError(
                "--frontier has an engine and objectives of its own, got --engine or --objective: drop it"
            )
        _ask_again(from_, constraint or [], objective, measure or [], engine, top, seed, frontier, as_json)
        return
    if frontier is not None:
        raise SearchError(f"--frontier asks an ended run, got --frontier {frontier} without --from: name the run")
    if real and engine == ALL:
        raise SearchError("--real trains what one engine proposes, got --engine all: choose one")
    if real and early_stop is not None:
        raise SearchError("--real trains the whole budget, got --early-stop: drop one")
    if repeats > 1 and not real:
        raise SearchError(f"--repeats goes with --real, got --repeats {repeats} alone: add --real or drop it")
    clock = clock_json(train_time, train_steps)
    if total_time is not None:
        if _said(context, "batch"):
            raise SearchError(f"--total-time sets the batch, got --batch {batch} beside it: drop one")
        batch = _batch_for(total_time, clock, rounds, workers)
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
        "objective": objective,
        "measure": measure or [],
        "real": real,
        "repeats": repeats,
    }
    held = find_candidate(architecture).candidate["architecture"] if architecture is not None else None
    unbound = Space.load(space)  # before the data: a wrong name costs no decoding
    unbound = (unbound if held is None else unbound.with_architecture(held)).fix(parse_assignments(fix or []))
    starts = {name: find_candidate(name).candidate for name in start or []}
    _campaign(spec, unbound, constraint or [], starts, workers, device, out, resume, dry_run, as_json)


def _said(context: typer.Context, name: str) -> bool:
    """Return whether an option stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _batch_for(total_time: str, clock: dict[str, Any], rounds: int, workers: int) -> int:
    from jointnas.errors import BudgetError
    from jointnas.units import format_duration, parse_duration

    if "train_seconds" not in clock:
        raise BudgetError("--total-time needs a training time, got --train-steps: say --train-time or --batch")
    waves = int(parse_duration(total_time) / (rounds * clock["train_seconds"]))
    if waves < 1:
        least = format_duration(rounds * clock["train_seconds"])
        raise BudgetError(
            f"--total-time holds one training a round, got {total_time} for {rounds} rounds: say {least} or more"
        )
    return waves * workers


def _campaign(
    spec: dict[str, Any],
    unbound: Space,
    constraints: list[str],
    starts: dict[str, Candidate],
    workers: int,
    device: str,
    out: Path | None,
    resume: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    from jointnas.campaign import Campaign, local_executor
    from jointnas.cli.display import Display
    from jointnas.cli.folders import open_run
    from jointnas.data import DataSpec, load_data
    from jointnas.errors import SpaceError
    from jointnas.execution import share_slots
    from jointnas.measurement import Meter
    from jointnas.real import RealSearch
    from jointnas.search import Search
    from jointnas.training.clock import clock_from_json

    slot = share_slots(workers, device)
    data_spec = DataSpec(**spec["data"], seed=spec["seed"])
    if unbound.is_abstract:
        raise SpaceError(
            f'a space to train in has a network, got none in {unbound.name!r}: add network = "resnet9", or use jointnas.Search'
        )
    data = load_data(data_spec)
    for note in data.notes:
        messages.print(note)
    space = unbound.bind(data.input_shape, len(data.classes))
    start = [_brought_in(name, candidate, space) for name, candidate in starts.items()]
    meter = Meter(slot, data.input_shape, len(data.classes))
    with meter:  # its worker ends before any training begins
        search = Search(
            space,
            constraints,
            seed=spec["seed"],
            objective=spec["objective"],
            meter=meter,
            reported=spec["measure"],
            start=start,
        )
    _print_forecast(search)
    specification = {
        **spec,
        "data": data_spec.to_json(),
        "fingerprint": data.fingerprint,
        "input_shape": list(data.input_shape),
        "classes": list(data.classes),
        "space": space.to_toml(),
        "constraints": [str(c) for c in search.constraints],
        "start": start,
        "slot": slot.to_json(),
    }
    if dry_run:
        _describe(specification, search, data, as_json)
        return
    run = open_run(out, specification, space.name, resume)
    with run, interruptible(f"go on with the same command, --resume and --out {run.path}"):
        with (
            local_executor(specification["data"], slot, data.fingerprint) as executor,
            Display(spec["batch"], workers, spec["clock"]) as display,
        ):
            clock = clock_from_json(spec["clock"])
            if spec["real"]:
                RealSearch(
                    search,
                    run,
                    executor,
                    clock,
                    spec["engine"],
                    spec["rounds"] * spec["batch"],
                    spec["batch"],
                    spec["repeats"],
                    spec["seed"],
                    display,
                ).conduct()
            else:
                Campaign(
                    search,
                    run,
                    executor,
                    clock,
                    spec["rounds"],
                    spec["batch"],
                    spec["seed"],
                    display,
                    early_stop=spec["early_stop"],
                ).conduct()
        predictor = search.fitted()
        predictor.context = {key: specification[key] for key in ("data", "fingerprint", "clock", "slot", "classes")}
        predictor.save(
            run.path / "predictor"
        )  # before winners are named: other bounds may be asked where there is none
        with meter:
            winners = search.best_trained(spec["top"]) if spec["real"] else search.best(spec["top"], spec["engine"])
        run.add_query(specification["constraints"], spec["engine"], spec["seed"], winners)
        trials = run.trials()
        failed = sum(t.observation is not None and t.observation.accuracy is None for t in trials)
        _print_winners(
            run.path,
            len(trials),
            failed,
            search.rank_correlation,
            winners,
            specification["constraints"],
            as_json,
            search.reports,
        )


def _describe(specification: dict[str, Any], search: Any, data: Any, as_json: bool) -> None:
    """Print what a search would train and how long it would take."""
    from jointnas.training.clock import clock_from_json
    from jointnas.units import format_duration

    clock, rounds, batch = specification["clock"], specification["rounds"], specification["batch"]
    workers = specification["slot"]["workers"]
    waves = rounds * math.ceil(batch / workers)
    seconds = waves * clock["train_seconds"] if "train_seconds" in clock else None
    plan = {
        "trainings": rounds * batch,
        "rounds": rounds,
        "batch": batch,
        "workers": workers,
        "threads_each": specification["slot"]["threads"],
        "device": specification["slot"]["device"],
        "train_images": len(data.train),
        "val_images": len(data.val),
        "test_images": data.test_images,
        "pool": search.pool_size,
        "constraints": specification["constraints"],
        "train_seconds": seconds,
    }
    if as_json:
        print_json(plan)
        return
    time = "" if seconds is None else f", {format_duration(seconds)} in all"
    budget = clock_from_json(clock)
    asked = f"{rounds} rounds of {batch}"
    if specification["real"]:
        asked = f"{rounds * batch} candidates at most, as {specification['engine']} proposes them"
    print_table(
        "",
        ("what", "value"),
        [
            ("trainings", f"{asked}, {budget} each, {workers} at a time{time}"),
            ("slot", f"{plan['device']}, {plan['threads_each']} threads each"),
            ("images", f"{plan['train_images']} training, {plan['val_images']} validation, {plan['test_images']} test"),
            ("pool", f"{plan['pool']} candidates meet {', '.join(plan['constraints']) or 'no constraint'}"),
        ],
    )


def _print_forecast(search: Search) -> None:
    """Say on stderr how well measured metrics are forecast on this device."""
    for metric, error in search.forecast_errors.items():
        messages.print(f"{metric} is forecast with a median error of {100 * error:.1f} %, and measured of the winners")


def _ask_again(
    name: str,
    constraints: list[str],
    objective: str,
    measure: list[str],
    engine: str,
    top: int,
    seed: int,
    frontier: str | None,
    as_json: bool,
) -> None:
    """Answer constraints from a run's predictor, or a saved one, without training anything."""
    import torch

    from jointnas.errors import SearchError
    from jointnas.execution import available_cores, share_slots
    from jointnas.measurement import Meter
    from jointnas.predictor import Predictor
    from jointnas.run import DATABASE, Run, find_run
    from jointnas.search import Search

    path = find_run(name)
    run = Run.open(path) if (path / DATABASE).is_file() or not (path / "predictor.json").is_file() else None
    folder = path / "predictor" if run else path
    if run and not folder.is_dir():
        run.close()
        raise SearchError(
            f"--from asks a run whose search has ended, got {str(path)!r}: say --resume with its command first"
        )
    predictor = Predictor.load(folder)
    space, own = predictor.space, predictor.context.get("slot", {})
    workers = min(own.get("workers", 1), available_cores())
    slot = share_slots(workers, own.get("device", "auto") if torch.cuda.is_available() else "auto")
    with Meter(slot, space.input_shape or (), space.classes or 0) as meter, run or nullcontext():
        search = Search(
            space, constraints, seed, predictor=predictor, objective=objective, meter=meter, reported=measure
        )
        _print_forecast(search)
        if run is not None:
            good = {space.identity(candidate) for candidate in predictor.candidates}
            failed = [t for t in run.trials() if t.observation and t.observation.accuracy is None]
            failed = [t for t in failed if space.identity(t.candidate) not in good]  # a repeat alone failed
            search.tell([t.candidate for t in failed], [t.observation for t in failed])
        winners = search.best(top, engine) if frontier is None else search.front(frontier, top)
        texts = [str(c) for c in search.constraints]
        if run is not None:
            messages.print(
                f"query {run.add_query(texts, engine if frontier is None else 'nsga2', seed, winners)} of {run.path}"
            )
    _print_winners(path, 0, 0, predictor.rank_correlation, winners, texts, as_json, search.reports)


def winner_rows(winners: Any) -> list[dict[str, Any]]:
    """Return winners as the rows that `search --json` prints."""
    return [
        {
            "rank": rank,
            **winner.candidate,
            "predicted_accuracy": winner.mean,
            "std": winner.std,
            "accuracy": winner.accuracy,
            **winner.costs,
            **({"found_by": list(winner.found_by)} if winner.found_by else {}),
        }
        for rank, winner in enumerate(winners, 1)
    ]


def _print_winners(
    path: Path,
    trials: int,
    failed: int,
    correlation: float | None,
    winners: Any,
    constraints: list[str],
    as_json: bool,
    reports: Sequence[EngineReport],
) -> None:
    rows = winner_rows(winners)
    several = len(reports) > 1
    if as_json:
        print_json(
            {
                "run": str(path),
                "trials": trials,
                "failed": failed,
                "predictor": {"rank_correlation": correlation},
                **({"engines": [asdict(report) for report in reports]} if several else {}),
                "winners": rows,
            }
        )
        return
    from jointnas.constraint import MEASURED, format_metric

    metrics = ["macs", "params", *(m for m in MEASURED if rows and m in rows[0])]
    if several:
        _print_engines(reports)
    under = f" under {', '.join(constraints)}" if constraints else ""
    print_table(
        f"winners of {path}{under}",
        ("rank", "predicted", "trained", *metrics, *(["found by"] if several else []), "architecture", "recipe"),
        [
            (
                str(row["rank"]),
                f"{row['predicted_accuracy']:.4f} ± {row['std']:.4f}",
                "" if row["accuracy"] is None else f"{row['accuracy']:.4f}",
                *(format_metric(metric, row[metric]) for metric in metrics),
                *([", ".join(row["found_by"])] if several else []),
                architecture_text(row["architecture"]),
                recipe_text(row["recipe"]),
            )
            for row in rows
        ],
    )
    messages.print(f"next: jointnas export {path}, or jointnas retrain {path} --seeds 3")


def _print_engines(reports: Sequence[EngineReport]) -> None:
    """Print what each engine found in what time; an accuracy is minimised as its negative."""
    print_table(
        "engines over one predictor",
        ("engine", "best", "scored", "seconds"),
        [
            (r.engine, "" if r.best is None else f"{abs(r.best):.6g}", str(r.scored), f"{r.seconds:.2f}")
            for r in reports
        ],
    )


def _brought_in(name: str, candidate: Candidate, space: Space) -> Candidate:
    """Return the space's candidate nearest to one to start from, and say on stderr where they differ."""
    from jointnas.space_file import GROUPS

    nearest = space.nearest(candidate)
    here: Mapping[str, Any] = nearest
    there: Mapping[str, Any] = candidate
    changes = [
        f"{knob} {here[group].get(knob, 'left out')} instead of {value}"
        for group in GROUPS
        for knob, value in there[group].items()
        if here[group].get(knob) != value
    ]
    if changes:
        messages.print(f"{name} starts in the space {space.name} with {', '.join(changes)}")
    return nearest
