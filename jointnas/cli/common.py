"""What commands share: options and output."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table

from jointnas.errors import CandidateError, printable

if TYPE_CHECKING:
    from jointnas.measurement.meter import Meter

INTERRUPTED = 130
LONGEST_CELL, SHORTEST_CELL = 40, 8  # characters of a table's cell that is not cut on a terminal, and of one that is

DATA, BUDGET, MACHINE, OUTPUT = "Data", "Budget", "Where it trains", "Run and output"
"""The groups of options in a command's help that several commands have."""


def option(group: str, *names: str, help: str, **settings: Any) -> Any:
    """Return an option of a group in a command's help."""
    return typer.Option(*names, help=help, rich_help_panel=group, **settings)


DataOption = Annotated[
    str | None, option(DATA, "--data", help="digits, cifar10, …, an image folder, a zip of one, a .csv, or an .npz.")
]
TrainImages = Annotated[int | None, option(DATA, help="Training images, drawn by class and seed (default: all).")]
ValImages = Annotated[int | None, option(DATA, help="Validation images (default: a fifth, at most 5000).")]
ImageSize = Annotated[int | None, option(DATA, help="Side in pixels that images of mixed sizes are brought to.")]
Fit = Annotated[
    str | None,
    option(
        DATA,
        metavar="crop|pad|stretch",
        help="With --image-size: cut the longer side (default), add black, or distort.",
    ),
]
DataSeed = Annotated[int | None, option(DATA, help="Seed of the data's split (default: --seed).")]
TrainTime = Annotated[str | None, option(BUDGET, help="Budget of each training: 30s, 10m, 3h (default 10m).")]
TrainSteps = Annotated[
    int | None, option(BUDGET, help="Budget in steps instead of time: reproducible to the bit on a CPU.")
]
Workers = Annotated[int, option(MACHINE, help="Trainings side by side, which share the cores; with GPUs one for each.")]
WorkersPerDevice = Annotated[
    int | None,
    option(
        MACHINE,
        help="Trainings side by side on each GPU, which share its memory; in place of --workers, or beside it with --ray.",
    ),
]
Ray = Annotated[
    str | None,
    option(
        MACHINE,
        "--ray",
        help="Train on a Ray cluster: auto for the one that runs on this machine, its address, or local for a new one. --workers then counts "
        "all its trainings at a time.",
    ),
]
MixMachines = Annotated[
    bool, option(MACHINE, "--mix-machines", help="With --ray: let trainings of one run have machines of several kinds.")
]
Threads = Annotated[int | None, option(MACHINE, help="With --ray: cores of each training (default 1).")]
Alone = Annotated[
    bool,
    option(
        MACHINE,
        "--alone",
        help="Train one at a time, on the share of the cores that --workers would give to each.",
    ),
]
Device = Annotated[
    str,
    option(
        MACHINE,
        metavar="auto|cpu|cuda|cuda:0,1|mps",
        help="auto takes GPUs where there are some, cuda all GPUs, cuda:0,1 these by turns.",
    ),
]
Members = Annotated[
    int | None,
    typer.Option(
        help="Networks trained together within the budget; their probabilities are averaged (default: the file's or run's)."
    ),
]
Ensemble = Annotated[
    str | None,
    typer.Option(
        metavar="seeds|snapshots", help="Their kind: trained one after another, or snapshots of one training."
    ),
]
Measured = Annotated[
    list[str] | None,
    option(OUTPUT, "--measure", help="A metric to measure on this device and show, such as latency; repeatable."),
]
Json = Annotated[bool, option(OUTPUT, "--json", help="Print one JSON object on stdout.")]


def _hush(value: bool) -> bool:
    messages.quiet = value
    return value


Quiet = Annotated[bool, option(OUTPUT, "--quiet", "-q", help="No plan, progress and notes on stderr.", callback=_hush)]


class PlainConsole(Console):
    """A console that shows names of files and classes as they are: no markup, control characters escaped."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts and what Rich draws."""
        super().print(
            *("\n".join(map(printable, o.split("\n"))) if isinstance(o, str) else o for o in objects), **options
        )


messages = PlainConsole(stderr=True, highlight=False, markup=False, soft_wrap=True)
output = PlainConsole(highlight=False, markup=False)


def print_json(data: Any) -> None:
    """Print one JSON object on stdout."""
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout: drawn on a terminal, where long cells are cut to one line, and tab-separated off it."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if not output.is_terminal:
        for row in (columns, *rows):
            sys.stdout.write("\t".join(row) + "\n")
        return
    table = Table(
        title=title or None,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.pad_edge = False
    rows = _cut(columns, rows, output.width)
    for i, column in enumerate(columns):
        numbers = all(not row[i] or row[i][0].isdigit() for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    output.print(table)


def _cut(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """Return a table's rows with the cells of its long columns cut to one line of a terminal of this width."""
    widths = [max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)]
    long = [i for i, own in enumerate(widths) if own > LONGEST_CELL]
    if not long:
        return [list(row) for row in rows]
    others = sum(own for i, own in enumerate(widths) if i not in long) + 2 * len(columns)
    share = max(SHORTEST_CELL, (width - others) // len(long))
    return [
        [
            f"{set_cell_size(cell, share - 1)}…" if i in long and cell_len(cell) > share else cell
            for i, cell in enumerate(row)
        ]
        for row in rows
    ]


def format_knob(value: Any) -> str:
    """Return a knob's value as people read it."""
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower()


def knob_text(knobs: dict[str, Any]) -> str:
    """Return knobs in one line: `network resnet9, width 12, …`."""
    return ", ".join(f"{name} {format_knob(value)}" for name, value in knobs.items())


def given_options(context: typer.Context) -> dict[str, Any]:
    """Return the parameters that stand on the command line, without those at their defaults."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name: context.params[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def default_knobs(candidate: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that knobs have where a candidate does not name them: those of its network's family, and of recipes."""
    from jointnas.network.families import find_family
    from jointnas.training.recipe import knob_fields

    architecture = candidate.get("architecture", {})
    family = find_family(architecture["network"]).knobs if "network" in architecture else {}
    return {**family, **{name: field.default for name, field in knob_fields().items()}}


def architecture_text(knobs: dict[str, Any]) -> str:
    """Return an architecture's knobs in one line, without those that its family has at these values anyway."""
    return _without_defaults(knobs, default_knobs({"architecture": knobs}))


def recipe_text(knobs: dict[str, Any]) -> str:
    """Return a recipe's knobs in one line, without those that a recipe has at these values anyway."""
    return _without_defaults(knobs, default_knobs({}))


def _without_defaults(knobs: dict[str, Any], defaults: Mapping[str, Any]) -> str:
    return knob_text({k: v for k, v in knobs.items() if k not in defaults or v != defaults[k]})


def difference_text(candidate: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return in one line the knobs in which a candidate differs from another, with its own values; knobs that it does not have are left out."""
    own, theirs = ({**c.get("architecture", {}), **c.get("recipe", {})} for c in (candidate, other))
    theirs = {**default_knobs(other), **theirs}
    return knob_text({name: value for name, value in own.items() if name not in theirs or value != theirs[name]})


def figures_of(
    meter: Meter, candidates: Sequence[Mapping[str, Any]], metrics: Sequence[str]
) -> list[dict[str, float | None]]:
    """Return measured metrics of candidates, None for what could not be measured; the reasons go to stderr."""
    rows = meter.measure(candidates, metrics)
    for reason in meter.failures:
        messages.print(f"a metric could not be measured: {reason}")
    return [{metric: None if math.isnan(value) else value for metric, value in row.items()} for row in rows]


def figure_texts(row: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    """Return the cells of a table for a row's metrics, empty for missing values."""
    from jointnas.space.constraint import format_metric

    return ["" if row.get(metric) is None else format_metric(metric, row[metric]) for metric in metrics]


def spread_text(values: dict[str, Any]) -> str:
    """Return mean and deviation of what `retrain.spread` returns, empty without values."""
    if values["mean"] is None:
        return ""
    return (
        f"{values['mean']:.4f} (one seed)" if values["std"] is None else f"{values['mean']:.4f} ± {values['std']:.4f}"
    )


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Return {knob: value} from `knob=value` texts; values are read as TOML, or else as words. Raises `CandidateError`."""
    import tomllib

    values: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise CandidateError(f"--fix is written knob=value, got {text!r}: write it like --fix optimizer=sgd")
        try:
            values[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            values[name] = value
    return values


@contextmanager
def interruptible(advice: Callable[[], str]) -> Iterator[None]:
    """Turn Ctrl-C into exit 130 and one line of advice; a second one does not disturb the end of the workers."""

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, interrupt) if is_main else None
    interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        interrupted = True
        messages.print(f"interrupted: {advice()}")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        if before is not None and not interrupted:
            signal.signal(signal.SIGINT, before)
