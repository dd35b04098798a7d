"""AutoTrain (FBNetV3: Dai et al., CVPR 2021): the recipe alone is searched, on a network that stays as it is.

Each network has its own run (`AutotrainSpec`), whose winner is compared with the candidate's own recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jointnas.campaign.candidate_file import CandidateFile
from jointnas.campaign.folders import RETRAINED
from jointnas.campaign.result import Campaign
from jointnas.campaign.retrain import Retrained, Watch, retrain_candidates
from jointnas.campaign.spec import AutotrainSpec
from jointnas.campaign.store import Run
from jointnas.data.dataset import Data
from jointnas.errors import RunError
from jointnas.execution.executor import Executor
from jointnas.training.recipe import Recipe, knob_fields

SIDE = ("recipe", "predicted_accuracy", "test_accuracy", "val_accuracy", "failures", "folder")  # of a retrained winner

RECIPE = "recipe"  # what the folders are called, before 1 for the default recipe and 2 for the searched one


@dataclass(frozen=True)
class AutoTrained:
    """One network with its default recipe and with the searched one, both trained again with several seeds."""

    name: str
    default: Retrained
    searched: Retrained

    @property
    def gain_points(self) -> float | None:
        """Mean test accuracy with the searched recipe less that with the default one, in percentage points.

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
            "default": {key: default[key] for key in (*SIDE, *self.default.costs)},
            "searched": {key: searched[key] for key in (*SIDE, *self.searched.costs)},
            "gain_points": self.gain_points,
            "changed": self.changed,
        }


def changed_knobs(default: Recipe, searched: Recipe) -> dict[str, Any]:
    """Return the knobs of `searched` whose value is not `default`'s, without those that have no effect beside the others."""
    changed = {}
    for name, spec in knob_fields().items():
        value, when = getattr(searched, name), spec.metadata["when"]
        if value != getattr(default, name) and (when is None or when(searched)):
            changed[name] = value
    return changed


def compare_recipes(campaign: Campaign, seeds: int, data: Data, executor: Executor, watch: Watch) -> AutoTrained:
    """Train the default candidate and the winner of an autotrain campaign with `seeds` new seeds, and score the test images.

    Trainings that an earlier call recorded are not repeated. Raises `RunError` when the disk is full.
    """
    with Run.open(campaign.path) as run:
        spec, context = run.spec, run.context
        winner = run.winners(1)[0]  # of the campaign: later questions to its run change no comparison
    if not isinstance(spec, AutotrainSpec):
        raise RunError(
            f"recipes are compared in a run of autotrain, but {str(campaign.path)!r} is a {spec.kind} run: name another"
        )
    files = [
        CandidateFile(spec.default),
        CandidateFile(winner.candidate, {"predicted_accuracy": winner.mean, "std": winner.std}),
    ]
    folder = campaign.path / RETRAINED
    default, searched = retrain_candidates(
        files, seeds, data, spec.clock, executor, context.slot, folder, watch, RECIPE
    )
    return AutoTrained(campaign.path.name, default, searched)
