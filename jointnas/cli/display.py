"""The terminal while a campaign runs: rounds, trials in flight, best so far, rank correlation, time left."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jointnas.campaign.runner import Status
from jointnas.campaign.store import CONFIRMING, Trial
from jointnas.cli.common import messages
from jointnas.units import format_duration


class Display:
    """Draws a campaign on stderr: live on a terminal, a line for each ended trial off it. Use as a context manager."""

    def __init__(self, batch: int, workers: int, clock: dict[str, Any]) -> None:
        self.batch, self.workers, self.clock = batch, workers, clock
        self.live = Live(console=messages, refresh_per_second=2, transient=True) if messages.is_terminal else None
        self.drawn = 0.0

    def __enter__(self) -> Display:
        if self.live:
            self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.__exit__(kind, error, trace)

    def __call__(self, status: Status, ended: Trial | None) -> None:
        """Show the state of the campaign."""
        if ended is not None:
            messages.print(Text(trial_line(ended, status)))
        if self.live and (ended is not None or status.activity or time.monotonic() - self.drawn > 0.4):
            self.drawn = time.monotonic()
            self.live.update(self._draw(status))
        elif not self.live and not status.activity and not status.running and ended is None and status.round:
            messages.print(Text(round_line(status)))

    def _draw(self, status: Status) -> Group:
        head = Text(f"{round_line(status)}  ·  {self._left(status)} left")
        if status.activity:
            head.append(f"  ·  {status.activity}", style="dim")
        table = Table.grid(padding=(0, 2))
        for number, (fraction, seconds) in sorted(status.running.items()):
            bar = ProgressBar(total=1.0, completed=fraction, width=30)
            table.add_row(f"trial {number}", bar, format_duration(seconds))
        return Group(head, table)

    def _left(self, status: Status) -> str:
        """Return the time left: the budgets of the trials that have not ended, shared among the workers."""
        each = self.clock.get("train_seconds")
        if each is None:
            took = [t.observation.seconds for t in status.trials.values() if t.observation and t.observation.seconds]
            if not took:
                return "unknown time"
            each = sum(took) / len(took)
        waiting = sum(t.observation is None for t in status.trials.values()) - len(status.running)
        running = max((each * (1 - fraction) for fraction, _ in status.running.values()), default=0.0)
        waves = math.ceil(max(0, waiting) / self.workers) + self._later(status)
        return format_duration((running + waves * each) * status.stop_at)

    def _later(self, status: Status) -> int:
        """Return how many trainings one after the other are still to be asked for."""
        if status.rounds is None:
            return math.ceil(max(0, status.planned - len(status.trials)) / self.workers)
        if status.round == CONFIRMING:
            return 0
        begun = any(t.round == status.round for t in status.trials.values())
        return max(0, status.rounds - status.round + (0 if begun else 1)) * math.ceil(self.batch / self.workers)


def round_line(status: Status) -> str:
    """Return one line on the campaign as a whole."""
    parts = [f"batch {status.round}" if status.rounds is None else f"round {status.round} of {status.rounds}"]
    if status.rounds is not None and status.round == CONFIRMING:
        parts = ["confirming winners"]
    ended = sum(t.observation is not None for t in status.trials.values())
    parts.append(f"{ended} trials")
    best = status.best
    if status.leader:
        parts.append(f"best {status.leader}")
    elif best and best.observation:
        parts.append(f"best {best.observation.accuracy:.4f} (trial {best.number})")
    if status.rank_correlation is not None:
        parts.append(f"predictor τ {status.rank_correlation:.2f}")
    if status.stop_at < 1:
        parts.append(f"trainings end at {status.stop_at:.0%} of the budget")
    return "  ·  ".join(parts)


def trial_line(trial: Trial, status: Status) -> str:
    """Return one line on a trial that has ended."""
    o = trial.observation
    if o is None or o.accuracy is None:
        return f"trial {trial.number:>3}  failed: {o.failure if o else 'no result'}"
    predicted = f"predicted {trial.predicted:.4f} ± {trial.std:.4f}, " if trial.predicted is not None else ""
    return f"trial {trial.number:>3}  accuracy {o.accuracy:.4f}  ({predicted}{o.steps} steps, {format_duration(o.seconds or 0)})"
