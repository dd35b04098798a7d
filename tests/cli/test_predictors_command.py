"""Predictors on the command line: fitted to runs, shown, checked, asked, merged, and refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jointnas.campaign.candidate_file import CandidateFile
from jointnas.campaign.registry import find_predictor
from jointnas.predictor.contract import Predictor
from jointnas.predictor.files import FORMAT
from tests.cli.commands import RUN, SMALL
from tests.helpers import answer, jointnas, make_run, mistake


def test_a_predictor_is_fitted_to_runs_shown_checked_and_asked(in_cycle, tmp_path):
    week = tmp_path / "week"
    assert "6 trials" in jointnas("predictors", "fit", RUN, "--to", week).out
    card = answer("predictors", "show", week, "--top", "3")
    assert (card["space"], card["data"], card["budget"], card["trials"]) == ("resnet9", "digits", "20 steps", 6)
    best = [one["accuracy"] for one in card["best"]]
    assert best == sorted(best, reverse=True)
    assert len(best) == 3
    assert answer("predictors", "show", RUN, "--top", "3")["best"] == card["best"]
    checked = jointnas("predictors", "check", week, RUN)
    assert (checked.code, checked.out.count("intact")) == (0, 2)
    (winner,) = answer("search", "--from", week, "-c", "macs<1M", "--top", "1")["winners"]
    assert winner["macs"] < 1e6


def test_a_predictor_alone_is_made_a_run_by_its_first_answer(in_cycle, tmp_path):
    week, out = tmp_path / "week", tmp_path / "asked"
    assert jointnas("predictors", "fit", RUN, "--to", week).code == 0
    assert "did you mean 'macs'" in mistake(jointnas("search", "--from", week, "-c", "mac<1M", "--out", out))
    assert "smallest macs" in mistake(jointnas("search", "--from", week, "-c", "macs<1K", "--out", out))
    assert not out.exists()
    (winner,) = answer("search", "--from", week, "-c", "macs<1M", "--top", "1", "--out", out)["winners"]
    (file,) = answer("export", out, "--format", "toml")["files"]
    assert CandidateFile.read(Path(file)).candidate["architecture"] == winner["architecture"]
    assert f"--from {out}" in mistake(jointnas("search", "--from", week, "--out", out))
    assert "drop --out" in mistake(jointnas("search", "--from", out, "--out", tmp_path / "again"))


def test_predictors_that_do_not_fit_are_refused(in_cycle, tmp_path):
    week = tmp_path / "week"
    make_run(tmp_path / "other", "baselines", baselines=["lenet"]).close()
    assert "is a baselines run" in mistake(jointnas("predictors", "fit", tmp_path / "other", "--to", week))
    assert not week.exists()
    assert jointnas("predictors", "fit", RUN, "--to", week).code == 0
    assert "which exists" in mistake(jointnas("predictors", "fit", RUN, "--to", week))
    assert "no run and no predictor is called 'nowhere'" in mistake(jointnas("search", "--from", "nowhere"))
    weights = (week / "predictor.safetensors").read_bytes()
    (week / "predictor.safetensors").write_bytes(weights[:-4] + b"\0\0\0\1")
    assert "damaged" in mistake(jointnas("predictors", "check", week))
    (week / "predictor.safetensors").write_bytes(weights)
    about = json.loads((week / "predictor.json").read_text())
    for change, message in (
        ({"format": 99}, f"has format 99, this version reads {FORMAT}"),
        ({"trials": []}, "damaged"),
        ({"space": "?"}, "changed since they were saved"),
    ):
        (week / "predictor.json").write_text(json.dumps({**about, **change}))
        assert message in mistake(jointnas("predictors", "check", week))
    (week / "predictor.json").write_text("{}")
    assert "damaged" in mistake(jointnas("predictors", "show", week))


def test_winners_of_a_shipped_predictor_can_be_trained(tmp_path):
    found = answer("search", "--from", "resnet9-digits", "-c", "macs<300K", "--top", "1", "--out", tmp_path / "run")
    assert found["winners"][0]["macs"] < 300_000
    (winner,) = answer(
        "retrain", tmp_path / "run", "--train-steps", "1", "--seeds", "1", "--top", "1", "--workers", "1"
    )["winners"]
    assert len(winner["test_accuracy"]["seeds"]) == 1


def test_runs_are_merged_with_what_they_started_from(tmp_path):
    for number in (1, 2):
        seed = ("--seed", number, "--train-steps", "1", "--rounds", "1", "--batch", "2", "--top", "1")
        answer("search", *seed, *SMALL, "--prior", "resnet9-digits", "--out", tmp_path / str(number))
    again = ("predictors", "fit", tmp_path / "1", "--seed", "1", "--to", tmp_path / "one")
    assert jointnas(*again).code == 0
    alone, merged = (Predictor.load(path) for path in (tmp_path / "1" / "predictor", tmp_path / "one"))
    assert merged.prior is not None
    assert merged.prior.digest == Predictor.load(find_predictor("resnet9-digits")[0]).digest
    grid = alone.space.sample(16)
    assert merged.predict(grid)[0] == pytest.approx(alone.predict(grid)[0])
    without = ("--prior", "none", "--train-steps", "1", "--rounds", "1", "--batch", "2", "--top", "1")
    answer("search", *without, *SMALL, "--seed", "1", "--out", tmp_path / "3")
    refused = jointnas("predictors", "fit", tmp_path / "1", tmp_path / "3", "--to", tmp_path / "two")
    assert "the prior of" in mistake(refused)
