"""More workers than a batch has candidates: trainings are proposed as others end, beside those that run."""

from __future__ import annotations

import itertools
import random
from collections import deque

import pytest

from jointnas.campaign.campaign import run
from jointnas.campaign.events import TrialEnded
from jointnas.campaign.options import make_spec
from jointnas.campaign.store import Run
from jointnas.errors import SearchError
from jointnas.execution import Event, Executor
from jointnas.search.search import Search
from jointnas.training.job import TrainingResult
from jointnas.training.observation import Observation

WORKERS, ROUNDS, BATCH = 6, 5, 4
SETTINGS = {
    "data": "digits",
    "train_images": 300,
    "val_images": 100,
    "constraints": ["macs<1M"],
    "train_steps": 5,
    "rounds": ROUNDS,
    "batch": BATCH,
    "workers": WORKERS,
    "executor": "ray:of the test",
    "top": 2,
    "seed": 1,
    "confirm": 2,
    "final": "best",
    "portfolio": 0,
    "prior": "none",
}


class Crash(Exception):
    """What a test raises where a process would die."""


class StubCluster(Executor):
    """Workers that end one training at each poll, in any order. idle: how many were free whenever one had ended."""

    def __init__(self, fails=lambda width: False):
        self.queue, self.running, self.idle, self.fails = deque(), [], [], fails
        self.rng = random.Random(0)

    def submit(self, jobs):
        self.queue += jobs
        self._fill()

    def _fill(self):
        while self.queue and len(self.running) < WORKERS:
            self.running.append(self.queue.popleft())

    def poll(self, timeout):
        if not timeout or not self.running:
            return []
        self.idle.append(WORKERS - len(self.running))
        job = self.running.pop(self.rng.randrange(len(self.running)))
        self._fill()
        width = job.payload["candidate"]["architecture"]["width"]
        if self.fails(width):
            return [Event("failed", job.number, reason="it fails")]
        observed = Observation(0.5 + 0.01 * width, steps=5, seconds=1.0)
        return [Event("started", job.number), Event("done", job.number, result=TrainingResult(observed).to_json())]

    def cancel(self, number):
        raise NotImplementedError

    def close(self):
        self.queue.clear()


def conduct(folder, cluster, *, resume=False, crash_after=None, **changes):
    ended = []

    def watch(event):
        if isinstance(event, TrialEnded):
            ended.append(event.trial.number)
            if len(ended) == crash_after:
                raise Crash

    run(make_spec({**SETTINGS, **changes}), [watch], out=folder, resume=resume, executor=cluster)
    return ended


def trials_of(folder):
    with Run.open(folder) as opened:
        return opened.trials(), opened.rounds()


def test_all_workers_are_busy_until_nothing_more_is_proposed(tmp_path):
    cluster = StubCluster()
    ended = conduct(tmp_path / "run", cluster)
    trials, rounds = trials_of(tmp_path / "run")
    searched = [t for t in trials if t.kind == "trial"]
    assert len(searched) == ROUNDS * BATCH - 2
    assert len({t.identity for t in searched}) == len(searched)
    assert sorted(ended) == [t.number for t in trials] == list(range(1, ROUNDS * BATCH + 1))
    assert set(cluster.idle[: len(searched) - WORKERS + 1]) == {0}
    assert [r["number"] for r in rounds] == [1, 2, 3, 4, 5]
    assert {t.round for t in searched} == {1, 2, 3, 4, 5}
    assert all(t.predicted is not None for t in searched[WORKERS + 2 :])


@pytest.mark.parametrize("crash_after", [1, 11])
def test_a_search_that_crashed_goes_on_with_what_was_in_training(crash_after, tmp_path):
    with pytest.raises(Crash):
        conduct(tmp_path / "run", StubCluster(), crash_after=crash_after)
    before = [t for t in trials_of(tmp_path / "run")[0] if t.observation]
    conduct(tmp_path / "run", StubCluster(), resume=True)
    trials, _ = trials_of(tmp_path / "run")
    searched = [t for t in trials if t.kind == "trial"]
    assert len(searched) == ROUNDS * BATCH - 2
    assert len({t.identity for t in searched}) == len(searched)
    assert all(t.observation for t in trials)
    own = {t.number: t for t in trials}
    assert [own[t.number] for t in before] == before


def test_where_all_trainings_fail_the_search_ends_and_can_be_resumed(tmp_path):
    with pytest.raises(SearchError, match="it fails"):
        conduct(tmp_path / "run", StubCluster(fails=lambda width: True))
    failed = len(trials_of(tmp_path / "run")[0])
    assert failed < ROUNDS * BATCH
    conduct(tmp_path / "run", StubCluster(), resume=True)
    trials, _ = trials_of(tmp_path / "run")
    assert all(t.accuracy is not None for t in trials)
    assert len(trials) == ROUNDS * BATCH


def test_a_pool_that_runs_out_ends_its_round(tmp_path):
    space = tmp_path / "three.toml"
    space.write_text('format = 1\n[architecture]\nnetwork = { value = "resnet9" }\nwidth = { values = [4, 6, 8] }\n')
    with pytest.raises(SearchError, match="all 3 trainings of the first round failed"):
        conduct(tmp_path / "failed", StubCluster(fails=lambda width: True), space=str(space))
    conduct(tmp_path / "run", StubCluster(), space=str(space))
    trials, rounds = trials_of(tmp_path / "run")
    assert len([t for t in trials if t.kind == "trial"]) == 3
    assert [r["number"] for r in rounds] == [1]


def test_one_trained_candidate_cannot_be_ranked_until_there_are_more(tmp_path):
    number = itertools.count()
    cluster = StubCluster(fails=lambda width: next(number) > 0)
    with pytest.raises(
        SearchError, match=r"needs 2 trained candidates, got 1 after \d+ trainings \(it fails\): raise --rounds"
    ):
        conduct(tmp_path / "run", cluster)
    conduct(tmp_path / "run", StubCluster(), rounds=ROUNDS + 1, resume=True)
    trials, _ = trials_of(tmp_path / "run")
    assert sum(t.accuracy is not None for t in trials) > 1


@pytest.mark.parametrize("workers", [1, WORKERS])
def test_a_search_that_goes_on_knows_the_trainings_of_its_leaders_before_it_asks(workers, tmp_path, monkeypatch):
    conduct(tmp_path / "run", StubCluster(), workers=workers)
    before, known = len(trials_of(tmp_path / "run")[0]), []
    ask = Search.ask

    def spy(search, n):
        known.append(sum(o.trainings for o in search._observations.observations))
        return ask(search, n)

    monkeypatch.setattr(Search, "ask", spy)
    conduct(tmp_path / "run", StubCluster(), rounds=ROUNDS + 1, workers=workers, resume=True)
    assert known[0] == before == ROUNDS * BATCH
