"""The result of a campaign: a view of its run's folder, which stays true when the process has ended."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from jointnas.campaign.ask import FittedCampaign
from jointnas.campaign.folders import find_run
from jointnas.campaign.registry import PREDICTOR
from jointnas.campaign.retrain import Retrained, Watch
from jointnas.campaign.retraining import Retraining
from jointnas.campaign.run_files import winner_files, write_candidates
from jointnas.campaign.store import Run
from jointnas.campaign.trial import trained_accuracies, trial_row
from jointnas.errors import RunError
from jointnas.predictor.files import DESCRIPTION, read_description
from jointnas.search.winners import EngineReport, Winner
from jointnas.space.constraint import format_metric


class Trials(list[dict[str, Any]]):
    """Trials as rows, as `runs show --json` prints them; see `trial_row`."""

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with one column for each field and knob. Raises `RunError` without pandas."""
        try:
            import pandas
        except ImportError as error:
            raise RunError("to_pandas needs pandas, which is not installed: pip install pandas") from error
        return pandas.json_normalize([dict(row) for row in self])


class Campaign:
    """An ended campaign in the folder `path`. reports: what each engine did in stage two, where this process ran it.

    Raises `RunError` when the folder is no run.
    """

    def __init__(self, path: str | Path, reports: Sequence[EngineReport] = ()) -> None:
        self.path, self.reports = find_run(path), tuple(reports)

    @property
    def winners(self) -> list[Winner]:
        """The winners of the latest query, best first."""
        with Run.open(self.path) as run:
            return run.winners()

    @property
    def best(self) -> Winner:
        """The first winner."""
        return self.winners[0]

    @property
    def trials(self) -> Trials:
        """The trainings, in the order in which they were asked for."""
        with Run.open(self.path) as run:
            return Trials(trial_row(trial) for trial in run.trials())

    @property
    def rank_correlation(self) -> float | None:
        """Kendall's τ of the final predictor, cross-validated; None before it was fitted to enough accuracies."""
        folder = self.path / PREDICTOR
        value = read_description(folder)["rank_correlation"] if (folder / DESCRIPTION).is_file() else None
        return None if value is None else float(value)

    def front(self, metric: str = "macs", top: int = 20) -> list[Winner]:
        """Return candidates that trade predicted accuracy for a cost, the cheapest first; the campaign's own bounds on costs hold."""
        with Run.open(self.path) as run:
            constraints = getattr(run.spec, "constraints", ())
        with FittedCampaign(str(self.path)) as fitted:
            return list(fitted.ask(fitted.bounds_on_costs(constraints), top=top, frontier=metric).winners)

    def ask_again(self, constraints: Sequence[str], top: int = 5, **options: Any) -> list[Winner]:
        """Return the winners under other bounds; see `FittedCampaign.ask` for the options. Nothing is trained."""
        with FittedCampaign(str(self.path)) as fitted:
            return list(fitted.ask(constraints, top=top, **options).winners)

    def retrain(
        self,
        top: int = 3,
        seeds: int = 5,
        *,
        train_time: str | float | None = None,
        train_steps: int | None = None,
        to: str | Path | None = None,
        watch: Watch = lambda news: None,
    ) -> list[Retrained]:
        """Train winners with new seeds, score the test images once each and keep the weights; see `retrain_candidates`."""
        folder = None if to is None else Path(to)
        retraining = Retraining.of(str(self.path), top=top, train_time=train_time, train_steps=train_steps, to=folder)
        return retraining.conduct(seeds, watch)

    def export(self, to: str | Path | None = None, top: int | None = None, format: str = "toml") -> list[Path]:
        """Write the winners as candidate files ("toml", or "json" with the blueprint) and return their paths."""
        files = {f"winner-{rank}": file for rank, file in enumerate(winner_files(self.path, top=top)[1], 1)}
        return write_candidates(files, self.path / "export" if to is None else Path(to), format)

    def _repr_html_(self) -> str:
        """Return the winners as a table, for notebooks."""
        with Run.open(self.path) as run:
            winners, trials = run.winners() if run.queries() else [], run.trials()
        rows = "".join(
            f"<tr><td>{rank}</td><td>{w.mean:.4f} ± {w.std:.4f}</td><td>{len(trained_accuracies(trials, w))}</td>"
            + "".join(f"<td>{escape(format_metric(name, value))}</td>" for name, value in w.costs.items())
            + "</tr>"
            for rank, w in enumerate(winners, 1)
        )
        costs = "".join(f"<th>{escape(name)}</th>" for name in (winners[0].costs if winners else ()))
        head = f"<tr><th>rank</th><th>expected accuracy</th><th>trainings</th>{costs}</tr>"
        return f"<table><caption>{escape(str(self.path))}</caption>{head}{rows}</table>"

    def __repr__(self) -> str:
        with Run.open(self.path) as run:
            ended = sum(t.observation is not None for t in run.trials())
            winners = run.winners() if run.queries() else []
        best = f", best predicted {winners[0].mean:.4f} ± {winners[0].std:.4f}" if winners else ""
        return f"Campaign({str(self.path)!r}: {ended} trials, {len(winners)} winners{best})"
