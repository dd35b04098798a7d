"""The terminal while a campaign runs: rounds, trials in flight, best so far, rank correlation, time left."""

from __future__ import annotations

import math
import shlex
import time
from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jointnas.campaign.events import (
    Activity,
    Event,
    IncumbentChanged,
    Notice,
    Planned,
    RoundEnded,
    RoundStarted,
    RunOpened,
    TrialEnded,
    TrialProgress,
    TrialStarted,
    WinnersFound,
)
from jointnas.campaign.spec import NashSpec, SearchSpec
from jointnas.campaign.trial import CONFIRMATION, FINAL, Trial
from jointnas.cli.common import architecture_text, messages
from jointnas.cli.plan import plan_line
from jointnas.search.objective import SCORE_NAMES
from jointnas.units import format_duration

REDRAW_SECONDS = 0.4


class Display:
    """Draws a campaign's events on stderr: live on a terminal, a line for each ended trial off it. Use as a context manager."""

    def __init__(self, spec: SearchSpec | NashSpec) -> None:
        self.spec = spec
        self.trials: dict[int, Trial] = {}
        self.running: dict[int, tuple[float, float]] = {}  # trial: fraction of its budget, seconds
        self.round, self.stop_at, self.activity = 0, 1.0, ""
        self.planned = spec.budgets
        self.rank_correlation: float | None = None
        self.incumbent = ""
        self.remedy = "nothing was trained yet: repeat the command"  # after an interruption
        self._live = Live(console=messages, refresh_per_second=2, transient=True) if messages.is_terminal else None
        self._drawn = 0.0

    def __enter__(self) -> Display:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.__exit__(kind, error, trace)

    def __call__(self, event: Event) -> None:
        """Take an event's news and draw them."""
        self._take(event)
        if isinstance(event, RunOpened):
            messages.print(plan_line(self.spec))
        elif isinstance(event, Notice):
            messages.print(event.text)
        elif isinstance(event, TrialEnded):
            messages.print(Text(trial_line(event.trial)))
        elif isinstance(event, RoundEnded) and not self._live:
            messages.print(Text(self.round_line()))
        if self._live and (not isinstance(event, TrialProgress) or time.monotonic() - self._drawn > REDRAW_SECONDS):
            self._drawn = time.monotonic()
            self._live.update(self._draw())

    def _take(self, event: Event) -> None:
        match event:
            case RunOpened():
                self.remedy = f"continue with the same command, --resume and --out {shlex.quote(str(event.path))}"
                self.trials = {trial.number: trial for trial in event.trials}
            case TrialStarted(trial):
                self.activity = ""
                self.trials[trial.number], self.running[trial.number] = trial, (0.0, 0.0)
            case TrialProgress(trial, fraction, seconds):
                self.running[trial.number] = fraction, seconds
            case TrialEnded(trial):
                self.running.pop(trial.number, None)
                self.trials[trial.number] = trial
            case RoundStarted(number, stop_at):
                self.round, self.stop_at = number, stop_at
            case RoundEnded(_, rank_correlation):
                self.activity, self.rank_correlation = "", rank_correlation
            case Activity(text):
                self.activity = text
            case Planned(trainings):
                self.planned = trainings
            case IncumbentChanged(accuracy, trial):
                self.incumbent = f"{accuracy:.4f} (trial {trial.number})"
            case WinnersFound() | Notice():
                pass

    def _draw(self) -> Group:
        lines = [Text("  ·  ".join([*self._round_parts(), f"{self._left()} left"]))]
        best = self._best()
        if best is not None:
            lines.append(Text(f"{self._best_text()}: {architecture_text(best.candidate['architecture'])}", style="dim"))
        if self.activity:
            lines.append(Text(f"{self.activity} …", style="dim"))
        for line in lines:
            line.truncate(messages.width, overflow="ellipsis")
        table = Table.grid(padding=(0, 2))
        for number, (fraction, seconds) in sorted(self.running.items()):
            bar = ProgressBar(total=1.0, completed=fraction, width=30)
            table.add_row(f"trial {number}", bar, format_duration(seconds))
        return Group(*lines, table)

    def _best(self) -> Trial | None:
        """Return the most accurate trial so far."""
        observed = [t for t in self.trials.values() if t.accuracy is not None]
        return max(observed, key=lambda t: t.accuracy or 0.0, default=None)

    def _left(self) -> str:
        """Return the time left: the budgets of the trainings that have not ended, shared among the workers."""
        each = self.spec.clock.get("train_seconds")
        if each is None:
            seconds = [t.observation.seconds for t in self.trials.values() if t.observation and t.observation.seconds]
            if not seconds:
                return "unknown time"
            each = sum(seconds) / len(seconds)
        ended = sum(t.observation is not None for t in self.trials.values())
        planned = max(self.planned, len(self.trials))
        running = max((self._budgets(n) * (1 - fraction) for n, (fraction, _) in self.running.items()), default=0.0)
        waves = math.ceil(max(0, planned - ended - len(self.running)) / self.spec.at_a_time)
        is_climbing = isinstance(self.spec, NashSpec) and not any(t.kind == FINAL for t in self.trials.values())
        last = self.spec.final_training - 1 if isinstance(self.spec, NashSpec) and is_climbing else 0.0
        return format_duration(each * (running + waves + last) * self.stop_at)

    def _budgets(self, number: int) -> float:
        """Return how many training budgets a trial has."""
        trial = self.trials[number]
        return self.spec.budgets_of(trial.round, trial.kind == FINAL) if isinstance(self.spec, NashSpec) else 1.0

    def round_line(self) -> str:
        """Return one line on the campaign as a whole."""
        first, *others = self._round_parts()
        return "  ·  ".join([first, *others[:1], *filter(None, [self._best_text()]), *others[1:]])

    def _best_text(self) -> str:
        """Return the best accuracy so far and its trial; empty before the first."""
        best = self._best()
        if self.incumbent or best is None:
            return f"best {self.incumbent}" if self.incumbent else ""
        return f"best {best.accuracy:.4f} (trial {best.number})"

    def _round_parts(self) -> list[str]:
        """Return the round, the number of trials, how well the predictor ranks, and the share of the budget that trainings run."""
        parts = [f"round {self.round} of {max(self.round, self.spec.rounds)}"]
        if isinstance(self.spec, SearchSpec) and self.spec.is_direct:
            parts = [f"batch {self.round}"]
        elif isinstance(self.spec, NashSpec):
            parts = [f"step {self.round} of {self.spec.rounds}" if self.round else "first network"]
        parts.append(f"{sum(t.observation is not None for t in self.trials.values())} trials")
        if self.rank_correlation is not None:
            parts.append(f"predictor τ {self.rank_correlation:.2f}")
        if self.stop_at < 1:
            parts.append(f"trainings end at {self.stop_at:.0%} of the budget")
        return parts


def trial_line(trial: Trial) -> str:
    """Return one line on a trial that has ended."""
    return f"trial {trial.number:>3}  {outcome_text(trial)}"


def outcome_text(trial: Trial) -> str:
    """Return the accuracy of an ended trial with its prediction, steps and seconds, or its failure."""
    o = trial.observation
    if trial.kind == FINAL and o is not None and o.failure is None:
        tested = "" if o.test_accuracy is None else f", test accuracy {o.test_accuracy:.4f}"
        return f"trained on the training and validation images together ({o.steps} steps){tested}"
    if o is None or o.accuracy is None:
        return f"failed: {o.failure if o else 'no result'}"
    details = ["leader"] if trial.kind == CONFIRMATION else []
    details += [] if trial.predicted is None else [f"predicted {trial.predicted:.4f} ± {trial.std:.4f}"]
    details += [] if o.steps is None else [f"{o.steps} steps"]
    details += [] if o.seconds is None else [format_duration(o.seconds)]
    details += [f"disturbed by other programs, had {o.cpu_share:.0%} of its cores"] if o.was_disturbed else []
    details += ["trained again"] if trial.disturbed else []
    details += [f"run {o.attempts} times"] if o.attempts > 1 else []
    return f"{SCORE_NAMES[trial.metric]} {trial.accuracy:.4f}" + (f"  ({', '.join(details)})" if details else "")
