"""`jointnas recipes`: the built-in recipes, one of them as TOML, and every knob that a recipe has."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jointnas.cli.common import Json, architecture_text, print_json, print_table, recipe_text

recipes_app = typer.Typer(rich_markup_mode=None)


@recipes_app.callback(invoke_without_command=True)
def recipes_command(context: typer.Context, as_json: Json = False) -> None:
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

    recipes = {name: find_candidate(name).candidate for name in built_in_recipes()}
    if as_json:
        print_json({"recipes": [{"name": name, **candidate} for name, candidate in recipes.items()]})
        return
    rows = [(name, architecture_text(c["architecture"]), recipe_text(c["recipe"])) for name, c in recipes.items()]
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
        limits = {key: spec.metadata[key] for key in ("choices", "low", "high") if key in spec.metadata}
        rows.append({"name": name, "default": spec.default, **limits, "about": spec.metadata["about"]})
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
