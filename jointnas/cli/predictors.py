"""`jointnas predictors`: those that travel with the package, what one of them says, and one fitted to runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jointnas.cli.common import Json, architecture_text, check_seed, print_json, print_table, recipe_text

predictors_app = typer.Typer(rich_markup_mode=None)


@predictors_app.callback(invoke_without_command=True)
def predictors(context: typer.Context, as_json: Json = False) -> None:
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
    from jointnas.campaign.registry import find_predictor
    from jointnas.errors import PredictorError
    from jointnas.predictor.contract import Predictor

    if top < 1:
        raise PredictorError(f"--top is 1 or more, got {top}: raise it")
    card = _card(name)
    predictor = Predictor.load(find_predictor(name)[0])
    order = sorted(range(len(predictor.candidates)), key=lambda i: -predictor.accuracies[i])[:top]
    best: list[dict[str, Any]] = [
        {**predictor.candidates[i], "accuracy": float(predictor.accuracies[i])} for i in order
    ]
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

    check_seed(seed)
    if to.exists():
        raise PredictorError(f"a predictor makes its own folder, got --to {to}, which exists: name another")
    predictor = fit_runs(runs, seed)
    predictor.save(to)
    ranks = _text(predictor.rank_correlation) or "unknown, there are too few"
    typer.echo(f"{to}: {len(predictor.candidates)} trials, rank correlation {ranks}")


@predictors_app.command("check")
def predictors_check(
    names: Annotated[list[str], typer.Argument(help="Built-in predictors, folders of one, or ended runs.")],
) -> None:
    """Check that predictors are whole and answer here; exit 1 where one does not.

    \b
    Examples:
      jointnas predictors check runs/digits-resnet9-1
    """
    from jointnas.campaign.registry import find_predictor
    from jointnas.errors import JointNASError
    from jointnas.predictor.contract import Predictor

    wrong = False
    for name in names:
        try:
            predictor = Predictor.load(find_predictor(name)[0])
            predictor.predict(predictor.space.sample(8))
        except JointNASError as error:
            wrong = True
            typer.echo(f"jointnas: {name}: {error}", err=True)
        else:
            typer.echo(f"{name}: {len(predictor.candidates)} trials of the space {predictor.space.name}, right")
    if wrong:
        raise typer.Exit(1)


def _card(name: str) -> dict[str, Any]:
    """Return what a list says of a predictor."""
    from jointnas.campaign.registry import find_predictor
    from jointnas.predictor.files import read_description
    from jointnas.space.space import Space
    from jointnas.training.clock import clock_from_json

    about = read_description(find_predictor(name)[0])
    context = about["context"]
    return {
        "predictor": name,
        "space": Space.from_toml(about["space"]).name,
        "data": context.get("data", {}).get("source"),
        "images": "x".join(map(str, about["input_shape"] or ())),
        "classes": about["classes"],
        "budget": str(clock_from_json(context["clock"])) if "clock" in context else None,
        "trials": len(about["trials"]),
        "rank_correlation": about["rank_correlation"],
    }


def _text(value: Any) -> str:
    """Return a card's value as words, empty for nothing."""
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
