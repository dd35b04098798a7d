"""Questions to a fitted predictor: winners under other bounds than the campaign's, in seconds and without training."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from jointnas.campaign.registry import adopt, find_predictor, load_predictor_of
from jointnas.campaign.shares import as_ensembles, bounds_of_member
from jointnas.campaign.spec import check_exact
from jointnas.campaign.store import Run
from jointnas.errors import RunError, SearchError
from jointnas.execution.slots import Slot, nearest_slot, share_slots
from jointnas.network.cost import METRICS
from jointnas.search.engines import CONTROLLER
from jointnas.search.objective import EFFICIENCY, SCORE_NAMES, parse_objective, predicted_objective, score_of
from jointnas.search.reference import Reference
from jointnas.search.search import Search
from jointnas.search.winners import EngineReport, Winner
from jointnas.space.constraint import MEASURED, parse_all
from jointnas.training.observation import ACCURACY

if TYPE_CHECKING:
    from jointnas.measurement.meter import Meter


@dataclass(frozen=True)
class Answer:
    """Winners under constraints. query: the number under which the run keeps them, None without a run."""

    constraints: tuple[str, ...]
    winners: Sequence[Winner]
    reports: Sequence[EngineReport]
    query: int | None
    notes: Sequence[str]  # on forecasts and on metrics that could not be measured


class FittedCampaign:
    """The predictor of an ended run, or a stand-alone one. Use as a context manager: it may start a worker that measures.

    name: see `find_predictor`. latency_command: measures latency on another device; that of the run is not used, as it may be a stranger's.
    out: a folder in which a stand-alone predictor becomes a run with its first answer. A run keeps each
    answer as a query. Raises `PredictorError` and `RunError`.
    """

    def __init__(self, name: str, out: Path | None = None, latency_command: str | None = None) -> None:
        _, path = find_predictor(name)
        if out is not None and path is not None:
            raise RunError(f"--out makes a run of a stand-alone predictor, but {name!r} is a run's: drop --out")
        if out is not None and out.exists():
            raise RunError(
                f"--out must be a new folder, got {str(out)!r}, which exists: ask that run with --from {out}"
            )
        self.predictor, self.run, self._name, self._out = load_predictor_of(name), path, name, out
        self._stack, self._command = ExitStack(), latency_command
        self._meter: Meter | None = None
        self._notes: tuple[str, ...] = ()  # on its slot

    def __enter__(self) -> FittedCampaign:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def bounds_on_costs(self, constraints: Sequence[str]) -> list[str]:
        """Return those of the constraints that are no bounds on the accuracy."""
        return [text for text in constraints if self._metrics([text]) != [ACCURACY]]

    def check(self, constraints: Sequence[str]) -> list[str]:
        """Return constraints in their canonical form. Raises `ConstraintError` for one that cannot be read."""
        return [str(c) for c in parse_all(constraints, (*self.predictor.space.metrics, *MEASURED, ACCURACY))]

    def ask(
        self,
        constraints: Sequence[str] = (),
        *,
        top: int = 5,
        engine: str = "evolution",
        objective: str = "max accuracy",
        measure: Sequence[str] = (),
        seed: int = 0,
        frontier: str | None = None,
        reference: Reference | None = None,
    ) -> Answer:
        """Return the winners under `constraints`; with `frontier`, candidates that trade accuracy for this cost.

        reference: the models that the objective "max efficiency" is relative to.

        Raises `ConstraintError` when nothing meets the constraints, `SearchError` for options that do not fit.
        """
        objective = self._over_scores(objective)
        space, members = self.predictor.space, self._members()
        bounds = bounds_of_member(constraints, members)
        if reference is not None and (members > 1 or self.predictor.context.get("score", ACCURACY) != ACCURACY):
            raise SearchError(
                "efficiency is of the accuracy of single networks, got a predictor of ensembles or of another score: drop --relative-to"
            )
        if members > 1:
            check_exact(objective, measure)
            if frontier in MEASURED:
                raise SearchError(
                    f"several members add up exact costs, got --frontier {frontier}: choose one of {', '.join(METRICS)}"
                )
        if engine == CONTROLLER:
            raise SearchError(f"--engine {CONTROLLER} searches real trainings, not a predictor: choose another engine")
        minimised = parse_objective(objective, (*space.metrics, *MEASURED), reference)
        metrics = {*self._metrics(constraints), minimised, frontier, *(reference.costs if reference else ())}
        needed = bool(measure or metrics - {*space.metrics, ACCURACY, EFFICIENCY, None})
        meter = self._make_meter() if needed else None
        search = Search(
            space,
            bounds,
            seed,
            predictor=self.predictor,
            objective=objective,
            meter=meter,
            reported=measure,
            reference=reference,
        )
        winners = as_ensembles(search.best(top, engine) if frontier is None else search.front(frontier, top), members)
        texts = tuple(self.check(constraints))
        notes = [
            *self._notes,
            *search.warnings,
            *(f"a metric could not be measured: {f}" for f in (meter.failures if meter else ())),
        ]
        number = self._record(texts, engine if frontier is None else "nsga2", seed, winners)
        return Answer(texts, winners, search.reports, number, notes)

    def _over_scores(self, objective: str) -> str:
        """Return the objective over what the predictor predicts: the score that its run maximised.

        Raises `SearchError` for another score than theirs.
        """
        own = self.predictor.context.get("score", ACCURACY)
        if score_of(objective) not in (ACCURACY, own):
            raise SearchError(
                f"the predictor was fitted to the {SCORE_NAMES[own]} of trainings, got the objective {objective!r}: drop it or search again"
            )
        return predicted_objective(objective)

    def _members(self) -> int:
        """Return how many networks the campaign trained together."""
        return int(self.predictor.context.get("members", 1))

    def _metrics(self, constraints: Sequence[str]) -> list[str]:
        metrics = (*self.predictor.space.metrics, *MEASURED, ACCURACY)
        return [c.metric for c in parse_all(constraints, metrics)]

    def _record(self, constraints: Sequence[str], engine: str, seed: int, winners: Sequence[Winner]) -> int | None:
        if self.run is None and self._out is not None:
            self.run = adopt(self.predictor, self._name, self._out)
        if self.run is None:
            return None
        with Run.open(self.run) as opened:
            return opened.add_query(constraints, engine, seed, winners)

    def _make_meter(self) -> Meter:
        """Return the meter of the slot that the campaign had, or of the nearest that this machine has."""
        from jointnas.measurement.device_command import DeviceCommand
        from jointnas.measurement.meter import Meter

        if self._meter is None:
            space, recorded = self.predictor.space, self.predictor.context.get("slot")
            slot = nearest_slot(Slot.from_json(recorded)) if recorded else share_slots(1)
            if recorded and slot.to_json() != recorded:
                self._notes = (
                    f"measured in a slot that differs from the run's: {slot.to_json()} instead of {recorded}",
                )
            command = None if self._command is None else DeviceCommand(self._command)
            meter = Meter(slot, space.input_shape or (), space.classes or 0, command=command)
            self._meter = self._stack.enter_context(meter)
        return self._meter
