"""Trainings of a run's trials: recorded as they end, and done once more where other programs took their cores."""

from __future__ import annotations

import pytest

from jointnas.campaign.events import Notice
from jointnas.campaign.runner import Runner
from jointnas.campaign.store import Run
from jointnas.errors import SearchError
from jointnas.training.job import TrainingResult
from jointnas.training.observation import Observation
from tests.executors import InProcessExecutor
from tests.helpers import make_run

SECONDS = {"train_seconds": 1.0}


def candidate(width):
    return {"architecture": {"network": "resnet9", "width": width}, "recipe": {}}


class Trainings:
    """What each training of a width observes, in order: an accuracy and the share of its cores."""

    def __init__(self, **planned):
        self.planned = {int(width[1:]): list(outcomes) for width, outcomes in planned.items()}
        self.texts = []

    def __call__(self, payload, progress):
        accuracy, share = self.planned[payload["candidate"]["architecture"]["width"]].pop(0)
        return TrainingResult(Observation(accuracy, cpu_share=share)).to_json()

    def runner(self, run, clock=SECONDS):
        take = lambda event: self.texts.append(event.text) if isinstance(event, Notice) else None  # noqa: E731
        return Runner(run, InProcessExecutor(self), clock, 0, take)

    def train(self, runner, widths):
        candidates = [candidate(width) for width in widths]
        return runner.train(runner.add(1, candidates, [str(width) for width in widths]))


def test_a_disturbed_training_is_done_once_more_and_its_first_outcome_is_kept_aside(tmp_path):
    trainings = Trainings(w4=[(0.5, 0.99)], w8=[(0.3, 0.5), (0.6, 0.98)])
    with make_run(tmp_path / "run", train_time="1s") as run:
        trials = trainings.train(trainings.runner(run), (4, 8))
        assert run.trials() == trials
    assert [t.accuracy for t in trials] == [0.5, 0.6]
    assert [t.disturbed and t.disturbed.accuracy for t in trials] == [None, 0.3]
    assert trainings.texts == ["trained again, as other programs used their cores: trial 2"]


def test_a_training_is_done_again_once_and_where_most_are_disturbed_again_no_more_are(tmp_path):
    trainings = Trainings(w4=[(0.1, 0.5), (0.2, 0.6)], w8=[(0.3, 0.5), (0.4, 0.7)], w12=[(0.5, 0.5)])
    with make_run(tmp_path / "run", train_time="1s") as run:
        runner = trainings.runner(run)
        assert [t.accuracy for t in trainings.train(runner, (4, 8))] == [0.2, 0.4]
        (last,) = trainings.train(runner, (12,))
    assert (last.accuracy, last.disturbed) == (0.5, None)
    assert trainings.texts[-1] == "disturbed by other programs, but not repeated, as this machine stays busy: trial 3"


def test_a_training_that_waits_for_its_second_run_has_it_when_the_run_is_resumed(tmp_path):
    trainings = Trainings(w4=[(0.3, 0.5), (0.6, 0.5)])
    with make_run(tmp_path / "run", train_time="1s") as run:
        runner = trainings.runner(run)
        trial = runner.add(1, [candidate(4)], ["4"])[0]
        run.end_trial(trial.number, Observation(0.3, cpu_share=0.5))
        run.reopen([trial.number], disturbed=True)
    with Run.open(tmp_path / "run", write=True) as run:
        runner = trainings.runner(run)
        assert [t.observation for t in runner.trials.values()] == [None]
        trainings.planned[4].pop(0)
        (trial,) = runner.train(list(runner.trials.values()))
    assert (trial.accuracy, trial.disturbed.accuracy) == (0.6, 0.3)


def test_where_the_second_training_fails_the_first_counts(tmp_path):
    trainings = Trainings(w4=[(0.5, 0.99)], w8=[(0.3, 0.5)])  # a third one has no outcome: an IndexError
    with make_run(tmp_path / "run", train_time="1s") as run:
        trials = trainings.train(trainings.runner(run), (4, 8))
        assert run.trials() == trials
    assert [t.accuracy for t in trials] == [0.5, 0.3]


def test_weights_of_all_trainings_are_kept_where_accuracy_alone_does_not_rank(tmp_path):
    trainings = Trainings(w4=[(0.5, 1.0)], w8=[(0.3, 1.0)], w12=[(0.4, 1.0)])
    with make_run(tmp_path / "run", train_time="1s") as run:
        runner = Runner(run, InProcessExecutor(trainings), SECONDS, 0, print, kept=2)
        trainings.train(runner, (4, 8, 12))
        assert runner.worth_keeping() == {1, 3}
        assert Runner(run, InProcessExecutor(trainings), SECONDS, 0, print, kept=None).worth_keeping() == {1, 2, 3}


@pytest.mark.parametrize("clock", [{"train_steps": 5}, SECONDS])
def test_steps_are_the_same_on_a_busy_machine_so_nothing_is_repeated(clock, tmp_path):
    trainings = Trainings(w4=[(0.3, 0.5), (0.6, 0.99)])
    with make_run(tmp_path / "run", train_time="1s") as run:
        (trial,) = trainings.train(trainings.runner(run, clock), (4,))
    assert trial.accuracy == (0.3 if "train_steps" in clock else 0.6)


@pytest.mark.parametrize(
    ("clock", "mixes", "refused"), [(SECONDS, False, True), (SECONDS, True, False), ({"train_steps": 5}, False, False)]
)
def test_under_a_clock_a_run_keeps_to_machines_of_one_kind_unless_it_is_told_otherwise(clock, mixes, refused, tmp_path):
    machines = iter(("EPYC", "Xeon"))
    trained = lambda payload, progress: TrainingResult(Observation(0.5, machine=next(machines))).to_json()  # noqa: E731
    with make_run(tmp_path / "run", train_time="1s") as run:
        runner = Runner(run, InProcessExecutor(trained), clock, 0, lambda event: None, mixes_machines=mixes)
        trials = runner.add(1, [candidate(4), candidate(8)], ["4", "8"])
        if refused:
            with pytest.raises(SearchError, match="got 'Xeon' after 'EPYC'"):
                runner.train(trials)
            assert [t.accuracy for t in run.trials()] == [0.5, 0.5]
            with pytest.raises(SearchError, match="go on with --mix-machines"):  # before anything is trained
                Runner(run, InProcessExecutor(trained), clock, 0, lambda event: None).train([])
        else:
            assert [t.accuracy for t in runner.train(trials)] == [0.5, 0.5]
