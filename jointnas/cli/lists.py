"""`jointnas runs` and `recipes`: what there is, and one of them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

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

runs_app = typer.Typer(rich_markup_mode=None)
recipes_app = typer.Typer(rich_markup_mode=None)


@runs_app.callback(invoke_without_command=True)
def runs(context: typer.Context, as_json: Json = False) -> None:
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
    from jointnas.campaign.store import list_runs
    from jointnas.errors import RunError

    rows = []
    for path in list_runs():
        try:
            rows.append(_run_row(path))
        except RunError as error:
            messages.print(str(error))
    if as_json:
        print_json({"runs": rows})
        return
    print_table(
        "",
        ("run", "trials", "best", "constraints", "queries", "data"),
        [
            (
                r["run"],
                f"{r['ended']}/{r['trials']}",
                "" if r["best"] is None else f"{r['best']:.4f}",
                ", ".join(r["constraints"]),
                str(r["queries"]),
                r["data"],
            )
            for r in rows
        ],
    )


def _run_row(path: Path) -> dict[str, Any]:
    """Return what the list says of one run. Raises `RunError` for one that cannot be read."""
    from jointnas.campaign.store import Run

    with Run.open(path) as run:
        trials, specification = run.trials(), run.specification
        accuracies = [t.observation.accuracy for t in trials if t.observation and t.observation.accuracy is not None]
        return {
            "run": str(path),
            "trials": len(trials),
            "ended": sum(t.observation is not None for t in trials),
            "best": max(accuracies, default=None),
            "constraints": specification["constraints"],
            "data": specification["data"]["source"],
            "queries": len(run.queries()),
        }


@runs_app.command("show")
def runs_show(
    name: Annotated[str, typer.Argument(help="A run's folder, or its name in runs/.")],
    measure: Measured = None,
    as_json: Json = False,
) -> None:
    """Show a run's trials in the order they were asked for, its queries, the winners that were retrained, and how far predictions
    were off.

    \b
    Examples:
      jointnas runs show digits-resnet9-1 --json
      jointnas runs show digits-resnet9-1 --measure latency
    """
    from jointnas.campaign.calibration import WIDTH, Agreement, predictions
    from jointnas.campaign.store import Run, find_run
    from jointnas.execution import Slot
    from jointnas.measurement.meter import Meter

    with Run.open(find_run(name)) as run:
        spec, trials, rounds, queries = run.specification, run.trials(), run.rounds(), run.queries()
        retrained = run.retrained()
    measured: list[dict[str, float | None]] = [{} for _ in trials]
    if measure:
        with Meter(Slot(**spec["slot"]), tuple(spec["input_shape"]), len(spec["classes"])) as meter:
            measured = figures_of(meter, [t.candidate for t in trials], measure)
    rows = [
        {
            "number": t.number,
            "round": t.round,
            **t.candidate,
            "predicted_accuracy": t.predicted,
            "std": t.std,
            "observation": t.observation.to_json() if t.observation else None,
            **figures,
        }
        for t, figures in zip(trials, measured, strict=True)
    ]
    agreements = {name: Agreement.of(rows) for name, rows in predictions(spec, trials, retrained).items()}
    if as_json:
        about = {"specification": spec, "rounds": rounds, "queries": queries, "trials": rows, "retrained": retrained}
        print_json({"run": name, **about, "agreement": {who: asdict(found) for who, found in agreements.items()}})
        return
    shown = []
    for t, figures in zip(trials, measured, strict=True):
        outcome = "waiting"
        if t.observation:
            outcome = (
                f"{t.observation.accuracy:.4f}"
                if t.observation.accuracy is not None
                else f"failed: {t.observation.failure}"
            )
        predicted = "" if t.predicted is None else f"{t.predicted:.4f}"
        architecture, recipe = architecture_text(t.candidate["architecture"]), recipe_text(t.candidate["recipe"])
        cells = figure_texts(figures, list(figures))
        shown.append((str(t.number), str(t.round), outcome, predicted, *cells, architecture, recipe))
    print_table(name, ("trial", "round", "accuracy", "predicted", *(measure or []), "architecture", "recipe"), shown)
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
    if agreements:
        typer.echo()
        print_table(
            "predictions and what trainings gave",
            ("predictions of", "count", "off by", "too high by", f"within {WIDTH} std"),
            [
                (
                    who.replace("_", " "),
                    str(found.count),
                    f"{found.error:.4f}",
                    f"{found.bias:.4f}",
                    f"{found.within:.0%}",
                )
                for who, found in agreements.items()
            ],
        )


def _print_retrained(retrained: list[dict[str, Any]]) -> None:
    """Print what winners were predicted to reach and reached, the test images beside."""
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


@recipes_app.callback(invoke_without_command=True)
def recipes(context: typer.Context, as_json: Json = False) -> None:
    """List the built-in recipes: candidates that `jointnas train` takes by name.

    \b
    Examples:
      jointnas recipes
      jointnas recipes knobs
      jointnas train resnet9-sam-ip --data cifar10 --train-time 10m
    """
    if context.invoked_subcommand is None:
        recipes_list(as_json)


@recipes_app.command("list")
def recipes_list(as_json: Json = False) -> None:
    """List the built-in recipes: candidates that `jointnas train` takes by name.

    \b
    Examples:
      jointnas recipes list --json
    """
    from jointnas.campaign.candidate_file import built_in_recipes, find_candidate

    found = {name: find_candidate(name).candidate for name in built_in_recipes()}
    if as_json:
        print_json({"recipes": [{"name": name, **candidate} for name, candidate in found.items()]})
        return
    rows = [(name, architecture_text(c["architecture"]), recipe_text(c["recipe"])) for name, c in found.items()]
    print_table("", ("recipe", "architecture", "recipe's knobs"), rows)


@recipes_app.command("show")
def recipes_show(name: Annotated[str, typer.Argument(help="A built-in recipe.")]) -> None:
    """Print a built-in recipe's TOML file, to copy and edit.

    \b
    Examples:
      jointnas recipes show resnet9-sam > mine.toml
    """
    from jointnas.campaign.candidate_file import recipe_path

    typer.echo(recipe_path(name).read_text(encoding="utf-8"), nl=False)


@recipes_app.command("knobs")
def recipes_knobs(as_json: Json = False) -> None:
    """List every recipe knob with its default, its range and its meaning.

    \b
    Examples:
      jointnas recipes knobs
    """
    from jointnas.training.recipe import knob_fields

    rows = []
    for name, spec in knob_fields().items():
        known = {key: spec.metadata[key] for key in ("choices", "low", "high") if key in spec.metadata}
        rows.append({"name": name, "default": spec.default, **known, "about": spec.metadata["about"]})
    if as_json:
        print_json({"knobs": rows})
        return
    print_table("", ("knob", "default", "range", "about"), [_knob_row(row) for row in rows])


def _knob_row(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return a knob as words: truth values as TOML writes them."""

    def word(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    values = ", ".join(map(word, row["choices"])) if "choices" in row else f"{row['low']:g} – {row['high']:g}"
    return row["name"], word(row["default"]), values, row["about"]
