"""`jointnas export`: a trained network in a format that deploys, or candidates as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jointnas.cli.common import Json, messages, print_json

CANDIDATE_FORMATS = ("toml", "json")


def export_command(
    source: Annotated[str, typer.Argument(help="A run's folder, or its name in runs/; or a winner's folder.")],
    kind: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="onnx|int8-onnx|pt2|executorch|python|safetensors|toml|json",
            help="The trained network, by default as onnx; or candidates to train, as toml, or as json with the blueprint.",
        ),
    ] = None,
    query: Annotated[
        int | None, typer.Option(help="Candidates: whose winners, by a query's number (default: the latest).")
    ] = None,
    top: Annotated[int | None, typer.Option(help="Candidates: how many winners (default: all).")] = None,
    trial: Annotated[
        list[int] | None, typer.Option(help="Candidates: a trial in place of winners, by its number; repeatable.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Folder to write to (default: RUN/export).")] = None,
    as_json: Json = False,
) -> None:
    """Write the trained network of a run or of a retrained winner, or a run's winners and trials as candidate files.

    The network takes uint8 images, as its data set has them, and gives class probabilities; what normalises the images is inside. Its
    outputs are compared with PyTorch's. Candidate files are what train, retrain and show read.

    \b
    Examples:
      jointnas export runs/digits-resnet9-1
      jointnas export runs/digits-resnet9-1 --format int8-onnx --to device/
      jointnas export runs/digits-resnet9-1/retrained/winner-1 --format python
      jointnas export runs/digits-resnet9-1 --top 1 --format json --to best/
      jointnas export runs/digits-resnet9-1 --trial 3
    """
    chooses = query is not None or top is not None or trial
    kind = kind or ("toml" if chooses else "onnx")
    if kind in CANDIDATE_FORMATS:
        _export_candidates(source, query, top, trial or [], to, kind, as_json)
    else:
        _export_trained(source, kind, to, bool(chooses), as_json)


def _export_trained(name: str, kind: str, to: Path | None, chooses: bool, as_json: bool) -> None:
    """Write the trained network in a run's or a winner's folder."""
    from jointnas.campaign.folders import WINNER_FILE, find_run
    from jointnas.campaign.run_files import training_of_folder
    from jointnas.errors import ExportError
    from jointnas.export.formats import FORMATS, Source, export_trained

    if kind not in FORMATS:
        from jointnas.errors import suggest

        raise ExportError(f"no format is called {kind!r}: {suggest(kind, (*FORMATS, *CANDIDATE_FORMATS))}")
    if chooses:
        raise ExportError(
            f"--query, --top and --trial choose candidates, got one beside --format {kind}: use --format toml"
        )
    folder = Path(name) if (Path(name) / WINNER_FILE).is_file() else find_run(name)
    exported = export_trained(Source.of(folder, training_of_folder(folder)), kind, to or folder / "export")
    if as_json:
        print_json(exported.to_json())
        return
    for path in exported.files:
        typer.echo(path)
    messages.print(" · ".join(f"{fact} {value}" for fact, value in exported.facts.items()))


def _export_candidates(
    run: str, query: int | None, top: int | None, trial: list[int], to: Path | None, kind: str, as_json: bool
) -> None:
    """Write winners or trials of a run as candidate files."""
    from jointnas.campaign.folders import find_run
    from jointnas.campaign.run_files import trial_files, winner_files, write_candidates
    from jointnas.errors import RunError

    folder = to or find_run(run) / "export"
    if trial:
        for option, value in (("--query", query), ("--top", top)):
            if value is not None:
                raise RunError(
                    f"{option} chooses among winners and does not go with --trial, got {option} {value}: drop one"
                )
        files = trial_files(run, trial)
    else:
        files = {f"winner-{rank}": file for rank, file in enumerate(winner_files(run, query, top)[1], 1)}
    paths = write_candidates(files, folder, kind)
    if as_json:
        print_json({"files": [str(p) for p in paths]})
    else:
        for path in paths:
            typer.echo(path)
