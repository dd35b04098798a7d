"""The help: every command has examples, and each of them can be parsed; the cheap ones work as they stand."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import typer

from jointnas.cli import app
from jointnas.resources import resource_folder
from tests.cli.commands import CANDIDATE
from tests.helpers import jointnas

UsageError = typer.BadParameter.__bases__[0]


def commands(command, path=()):
    """Yield (path, command) of every command but the root."""
    for name, inner in getattr(command, "commands", {}).items():
        yield (*path, name), inner
        yield from commands(inner, (*path, name))


ROOT = typer.main.get_command(app)
COMMANDS = dict(commands(ROOT))


def examples_of(command):
    return [line.strip() for line in (command.help or "").splitlines() if line.strip().startswith("jointnas ")]


EXAMPLES = sorted({line for command in COMMANDS.values() for line in examples_of(command)})
QUICK = ("runs", "spaces", "recipes", "predictors", "augment", "export", "show", "predict", "report")
CHEAP = [line for line in EXAMPLES if line.split()[1] in QUICK and "cifar10" not in line]


def parse(command, args, parent=None):
    """Parse arguments as the command line does, without running anything. Raises its usage error."""
    context = command.make_context(command.name or "jointnas", list(args), parent=parent)
    rest = [*context._protected_args, *context.args] if hasattr(command, "commands") else []
    if rest:
        _, inner, rest = command.resolve_command(context, rest)
        parse(inner, rest, context)


def arguments(line):
    """Return an example's arguments, without the program's name and what the shell takes."""
    return shlex.split(line.partition(" > ")[0])[1:]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_commands_help_has_examples_of_that_command(path):
    found = jointnas(*path, "--help")
    assert found.code == 0
    shown = found.out.partition("Examples:")[2]
    assert f"jointnas {' '.join(path)}" in shown
    assert examples_of(COMMANDS[path])


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_in_a_help_can_be_parsed(line):
    parse(ROOT, arguments(line))


def test_an_example_with_an_option_that_does_not_exist_would_not_parse():
    with pytest.raises(UsageError, match="--no-such"):
        parse(ROOT, ["search", "--no-such", "1"])


@pytest.mark.parametrize("line", CHEAP)
def test_every_example_that_is_cheap_works_as_it_stands(line, in_copy):
    space = (resource_folder("spaces") / "resnet9.toml").read_text()
    Path("mine.toml").write_text(space if " spaces " in line else CANDIDATE)
    found = jointnas(*arguments(line))
    assert found.code == 0
    assert found.err == "" or line.startswith("jointnas export")  # which says what it measured
    assert found.out


@pytest.mark.parametrize(
    "args",
    [
        ("search", "--no-such"),
        ("search", "--rounds", "many"),
        ("nothing",),
        ("runs", "nothing"),
        ("show",),
        ("predict", "trained"),
    ],
)
def test_a_usage_error_exits_2(args):
    found = jointnas(*args)
    assert found.code == 2
    assert "Usage:" in found.err
    assert found.out == ""


def test_the_version_is_printed():
    import jointnas as package

    assert jointnas("--version").out.strip() == package.__version__
