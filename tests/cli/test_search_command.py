"""Searches on the command line: plans, budgets, real engines, confirmed winners and runs that are resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jointnas.campaign.store import DATABASE, Run
from jointnas.campaign.winner_file import load
from tests.cli.commands import RUN, SEARCH, SEARCH_KEYS, SMALL
from tests.helpers import answer, jointnas, mistake


@pytest.mark.parametrize("value", ["sgd", "adamw"])
def test_a_choice_that_others_depend_on_can_be_fixed(value):
    plan = answer("search", "--fix", f"optimizer={value}", "--dry-run", "--train-steps", "1")
    assert plan["pool"] > 0


def test_a_total_time_is_filled_with_rounds_and_trainings_of_the_leaders(two_cores):
    times = ("--total-time", "2m", "--train-time", "10s", "--rounds", "2", "--workers", "2", "--portfolio", "0")
    plan = answer("search", *times, "--dry-run")
    # twice eight candidates in 4 + 4 turns of two, five leaders in 3, then one training on all images
    assert (plan["trainings"], plan["confirmations"]) == (22, 5)
    assert plan["train_seconds"] == 120


def test_a_total_time_alone_gives_a_campaign(two_cores):
    plan = answer("search", "--total-time", "30m", "--workers", "2", "--portfolio", "0", "--dry-run")
    assert plan["trainings"] >= 20
    assert 1500 < plan["train_seconds"] <= 1800


def test_a_dry_run_says_what_would_be_trained_and_makes_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ("search", "-c", "macs<1M", "--train-time", "30s", "--rounds", "2", "--batch", "4", "--dry-run")
    plan = answer(*args, "--out", "dry", *SMALL)
    assert (plan["trainings"], plan["train_seconds"], plan["workers"]) == (8, 240, 1)
    assert plan["recipes"]
    assert max(plan["recipes"].values()) < 1e6
    assert plan["train_images"] + plan["val_images"] + plan["test_images"] == 1797
    assert plan["constraints"] == ["macs<1M"]
    assert not list(tmp_path.iterdir())


def test_a_quarter_of_the_budgets_trains_the_leaders_again_and_the_best_network_classifies(tmp_path):
    ended = answer(
        "search", "--train-steps", "2", "--rounds", "1", "--batch", "4", "--top", "2", *SMALL, "--out", tmp_path / "run"
    )
    assert (ended["trials"], ended["failed"], ended["confirmations"], ended["budgets_used"]) == (3, 0, 1, 4)
    with Run.open(tmp_path / "run") as run:
        trials = run.trials()
        winner = run.winners()[0]
    (again,) = [t for t in trials if t.kind == "confirmation"]
    assert winner.accuracy is not None
    best = load(tmp_path / "run")
    assert best.input_shape == (1, 8, 8)
    kept = json.loads((tmp_path / "run" / "best" / "winner.json").read_text())
    assert kept["candidate"] == winner.candidate
    assert not (tmp_path / "run" / "weights").exists()
    assert again.identity in [t.identity for t in trials if t is not again]
    assert again.seed not in [t.seed for t in trials if t is not again]


def test_the_last_network_may_be_trained_on_all_images(tmp_path):
    options = ("--train-steps", "2", "--rounds", "1", "--batch", "4", "--top", "1", "--final", "train+val")
    ended = answer("search", *options, *SMALL, "--out", tmp_path / "run")
    assert (ended["trials"], ended["confirmations"], ended["budgets_used"]) == (2, 1, 4)
    with Run.open(tmp_path / "run") as run:
        (last,) = [t for t in run.trials() if t.kind == "final"]
        assert last.candidate == run.winners()[0].candidate
    assert last.observation.accuracy is None  # on images that it was trained on it would say nothing
    assert load(tmp_path / "run").input_shape == (1, 8, 8)
    again = answer("search", *options, *SMALL, "--out", tmp_path / "run", "--resume")
    assert again == ended
    shown = jointnas("runs", "show", tmp_path / "run").out
    assert "final" in shown


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


def test_a_held_network_leaves_recipes_to_be_searched(in_copy):
    held = ("--architecture", f"{RUN}/export/winner-1.toml", "--space", "autotrain", "--out", "held")
    winners = answer("search", *held, "--train-steps", "4", "--rounds", "1", "--batch", "2", "--top", "2")["winners"]
    assert [winner["architecture"] for winner in winners] == [in_copy.search["winners"][0]["architecture"]] * 2
    assert winners[0]["recipe"] != winners[1]["recipe"]
    assert "the space of" in mistake(jointnas("predictors", "fit", RUN, "held", "--to", "both"))


def test_a_search_that_has_ended_answers_again_when_it_is_resumed(in_copy):
    assert answer(*SEARCH, "--resume", "--out", RUN) == in_copy.search


def test_a_run_in_use_is_refused(in_cycle):
    with Run.open(Path(RUN), write=True):
        assert "in use" in mistake(jointnas(*SEARCH, "--resume", "--out", RUN))


def test_a_run_is_not_resumed_with_another_command(in_cycle):
    line = mistake(jointnas(*SEARCH, "--resume", "--out", RUN, "--train-steps", "21"))
    assert "clock differs" in line
    assert "21" in line


def test_a_run_that_exists_is_not_written_over(in_cycle):
    before = (Path(RUN) / DATABASE).read_bytes()
    assert "--resume" in mistake(jointnas(*SEARCH, "--out", RUN))
    assert (Path(RUN) / DATABASE).read_bytes() == before
