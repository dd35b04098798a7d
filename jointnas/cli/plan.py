"""What a search is going to train, and how long that takes: one line before it starts, and the table of `--dry-run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jointnas.cli.common import architecture_text, messages, print_json, print_table
from jointnas.units import format_duration

if TYPE_CHECKING:
    from jointnas.campaign.spec import NashSpec, SearchSpec


def plan_line(spec: SearchSpec | NashSpec) -> str:
    """Return a search's trainings and the time of all of them in one line."""
    from jointnas.training.clock import clock_from_json

    each = clock_from_json(dict(spec.clock))
    total = "" if spec.planned_seconds is None else f", {format_duration(spec.planned_seconds)} in all"
    return f"plan: {trainings_text(spec)}; {each} each, {spec.at_a_time} at a time{total}"


def trainings_text(spec: SearchSpec | NashSpec) -> str:
    """Return how many trainings a search does, and which."""
    from jointnas.campaign.spec import DirectSpec, NashSpec, PolicySpec

    if isinstance(spec, NashSpec):
        first, last = (format_budgets(own) for own in (spec.pretraining, spec.final_training))
        return f"the first network ({first}), {spec.rounds} steps of {spec.batch}, the best on all images ({last})"
    if isinstance(spec, DirectSpec | PolicySpec) and spec.is_direct:
        repeated = f", the best {spec.repeats} times" if spec.repeats > 1 else ""
        return f"{spec.budgets} candidates at most, proposed by {spec.engine}{repeated}"
    batches = sorted({spec.batch_of(number) for number in range(1, spec.rounds + 1)})
    leaders = f", {spec.confirmations} of the leaders" if spec.confirmations else ""
    last = ", 1 on all images" if spec.final_trainings else ""
    return f"{spec.rounds} rounds of {' or '.join(map(str, batches))}{leaders}{last}"


def format_budgets(budgets: float) -> str:
    """Return a number of training budgets in words."""
    return f"{budgets:.3g} budgets"


def print_plan(spec: SearchSpec | NashSpec, as_json: bool) -> None:
    """Print what a search would train and how long it would take, and what it would start from."""
    from jointnas.campaign.campaign import plan, prepare, recipes_text
    from jointnas.campaign.nash import NashTask
    from jointnas.campaign.spec import NashSpec

    if isinstance(spec, NashSpec):
        planned = NashTask.of(spec).plan()
    else:
        planned = plan(prepare(spec, lambda event: messages.print(getattr(event, "text", ""))))
    if as_json:
        print_json(planned)
        return
    recipes = [("built-in recipes", recipes_text(planned["recipes"]))] if planned.get("recipes") else []
    first = ("trainings", plan_line(spec).removeprefix("plan: "))
    print_table("", ("what", "value"), [first, *recipes, *_rows(spec, planned)])


def _rows(spec: SearchSpec | NashSpec, planned: dict[str, Any]) -> list[tuple[str, str]]:
    """Return where a search would train, on which images, and what it would choose from."""
    threads, bounds = planned["threads_each"], ", ".join(planned["constraints"]) or "no constraint"
    images = f"{planned['train_images']} training, {planned['val_images']} validation, {planned['test_images']} test"
    return [
        ("slot", f"{planned['device']}, {threads} thread{'s' if threads != 1 else ''} each"),
        *([("images", images)] if spec.data else []),
        ("start", f"{architecture_text(planned['start'])}, {bounds}")
        if "start" in planned
        else ("pool", f"{planned['pool']:,} candidates, {bounds}"),
    ]
