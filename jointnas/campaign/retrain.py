"""Training winners again, with several seeds, and scoring the test images: the only place that sees them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jointnas import __version__
from jointnas.campaign.candidate_file import CandidateFile, Member, WinnerFile, make_writable
from jointnas.data import Data
from jointnas.execution import Event, Executor, Job, Slot
from jointnas.execution.recorded import RecordedExecutor
from jointnas.network.cost import blueprint_cost, scoring_cost
from jointnas.network.families import make_blueprint
from jointnas.training.clock import Clock
from jointnas.training.observation import Observation
from jointnas.training.recipe import Recipe

FIRST_SEED = 1_000_000_000
"""Far from every trial's seed, so that no lucky training that the search has seen is repeated and counted."""

Watch = Callable[[Event, int, int], None]
"""Called with every event, the number of trainings that ended, and how many there are."""


@dataclass(frozen=True)
class Retrained:
    """A winner's outcome over several seeds; failed trainings are told by their reason and leave the others standing."""

    rank: int
    file: CandidateFile
    folder: Path
    costs: dict[str, int]
    val_accuracies: tuple[float, ...]
    test_accuracies: tuple[float, ...]
    failures: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the row that `retrain --json` prints."""
        return {
            "rank": self.rank,
            **self.file.candidate,
            "predicted_accuracy": self.file.results.get("predicted_accuracy"),
            "test_accuracy": spread(self.test_accuracies),
            "val_accuracy": spread(self.val_accuracies),
            "failures": list(self.failures),
            "folder": str(self.folder),
            **self.costs,
        }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean, the sample standard deviation and the values; None for a mean of none or a deviation of one."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "seeds": list(values),
    }


def retrain_candidates(
    files: Sequence[CandidateFile],
    seeds: int,
    data: Data,
    clock: Clock,
    executor: Executor,
    slot: Slot,
    to: Path,
    watch: Watch,
) -> list[Retrained]:
    """Train each candidate with `seeds` seeds of its own, score the test images once each, and keep the weights.

    Each training is recorded as it ends: said again, the same command (candidate, images, clock, the executor's slot, version)
    trains what has no record. A winner's folder holds `winner.json` and the weights of every seed; the network it names is the
    first seed's, not the best one's. Raises `ExportError` when the folder cannot be written, `RunError` when the disk is full.
    """
    jobs: list[Job] = []
    where: dict[int, tuple[int, int]] = {}
    for rank, file in enumerate(files, 1):
        for seed in range(seeds):
            number = len(jobs) + 1
            weights = to / f"winner-{rank}" / f"seed-{seed}.safetensors"
            payload = {
                "candidate": file.candidate,
                "clock": clock.to_json(),
                "seed": FIRST_SEED + seed,
                "test": True,
                "weights": str(weights),
            }
            jobs.append(Job(number, payload))
            where[number] = (rank, seed)
    make_writable(to)
    context = {"fingerprint": data.fingerprint, "slot": slot.to_json(), "version": __version__}
    ended: dict[tuple[int, int], Event] = {}
    for event in RecordedExecutor(executor, context).results(jobs):
        if event.kind in ("done", "failed"):
            ended[where[event.number]] = event
        watch(event, len(ended), len(jobs))
    return [_collect(rank, file, seeds, ended, data, to / f"winner-{rank}") for rank, file in enumerate(files, 1)]


def _collect(
    rank: int, file: CandidateFile, seeds: int, ended: dict[tuple[int, int], Event], data: Data, folder: Path
) -> Retrained:
    network = make_blueprint(file.candidate["architecture"], data.input_shape, len(data.classes))
    recipe = Recipe.from_knobs(file.candidate["recipe"])
    events = [(seed, ended[rank, seed]) for seed in range(seeds)]
    good = [(seed, event.result) for seed, event in events if event.kind == "done"]
    observations = [Observation.from_json(result["observation"]) for _, result in good]
    retrained = Retrained(
        rank,
        file,
        folder,
        scoring_cost(blueprint_cost(network), recipe.views),
        tuple(o.accuracy for o in observations if o.accuracy is not None),
        tuple(result["test_accuracy"] for _, result in good),
        tuple(f"seed {seed}: {event.reason}" for seed, event in events if event.kind == "failed"),
    )
    if good:
        member = Member(network, f"seed-{good[0][0]}.safetensors", data.mean, data.std, recipe.test_flip)
        WinnerFile((member,), data.classes, file.candidate, retrained.to_json()).write(folder)
    return retrained
