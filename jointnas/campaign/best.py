"""The best network of a search, kept with its weights, so that it classifies images as soon as the search has ended."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jointnas.campaign.folders import BEST, WINNER_FILE
from jointnas.campaign.runner import trained_members
from jointnas.campaign.spec import ALL_IMAGES
from jointnas.campaign.trial import FINAL, Trial
from jointnas.campaign.winner_file import Member, WinnerFile
from jointnas.data.dataset import Data
from jointnas.errors import RunError
from jointnas.search.winners import Winner
from jointnas.training.job import member_files
from jointnas.training.recipe import Recipe
from jointnas.training.trained_blueprint import trained_blueprint

TRAINING_IMAGES = "train"  # as opposed to `ALL_IMAGES`
WEIGHTS = "weights"  # the folder of a run's weights while it searches


def keep_best(run: Path, data: Data | None, winners: Sequence[Winner], trials: Sequence[Trial]) -> int | None:
    """Write the first winner that has weights into `RUN/best`, with those of one of its trainings; drop all others.

    That is the training on all images where there is one, else the most accurate on the validation images, on which the search chose it.
    What a search that was continued had kept before stays if it ranks higher. Return the rank of the winner that `RUN/best` holds, None for
    another network or none. Raises `RunError` when the folder cannot be written; the weights then stay.
    """
    with_weights = [t for t in trials if trained_members(run / WEIGHTS, t.number)]
    kept = [(rank, t) for rank, w in enumerate(winners, 1) for t in with_weights if t.candidate == w.candidate]
    final = [t for rank, t in kept if rank == 1 and t.kind == FINAL]
    held = _kept_rank(run, winners)
    if data is not None and kept and (final or held is None or kept[0][0] < held):
        held = kept[0][0]
        winner = winners[held - 1]
        chosen = final[0] if final else max((t for rank, t in kept if rank == held), key=lambda t: t.accuracy or 0.0)
        whole = [t.observation for t in trials if t.candidate == winner.candidate and t.observation]
        results = {
            "predicted_accuracy": winner.mean,
            "std": winner.std,
            "val_accuracies": [o.accuracy for o in whole if o.accuracy is not None and o.fraction == 1],
            "trained_on": ALL_IMAGES if final else TRAINING_IMAGES,
        }
        keep_network(run, data, chosen, results)
    shutil.rmtree(run / WEIGHTS, ignore_errors=True)
    return held


def keep_network(run: Path, data: Data, trial: Trial, results: dict[str, Any]) -> None:
    """Write the network of a trial into `RUN/best`, with its weights. Raises `RunError` when the folder cannot be written."""
    recipe, folder = Recipe.from_knobs(trial.candidate["recipe"]), run / BEST
    network = trained_blueprint(trial.candidate, data.input_shape, len(data.classes))
    try:
        trained = trained_members(run / WEIGHTS, trial.number)
        files = member_files(folder / "network.safetensors", len(trained))
        folder.mkdir(exist_ok=True)
        for source, target in zip(trained, files, strict=True):
            shutil.copyfile(source, target)
    except OSError as error:
        raise RunError(
            f"the best network cannot be written to {str(folder)!r} ({error.strerror}): make room, then go on with --resume"
        ) from error
    members = tuple(Member(network, file.name, data.mean, data.std, recipe.test_flip) for file in files)
    WinnerFile(members, data.classes, trial.candidate, results, data.fit).write(folder)


def _kept_rank(run: Path, winners: Sequence[Winner]) -> int | None:
    """Return the rank of the winner that `RUN/best` holds from before the search was continued."""
    if not (run / BEST / WINNER_FILE).is_file():
        return None
    candidate = WinnerFile.read(run / BEST).candidate
    return next((rank for rank, winner in enumerate(winners, 1) if winner.candidate == candidate), None)
