"""Searches on the command line: plans, budgets, real engines, confirmed winners and runs that are resumed."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from jointnas.campaign.store import DATABASE, Run, Trial
from jointnas.cli.campaign import point_to_the_best_trial
from jointnas.search.search import Winner
from jointnas.training.observation import Observation
from tests.cli.commands import RUN, SEARCH, SEARCH_KEYS, SMALL
from tests.helpers import answer, jointnas, mistake


@pytest.mark.parametrize("value", ["sgd", "adamw"])
def test_a_choice_that_others_depend_on_can_be_fixed(value):
    plan = answer("search", "--fix", f"optimizer={value}", "--dry-run", "--train-steps", "1")
    assert plan["pool"] > 0


def test_a_total_time_is_filled_with_rounds_and_keeps_a_share_to_confirm_the_winners(two_cores):
    times = ("--total-time", "2m", "--train-time", "10s", "--rounds", "2", "--workers", "2", "--top", "3")
    plan = answer("search", *times, "--dry-run")
    waves = (12 - 2) // 2  # of two trainings side by side, for each round, when two are kept for three winners
    assert (plan["batch"], plan["trainings"]) == (2 * waves, 2 * 2 * waves + 3)
    assert plan["train_seconds"] == 120


def test_a_dry_run_says_what_would_be_trained_and_makes_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ("search", "-c", "macs<1M", "--train-time", "30s", "--rounds", "2", "--batch", "4", "--dry-run")
    plan = answer(*args, "--out", "dry", *SMALL)
    assert (plan["trainings"], plan["train_seconds"], plan["workers"]) == (8, 240, 1)
    assert plan["train_images"] + plan["val_images"] + plan["test_images"] == 1797
    assert plan["constraints"] == ["macs<1M"]
    assert not list(tmp_path.iterdir())


def test_trainings_that_confirm_winners_are_none_of_the_searchs_own(tmp_path, few_candidates):
    times = ("--train-steps", "2", "--rounds", "1", "--batch", "3", "--confirm", "1", "--top", "1")
    ended = answer("search", *times, *SMALL, "--out", tmp_path / "run")
    assert (ended["trials"], ended["failed"]) == (3, 0)
    with Run.open(tmp_path / "run") as run:
        assert len(run.trials()) == 4


def test_a_budget_too_short_for_one_step_fails_and_its_trials_are_recorded(tmp_path):
    ended = jointnas(
        "search", "--train-time", "1ms", "--rounds", "2", "--batch", "2", "--out", tmp_path / "run", *SMALL
    )
    assert ended.code == 1
    assert [line for line in ended.err.splitlines() if line.startswith("jointnas: ")] == ended.err.splitlines()[-1:]
    assert "--train-time" in ended.err.splitlines()[-1]
    with Run.open(tmp_path / "run") as run:
        trials = run.trials()
    assert len(trials) == 2
    assert all(t.observation.accuracy is None and "budget" in t.observation.failure for t in trials)


def test_a_real_search_returns_what_it_trained_and_goes_on_without_training_again(in_copy):
    engine = (
        "--real",
        "--engine",
        "hillclimb",
        "--repeats",
        "2",
        "--rounds",
        "2",
        "--batch",
        "2",
        "--train-steps",
        "4",
    )
    least = ("--objective", "min macs", "-c", "accuracy>=0.01", "--start", f"{RUN}/export/winner-1.toml")
    first = answer("search", *engine, *least, "--out", "real", "--top", "2")
    assert set(first) == SEARCH_KEYS
    assert 4 <= first["trials"] <= 8  # candidates, and the second trainings of those that were best
    assert [w["macs"] for w in first["winners"]] == sorted(w["macs"] for w in first["winners"])
    assert all(w["accuracy"] >= 0.01 for w in first["winners"])
    assert answer("search", *engine, *least, "--out", "real", "--top", "2", "--resume") == first


def test_a_held_network_leaves_recipes_to_be_searched(in_copy, few_candidates):
    held = ("--architecture", f"{RUN}/export/winner-1.toml", "--space", "autotrain", "--out", "held")
    winners = answer("search", *held, "--train-steps", "4", "--rounds", "1", "--batch", "2", "--top", "2")["winners"]
    assert [winner["architecture"] for winner in winners] == [in_copy.search["winners"][0]["architecture"]] * 2
    assert winners[0]["recipe"] != winners[1]["recipe"]
    assert "another space" in mistake(jointnas("predictors", "fit", RUN, "held", "--to", "both"))


def test_a_search_that_has_ended_answers_again_when_it_is_resumed(in_copy):
    assert answer(*SEARCH, "--resume", "--out", RUN) == in_copy.search


@pytest.mark.parametrize(("predicted", "width", "pointed"), [(0.7, 8, True), (0.8, 8, False), (0.7, 16, False)])
def test_a_trial_that_beats_what_is_predicted_of_all_winners_is_pointed_to(predicted, width, pointed):
    one, two, three = ({"architecture": {"width": width}, "recipe": {}} for width in (4, 16, 8))
    ended = [Trial(1, 1, one, 0, observation=Observation(0.5)), Trial(2, 1, one, 0)]
    ended += [
        Trial(3, 1, two, 0, observation=Observation(0.75)),
        Trial(4, 1, three, 0, observation=Observation.failed("?")),
    ]
    winner = Winner({"architecture": {"width": width}, "recipe": {}}, predicted, 0.1, None, {})
    shown = io.StringIO()
    with redirect_stderr(shown):
        point_to_the_best_trial(ended, [winner], Path("runs/one"))
    assert ("export runs/one --trial 3" in shown.getvalue()) is pointed


def test_a_run_in_use_is_refused(in_cycle):
    with Run.open(Path(RUN), write=True):
        assert "in use" in mistake(jointnas(*SEARCH, "--resume", "--out", RUN))


def test_a_run_is_not_resumed_with_another_command(in_cycle):
    line = mistake(jointnas(*SEARCH, "--resume", "--out", RUN, "--train-steps", "21"))
    assert "another clock" in line
    assert "21" in line


def test_a_run_that_exists_is_not_written_over(in_cycle):
    before = (Path(RUN) / DATABASE).read_bytes()
    assert "--resume" in mistake(jointnas(*SEARCH, "--out", RUN))
    assert (Path(RUN) / DATABASE).read_bytes() == before
