"""`jointnas search`: its options, which of them go together, and what it prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jointnas.cli.answers import ask_fitted, print_winners, search_json
from jointnas.cli.common import (
    Alone,
    DataOption,
    DataSeed,
    Device,
    ImageSize,
    Json,
    Measured,
    MixMachines,
    Ray,
    Threads,
    TrainImages,
    TrainSteps,
    TrainTime,
    ValImages,
    Workers,
    WorkersPerDevice,
    architecture_text,
    given_options,
    interruptible,
    messages,
    parse_assignments,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from jointnas.campaign.spec import NashSpec, SearchSpec

OF_FROM = (
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
"""The parameters that go with `--from`."""

NO_SETTING = ("real", "config", "out", "resume", "from_", "frontier", "sweep", "dry_run", "as_json")
"""Parameters that are no settings of a run."""


def search_command(
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
    data_seed: DataSeed = None,
    train_time: TrainTime = None,
    train_steps: TrainSteps = None,
    rounds: Annotated[int, typer.Option(help="Batches to train; the predictor is refitted after each.")] = 4,
    batch: Annotated[int, typer.Option(help="Candidates in a batch.")] = 8,
    total_time: Annotated[
        str | None,
        typer.Option(help="Time for all trainings; sets the batch and, where it is not given, the training time."),
    ] = None,
    early_stop: Annotated[
        float | None,
        typer.Option(
            help="Kendall's τ, 0.92 in the paper: stop later trainings at the smallest share of the budget that already gives the "
            "final ranking."
        ),
    ] = None,
    confirm: Annotated[
        int | None,
        typer.Option(
            help="How many of the --rounds times --batch trainings train the leaders again at the end, with other seeds "
            "(default: a quarter)."
        ),
    ] = None,
    portfolio: Annotated[
        int | None,
        typer.Option(
            help="Built-in recipes in the first batch, on the widest networks that the bounds and the budget allow (default: half "
            "of the batch)."
        ),
    ] = None,
    final: Annotated[
        str | None,
        typer.Option(
            help="The network to keep: best, of the search's own trainings, or train+val, of the winner trained once more on the "
            "training and validation images together (default: train+val where --rounds times --batch is 12 or more)."
        ),
    ] = None,
    members: Annotated[
        int,
        typer.Option(
            help="Networks that are trained together within each budget; their probabilities are averaged, and the bounds hold for their sum."
        ),
    ] = 1,
    ensemble: Annotated[
        str, typer.Option(help="With --members: seeds, trained one after another, or snapshots of one training.")
    ] = "seeds",
    engine: Annotated[
        str,
        typer.Option(
            help="What searches the predictor in stage two: evolution, mads, hillclimb, or all of them; with --real also nash, "
            "which grows one network, and ppo, AutoAugment's controller."
        ),
    ] = "evolution",
    real: Annotated[
        bool,
        typer.Option("--real", help="Let the engine search real trainings, --rounds times --batch of them at most."),
    ] = False,
    repeats: Annotated[
        int,
        typer.Option(
            help="With --real: trainings that a candidate needs before it counts as the best; their mean decides."
        ),
    ] = 1,
    morphisms: Annotated[int, typer.Option(help="With --engine nash: network morphisms that make a child.")] = 5,
    pretraining: Annotated[
        float, typer.Option(help="With --engine nash: the first network's budget, in parts of the training time.")
    ] = 20 / 17,
    final_training: Annotated[
        float, typer.Option(help="With --engine nash: the last training's budget, in parts of the training time.")
    ] = 100 / 17,
    last_learning_rate: Annotated[
        float, typer.Option(help="With --engine nash: the learning rate at which each training ends.")
    ] = 0.0,
    start: Annotated[
        list[str] | None,
        typer.Option(help="A candidate file or built-in recipe to train first; with --real, the start; repeatable."),
    ] = None,
    predictor: Annotated[str, typer.Option(help="The predictor to fit: gp, mlp, or one that a package adds.")] = "gp",
    prior: Annotated[
        str | None,
        typer.Option(
            help="Warm start: a predictor of an earlier campaign, built-in, a folder or a run; none turns it off (default: "
            "tables, a network that is pretrained on trainings of many data sets)."
        ),
    ] = None,
    train_fn: Annotated[
        str | None,
        typer.Option(help="Train candidates of an abstract space by your own function, as module:function."),
    ] = None,
    cost_fn: Annotated[
        str | None,
        typer.Option(help="With --train-fn: a function that returns a candidate's costs, as module:function."),
    ] = None,
    top: Annotated[int, typer.Option(help="Winners to return.")] = 5,
    executor: Annotated[
        str, typer.Option(help="What runs the trainings: local, or one that a package adds.")
    ] = "local",
    workers: Workers = 1,
    device: Device = "auto",
    workers_per_device: WorkersPerDevice = None,
    alone: Alone = False,
    ray: Ray = None,
    threads: Threads = None,
    mix_machines: MixMachines = False,
    fix: Annotated[
        list[str] | None, typer.Option(help="Hold a knob at a value, as in optimizer=sgd; repeatable.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Hold the network of a candidate file or built-in recipe; search recipes alone.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the data's split, the pool, the trainings and the predictor.")] = 0,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file of settings (`jointnas runs show RUN --config`); other options replace its values."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder (default: a new one in runs/).")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue a run; --rounds, --batch, --top, --engine, --repeats and --confirm may change, but not with nash.",
        ),
    ] = False,
    from_: Annotated[
        str | None, typer.Option("--from", help="Ask an ended run or a saved predictor instead of training: seconds.")
    ] = None,
    frontier: Annotated[
        str | None,
        typer.Option(help="With --from: a cost such as macs or latency; --top candidates that trade accuracy for it."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="With --from: one bound after another, as in 'macs<5M,10M,20M'; --top winners each; repeatable."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be trained and how long it would take.")
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
      jointnas search --config photos.toml --seed 1
      jointnas search --space autotrain --architecture resnet9-baseline --data photos/
      jointnas search --space nomad-nas --real --engine mads --objective 'min macs' --constraint 'accuracy>=0.6' --repeats 3
      jointnas search --real --engine nash -c 'macs<20M' --data photos/ --train-time 20s --workers 2
      jointnas search --space mine.toml --train-fn mytask:train --rounds 4 --batch 8
    """
    from jointnas.errors import SearchError

    options = given_options(context)
    if from_ is not None:
        _check_from(options)
        asked = {"top": top, "engine": engine, "objective": objective, "measure": measure or [], "seed": seed}
        ask_fitted(from_, constraint or [], sweep or [], out, as_json, frontier=frontier, **asked)
        return
    for name in ("frontier", "sweep"):
        if name in options:
            raise SearchError(f"--{name} asks an ended run, got it without --from: name the run with --from")
    spec = _spec(options, config)
    if dry_run:
        _print_plan(spec, as_json)
    else:
        _run(spec, out, resume, as_json)


def _check_from(options: Mapping[str, Any]) -> None:
    """Raise `SearchError` for options that do not go with `--from`, or not with each other."""
    from jointnas.campaign.spec import check_positive
    from jointnas.errors import SearchError

    for name in options:
        if name not in OF_FROM:
            raise SearchError(
                f"--from trains nothing, so it does not go with --{name.replace('_', '-')}: drop it (--constraint, --objective, "
                "--measure, --engine, --frontier, --sweep, --top, --seed and --out go with --from)"
            )
    check_positive("top", options.get("top", 1))
    if "frontier" not in options:
        return
    for name in ("engine", "objective", "sweep"):
        if name in options:
            raise SearchError(f"--frontier does not go with --{name}: drop one of them")
    if any(text.strip().startswith("accuracy") for text in options.get("constraint", [])):
        raise SearchError("--frontier trades accuracy itself, got a bound on accuracy beside it: drop the bound")


def _spec(options: Mapping[str, Any], config: Path | None) -> SearchSpec | NashSpec:
    """Return the spec of the options, over those of a configuration file."""
    from jointnas.campaign.options import make_spec, over_config, read_config
    from jointnas.campaign.spec import NashSpec, PolicySpec, SearchSpec
    from jointnas.errors import RunError, SearchError

    settings = {name: value for name, value in options.items() if name not in NO_SETTING}
    if "constraint" in settings:
        settings["constraints"] = settings.pop("constraint")
    if "fix" in settings:
        settings["fix"] = parse_assignments(settings["fix"])
    base = read_config(config) if config else {}
    real = "real" in options or base.get("kind") == "direct"
    if "repeats" in settings and not real:
        raise SearchError(
            f"--repeats goes with --real, got --repeats {settings['repeats']} alone: add --real or drop it"
        )
    kind = "direct" if real else str(base.pop("kind", "search"))
    spec = make_spec({**over_config(base, settings), "kind": kind})
    if isinstance(spec, PolicySpec) or not isinstance(spec, SearchSpec | NashSpec):
        command = "policy search" if isinstance(spec, PolicySpec) else spec.kind
        raise RunError(f"search runs the settings of a search, got those of a {spec.kind} run: use jointnas {command}")
    return spec


def _run(spec: SearchSpec | NashSpec, out: Path | None, resume: bool, as_json: bool) -> None:
    """Run the campaign, show it while it runs, and print its winners."""
    from jointnas.campaign.campaign import run
    from jointnas.campaign.events import Event, RunOpened
    from jointnas.cli.display import Display

    place = ""

    def remember(event: Event) -> None:
        nonlocal place
        if isinstance(event, RunOpened):
            place = f" and --out {event.path}"

    with interruptible(lambda: f"continue with the same command, --resume{place}"), Display(spec) as display:
        campaign = run(spec, [remember, display], out=out, resume=resume)
    if as_json:
        print_json(search_json(campaign))
        return
    bounds = f" under {', '.join(spec.constraints)}" if spec.constraints else ""
    print_winners(campaign, f"winners of {campaign.path}{bounds}")
    if getattr(spec, "train_fn", None) is None:
        messages.print(f"next: jointnas predict {campaign.path} IMAGE, or jointnas retrain {campaign.path} --seeds 3")


def format_budgets(budgets: float) -> str:
    """Return a number of training budgets in words."""
    return f"{budgets:.3g} budgets"


def _print_plan(spec: SearchSpec | NashSpec, as_json: bool) -> None:
    """Print what a search would train and how long it would take."""
    from jointnas.campaign.campaign import plan, prepare
    from jointnas.campaign.nash import NashTask
    from jointnas.campaign.spec import DirectSpec, NashSpec
    from jointnas.training.clock import clock_from_json
    from jointnas.units import format_duration

    if isinstance(spec, NashSpec):
        planned = NashTask.of(spec).plan()
    else:
        planned = plan(prepare(spec, lambda event: messages.print(getattr(event, "text", ""))))
    if as_json:
        print_json(planned)
        return
    seconds = planned["train_seconds"]
    total = "" if seconds is None else f", {format_duration(seconds)} in all"
    if isinstance(spec, NashSpec):
        first, last = (format_budgets(own) for own in (spec.pretraining, spec.final_training))
        trainings = f"the first network ({first}), {spec.rounds} steps of {spec.batch}, the best on all images ({last})"
    elif isinstance(spec, DirectSpec):
        trainings = f"{spec.rounds * spec.batch} candidates at most, proposed by {spec.engine}"
        trainings += f", the best {spec.repeats} times" if spec.repeats > 1 else ""
    else:
        batches = sorted({spec.batch_of(number) for number in range(1, spec.rounds + 1)})
        trainings = f"{spec.rounds} rounds of {' or '.join(map(str, batches))}"
        trainings += f", {spec.confirmations} of the leaders" if spec.confirmations else ""
        trainings += ", 1 on all images" if spec.final_trainings else ""
    images = f"{planned['train_images']} training, {planned['val_images']} validation, {planned['test_images']} test"
    bounds = ", ".join(planned["constraints"]) or "no constraint"
    rows = [
        ("trainings", f"{trainings}, {clock_from_json(dict(spec.clock))} each, {planned['workers']} at a time{total}"),
        (
            "slot",
            f"{planned['device']}, {planned['threads_each']} thread{'s' if planned['threads_each'] != 1 else ''} each",
        ),
        *([("images", images)] if spec.data else []),
        ("start", f"{architecture_text(planned['start'])}, {bounds}")
        if isinstance(spec, NashSpec)
        else ("pool", f"{planned['pool']:,} candidates, {bounds}"),
    ]
    print_table("", ("what", "value"), rows)
