"""AutoTrain (FBNetV3: Dai et al., CVPR 2021): the recipe alone is searched, on a network that stays as it is.

Each network has a run of its own, whose specification says everything that the two steps here need: what `jointnas search`
writes into it, and `default`, the candidate with the recipe that the searched one is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jointnas.campaign.campaign import Campaign
from jointnas.campaign.candidate_file import CandidateFile
from jointnas.campaign.registry import CONTEXT, find_prior
from jointnas.campaign.retrain import Retrained, Watch, retrain_candidates
from jointnas.campaign.runner import Watch as CampaignWatch
from jointnas.campaign.store import Run
from jointnas.data import Data
from jointnas.execution import Executor, Slot
from jointnas.search.search import Search
from jointnas.search.winners import Winner
from jointnas.space.space import Space
from jointnas.training.clock import clock_from_json
from jointnas.training.recipe import Recipe, knob_fields

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
            "default": {key: default[key] for key in (*SIDE, *self.default.costs)},
            "searched": {key: searched[key] for key in (*SIDE, *self.searched.costs)},
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


def search_recipe(run: Run, executor: Executor, watch: CampaignWatch) -> Winner:
    """Return the recipe with the highest predicted accuracy, after the run's campaign; one that has ended answers at once.

    Raises `SearchError` when every training of the first round failed.
    """
    if not run.queries():
        spec = run.specification
        space = Space.from_toml(spec["space"], spec["input_shape"], len(spec["classes"]))
        search = Search(space, spec["constraints"], spec["seed"], prior=find_prior(None, space))
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
    default, searched = retrain_candidates(files, seeds, data, clock, executor, Slot(**spec["slot"]), folder, watch)
    return AutoTrained(run.path.name, default, searched)
