"""`jointnas policy`: searches of augmentation policies."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from jointnas.cli.common import (
    Alone,
    DataOption,
    DataSeed,
    Device,
    Fit,
    ImageSize,
    Json,
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
    knob_text,
    messages,
    print_json,
    print_table,
)


def policy_words(candidate: Mapping[str, Any]) -> str:
    """Return a candidate of a space of policies in one line: its sub-policies, and its other knobs."""
    from jointnas.training.policy_text import split_knobs

    text, others = split_knobs({**candidate["architecture"], **candidate["recipe"]})
    return ", ".join([*([] if text is None else [text]), *([knob_text(others)] if others else [])])


policy_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
NO_SETTING = ("candidate", "config", "out", "resume", "to", "as_json", "quiet")


@policy_app.callback()
def policy_command() -> None:
    """Search augmentation policies for a network and recipe.

    \b
    Examples:
      jointnas policy search --data photos/ --train-time 20s
    """


@policy_app.command("search")
def policy_search(
    context: typer.Context,
    candidate: Annotated[
        str, typer.Option(help="The network and recipe that are trained: a file, or a built-in recipe.")
    ] = "resnet9-10s",
    space: Annotated[
        str,
        typer.Option(help="The policies: augmentation-policy (AutoAugment's), randaugment (its grid), or a TOML file."),
    ] = "augmentation-policy",
    data: DataOption = None,
    train_images: TrainImages = None,
    val_images: ValImages = None,
    image_size: ImageSize = None,
    fit: Fit = None,
    data_seed: DataSeed = None,
    train_time: TrainTime = None,
    train_steps: TrainSteps = None,
    rounds: Annotated[int, typer.Option(help="Batches to train; the predictor is refitted after each.")] = 4,
    batch: Annotated[int, typer.Option(help="Policies in a batch.")] = 8,
    total_time: Annotated[
        str | None,
        typer.Option(help="Time for all trainings; sets the batch and, where it is not given, the training time."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="What searches the predictor: evolution, mads or hillclimb; or ppo, AutoAugment's controller, which trains all that it "
            "proposes."
        ),
    ] = "evolution",
    top: Annotated[int, typer.Option(help="How many of the best policies are joined.")] = 5,
    workers: Workers = 1,
    device: Device = "auto",
    workers_per_device: WorkersPerDevice = None,
    alone: Alone = False,
    ray: Ray = None,
    threads: Threads = None,
    mix_machines: MixMachines = False,
    seed: Annotated[int, typer.Option(help="Seed of the data's split, the trainings and the search.")] = 0,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file of settings (`jointnas runs show RUN --config`); other options replace its values."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder (default: a new one in runs/).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run.")] = False,
    to: Annotated[Path | None, typer.Option(help="The policy file (default: RUN/policy.toml).")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search augmentation policies by real trainings, and join the best ones into one policy file that any recipe names.

    \b
    Examples:
      jointnas policy search --data photos/ --train-images 1000 --train-time 20s --rounds 6 --to mine.toml
      jointnas policy search --candidate resnet9-1m --engine ppo --rounds 20 --train-time 20s
      jointnas policy search --space randaugment --train-time 20s --rounds 3 --batch 10
    """
    from jointnas.campaign.campaign import run
    from jointnas.campaign.options import make_spec, over_config, read_config
    from jointnas.campaign.policy_search import check_writable, joined_policy
    from jointnas.campaign.spec import PolicySpec
    from jointnas.cli.display import Display
    from jointnas.errors import RunError

    settings = {name: value for name, value in given_options(context).items() if name not in NO_SETTING}
    base = read_config(config) if config else {}
    if config is None or "candidate" in given_options(context):
        settings["trained"] = candidate
    spec = make_spec({"kind": PolicySpec.kind, **over_config(base, settings)})
    if not isinstance(spec, PolicySpec):
        raise RunError(
            f"policy search runs the settings of a policy run, got those of a {spec.kind} run: use jointnas search"
        )
    if to is not None:
        check_writable(to, spec)
    display = Display(spec)
    with interruptible(lambda: display.remedy), display:
        campaign = run(spec, [display], out=out, resume=resume)
    text, path = joined_policy(campaign, to)
    rows = [
        {
            "rank": rank,
            "recipe": spec.trained_as(w.candidate)["recipe"],
            "predicted_accuracy": w.mean,
            "std": w.std,
            "accuracy": w.accuracy,
        }
        for rank, w in enumerate(campaign.winners, 1)
    ]
    if as_json:
        print_json(
            {"run": str(campaign.path), "file": None if path is None else str(path), "policy": text, "winners": rows}
        )
        return
    print_table(
        f"policies of {campaign.path}",
        ("rank", "predicted", "trained", "policy"),
        [
            (
                str(row["rank"]),
                f"{row['predicted_accuracy']:.4f} ± {row['std']:.4f}",
                "" if row["accuracy"] is None else f"{row['accuracy']:.4f}",
                policy_words(winner.candidate),
            )
            for row, winner in zip(rows, campaign.winners, strict=True)
        ],
    )
    typer.echo(text.replace("; ", "\n"))
    if path is not None:
        messages.print(
            f'next: jointnas augment --fix {shlex.quote(f"policy={path}")}, or policy = "{path}" in the [recipe] of a candidate file'
        )
