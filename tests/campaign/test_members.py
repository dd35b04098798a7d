"""A search of ensembles: bounds that hold for the sum, what is kept and exported, and questions to the run afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import jointnas
from jointnas.campaign.ask import FittedCampaign
from jointnas.campaign.campaign import run
from jointnas.campaign.candidate_file import CandidateFile, candidate_costs
from jointnas.campaign.options import make_spec
from jointnas.campaign.registry import fit_runs
from jointnas.campaign.result import Campaign
from jointnas.campaign.retraining import Retraining
from jointnas.campaign.shares import bounds_of_member
from jointnas.campaign.spec import SearchSpec
from jointnas.campaign.store import Run
from jointnas.campaign.winner_file import WinnerFile
from jointnas.errors import BudgetError, ConstraintError, ExportError, JointNASError, SearchError
from jointnas.training.job import PrepareTrials
from tests.executors import InProcessExecutor

pytestmark = pytest.mark.usefixtures("one_thread")

BOUND = 600_000
SETTINGS: dict[str, Any] = {
    "data": {"source": "digits", "train_images": 300, "val_images": 100},
    "train_steps": 12,
    "rounds": 1,
    "batch": 4,
    "confirm": 1,
    "top": 2,
    "members": 3,
    "constraints": [f"macs<{BOUND}"],
    "fix": {"batch_size": 32, "gradient": "plain"},
}


def spec_of(**changed: Any) -> SearchSpec:
    spec = make_spec({**SETTINGS, **changed})
    assert isinstance(spec, SearchSpec)
    return spec


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    torch.set_num_threads(1)
    spec = spec_of()
    assert spec.data is not None
    executor = InProcessExecutor(PrepareTrials(spec.data, "cpu", None)())
    return run(spec, out=tmp_path_factory.mktemp("members") / "run", executor=executor)


def test_the_bound_holds_for_the_sum_of_the_members(ended: Campaign) -> None:
    for winner in ended.winners:
        alone = candidate_costs(winner.candidate, (1, 8, 8), 10)
        assert winner.costs["macs"] == 3 * alone["macs"] < BOUND
        assert winner.costs["params"] == 3 * alone["params"]
    with Run.open(ended.path) as opened:
        assert all(3 * candidate_costs(t.candidate, (1, 8, 8), 10)["macs"] < BOUND for t in opened.trials())
        assert opened.queries()[0]["constraints"] == ["macs<600K"]


def test_each_member_trains_its_share_of_the_budget(ended: Campaign) -> None:
    assert {row["observation"]["steps"] for row in ended.trials if row["kind"] == "trial"} == {4}


def test_the_best_ensemble_is_kept_and_predicts(ended: Campaign) -> None:
    kept = WinnerFile.read(ended.path / "best")
    assert 1 <= len(kept.members) <= 3
    assert kept.costs["macs"] == len(kept.members) * candidate_costs(kept.candidate, (1, 8, 8), 10)["macs"] < BOUND
    model = jointnas.load(ended.path)
    probabilities = model(torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5))


def test_later_questions_are_about_ensembles_too(ended: Campaign) -> None:
    (winner,) = ended.ask_again(["macs<300K"], top=1)
    assert winner.costs["macs"] == 3 * candidate_costs(winner.candidate, (1, 8, 8), 10)["macs"] < 300_000
    with pytest.raises(ConstraintError, match=r"several members share bounds that add up exactly.*latency<5"):
        ended.ask_again(["latency<5ms"])


def test_exports_say_how_many_members_to_train(ended: Campaign, tmp_path: Path) -> None:
    file, *_ = ended.export(tmp_path)
    read = CandidateFile.read(file)
    assert (read.training["members"], read.training["ensemble"]) == (3, "seeds")
    assert read.costs["macs"] == 3 * candidate_costs(read.candidate, (1, 8, 8), 10)["macs"]
    retraining = Retraining.of(str(file), train_steps=6, members=2, ensemble="snapshots", to=tmp_path / "again")
    (outcome,) = retraining.conduct(1)
    winner = WinnerFile.read(outcome.folder)
    assert 1 <= len(winner.members) <= 2
    assert outcome.costs["macs"] == len(winner.members) * candidate_costs(read.candidate, (1, 8, 8), 10)["macs"]
    with pytest.raises(ExportError, match="--members must be between 1 and 16, got 0"):
        Retraining.of(str(file), members=0)
    with pytest.raises(ExportError, match="--ensemble is seeds or snapshots, got 'boosting'"):
        Retraining.of(str(file), ensemble="boosting")


def test_bounds_are_shared_exactly() -> None:
    (bound,) = bounds_of_member(["macs<=30M"], 3)
    assert (str(bound), bounds_of_member(["macs<30M"], 1)) == ("macs<=10M", ["macs<30M"])


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"members": 0}, SearchError, "--members must be 1 or more, got 0"),
        ({"members": 99}, SearchError, "--members must be 16 at most, got 99"),
        ({"ensemble": "bagging"}, SearchError, "--ensemble is seeds or snapshots, got 'bagging'"),
        ({"members": 13}, BudgetError, "13 members need a step each, got a budget of 12 steps"),
        ({"early_stop": 0.9}, SearchError, "--members trains whole networks, got --members 3 and --early-stop"),
        ({"train_fn": "a:b"}, SearchError, "--members trains whole networks, got --members 3 and --train-fn"),
        ({"constraints": ["latency<5ms"]}, ConstraintError, "several members share bounds that add up exactly"),
        ({"measure": ["latency"]}, SearchError, "--members .* got --measure latency"),
        (
            {"objective": "min latency", "constraints": ["accuracy>=0.5"]},
            SearchError,
            "--members .* got the objective 'min latency'",
        ),
        ({"members": 1, "ensemble": "snapshots"}, SearchError, "--ensemble goes with several --members"),
    ],
)
def test_what_several_members_cannot_be_is_refused(
    changed: dict[str, Any], error: type[JointNASError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        run(spec_of(**changed), out=tmp_path / "run")


def test_the_last_training_on_all_images_keeps_all_members(tmp_path: Path) -> None:
    spec = spec_of(final="train+val", confirm=0)
    assert spec.data is not None
    executor = InProcessExecutor(PrepareTrials(spec.data, "cpu", None)())
    campaign = run(spec, out=tmp_path / "run", executor=executor)
    assert len(WinnerFile.read(campaign.path / "best").members) == 3


def test_a_predictor_knows_how_many_members_its_trials_had(ended: Campaign) -> None:
    with FittedCampaign(str(ended.path / "predictor")) as fitted:
        (winner,) = fitted.ask(["macs<300K"], top=1).winners
    assert winner.costs["macs"] == 3 * candidate_costs(winner.candidate, (1, 8, 8), 10)["macs"] < 300_000


def test_a_predictor_that_becomes_a_run_keeps_its_members(ended: Campaign, tmp_path: Path) -> None:
    fit_runs([str(ended.path)]).save(tmp_path / "week")
    with FittedCampaign(str(tmp_path / "week"), tmp_path / "asked") as fitted:
        fitted.ask([f"macs<{BOUND}"], top=1)
    (file,) = jointnas.Campaign(tmp_path / "asked").export(top=1)
    assert CandidateFile.read(file).training["members"] == 3


def test_a_file_with_impossible_members_is_refused(ended: Campaign, tmp_path: Path) -> None:
    file, *_ = ended.export(tmp_path)
    file.write_text(file.read_text().replace("members = 3", "members = 500"))
    with pytest.raises(ExportError, match=r"training\.members is 1 to 16 .* got 500"):
        CandidateFile.read(file)
