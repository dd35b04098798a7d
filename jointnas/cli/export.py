"""`jointnas export` and `jointnas show`: winners as files, and a candidate's network as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jointnas.cli.common import Json, print_json, print_table


def export(
    run: Annotated[str, typer.Argument(help="A run's folder, or its name in runs/.")],
    query: Annotated[int | None, typer.Option(help="Whose winners: a query's number (default: the latest).")] = None,
    top: Annotated[int | None, typer.Option(help="How many winners (default: all).")] = None,
    to: Annotated[Path | None, typer.Option(help="Folder to write to (default: RUN/export).")] = None,
    kind: Annotated[str, typer.Option("--format", help="toml, or json with the network's blueprint.")] = "toml",
    as_json: Json = False,
) -> None:
    """Write a run's winners as candidate files that `train`, `retrain` and `show` read.

    \b
    Examples:
      jointnas export runs/digits-resnet9-1
      jointnas export runs/digits-resnet9-1 --top 1 --format json --to best/
    """
    from jointnas.run import find_run

    folder = to or find_run(run) / "export"
    paths = []
    for rank, file in enumerate(winner_files(run, query, top), 1):
        paths.append(folder / f"winner-{rank}.{kind}")
        file.write(paths[-1], kind)
    if as_json:
        print_json({"files": [str(p) for p in paths]})
    else:
        for path in paths:
            typer.echo(path)


def winner_files(run: str, query: int | None, top: int | None) -> list[Any]:
    """Return the winners of a run's query as candidate files."""
    from jointnas.errors import RunError
    from jointnas.export import CandidateFile
    from jointnas.run import Run, find_run

    if top is not None and top < 1:
        raise RunError(f"--top is 1 or more, got {top}: raise it")
    with Run.open(find_run(run)) as opened:
        specification = opened.specification
        training = {key: specification[key] for key in ("data", "fingerprint", "clock", "slot", "input_shape", "space")}
        training["classes"] = len(specification["classes"])
        return [
            CandidateFile(
                w.candidate,
                {"predicted_accuracy": w.mean, "std": w.std, "accuracy": w.accuracy},
                w.costs,
                training,
            )
            for w in opened.winners(query)[:top]
        ]


def show(
    path: Annotated[Path, typer.Argument(help="A candidate file, a built-in recipe's name, or a winner's folder.")],
    input_shape: Annotated[
        str | None, typer.Option(help="Input as CxHxW (default: the file's own, or 3x32x32).")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Classes (default: the file's own, or 10).")] = None,
    as_json: Json = False,
) -> None:
    """Show a candidate's network block by block, with what each costs.

    \b
    Examples:
      jointnas show runs/digits-resnet9-1/export/winner-1.toml
      jointnas show nomad-senet
      jointnas show mine.toml --input-shape 1x28x28
    """
    from jointnas.cost import cost
    from jointnas.export import WinnerFile, find_candidate
    from jointnas.networks import blueprint

    if path.is_dir():
        members = [member.blueprint for member in WinnerFile.read(path).members]
    else:
        file = find_candidate(path)
        shape = _shape(input_shape) if input_shape else tuple(file.training.get("input_shape", (3, 32, 32)))
        members = [blueprint(file.candidate["architecture"], shape, classes or file.training.get("classes", 10))]
    if as_json:
        print_json({"members": [{"blueprint": m.to_json(), "costs": cost(m)} for m in members]})
        return
    for member in members:
        print_table("", ("block", "operations", "output", "macs", "params"), _rows(member))


def _shape(text: str) -> tuple[int, ...]:
    from jointnas.errors import BlueprintError

    parts = text.lower().split("x")
    if len(parts) != 3 or not all(p.isdigit() and int(p) > 0 for p in parts):
        raise BlueprintError(f"an input shape is channels, height and width, got {text!r}: write it like 3x32x32")
    return tuple(int(p) for p in parts)


def _rows(blueprint: Any) -> list[list[str]]:
    from jointnas.constraint import format_metric
    from jointnas.cost import block_cost, cost

    shapes = blueprint.shapes()
    rows: list[list[str]] = []
    for i, (block, inputs) in enumerate(zip(blueprint.blocks, blueprint.wiring, strict=True)):
        part = block_cost(block, tuple(shapes[j] for j in inputs), (False,) * len(inputs))
        operations = " ".join(_operation(node) for node in block.nodes)
        size = "×".join(map(str, shapes[i + 1]))
        rows.append([block.name, operations, size, *(format_metric(m, getattr(part, m)) for m in ("macs", "params"))])
    total = cost(blueprint)
    rest = f"size {format_metric('size', total['size'])}, peak memory {format_metric('memory', total['memory'])}"
    rows.append(["total", rest, "", format_metric("macs", total["macs"]), format_metric("params", total["params"])])
    return rows


def _operation(node: Any) -> str:
    if node.operation == "conv":
        stride = f"/{node.get('stride')}" if node.get("stride") != 1 else ""
        return f"conv{node.get('kernel')}×{node.get('kernel')}-{node.get('channels')}{stride}"
    return str(node.operation)
