"""`jointnas combine`: the networks of several runs as one ensemble."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from jointnas.cli.common import Json, figure_texts, messages, print_json, print_table


def combine_command(
    sources: Annotated[
        list[str], typer.Argument(help="Runs, whose best networks are taken, or folders of retrained winners in runs.")
    ],
    to: Annotated[Path, typer.Option(help="The folder of the ensemble.")],
    constraint: Annotated[
        list[str] | None,
        typer.Option(
            "--constraint", "-c", help="A bound on the members' costs together, such as 'macs<60M'; repeatable."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Combine trained networks of several runs into one, by the mean of their probabilities; their costs add up.

    Where the runs have the same validation images (--data-seed) and none was trained on them, members that do not pay are left out. The
    test images are scored once.

    \b
    Examples:
      jointnas combine runs/photos-resnet9-1 runs/photos-chain-1 --to ensemble
      jointnas combine runs/photos-resnet9-1/retrained/winner-1 runs/photos-resnet9-1/retrained/winner-2 --to pair -c 'macs<60M'
    """
    from jointnas.campaign.combine import combine

    combined = combine(sources, to, constraint or [])
    winner = combined.winner
    results, costs = winner.results, [member.costs for member in winner.members]
    if as_json:
        print_json(
            {"folder": str(to), "left_out": combined.left_out, "note": combined.note, **results, "costs": winner.costs}
        )
        return
    if combined.note is not None:
        messages.print(combined.note)
    if combined.left_out:
        messages.print(f"members that do not pay on the validation images were left out: {combined.left_out}")
    print_table(
        "",
        ("network", "test accuracy", "macs", "params"),
        [
            *(
                (row["network"], f"{row['test_accuracy']:.4f}", *figure_texts(own, ("macs", "params")))
                for row, own in zip(results["members"], costs, strict=True)
            ),
            (str(to), f"{results['test_accuracy']:.4f}", *figure_texts(winner.costs, ("macs", "params"))),
        ],
    )
    messages.print(f"next: jointnas predict {shlex.quote(str(to))} photo.jpg")
