"""A search of augmentation policies: what is trained, what both engines propose, and the policy that comes of it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from jointnas.campaign.campaign import prepare, run
from jointnas.campaign.options import make_spec
from jointnas.campaign.policy_file import read_policy
from jointnas.campaign.policy_search import joined_policy
from jointnas.campaign.result import Campaign
from jointnas.campaign.spec import PolicySpec
from jointnas.errors import JointNASError, RunError, SearchError, SpaceError
from jointnas.execution.worker import Progress
from jointnas.training.job import TrainingResult
from jointnas.training.observation import Observation
from jointnas.training.policy_text import SEARCHED, Step, parse_policy, split_knobs
from tests.executors import InProcessExecutor

TRAINED = {"architecture": {"network": "resnet9", "width": 4}, "recipe": {"batch_size": 32, "flip": False}}
PAIR = (
    "format = 1\n[architecture]\n"
    + "\n".join(
        f'operation1{place} = {{ choices = ["rotate", "invert"] }}\nprobability1{place} = 1.0\nmagnitude1{place} = 5'
        for place in "ab"
    )
    + "\n[recipe]\ncrop = { values = [0.0, 0.125] }\n"
)
SETTINGS: dict[str, Any] = {
    "kind": "policy",
    "data": {"source": "digits", "train_images": 200, "val_images": 100},
    "train_steps": 2,
    "rounds": 3,
    "batch": 6,
    "trained": TRAINED,
}


def goodness(step: Step) -> float:
    """Return how good an operation is for a made-up task: rotations help, inversions harm."""
    return step.probability * {"rotate": 0.04, "shear_x": 0.02, "invert": -0.06}.get(step.operation, -0.005)


class Formula(InProcessExecutor):
    """An executor whose accuracies are a function of the policy that it is asked to train with."""

    def __init__(self, interrupt_before: int | None = None) -> None:
        super().__init__(self._train)
        self.recipes: list[dict[str, Any]] = []
        self.interrupt_before = interrupt_before

    def _train(self, payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
        if len(self.started) == self.interrupt_before:
            raise KeyboardInterrupt
        recipe = payload["candidate"]["recipe"]
        self.recipes.append(recipe)
        if recipe["policy"] == "randaugment":
            return TrainingResult(Observation(0.7 - 0.01 * abs(recipe["policy_magnitude"] - 5))).to_json()
        steps = [step for sub_policy in parse_policy(recipe["policy"]) for step in sub_policy]
        return TrainingResult(Observation(0.6 + sum(map(goodness, steps)))).to_json()


def spec_of(**changed: Any) -> PolicySpec:
    spec = make_spec({**SETTINGS, **changed})
    assert isinstance(spec, PolicySpec)
    return spec


def search(folder: Path, **changed: Any) -> tuple[Campaign, Formula]:
    executor = Formula()
    return run(spec_of(**changed), out=folder, executor=executor), executor


@pytest.mark.parametrize("engine", ["evolution", "ppo"])
def test_every_training_is_the_given_candidate_with_a_policy_of_five_pairs(engine: str, tmp_path: Path) -> None:
    campaign, executor = search(tmp_path / "run", engine=engine)
    assert len(executor.recipes) == 18
    for recipe in executor.recipes:
        assert {name: recipe[name] for name in TRAINED["recipe"]} == TRAINED["recipe"]
        sub_policies = parse_policy(recipe["policy"])
        assert [len(steps) for steps in sub_policies] == [2] * 5
        assert all(step.operation in SEARCHED for steps in sub_policies for step in steps)
    assert not (campaign.path / "best").exists()


def test_the_predictor_finds_better_policies_than_the_first_batch_has(tmp_path: Path, full_search) -> None:
    campaign, _ = search(tmp_path / "run", rounds=5, batch=10)
    first = [row["observation"]["accuracy"] for row in campaign.trials if row["round"] == 1]
    assert campaign.best.accuracy is not None
    assert campaign.best.accuracy > max(first) + 0.02


def test_the_best_policies_are_joined_into_one(tmp_path: Path) -> None:
    campaign, _ = search(tmp_path / "run", top=5)
    text, path = joined_policy(campaign)
    assert path == campaign.path / "policy.toml"
    assert read_policy(path) == text
    assert len(parse_policy(text)) == 25
    best, _ = split_knobs(campaign.best.candidate["architecture"])
    assert best is not None
    assert parse_policy(text)[:5] == parse_policy(best)
    _, elsewhere = joined_policy(campaign, tmp_path / "mine.toml")
    assert elsewhere == tmp_path / "mine.toml"
    assert read_policy(elsewhere) == text


def test_the_grid_of_randaugment_is_a_space_of_policies_too(tmp_path: Path) -> None:
    campaign, executor = search(tmp_path / "run", space="randaugment", rounds=3, batch=12)
    assert {(r["policy_operations"], r["policy_magnitude"]) for r in executor.recipes} >= {(1, 5), (3, 15)}
    assert campaign.best.candidate["architecture"]["policy_magnitude"] == 5
    text, path = joined_policy(campaign)
    assert "policy_magnitude 5" in text
    assert path is None


def test_a_space_of_ones_own_may_have_other_knobs_of_recipes(tmp_path: Path) -> None:
    campaign, executor = search(tmp_path / "run", space=PAIR, rounds=2, batch=4)
    assert {recipe["crop"] for recipe in executor.recipes} == {0.0, 0.125}
    assert all(len(parse_policy(recipe["policy"])) == 1 for recipe in executor.recipes)
    _, path = joined_policy(campaign)
    assert path is not None
    assert tomllib.loads(path.read_text())["results"]["recipe"]["crop"] in (0.0, 0.125)


def test_the_batch_of_a_controller_may_not_change(tmp_path: Path) -> None:
    search(tmp_path / "run", engine="ppo")
    with pytest.raises(RunError, match="batch differs"):
        run(spec_of(engine="ppo", batch=7), out=tmp_path / "run", resume=True, executor=Formula())


@pytest.mark.parametrize("engine", ["evolution", "ppo"])
def test_an_interrupted_search_goes_on_with_what_it_has(engine: str, tmp_path: Path) -> None:
    whole, _ = search(tmp_path / "whole", engine=engine)
    executor = Formula(interrupt_before=8)
    with pytest.raises(KeyboardInterrupt):
        run(spec_of(engine=engine), out=tmp_path / "run", executor=executor)
    again = Formula()
    resumed = run(spec_of(engine=engine), out=tmp_path / "run", resume=True, executor=again)
    assert len(again.recipes) == 18 - 7
    assert [row["architecture"] for row in resumed.trials] == [row["architecture"] for row in whole.trials]


def test_an_ended_search_is_resumed_without_training(tmp_path: Path) -> None:
    search(tmp_path / "run", engine="ppo")
    executor = Formula()
    run(spec_of(engine="ppo"), out=tmp_path / "run", resume=True, executor=executor)
    assert executor.recipes == []


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"space": "resnet9"}, SpaceError, "a policy is searched in a space without networks, got 'resnet9'"),
        ({"constraints": ["macs<1M"]}, SearchError, "got --constraint: drop it"),
        ({"members": 2}, SearchError, "got --members: drop it"),
        ({"trained": "resnet9-1mm"}, JointNASError, "no built-in recipe is called 'resnet9-1mm'"),
        ({"trained": {**TRAINED, "recipe": {"optimiser": "sgd"}}}, JointNASError, "no knob 'optimiser'"),
        (
            {"space": 'format = 1\n[architecture]\noperation1a = { choices = ["rotate", "invert"] }\n'},
            JointNASError,
            "a space of policies has .* got none called probability1a: add it",
        ),
        (
            {"kind": "search", "trained": None, "engine": "ppo"},
            SearchError,
            "--engine ppo trains what it proposes: add --real",
        ),
    ],
)
def test_what_is_no_search_of_policies_is_refused(
    changed: dict[str, Any], error: type[JointNASError], message: str
) -> None:
    with pytest.raises(error, match=message):
        prepare(spec_of(**changed), lambda event: None)


def test_the_candidates_of_a_policy_run_are_not_exported(tmp_path: Path) -> None:
    campaign, _ = search(tmp_path / "run")
    with pytest.raises(RunError, match="got a run of kind 'policy'"):
        campaign.export(tmp_path / "export")


def test_the_settings_of_a_run_make_the_same_run_again() -> None:
    spec = spec_of(engine="ppo")
    assert make_spec(tomllib.loads(spec.to_toml())) == spec
