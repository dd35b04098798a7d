"""The family tree of a climb (NASH): each trial below the one whose weights it started from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer

from jointnas.cli.common import architecture_text

if TYPE_CHECKING:
    from jointnas.campaign.store import Context, Trial


def print_family(trials: Sequence[Trial], context: Context) -> None:
    """Print the trials of a run, a line each: number, accuracy, MACs, and the morphisms that its parent does not have."""
    for root in (trial for trial in trials if trial.parent is None):
        for line in _lines(root, trials, context, inherited=0):
            typer.echo(line)


def _lines(trial: Trial, trials: Sequence[Trial], context: Context, inherited: int) -> Iterator[str]:
    from jointnas.campaign.candidate_file import candidate_costs
    from jointnas.space.constraint import format_metric

    architecture: dict[str, Any] = {**trial.candidate["architecture"]}
    morphisms = [str(text) for text in architecture.pop("morphisms", [])]
    costs = candidate_costs(trial.candidate, context.input_shape or (), len(context.classes or ()))
    made = architecture_text(architecture) if trial.parent is None else "; ".join(morphisms[inherited:]) or "unmodified"
    macs = format_metric("macs", costs["macs"])
    yield "  ".join([f"trial {trial.number}", _outcome(trial), f"{macs} MACs", made])
    parents = {other.parent for other in trials}
    children = sorted(
        (t for t in trials if t.parent == trial.number), key=lambda t: t.number in parents
    )  # the best one last
    for child in children:
        first, *rest = _lines(child, trials, context, len(morphisms))
        last = child is children[-1]
        yield ("└─ " if last else "├─ ") + first
        yield from (("   " if last else "│  ") + line for line in rest)


def _outcome(trial: Trial) -> str:
    observation = trial.observation
    if observation is None:
        return "waiting"
    if observation.failure is not None:
        return f"failed: {observation.failure}"
    if observation.accuracy is not None:
        return f"{observation.accuracy:.4f}"
    return "on all images" if observation.test_accuracy is None else f"test accuracy {observation.test_accuracy:.4f}"
