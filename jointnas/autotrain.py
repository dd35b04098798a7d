"""AutoTrain (FBNetV3: Dai et al., CVPR 2021): the recipe alone is searched, on a network that stays as it is.

Each network has a run of its own, whose specification says everything that the two steps here need: what `jointnas search`
writes into it, and `default`, the candidate with the recipe that the searched one is compared with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jointnas.campaign import Campaign
from jointnas.data import Data
from jointnas.errors import RunError
from jointnas.execution import Event, Executor, Job
from jointnas.export import CandidateFile
from jointnas.recipe import Recipe, knob_fields
from jointnas.retrain import Retrained, Watch, retrain
from jointnas.run import DATABASE, Run
from jointnas.search import Search, Winner
from jointnas.space import Space
from jointnas.training.clock import clock_from_json
from jointnas.trainings import Watch as CampaignWatch

CONTEXT = ("data", "fingerprint", "clock", "slot", "classes")  # of a specification: what accuracies hold for
SIDE = ("recipe", "predicted_accuracy", "test_accuracy", "val_accuracy", "failures", "folder")  # of a retrained winner


@dataclass(frozen=True)
class AutoTrained:
    """One network with its default recipe and with the searched one, both trained again with several seeds."""

    name: str
    default: Retrained
    searched: Retrained

    @property
    def gain_points(self) -> float | None:
        """Mean test accuracy with the searched recipe less that with the default one, in points of a hundred.

        None where all trainings of one of them failed.
        """
        before, after = (one.to_json()["test_accuracy"]["mean"] for one in (self.default, self.searched))
        return None if before is None or after is None else 100 * (after - before)

    @property
    def changed(self) -> dict[str, Any]:
        """The searched recipe's knobs that differ from the default recipe's; see `changed_knobs`."""
        default, searched = (one.file.candidate["recipe"] for one in (self.default, self.searched))
        return changed_knobs(Recipe.from_knobs(default), Recipe.from_knobs(searched))

    def to_json(self) -> dict[str, Any]:
        """Return the row that `autotrain --json` prints."""
        default, searched = self.default.to_json(), self.searched.to_json()
        return {
            "network": self.name,
            "architecture": self.default.file.candidate["architecture"],
            **self.default.costs,
            "default": {key: default[key] for key in SIDE},
            "searched": {key: searched[key] for key in SIDE},
            "gain_points": self.gain_points,
            "changed": self.changed,
        }


def changed_knobs(default: Recipe, searched: Recipe) -> dict[str, Any]:
    """Return the knobs of `searched` whose value is not `default`'s, without those that have no effect beside the others."""
    found = {}
    for name, spec in knob_fields().items():
        value, when = getattr(searched, name), spec.metadata["when"]
        if value != getattr(default, name) and (when is None or when(searched)):
            found[name] = value
    return found


def open_run(path: Path, specification: Mapping[str, Any], resume: bool) -> Run:
    """Return one network's run, locked: a new one, or with `resume` the one that is there.

    Raises `RunError` when the folder exists without `resume`, or holds a run of another specification.
    """
    if resume and path.exists() and not (path / DATABASE).is_file():
        raise RunError(f"a run is a folder with {DATABASE}, got {str(path)!r}, killed while it was made: delete it")
    if not (resume and path.exists()):
        return Run.create(path, specification)
    run = Run.open(path, write=True)
    before = run.specification
    for key, value in specification.items():
        if before.get(key) != value:
            run.close()
            raise RunError(
                f"a run is resumed with the command that started it, got another {key} in {str(path)!r}: repeat that command"
            )
    return run


def search_recipe(run: Run, executor: Executor, watch: CampaignWatch) -> Winner:
    """Return the recipe with the highest predicted accuracy, after the run's campaign; one that has ended answers at once.

    Raises `SearchError` when every training of the first round failed.
    """
    if not run.queries():
        spec = run.specification
        space = Space.from_toml(spec["space"], spec["input_shape"], len(spec["classes"]))
        search = Search(space, spec["constraints"], spec["seed"])
        clock = clock_from_json(spec["clock"])
        Campaign(search, run, executor, clock, spec["rounds"], spec["batch"], spec["seed"], watch).conduct()
        search.predictor.context = {key: spec[key] for key in CONTEXT}
        winners = search.best(spec["top"], spec["engine"])
        search.predictor.save(run.path / "predictor")
        run.add_query(spec["constraints"], spec["engine"], spec["seed"], winners)
    return run.winners(1)[0]


def compare(run: Run, winner: Winner, seeds: int, data: Data, executor: Executor, watch: Watch) -> AutoTrained:
    """Train the run's default candidate and the winner with `seeds` seeds that no trial had, and score the test images.

    What was trained in an earlier session is not trained again. Raises `RunError` when the disk is full.
    """
    spec, folder = run.specification, run.path / "retrained"
    files = [
        CandidateFile(spec["default"]),
        CandidateFile(winner.candidate, {"predicted_accuracy": winner.mean, "std": winner.std}),
    ]
    clock = clock_from_json(spec["clock"])
    default, searched = retrain(files, seeds, data, clock, RecordedExecutor(executor), folder, watch)
    return AutoTrained(run.path.name, default, searched)


class RecordedExecutor(Executor):
    """Another executor whose finished jobs are recorded beside their weights: the same job is answered from its record.

    Failed jobs are not recorded. Jobs keep their `weights` in a file of their own.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._jobs: dict[int, Job] = {}  # those that run
        self._known: list[Event] = []  # of jobs that had a record

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue the jobs that have no record."""
        for job in jobs:
            result = _recorded(job)
            if result is None:
                self._jobs[job.number] = job
                self._executor.submit([job])
            else:
                self._known.append(Event("done", job.number, result=result))

    def poll(self, timeout: float) -> list[Event]:
        """Return the ends of recorded jobs, then what the other executor has to say. Raises `RunError`."""
        known, self._known = self._known, []
        if known:
            return known
        events = self._executor.poll(timeout)
        for event in events:
            if event.kind == "done":
                _record(self._jobs.pop(event.number), event.result)
        return events

    def cancel(self, number: int) -> None:
        """Take a job back."""
        self._known = [event for event in self._known if event.number != number]
        self._executor.cancel(number)

    def close(self) -> None:
        """Close the other executor."""
        self._executor.close()


def _recorded(job: Job) -> dict[str, Any] | None:
    weights = Path(job.payload["weights"])
    with suppress(OSError, ValueError):
        said: dict[str, Any] = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
        if said["job"] == _asked(job) and weights.is_file():
            result: dict[str, Any] = said["result"]
            return result
    return None


def _record(job: Job, result: dict[str, Any]) -> None:
    path = Path(job.payload["weights"]).with_suffix(".json")
    half = path.with_suffix(".half")
    try:
        half.write_text(json.dumps({"job": _asked(job), "result": result}), encoding="utf-8")
        half.replace(path)  # at once, so that a record is whole or not there
    except OSError as error:
        raise RunError(
            f"a training is recorded on a disk with room, got {str(path)!r} ({error}): make room, then --resume"
        ) from error


def _asked(job: Job) -> dict[str, Any]:
    """Return what decides a job's outcome: its payload, wherever the weights go."""
    return {key: value for key, value in job.payload.items() if key != "weights"}
