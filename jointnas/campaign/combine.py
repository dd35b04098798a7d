"""Trained networks of several runs as one ensemble, whose probabilities are averaged and whose costs add up."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jointnas.campaign.candidate_file import make_writable
from jointnas.campaign.folders import BEST, RETRAINED, WINNER_FILE, find_run
from jointnas.campaign.store import DATABASE, Run
from jointnas.campaign.trial import FINAL
from jointnas.campaign.winner_file import Member, WinnerFile
from jointnas.data.dataset import Data, Split, load_data
from jointnas.errors import ConstraintError, ExportError
from jointnas.network.cost import METRICS
from jointnas.network.module import Network
from jointnas.network.weights_file import load_weights
from jointnas.space.constraint import MEASURED, Constraint, format_metric, parse_all
from jointnas.space.knob_space import Candidate
from jointnas.training.batches import Normalise
from jointnas.training.ensemble import helpful_members
from jointnas.training.scoring import accuracy, ensemble_logits, predict

CPU = torch.device("cpu")


class Source(NamedTuple):
    """A trained winner of a run. saw_validation: whether it was trained on the run's validation images too."""

    run: Path
    folder: Path
    winner: WinnerFile
    saw_validation: bool


class Part(NamedTuple):
    """A member of a source: its description, the file of its weights, the candidate it was trained as, and its network."""

    member: Member
    weights: Path
    candidate: Candidate
    network: Network

    def logits(self, split: Split) -> Tensor:
        """Return its (n, classes) logits of a split."""
        return predict(self.network, split, Normalise(self.member.mean, self.member.std, CPU), CPU, self.member.flip)


class Combined(NamedTuple):
    """An ensemble: its winner with its accuracies, how many members were left out, and why none could be, if so."""

    winner: WinnerFile
    left_out: int
    note: str | None


def combine(names: Sequence[str], to: Path, constraints: Sequence[str] = ()) -> Combined:
    """Write the networks of runs, or of their retrained winners, as one winner into the new folder `to`.

    Where all have the same validation images and none was trained on them, members that do not pay on these are left out. The bounds hold
    for the sum of the costs of those that stay. The test images are scored once. Raises `ExportError` for networks that do not fit
    together, `ConstraintError` for a bound that their sum breaks, `RunError` for what is no run, `DataError` for images that have changed.
    """
    if len(names) < 2:
        raise ExportError(f"an ensemble has two networks or more, got {len(names)}: name another run")
    bounds = _bounds(constraints)
    sources = [_source(name) for name in names]
    _check_fits(sources)
    _check_new(to)
    data = [_data_of(source.run) for source in sources]
    test = data[0].test()
    for source, own in zip(sources, data, strict=True):
        if not _same(own.test(), test):
            raise ExportError(
                f"combined runs have the same test images, got others in {str(source.run)!r}: leave it out, as they may be among "
                "the training images of another"
            )
    note = _why_kept(sources, data)
    parts = [part for source in sources for part in _parts(source)]
    val_accuracy, given = None, len(parts)
    if note is None:
        logits = [part.logits(data[0].val) for part in parts]
        kept = helpful_members(logits, data[0].val.labels)
        val_accuracy = accuracy(ensemble_logits([logits[i] for i in kept]), data[0].val.labels)
        parts = [parts[i] for i in kept]
    _check_bounds(parts, bounds)
    make_writable(to)
    logits = [part.logits(test) for part in parts]
    results = {
        "val_accuracy": val_accuracy,
        "test_accuracy": accuracy(ensemble_logits(logits), test.labels),
        "members": [
            {
                "network": str(part.weights),
                "test_accuracy": accuracy(own, test.labels),
                "candidate": part.candidate,
            }
            for part, own in zip(parts, logits, strict=True)
        ],
    }
    first = sources[0].winner
    winner = WinnerFile(_copied(parts, to), first.classes, parts[0].candidate, results, first.fit)
    winner.write(to)
    return Combined(winner, given - len(parts), note)


def _bounds(constraints: Sequence[str]) -> tuple[Constraint, ...]:
    """Return bounds on exact costs. Raises `ConstraintError` for one on a measured metric."""
    bounds = parse_all(constraints, (*METRICS, *MEASURED))
    for bound in bounds:
        if bound.metric in MEASURED:
            raise ConstraintError(f"members add up exact costs ({', '.join(METRICS)}), got {bound}: drop it")
    return bounds


def _source(name: str) -> Source:
    """Return the winner of a run, or a retrained one inside a run. Raises `ExportError` or `RunError`."""
    folder = Path(name)
    if (folder / WINNER_FILE).is_file() and not (folder / DATABASE).is_file():
        absolute = folder.resolve()
        place = absolute.parent.parent if absolute.parent.name == RETRAINED else absolute.parent
        if (absolute.parent.name != RETRAINED and absolute.name != BEST) or not (place / DATABASE).is_file():
            raise ExportError(
                f"combine takes runs, and winners that were retrained inside a run (RUN/{RETRAINED}/winner-1), got {name!r}: name a run"
            )
        run = place
    else:
        run = find_run(name)
        folder = run / BEST
        if not (folder / WINNER_FILE).is_file():
            raise ExportError(
                f"combine takes runs that ended with a trained network, got {name!r} without one: continue it with --resume, or leave it out"
            )
    winner = WinnerFile.read(folder)
    with Run.open(run) as opened:
        on_all_images = folder.name == BEST and any(
            t.kind == FINAL and t.candidate == winner.candidate and t.observation and not t.observation.failure
            for t in opened.trials()
        )
    return Source(run, folder, winner, on_all_images)


def _check_fits(sources: Sequence[Source]) -> None:
    """Raise `ExportError` unless all winners classify the same images into the same classes, and each is there once."""
    shapes = [source.winner.members[0].blueprint.input_shape for source in sources]
    for source, shape in zip(sources, shapes, strict=True):
        if shape != shapes[0]:
            sizes = [" × ".join(map(str, own)) for own in (shapes[0], shape)]
            raise ExportError(
                f"an ensemble classifies images of one size, got {sizes[0]} and {sizes[1]} in {str(source.folder)!r}: leave it out"
            )
        for first, own in zip_longest(sources[0].winner.classes, source.winner.classes):
            if own != first:
                raise ExportError(
                    f"an ensemble has the same classes in the same order, got {own!r} for {first!r} in {str(source.folder)!r}: leave it out"
                )
    folders = [source.folder.resolve() for source in sources]
    for i, own in enumerate(folders):
        if own in folders[:i]:
            raise ExportError(f"each network counts once, got {str(sources[i].folder)!r} twice: drop one")


def _check_new(to: Path) -> None:
    """Raise `ExportError` where the folder of the ensemble holds another network or a run."""
    for name in (WINNER_FILE, DATABASE):
        if (to / name).exists():
            raise ExportError(
                f"an ensemble goes into a new folder, got {str(to)!r}, which holds {name}: choose another --to"
            )


def _data_of(path: Path) -> Data:
    """Return the images of a run. Raises `ExportError` where its function brings its own, `DataError` where they have changed."""
    with Run.open(path) as run:
        spec, fingerprint = run.spec.data, run.context.fingerprint
    if spec is None:
        raise ExportError(f"the run's own function brings its images, got {str(path)!r}: combine runs of --data")
    return load_data(spec, fingerprint=fingerprint)


def _same(a: Split, b: Split) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def _why_kept(sources: Sequence[Source], data: Sequence[Data]) -> str | None:
    """Return why no validation images can judge the members together, None where they can."""
    if not all(_same(own.val, data[0].val) for own in data):
        return "all members are kept, as the runs have different validation images: searches with the same --data-seed share them"
    if any(source.saw_validation for source in sources):
        return "all members are kept, as some were trained on the validation images too: a search with --final best keeps them apart"
    return None


def _parts(source: Source) -> list[Part]:
    """Return the members of a source. Raises `ExportError` for weights that cannot be read."""
    files = [(member, source.folder / member.weights) for member in source.winner.members]
    return [
        Part(member, path, source.winner.candidate, load_weights(Network(member.blueprint), path))
        for member, path in files
    ]


def _check_bounds(parts: Sequence[Part], bounds: Sequence[Constraint]) -> None:
    """Raise `ConstraintError` where the members' costs together break a bound."""
    for bound in bounds:
        value = sum(part.member.costs[bound.metric] for part in parts)
        if bound.violation(np.array([value])).any():
            raise ConstraintError(
                f"the sum of {len(parts)} members must keep {bound}, got {bound.metric} = {format_metric(bound.metric, value)}: "
                "combine fewer or cheaper networks"
            )


def _copied(parts: Sequence[Part], to: Path) -> tuple[Member, ...]:
    """Copy the members' weights into the folder `to`, and return them as its members. Raises `ExportError`."""
    members = []
    for number, part in enumerate(parts, 1):
        target = to / f"member-{number}.safetensors"
        try:
            shutil.copyfile(part.weights, target)
        except OSError as error:
            raise ExportError(
                f"the network {str(target)!r} cannot be written ({error.strerror}): choose another --to"
            ) from error
        members.append(replace(part.member, weights=target.name))
    return tuple(members)
