"""The family tree of a climb (NASH): each trial below the one whose weights it started from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from jointnas.cli.common import architecture_text, figure_texts

if TYPE_CHECKING:
    from jointnas.campaign.store import Context
    from jointnas.campaign.trial import Trial


def print_family(
    trials: Sequence[Trial], context: Context, measured: Sequence[dict[str, float | None]], metrics: Sequence[str]
) -> None:
    """Print the trials of a run, a line each: number, accuracy, MACs, measured metrics, and the morphisms that its parent lacks."""
    figures = {
        t.number: [f"{text} {name}" for text, name in zip(figure_texts(own, metrics), metrics, strict=True)]
        for t, own in zip(trials, measured, strict=True)
    }
    for root in (trial for trial in trials if trial.parent is None):
        for line in _lines(root, trials, context, figures, inherited=0):
            typer.echo(line)


def _lines(
    trial: Trial, trials: Sequence[Trial], context: Context, figures: Mapping[int, list[str]], inherited: int
) -> Iterator[str]:
    from jointnas.campaign.candidate_file import candidate_costs
    from jointnas.campaign.trial import result_text
    from jointnas.space.constraint import format_metric

    architecture: dict[str, Any] = {**trial.candidate["architecture"]}
    morphisms = [str(text) for text in architecture.pop("morphisms", [])]
    costs = candidate_costs(trial.candidate, context.input_shape or (), len(context.classes or ()))
    made = architecture_text(architecture) if trial.parent is None else "; ".join(morphisms[inherited:]) or "unmodified"
    macs = format_metric("macs", costs["macs"])
    yield "  ".join([f"trial {trial.number}", result_text(trial), f"{macs} MACs", *figures[trial.number], made])
    parents = {other.parent for other in trials}
    children = sorted(
        (t for t in trials if t.parent == trial.number), key=lambda t: t.number in parents
    )  # the best one last
    for child in children:
        first, *rest = _lines(child, trials, context, figures, len(morphisms))
        last = child is children[-1]
        yield ("└─ " if last else "├─ ") + first
        yield from (("   " if last else "│  ") + line for line in rest)
