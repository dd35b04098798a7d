"""Trained networks of several runs as one ensemble, whose probabilities are averaged and whose costs add up."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jointnas.campaign.candidate_file import make_writable
from jointnas.campaign.folders import find_run
from jointnas.campaign.store import DATABASE, FINAL, Run
from jointnas.campaign.winner_file import BEST, WINNER_FILE, Member, Model, WinnerFile
from jointnas.data.dataset import Data, Split, load_data
from jointnas.errors import ConstraintError, ExportError
from jointnas.network.cost import METRICS
from jointnas.network.module import Network, load_weights
from jointnas.space.constraint import Constraint, format_metric, parse_all
from jointnas.space.knob_space import Candidate
from jointnas.training.ensemble import paying
from jointnas.training.scoring import accuracies, vote

SCORING_BATCH = 500


class Source(NamedTuple):
    """A trained winner of a run. saw_validation: whether it was trained on the run's validation images too."""

    run: Path
    folder: Path
    winner: WinnerFile
    saw_validation: bool


class Part(NamedTuple):
    """A member of a source: its description, the file of its weights, the candidate it was trained as, and the network alone."""

    member: Member
    weights: Path
    candidate: Candidate
    model: Model


class Combined(NamedTuple):
    """An ensemble: its winner with its accuracies, how many members were left out, and why none could be, if so."""

    winner: WinnerFile
    left_out: int
    note: str | None


def combine(names: Sequence[str], to: Path, constraints: Sequence[str] = ()) -> Combined:
    """Write the networks of runs, or of their retrained winners, as one winner into the folder `to`.

    Where all have the same validation images and none was trained on them, members that do not pay on these are left out. The bounds hold
    for the sum of the costs of those that stay. The test images of the first run are scored once. Raises `ExportError` for networks that do
    not fit together, `ConstraintError` for a bound that their sum breaks, `RunError` for what is no run.
    """
    if len(names) < 2:
        raise ExportError(f"an ensemble has two networks or more, got {len(names)}: name another run")
    bounds = parse_all(constraints, METRICS)
    sources = [_source(name) for name in names]
    first = sources[0].winner
    for source in sources:
        _check_fits(first, source.winner, source.folder)
    note = _why_kept(sources)
    parts = [part for source in sources for part in _parts(source)]
    data = _data_of(sources[0].run)
    val_accuracy, given = None, len(parts)
    if note is None:
        logits = [log_probabilities(part.model, data.val) for part in parts]
        kept = paying(logits, data.val.labels)
        val_accuracy = accuracies(vote([logits[i] for i in kept]), data.val.labels)[0]
        parts = [parts[i] for i in kept]
    _check_bounds(parts, bounds)
    test = data.test()
    logits = [log_probabilities(part.model, test) for part in parts]
    test_accuracy = accuracies(vote(logits), test.labels)[0]
    alone = [accuracies(own, test.labels)[0] for own in logits]
    results = {
        "val_accuracy": val_accuracy,
        "test_accuracy": test_accuracy,
        "members": [
            {"network": str(part.weights), "test_accuracy": own, "candidate": part.candidate}
            for part, own in zip(parts, alone, strict=True)
        ],
    }
    winner = WinnerFile(_copied(parts, to), first.classes, parts[0].candidate, results)
    winner.write(to)
    return Combined(winner, given - len(parts), note)


@torch.inference_mode()
def log_probabilities(model: Model, split: Split) -> Tensor:
    """Return (n, classes) logarithms of a model's probabilities for a split."""
    parts = torch.split(split.images.permute(0, 3, 1, 2), SCORING_BATCH)
    return torch.cat([model(part).log() for part in parts])


def _source(name: str) -> Source:
    """Return the winner in a run, or in a folder inside one. Raises `ExportError` or `RunError`."""
    folder = Path(name)
    if (folder / WINNER_FILE).is_file():
        runs = [path for path in folder.resolve().parents if (path / DATABASE).is_file()]
        if not runs:
            raise ExportError(
                f"a network is combined within its run, whose images judge it, got {name!r} in none: name a run"
            )
        path = runs[0]
    else:
        path = find_run(name)
        folder = path / BEST
    winner = WinnerFile.read(folder)
    with Run.open(path) as run:
        on_all_images = folder.resolve() == (path / BEST).resolve() and any(
            t.kind == FINAL and t.candidate == winner.candidate and t.observation and not t.observation.failure
            for t in run.trials()
        )
    return Source(path, folder, winner, on_all_images)


def _check_fits(first: WinnerFile, other: WinnerFile, folder: Path) -> None:
    """Raise `ExportError` unless two winners classify the same images into the same classes."""
    shapes = [winner.members[0].blueprint.input_shape for winner in (first, other)]
    if shapes[0] != shapes[1] or first.classes != other.classes:
        what = "images" if shapes[0] != shapes[1] else "classes"
        raise ExportError(
            f"an ensemble classifies the same images into the same classes, got other {what} in {str(folder)!r}: leave it out"
        )


def _why_kept(sources: Sequence[Source]) -> str | None:
    """Return why no validation images can judge the members together, None where they can. Raises `ExportError` for other data."""
    prints, data = set(), set()
    for source in sources:
        with Run.open(source.run) as run:
            prints.add(run.context.fingerprint)
            data.add(run.spec.data and (run.spec.data.source, run.spec.data.image_size))
    if len(data) > 1:
        raise ExportError(
            f"runs are combined whose images are from one source, got {len(data)}: leave out those of others"
        )
    if len(prints) > 1:
        return (
            "all members are kept: the runs have different validation images (give their searches the same --data-seed)"
        )
    if any(source.saw_validation for source in sources):
        return "all members are kept: some were trained on the validation images too (--final train+val)"
    return None


def _data_of(path: Path) -> Data:
    """Return the images of a run. Raises `ExportError` where its function brings its own, `DataError` where they have changed."""
    with Run.open(path) as run:
        spec, fingerprint = run.spec.data, run.context.fingerprint
    if spec is None:
        raise ExportError(f"the run's own function brings its images, got {str(path)!r}: combine runs of --data")
    return load_data(spec, fingerprint=fingerprint)


def _parts(source: Source) -> list[Part]:
    """Return the members of a source. Raises `ExportError` for weights that cannot be read."""
    winner = source.winner
    return [
        Part(
            member,
            source.folder / member.weights,
            winner.candidate,
            Model(
                [load_weights(Network(member.blueprint), source.folder / member.weights)], [member], winner.classes
            ).eval(),
        )
        for member in winner.members
    ]


def _copied(parts: Sequence[Part], to: Path) -> tuple[Member, ...]:
    """Copy the members' weights into the folder `to`, and return them as its members. Raises `ExportError`."""
    make_writable(to)
    members = []
    for number, part in enumerate(parts, 1):
        target = to / f"member-{number}.safetensors"
        try:
            shutil.copyfile(part.weights, target)
        except OSError as error:
            raise ExportError(
                f"the network {str(target)!r} cannot be written ({error}): choose another --to"
            ) from error
        members.append(replace(part.member, weights=target.name))
    return tuple(members)


def _check_bounds(parts: Sequence[Part], bounds: Sequence[Constraint]) -> None:
    """Raise `ConstraintError` where the members' costs together break a bound."""
    for bound in bounds:
        value = sum(part.member.costs[bound.metric] for part in parts)
        if bound.violation(np.array([value])).any():
            raise ConstraintError(
                f"the sum of {len(parts)} members must keep {bound}, got {bound.metric} = {format_metric(bound.metric, value)}: "
                "combine fewer or cheaper networks"
            )
