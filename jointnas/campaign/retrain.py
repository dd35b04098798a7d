"""Training winners again, with several seeds, and scoring the test images."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from jointnas import __version__
from jointnas.campaign.candidate_file import CandidateFile, make_writable
from jointnas.campaign.folders import WINNER, WINNER_FILE
from jointnas.campaign.store import locked
from jointnas.campaign.winner_file import Member, WinnerFile
from jointnas.data.dataset import Data
from jointnas.errors import ExportError
from jointnas.execution.executor import Executor
from jointnas.execution.recorded import RecordedExecutor
from jointnas.execution.slots import Slot
from jointnas.training.confusion import Confusion
from jointnas.training.job import TrainingJob, TrainingResult, member_files
from jointnas.training.recipe import Recipe
from jointnas.training.trained_blueprint import trained_blueprint

FIRST_SEED = 1_000_000_000
"""Far from every trial's seed, so that no lucky training of the search is repeated and counted."""


@dataclass(frozen=True)
class RetrainingEnded:
    """News of one training: the winner's rank, the number of its seed, its result, and how many of all have ended."""

    rank: int
    seed: int
    result: TrainingResult
    ended: int
    total: int


Watch = Callable[[RetrainingEnded], None]


@dataclass(frozen=True)
class Retrained:
    """A winner's outcome over several seeds. failures: why trainings failed, each after its seed; the others stand."""

    rank: int
    file: CandidateFile
    folder: Path
    costs: Mapping[str, float]
    val_accuracies: tuple[float, ...]
    test_accuracies: tuple[float, ...]
    failures: tuple[str, ...]
    confusion: Confusion | None = None  # of the test images, over all seeds

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
            **({} if self.confusion is None else {"confusion": [list(row) for row in self.confusion.counts]}),
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
    clock: Mapping[str, float],
    executor: Executor,
    slot: Slot,
    to: Path,
    watch: Watch = lambda news: None,
    name: str = WINNER,
) -> list[Retrained]:
    """Train each candidate with `seeds` new seeds, score the test images once each, and keep the weights.

    name: what the folder of each is called, before its rank.

    Each training is recorded as it ends: the same call (candidate, images, clock, slot, version) trains only what has no record.
    A winner's folder holds `winner.json` and the weights of every seed; the network it names is the first seed's, not the best
    one's. Raises `ExportError` when the folder cannot be written, `RunError` when the disk is full or another process writes there.
    """
    make_writable(to)
    with locked(to, "the folder of trained networks", "--to"):
        folders = {rank: to / f"{name}-{rank}" for rank in range(1, len(files) + 1)}
        for folder in folders.values():
            make_writable(folder)  # by this machine: a node that does not see them keeps no weights
        places = [(rank, seed) for rank in range(1, len(files) + 1) for seed in range(seeds)]
        jobs = [
            TrainingJob(
                files[rank - 1].candidate,
                clock,
                FIRST_SEED + seed,
                curve_images=0,
                test=True,
                weights=str((folders[rank] / f"seed-{seed}.safetensors").resolve()),
                members=files[rank - 1].members,
                ensemble=files[rank - 1].ensemble,
            ).numbered(number)
            for number, (rank, seed) in enumerate(places)
        ]
        context = {"fingerprint": data.fingerprint, "slot": slot.to_json(), "version": __version__}
        results: dict[tuple[int, int], TrainingResult] = {}
        for event in RecordedExecutor(executor, context).results(jobs):
            place = places[event.number]
            if event.kind == "started":
                (folders[place[0]] / WINNER_FILE).unlink(missing_ok=True)  # until the weights that it names are there
            if event.kind in ("done", "failed"):
                results[place] = TrainingResult.of(event)
                if results[place].unsaved:
                    raise ExportError(
                        f"the network of winner {place[0]} cannot be written to {str(to)!r} ({results[place].unsaved}): make room, or choose a "
                        "folder with --to that all machines share; then repeat the command"
                    )
                watch(RetrainingEnded(*place, results[place], len(results), len(jobs)))
        return [
            _collect(rank, file, [results[rank, seed] for seed in range(seeds)], data, folders[rank])
            for rank, file in enumerate(files, 1)
        ]


def _collect(rank: int, file: CandidateFile, results: Sequence[TrainingResult], data: Data, folder: Path) -> Retrained:
    network = trained_blueprint(file.candidate, data.input_shape, len(data.classes))
    trained = [(seed, r) for seed, r in enumerate(results) if r.test_accuracy is not None]
    failed = [(seed, r) for seed, r in enumerate(results) if r.test_accuracy is None]
    seed = trained[0][0] if trained else 0
    test_flip = Recipe.from_knobs(file.candidate["recipe"]).test_flip
    weights = member_files(folder / f"seed-{seed}.safetensors", results[seed].members)
    members = tuple(Member(network, path.name, data.mean, data.std, test_flip) for path in weights)
    winner = WinnerFile(members, data.classes, file.candidate, {}, data.fit)
    counted = [Confusion.from_json(r.confusion, data.classes) for _, r in trained if r.confusion is not None]
    retrained = Retrained(
        rank,
        file,
        folder,
        winner.costs,
        tuple(r.observation.accuracy for _, r in trained if r.observation.accuracy is not None),
        tuple(r.test_accuracy for _, r in trained if r.test_accuracy is not None),
        tuple(f"seed {seed}: {r.observation.failure}" for seed, r in failed),
        reduce(add, counted) if counted else None,
    )
    if trained:
        replace(winner, results=retrained.to_json()).write(folder)
    return retrained
