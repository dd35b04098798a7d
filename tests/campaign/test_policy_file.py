"""Policy files, and recipes that name one."""

from __future__ import annotations

from pathlib import Path

import pytest

from jointnas.campaign.candidate_file import CandidateFile
from jointnas.campaign.options import make_spec
from jointnas.campaign.policy_file import read_policy, write_policy
from jointnas.errors import JointNASError, RecipeError
from jointnas.training.recipe import Recipe

TEXT = "rotate 0.5 3, equalize 0.5 0; cutout 1 9, invert 0.2 0"
CANDIDATE = '[architecture]\nnetwork = "resnet9"\n[recipe]\npolicy = "mine.toml"\n'


def test_a_policy_can_be_written_and_read(tmp_path: Path) -> None:
    write_policy(tmp_path / "new" / "mine.toml", TEXT, {"accuracy": 0.5})
    assert read_policy(tmp_path / "new" / "mine.toml") == TEXT


def test_a_recipe_names_a_file_beside_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_policy(tmp_path / "mine.toml", TEXT, {})
    (tmp_path / "candidate.toml").write_text(CANDIDATE)
    file = CandidateFile.read(tmp_path / "candidate.toml")
    assert file.candidate["recipe"] == {"policy": TEXT}
    assert Recipe.from_knobs(file.candidate["recipe"]).policy == TEXT
    file.write(tmp_path / "elsewhere" / "copy.toml", "toml")  # the text goes along, no file is needed
    assert CandidateFile.read(tmp_path / "elsewhere" / "copy.toml").candidate == file.candidate
    monkeypatch.chdir(tmp_path)
    spec = make_spec({"train_steps": 5, "fix": {"policy": "mine.toml"}})
    assert TEXT in spec.to_toml()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('format = 1\nsub_policies = ["rotate 1.3 2, invert 1"]', r"in the policy file .*mine\.toml.*got 1\.3"),
        ('format = 1\nsub_policies = "rotate 1 2, invert 1"', "sub_policies, a list of texts"),
        ('format = 7\nsub_policies = ["rotate 1 2, invert 1"]', "a policy file has format = 1"),
        ("format = ", "is not valid TOML"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(content)
    (tmp_path / "candidate.toml").write_text(CANDIDATE)
    with pytest.raises(RecipeError, match=message):
        CandidateFile.read(tmp_path / "candidate.toml")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JointNASError, match=r"the policy file .*other\.toml.* cannot be read"):
        make_spec({"train_steps": 5, "fix": {"policy": str(tmp_path / "other.toml")}})
