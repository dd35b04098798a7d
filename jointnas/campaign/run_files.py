"""A run's winners and trials as candidate files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jointnas.campaign.candidate_file import CandidateFile, candidate_costs
from jointnas.campaign.folders import BEST, RETRAINED, find_run
from jointnas.campaign.spec import PolicySpec, SearchSpec
from jointnas.campaign.store import DATABASE, Run
from jointnas.errors import RunError


def winner_files(run: str | Path, query: int | None = None, top: int | None = None) -> tuple[int, list[CandidateFile]]:
    """Return the number of a run's query, by default the latest, and its winners as candidate files. Raises `RunError`."""
    if top is not None and top < 1:
        raise RunError(f"--top must be 1 or more, got {top}: raise it")
    with Run.open(find_run(run)) as opened:
        training = _training_of(opened)
        winners = opened.winners(query)[:top]
        number = query or opened.queries()[-1]["number"]
    files = [
        CandidateFile(
            w.candidate, {"predicted_accuracy": w.mean, "std": w.std, "accuracy": w.accuracy}, w.costs, training
        )
        for w in winners
    ]
    return number, files


def winner_file(name: str) -> CandidateFile:
    """Return one winner of a run's latest query, named RUN#RANK. Raises `RunError`."""
    run, _, rank = name.rpartition("#")
    files = winner_files(run)[1]
    if not rank.isdecimal() or not 1 <= int(rank) <= len(files):
        raise RunError(f"the run {run!r} has winners 1 to {len(files)}, got {rank!r} in {name!r}: write RUN#1")
    return files[int(rank) - 1]


def trial_files(run: str | Path, numbers: Sequence[int]) -> dict[str, CandidateFile]:
    """Return a run's trials with these numbers as candidate files, by name. Raises `RunError`.

    Their predicted accuracies are those from before their training.
    """
    with Run.open(find_run(run)) as opened:
        training, context = _training_of(opened), opened.context
        trials = {trial.number: trial for trial in opened.trials()}
    files = {}
    for number in numbers:
        if number not in trials:
            choice = f"choose 1 to {len(trials)}" if trials else "the run has no trainings of its own"
            raise RunError(f"the run {str(run)!r} has no trial {number}: {choice}, or drop --trial for winners")
        trial, observation = trials[number], trials[number].observation
        results: dict[str, Any] = {"predicted_accuracy": trial.predicted, "std": trial.std}
        if observation is not None:
            results |= {name: getattr(observation, name) for name in ("accuracy", "fraction", "failure")}
        costs = candidate_costs(
            trial.candidate, context.input_shape or (), len(context.classes or ()), training.get("members", 1)
        )
        files[f"trial-{number}"] = CandidateFile(trial.candidate, results, costs, training)
    return files


def training_of_folder(folder: Path) -> dict[str, Any] | None:
    """Return how the network in a run's folder, in its `best` or in its `retrained/winner-N` was trained; None for another folder."""
    absolute = place = folder.resolve()
    if not (absolute / DATABASE).is_file():
        place = absolute.parent if absolute.name == BEST else absolute.parent.parent
        if absolute.name != BEST and absolute.parent.name != RETRAINED:
            return None
    if not (place / DATABASE).is_file():
        return None
    with Run.open(place) as run:
        has_networks = run.context.classes is not None and hasattr(run.spec, "space")
        return _training_of(run) if has_networks and not isinstance(run.spec, PolicySpec) else None


def write_candidates(files: Mapping[str, CandidateFile], folder: Path, kind: str) -> list[Path]:
    """Write candidate files into a folder under their names, as "toml" or "json", and return the paths. Raises `ExportError`."""
    paths = [folder / f"{name}.{kind}" for name in files]
    for path, file in zip(paths, files.values(), strict=True):
        file.write(path, kind)
    return paths


def _training_of(run: Run) -> dict[str, Any]:
    """Return how a run's candidates were trained. Raises `RunError` where the run's candidates are of no space."""
    spec, context = run.spec, run.context
    is_policy = isinstance(spec, PolicySpec)
    if not hasattr(spec, "space") or spec.data is None or context.classes is None or is_policy:
        kind = "user function" if isinstance(spec, SearchSpec) and not is_policy else spec.kind
        raise RunError(
            f"only candidates that jointnas can train are exported, got a run of kind {kind!r}: name another run"
        )
    together = getattr(spec, "members", 1) > 1
    ensemble = {name: getattr(spec, name) for name in ("members", "ensemble")} if together else {}
    return {
        "data": spec.data.to_json(),
        "fingerprint": context.fingerprint,
        "clock": dict(spec.clock),
        "slot": context.slot.to_json(),
        "input_shape": list(context.input_shape or ()),
        "classes": len(context.classes),
        **({} if context.space is None else {"space": run.space.to_toml()}),
        **ensemble,
    }
