"""`jointnas evaluate`: a trained model's accuracy on labelled images, class by class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jointnas.cli.common import Json, print_json, print_table

if TYPE_CHECKING:
    from jointnas.training.confusion import Confusion


def evaluate_command(
    model: Annotated[Path, typer.Argument(help="A run, or a winner's folder as `retrain` or `train --to` wrote it.")],
    data: Annotated[
        str, typer.Argument(help="Labelled images, as for `search --data`: a folder, a zip, a .csv, an .npz.")
    ],
    split: Annotated[
        str | None,
        typer.Option(metavar="train|val|test", help="Which images (default: test where the data have one, else all)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score a trained model on labelled images: accuracy, balanced accuracy, macro F1, and a line for each class.

    Images are prepared exactly as those that the model was trained on.

    \b
    Examples:
      jointnas evaluate runs/photos new-photos/
      jointnas evaluate runs/photos/retrained/winner-1 photos/ --split test --json
    """
    from jointnas.campaign.evaluate import evaluate
    from jointnas.campaign.folders import find_run
    from jointnas.campaign.winner_file import load

    found, name = evaluate(load(model if model.is_dir() else find_run(model)), data, split)
    if as_json:
        print_json({"split": name, **found.to_json()})
        return
    print_confusion(found)
    typer.echo(
        f"{name} images: accuracy {found.accuracy:.4f} · balanced accuracy {found.balanced_accuracy:.4f} · macro F1 {found.macro_f1:.4f}"
    )


def print_confusion(confusion: Confusion) -> None:
    """Print a line for each class, the worst last."""
    rows = sorted((row for row in confusion.rows() if row["images"]), key=lambda row: -row["recall"])
    print_table(
        "",
        ("class", "images", "recall", "precision", "F1", "most often taken for"),
        [
            (
                row["class"],
                str(row["images"]),
                f"{row['recall']:.3f}",
                f"{row['precision']:.3f}",
                f"{row['f1']:.3f}",
                row["taken_for"] or "",
            )
            for row in rows
        ],
    )
