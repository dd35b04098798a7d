"""`jointnas policy search`: its answer, its file, and the recipes that name it."""

from __future__ import annotations

from pathlib import Path

import pytest

from jointnas.campaign.policy_file import read_policy
from tests.cli.commands import CANDIDATE
from tests.helpers import answer, jointnas, mistake

SMALL = ("--train-steps", "2", "--train-images", "100", "--rounds", "1", "--batch", "3", "--top", "2")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(CANDIDATE)
    return "small.toml"


def test_a_policy_is_searched_written_and_used(small: str) -> None:
    found = answer("policy", "search", "--candidate", small, *SMALL, "--to", "mine.toml")
    assert found["file"] == "mine.toml"
    assert read_policy(Path("mine.toml")) == found["policy"]
    assert [winner["rank"] for winner in found["winners"]] == [1, 2]
    assert jointnas("augment", "--fix", "policy=mine.toml", "--show", "sheet.png").code == 0
    Path("with.toml").write_text(CANDIDATE + 'policy = "mine.toml"\n')
    trained = jointnas("train", "with.toml", "--train-steps", "2")
    assert trained.code == 0, trained.err
    shown = jointnas("runs", "show", found["run"])
    assert "operation1a" in shown.out


def test_the_grid_prints_its_best_point(small: str) -> None:
    ended = jointnas("policy", "search", "--space", "randaugment", "--candidate", small, *SMALL)
    assert ended.code == 0, ended.err
    assert "policy_magnitude" in ended.out


def test_what_does_not_go_with_it_is_refused(small: str) -> None:
    Path("bad.toml").write_text('format = 1\nsub_policies = ["rotate 1.3 2, invert 1"]\n')
    assert "got 1.3" in mistake(jointnas("augment", "--fix", "policy=bad.toml", "--show", "sheet.png"))
    assert "in a space without networks" in mistake(jointnas("policy", "search", "--space", "resnet9", *SMALL))
    assert "no built-in recipe is called 'none'" in mistake(jointnas("policy", "search", "--candidate", "none", *SMALL))
