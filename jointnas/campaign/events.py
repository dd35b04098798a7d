"""What a campaign reports while it runs. Listeners (the terminal, loggers) read events; the campaign reads nothing of theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jointnas.campaign.spec import Spec
from jointnas.campaign.store import Context
from jointnas.campaign.trial import Trial
from jointnas.search.winners import Winner


@dataclass(frozen=True)
class Notice:
    """One sentence for the user."""

    text: str


@dataclass(frozen=True)
class RunOpened:
    """The run's folder exists. trials: those that it holds already, when it is resumed."""

    path: Path
    spec: Spec
    context: Context
    trials: Sequence[Trial]


@dataclass(frozen=True)
class TrialStarted:
    """A training begins in a worker."""

    trial: Trial


@dataclass(frozen=True)
class TrialProgress:
    """A training goes on: the fraction of its budget that is over, and the seconds since its start."""

    trial: Trial
    fraction: float
    seconds: float


@dataclass(frozen=True)
class TrialEnded:
    """A training ended; the trial holds its observation."""

    trial: Trial


@dataclass(frozen=True)
class RoundStarted:
    """A batch begins. number: 1 is the first. stop_at: the fraction of the budget that its trainings run."""

    number: int
    stop_at: float


@dataclass(frozen=True)
class RoundEnded:
    """A batch was trained and the predictor refitted. rank_correlation: None before there are enough accuracies."""

    number: int
    rank_correlation: float | None


@dataclass(frozen=True)
class Activity:
    """What the campaign does between trainings, such as "fitting the predictor"."""

    text: str


@dataclass(frozen=True)
class Planned:
    """How many trainings a direct search now expects in all, repeats included."""

    trainings: int


@dataclass(frozen=True)
class IncumbentChanged:
    """A direct search has a new best candidate: the mean accuracy of its trainings, and its first trial."""

    accuracy: float
    trial: Trial


@dataclass(frozen=True)
class WinnersFound:
    """The search ended: its winners, best first, and how well the predictor ranks."""

    winners: Sequence[Winner]
    rank_correlation: float | None


Event = (
    Notice
    | RunOpened
    | TrialStarted
    | TrialProgress
    | TrialEnded
    | RoundStarted
    | RoundEnded
    | Activity
    | Planned
    | IncumbentChanged
    | WinnersFound
)
Callback = Callable[[Event], None]


def broadcast(callbacks: Sequence[Callback]) -> Callback:
    """Return a callback that passes each event on to all of `callbacks`, in their order."""

    def emit(event: Event) -> None:
        for callback in callbacks:
            callback(event)

    return emit
