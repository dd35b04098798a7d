"""Campaigns: rounds of real trainings, each recorded once, that go on after a crash as if there had been none."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from jointnas.campaign.ask import FittedCampaign
from jointnas.campaign.best import keep_best
from jointnas.campaign.campaign import run
from jointnas.campaign.events import RoundEnded, TrialEnded, TrialStarted, WinnersFound
from jointnas.campaign.options import make_spec
from jointnas.campaign.store import Run
from jointnas.campaign.winner_file import WinnerFile
from jointnas.data.dataset import load_data
from jointnas.data.spec import DataSpec
from jointnas.errors import ConstraintError, SearchError
from jointnas.search.winners import Winner
from jointnas.space.space import Space

BATCH = 3
FIXED = {"width": 4, "activation": "relu", "whitening": False, "batch_size": 32, "ema": 0.0}
SETTINGS = {
    "data": "digits",
    "train_images": 300,
    "val_images": 100,
    "space": "resnet9",
    "fix": FIXED,
    "constraints": ["macs<1M"],
    "rounds": 2,
    "batch": BATCH,
    "seed": 5,
    "top": 2,
    "train_steps": 20,
    "confirm": 0,
}


class CrashError(Exception):
    """What a test raises where a process would die."""


def conduct(folder, *, resume=False, crash_after=None, **settings):
    """Run a campaign to its end, or until `crash_after` of its trainings have ended; return its events."""
    events = []

    def watch(event):
        events.append(event)
        if isinstance(event, TrialEnded) and event.trial.number == crash_after:
            raise CrashError

    run(make_spec({**SETTINGS, **settings}), [watch], out=folder, resume=resume)
    return events


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
    """The folder of an uninterrupted campaign, and its events."""
    folder = tmp_path_factory.mktemp("campaign") / "whole"
    return folder, conduct(folder)


def test_a_campaign_trains_its_batches_and_no_candidate_twice(whole):
    trials = trials_of(whole[0])
    assert [t.number for t in trials] == [1, 2, 3, 4, 5, 6]
    assert [t.round for t in trials] == [1, 1, 1, 2, 2, 2]
    assert len({t.seed for t in trials}) == len(trials)
    space = Space.load("resnet9", (1, 8, 8), 10).fix(FIXED)
    assert len({t.identity for t in trials}) == len({space.identity(t.candidate) for t in trials}) == len(trials)
    assert all(space.cost(t.candidate)["macs"] < 1e6 for t in trials)
    assert all(t.observation.steps == 20 and 0 <= t.observation.accuracy <= 1 for t in trials)


def test_candidates_are_predicted_from_the_second_round_on(whole):
    trials = trials_of(whole[0])
    assert all(t.predicted is None for t in trials[:3])
    assert all(t.predicted is not None and t.std >= 0 for t in trials[3:])


def test_each_training_is_reported_when_it_starts_and_when_it_ends(whole):
    _, events = whole
    ended = [event.trial for event in events if isinstance(event, TrialEnded)]
    assert sorted(trial.number for trial in ended) == [1, 2, 3, 4, 5, 6]
    assert all(trial.observation is not None for trial in ended)
    assert {e.trial.number for e in events if isinstance(e, TrialStarted)} == {1, 2, 3, 4, 5, 6}
    assert [event.number for event in events if isinstance(event, RoundEnded)] == [1, 2]
    assert [trials for _, trials, _ in rounds_of(whole[0])] == [3, 6]
    (found,) = [event for event in events if isinstance(event, WinnersFound)]
    assert len(found.winners) == 2


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
    events = conduct(whole[0], resume=True)
    assert trials_of(whole[0]) == before
    assert not any(isinstance(event, TrialEnded | TrialStarted) for event in events)


def test_a_first_round_in_which_every_training_fails_ends_the_campaign_and_can_be_resumed(tmp_path):
    folder = tmp_path / "run"
    (tmp_path / "task.py").write_text(
        "from pathlib import Path\n"
        "def train(candidate, *, seed, clock):\n"
        "    if not Path('mended').exists():\n"
        "        raise RuntimeError('the disk is not mounted')\n"
        "    return candidate['recipe']['rate']\n"
    )
    space = "format = 1\n[architecture]\n[recipe]\nrate = { low = 0.0, high = 1.0 }\n"
    settings = {"space": space, "fix": {}, "constraints": [], "train_fn": "task:train", "data": None}
    settings |= {"train_images": None, "val_images": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with pytest.raises(SearchError, match=r"all 3 trainings.*not mounted.*--resume"):
            conduct(folder, **settings)
        assert all(t.observation.accuracy is None for t in trials_of(folder))
        (tmp_path / "mended").touch()
        with pytest.raises(CrashError):
            conduct(folder, resume=True, crash_after=1, **settings)
        assert [t.observation is None for t in trials_of(folder)] == [False, True, True]
        conduct(folder, resume=True, **settings)
    assert [t.number for t in trials_of(folder)] == [1, 2, 3, 4, 5, 6]
    assert all(t.accuracy == t.candidate["recipe"]["rate"] for t in trials_of(folder))


@pytest.mark.parametrize(("batch", "more"), [(5, 4), (2, 0)])
def test_a_resumed_search_spends_what_is_left_of_its_new_budgets(batch, more, tmp_path):
    conduct(tmp_path / "run", train_steps=1)
    conduct(tmp_path / "run", train_steps=1, resume=True, batch=batch)
    assert [t.round for t in trials_of(tmp_path / "run")] == [1] * 3 + [2] * 3 + [3] * more


def test_where_no_candidate_meets_a_bound_the_predictor_answers_for_others(tmp_path):
    folder, bounds = tmp_path / "run", ["macs<1M", "accuracy>=0.999"]
    with pytest.raises(ConstraintError, match="accuracy"):
        conduct(folder, train_steps=2, objective="min macs", constraints=bounds, confirm=1)
    assert [t.kind for t in trials_of(folder)] == ["trial"] * 5
    with FittedCampaign(str(folder)) as fitted:
        assert fitted.ask(["macs<1M"], top=1).winners


def test_what_a_search_kept_is_replaced_by_a_better_winner_alone(tmp_path):
    """A search that goes on has no weights of its earlier trainings: RUN/best keeps the network that ranks highest among those it had."""
    conduct(tmp_path / "run", train_steps=2)
    data, best = load_data(DataSpec("digits", 300, 100)), WinnerFile.read(tmp_path / "run" / "best").candidate
    trials = trials_of(tmp_path / "run")
    others = [t for t in trials if t.candidate != best][:2]
    first, last = (Winner(t.candidate, 0.5, 0.1, t.accuracy, {}) for t in others)
    kept = Winner(best, 0.5, 0.1, 0.5, {})
    source = tmp_path / "run" / "best" / "network.safetensors"

    def keep(winners, number):
        (tmp_path / "run" / "weights").mkdir(exist_ok=True)
        shutil.copy(source, tmp_path / "run" / "weights" / f"trial-{number}.safetensors")
        rank = keep_best(tmp_path / "run", data, winners, trials)
        return rank, WinnerFile.read(tmp_path / "run" / "best").candidate

    assert keep([first, kept, last], others[1].number) == (2, best)
    assert keep([kept, first], others[0].number) == (1, best)


def test_a_batch_larger_than_the_training_set_is_never_drawn(tmp_path):
    conduct(tmp_path / "run", train_images=55, fix={**FIXED, "batch_size": 32}, rounds=1)
    free = {name: value for name, value in FIXED.items() if name != "batch_size"}
    conduct(tmp_path / "free", train_images=55, fix=free, rounds=1, batch=6)
    assert all(t.accuracy is not None for t in trials_of(tmp_path / "free"))
