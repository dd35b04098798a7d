"""`jointnas spaces`: a list, the contents of one space, and the faults of space files."""

from __future__ import annotations

from itertools import dropwhile
from pathlib import Path
from typing import Annotated, Any

import typer

from jointnas.cli.common import Json, print_json, print_table
from jointnas.cli.show import parse_shape

MARK = "#: "  # begins the lines that `show` puts above a space file, and takes away from a file that has them

InputShape = Annotated[str, typer.Option(help="Input as CxHxW.")]
Classes = Annotated[int, typer.Option(help="Classes.")]

spaces_app = typer.Typer(rich_markup_mode=None)


@spaces_app.callback(invoke_without_command=True)
def spaces_command(context: typer.Context, as_json: Json = False) -> None:
    """List the built-in search spaces.

    \b
    Examples:
      jointnas spaces
      jointnas spaces show resnet9 > mine.toml
      jointnas spaces check mine.toml
    """
    if context.invoked_subcommand is None:
        spaces_list(as_json)


@spaces_app.command("list")
def spaces_list(as_json: Json = False) -> None:
    """List the built-in search spaces.

    \b
    Examples:
      jointnas spaces list --json
    """
    from jointnas.space.space import Space, built_in_spaces

    spaces = [Space.load(name) for name in built_in_spaces()]
    if as_json:
        rows = [
            {"name": s.name, "knobs": len(s.knobs), "free": s.free_knobs, "description": s.description} for s in spaces
        ]
        print_json({"spaces": rows})
        return
    print_table(
        "", ("space", "free knobs", "description"), [(s.name, str(s.free_knobs), s.description) for s in spaces]
    )


@spaces_app.command("show")
def spaces_show(
    name: Annotated[str, typer.Argument(help="A built-in space, or a TOML file.")],
    input_shape: InputShape = "3x32x32",
    classes: Classes = 10,
    as_json: Json = False,
) -> None:
    """Print a space's TOML file, to copy and edit; what the space holds stands above it as comments.

    \b
    Examples:
      jointnas spaces show resnet9 > mine.toml
      jointnas spaces show mine.toml --input-shape 1x28x28
    """
    from jointnas.resources import resource_folder
    from jointnas.space.space import Space
    from jointnas.space.summary import summarise

    space = Space.load(name, parse_shape(input_shape), classes)
    summary = summarise(space)
    if as_json:
        about = {"name": space.name, "description": space.description, "input_shape": space.input_shape}
        print_json({**about, "classes": space.classes, **summary.to_json()})
        return
    path = Path(name) if name.endswith(".toml") else resource_folder("spaces") / f"{name}.toml"
    text = path.read_text(encoding="utf-8").splitlines(keepends=True)
    header = [f"{MARK}{line}\n" for line in _summary_lines(space, summary)]
    typer.echo("".join([*header, *dropwhile(lambda line: line.startswith(MARK), text)]), nl=False)


def _summary_lines(space: Any, summary: Any) -> list[str]:
    """Return a summary in aligned lines: the size, and each cost's range."""
    from jointnas.space.constraint import format_metric

    if not summary.costs:
        return [summary.size]
    size = "x".join(map(str, space.input_shape))
    rows = [(f"{size}, {space.classes} classes", "smallest", "median", "largest", "middle of every knob")]
    for metric, reach in summary.costs.items():
        numbers = (reach.smallest, reach.median, reach.largest, summary.example_costs[metric])
        rows.append((metric, *(format_metric(metric, number) for number in numbers)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [summary.size, *("  ".join(_aligned(row, widths)) for row in rows)]


def _aligned(row: tuple[str, ...], widths: list[int]) -> list[str]:
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]


@spaces_app.command("check")
def spaces_check(
    files: Annotated[list[Path], typer.Argument(help="Space files.")],
    input_shape: InputShape = "3x32x32",
    classes: Classes = 10,
) -> None:
    """Check space files, also that their networks exist for images of this shape; exit 1 where one is wrong.

    Each problem is printed with its file and line.

    \b
    Examples:
      jointnas spaces check mine.toml
      jointnas spaces check mine.toml --input-shape 1x28x28
    """
    from jointnas.space.lint import problems
    from jointnas.space.space import Space

    shape = parse_shape(input_shape)
    wrong = False
    for file in files:
        faults = problems(file, shape, classes)
        for line, message in faults:
            typer.echo(f"jointnas: {file}{'' if line is None else f':{line}'}: {message}", err=True)
        if faults:
            wrong = True
        else:
            typer.echo(f"{file}: {len(Space.load(file).knobs)} knobs, no faults")
    if wrong:
        raise typer.Exit(1)
