"""`jointnas export`: winners and trials as candidate files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jointnas.cli.common import Json, print_json


def export_command(
    run: Annotated[str, typer.Argument(help="A run's folder, or its name in runs/.")],
    query: Annotated[int | None, typer.Option(help="Whose winners: a query's number (default: the latest).")] = None,
    top: Annotated[int | None, typer.Option(help="How many winners (default: all).")] = None,
    trial: Annotated[
        list[int] | None, typer.Option(help="A trial to write instead of winners, by its number; repeatable.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Folder to write to (default: RUN/export).")] = None,
    kind: Annotated[str, typer.Option("--format", help="toml, or json with the network's blueprint.")] = "toml",
    as_json: Json = False,
) -> None:
    """Write a run's winners, or some of its trials, as candidate files that `train`, `retrain` and `show` read.

    \b
    Examples:
      jointnas export runs/digits-resnet9-1
      jointnas export runs/digits-resnet9-1 --top 1 --format json --to best/
      jointnas export runs/digits-resnet9-1 --trial 3
    """
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
