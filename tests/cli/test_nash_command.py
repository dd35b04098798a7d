"""`jointnas search --engine nash --real`: its plan, its answer, the family tree, and what its run is good for."""

from __future__ import annotations

from pathlib import Path

import pytest

from jointnas.campaign.candidate_file import CandidateFile
from tests.cli.commands import SEARCH_KEYS, WINNER_KEYS
from tests.helpers import answer, jointnas, mistake

START = """
[architecture]
network = "chain"
width = 4
stages = 2
[recipe]
batch_size = 32
learning_rate = 0.05
schedule = "cosine"
"""
NASH = ("search", "--real", "--engine", "nash", "--start", "start.toml", "--train-steps", "4", "--train-images", "200")
SMALL = (*NASH, "--rounds", "1", "--batch", "3", "--morphisms", "2", "--final-training", "2", "-c", "macs<200K")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nash")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("start.toml").write_text(START)
        found = answer(*SMALL)
        assert set(found) == SEARCH_KEYS
        assert found["run"] == "runs/digits-nash-1"
        (winner,) = found["winners"]
        assert set(winner) >= WINNER_KEYS
        assert winner["macs"] < 200e3
    return folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(folder)
    return "runs/digits-nash-1"


def test_the_plan_counts_all_trainings(run: str) -> None:
    plan = answer(*SMALL, "--dry-run")
    assert (plan["trainings"], plan["rounds"], plan["batch"], plan["morphisms"]) == (5, 1, 3, 2)
    assert plan["start"]["network"] == "chain"
    assert (
        "the first network (1.18 budgets), 1 steps of 3, the best on all images (2 budgets)"
        in jointnas(*SMALL, "--dry-run").out
    )


def test_a_run_is_shown_as_a_family_tree(run: str) -> None:
    lines = jointnas("runs", "show", run).out.splitlines()
    assert lines[0].startswith("trial 1  ")
    assert sum(line.startswith(("├─ trial", "└─ trial")) for line in lines) == 3
    assert sum("unmodified" in line for line in lines) == 2
    assert any("test accuracy" in line for line in lines)


def test_its_winner_is_exported_retrained_and_predicts(run: str, tmp_path: Path) -> None:
    (file,) = answer("export", run, "--format", "toml", "--to", tmp_path)["files"]
    candidate = CandidateFile.read(Path(file)).candidate
    (winner,) = answer("retrain", file, "--seeds", "1", "--train-steps", "2", "--to", tmp_path / "again")["winners"]
    assert winner["architecture"] == candidate["architecture"]
    assert answer("show", run + "/best")["members"][0]["costs"]["macs"] == winner["macs"]
    assert answer("export", run, "--trial", "2", "--to", tmp_path)["files"] == [str(tmp_path / "trial-2.toml")]


def test_what_does_not_go_with_it_is_refused(run: str) -> None:
    assert "--engine nash trains every network that it grows: add --real" in mistake(
        jointnas("search", "--engine", "nash")
    )
    assert "has no setting 'top'" in mistake(jointnas(*SMALL, "--top", "3"))
    assert "a nash run has no predictor of networks to ask" in mistake(
        jointnas("search", "--from", run, "-c", "macs<1M")
    )
    assert "--morphisms must be 1 or more, got 0" in mistake(jointnas(*NASH, "--morphisms", "0"))
    assert "has no setting 'morphisms'" in mistake(jointnas("search", "--morphisms", "3"))
