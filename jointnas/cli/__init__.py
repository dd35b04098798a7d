"""The command line: every command parses, calls the library, prints."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from jointnas import __version__
from jointnas.cli.augment import augment_command
from jointnas.cli.autotrain import autotrain_command
from jointnas.cli.baselines import baselines_command
from jointnas.cli.combine import combine_command
from jointnas.cli.demo import demo_command
from jointnas.cli.evaluate import evaluate_command
from jointnas.cli.export import export_command
from jointnas.cli.help import HELP_NAMES, GroupedCommand
from jointnas.cli.policy import policy_app
from jointnas.cli.predict import predict_command
from jointnas.cli.predictors import predictors_app
from jointnas.cli.rank import rank_command
from jointnas.cli.recipes import recipes_app
from jointnas.cli.report import report_command, watch_command
from jointnas.cli.retrain import retrain_command
from jointnas.cli.runs import runs_app
from jointnas.cli.search import search_command
from jointnas.cli.show import show_command
from jointnas.cli.spaces import spaces_app
from jointnas.cli.train import train_command
from jointnas.errors import JointNASError

app = typer.Typer(
    name="jointnas",
    help="Find the network and the training recipe that are most accurate within a training budget and a cost bound.",
    no_args_is_help=True,
    context_settings=HELP_NAMES,
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


app.command("search", cls=GroupedCommand)(search_command)
app.command("export", cls=GroupedCommand)(export_command)
app.command("retrain", cls=GroupedCommand)(retrain_command)
app.command("combine", cls=GroupedCommand)(combine_command)
app.command("autotrain", cls=GroupedCommand)(autotrain_command)
app.command("train", cls=GroupedCommand)(train_command)
app.command("baselines", cls=GroupedCommand)(baselines_command)
app.command("predict", cls=GroupedCommand)(predict_command)
app.command("evaluate", cls=GroupedCommand)(evaluate_command)
app.command("report", cls=GroupedCommand)(report_command)
app.command("watch", cls=GroupedCommand)(watch_command)
app.command("rank", cls=GroupedCommand)(rank_command)
app.command("demo", cls=GroupedCommand)(demo_command)
app.command("show", cls=GroupedCommand)(show_command)
app.command("augment", cls=GroupedCommand)(augment_command)
app.add_typer(policy_app, name="policy")
app.add_typer(runs_app, name="runs")
app.add_typer(spaces_app, name="spaces")
app.add_typer(predictors_app, name="predictors")
app.add_typer(recipes_app, name="recipes")


def main() -> None:
    """Run a command; a user's error is one line on stderr and exit 1, an interruption exits 130."""
    try:
        app()
    except JointNASError as error:
        sentence = str(error)
    except OSError as error:
        if error.filename is None:
            raise
        sentence = f"{str(error.filename)!r} cannot be used ({error.strerror}): check the path and its permissions"
    else:
        return
    print(f"jointnas: {sentence}", file=sys.stderr)  # noqa: T201
    sys.exit(1)
