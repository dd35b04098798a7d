"""A ranking of models by their efficiency: deterministic figures, and those under uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jointnas.efficiency.envelopment import INPUT, Analysis, Efficiency, efficiencies, super_efficiencies
from jointnas.efficiency.models import Model, check_values, chosen_metrics, with_metrics
from jointnas.efficiency.uncertainty import FEW, StochasticEfficiency, relative_deviation, resample
from jointnas.errors import EfficiencyError
from jointnas.space.constraint import format_metric

QUANTILES = (0.05, 0.5, 0.95)
SHOWN_SLACK = 0.01  # of the model's own metric
SHOWN_WEIGHT = 0.005  # of a peer


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
    orientation: str = INPUT

    @property
    def order(self) -> list[int]:
        """The models' rows, the most efficient first: by mean θ, then those that nothing dominates, then by super-efficiency.

        A super-efficiency that is infinite, as with variable returns, orders nothing.
        """
        beyond = np.array([value if np.isfinite(value) else 1.0 for value in self.super_efficiencies])
        exact = np.array([own.theta for own in self.efficiencies])
        mean = exact if self.stochastic is None else self.stochastic.mean
        efficient = np.array([own.is_efficient for own in self.efficiencies])
        return [int(i) for i in np.lexsort((-beyond, ~efficient, -np.round(mean, 6)))]

    def peers_text(self, row: int) -> str:
        """Return what a model is compared with: `0.60 A + 0.40 B at 71% of the cost, 2M less macs`, or at so many times the gain.

        Slacks of a hundredth of the model's own metric or more are named, and peers with a weight that does not round to 0.00.
        """
        own, model = self.efficiencies[row], self.models[row]
        if not own.peers or set(own.peers) == {row}:
            return ""
        shown = {j: weight for j, weight in own.peers.items() if weight >= SHOWN_WEIGHT}
        mixture = " + ".join(f"{weight:.2f} {self.models[j].name}" for j, weight in shown.items())
        share = f"{own.theta:.0%} of the cost" if self.orientation == INPUT else f"{1 / own.theta:.2f} times the gain"
        slacks = [
            f"{format_metric(name, float(f'{slack:.2g}'))} {'less' if name in self.costs else 'more'} {name}"
            for name, slack in zip((*self.costs, *self.gains), own.slacks, strict=True)
            if slack >= SHOWN_SLACK * model.metrics[name].mean
        ]
        return ", ".join([f"{mixture} at {share}", *slacks])

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
            "is_efficient": own.is_efficient,
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

    costs, gains: names of metrics, and models that lack one are left out; by default what all models have in common. fixed: costs that are
    not to be reduced. resamples: how often metrics are drawn from their repeats, 0 for never. Raises `EfficiencyError`.
    """
    models, left_out, costs, gains, analysis = comparison(
        models, costs, gains, fixed, orientation=orientation, returns=returns, resamples=resamples, seed=seed
    )
    check_values(models, (*costs, *gains))
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
        (
            f"costs: {', '.join(costs)}; gains: {', '.join(gains)}",
            *([f"left out, as a metric is missing: {', '.join(left_out)}"] if left_out else []),
            *_notes(models, (*costs, *gains), stochastic is not None),
        ),
        orientation,
    )


class Comparison(NamedTuple):
    """What is compared, and how. left_out: the names of models that lack a metric."""

    models: Sequence[Model]
    left_out: Sequence[str]
    costs: tuple[str, ...]
    gains: tuple[str, ...]
    analysis: Analysis


def comparison(
    models: Sequence[Model],
    costs: Sequence[str] = (),
    gains: Sequence[str] = (),
    fixed: Sequence[str] = (),
    *,
    orientation: str = "input",
    returns: str = "constant",
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Return what `rank` compares, without computing anything. Raises `EfficiencyError` for settings that do not fit the models."""
    for name, value in (("--resamples", resamples), ("--seed", seed)):
        if value < 0:
            raise EfficiencyError(f"{name} must be 0 or more, got {value}: raise it")
    Analysis(orientation, returns)
    models, left_out = with_metrics(models, (*costs, *gains))
    costs, gains = chosen_metrics(models, costs, gains)
    for name in fixed:
        if name not in costs:
            raise EfficiencyError(f"--fixed is one of the costs {', '.join(costs)}, got {name!r}: name a cost")
    analysis = Analysis(orientation, returns, tuple(name in fixed for name in costs) if fixed else ())
    return Comparison(models, left_out, costs, gains, analysis)


def _notes(models: Sequence[Model], names: Sequence[str], drawn: bool) -> list[str]:
    """Return what a reader must know about the repeats."""
    if not drawn:
        return ["no metric was drawn from repeats that differ: efficiencies are without their uncertainty"]
    notes = []
    constant = [name for name in names if relative_deviation(models, name) == 0]
    if constant:
        notes.append(f"taken as exact, as no repeat differs: {', '.join(constant)}")
    metrics = {name: [model.metrics[name] for model in models] for name in names if name not in constant}
    few = [n for n, own in metrics.items() if any(1 < len(m.values) < FEW or m.deviation is not None for m in own)]
    if few:
        notes.append(
            f"drawn from a log-normal distribution, of a deviation or of fewer than {FEW} repeats: {', '.join(few)}"
        )
    single = [n for n, own in metrics.items() if any(m.is_single for m in own)]
    if single:
        notes.append(
            f"measured once for some models, which get the relative deviation of the others: {', '.join(single)}"
        )
    for model in models:
        apart = {name: model.metrics[name].rows for name in metrics if len(model.metrics[name].values) > 1}
        if len(set(apart.values())) > 1:
            found = ", ".join(f"{len(rows)} of {name}" for name, rows in apart.items())
            notes.append(f"drawn independently, as their repeats are of different rows: {found} for {model.name}")
            break
    return notes
