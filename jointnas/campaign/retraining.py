"""The retraining of a run's winners or of a candidate file: what is trained, on which data, in which slot, and where it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jointnas.campaign.candidate_file import CandidateFile, data_spec_of
from jointnas.campaign.folders import RETRAINED, WINNER, find_run, retrained_name
from jointnas.campaign.options import clock_json
from jointnas.campaign.retrain import Retrained, Watch, retrain_candidates
from jointnas.campaign.run_files import winner_files
from jointnas.campaign.store import Run
from jointnas.data.dataset import Data, load_data
from jointnas.data.spec import DataSpec
from jointnas.errors import ExportError
from jointnas.execution import RAY
from jointnas.execution.slots import Slot, is_here, remote_slots, share_slots
from jointnas.training.clock import clock_from_json
from jointnas.training.job import trial_executor
from jointnas.training.members import budget_json, part_of


@dataclass(frozen=True)
class Retraining:
    """Candidates to train again. run, query: the run that keeps the outcome, None for a file. executor: the name of what trains them."""

    files: tuple[CandidateFile, ...]
    spec: DataSpec
    data: Data
    clock: Mapping[str, float]
    slot: Slot
    to: Path
    notes: tuple[str, ...] = ()
    run: Path | None = None
    query: int = 0
    executor: str = "local"
    name: str = WINNER  # of the folders, before a rank

    @classmethod
    def of(
        cls,
        source: str,
        *,
        query: int | None = None,
        top: int = 3,
        train_time: str | float | None = None,
        train_steps: int | None = None,
        workers: int | None = None,
        device: str | None = None,
        to: Path | None = None,
        members: int | None = None,
        ensemble: str | None = None,
        ray: str | None = None,
        threads: int | None = None,
    ) -> Retraining:
        """Return the retraining of a run's winners, or of an exported candidate file.

        Data, budget, slot and members are the source's own where no option replaces them. ray: the address of a cluster that trains them.
        threads: of each training there. Raises `ExportError` or `RunError`.
        """
        path = Path(source)
        if path.suffix in (".toml", ".json"):
            if query is not None:
                raise ExportError(f"--query chooses among a run's winners, got --query {query} with a file: drop it")
            files, run, number = [CandidateFile.read(path)], None, 0
        else:
            (number, files), run = winner_files(source, query, top), find_run(source)
        files = [file.with_members(members, ensemble) for file in files]
        training = files[0].training
        own = training.get("slot", {})
        if "data" not in training or not _is_slot(own):
            raise ExportError(
                f"retrain needs a file that a run exported, but {source!r} has no [training.data] and [training.slot]: "
                "use jointnas train"
            )
        clock = clock_json(train_time, train_steps, training.get("clock"))
        clock_from_json(clock)
        part_of(clock, files[0].members)
        recorded = Slot.from_json(own)
        if threads is not None and ray is None:
            raise ExportError(f"--threads are of a cluster's workers, got --threads {threads} without --ray: drop it")
        count = recorded.workers if workers is None else workers
        if ray is not None:
            own_threads = recorded.threads if threads is None else threads
            slot = remote_slots(count, device or recorded.device, own_threads, recorded.per_gpu)
        elif workers is None and device is None and is_here(recorded):
            slot = recorded
        else:
            slot = share_slots(count, device or recorded.name)
        spec = data_spec_of(training)
        data = load_data(spec, fingerprint=training.get("fingerprint"))
        differs = slot != recorded
        notes = (f"this machine's slots differ from the run's: {slot.to_json()} instead of {own}",) if differs else ()
        folder = to or (path.with_suffix("") if run is None else run / RETRAINED)
        name = WINNER if to is not None or run is None else retrained_name(number)
        executor = "local" if ray is None else f"{RAY}:{ray}"
        return cls(tuple(files), spec, data, clock, slot, folder, notes, run, number, executor, name)

    def conduct(self, seeds: int, watch: Watch = lambda news: None) -> list[Retrained]:
        """Train each candidate with `seeds` seeds; the run keeps what they reached. See `retrain_candidates`."""
        check_seeds(seeds)
        with trial_executor(self.spec, self.slot, self.data.fingerprint, kind=self.executor) as executor:
            retrained = retrain_candidates(
                self.files, seeds, self.data, self.clock, executor, self.slot, self.to, watch, self.name
            )
        if self.run is not None:
            with Run.open(self.run) as opened:
                for one in retrained:
                    if one.test_accuracies:
                        outcome = one.val_accuracies, one.test_accuracies
                        budget = budget_json(self.clock, one.file.members, one.file.ensemble)
                        opened.add_retrained(self.query, one.rank, budget, self.slot.to_json(), *outcome)
        return retrained


def check_seeds(seeds: int) -> None:
    """Raise `ExportError` unless there is a seed to train with."""
    if seeds < 1:
        raise ExportError(f"--seeds must be 1 or more, got {seeds}: raise it")


def _is_slot(value: Mapping[str, Any]) -> bool:
    return all(
        isinstance(value.get(name), kind) for name, kind in (("workers", int), ("threads", int), ("device", str))
    )
