"""Campaigns: rounds of real trainings, each recorded once, that go on after a crash as if there had been none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jointnas.campaign.campaign import Campaign, local_executor
from jointnas.campaign.store import Run
from jointnas.data import DataSpec, load_data
from jointnas.errors import SearchError
from jointnas.execution import Slot
from jointnas.predictor.gp_predictor import Predictor
from jointnas.search.search import Search
from jointnas.space.space import Space
from jointnas.training.clock import StepClock, WallClock

ROUNDS, BATCH, SEED = 2, 3, 5
FIXED = {"width": 4, "activation": "relu", "whitening": False, "batch_size": 32, "ema": 0.0}
DATA = DataSpec("digits", train_images=300, val_images=100)


class CrashError(Exception):
    """What a test raises where a process would die."""


def conduct(folder, *, resume=False, crash_after=None, clock=None):
    """Conduct a campaign to its end, or until `crash_after` of its trainings have ended; return what it showed."""
    shown = []

    def watch(status, ended):
        shown.append((status.round, sum(t.observation is not None for t in status.trials.values()), ended))
        if ended is not None and ended.number == crash_after:
            raise CrashError

    space = Space.load("resnet9", (1, 8, 8), 10).fix(FIXED)
    search = Search(space, ["macs<1M"], SEED, pool_size=256, predictor=Predictor(space, SEED, members=2))
    with (
        Run.open(folder, write=True) if resume else Run.create(folder, {"constraints": ["macs<1M"]}) as run,
        local_executor(DATA.to_json(), Slot("cpu", 1, 1), load_data(DATA).fingerprint) as executor,
    ):
        Campaign(search, run, executor, clock or StepClock(20), ROUNDS, BATCH, SEED, watch).conduct()
    return shown


def trials_of(folder):
    with Run.open(folder) as run:
        return run.trials()


def rounds_of(folder):
    with Run.open(folder) as run:
        return [(r["number"], r["trials"], r["rank_correlation"]) for r in run.rounds()]


def without_times(trial):
    """Return a trial without what differs between two trainings of it: how long they took."""
    curve = tuple(point._replace(seconds=0.0) for point in trial.observation.curve)
    times = dict.fromkeys(("seconds", "step_seconds", "images_per_second", "cpu_share"))
    return replace(trial, observation=replace(trial.observation, curve=curve, **times))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted campaign, and what it showed."""
    folder = tmp_path_factory.mktemp("campaign") / "whole"
    return folder, conduct(folder)


def test_a_campaign_trains_its_batches_and_no_candidate_twice(whole):
    trials = trials_of(whole[0])
    assert [t.number for t in trials] == [1, 2, 3, 4, 5, 6]
    assert [t.round for t in trials] == [1, 1, 1, 2, 2, 2]
    assert len({t.seed for t in trials}) == len(trials)
    space = Space.load("resnet9", (1, 8, 8), 10).fix(FIXED)
    assert len({space.identity(t.candidate) for t in trials}) == len(trials)
    assert all(space.cost(t.candidate)["macs"] < 1e6 for t in trials)
    assert all(t.observation.steps == 20 and 0 <= t.observation.accuracy <= 1 for t in trials)


def test_candidates_are_predicted_from_the_second_round_on(whole):
    trials = trials_of(whole[0])
    assert all(t.predicted is None for t in trials[:3])
    assert all(t.predicted is not None and t.std >= 0 for t in trials[3:])


def test_each_end_is_shown_once_after_it_was_counted(whole):
    ended = [(trials, trial.number) for _, trials, trial in whole[1] if trial is not None]
    assert ended == [(n, n) for n in range(1, 7)]
    assert [number for number, _, _ in rounds_of(whole[0])] == [1, 2]
    assert [trials for _, trials, _ in rounds_of(whole[0])] == [3, 6]


def test_a_campaign_that_crashed_goes_on_to_the_trials_and_rounds_of_one_that_never_did(whole, tmp_path):
    folder = tmp_path / "crashed"
    with pytest.raises(CrashError):
        conduct(folder, crash_after=4)
    first = trials_of(folder)
    assert [t.observation is not None for t in first] == [True] * 4 + [False] * 2
    conduct(folder, resume=True)
    assert trials_of(folder)[:4] == first[:4]  # not trained again: even their times stand
    assert [without_times(t) for t in trials_of(folder)] == [without_times(t) for t in trials_of(whole[0])]
    assert rounds_of(folder) == rounds_of(whole[0])


def test_a_campaign_that_has_ended_trains_nothing_when_it_is_resumed(whole):
    before = trials_of(whole[0])
    shown = conduct(whole[0], resume=True)
    assert trials_of(whole[0]) == before
    assert all(ended is None for _, _, ended in shown)


def test_a_round_in_which_every_training_fails_alike_ends_the_campaign_and_is_recorded(tmp_path):
    with pytest.raises(SearchError, match=r"got 3 failures.*--train-time"):
        conduct(tmp_path / "run", clock=WallClock(1e-4))
    trials = trials_of(tmp_path / "run")
    assert len(trials) == BATCH
    assert all(t.observation.accuracy is None and "budget" in t.observation.failure for t in trials)
