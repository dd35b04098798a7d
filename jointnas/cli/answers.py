"""What a search found, as a table and JSON: of a campaign that just ended, and of an ended one under other bounds (`--from`)."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jointnas.cli.common import (
    architecture_text,
    difference_text,
    figure_texts,
    messages,
    print_json,
    print_table,
    spread_text,
)

if TYPE_CHECKING:
    from jointnas.campaign.ask import Answer
    from jointnas.campaign.result import Campaign
    from jointnas.search.winners import EngineReport, Winner


COLUMNS = ("rank", "architecture", "recipe", "predicted_accuracy", "std", "accuracy", "trainings", "found_by")
"""What a winner's row holds beside its costs."""


def winner_rows(winners: Sequence[Winner], place: str | Path | None) -> list[dict[str, Any]]:
    """Return winners as the rows of `search --json`.

    place: the run that may have trained them, None for none. `trainings` are the validation accuracies of its trainings of each.
    """
    from jointnas.campaign.store import Run
    from jointnas.campaign.trial import trained_accuracies

    trials = []
    if place is not None:
        with Run.open(Path(place)) as run:
            trials = run.trials()
    return [
        {
            "rank": rank,
            **winner.candidate,
            "predicted_accuracy": winner.mean,
            "std": winner.std,
            "accuracy": winner.accuracy,
            "trainings": trained_accuracies(trials, winner),
            **{metric: None if math.isnan(value) else value for metric, value in winner.costs.items()},
            **({"found_by": list(winner.found_by)} if winner.found_by else {}),
        }
        for rank, winner in enumerate(winners, 1)
    ]


def search_json(campaign: Campaign) -> dict[str, Any]:
    """Return what `search --json` prints of a campaign that ended."""
    from jointnas.campaign.spec import NashSpec
    from jointnas.campaign.store import Run
    from jointnas.campaign.trial import CONFIRMATION, FINAL

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
    rows = winner_rows(campaign.winners, campaign.path)
    answer = _json(str(campaign.path), len(trials), failed, campaign.rank_correlation, campaign.reports, rows)
    return {**answer, "confirmations": confirmations, "budgets_used": round(spent, 4)}


def print_answer(campaign: Campaign) -> None:
    """Print what a campaign found, in a dozen lines: the accuracy, the winners, where the network lies, and what to do next."""
    from jointnas.campaign.folders import BEST, WINNER_FILE
    from jointnas.campaign.store import Run
    from jointnas.search.objective import SCORE_NAMES

    place, name = campaign.path, shlex.quote(str(campaign.path))
    rows = winner_rows(campaign.winners, place)
    _print_engines(campaign.reports)
    with Run.open(place) as run:
        score, has_networks = SCORE_NAMES[run.score], getattr(run.spec, "train_fn", None) is None
    messages.print(_found_text(rows[0], score))
    print_winners(rows)
    if has_networks:
        messages.print(f"recipe  jointnas show {shlex.quote(f'{place}#1')}")
    if (place / BEST / WINNER_FILE).is_file():
        messages.print(f"model   {place / BEST}")
        messages.print(f"next    jointnas predict {name} IMAGE · jointnas retrain {name} --seeds 3")


def _found_text(winner: dict[str, Any], score: str) -> str:
    """Return the first winner's score: the mean of its trainings, or the prediction where it has none."""
    from jointnas.campaign.retrain import spread

    trainings = winner["trainings"]
    if not trainings:
        return f"found   predicted {score} {winner['predicted_accuracy']:.4f} ± {winner['std']:.4f}, not trained yet"
    times = "one training" if len(trainings) == 1 else f"mean of {len(trainings)} trainings"
    figure = f"{trainings[0]:.4f}" if len(trainings) == 1 else spread_text(spread(trainings))
    network = architecture_text(winner["architecture"])
    return f"found   validation {score} {figure} ({times})" + (f": {network}" if network else "")


def _json(
    run: str,
    trials: int,
    failed: int,
    rank_correlation: float | None,
    reports: Sequence[EngineReport],
    winners: list[dict[str, Any]],
) -> dict[str, Any]:
    several = {"engines": [asdict(report) for report in reports]} if len(reports) > 1 else {}
    predictor = {"rank_correlation": rank_correlation}
    return {
        "run": run,
        "trials": trials,
        "failed": failed,
        "confirmations": 0,
        "budgets_used": 0,
        "predictor": predictor,
        **several,
        "winners": winners,
    }


def ask_fitted(
    name: str,
    constraints: list[str],
    sweep: list[str],
    out: Path | None,
    as_json: bool,
    latency_command: str | None = None,
    **options: Any,
) -> None:
    """Print the winners that the predictor of an ended run, or a saved one, has under bounds; with `sweep` under each in turn.

    options: see `FittedCampaign.ask`.
    """
    from jointnas.campaign.ask import FittedCampaign

    with FittedCampaign(name, out, latency_command) as fitted:
        if sweep:
            _ask_sweep(fitted, name, constraints, sweep, as_json, options)
            return
        answer = fitted.ask(constraints, **options)
        place = str(fitted.run or name)
        _print_notes(answer, place)
        rows = winner_rows(answer.winners, fitted.run)
        if as_json:
            print_json(_json(place, 0, 0, fitted.predictor.rank_correlation, answer.reports, rows))
            return
        _print_engines(answer.reports)
        print_winners(rows)
        if fitted.run is None:
            messages.print("next    the same command with --out RUN keeps the winners in a run for export and retrain")
        else:
            _print_next(place, fitted.predictor.space.is_abstract, answer.query)


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
            else {"constraint": text, "winners": winner_rows(answer.winners, fitted.run)}
            for text, answer in pairs
        ]
        predictor = {"rank_correlation": fitted.predictor.rank_correlation}
        print_json({"run": place, "trials": 0, "failed": 0, "predictor": predictor, "sweep": rows})
    else:
        met = [(text, a) for text, a in pairs if not isinstance(a, ConstraintError)]
        found = [(text, row) for text, a in met for row in winner_rows(a.winners, fitted.run)]
        print_winners([row for _, row in found], "under", [text for text, _ in found])
    for reason in unmet:
        typer.echo(f"jointnas: {reason}", err=True)
    if unmet:
        raise typer.Exit(1)
    if fitted.run is not None and not fitted.predictor.space.is_abstract:
        name = shlex.quote(place)
        messages.print(f"next    jointnas retrain {name} --query N --seeds 3 · jointnas export {name} --query N")


def _print_next(place: str, is_abstract: bool, query: int | None) -> None:
    """Print how the winners of a question are shown and trained, where they are networks."""
    from jointnas.campaign.folders import RETRAINED, retrained_name

    if not is_abstract:
        name, first = shlex.quote(place), shlex.quote(f"{place}/{RETRAINED}/{retrained_name(query or 1)}-1")
        messages.print(f"recipe  jointnas show {shlex.quote(f'{place}#1')}")
        messages.print(f"next    jointnas retrain {name} --seeds 3 · jointnas export {first}")


def _print_notes(answer: Any, place: str) -> None:
    for note in answer.notes:
        messages.print(note)
    if answer.query is not None:
        bounds = f": {', '.join(answer.constraints)}" if answer.constraints else ""
        messages.print(f"query {answer.query} of {place}{bounds}")


def print_winners(rows: Sequence[dict[str, Any]], first: str = "rank", labels: Sequence[str] | None = None) -> None:
    """Print a line for each winner: what it is expected to reach, its own trainings, its costs, and how it differs from the first one.

    first, labels: the title and the cells of the first column, by default the ranks.
    """
    from jointnas.network.cost import METRICS
    from jointnas.space.constraint import MEASURED

    head = rows[0] if rows else {}
    own = [name for name in head if name not in (*COLUMNS, *METRICS, *MEASURED)]  # of a cost function
    sized = ("size",) if any(row.get("recipe", {}).get("quantiser", "none") != "none" for row in rows) else ()
    metrics = [name for name in ("macs", "params", *sized, *MEASURED, *own) if name in head]
    several = any("found_by" in row for row in rows)
    trained = any(row["accuracy"] is not None for row in rows)
    columns = (first, "expected", *(["trained"] if trained else []), *metrics, *(["found by"] if several else []))
    print_table(
        "",
        (*columns, "differs from the first in"),
        [
            (
                str(row["rank"]) if labels is None else labels[i],
                f"{row['predicted_accuracy']:.4f} ± {row['std']:.4f}",
                *([_trained_text(row)] if trained else []),
                *figure_texts(row, metrics),
                *([", ".join(row["found_by"])] if several else []),
                difference_text(_candidate(row), _candidate(head)),
            )
            for i, row in enumerate(rows)
        ],
    )


def _candidate(row: dict[str, Any]) -> dict[str, Any]:
    return {group: row[group] for group in ("architecture", "recipe")}


def _trained_text(row: dict[str, Any]) -> str:
    """Return the mean accuracy of a winner's trainings, with their number where there are several; empty without one."""
    if row["accuracy"] is None:
        return ""
    count = len(row["trainings"])
    return f"{row['accuracy']:.4f}" + (f" ({count})" if count > 1 else "")


def _print_engines(reports: Sequence[EngineReport]) -> None:
    """Print the best and the time of each engine, where several searched."""
    if len(reports) < 2:
        return
    print_table(
        "engines over one predictor",
        ("engine", "best", "scored", "seconds"),
        [(r.engine, "" if r.best is None else f"{r.best:.6g}", str(r.scored), f"{r.seconds:.2f}") for r in reports],
    )
