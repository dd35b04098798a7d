"""A picture of a ranking: intervals of efficiency, probabilities of ranks, and the frontier of two metrics."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from jointnas.efficiency.ranking import QUANTILES, Ranking
from jointnas.space.constraint import format_metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 30  # models
LOGARITHMIC = 20.0  # from this ratio of the largest to the smallest cost on
PLACES = 200  # of a front, along its cost
BLUE, ORANGE, GREY = "#0072b2", "#e69f00", "#8a8a8a"


def draw_ranking(ranking: Ranking) -> str:
    """Return the SVG of a ranking's most efficient models."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context({"svg.fonttype": "none", "text.parse_math": False, "svg.hashsalt": "rank"}):
        figure = Canvas(figsize=size_of(ranking), layout="constrained")
        paint_ranking(figure, ranking)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def size_of(ranking: Ranking) -> tuple[float, float]:
    """Return the width and height of a ranking's picture in inches."""
    return 13, 1.6 + 0.28 * min(len(ranking.order), SHOWN)


def paint_ranking(figure: Figure, ranking: Ranking) -> None:
    """Draw the three panels of a ranking's most efficient models."""
    shown = ranking.order[:SHOWN]
    intervals, ranks, plane = figure.subplots(1, 3)
    _intervals(intervals, ranking, shown)
    _ranks(ranks, ranking, shown)
    _plane(plane, ranking)


def _intervals(axes: Axes, ranking: Ranking, shown: list[int]) -> None:
    """Draw θ of the mean metrics, and its mean and 90 % interval over the resamples."""
    places = np.arange(len(shown))
    exact = [ranking.efficiencies[i].theta for i in shown]
    axes.plot(exact, places, "o", color=ORANGE, label="of mean metrics")
    if ranking.stochastic is not None:
        low, _, high = ranking.stochastic.quantiles(QUANTILES)[:, shown]
        axes.hlines(places, low, high, color=BLUE, lw=2, label="5 % to 95 %")
        axes.plot(ranking.stochastic.mean[shown], places, "|", color=BLUE, ms=10, label="mean")
    axes.set_yticks(places, [ranking.models[i].name[:28] for i in shown])
    axes.invert_yaxis()
    axes.set(xlabel="efficiency θ")
    axes.legend(fontsize=8)


def _ranks(axes: Axes, ranking: Ranking, shown: list[int]) -> None:
    """Draw how probable each rank of each model is."""
    if ranking.stochastic is None:
        axes.set_axis_off()
        return
    shares, n = ranking.stochastic.ranks[shown][:, : len(shown)], len(shown)
    axes.imshow(shares, cmap="Blues", aspect="auto", vmin=0, extent=(0.5, n + 0.5, n - 0.5, -0.5))
    axes.set_yticks([])
    axes.set(xlabel="rank (darker: more probable)")


def _plane(axes: Axes, ranking: Ranking) -> None:
    """Draw the first gain over the first cost with their deviations, and the most that any cost buys; efficient models are orange."""
    cost, gain = ranking.costs[0], ranking.gains[0]
    _front(axes, ranking)
    for own, model in zip(ranking.efficiencies, ranking.models, strict=True):
        x, y = model.metrics[cost], model.metrics[gain]
        colour = ORANGE if own.is_efficient else GREY
        axes.errorbar(x.mean, y.mean, xerr=x.std, yerr=y.std, fmt="o", ms=4, lw=1, color=colour)
        if own.is_efficient:
            axes.annotate(model.name[:28], (x.mean, y.mean), fontsize=7, xytext=(4, 4), textcoords="offset points")
    axes.set(xlabel=cost, ylabel=gain)
    values = [model.metrics[cost].mean for model in ranking.models]
    if max(values) > LOGARITHMIC * min(values):
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: format_metric(cost, value))
    axes.xaxis.set_minor_formatter("")
    axes.tick_params(axis="x", rotation=30)


def _front(axes: Axes, ranking: Ranking) -> None:
    """Draw the Pareto front of the first cost and gain, and between which gains 90 % of the resampled fronts lie.

    Fronts that begin at a higher cost do not count at a lower one.
    """
    x, y = (np.array([m.metrics[name].mean for m in ranking.models]) for name in (ranking.costs[0], ranking.gains[0]))
    places = np.geomspace(x.min(), x.max(), PLACES)
    axes.step(places, [y[x <= place].max() for place in places], where="post", color=ORANGE, lw=1)
    if ranking.stochastic is not None:
        costs, gains = (ranking.stochastic.values[:, :, i] for i in (0, len(ranking.costs)))  # (r, n)
        reached = np.stack([np.where(costs <= place, gains, 0.0).max(axis=1) for place in places], axis=1)
        low, _, high = np.nanquantile(np.where(reached > 0, reached, np.nan), QUANTILES, axis=0)
        axes.fill_between(places, low, high, color=ORANGE, alpha=0.2, lw=0)
