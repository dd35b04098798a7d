"""Winners as tables and JSON, of a campaign that just ended and of an ended one under other bounds (`--from`)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jointnas.cli.common import (
    architecture_text,
    figure_texts,
    messages,
    print_json,
    print_table,
    recipe_text,
)

if TYPE_CHECKING:
    from jointnas.campaign.ask import Answer
    from jointnas.campaign.result import Campaign
    from jointnas.search.winners import EngineReport, Winner


COLUMNS = ("rank", "architecture", "recipe", "predicted_accuracy", "std", "accuracy", "found_by")
"""What a winner's row holds beside its costs."""


def winner_rows(winners: Sequence[Winner]) -> list[dict[str, Any]]:
    """Return winners as the rows of `search --json`."""
    return [
        {
            "rank": rank,
            **winner.candidate,
            "predicted_accuracy": winner.mean,
            "std": winner.std,
            "accuracy": winner.accuracy,
            **{metric: None if math.isnan(value) else value for metric, value in winner.costs.items()},
            **({"found_by": list(winner.found_by)} if winner.found_by else {}),
        }
        for rank, winner in enumerate(winners, 1)
    ]


def search_json(campaign: Campaign) -> dict[str, Any]:
    """Return what `search --json` prints of a campaign that ended."""
    from jointnas.campaign.spec import NashSpec
    from jointnas.campaign.store import CONFIRMATION, FINAL, Run

    trials = [row for row in campaign.trials if row["kind"] not in (CONFIRMATION, FINAL)]
    confirmations = sum(row["kind"] == CONFIRMATION for row in campaign.trials)
    failed = sum(row["observation"] is not None and row["observation"]["accuracy"] is None for row in trials)
    with Run.open(campaign.path) as run:
        spec = run.spec
    share = spec.budgets_of if isinstance(spec, NashSpec) else lambda step, final: 1.0
    spent = sum(
        row[which]["fraction"] * share(row["round"], row["kind"] == FINAL)
        for row in campaign.trials
        for which in ("observation", "disturbed")
        if row.get(which)
    )
    answer = _json(
        str(campaign.path), len(trials), failed, campaign.rank_correlation, campaign.reports, campaign.winners
    )
    return {**answer, "confirmations": confirmations, "budgets_used": round(spent, 4)}


def print_winners(campaign: Campaign, title: str) -> None:
    """Print a campaign's winners, and what each engine did where several searched."""
    _print_engines(campaign.reports)
    _print_rows(title, "rank", [(str(row["rank"]), row) for row in winner_rows(campaign.winners)])


def _json(
    run: str,
    trials: int,
    failed: int,
    rank_correlation: float | None,
    reports: Sequence[EngineReport],
    winners: Sequence[Winner],
) -> dict[str, Any]:
    several = {"engines": [{**asdict(r), "best": _best(r)} for r in reports]} if len(reports) > 1 else {}
    predictor = {"rank_correlation": rank_correlation}
    return {
        "run": run,
        "trials": trials,
        "failed": failed,
        "confirmations": 0,
        "budgets_used": 0,
        "predictor": predictor,
        **several,
        "winners": winner_rows(winners),
    }


def ask_fitted(
    name: str, constraints: list[str], sweep: list[str], out: Path | None, as_json: bool, **options: Any
) -> None:
    """Print the winners that the predictor of an ended run, or a saved one, has under bounds; with `sweep` under each in turn.

    options: see `FittedCampaign.ask`.
    """
    from jointnas.campaign.ask import FittedCampaign

    with FittedCampaign(name, out) as fitted:
        if sweep:
            _ask_sweep(fitted, name, constraints, sweep, as_json, options)
            return
        answer = fitted.ask(constraints, **options)
        place = str(fitted.run or name)
        _print_notes(answer, place)
        if as_json:
            print_json(_json(place, 0, 0, fitted.predictor.rank_correlation, answer.reports, answer.winners))
            return
        bounds = f" under {', '.join(answer.constraints)}" if answer.constraints else ""
        _print_engines(answer.reports)
        rows = [(str(row["rank"]), row) for row in winner_rows(answer.winners)]
        _print_rows(f"winners of {place}{bounds}", "rank", rows)
        if fitted.run is None:
            messages.print("next: the same command with --out RUN keeps the winners in a run for export and retrain")
        else:
            messages.print(f"next: jointnas export {place}, or jointnas retrain {place} --seeds 3")


def _ask_sweep(
    fitted: Any, name: str, constraints: list[str], sweep: list[str], as_json: bool, options: dict[str, Any]
) -> None:
    """Print the winners under each bound of a sweep; exit 1 where nothing meets one of them."""
    from jointnas.errors import ConstraintError
    from jointnas.space.constraint import read_sweep

    bounds = list(itertools.chain.from_iterable(map(read_sweep, sweep)))
    texts = fitted.check([*constraints, *bounds])[len(constraints) :]  # all are checked before the first search
    answers: list[Answer | ConstraintError] = []
    for bound in bounds:
        try:
            answers.append(fitted.ask([*constraints, bound], **options))
            _print_notes(answers[-1], str(fitted.run or name))
        except ConstraintError as error:
            answers.append(error)
    place = str(fitted.run or name)
    pairs = list(zip(texts, answers, strict=True))
    unmet = [answer for answer in answers if isinstance(answer, ConstraintError)]
    if as_json:
        rows = [
            {"constraint": text, "winners": [], "reason": str(answer)}
            if isinstance(answer, ConstraintError)
            else {"constraint": text, "winners": winner_rows(answer.winners)}
            for text, answer in pairs
        ]
        predictor = {"rank_correlation": fitted.predictor.rank_correlation}
        print_json({"run": place, "trials": 0, "failed": 0, "predictor": predictor, "sweep": rows})
    else:
        met = [(text, a) for text, a in pairs if not isinstance(a, ConstraintError)]
        _print_rows(f"winners of {place}", "under", [(text, row) for text, a in met for row in winner_rows(a.winners)])
    for reason in unmet:
        messages.print(f"jointnas: {reason}")
    if unmet:
        raise typer.Exit(1)
    if fitted.run is not None:
        messages.print(f"next: jointnas export {place} --query N, or jointnas retrain {place} --query N --seeds 3")


def _print_notes(answer: Any, place: str) -> None:
    for note in answer.notes:
        messages.print(note)
    if answer.query is not None:
        bounds = f": {', '.join(answer.constraints)}" if answer.constraints else ""
        messages.print(f"query {answer.query} of {place}{bounds}")


def _print_rows(title: str, first: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Print a table of winners whose first column is the first of each pair."""
    from jointnas.network.cost import METRICS
    from jointnas.space.constraint import MEASURED

    first_row = rows[0][1] if rows else {}
    own = [name for name in first_row if name not in (*COLUMNS, *METRICS, *MEASURED)]  # of a cost function
    metrics = [name for name in ("macs", "params", *MEASURED, *own) if name in first_row]
    several = any("found_by" in row for _, row in rows)
    trained = any(row["accuracy"] is not None for _, row in rows)
    print_table(
        title,
        (
            first,
            "predicted",
            *(["trained"] if trained else []),
            *metrics,
            *(["found by"] if several else []),
            "architecture",
            "recipe",
        ),
        [
            (
                label,
                f"{row['predicted_accuracy']:.4f} ± {row['std']:.4f}",
                *(["" if row["accuracy"] is None else f"{row['accuracy']:.4f}"] if trained else []),
                *figure_texts(row, metrics),
                *([", ".join(row["found_by"])] if several else []),
                architecture_text(row["architecture"]),
                recipe_text(row["recipe"]),
            )
            for label, row in rows
        ],
    )


def _print_engines(reports: Sequence[EngineReport]) -> None:
    """Print the best and the time of each engine, where several searched."""
    if len(reports) < 2:
        return
    print_table(
        "engines over one predictor",
        ("engine", "best", "scored", "seconds"),
        [(r.engine, "" if r.best is None else f"{_best(r):.6g}", str(r.scored), f"{r.seconds:.2f}") for r in reports],
    )


def _best(report: EngineReport) -> float | None:
    """Return an engine's best objective as people read it: an accuracy is minimised as its negative."""
    return None if report.best is None else abs(report.best)
