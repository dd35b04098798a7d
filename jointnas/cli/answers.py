"""Answers of a search: its winners, and what a campaign that has ended says of other constraints."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jointnas.cli.common import architecture_text, messages, print_json, print_table, recipe_text

if TYPE_CHECKING:
    from jointnas.search import EngineReport, Search


def ask_again(
    name: str,
    constraints: list[str],
    objective: str,
    measure: list[str],
    engine: str,
    top: int,
    seed: int,
    frontier: str | None,
    as_json: bool,
) -> None:
    """Answer constraints from a run's predictor, or a saved one, without training anything."""
    import torch

    from jointnas.execution import available_cores, share_slots
    from jointnas.measurement import Meter
    from jointnas.predictor import Predictor
    from jointnas.run import Run
    from jointnas.search import Search
    from jointnas.shelf import find_predictor

    folder, path = find_predictor(name)
    run = Run.open(path) if path is not None else None
    predictor = Predictor.load(folder)
    space, own = predictor.space, predictor.context.get("slot", {})
    workers = min(own.get("workers", 1), available_cores())
    slot = share_slots(workers, own.get("device", "auto") if torch.cuda.is_available() else "auto")
    with Meter(slot, space.input_shape or (), space.classes or 0) as meter, run or nullcontext():
        search = Search(
            space, constraints, seed, predictor=predictor, objective=objective, meter=meter, reported=measure
        )
        print_forecast(search)
        if run is not None:
            good = {space.identity(candidate) for candidate in predictor.candidates}
            failed = [t for t in run.trials() if t.observation and t.observation.accuracy is None]
            failed = [t for t in failed if space.identity(t.candidate) not in good]  # a repeat alone failed
            search.tell([t.candidate for t in failed], [t.observation for t in failed])
        winners = search.best(top, engine) if frontier is None else search.front(frontier, top)
        texts = [str(c) for c in search.constraints]
        if run is not None:
            messages.print(
                f"query {run.add_query(texts, engine if frontier is None else 'nsga2', seed, winners)} of {run.path}"
            )
    print_winners(
        str(path or name), run is not None, 0, 0, predictor.rank_correlation, winners, texts, as_json, search.reports
    )


def _rows(winners: Any) -> list[dict[str, Any]]:
    """Return winners as the rows that `search --json` prints."""
    return [
        {
            "rank": rank,
            **winner.candidate,
            "predicted_accuracy": winner.mean,
            "std": winner.std,
            "accuracy": winner.accuracy,
            **winner.costs,
            **({"found_by": list(winner.found_by)} if winner.found_by else {}),
        }
        for rank, winner in enumerate(winners, 1)
    ]


def print_winners(
    name: str,
    is_run: bool,
    trials: int,
    failed: int,
    correlation: float | None,
    winners: Any,
    constraints: list[str],
    as_json: bool,
    reports: Sequence[EngineReport],
) -> None:
    """Print winners with what they were found by, as a table or as JSON."""
    rows = _rows(winners)
    several = len(reports) > 1
    if as_json:
        print_json(
            {
                "run": name,
                "trials": trials,
                "failed": failed,
                "predictor": {"rank_correlation": correlation},
                **({"engines": [asdict(report) for report in reports]} if several else {}),
                "winners": rows,
            }
        )
        return
    from jointnas.constraint import MEASURED, format_metric

    metrics = ["macs", "params", *(m for m in MEASURED if rows and m in rows[0])]
    if several:
        _print_engines(reports)
    under = f" under {', '.join(constraints)}" if constraints else ""
    print_table(
        f"winners of {name}{under}",
        ("rank", "predicted", "trained", *metrics, *(["found by"] if several else []), "architecture", "recipe"),
        [
            (
                str(row["rank"]),
                f"{row['predicted_accuracy']:.4f} ± {row['std']:.4f}",
                "" if row["accuracy"] is None else f"{row['accuracy']:.4f}",
                *(format_metric(metric, row[metric]) for metric in metrics),
                *([", ".join(row["found_by"])] if several else []),
                architecture_text(row["architecture"]),
                recipe_text(row["recipe"]),
            )
            for row in rows
        ],
    )
    if is_run:
        messages.print(f"next: jointnas export {name}, or jointnas retrain {name} --seeds 3")


def _print_engines(reports: Sequence[EngineReport]) -> None:
    """Print what each engine found in what time; an accuracy is minimised as its negative."""
    print_table(
        "engines over one predictor",
        ("engine", "best", "scored", "seconds"),
        [
            (r.engine, "" if r.best is None else f"{abs(r.best):.6g}", str(r.scored), f"{r.seconds:.2f}")
            for r in reports
        ],
    )


def print_forecast(search: Search) -> None:
    """Say on stderr how well measured metrics are forecast on this device."""
    for metric, error in search.forecast_errors.items():
        messages.print(f"{metric} is forecast with a median error of {100 * error:.1f} %, and measured of the winners")
