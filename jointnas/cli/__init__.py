"""The command line: every command parses, calls the library, prints."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from jointnas import __version__
from jointnas.cli import augment, autotrain, baselines, export, lists, predictors, search, spaces, train
from jointnas.errors import JointNASError

app = typer.Typer(
    name="jointnas",
    help="Find the network and the training recipe that are most accurate within a training budget and a cost bound.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)  # noqa: T201
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find the network and the training recipe that are most accurate within a training budget and a cost bound."""


app.command("search")(search.search)
app.command("export")(export.export)
app.command("retrain")(train.retrain_winners)
app.command("autotrain")(autotrain.autotrain)
app.command("train")(train.train)
app.command("baselines")(baselines.baselines)
app.command("predict")(train.predict)
app.command("show")(export.show)
app.command("augment")(augment.augment)
app.add_typer(lists.runs_app, name="runs")
app.add_typer(spaces.spaces_app, name="spaces")
app.add_typer(predictors.predictors_app, name="predictors")
app.add_typer(lists.recipes_app, name="recipes")


def main() -> None:
    """Run a command; a user's error is one line on stderr and exit 1, an interruption exits 130."""
    try:
        app()
    except JointNASError as error:
        print(f"jointnas: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
