"""`jointnas runs`: a list, and one run with its trials, queries and retrained winners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jointnas.cli.answers import print_winners, winner_rows
from jointnas.cli.common import (
    Json,
    Measured,
    architecture_text,
    figure_texts,
    figures_of,
    messages,
    print_json,
    print_table,
    recipe_text,
    spread_text,
)
from jointnas.cli.family_tree import print_family

if TYPE_CHECKING:
    from jointnas.campaign.calibration import Calibration
    from jointnas.campaign.trial import Trial

LISTED = 100  # trials that a table shows by default

runs_app = typer.Typer(rich_markup_mode=None)


@runs_app.callback(invoke_without_command=True)
def runs_command(context: typer.Context, as_json: Json = False) -> None:
    """List the runs in runs/, oldest first.

    \b
    Examples:
      jointnas runs
      jointnas runs show digits-resnet9-1
    """
    if context.invoked_subcommand is None:
        runs_list(as_json)


@runs_app.command("list")
def runs_list(as_json: Json = False) -> None:
    """List the runs in runs/, oldest first.

    \b
    Examples:
      jointnas runs list --json
    """
    from jointnas.campaign.folders import list_runs
    from jointnas.errors import JointNASError

    rows = []
    for path in list_runs():
        try:
            rows.append(_run_row(path))
        except JointNASError as error:
            messages.print(str(error))
    if as_json:
        print_json({"runs": rows})
        return
    print_table(
        "",
        ("run", "kind", "trials", "best", "constraints", "queries", "data"),
        [
            (
                r["run"],
                r["kind"],
                f"{r['ended']}/{r['trials']}",
                "" if r["best"] is None else f"{r['best']:.4f}",
                ", ".join(r["constraints"]),
                str(r["queries"]),
                r["data"] or "",
            )
            for r in rows
        ],
    )


def _run_row(path: Path) -> dict[str, Any]:
    """Return the list's row of one run. Raises `RunError` for one that cannot be read."""
    from jointnas.campaign.store import Run

    with Run.open(path) as run:
        spec, trials = run.spec, run.trials()
        return {
            "run": str(path),
            "kind": spec.kind,
            "trials": len(trials),
            "ended": sum(t.observation is not None for t in trials),
            "best": max((t.accuracy for t in trials if t.accuracy is not None), default=None),
            "constraints": list(getattr(spec, "constraints", ())),
            "data": spec.data.source if spec.data else None,
            "queries": len(run.queries()),
        }


@runs_app.command("show")
def runs_show(
    name: Annotated[str, typer.Argument(help="A run's folder, or its name in runs/.")],
    measure: Measured = None,
    last: Annotated[int, typer.Option(min=0, help="How many trials to list, the latest; 0 for all.")] = LISTED,
    config: Annotated[
        bool, typer.Option("--config", help="Print the run's settings as TOML, for `jointnas search --config FILE`.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a run: its trials in the order they were asked for, its winners, queries and retrained winners, and how well predictions
    were calibrated.

    \b
    Examples:
      jointnas runs show digits-resnet9-1 --json
      jointnas runs show digits-resnet9-1 --measure latency
      jointnas runs show digits-resnet9-1 --config > digits.toml
    """
    from jointnas.campaign.calibration import Calibration, predictions_of
    from jointnas.campaign.folders import find_run
    from jointnas.campaign.store import Run
    from jointnas.campaign.trial import trial_row
    from jointnas.errors import SearchError

    with Run.open(find_run(name)) as run:
        if config:
            typer.echo(run.spec.to_toml(), nl=False)
            command = getattr(run.spec, "latency_command", None)
            if command is not None:
                messages.print(
                    f"the run measured latency by --latency-command {command!r}, which a file does not hold: give it again"
                )
            return
        spec, context, trials, rounds = run.spec, run.context, run.trials(), run.rounds()
        queries, retrained = run.queries(), run.retrained()
        winners = run.winners() if queries else []
    is_family = any(trial.parent for trial in trials)
    first = 0 if as_json or is_family or not last else max(0, len(trials) - last)
    if measure and getattr(spec, "members", 1) > 1:
        raise SearchError(f"the run trains several members together, got --measure {measure[0]}: drop it")
    if measure:
        from jointnas.measurement.meter import Meter

        with Meter(context.slot, context.input_shape or (), len(context.classes or ())) as meter:
            measured = figures_of(meter, [t.candidate for t in trials[first:]], measure)
    else:
        measured = [{} for _ in trials[first:]]
    predictions = predictions_of(spec, context, trials, retrained)
    calibrations = {who: Calibration.of(rows) for who, rows in predictions.items()}
    if as_json:
        rows = [{**trial_row(trial), **figures} for trial, figures in zip(trials, measured, strict=True)]
        about = {"specification": {**spec.to_json(), **context.to_json()}, "rounds": rounds, "queries": queries}
        shown = {who: asdict(calibration) for who, calibration in calibrations.items()}
        print_json({"run": name, **about, "trials": rows, "retrained": retrained, "agreement": shown})
        return
    if is_family:
        print_family(trials, context, measured, measure or [])
    else:
        if first:
            messages.print(f"the last {last} of {len(trials)} trials (all with --last 0)")
        _print_trials(name, trials[first:], measured, measure or [])
    if winners:
        typer.echo()
        print_winners(winner_rows(winners, find_run(name)))
    if queries:
        typer.echo()
        print_table(
            "queries",
            ("query", "constraints", "engine", "seed"),
            [(str(q["number"]), ", ".join(q["constraints"]), q["engine"], str(q["seed"])) for q in queries],
        )
    if retrained:
        typer.echo()
        _print_retrained(retrained)
    if calibrations:
        typer.echo()
        _print_calibrations(calibrations)


def _print_trials(
    name: str, trials: Sequence[Trial], measured: Sequence[dict[str, float | None]], metrics: list[str]
) -> None:
    from jointnas.campaign.trial import result_text
    from jointnas.search.objective import SCORE_NAMES
    from jointnas.training.observation import ACCURACY

    rows = [
        (
            str(t.number),
            str(t.round),
            "" if t.kind == "trial" else t.kind,
            result_text(t),
            "" if t.predicted is None else f"{t.predicted:.4f}",
            *figure_texts(figures, metrics),
            architecture_text(t.candidate["architecture"]),
            recipe_text(t.candidate["recipe"]),
        )
        for t, figures in zip(trials, measured, strict=True)
    ]
    score = SCORE_NAMES[trials[0].metric] if trials else SCORE_NAMES[ACCURACY]
    columns = ("trial", "round", "kind", score, "predicted", *metrics, "architecture", "recipe")
    print_table(name, columns, rows)


def _print_calibrations(calibrations: Mapping[str, Calibration]) -> None:
    from jointnas.campaign.calibration import WIDTH

    print_table(
        "predicted against observed accuracies",
        ("predictions of", "count", "mean error", "bias", f"within {WIDTH} std"),
        [
            (who.replace("_", " "), str(c.count), f"{c.error:.4f}", f"{c.bias:+.4f}", f"{c.within:.0%}")
            for who, c in calibrations.items()
        ],
    )


def _print_retrained(retrained: list[dict[str, Any]]) -> None:
    """Print predicted, validation and test accuracies of retrained winners."""
    from jointnas.campaign.retrain import spread
    from jointnas.training.clock import clock_from_json

    print_table(
        "retrained winners",
        ("query", "rank", "budget", "predicted", "validation", "test accuracy", "architecture", "recipe"),
        [
            (
                str(row["query"]),
                str(row["rank"]),
                str(clock_from_json(row["clock"])),
                f"{row['predicted']:.4f} ± {row['std']:.4f}",
                spread_text(spread(row["val_accuracies"])),
                spread_text(spread(row["test_accuracies"])),
                architecture_text(row["candidate"]["architecture"]),
                recipe_text(row["candidate"]["recipe"]),
            )
            for row in retrained
        ],
    )
