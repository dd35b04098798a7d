"""NASH over real trainings of few steps: the family, the bounds, the weights that are inherited, and what a resumption trains again."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

import jointnas
from jointnas.campaign.campaign import run
from jointnas.campaign.candidate_file import find_candidate
from jointnas.campaign.events import Event as CampaignEvent
from jointnas.campaign.events import Notice
from jointnas.campaign.nash import NashTask
from jointnas.campaign.options import make_spec
from jointnas.campaign.result import Campaign
from jointnas.campaign.spec import NashSpec
from jointnas.campaign.store import Run
from jointnas.campaign.trial import FINAL, Trial
from jointnas.campaign.winner_file import WinnerFile
from jointnas.data.dataset import load_data
from jointnas.errors import ConstraintError, ExportError, JointNASError, MorphismError, SearchError
from jointnas.execution.worker import Progress
from jointnas.network.cost import blueprint_cost
from jointnas.network.families import make_blueprint
from jointnas.network.module import Network, build
from jointnas.network.weights_file import save_weights
from jointnas.space.space import Space
from jointnas.training.clock import StepClock
from jointnas.training.job import Parent, PrepareTrials, TrainingJob, initial_network
from jointnas.training.recipe import Recipe
from jointnas.training.trainer import Trainer
from tests.executors import InProcessExecutor

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"network": "chain", "width": 4, "stages": 2}
START = {"architecture": SMALL, "recipe": {"batch_size": 32, "learning_rate": 0.05, "schedule": "cosine"}}
SETTINGS: dict[str, Any] = {
    "kind": "nash",
    "data": {"source": "digits", "train_images": 200, "val_images": 100},
    "train_steps": 4,
    "start": [START],
    "rounds": 2,
    "batch": 3,
    "morphisms": 2,
    "constraints": ["macs<150K"],
}


def spec_of(**changed: Any) -> NashSpec:
    spec = make_spec({**SETTINGS, **changed})
    assert isinstance(spec, NashSpec)
    return spec


class Trainings(InProcessExecutor):
    """Trains in this process, and may be interrupted before a training."""

    def __init__(self, spec: NashSpec, interrupt_before: int | None = None) -> None:
        assert spec.data is not None
        self.trainings = PrepareTrials(spec.data, "cpu", None)()
        self.interrupt_before = interrupt_before
        super().__init__(self._train)

    def _train(self, payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
        if len(self.started) == self.interrupt_before:
            raise KeyboardInterrupt
        return self.trainings(payload, progress)


def climb(folder: Path, *, resume: bool = False, interrupt_before: int | None = None, **changed: Any) -> Campaign:
    spec = spec_of(**changed)
    return run(spec, out=folder, resume=resume, executor=Trainings(spec, interrupt_before))


def trials_of(folder: Path) -> list[Trial]:
    with Run.open(folder) as opened:
        return opened.trials()


def outcome(trials: list[Trial]) -> list[tuple[Any, ...]]:
    """Return all of trials but the times of their trainings."""
    return [
        (
            t.number,
            t.round,
            t.parent,
            t.identity,
            t.candidate,
            t.accuracy,
            t.observation and t.observation.test_accuracy,
        )
        for t in trials
    ]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    torch.set_num_threads(1)
    return climb(tmp_path_factory.mktemp("nash") / "run")


# ------------------------------------------------------------------------------------------------------- the climb


def test_each_step_trains_children_of_the_best_and_the_best_unmodified(ended: Campaign) -> None:
    trials = trials_of(ended.path)
    assert [t.round for t in trials] == [0, 1, 1, 1, 2, 2, 2, 2]
    assert trials[0].candidate == START
    best = trials[0]
    for number in (1, 2):
        step = [t for t in trials if t.round == number and t.kind != FINAL]
        inherited = best.candidate["architecture"].get("morphisms", [])
        for child in step[:-1]:
            assert child.parent == best.number
            own = child.candidate["architecture"]["morphisms"]
            assert own[: len(inherited)] == inherited
            assert len(own) == len(inherited) + 2
        assert step[-1].candidate == best.candidate
        best = max(step, key=lambda t: t.accuracy)
    assert (trials[-1].kind, trials[-1].parent, trials[-1].accuracy) == (FINAL, best.number, None)


def test_no_child_breaks_the_bound(ended: Campaign) -> None:
    for trial in trials_of(ended.path):
        assert blueprint_cost(make_blueprint(trial.candidate["architecture"], (1, 8, 8), 10))["macs"] < 150e3


def test_trainings_get_the_budgets_of_the_paper_relative_to_a_child(ended: Campaign) -> None:
    steps = [t.observation.steps for t in trials_of(ended.path) if t.observation]
    assert steps == [round(4 * 20 / 17), *[4] * 6, round(4 * 100 / 17)]


def test_the_last_network_is_kept_with_its_weights_and_its_one_test_accuracy(ended: Campaign) -> None:
    kept = WinnerFile.read(ended.path / "best")
    last = trials_of(ended.path)[-1]
    assert kept.candidate == last.candidate == ended.best.candidate
    model = jointnas.load(ended.path / "best")
    test = load_data(spec_of().data).test()
    found = (model(test.images.permute(0, 3, 1, 2)).argmax(1) == test.labels).float().mean().item()
    assert found == pytest.approx(last.observation.test_accuracy, abs=1e-6)
    assert kept.results["test_accuracy"] == last.observation.test_accuracy
    assert not (ended.path / "weights").exists()


def test_the_best_network_is_what_is_predicted_and_exported(ended: Campaign, tmp_path: Path) -> None:
    best = max((t for t in trials_of(ended.path) if t.round == 2 and t.accuracy), key=lambda t: t.accuracy)
    assert (ended.best.accuracy, ended.best.mean) == (best.accuracy, best.accuracy)
    (file,) = ended.export(tmp_path)
    exported = find_candidate(file).candidate
    assert exported == ended.best.candidate
    network = jointnas.build(exported, (1, 8, 8), 10)
    assert network.blueprint == make_blueprint(ended.best.candidate["architecture"], (1, 8, 8), 10)


@pytest.mark.parametrize("interrupt_before", [1, 3, 5, 7, 8])
def test_an_interrupted_climb_goes_on_as_if_nothing_had_happened(
    ended: Campaign, tmp_path: Path, interrupt_before: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        climb(tmp_path / "run", interrupt_before=interrupt_before)
    climb(tmp_path / "run", resume=True)
    assert outcome(trials_of(tmp_path / "run")) == outcome(trials_of(ended.path))


def test_an_ended_climb_trains_nothing_more(ended: Campaign) -> None:
    spec = spec_of()
    executor = Trainings(spec)
    again = run(spec, out=ended.path, resume=True, executor=executor)
    assert executor.started == []
    assert again.best == ended.best


def test_where_no_morphism_fits_the_best_network_is_trained_on_alone(tmp_path: Path) -> None:
    notices: list[str] = []

    def listen(event: CampaignEvent) -> None:
        if isinstance(event, Notice):
            notices.append(event.text)

    macs = blueprint_cost(make_blueprint(SMALL, (1, 8, 8), 10))["macs"]
    spec = spec_of(constraints=[f"macs<={macs}"])
    run(spec, [listen], out=tmp_path / "run", executor=Trainings(spec))
    assert [len([t for t in trials_of(tmp_path / "run") if t.round == n and t.kind != FINAL]) for n in (1, 2)] == [1, 1]
    assert any("no morphism of trial 1 fits" in text for text in notices)


# ----------------------------------------------------------------------------------------------- inherited weights


def test_a_child_computes_what_its_parent_computes(tmp_path: Path) -> None:
    parent = build(make_blueprint(SMALL, (1, 8, 8), 10), torch.Generator().manual_seed(0)).eval()
    save_weights(parent, tmp_path / "parent.safetensors")
    grown = {**SMALL, "morphisms": ["wider 0.0 channels 8", "deeper 0.2 kernel 3"]}
    job = TrainingJob(
        {"architecture": grown, "recipe": {}},
        {"train_steps": 1},
        0,
        parent=Parent(SMALL, str(tmp_path / "parent.safetensors")).__dict__,
    )
    child = initial_network(job, (1, 8, 8), 10)
    assert isinstance(child, Network)
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(child.eval()(images), parent(images), rtol=0, atol=1e-5)
    fresh = initial_network(TrainingJob(job.candidate, job.clock, 0), (1, 8, 8), 10)
    assert fresh == child.blueprint


def test_without_inheritance_children_start_from_fresh_weights(tmp_path: Path) -> None:
    for inherit in (True, False):
        spec = spec_of(inherit=inherit, rounds=1)
        executor = Trainings(spec)
        run(spec, out=tmp_path / str(inherit), executor=executor)
        parents = [job.payload["parent"] for job in executor.started]
        assert [parent is not None for parent in parents] == [False, *[inherit] * 3, True]  # the last training goes on


def test_a_step_of_one_network_trains_a_random_child(tmp_path: Path) -> None:
    climb(tmp_path / "run", batch=1)
    trials = trials_of(tmp_path / "run")
    assert [len(t.candidate["architecture"].get("morphisms", [])) for t in trials] == [0, 2, 4, 4]


def test_the_learning_rate_ends_where_it_is_asked_to() -> None:
    data = load_data(spec_of().data)
    recipe = Recipe(batch_size=32, learning_rate=0.05, schedule="cosine")

    def last_rate_of(share: float) -> float:
        trainer = Trainer(
            make_blueprint(SMALL, (1, 8, 8), 10), recipe, data, StepClock(1000), 0, torch.device("cpu"), last_rate=share
        )
        while trainer.clock.fraction() < 0.999:
            trainer.clock.stepped()
        trainer.step(iter(trainer.batches))
        return float(trainer.optimizer.param_groups[0]["lr"])

    assert last_rate_of(0.0) < 1e-5
    assert last_rate_of(0.2) == pytest.approx(0.01, rel=0.01)
    assert last_rate_of(1.0) == pytest.approx(0.05)


def test_the_weights_of_the_present_step_and_its_parent_are_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        climb(tmp_path / "run", interrupt_before=6)  # in the second step
    trials = trials_of(tmp_path / "run")
    parent = trials[-1].parent
    kept = {int(path.stem.removeprefix("trial-")) for path in (tmp_path / "run" / "weights").iterdir()}
    assert kept == {parent, *(t.number for t in trials if t.round == 2 and t.observation)}


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"kind": "search", "engine": "nash"}, SearchError, "--engine nash trains every network that it grows: add --real"),
        ({"constraints": ["latency<5ms"]}, ConstraintError, "NASH keeps bounds that are exact.*latency<5"),
        ({"constraints": ["macs<1K"]}, ConstraintError, r"first network, of .*K macs, got the bound macs<1K: loosen it"),
        ({"start": [START, START]}, SearchError, "NASH grows one network, got 2"),
        ({"space": "chain"}, SearchError, "got both: drop one"),
        ({"total_time": "10m"}, SearchError, "got --total-time 10m: see how long it takes with --dry-run"),
        ({"batch": 0}, SearchError, "--batch must be 1 or more, got 0"),
        ({"final_training": 0.0}, SearchError, "--final-training is a number of training budgets above 0, got 0"),
        ({"last_learning_rate": 0.06}, SearchError, "a learning rate falls from 0.05, that of the start, got .* 0.06"),
        ({"engine": "mads"}, SearchError, "a nash run climbs by morphisms, got --engine mads"),
        ({"start": [{"architecture": SMALL}]}, JointNASError, "a candidate must be"),
        ({"last_learning_rate": -1.0}, SearchError, "--last-learning-rate must be 0 or more, got -1"),
        ({"fix": {"batch_size": 32}}, SearchError, "NASH takes network and recipe from its start, got --fix"),
        ({"start": None, "space": "format = 1\n[architecture]\nx = { low = 0.0, high = 1.0 }\n"}, JointNASError, "has none"),
        (
            {"start": [{**START, "architecture": {**SMALL, "morphisms": ["deeper 9.9 kernel 3"]}}]},
            MorphismError,
            "no node 9 in block 9",
        ),
        (
            {"start": [{**START, "architecture": {**SMALL, "morphisms": ["thicker 1.1"]}}]},
            MorphismError,
            "a morphism is written as .* got 'thicker 1.1'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_climbed_is_refused(changed: dict[str, Any], error: type[JointNASError], message: str) -> None:
    with pytest.raises(error, match=message):
        NashTask.of(spec_of(**changed))


def test_a_space_gives_its_smallest_network_as_the_start() -> None:
    task = NashTask.of(spec_of(start=None, space="resnet", constraints=[]))
    space = Space.load("resnet", (1, 8, 8), 10)
    codes = next(space.stream(1, chunk=2048))
    assert blueprint_cost(task.blueprint(task.start))["macs"] <= (space.costs(codes)["macs"] / space.views(codes)).min()
    assert task.start["architecture"]["network"] == "resnet"
    assert task.start["recipe"] == find_candidate("nash").candidate["recipe"]


def test_weights_that_are_gone_or_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        climb(tmp_path / "run", interrupt_before=2)
    weights = tmp_path / "run" / "weights" / "trial-1.safetensors"
    weights.unlink()
    with pytest.raises(JointNASError, match="the weights of trial 1, from which others grow, are not in"):
        climb(tmp_path / "run", resume=True)
    other = make_blueprint({"network": "chain", "width": 6, "stages": 2}, (1, 8, 8), 10)
    save_weights(build(other, torch.Generator()), weights)
    job = TrainingJob(START, {"train_steps": 1}, 0, parent={"architecture": SMALL, "weights": str(weights)})
    with pytest.raises(ExportError, match="are those of another network"):
        initial_network(job, (1, 8, 8), 10)


def test_the_trials_of_a_run_are_json(ended: Campaign) -> None:
    rows = json.loads(json.dumps(ended.trials))
    assert [row.get("parent") for row in rows][:2] == [None, 1]


@pytest.mark.parametrize("changed", [{}, {"start": None}, {"start": None, "space": "resnet"}])
def test_the_settings_of_a_run_make_the_same_run_again(changed: dict[str, Any]) -> None:
    spec = spec_of(**changed)
    assert make_spec(tomllib.loads(spec.to_toml())) == spec


def test_a_failed_last_training_is_repeated_by_a_resumption(tmp_path: Path) -> None:
    class Failing(Trainings):
        def _train(self, payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
            if payload["with_val"]:
                raise JointNASError("no memory")
            return super()._train(payload, progress)

    spec = spec_of(rounds=1)
    with pytest.raises(SearchError, match=r"the training on all images failed .*no memory"):
        run(spec, out=tmp_path / "run", executor=Failing(spec))
    climb(tmp_path / "run", resume=True, rounds=1)
    assert trials_of(tmp_path / "run")[-1].observation.test_accuracy is not None
    with Run.open(tmp_path / "run") as opened:
        assert [row["trials"] for row in opened.rounds()] == [1, 4]
