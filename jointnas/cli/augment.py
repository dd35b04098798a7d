"""`jointnas augment`: a picture of what a recipe does to training images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jointnas.cli.common import DataOption, Fit, ImageSize, TrainImages, parse_assignments


def augment_command(
    candidate: Annotated[
        str | None, typer.Argument(help="A candidate file or a built-in recipe (default: all knobs at their defaults).")
    ] = None,
    show: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("sheet.png"),
    fix: Annotated[
        list[str] | None, typer.Option(help="A recipe knob and its value, as knob=value; may be repeated.")
    ] = None,
    data: DataOption = "digits",
    train_images: TrainImages = None,
    image_size: ImageSize = None,
    fit: Fit = None,
    images: Annotated[int, typer.Option(min=1, help="Rows: images drawn from the training set.")] = 8,
    views: Annotated[int, typer.Option(min=1, help="Columns beside the untouched image.")] = 11,
    seed: Annotated[int, typer.Option(help="Seed of every draw.")] = 0,
) -> None:
    """Draw a contact sheet of augmented training images, exactly as the training loop makes them.

    \b
    Examples:
      jointnas augment --fix policy=randaugment --fix cutout=0.25 --show sheet.png
      jointnas augment nomad-senet --data cifar10 --images 6 --show nomad.png
    """
    from jointnas.campaign.candidate_file import find_candidate
    from jointnas.campaign.policy_file import with_policy_text
    from jointnas.data.dataset import load_data
    from jointnas.data.images import CROP
    from jointnas.data.spec import DataSpec
    from jointnas.errors import ExportError
    from jointnas.training.recipe import Recipe
    from jointnas.training.sheet import contact_sheet

    knobs = find_candidate(candidate).candidate["recipe"] if candidate else {}
    recipe = Recipe.from_knobs({**knobs, **with_policy_text(parse_assignments(fix or []), Path())})
    if show.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ExportError(f"a picture is a .png, .jpg or .webp, got {str(show)!r}: change --show")
    loaded = load_data(DataSpec(data or "digits", train_images, image_size=image_size, fit=fit or CROP))
    picture = contact_sheet(loaded, recipe, images, views, seed)
    try:
        show.parent.mkdir(parents=True, exist_ok=True)
        picture.save(show)
    except OSError as error:
        raise ExportError(f"a picture goes to a writable folder, got {str(show)!r} ({error}): change --show") from error
    typer.echo(str(show))
