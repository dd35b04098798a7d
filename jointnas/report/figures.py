"""The figures of a report: each is drawn by matplotlib and returned as SVG that follows the page's light or dark colours."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from jointnas.campaign.calibration import WIDTH
from jointnas.campaign.trial import CONFIRMATION, FINAL, Trial
from jointnas.network.blueprint import Blueprint
from jointnas.network.cost import block_cost
from jointnas.report.contents import Contents, Effect
from jointnas.space.constraint import format_metric
from jointnas.units import format_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jointnas.efficiency.ranking import Ranking

BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a8a8a",
)  # fmt: skip
"""Okabe and Ito's palette, which readers with colour-blindness can tell apart."""

INK = "#010203"  # becomes the page's own text colour
SIZE = (7.2, 3.4)  # inches
SHOWN_POINTS = 400
SHOWN_EFFECTS, SHOWN_DEPENDENCES, SHOWN_AXES = 12, 6, 7
STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.parse_math": False,  # names may hold dollar signs
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


def draw(name: str, paint: Callable[[Figure, Axes], None], size: tuple[float, float] = SIZE) -> str:
    """Return the SVG of a figure that `paint` draws on its axes. name: unique on the page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    style: Any = {**STYLE, "svg.hashsalt": name}
    with mpl.rc_context(style):
        figure = Canvas(figsize=size, layout="constrained")
        paint(figure, figure.subplots())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'( id="|href="#)', rf"\1{name}-", svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)


def ranking(found: Ranking) -> str:
    """Draw the efficiencies, ranks and frontier of candidates."""
    from jointnas.efficiency.picture import paint_ranking, size_of

    def paint(figure: Figure, axes: Axes) -> None:
        axes.remove()
        paint_ranking(figure, found)

    return draw("efficiency", paint, size_of(found))


def accuracy_against_cost(contents: Contents, metric: str) -> str:
    """Draw trials, winners and predictions of sampled candidates over a cost."""

    def paint(figure: Figure, axes: Axes) -> None:
        sampled = contents.sampled
        if sampled is not None and metric in sampled.costs:
            axes.scatter(
                sampled.costs[metric][:SHOWN_POINTS],
                sampled.accuracies[:SHOWN_POINTS],
                5,
                GREY,
                alpha=0.3,
                lw=0,
                label="predicted",
            )
            costs, best = front(sampled.costs[metric], sampled.accuracies)
            axes.step(costs, best, where="post", color=GREY, lw=1.2, label="predicted front")
        trained = [(contents.costs(t).get(metric), t.accuracy) for t in contents.observed]
        _scatter(axes, [p for p in trained if p[0] is not None], BLUE, "o", "trained")
        winners = [(w.costs.get(metric), w.mean) for w in contents.winners]
        _scatter(axes, [p for p in winners if p[0] is not None], ORANGE, "*", "winners, as expected", 110)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: format_metric(metric, value))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.set(xlabel=metric, ylabel=f"validation {contents.score_name}")
        axes.legend(loc="lower right")

    return draw(f"cost-{metric}", paint)


def front(costs: Any, accuracies: Any) -> tuple[Any, Any]:
    """Return the costs and accuracies of those points that none cheaper beats, the cheapest first."""
    order = np.lexsort((-accuracies, costs))
    best = np.maximum.accumulate(accuracies[order])
    better = np.concatenate([[True], best[1:] > best[:-1]])
    return costs[order][better], best[better]


def progress(contents: Contents) -> str:
    """Draw the accuracies of trainings in their order, the best so far, and the best built-in recipe."""

    def paint(figure: Figure, axes: Axes) -> None:
        observed = contents.observed
        numbers = [t.number for t in observed]
        best = np.maximum.accumulate([t.accuracy or 0.0 for t in observed])
        axes.step(numbers, best, where="post", color=BLUE, lw=1.5, label="best so far")
        for kind, colour, label in (("trial", SKY, "training"), (CONFIRMATION, ORANGE, "leader, again")):
            own = [t for t in observed if (t.kind == CONFIRMATION) == (kind == CONFIRMATION)]
            _scatter(axes, [(t.number, t.accuracy) for t in own], colour, "o", label)
        if contents.recipes:
            line = max(t.accuracy or 0.0 for t in contents.recipes)
            axes.axhline(line, color=GREEN, ls="--", lw=1.2, label="best built-in recipe")
        axes.set(xlabel="training", ylabel=f"validation {contents.score_name}")
        axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
        axes.legend(loc="lower right")

    return draw("progress", paint)


def calibration(contents: Contents) -> str:
    """Draw observed over predicted accuracies, with two standard deviations of each prediction."""

    def paint(figure: Figure, axes: Axes) -> None:
        values: list[float] = []
        colours = cycle((BLUE, ORANGE, GREEN))
        for who, rows in contents.predictions.items():
            means, spreads, observed = (np.array([row[i] for row in rows]) for i in range(3))
            colour = next(colours)
            axes.errorbar(
                means, observed, xerr=WIDTH * spreads, fmt="o", ms=5, lw=0.8, color=colour, label=who.replace("_", " ")
            )
            values += [*means, *observed]
        ends = [min(values), max(values)]
        axes.plot(ends, ends, color=GREY, lw=1, label="perfect")
        axes.set(xlabel=f"predicted {contents.score_name} ± {WIDTH} std", ylabel=f"observed {contents.score_name}")
        axes.legend(loc="lower right")

    return draw("calibration", paint)


def importance(effects: Sequence[Effect], score: str) -> str:
    """Draw the share of variance that each knob explains by itself."""
    shown = list(reversed(effects[:SHOWN_EFFECTS]))

    def paint(figure: Figure, axes: Axes) -> None:
        axes.barh([e.knob for e in shown], [e.importance for e in shown], color=BLUE)
        axes.set(xlabel=f"share of the variance of the predicted {score}")

    return draw("importance", paint, (SIZE[0], 0.6 + 0.26 * max(3, len(shown))))


def dependence(effect: Effect, score: str) -> str:
    """Draw the mean predicted score over one knob."""

    def paint(figure: Figure, axes: Axes) -> None:
        if any(isinstance(value, str) for value in effect.values):
            axes.plot([str(v)[:18] for v in effect.values], effect.means, "o", color=BLUE)
            axes.tick_params(axis="x", rotation=30)
        else:
            axes.plot(effect.values, effect.means, "o-", color=BLUE)
            positive = [value for value in effect.values if value > 0]
            if positive and min(effect.values) >= 0 and max(positive) / min(positive) >= 20:
                axes.set_xscale("symlog", linthresh=min(positive))  # where a knob may be off, 0 is one of its values
                axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.set(xlabel=effect.knob, ylabel=f"predicted {score}")

    return draw(f"dependence-{_id(effect.knob)}", paint, (3.5, 2.4))


def parallel(contents: Contents, knobs: Sequence[str]) -> str:
    """Draw each trial as a line over its most important knobs, coloured by its accuracy."""
    observed = contents.observed
    names = list(knobs[:SHOWN_AXES])

    def paint(figure: Figure, axes: Axes) -> None:
        from matplotlib import colormaps

        columns, ticks = [], []
        for name in names:
            values = [{**t.candidate["architecture"], **t.candidate["recipe"]}.get(name) for t in observed]
            numbers: list[Any] = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
            if numbers and len(numbers) == sum(v is not None for v in values):
                low, span = min(numbers), max(numbers) - min(numbers) or 1
                columns.append([np.nan if v is None else (v - low) / span for v in values])
                ticks.append([(0.0, f"{low:.3g}"), (1.0, f"{low + span:.3g}")])
            else:
                kinds = sorted({str(v).lower() for v in values if v is not None})
                places = {kind: i / max(1, len(kinds) - 1) for i, kind in enumerate(kinds)}
                columns.append([np.nan if v is None else places[str(v).lower()] for v in values])
                ticks.append([(place, kind[:12]) for kind, place in places.items()])
        reached = np.array([t.accuracy or 0.0 for t in observed])
        ranks = reached.argsort(kind="stable").argsort() / max(1, len(reached) - 1)
        for i in ranks.argsort():
            colour = colormaps["viridis"](0.9 * ranks[i])
            axes.plot(
                range(len(names)),
                [column[i] for column in columns],
                "o-",
                ms=3,
                lw=1 + ranks[i],
                color=colour,
                alpha=0.8,
            )
        for x, own in enumerate(ticks):
            axes.axvline(x, color=GREY, lw=0.8)
            for place, text in own:
                axes.text(x + 0.04, place + 0.01, text, fontsize=8)
        axes.set_xticks(range(len(names)), names, rotation=20)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)

    return draw("parallel", paint, (SIZE[0], 3.8))


def curves(contents: Contents) -> str:
    """Draw the learning curves of the trials; those that were stopped end in a cross."""
    drawn = [t for t in contents.observed if t.observation and t.observation.curve]

    def paint(figure: Figure, axes: Axes) -> None:
        best = max(drawn, key=lambda t: t.observation.accuracy or 0.0 if t.observation else 0.0)
        for trial in drawn:
            assert trial.observation is not None
            points = [(point.fraction, point.accuracy) for point in trial.observation.curve]
            points.append((trial.observation.fraction, trial.observation.accuracy or 0.0))
            is_best = trial is best
            axes.plot(
                *zip(*points, strict=True),
                color=ORANGE if is_best else BLUE,
                lw=2 if is_best else 0.8,
                alpha=1 if is_best else 0.5,
            )
            if trial.observation.fraction < 1:
                axes.plot(*points[-1], "x", color=RED)
        axes.set(xlabel="share of the budget", ylabel="validation accuracy", xlim=(0, 1.02))

    return draw("curves", paint)


def timeline(contents: Contents) -> str:
    """Draw when each training that did not fail ran, one lane for each that ran at a time; disturbed ones are hatched."""
    spans = [
        (contents.ended_at[t.number] - (t.observation.seconds or 0.0), contents.ended_at[t.number], t)
        for t in contents.trials
        if t.observation and t.number in contents.ended_at and t.observation.seconds
    ]
    first = min(start for start, _, _ in spans)
    lanes: list[float] = []

    def lane_of(start: float, end: float) -> int:
        for i, free in enumerate(lanes):
            if free <= start + 0.5:
                lanes[i] = end
                return i
        lanes.append(end)
        return len(lanes) - 1

    def paint(figure: Figure, axes: Axes) -> None:
        for start, end, trial in sorted(spans, key=lambda span: span[0]):
            lane = lane_of(start, end)
            axes.barh(
                lane,
                end - start,
                left=start - first,
                color={CONFIRMATION: ORANGE, FINAL: GREEN}.get(trial.kind, BLUE),
                edgecolor="white",
                lw=0.5,
                hatch=_hatch(trial),
            )
            if end - start > 0.03 * (max(e for _, e, _ in spans) - first):
                axes.text(
                    (start + end) / 2 - first,
                    lane,
                    str(trial.number),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white",
                )
        axes.set_yticks(range(len(lanes)), [f"{i + 1}" for i in range(len(lanes))])
        axes.xaxis.set_major_formatter(lambda value, _: format_duration(max(0.0, value)))
        axes.set(xlabel="since the first training", ylabel="at a time")

    return draw("timeline", paint, (SIZE[0], 1.2 + 0.3 * min(20, 1 + len(spans) // 8)))


def network(name: str, blueprint: Blueprint) -> str:
    """Draw a network's blocks in their order: as high as their images, darker with more MACs, and the ways past blocks."""
    shapes = blueprint.shapes()
    costs = []
    for block, wiring in zip(blueprint.blocks, blueprint.wiring, strict=True):
        inputs = tuple(shapes[i] for i in wiring)
        costs.append(block_cost(block, inputs, (False,) * len(inputs)).macs)
    most = max(max(costs), 1)

    def paint(figure: Figure, axes: Axes) -> None:
        top = max((shape[1] for shape in shapes if len(shape) == 3), default=1)
        for i, (block, cost) in enumerate(zip(blueprint.blocks, costs, strict=True)):
            shape = shapes[i + 1]
            height = shape[1] if len(shape) == 3 else top / 8
            axes.bar(i, height, 0.7, bottom=-height / 2, color=BLUE, alpha=min(1.0, 0.2 + 0.8 * cost / most))
            axes.text(i, -0.56 * top, block.name[:14], rotation=60, ha="right", va="top", fontsize=8)
            axes.text(i, 0.55 * top, "×".join(map(str, shape)), rotation=60, ha="left", va="bottom", fontsize=7)
        for i, wiring in enumerate(blueprint.wiring):
            for source in wiring:
                if source != i:
                    axes.annotate(
                        "",
                        (i, 0.3 * top),
                        (source - 1, 0.3 * top),
                        arrowprops={"arrowstyle": "->", "color": ORANGE, "connectionstyle": "arc3,rad=-0.3"},
                    )
        axes.set(xlim=(-0.8, len(costs)), ylim=(-1.2 * top, 1.2 * top))
        axes.set_axis_off()

    return draw(name, paint, (SIZE[0], 2.6))


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Draw how many images of each class were given each class."""

    def paint(figure: Figure, axes: Axes) -> None:
        counts = np.array(matrix, dtype=np.float64)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        names = [str(name)[:16] for name in classes]
        if len(names) <= 40:
            axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
            axes.set_yticks(range(len(names)), names)
        for i, row in enumerate(counts if len(names) <= 20 else []):
            for j, count in enumerate(row):
                colour = "white" if shares[i, j] > 0.5 else "#333333"
                axes.text(j, i, f"{int(count)}", ha="center", va="center", fontsize=7, color=colour)
        axes.set(xlabel="given", ylabel="true")

    side = min(7.2, 2 + 0.35 * len(classes))
    return draw("confusion", paint, (side, side))


def _scatter(
    axes: Axes, points: Sequence[tuple[Any, Any]], colour: str, marker: str, label: str, size: int = 28
) -> None:
    if points:
        x, y = zip(*points, strict=True)
        axes.scatter(x, y, size, colour, marker=marker, label=label, zorder=3)


def _hatch(trial: Trial) -> str | None:
    return "///" if trial.observation and trial.observation.was_disturbed else None


def _id(name: str) -> str:
    return re.sub(r"\W", "-", name)
