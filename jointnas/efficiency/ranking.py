"""A ranking of models by their efficiency: deterministic figures, and those under uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jointnas.efficiency.envelopment import Analysis, Efficiency, efficiencies, super_efficiencies
from jointnas.efficiency.models import Model, chosen_metrics
from jointnas.efficiency.uncertainty import FEW, StochasticEfficiency, resample
from jointnas.errors import EfficiencyError

QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Ranking:
    """Models in their own order, with the efficiencies of their mean metrics and of resampled ones (None without repeats)."""

    models: tuple[Model, ...]
    costs: tuple[str, ...]
    gains: tuple[str, ...]
    efficiencies: tuple[Efficiency, ...]
    super_efficiencies: tuple[float, ...]
    stochastic: StochasticEfficiency | None
    notes: tuple[str, ...]

    @property
    def order(self) -> list[int]:
        """The models' rows, the most efficient first; those on the frontier by super-efficiency."""
        keys = np.array(self.super_efficiencies)
        if self.stochastic is not None:
            return [int(i) for i in np.lexsort((-keys, -self.stochastic.mean))]
        return [int(i) for i in np.argsort(-keys, kind="stable")]

    def peers_text(self, row: int) -> str:
        """Return what a model is compared with: `0.60 A + 0.40 B at 71 % of the cost`."""
        own = self.efficiencies[row]
        if row in own.peers and len(own.peers) == 1:
            return ""
        mixture = " + ".join(f"{weight:.2f} {self.models[j].name}" for j, weight in own.peers.items())
        return f"{mixture} at {own.theta:.0%}" if mixture else ""

    def to_json(self) -> dict[str, Any]:
        """Return what `jointnas rank --json` prints: the models, the most efficient first."""
        better = None if self.stochastic is None else self.stochastic.better
        names = [model.name for model in self.models]
        return {
            "costs": list(self.costs),
            "gains": list(self.gains),
            "models": [self._row(rank, i) for rank, i in enumerate(self.order, 1)],
            "better": None
            if better is None
            else {n: dict(zip(names, r, strict=True)) for n, r in zip(names, better.tolist(), strict=True)},
            "notes": list(self.notes),
        }

    def _row(self, rank: int, i: int) -> dict[str, Any]:
        own, model = self.efficiencies[i], self.models[i]
        value = self.super_efficiencies[i]
        row: dict[str, Any] = {
            "rank": rank,
            "model": model.name,
            "efficiency": own.theta,
            "super_efficiency": value if np.isfinite(value) else None,
            "peers": {self.models[j].name: weight for j, weight in own.peers.items()},
            "slacks": dict(zip((*self.costs, *self.gains), own.slacks, strict=True)),
            "metrics": {name: model.metrics[name].mean for name in (*self.costs, *self.gains)},
        }
        if self.stochastic is not None:
            low, middle, high = self.stochastic.quantiles(QUANTILES)[:, i].tolist()
            row |= {
                "mean": float(self.stochastic.mean[i]),
                "quantiles": {"0.05": low, "0.5": middle, "0.95": high},
                "efficient": float(self.stochastic.efficient[i]),
                "ranks": self.stochastic.ranks[i].tolist(),
            }
        return row


def rank(
    models: Sequence[Model],
    costs: Sequence[str] = (),
    gains: Sequence[str] = (),
    fixed: Sequence[str] = (),
    *,
    orientation: str = "input",
    returns: str = "constant",
    resamples: int = 1000,
    seed: int = 0,
) -> Ranking:
    """Rank models by the efficiency with which they turn costs into gains.

    costs, gains: names of metrics; by default what all models have in common. fixed: costs that a model cannot change. resamples: how often
    metrics are drawn from their repeats, 0 for never. Raises `EfficiencyError`.
    """
    costs, gains = chosen_metrics(models, costs, gains)
    for name in fixed:
        if name not in costs:
            raise EfficiencyError(f"--fixed is one of the costs {', '.join(costs)}, got {name!r}: name a cost")
    if resamples < 0:
        raise EfficiencyError(f"--resamples must be 0 or more, got {resamples}: raise it")
    analysis = Analysis(orientation, returns, tuple(name in fixed for name in costs) if fixed else ())
    x, y = (np.array([[model.metrics[name].mean for name in names] for model in models]) for names in (costs, gains))
    exact = efficiencies(x, y, analysis)
    varies = any(model.metrics[name].std > 0 for model in models for name in (*costs, *gains))
    stochastic = resample(models, costs, gains, analysis, resamples, seed) if varies and resamples else None
    return Ranking(
        tuple(models),
        costs,
        gains,
        tuple(exact),
        tuple(super_efficiencies(x, y, analysis).tolist()),
        stochastic,
        tuple(_notes(models, (*costs, *gains), varies)),
    )


def _notes(models: Sequence[Model], names: Sequence[str], varies: bool) -> list[str]:
    """Return what a reader must know about the repeats."""
    if not varies:
        return ["no metric has repeats or a deviation: efficiencies are without their uncertainty"]
    notes = []
    constant = [name for name in names if all(model.metrics[name].std == 0 for model in models)]
    if constant:
        notes.append(f"taken as exact, as no repeat differs: {', '.join(constant)}")
    few = sorted({name for model in models for name in names if 1 < len(model.metrics[name].values) < FEW})
    if few:
        notes.append(f"drawn from a normal distribution, as there are fewer than {FEW} repeats: {', '.join(few)}")
    for model in models:
        counts = {name: len(model.metrics[name].values) for name in names if len(model.metrics[name].values) >= FEW}
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{count} of {name}" for name, count in counts.items())
            notes.append(f"drawn independently, as their repeats differ in number: {found} for {model.name}")
            break
    return notes
