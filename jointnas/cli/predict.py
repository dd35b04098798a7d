"""`jointnas predict`: a trained winner's classes for image files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jointnas.cli.common import Json, print_json, print_table


def predict_command(
    winner: Annotated[Path, typer.Argument(help="A run, or a winner's folder as `retrain` or `train --to` wrote it.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    as_json: Json = False,
) -> None:
    """Classify images with the best network of a run, or with a trained winner.

    \b
    Examples:
      jointnas predict runs/digits-resnet9-1 seven.png
      jointnas predict runs/digits-resnet9-1/retrained/winner-1 seven.png
    """
    from jointnas.campaign.evaluate import classify_files
    from jointnas.campaign.folders import find_run
    from jointnas.campaign.winner_file import load

    model = load(winner if winner.is_dir() else find_run(winner))
    best = classify_files(model, images).max(dim=1)
    rows = [
        (str(path), model.classes[int(i)], float(p))
        for path, p, i in zip(images, best.values, best.indices, strict=True)
    ]
    if as_json:
        print_json({"predictions": [{"image": image, "class": label, "probability": p} for image, label, p in rows]})
    else:
        print_table("", ("image", "class", "probability"), [(image, label, f"{p:.4f}") for image, label, p in rows])
