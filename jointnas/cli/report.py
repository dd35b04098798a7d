"""`jointnas report` and `jointnas watch`: a run as a page, in a file and live."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from jointnas.cli.common import interruptible, messages

PORT = 8642


def report_command(
    run: Annotated[str, typer.Argument(help="A run's folder, or its name in runs/.")],
    to: Annotated[Path | None, typer.Option(help="The file to write (default: RUN/report.html).")] = None,
) -> None:
    """Write one HTML file about a run: winners and costs, progress, calibration, what matters, trainings, failures, confusion.

    The file needs no network and runs no script.

    \b
    Examples:
      jointnas report runs/digits-resnet9-1
      jointnas report runs/digits-resnet9-1 --to digits.html
    """
    from jointnas.campaign.folders import find_run
    from jointnas.report.page import write_report

    folder = find_run(run)
    typer.echo(write_report(folder, to or folder / "report.html"))


def watch_command(
    run: Annotated[str, typer.Argument(help="A run's folder, or its name in runs/.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 for any free one.")] = PORT,
) -> None:
    """Serve a run's report on this machine alone, drawn again as trainings end, until Ctrl-C.

    \b
    Examples:
      jointnas watch runs/photos
      jointnas watch runs/photos --port 9000
    """
    from jointnas.campaign.folders import find_run
    from jointnas.report.live import LiveReport

    if hasattr(os, "nice"):
        os.nice(19)  # the trainings that it watches come first
    with LiveReport(find_run(run), port) as live, interruptible(lambda: "the search goes on"):
        messages.print(f"open {live.address}")
        live.serve()
