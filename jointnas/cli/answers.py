"""Answers of a search: its winners, and what a campaign that has ended says of other constraints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jointnas.cli.common import (
    architecture_text,
    figure_texts,
    messages,
    print_failures,
    print_json,
    print_table,
    recipe_text,
)

if TYPE_CHECKING:
    from jointnas.measurement.meter import Meter
    from jointnas.predictor.gp_predictor import Predictor
    from jointnas.search.search import Search, Winner
    from jointnas.search.winners import EngineReport


@dataclass(frozen=True)
class Answer:
    """Winners under constraints, and how they were found. name: of the run or predictor that was asked."""

    name: str
    is_run: bool
    constraints: Sequence[str]
    winners: Sequence[Winner]
    rank_correlation: float | None
    reports: Sequence[EngineReport]
    trials: int = 0  # that were trained for it
    failed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return what `search --json` prints."""
        several = len(self.reports) > 1
        return {
            "run": self.name,
            "trials": self.trials,
            "failed": self.failed,
            "predictor": {"rank_correlation": self.rank_correlation},
            **({"engines": [{**asdict(report), "best": _best(report)} for report in self.reports]} if several else {}),
            "winners": self.rows(),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return the winners as rows."""
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
            for rank, winner in enumerate(self.winners, 1)
        ]

    def print(self, as_json: bool) -> None:
        """Print the winners as a table or as JSON."""
        if as_json:
            print_json(self.to_json())
            return
        if len(self.reports) > 1:
            _print_engines(self.reports)
        under = f" under {', '.join(self.constraints)}" if self.constraints else ""
        _print_winners(f"winners of {self.name}{under}", "rank", [(str(row["rank"]), row) for row in self.rows()])
        if self.is_run:
            messages.print(f"next: jointnas export {self.name}, or jointnas retrain {self.name} --seeds 3")
        else:
            messages.print("next: the same with --out RUN, a run whose winners jointnas export and retrain read")


def ask_again(
    name: str,
    constraints: list[str],
    objective: str,
    measure: list[str],
    engine: str,
    top: int,
    seed: int,
    frontier: str | None,
    sweep: list[str],
    out: Path | None,
    as_json: bool,
) -> None:
    """Answer constraints from a run's predictor, or a saved one, without training anything.

    out: the folder of a run to make of a saved one, once it has an answer.
    """
    from jointnas.campaign.registry import adopt, find_predictor
    from jointnas.campaign.store import Run
    from jointnas.errors import ConstraintError, RunError
    from jointnas.predictor.gp_predictor import Predictor
    from jointnas.search.objective import ACCURACY, parse_objective
    from jointnas.search.search import Search
    from jointnas.space.constraint import MEASURED, parse_all, read_sweep

    bounds = list(itertools.chain.from_iterable(map(read_sweep, sweep)))
    folder, path = find_predictor(name)
    if out is not None and path is not None:
        raise RunError(f"--out makes a run of a stand-alone predictor, got {name!r}, which is a run's: drop --out")
    if out is not None and out.exists():
        raise RunError(f"--out is a folder that is not there yet, got {str(out)!r}: ask that run with --from {out}")
    run = Run.open(path) if path is not None else None
    predictor = Predictor.load(folder)
    space = predictor.space
    bounded = parse_all([*constraints, *bounds], (*space.metrics, *MEASURED, ACCURACY))  # before any is asked
    metrics = {*(c.metric for c in bounded), parse_objective(objective, (*space.metrics, *MEASURED)), frontier}
    meter = _make_meter(predictor) if measure or metrics - {*space.metrics, ACCURACY, None} else None
    answers: list[Answer | ConstraintError] = []  # one for each bound
    with ExitStack() as opened:
        if meter is not None:
            opened.enter_context(meter)
        if run is not None:
            opened.enter_context(run)

        def answered(asked: list[str]) -> Answer:
            nonlocal run
            search = Search(space, asked, seed, predictor=predictor, objective=objective, meter=meter, reported=measure)
            print_forecast(search)
            winners = search.best(top, engine) if frontier is None else search.front(frontier, top)
            if meter is not None:
                print_failures(meter)
            texts = [str(c) for c in search.constraints]
            if run is None and out is not None:
                run = opened.enter_context(Run.open(adopt(name, out)))
            if run is not None:
                number = run.add_query(texts, engine if frontier is None else "nsga2", seed, winners)
                messages.print(f"query {number} of {run.path}{': ' if texts else ''}{', '.join(texts)}")
            asked_of = str(run.path) if run is not None else name
            return Answer(asked_of, run is not None, texts, winners, predictor.rank_correlation, search.reports)

        if not sweep:
            answered(constraints).print(as_json)
            return
        for bound in bounds:
            try:
                answers.append(answered([*constraints, bound]))
            except ConstraintError as error:
                answers.append(error)
    texts = [str(c) for c in bounded[len(constraints) :]]
    pairs = list(zip(texts, answers, strict=True))
    unmet = [answer for answer in answers if isinstance(answer, ConstraintError)]
    if as_json:
        found = [
            {"constraint": text, "winners": [], "reason": str(answer)}
            if isinstance(answer, ConstraintError)
            else {"constraint": text, "winners": answer.rows()}
            for text, answer in pairs
        ]
        known = {"trials": 0, "failed": 0, "predictor": {"rank_correlation": predictor.rank_correlation}}
        print_json({"run": str(run.path) if run else name, **known, "sweep": found})
    else:
        rows = [(text, row) for text, answer in pairs if isinstance(answer, Answer) for row in answer.rows()]
        _print_winners(f"winners of {run.path if run else name}", "under", rows)
    for reason in unmet:
        messages.print(f"jointnas: {reason}")
    if unmet:
        raise typer.Exit(1)
    if run is not None:
        messages.print(
            f"next: jointnas export {run.path} --query N, or jointnas retrain {run.path} --query N --seeds 3"
        )


def _make_meter(predictor: Predictor) -> Meter:
    """Return the meter of the slot that a predictor's campaign had, or of the nearest that this machine has."""
    import torch

    from jointnas.cores import available_cores
    from jointnas.execution import share_slots
    from jointnas.measurement.meter import Meter

    space, own = predictor.space, predictor.context.get("slot", {})
    device = own.get("device", "auto") if torch.cuda.is_available() else "cpu"
    slot = share_slots(min(own.get("workers", 1), available_cores()), device)
    return Meter(slot, space.input_shape or (), space.classes or 0)


def _print_winners(title: str, first: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Print a table of winners whose first column is the first of each pair."""
    from jointnas.space.constraint import MEASURED

    metrics = ["macs", "params", *(m for m in MEASURED if rows and m in rows[0][1])]
    several = any("found_by" in row for _, row in rows)
    print_table(
        title,
        (first, "predicted", "trained", *metrics, *(["found by"] if several else []), "architecture", "recipe"),
        [
            (
                label,
                f"{row['predicted_accuracy']:.4f} ± {row['std']:.4f}",
                "" if row["accuracy"] is None else f"{row['accuracy']:.4f}",
                *figure_texts(row, metrics),
                *([", ".join(row["found_by"])] if several else []),
                architecture_text(row["architecture"]),
                recipe_text(row["recipe"]),
            )
            for label, row in rows
        ],
    )


def _print_engines(reports: Sequence[EngineReport]) -> None:
    """Print what each engine found in what time."""
    print_table(
        "engines over one predictor",
        ("engine", "best", "scored", "seconds"),
        [(r.engine, "" if r.best is None else f"{_best(r):.6g}", str(r.scored), f"{r.seconds:.2f}") for r in reports],
    )


def _best(report: EngineReport) -> float | None:
    """Return the best that an engine found as people read it: an accuracy is minimised as its negative."""
    return None if report.best is None else abs(report.best)


def print_forecast(search: Search) -> None:
    """Say on stderr how well measured metrics are forecast on this device."""
    for metric, error in search.forecast_errors.items():
        messages.print(f"{metric} is forecast with a median error of {100 * error:.1f} %, and measured of the winners")
