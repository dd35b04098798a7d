"""Early stop: the fraction that surely ranks trainings, and a campaign whose later rounds keep to it and confirm its winners."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import kendalltau

from jointnas.campaign.early_stop import accuracy_at, at_fraction, stop_fraction
from jointnas.campaign.events import Event as CampaignEvent
from jointnas.campaign.events import RoundStarted, TrialEnded
from jointnas.campaign.options import make_spec
from jointnas.campaign.rounds import Rounds, by_whole_trainings
from jointnas.campaign.runner import Runner
from jointnas.campaign.spec import SearchSpec
from jointnas.campaign.store import Context, Run
from jointnas.campaign.trial import Trial
from jointnas.data.dataset import load_data
from jointnas.data.spec import DataSpec
from jointnas.execution import Slot
from jointnas.predictor.contract import Predictor
from jointnas.search.search import Search
from jointnas.search.winners import Winner
from jointnas.space.space import Space
from jointnas.training.job import trial_executor
from jointnas.training.observation import CURVE_FRACTIONS, CurvePoint, Observation

FINAL = tuple(0.5 + i / 100 for i in range(15))
RIGHT, EQUAL = tuple(i / 100 for i in range(15)), (0.3,) * 15
REVERSED = RIGHT[::-1]
SWAPPED = tuple(RIGHT[i + 1 if i % 2 == 0 else i - 1] if i < 14 else RIGHT[i] for i in range(15))  # τ = 1 − 2 · 7 / 105


def observations(*early: tuple[float, ...], final: tuple[float, ...] = FINAL) -> list[Observation]:
    """Return trainings with these accuracies at 0.1, 0.25, … of the budget, and at its end."""
    return [
        Observation(
            accuracy,
            balanced_accuracy=accuracy,
            curve=tuple(
                CurvePoint(fraction, 10 * fraction, round(100 * fraction), accuracies[i])
                for fraction, accuracies in zip(CURVE_FRACTIONS, early, strict=False)
            ),
        )
        for i, accuracy in enumerate(final)
    ]


# ---------------------------------------------------------------------------------------------------- the stop's fraction


@pytest.mark.parametrize(
    ("early", "threshold", "expected"),
    [
        ((RIGHT, RIGHT, RIGHT, RIGHT), 0.92, 0.1),
        ((REVERSED, RIGHT, RIGHT, RIGHT), 0.92, 0.25),
        ((REVERSED, SWAPPED, RIGHT, RIGHT), 0.92, 0.5),
        ((REVERSED, SWAPPED, RIGHT, RIGHT), 0.7, 0.25),
        ((REVERSED, SWAPPED, SWAPPED, RIGHT), 1.0, 0.75),
        ((RIGHT, REVERSED, REVERSED, REVERSED), 0.92, 0.1),  # the least fraction, whatever comes after
        ((REVERSED, SWAPPED, REVERSED, SWAPPED), 0.92, 1.0),
    ],
)
def test_the_least_fraction_that_ranks_as_the_end_does_is_taken(
    early: tuple[tuple[float, ...], ...], threshold: float, expected: float
) -> None:
    assert stop_fraction(observations(*early), threshold) == expected


def test_a_ranking_that_could_be_luck_is_not_taken() -> None:
    tau = kendalltau(SWAPPED, FINAL).statistic
    assert tau == pytest.approx(1 - 14 / 105)
    assert stop_fraction(observations(SWAPPED, SWAPPED, SWAPPED, SWAPPED), tau) == 1.0
    assert stop_fraction(observations(SWAPPED, SWAPPED, SWAPPED, SWAPPED), tau - 0.15) == 0.1


def test_accuracies_that_are_all_equal_rank_nothing() -> None:
    assert stop_fraction(observations(EQUAL, EQUAL, RIGHT, RIGHT), 0.92) == 0.5
    assert stop_fraction(observations(EQUAL, EQUAL, EQUAL, EQUAL), 0.0) == 1.0
    assert stop_fraction(observations(RIGHT, RIGHT, RIGHT, RIGHT, final=EQUAL), 0.0) == 1.0


@pytest.mark.parametrize(("count", "expected"), [(0, 1.0), (1, 1.0), (11, 1.0), (12, 0.1), (15, 0.1)])
def test_twelve_trainings_or_more_that_ended_well_decide(count: int, expected: float) -> None:
    good = observations(RIGHT, RIGHT, RIGHT, RIGHT)[:count]
    assert stop_fraction(good, 0.92) == expected
    assert stop_fraction([*good, *[Observation.failed("it diverged")] * 5], 0.92) == expected


def test_trainings_that_were_stopped_early_decide_nothing() -> None:
    stopped = [replace(o, fraction=0.5) for o in observations(RIGHT, RIGHT, RIGHT, RIGHT)]
    assert stop_fraction(stopped, 0.92) == 1.0


def test_a_fraction_at_which_one_curve_was_not_read_is_passed_over() -> None:
    whole = observations(RIGHT, RIGHT, REVERSED, REVERSED)
    short = [replace(whole[0], curve=()), *whole[1:]]
    assert stop_fraction(whole, 0.92) == 0.1
    assert stop_fraction(short, 0.92) == 1.0
    late = [replace(whole[0], curve=whole[0].curve[1:]), *whole[1:]]  # its first step ended past a quarter
    assert stop_fraction(late, 0.92) == 0.1  # where it stood at the first step past a tenth is what is asked


# ------------------------------------------------------------------------------------------- a training as if ended early


def test_the_accuracy_at_a_fraction_is_that_of_the_first_reading_past_it() -> None:
    (training,) = observations((0.1,), (0.2,), (0.3,), (0.4,), final=(0.5,))
    assert [accuracy_at(training, f) for f in (0.05, 0.1, 0.2, 0.25, 0.6, 0.75, 1.0)] == [
        0.1, 0.1, 0.2, 0.2, 0.4, 0.4, 0.5
    ]  # fmt: skip
    assert accuracy_at(training, 0.9) is None
    assert accuracy_at(replace(training, fraction=0.5), 0.5) == 0.5  # the end of a training that was stopped there
    assert accuracy_at(Observation.failed("it diverged"), 0.5) is None


def test_a_training_as_if_ended_early_has_the_accuracy_and_the_curve_of_that_fraction() -> None:
    (training,) = observations((0.1,), (0.2,), (0.3,), (0.4,), final=(0.5,))
    found = at_fraction(training, 0.5)
    assert (found.accuracy, found.fraction, found.failure) == (0.3, 0.5, None)
    assert found.balanced_accuracy is None  # it was not read on the way
    assert [point.fraction for point in found.curve] == [0.1, 0.25]


@pytest.mark.parametrize("fraction", [0.5, 0.75, 1.0])
def test_a_training_that_ran_no_longer_than_that_is_left_as_it_is(fraction: float) -> None:
    (training,) = observations((0.1,), (0.2,), final=(0.5,))
    stopped = replace(training, fraction=0.5)
    assert at_fraction(stopped, fraction) is stopped
    assert at_fraction(training, 1.0) is training


def test_a_failure_stays_one_and_a_curve_that_was_not_read_becomes_one() -> None:
    failed = Observation.failed("it diverged")
    assert at_fraction(failed, 0.5) is failed
    (training,) = observations((0.1,), final=(0.5,))
    found = at_fraction(training, 0.25)
    assert found.accuracy is None
    assert found.failure == "its accuracy after 0.25 of the budget was not read"


# --------------------------------------------------------------------------------------------------- a campaign's rounds

EACH, ROUNDS, CONFIRMED, SEED, STEPS = 6, 3, 3, 5, 20
JUDGED = 2 * EACH  # trainings, after which there are enough
SEARCHED = ROUNDS * EACH
THRESHOLD = -0.9  # low, so that trainings of few steps meet it on every machine
FIXED: dict[str, Any] = {
    "width": 4,
    "activation": "relu",
    "whitening": False,
    "batch_size": 32,
    "gradient": "plain",
    "ema": 0.0,
}
DATA = DataSpec("digits", train_images=300, val_images=100)


class CrashError(Exception):
    """What a test raises where a process would die."""


class Recorded(Search):
    """A search that also keeps the observations that it was given."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.received: list[Observation] = []
        super().__init__(*given, **named)

    def tell(self, candidates: Any, results: Any) -> None:
        self.received.extend(results)
        super().tell(candidates, results)


@dataclass(frozen=True, kw_only=True)
class LenientSpec(SearchSpec):
    """A spec that takes any threshold."""

    def __post_init__(self) -> None:
        pass


def make_search_spec(early_stop: float | None = None, **settings: Any) -> SearchSpec:
    spec = make_spec(
        {
            "data": DATA,
            "train_steps": STEPS,
            "rounds": ROUNDS,
            "final": "best",
            "batch": EACH + CONFIRMED // ROUNDS,
            "seed": SEED,
            **settings,
        }
    )
    values = {f.name: getattr(spec, f.name) for f in fields(spec)}
    return LenientSpec(**{**values, "early_stop": early_stop})


def conduct(
    folder: Path, early_stop: float | None, *, resume: bool = False, crash_after: int | None = None
) -> tuple[float, list[Observation]]:
    """Conduct three rounds and confirm three times; return the fraction that the last round ran, and the search's observations."""
    fractions: list[float] = []

    def watch(event: CampaignEvent) -> None:
        if isinstance(event, RoundStarted):
            fractions.append(event.stop_at)
        if isinstance(event, TrialEnded) and event.trial.number == crash_after:
            raise CrashError

    space = Space.load("resnet9", (1, 8, 8), 10).fix(FIXED)
    search = Recorded(space, ["macs<1M"], SEED, pool_size=64, predictor=Predictor(space, SEED, members=2))
    spec, slot = make_search_spec(early_stop=early_stop, top=2, confirm=CONFIRMED), Slot("cpu", 1, 1)
    data = load_data(DATA)
    with (
        Run.open(folder, write=True) if resume else Run.create(folder, spec, Context.of(space, data, slot)) as run,
        trial_executor(DATA, slot, data.fingerprint) as executor,
    ):
        runner = Runner(run, executor, spec.clock, SEED, watch)
        rounds = Rounds(search, runner, run, spec, watch)
        rounds.train()
        confirmed = rounds.winners()
        accuracies = [w.accuracy for w in confirmed]
        assert None not in accuracies
        assert accuracies == sorted(accuracies, key=lambda a: a or 0.0, reverse=True)
    return fractions[-1], search.received


def trials_of(folder: Path) -> list[Trial]:
    with Run.open(folder) as run:
        return run.trials()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, list[Observation]]:
    """The folder of a campaign that stopped early, its fraction, and the observations of its search."""
    folder = tmp_path_factory.mktemp("campaign") / "whole"
    return folder, *conduct(folder, THRESHOLD)


def in_rounds(folder: Path) -> list[Observation]:
    """Return the observations of the trainings before winners were confirmed."""
    return [t.observation for t in trials_of(folder) if t.kind == "trial" and t.observation is not None]


def test_a_campaign_takes_the_fraction_that_its_rounds_ask_for_once_they_are_enough(
    stopped: tuple[Path, float, list[Observation]],
) -> None:
    assert stopped[1] == stop_fraction(in_rounds(stopped[0])[:JUDGED], THRESHOLD, SEED) < 1


def test_rounds_train_the_whole_budget_until_then_and_later_ones_the_fraction(
    stopped: tuple[Path, float, list[Observation]],
) -> None:
    folder, fraction, _ = stopped
    ended = in_rounds(folder)
    assert [(o.fraction, o.steps) for o in ended[:JUDGED]] == [(1.0, STEPS)] * JUDGED
    assert [(o.fraction, o.steps) for o in ended[JUDGED:]] == [(fraction, round(STEPS * fraction))] * (
        SEARCHED - JUDGED
    )


def test_a_search_learns_from_all_trainings_at_one_fraction(
    stopped: tuple[Path, float, list[Observation]],
) -> None:
    folder, fraction, received = stopped
    ended = in_rounds(folder)
    assert received[:EACH] == ended[:EACH]  # before there were enough
    again = received[EACH : EACH + SEARCHED]
    assert {o.fraction for o in received[EACH:]} == {fraction}
    assert [o.accuracy for o in again] == [accuracy_at(o, fraction) for o in ended]


def test_winners_are_confirmed_by_new_trainings_of_the_whole_budget(
    stopped: tuple[Path, float, list[Observation]],
) -> None:
    trials = [t for t in trials_of(stopped[0]) if t.kind == "confirmation"]
    assert [t.observation.fraction for t in trials if t.observation] == [1.0] * CONFIRMED
    assert len({t.seed for t in trials_of(stopped[0])}) == SEARCHED + CONFIRMED


def test_a_resumed_campaign_takes_the_same_fraction_and_confirms_once(
    stopped: tuple[Path, float, list[Observation]], tmp_path: Path
) -> None:
    whole, fraction, _ = stopped
    folder = tmp_path / "crashed"
    with pytest.raises(CrashError):
        conduct(folder, THRESHOLD, crash_after=JUDGED + 1)
    assert conduct(folder, THRESHOLD, resume=True)[0] == fraction
    assert conduct(folder, THRESHOLD, resume=True)[0] == fraction
    for a, b in zip(trials_of(folder), trials_of(whole), strict=True):
        assert a.observation is not None
        assert b.observation is not None
        assert (a.candidate, a.round, a.kind) == (b.candidate, b.round, b.kind)
        assert (a.observation.accuracy, a.observation.fraction) == (b.observation.accuracy, b.observation.fraction)


@pytest.mark.parametrize(
    ("objective", "expected"), [("min macs", [0.6, 0.9, 0.4, None]), ("max accuracy", [0.9, 0.6, 0.4, None])]
)
def test_only_whole_trainings_count_and_those_that_miss_their_accuracy_come_last(
    objective: str, expected: list[float | None]
) -> None:
    space = Space.load("resnet9", (1, 8, 8), 10).fix(FIXED)
    candidates = space.sample(4)
    identities = space.identities(space.to_codes(candidates))
    bounds = ["accuracy>=0.5"] if objective == "min macs" else []
    search = Search(space, bounds, SEED, pool_size=64, objective=objective)
    reached = [(0, 0.5), (0, 0.7), (1, 0.4), (3, 0.9)]  # the first candidate was trained twice, the third never
    trials = [
        Trial(number, 1, candidates[i], number, identities[i], observation=Observation(accuracy))
        for number, (i, accuracy) in enumerate(reached)
    ]
    trials.append(Trial(9, 1, candidates[2], 9, identities[2], observation=Observation(0.99, fraction=0.5)))
    winners = by_whole_trainings(search, [Winner(c, 0.6, 0.1, None, {}) for c in candidates], trials)
    assert [w.accuracy for w in winners] == pytest.approx(expected)
