"""`jointnas show`: a candidate's network, block by block, and its knobs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from jointnas.cli.common import (
    Json,
    Measured,
    default_knobs,
    figure_texts,
    figures_of,
    format_knob,
    print_json,
    print_table,
)


def show_command(
    name: Annotated[
        str,
        typer.Argument(help="A winner of a run, as RUN#1, a candidate file, a built-in recipe, or a winner's folder."),
    ],
    input_shape: Annotated[
        str | None, typer.Option(help="Input as CxHxW (default: the file's own, or 3x32x32).")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Classes (default: the file's own, or 10).")] = None,
    measure: Measured = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="A row for each layer instead of one for each block.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a candidate: its network block by block, with what each costs, and the knobs of network and recipe.

    Equal blocks in a row are one row with their sums.

    A block's figures are of one view of an image, the total is of all views that the recipe scores: two with test_flip.

    \b
    Examples:
      jointnas show runs/digits-resnet9-1#1
      jointnas show runs/digits-resnet9-1/export/winner-1.toml
      jointnas show nomad-senet --layers
      jointnas show mine.toml --input-shape 1x28x28 --measure latency
    """
    from jointnas.campaign.candidate_file import find_candidate
    from jointnas.campaign.run_files import winner_file
    from jointnas.campaign.winner_file import WinnerFile
    from jointnas.errors import ExportError
    from jointnas.execution import share_slots
    from jointnas.measurement.meter import Meter
    from jointnas.network.cost import blueprint_cost, scoring_cost
    from jointnas.training.recipe import Recipe
    from jointnas.training.trained_blueprint import trained_blueprint

    measured: dict[str, float | None] = {}
    path = Path(name)
    if path.is_dir():
        if input_shape is not None or classes is not None or measure:
            raise ExportError(
                f"--input-shape, --classes and --measure go with a candidate file, got one beside the folder {str(path)!r}: drop it"
            )
        winner = WinnerFile.read(path)
        candidate, members = winner.candidate, [(member.blueprint, member.views) for member in winner.members]
    else:
        file = winner_file(name) if "#" in name and not path.exists() else find_candidate(path)
        candidate = file.candidate
        shape = parse_shape(input_shape) if input_shape else file.input_shape
        outputs = file.training.get("classes", 10) if classes is None else classes
        views = Recipe.from_knobs(file.candidate["recipe"]).views
        members = [(trained_blueprint(file.candidate, shape, outputs), views)] * file.members
        if measure and file.members > 1:
            raise ExportError(
                f"only single networks are measured, got --measure {measure[0]} for {file.members} members: drop it"
            )
        with Meter(share_slots(1, "auto"), shape, outputs) as meter:
            (measured,) = figures_of(meter, [file.candidate], measure or [])
    if as_json:
        shown = [
            {"blueprint": network.to_json(), "costs": {**scoring_cost(blueprint_cost(network), views), **measured}}
            for network, views in members
        ]
        print_json({"candidate": candidate, "members": shown})
        return
    for network, views in dict.fromkeys(members):
        bits = ("bits",) if any(_bits(block.nodes) for block in network.blocks) else ()
        columns = ("layer", "block", "operation", "reads") if layers else ("number", "block", "operations")
        columns = (*columns, "output", "macs", "params", *bits)
        rows = _layer_rows(network, views) if layers else _block_rows(network, views)
        print_table("", columns, [row[: len(columns)] for row in rows])
    if len(members) > 1:
        costs = [scoring_cost(blueprint_cost(network), views) for network, views in members]
        sums = {name: sum(own[name] for own in costs) for name in costs[0]}
        print_table("", ("members", *sums), [(str(len(members)), *figure_texts(sums, list(sums)))])
    if measured:
        print_table("", ("measured", "value"), list(zip(measured, figure_texts(measured, list(measured)), strict=True)))
    typer.echo()
    print_table("", ("knob", "value", "default"), _knob_rows(candidate))


def _knob_rows(candidate: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return a candidate's knobs, with the values that they have where a candidate does not name them."""
    defaults = default_knobs(candidate)
    knobs = {**candidate.get("architecture", {}), **candidate.get("recipe", {})}
    return [(n, format_knob(v), format_knob(defaults[n]) if n in defaults else "") for n, v in knobs.items()]


def parse_shape(text: str) -> tuple[int, ...]:
    """Return the input shape (C, H, W) in `text` such as `3x32x32`. Raises `BlueprintError`."""
    from jointnas.errors import BlueprintError

    parts = text.lower().split("x")
    if len(parts) != 3 or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise BlueprintError(f"an input shape is channels, height and width, got {text!r}: write it like 3x32x32")
    return tuple(int(p) for p in parts)


def _block_rows(blueprint: Any, views: int = 1) -> list[tuple[str, ...]]:
    """Return the input, a row for each run of equal blocks, and the total of all views."""
    from jointnas.network.cost import block_cost

    shapes = blueprint.shapes()
    rows: list[tuple[str, ...]] = [("0", "input", "", _size(shapes[0]), "", "", "")]

    def alike(i: int) -> tuple[Any, ...]:
        inputs = blueprint.wiring[i]
        return blueprint.blocks[i], tuple(i - j for j in inputs), tuple(shapes[j] for j in inputs)

    for (block, distances, inputs), run in groupby(range(len(blueprint.blocks)), alike):
        first, *more = run
        times = 1 + len(more)
        part = block_cost(block, inputs, (False,) * len(inputs))
        reads = "" if distances == (0,) else f"reads {', '.join(str(first - d) for d in distances)}: "
        rows.append(
            (
                f"{first + 1}–{first + times}" if more else str(first + 1),
                f"{times} × {block.name}" if more else block.name,
                reads + " ".join(_operation(node) for node in block.nodes),
                _size(shapes[first + times]),
                *_amounts(times * part.macs, times * part.params),
                _bits(block.nodes),
            )
        )
    return [*rows, _total_row(blueprint, views, 1)]


def _layer_rows(blueprint: Any, views: int = 1) -> list[tuple[str, ...]]:
    """Return the input, a row for each node, which reads others by their numbers, and the total of all views."""
    from jointnas.network.blueprint import block_shapes
    from jointnas.network.cost import node_cost

    shapes = blueprint.shapes()
    rows: list[tuple[str, ...]] = [("0", "input", "", "", _size(shapes[0]), "", "", "")]
    outputs = [0]  # the number of the layer that gives each of the network's values
    for block, inputs in zip(blueprint.blocks, blueprint.wiring, strict=True):
        numbers = [outputs[i] for i in inputs]  # and of the block's
        sizes = block_shapes(block, tuple(shapes[i] for i in inputs))
        for node, size in zip(block.nodes, sizes[len(inputs) :], strict=True):
            numbers.append(len(rows))
            reads = ", ".join(str(numbers[i]) for i in node.inputs)
            cost = node_cost(node, sizes[node.inputs[0]], size)
            amounts = _amounts(cost.macs, cost.trained)
            rows.append((str(numbers[-1]), block.name, _operation(node), reads, _size(size), *amounts, _bits([node])))
        outputs.append(numbers[-1])
    return [*rows, _total_row(blueprint, views, 2)]


def _total_row(blueprint: Any, views: int, blanks: int) -> tuple[str, ...]:
    from jointnas.network.cost import blueprint_cost, scoring_cost
    from jointnas.space.constraint import format_metric

    total = scoring_cost(blueprint_cost(blueprint), views)
    rest = f"size {format_metric('size', total['size'])}, peak memory {format_metric('memory', total['memory'])}"
    of = f" of {views} views" if views > 1 else ""
    return ("", f"total{of}", rest, *[""] * blanks, *_amounts(total["macs"], total["params"]), "")


def _bits(nodes: Any) -> str:
    """Return the bits of the weights of layers that are quantised, and of what they read where that is quantised too."""
    from jointnas.network.operations.packing import Packing

    found = dict.fromkeys(packing for node in nodes if (packing := Packing.of(node)) is not None)
    return ", ".join(f"{p.bits}" + (f" × {p.activation_bits}" if p.activation_bits else "") for p in found)


def _amounts(macs: int, params: int) -> tuple[str, str]:
    from jointnas.space.constraint import format_metric

    return format_metric("macs", macs), format_metric("params", params)


def _size(shape: Any) -> str:
    return "×".join(map(str, shape))


def _operation(node: Any) -> str:
    """Return an operation with what distinguishes it: `conv3×3-64/2` makes 64 channels at stride 2."""
    kernel, stride = node.get("kernel"), node.get("stride", 1)
    window = f"{kernel}×{kernel}" if kernel else ""
    step = f"/{stride}" if stride != 1 else ""
    if node.operation == "conv":
        channels, groups = node.get("channels"), node.get("groups")
        kind = "conv" if groups == 1 else "depthwise" if groups == channels else f"conv-in-{groups}-groups-"
        return f"{kind}{window}-{channels}{step}"
    if node.operation == "linear":
        return f"linear-{node.get('features')}"
    if node.operation == "resize":
        return f"resize-{node.get('height')}×{node.get('width')}"
    if node.operation == "opaque":
        return f"{node.get('library')}.{node.get('name')}"
    return f"{node.operation}{window}{step}"
