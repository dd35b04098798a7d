"""`jointnas search`: its options, which of them go together, and what it prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jointnas.cli.answers import ask_fitted, print_answer, search_json
from jointnas.cli.common import (
    BUDGET,
    MACHINE,
    OUTPUT,
    Alone,
    DataOption,
    DataSeed,
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
    given_options,
    interruptible,
    option,
    parse_assignments,
    print_json,
)
from jointnas.cli.help import examples_of
from jointnas.cli.plan import print_plan

if TYPE_CHECKING:
    from jointnas.campaign.spec import NashSpec, SearchSpec

WHAT, HOW, CLIMB, CODE, ASK = (
    "What is searched",
    "How it is searched",
    "With --real",
    "With training code of your own",
    "Questions to an ended run",
)
"""Groups of options in the help."""

OF_FROM = (
    "from_",
    "constraint",
    "max_",
    "min_",
    "objective",
    "relative_to",
    "measure",
    "latency_command",
    "engine",
    "top",
    "seed",
    "frontier",
    "sweep",
    "out",
    "as_json",
    "quiet",
)
"""The parameters that go with `--from`."""

NO_SETTING = (
    "real",
    "config",
    "out",
    "resume",
    "from_",
    "frontier",
    "sweep",
    "dry_run",
    "as_json",
    "quiet",
    "log",
    "max_",
    "min_",
)
"""Parameters that are no settings of a run."""


def search_command(
    context: typer.Context,
    constraint: Annotated[
        list[str] | None,
        option(
            WHAT,
            "--constraint",
            "-c",
            help="A bound such as 'macs<40M', on macs, params, activations, size, memory or bitops, or, measured on this device, "
            "on latency, batch_latency (or the 95th percentile of either, as in latency_p95), images_per_second, train_memory or energy, or on "
            "accuracy; repeatable.",
        ),
    ] = None,
    max_: Annotated[
        list[str] | None,
        option(WHAT, "--max", help="A bound that needs no quotes, as in macs=20M for 'macs<=20M'; repeatable."),
    ] = None,
    min_: Annotated[
        list[str] | None, option(WHAT, "--min", help="Likewise from below, as in images_per_second=500; repeatable.")
    ] = None,
    objective: Annotated[
        str,
        option(
            WHAT,
            help="'max accuracy', 'max balanced_accuracy', 'max macro_f1' or 'min log_loss'; 'min METRIC' beside a constraint such as "
            "'accuracy>=0.8'; or 'max efficiency'.",
        ),
    ] = "max accuracy",
    relative_to: Annotated[
        str | None,
        option(
            WHAT,
            metavar="RUN|CSV",
            help="Models that efficiency is relative to: a run's (by macs and size), or a table's.",
        ),
    ] = None,
    measure: Measured = None,
    space: Annotated[str, option(WHAT, help="A built-in space (see `jointnas spaces`) or a TOML file.")] = "resnet9",
    latency_command: Annotated[
        str | None,
        option(
            MACHINE,
            help="Measure latency on another device by a command such as './bench {onnx}', which prints it as its last word: 3.2ms.",
        ),
    ] = None,
    data: DataOption = None,
    train_images: TrainImages = None,
    val_images: ValImages = None,
    image_size: ImageSize = None,
    fit: Fit = None,
    data_seed: DataSeed = None,
    train_time: TrainTime = None,
    train_steps: TrainSteps = None,
    rounds: Annotated[
        int, option(BUDGET, help="Batches to train (nash: 5); the predictor is refitted after each.")
    ] = 4,
    batch: Annotated[int, option(BUDGET, help="Candidates in a batch.")] = 8,
    total_time: Annotated[
        str | None,
        option(BUDGET, help="Time for all trainings; sets the batch and, where it is not given, the training time."),
    ] = None,
    early_stop: Annotated[
        float | None,
        option(
            BUDGET,
            help="Kendall's τ, 0.92 in the paper: stop later trainings at the smallest share of the budget that already gives the "
            "final ranking.",
        ),
    ] = None,
    confirm: Annotated[
        int | None,
        option(
            BUDGET,
            help="How many of the --rounds times --batch trainings go to the leaders at the end: trained candidates with another seed, "
            "and new ones that may be better (default: a quarter).",
        ),
    ] = None,
    portfolio: Annotated[
        int | None,
        option(
            HOW,
            help="Built-in recipes in the first batch, each with a network that suits the bounds and the budget (default: half "
            "of the batch).",
        ),
    ] = None,
    final: Annotated[
        str | None,
        option(
            BUDGET,
            metavar="best|train+val",
            help="The network to keep: of the search's own trainings, or of the winner trained once more on the "
            "training and validation images together (default: train+val where --rounds times --batch is 12 or more).",
        ),
    ] = None,
    members: Annotated[
        int,
        option(
            HOW,
            help="Networks that are trained together within each budget; their probabilities are averaged, and the bounds hold for their sum.",
        ),
    ] = 1,
    ensemble: Annotated[
        str,
        option(
            HOW,
            metavar="seeds|snapshots",
            help="With --members: trained one after another, or snapshots of one training.",
        ),
    ] = "seeds",
    engine: Annotated[
        str,
        option(
            HOW,
            metavar="evolution|mads|hillclimb|all|nash|ppo",
            help="What searches the predictor in stage two; with --real also nash, which grows one network, and ppo, AutoAugment's "
            "controller.",
        ),
    ] = "evolution",
    real: Annotated[
        bool,
        option(HOW, "--real", help="Let the engine search real trainings, --rounds times --batch of them at most."),
    ] = False,
    repeats: Annotated[
        int,
        option(
            CLIMB,
            help="With --real: trainings that a candidate needs before it counts as the best; their mean decides.",
        ),
    ] = 1,
    morphisms: Annotated[int, option(CLIMB, help="With --engine nash: network morphisms that make a child.")] = 5,
    pretraining: Annotated[
        float, option(CLIMB, help="With --engine nash: the first network's budget, in parts of the training time.")
    ] = 20 / 17,
    final_training: Annotated[
        float, option(CLIMB, help="With --engine nash: the last training's budget, in parts of the training time.")
    ] = 100 / 17,
    last_learning_rate: Annotated[
        float, option(CLIMB, help="With --engine nash: the learning rate at which each training ends.")
    ] = 0.0,
    start: Annotated[
        list[str] | None,
        option(HOW, help="A candidate file or built-in recipe to train first; with --real, the start; repeatable."),
    ] = None,
    predictor: Annotated[
        str, option(HOW, metavar="gp|mlp", help="The predictor to fit, or one that a package adds.")
    ] = "gp",
    prior: Annotated[
        str | None,
        option(
            HOW,
            help="Warm start: a predictor of an earlier campaign, built-in, a folder or a run; none turns it off (default: "
            "tables, a network that is pretrained on trainings of many data sets).",
        ),
    ] = None,
    train_fn: Annotated[
        str | None,
        option(CODE, help="Train candidates of an abstract space by your own function, as module:function."),
    ] = None,
    cost_fn: Annotated[
        str | None,
        option(CODE, help="With --train-fn: a function that returns a candidate's costs, as module:function."),
    ] = None,
    top: Annotated[int, option(OUTPUT, help="Winners to return.")] = 5,
    executor: Annotated[
        str, option(MACHINE, help="What runs the trainings: local, or one that a package adds.")
    ] = "local",
    workers: Workers = 1,
    device: Device = "auto",
    workers_per_device: WorkersPerDevice = None,
    alone: Alone = False,
    ray: Ray = None,
    threads: Threads = None,
    mix_machines: MixMachines = False,
    fix: Annotated[
        list[str] | None, option(WHAT, help="Hold a knob at a value, as in optimizer=sgd; repeatable.")
    ] = None,
    architecture: Annotated[
        str | None, option(WHAT, help="Hold the network of a candidate file or built-in recipe; search recipes alone.")
    ] = None,
    seed: Annotated[int, option(HOW, help="Seed of the data's split, the pool, the trainings and the predictor.")] = 0,
    config: Annotated[
        Path | None,
        option(
            OUTPUT,
            help="A TOML file of settings (`jointnas runs show RUN --config`); other options replace its values.",
        ),
    ] = None,
    out: Annotated[Path | None, option(OUTPUT, help="The run's folder (default: a new one in runs/).")] = None,
    log: Annotated[
        list[str] | None,
        option(
            OUTPUT,
            metavar="tensorboard|mlflow|wandb",
            help="Log the trials to an experiment tracker too; repeatable.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        option(
            OUTPUT,
            "--resume",
            help="Continue a run; --rounds, --batch, --top, --engine, --repeats, --confirm, --relative-to, --executor, --ray and "
            "--mix-machines may change; with nash only the last three.",
        ),
    ] = False,
    from_: Annotated[
        str | None,
        option(
            ASK, "--from", help="Query an ended run or a saved predictor. Nothing is trained, and it takes seconds."
        ),
    ] = None,
    frontier: Annotated[
        str | None,
        option(ASK, help="With --from: a cost such as macs or latency; --top candidates that trade accuracy for it."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        option(
            ASK, help="With --from: one bound after another, as in 'macs<5M,10M,20M'; --top winners each; repeatable."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        option(
            OUTPUT,
            "--dry-run",
            help="Print what would be trained and how long it would take. This times built-in recipes.",
        ),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search a space for the most accurate architecture and recipe under cost constraints.

    \b
    Examples:
      jointnas search --constraint 'macs<2M' --train-time 5s --rounds 3 --batch 6
      jointnas search -c 'macs<40M' -c 'size<4MB' --data photos/ --workers 2 --out runs/photos
      jointnas search --max macs=20M --min images_per_second=500 --data photos/ --total-time 2h
      jointnas search --from runs/photos --constraint 'macs<10M' --constraint 'latency<2ms'
      jointnas search --from runs/photos --objective 'min latency' --constraint 'accuracy>=0.8'
      jointnas search --from runs/photos --objective 'max efficiency' --relative-to models.csv --min accuracy=0.7
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
    if not {*options} - {"quiet", "as_json"}:
        typer.echo(
            f"What do you want to search? For example:\n{examples_of(search_command.__doc__)}\nAll options: jointnas search --help"
        )
        return
    bounds = [*(constraint or []), *_bounds("max", max_ or []), *_bounds("min", min_ or [])]
    if from_ is not None:
        _check_from(options, bounds)
        asked: dict[str, Any] = {
            "top": top,
            "engine": engine,
            "objective": objective,
            "measure": measure or [],
            "seed": seed,
        }
        asked["latency_command"] = latency_command
        if relative_to is not None:
            from jointnas.efficiency.models import reference_named

            asked["reference"] = reference_named(relative_to)
        ask_fitted(from_, bounds, sweep or [], out, as_json, frontier=frontier, **asked)
        return
    for name in ("frontier", "sweep"):
        if name in options:
            raise SearchError(f"--{name} asks an ended run, got it without --from: name the run with --from")
    if bounds:
        options["constraint"] = bounds
    spec = _spec(options, config)
    if dry_run:
        print_plan(spec, as_json)
    else:
        _run(spec, out, resume, as_json, log or [])


def _bounds(name: str, texts: Sequence[str]) -> list[str]:
    """Return the constraints in the texts of --max or --min. Raises `ConstraintError`."""
    from jointnas.errors import ConstraintError

    bounds = []
    for text in texts:
        metric, equals, value = (part.strip() for part in text.partition("="))
        if not (metric and equals and value):
            raise ConstraintError(f"--{name} is written metric=value, got {text!r}: write it like --{name} macs=20M")
        bounds.append(f"{metric}{'<=' if name == 'max' else '>='}{value}")
    return bounds


def _check_from(options: Mapping[str, Any], bounds: Sequence[str]) -> None:
    """Raise `SearchError` for options that do not go with `--from`, or not with each other."""
    from jointnas.campaign.spec import check_positive
    from jointnas.errors import SearchError

    for name in options:
        if name not in OF_FROM:
            raise SearchError(
                f"--from trains nothing, so it does not go with --{name.replace('_', '-')}: drop it (--constraint, --max, --min, --objective, "
                "--relative-to, --measure, --engine, --frontier, --sweep, --top, --seed and --out go with --from)"
            )
    check_positive("top", options.get("top", 1))
    if "frontier" not in options:
        return
    for name in ("engine", "objective", "sweep"):
        if name in options:
            raise SearchError(f"--frontier does not go with --{name}: drop one of them")
    if any(text.strip().startswith("accuracy") for text in bounds):
        raise SearchError("--frontier trades accuracy itself, got a bound on accuracy beside it: drop the bound")


def _spec(options: Mapping[str, Any], config: Path | None) -> SearchSpec | NashSpec:
    """Return the spec of the options, over those of a configuration file."""
    from jointnas.campaign.options import make_spec, over_config, read_config
    from jointnas.campaign.spec import NashSpec, PolicySpec, SearchSpec
    from jointnas.errors import RunError, SearchError

    settings = {name: value for name, value in options.items() if name not in NO_SETTING}
    if "constraint" in settings:
        settings["constraints"] = settings.pop("constraint")
    if "relative_to" in settings:
        from jointnas.efficiency.models import reference_named

        settings["relative_to"] = reference_named(settings["relative_to"]).to_json()
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


def _run(spec: SearchSpec | NashSpec, out: Path | None, resume: bool, as_json: bool, log: Sequence[str]) -> None:
    """Run the campaign, show it while it runs, and print its winners."""
    from jointnas.campaign.campaign import run
    from jointnas.cli.display import Display
    from jointnas.integrations.trackers import find_tracker

    trackers, display = [find_tracker(name) for name in log], Display(spec)
    try:
        with interruptible(lambda: display.remedy), display:
            campaign = run(spec, [display, *trackers], out=out, resume=resume)
    finally:
        for tracker in trackers:
            tracker.close()
    if as_json:
        print_json(search_json(campaign))
        return
    print_answer(campaign)
