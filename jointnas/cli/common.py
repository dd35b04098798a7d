"""What commands share: options, output, and the clock they ask for."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jointnas.errors import BudgetError, CandidateError
from jointnas.units import parse_duration

if TYPE_CHECKING:
    from jointnas.measurement.meter import Meter

DEFAULT_TRAIN_TIME = "10m"
INTERRUPTED = 130

DataOption = Annotated[
    str | None, typer.Option("--data", help="digits, cifar10, …, an image folder, a zip of one, or an .npz.")
]
TrainImages = Annotated[int | None, typer.Option(help="Training images, drawn by class and seed (default: all).")]
ValImages = Annotated[int | None, typer.Option(help="Validation images (default: a fifth, at most 5000).")]
ImageSize = Annotated[int | None, typer.Option(help="Side in pixels that images of mixed sizes are brought to.")]
TrainTime = Annotated[
    str | None, typer.Option(help=f"Budget of each training: 30s, 10m, 3h (default {DEFAULT_TRAIN_TIME}).")
]
TrainSteps = Annotated[
    int | None, typer.Option(help="Budget in steps instead of time: reproducible to the bit on a CPU.")
]
Workers = Annotated[int, typer.Option(help="Trainings side by side; the cores are shared out between them.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Measured = Annotated[
    list[str] | None,
    typer.Option("--measure", help="A metric to measure on this device and show, such as latency; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]

messages = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
output = Console(highlight=False, markup=False)


def print_json(data: Any) -> None:
    """Print one JSON object on stdout."""
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout: drawn on a terminal, tab-separated off it."""
    if not output.is_terminal:
        for row in (columns, *rows):
            sys.stdout.write("\t".join(row) + "\n")
        return
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for i, column in enumerate(columns):
        numbers = all(not row[i] or row[i][0].isdigit() for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    output.print(table)


def knob_text(knobs: dict[str, Any]) -> str:
    """Return knobs in one line: `network resnet9, width 12, …`."""
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {str(v).lower()}" for k, v in knobs.items())


def check_seed(seed: int) -> None:
    """Raise `SearchError` for a seed from which trainings would get seeds that others have."""
    from jointnas.campaign.runner import LARGEST_SEED
    from jointnas.errors import SearchError

    if not 0 <= seed <= LARGEST_SEED:
        raise SearchError(f"--seed lies between 0 and {LARGEST_SEED}, got {seed}: change it")


def architecture_text(knobs: dict[str, Any]) -> str:
    """Return an architecture's knobs in one line, without those that its family has at these values anyway."""
    from jointnas.network.families import find_family

    defaults = find_family(knobs["network"]).knobs if "network" in knobs else {}
    return knob_text({k: v for k, v in knobs.items() if k not in defaults or v != defaults[k]})


def recipe_text(knobs: dict[str, Any]) -> str:
    """Return a recipe's knobs in one line, without those that a recipe has at these values anyway."""
    from jointnas.training.recipe import knob_fields

    fields = knob_fields()
    return knob_text({k: v for k, v in knobs.items() if k not in fields or v != fields[k].default})


def figures_of(
    meter: Meter, candidates: Sequence[Mapping[str, Any]], metrics: Sequence[str]
) -> list[dict[str, float | None]]:
    """Return measured metrics of candidates, None for what could not be measured; the reasons go to stderr."""
    found = meter.measure(candidates, metrics)
    print_failures(meter)
    return [{metric: None if math.isnan(value) else value for metric, value in row.items()} for row in found]


def print_failures(meter: Meter) -> None:
    """Say on stderr why figures could not be measured."""
    for reason in meter.failures:
        messages.print(f"a figure could not be measured: {reason}")


def figure_texts(row: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    """Return the cells of a table for a row's metrics, empty for what is not known."""
    from jointnas.space.constraint import format_metric

    return ["" if row.get(metric) is None else format_metric(metric, row[metric]) for metric in metrics]


def spread_text(values: dict[str, Any]) -> str:
    """Return what `retrain.spread` found: the mean and deviation, or nothing."""
    if values["mean"] is None:
        return ""
    return (
        f"{values['mean']:.4f} (one seed)" if values["std"] is None else f"{values['mean']:.4f} ± {values['std']:.4f}"
    )


def clock_json(
    train_time: str | None, train_steps: int | None, default: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the clock that two options ask for, as JSON; the default where neither is given. Raises `BudgetError`."""
    if train_time is not None and train_steps is not None:
        raise BudgetError(
            f"a budget is a time or steps, got --train-time {train_time} and --train-steps {train_steps}: drop one"
        )
    if train_steps is not None:
        if train_steps < 1:
            raise BudgetError(f"a training has one step or more, got --train-steps {train_steps}: raise it")
        return {"train_steps": train_steps}
    if train_time is None and default is not None:
        return default
    seconds = parse_duration(train_time or DEFAULT_TRAIN_TIME)
    if seconds <= 0:
        raise BudgetError(f"a training time is above 0 seconds, got --train-time {train_time}: raise it")
    return {"train_seconds": seconds}


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Return {knob: value} from `knob=value` texts; values are read as TOML, or else as words. Raises `CandidateError`."""
    import tomllib

    found: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise CandidateError(f"--fix is knob=value, got {text!r}: write it like --fix optimizer=sgd")
        try:
            found[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name] = value
    return found


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """Turn Ctrl-C into exit 130 and one line of advice."""
    try:
        yield
    except KeyboardInterrupt:
        messages.print(f"interrupted: {advice}")
        raise typer.Exit(INTERRUPTED) from None
