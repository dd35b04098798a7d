"""Engines over real trainings: what is trained, what repeats decide, and what a resumption trains again (nothing)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jointnas.campaign.direct import DirectSearch
from jointnas.campaign.events import Event as CampaignEvent
from jointnas.campaign.events import Notice, TrialEnded
from jointnas.campaign.options import make_spec
from jointnas.campaign.runner import Runner
from jointnas.campaign.spec import DirectSpec
from jointnas.campaign.store import Context, Run
from jointnas.campaign.trial import Trial
from jointnas.errors import ConstraintError, JointNASError, SearchError
from jointnas.execution.slots import Slot
from jointnas.execution.worker import Progress
from jointnas.predictor.contract import Predictor
from jointnas.search.engines import ENGINES
from jointnas.search.search import Search
from jointnas.search.winners import Winner
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.training.job import TrainingResult
from jointnas.training.observation import Observation
from tests.executors import InProcessExecutor

SPACE = """
format = 1
[architecture]
network = "resnet9"
width = { low = 4, high = 32, step = 4, log = true }
depth1 = { values = [0, 1, 2] }
[recipe]
learning_rate = { low = 1e-2, high = 1.0, log = true }
optimizer = { choices = ["sgd", "adamw", "muon"] }
"""
Accuracy = Callable[[Candidate, int], float | None]


def smooth(candidate: Candidate, seed: int) -> float:
    """Return an accuracy that wide networks, Muon and a rate of 0.1 are good for."""
    width, rate = float(candidate["architecture"]["width"]), float(candidate["recipe"]["learning_rate"])
    best = 0.05 if candidate["recipe"]["optimizer"] == "muon" else 0.0
    return 0.5 + 0.1 * math.log2(width / 4) - 0.1 * abs(math.log10(rate / 0.1)) + best


class Formula(InProcessExecutor):
    """An executor whose trainings are a function of candidate and seed, and which may be interrupted."""

    def __init__(self, accuracy: Accuracy, interrupt_after: int | None = None) -> None:
        super().__init__(self._train)
        self.accuracy, self.interrupt_after = accuracy, interrupt_after

    def _train(self, payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
        if len(self.started) - 1 == self.interrupt_after:
            raise KeyboardInterrupt
        accuracy = self.accuracy(payload["candidate"], payload["seed"])
        if accuracy is None:
            raise JointNASError("it diverged")
        return TrainingResult(Observation(accuracy)).to_json()


def conduct(
    folder: Path,
    executor: Formula,
    engine: str,
    *,
    resume: bool = False,
    repeats: int = 1,
    notices: list[str] | None = None,
    **asked: Any,
) -> tuple[list[Winner], list[Trial]]:
    """Conduct a search of 24 candidates, or as many as `executor` lets; return its winners and the run's trials."""
    space = Space.from_toml(SPACE, (1, 8, 8), 10)
    search = Search(space, seed=3, pool_size=256, predictor=Predictor(space, 3, members=2), **asked)

    ended: list[int] = []

    def watch(event: CampaignEvent) -> None:
        if isinstance(event, TrialEnded):
            ended.append(event.trial.number)
        elif isinstance(event, Notice) and notices is not None:
            notices.append(event.text)

    settings = {"space": SPACE, "train_steps": 5, "engine": engine, "rounds": 4, "batch": 6, "seed": 3, "top": 3}
    spec = make_spec({**settings, "repeats": repeats}, "direct")
    assert isinstance(spec, DirectSpec)
    context = Context.of(space, None, Slot("cpu", 1, 1))
    with Run.open(folder, write=True) if resume else Run.create(folder, spec, context) as run:
        direct = DirectSearch(search, Runner(run, executor, spec.clock, spec.seed, watch), spec, watch)
        direct.train()
        assert len(set(ended)) == len(ended) == len(executor.started)
        return direct.winners(), run.trials()


every_engine = pytest.mark.parametrize("engine", sorted(ENGINES))


@every_engine
def test_an_engine_trains_what_it_proposes_and_names_the_best_of_it(engine: str, tmp_path: Path) -> None:
    winners, trials = conduct(tmp_path / "run", Formula(smooth), engine)
    assert 12 <= len(trials) <= 24
    accuracies = [t.observation.accuracy for t in trials if t.observation and t.observation.accuracy is not None]
    assert [w.accuracy for w in winners] == sorted(accuracies, reverse=True)[:3]
    first_batch = max(smooth(t.candidate, 0) for t in trials if t.round == 1)
    assert winners[0].accuracy is not None
    assert winners[0].accuracy > first_batch


@every_engine
def test_the_smallest_network_of_an_accuracy_is_found(engine: str, tmp_path: Path) -> None:
    asked = {"constraints": ["accuracy>=0.65"], "objective": "min macs"}
    winners, _ = conduct(tmp_path / "run", Formula(smooth), engine, **asked)
    assert winners[0].candidate["architecture"]["width"] <= 16


@every_engine
def test_exact_constraints_hold_for_all_that_is_trained(engine: str, tmp_path: Path) -> None:
    executor = Formula(smooth)
    _, trials = conduct(tmp_path / "run", executor, engine, constraints=["params<40K"])
    space = Space.from_toml(SPACE, (1, 8, 8), 10)
    assert all(space.cost(t.candidate)["params"] < 40_000 for t in trials)
    assert len(executor.started) == len(trials)


@every_engine
@pytest.mark.parametrize("after", [3, 9, 17])
def test_an_interrupted_search_goes_on_where_it_stood(engine: str, after: int, tmp_path: Path) -> None:
    whole = conduct(tmp_path / "whole", Formula(smooth), engine, repeats=2)
    with pytest.raises(KeyboardInterrupt):
        conduct(tmp_path / "run", Formula(smooth, interrupt_after=after), engine, repeats=2)
    executor = Formula(smooth)
    assert conduct(tmp_path / "run", executor, engine, resume=True, repeats=2) == whole
    assert len(executor.started) == len(whole[1]) - after


def test_a_search_that_goes_on_with_another_engine_keeps_what_was_trained(tmp_path: Path) -> None:
    before, trials = conduct(tmp_path / "run", Formula(smooth), "evolution")
    after, more = conduct(tmp_path / "run", Formula(smooth), "hillclimb", resume=True)
    assert more[: len(trials)] == trials
    assert after[0].accuracy is not None
    assert before[0].accuracy is not None
    assert after[0].accuracy >= before[0].accuracy
    assert len(more) <= 24
    assert [w.accuracy for w in after] == sorted((t.observation.accuracy for t in more if t.observation), reverse=True)[
        :3
    ]  # type: ignore[type-var]


def test_a_start_is_all_that_the_engine_is_given_at_first(tmp_path: Path) -> None:
    start: Candidate = {
        "architecture": {"network": "resnet9", "width": 8, "depth1": 1},
        "recipe": {"learning_rate": 0.5, "optimizer": "sgd"},
    }
    _, trials = conduct(tmp_path / "run", Formula(smooth), "hillclimb", start=[start])
    assert [t.candidate for t in trials if t.round == 1] == [start]
    changed = [sum(t.candidate[g] != start[g] for g in ("architecture", "recipe")) for t in trials if t.round == 2]  # type: ignore[literal-required]
    assert set(changed) == {1}  # the neighbours


def test_an_engine_that_ends_before_its_budget_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notices: list[str] = []
    _, trials = conduct(tmp_path / "all", Formula(smooth), "evolution", notices=notices)
    assert (len(trials), notices) == (24, [])
    monkeypatch.setattr(
        "jointnas.campaign.direct.find_engine", lambda name: lambda problem: problem.evaluate(problem.start)
    )
    _, trials = conduct(tmp_path / "few", Formula(smooth), "evolution", notices=notices)
    assert len(trials) == 6
    assert notices == ["the engine evolution ended after 6 of 24 candidates: it proposed no new one"]


def test_a_lucky_training_does_not_meet_a_bound_that_repeats_do_not_confirm(tmp_path: Path) -> None:
    def lucky(candidate: Candidate, seed: int) -> float:
        first = all(started.payload["candidate"] != candidate for started in executor.started[:-1])
        small = float(candidate["architecture"]["width"]) < 16
        return smooth(candidate, seed) + (0.3 if small and first else 0.0)

    executor = Formula(lucky)
    asked = {"constraints": ["accuracy>=0.68"], "objective": "min macs"}
    winners, trials = conduct(tmp_path / "run", executor, "evolution", repeats=4, **asked)
    for winner in winners:
        assert sum(t.candidate == winner.candidate for t in trials) == 4
        assert smooth(winner.candidate, 0) > 0.6  # without its luck
    best = [t for t in trials if t.candidate == winners[0].candidate]
    assert len(best) == 4
    assert len({t.seed for t in best}) == 4
    mean = sum(t.observation.accuracy for t in best if t.observation and t.observation.accuracy) / 4
    assert winners[0].accuracy == pytest.approx(mean)
    repeated = [t for t in trials if sum(o.candidate == t.candidate for o in trials) > 1]
    assert 4 < len(repeated) < len(trials)  # those that would have been best, and no others


def test_failed_trainings_lead_nowhere_and_are_not_repeated(tmp_path: Path) -> None:
    def diverging(candidate: Candidate, seed: int) -> float | None:
        return None if float(candidate["recipe"]["learning_rate"]) > 0.2 else smooth(candidate, seed)

    winners, trials = conduct(tmp_path / "run", Formula(diverging), "mads", repeats=3)
    failed = [t for t in trials if t.observation and t.observation.accuracy is None]
    assert failed
    assert all(sum(o.candidate == t.candidate for o in trials) == 1 for t in failed)
    assert all(float(w.candidate["recipe"]["learning_rate"]) <= 0.2 for w in winners)


def test_a_first_batch_without_any_success_ends_the_search(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"all 6 trainings of the first batch failed \(it diverged\)"):
        conduct(tmp_path / "run", Formula(lambda candidate, seed: None), "evolution")


def test_a_first_batch_that_failed_is_trained_again_when_the_search_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="--resume"):
        conduct(tmp_path / "run", Formula(lambda candidate, seed: None), "evolution")
    winners, trials = conduct(tmp_path / "run", Formula(smooth), "evolution", resume=True)
    assert all(t.accuracy is not None for t in trials)
    assert len(winners) == 3


def test_a_bound_that_nothing_met_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConstraintError, match=r"none of \d+ trained candidates meets accuracy>=0\.99"):
        conduct(tmp_path / "run", Formula(smooth), "hillclimb", constraints=["accuracy>=0.99"], objective="min macs")
