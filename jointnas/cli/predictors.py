"""`jointnas predictors`: a list, one of them with its best trials, and one fitted to runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jointnas.cli.common import Json, architecture_text, print_json, print_table, recipe_text

predictors_app = typer.Typer(rich_markup_mode=None)


@predictors_app.callback(invoke_without_command=True)
def predictors_command(context: typer.Context, as_json: Json = False) -> None:
    """List the built-in predictors.

    \b
    Examples:
      jointnas predictors
      jointnas predictors show runs/digits-resnet9-1
    """
    if context.invoked_subcommand is None:
        predictors_list(as_json)


@predictors_app.command("list")
def predictors_list(as_json: Json = False) -> None:
    """List the built-in predictors.

    \b
    Examples:
      jointnas predictors list --json
    """
    from jointnas.campaign.registry import built_in_predictors

    cards = [_card(name) for name in built_in_predictors()]
    if as_json:
        print_json({"predictors": cards})
        return
    columns = ("predictor", "space", "data", "budget", "trials", "rank_correlation")
    rows = [tuple(_text(card[key]) for key in columns) for card in cards]
    print_table("", [column.replace("_", " ") for column in columns], rows)


@predictors_app.command("show")
def predictors_show(
    name: Annotated[str, typer.Argument(help="A built-in predictor, a folder of one, or an ended run.")],
    top: Annotated[int, typer.Option(help="Of its trials, the best to show.")] = 5,
    as_json: Json = False,
) -> None:
    """Show what a predictor was fitted to, how well it ranks, and the best of its trials.

    \b
    Examples:
      jointnas predictors show runs/digits-resnet9-1
      jointnas predictors show digits-resnet9-1 --top 3 --json
    """
    from jointnas.campaign.registry import load_predictor_of
    from jointnas.errors import PredictorError

    if top < 1:
        raise PredictorError(f"--top must be 1 or more, got {top}: raise it")
    card = _card(name)
    predictor = load_predictor_of(name)
    accuracies = predictor.accuracies.tolist()
    order = sorted(range(len(accuracies)), key=lambda i: -accuracies[i])[:top]
    best: list[dict[str, Any]] = [{**predictor.candidates[i], "accuracy": accuracies[i]} for i in order]
    if as_json:
        print_json({**card, "context": predictor.context, "best": best})
        return
    print_table("", ("what", "value"), [(key.replace("_", " "), _text(value)) for key, value in card.items()])
    rows = [(f"{b['accuracy']:.4f}", architecture_text(b["architecture"]), recipe_text(b["recipe"])) for b in best]
    print_table("best of its trials", ("accuracy", "architecture", "recipe"), rows)


@predictors_app.command("fit")
def predictors_fit(
    runs: Annotated[
        list[str], typer.Argument(help="Runs of one space, data set and budget: folders, or names in runs/.")
    ],
    to: Annotated[Path, typer.Option(help="The folder to write.")],
    seed: Annotated[int, typer.Option(help="Seed of the predictor.")] = 0,
) -> None:
    """Fit one predictor to the trials of several runs.

    \b
    Examples:
      jointnas predictors fit runs/digits-resnet9-1 --to week
      jointnas search --from week --constraint 'macs<10M'
    """
    from jointnas.campaign.registry import fit_runs
    from jointnas.errors import PredictorError

    if to.exists():
        raise PredictorError(f"--to must be a new folder, got {str(to)!r}, which exists: name another")
    if seed < 0:
        raise PredictorError(f"--seed must be 0 or more, got {seed}: change it")
    predictor = fit_runs(runs, seed)
    predictor.save(to)
    ranks = _text(predictor.rank_correlation) or "unknown, too few trials"
    typer.echo(f"{to}: {len(predictor.candidates)} trials, rank correlation {ranks}")


@predictors_app.command("check")
def predictors_check(
    names: Annotated[list[str], typer.Argument(help="Built-in predictors, folders of one, or ended runs.")],
) -> None:
    """Check that predictors are intact and predict; exit 1 where one does not.

    \b
    Examples:
      jointnas predictors check runs/digits-resnet9-1
    """
    from jointnas.campaign.registry import load_predictor_of
    from jointnas.errors import JointNASError

    wrong = False
    for name in names:
        try:
            predictor = load_predictor_of(name)
            predictor.predict(predictor.space.sample(8))
        except JointNASError as error:
            wrong = True
            typer.echo(f"jointnas: {name}: {error}", err=True)
        else:
            typer.echo(f"{name}: {len(predictor.candidates)} trials of the space {predictor.space.name}, intact")
    if wrong:
        raise typer.Exit(1)


def _card(name: str) -> dict[str, Any]:
    """Return the list's row of a predictor."""
    from jointnas.campaign.registry import find_predictor
    from jointnas.predictor.files import read_description
    from jointnas.space.space import Space
    from jointnas.training.clock import clock_from_json

    about = read_description(find_predictor(name)[0])
    context = about["context"]
    return {
        "predictor": name,
        "space": Space.from_toml(about["space"]).name,
        "data": (context.get("data") or {}).get("source"),
        "images": "x".join(map(str, about["input_shape"] or ())),
        "classes": about["classes"],
        "budget": str(clock_from_json(context["clock"])) if "clock" in context else None,
        "trials": len(about["trials"]),
        "rank_correlation": about["rank_correlation"],
    }


def _text(value: Any) -> str:
    """Return a card's value as words, empty for nothing."""
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
