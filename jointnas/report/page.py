"""The HTML page of a report: one file without scripts or links to the network; every name is escaped."""

from __future__ import annotations

import base64
import io
import shlex
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from jointnas import __version__
from jointnas.campaign.calibration import WIDTH, Calibration
from jointnas.campaign.candidate_file import write_text
from jointnas.campaign.folders import BEST, RETRAINED, WINNER_FILE, retrained_name
from jointnas.campaign.retrain import spread
from jointnas.campaign.spec import PolicySpec
from jointnas.campaign.trial import result_text, trained_accuracies
from jointnas.campaign.winner_file import WinnerFile
from jointnas.errors import JointNASError
from jointnas.network.cost import METRICS
from jointnas.report import figures
from jointnas.report.contents import Contents
from jointnas.report.html import STYLE, count_text, html_details, html_figure, html_knobs, html_table, html_tabs
from jointnas.space.constraint import MEASURED, format_metric
from jointnas.training.clock import clock_from_json
from jointnas.training.confusion import Confusion
from jointnas.training.observation import ACCURACY
from jointnas.training.recipe import NO_QUANTISER

TITLE = "jointnas report"
SHEET_IMAGES, SHEET_VIEWS = 4, 7
EFFICIENT_MODELS, EFFICIENT_ROWS, RESAMPLES = 15, 10, 60  # the most accurate that are compared, those that are listed


def write_report(path: Path, to: Path) -> Path:
    """Write the report of a run's folder to a file. Raises `RunError`, or `ExportError` where the file cannot be written."""
    write_text(to, page(Contents.read(path)))
    return to


def page(contents: Contents, refresh: float | None = None) -> str:
    """Return the whole page. refresh: seconds after which a browser loads it again, for a run that goes on."""
    sections = [
        ("winners", "Winners", _winners(contents)),
        ("costs", "Accuracy and cost", _costs(contents)),
        ("efficiency", "Efficiency", _efficiency(contents) if refresh is None else ""),
        ("progress", "Progress", _progress(contents)),
        ("calibration", "Predicted and trained", _calibration(contents)),
        ("knobs", "What matters", _knobs(contents)),
        ("trials", "Trainings", _trials(contents)),
        ("curves", "Learning curves", _curves(contents)),
        ("time", "Time", _timeline(contents)),
        ("failures", "Failures", _failures(contents)),
        ("network", "Network", _network(contents)),
        ("images", "Training images", _images(contents)),
        ("confusion", "Confusion", _confusion(contents)),
        ("repeat", "Repeat it", _repeat(contents)),
    ]
    shown = [(name, title, body) for name, title, body in sections if body]
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in shown)
    bodies = "".join(
        f'<section aria-labelledby="{name}-title"><h2 id="{name}"><span id="{name}-title">{title}</span></h2>{body}</section>'
        for name, title, body in shown
    )
    again = "" if refresh is None else f'<meta http-equiv="refresh" content="{refresh:g}">'
    name = escape(str(contents.path))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{again}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name} · {TITLE}</title><style>{STYLE}</style></head><body>"
        f'<header><h1>{name}</h1>{_lead(contents)}<nav aria-label="Sections"><ul>{links}</ul></nav></header>'
        f"<main>{bodies}</main><footer><p><small>jointnas {__version__}</small></p></footer></body></html>\n"
    )


# ------------------------------------------------------------------------------------------------------------ sections


def _lead(contents: Contents) -> str:
    """Return what was searched, and what was found."""
    spec = contents.spec
    source = Path(spec.data.source).name if spec.data else "images of the training function"
    asked = contents.queries[-1]["constraints"] if contents.queries else getattr(spec, "constraints", ())
    bounds = ", ".join(asked) or "no bound"
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(contents.created_at))
    slot, threads = contents.context.slot, contents.context.slot.threads
    budget = f"{clock_from_json(dict(spec.clock))} each, {slot.workers} at a time on {slot.name}, {count_text(threads, 'thread')} each"
    text = f"{source} · {bounds} · {budget} · {began}"
    found = "The search has not ended yet."
    if contents.winners:
        best = contents.winners[0]
        own, score = trained_accuracies(contents.trials, best), contents.score_name
        found = (
            f"Found: validation {score} {sum(own) / len(own):.4f} ({count_text(len(own), 'training')})"
            if own
            else f"Found: predicted {score} {best.mean:.4f}"
        )
    elif contents.observed:
        best_score = max(t.accuracy or 0.0 for t in contents.observed)
        found = f"Best {contents.score_name} so far: {best_score:.4f} in {len(contents.observed)} trainings."
    return f'<p class="lead">{escape(found)}</p><p>{escape(text)}</p>'


def _winners(contents: Contents) -> str:
    if not contents.winners:
        return ""
    first = contents.winners[0]
    metrics = [name for name in (*_exact(contents), *MEASURED) if name in first.costs]
    rows = []
    for rank, winner in enumerate(contents.winners, 1):
        own = trained_accuracies(contents.trials, winner)
        trained = "" if not own else f"{sum(own) / len(own):.4f} ({len(own)})"
        costs = [format_metric(name, winner.costs[name]) for name in metrics]
        rows.append([str(rank), f"{winner.mean:.4f} ± {winner.std:.4f}", trained, *costs])
    table = html_table(["rank", f"expected {contents.score_name}", "trained (times)", *metrics], rows, best=0)
    tests = [
        [
            str(row["rank"]),
            str(clock_from_json(row["clock"])),
            _spread(row["val_accuracies"]),
            _spread(row["test_accuracies"]),
        ]
        for row in contents.retrained
        if row["query"] == contents.queries[-1]["number"]
    ]
    retrained = (
        f"<h3>Trained again with other seeds</h3>{html_table(['rank', 'budget', 'validation', 'test'], tests)}"
        if tests
        else ""
    )
    whole = "".join(
        f"<details><summary>Knobs of winner {rank}</summary>{html_knobs(winner.candidate)}</details>"
        for rank, winner in enumerate(contents.winners, 1)
    )
    return table + retrained + whole


def _exact(contents: Contents) -> list[str]:
    """Return the exact metrics; bit operations only where weights have few bits, as elsewhere they are proportional to the MACs."""
    quantisers = {t.candidate.get("recipe", {}).get("quantiser", NO_QUANTISER) for t in contents.trials}
    return [name for name in METRICS if name != "bitops" or quantisers - {NO_QUANTISER}]


def _costs(contents: Contents) -> str:
    if not contents.observed or not contents.costs(contents.observed[0]):
        return ""
    metrics = [name for name in _exact(contents) if name in contents.costs(contents.observed[0])]
    pictures = [
        (
            name,
            html_figure(
                figures.accuracy_against_cost(contents, name),
                f"Validation {contents.score_name} over {name} of trained candidates, winners and predictions.",
            ),
        )
        for name in metrics
    ]
    rows = [
        [str(t.number), f"{t.accuracy:.4f}", *(format_metric(name, contents.costs(t)[name]) for name in metrics)]
        for t in contents.observed
    ]
    return html_tabs("cost", pictures) + html_details(
        "The figures as a table", html_table(["trial", contents.score_name, *metrics], rows)
    )


def _efficiency(contents: Contents) -> str:
    """Return the efficiency of the most accurate candidates, relative to each other."""
    from jointnas.efficiency.models import COSTS_OF_RUNS, FEWEST, models_of
    from jointnas.efficiency.ranking import rank

    if contents.spec.score != ACCURACY:
        return ""
    every = models_of(contents.trials, contents.context, contents.spec, "trial")
    names = (ACCURACY, *COSTS_OF_RUNS)
    models = [m for m in every if all(name in m.metrics and m.metrics[name].mean > 0 for name in names)]
    models.sort(key=lambda model: -model.metrics[ACCURACY].mean)
    if len(models) < FEWEST:
        return ""
    ranking = rank(models[:EFFICIENT_MODELS], COSTS_OF_RUNS, (ACCURACY,), returns="variable", resamples=RESAMPLES)
    rows = []
    for i in ranking.order[:EFFICIENT_ROWS]:
        model, own = ranking.models[i], ranking.efficiencies[i]
        drawn = "" if ranking.stochastic is None else f"{ranking.stochastic.efficient[i]:.0%}"
        costs = [format_metric(name, model.metrics[name].mean) for name in COSTS_OF_RUNS]
        accuracy = f"{model.metrics[ACCURACY].mean:.4f}"
        rows.append([model.name, f"{own.theta:.3f}", drawn, accuracy, *costs, ranking.peers_text(i)])
    text = (
        "Efficiency: at what share of its MACs and size a mixture of other candidates would be as accurate (data envelopment analysis, "
        "variable returns). Bars hold 90 % of the draws of accuracies from their repeats."
    )
    table = html_table(["trial", "efficiency", "on the frontier", "accuracy", *COSTS_OF_RUNS, "as good as"], rows)
    return html_figure(figures.ranking(ranking), text) + table


def _progress(contents: Contents) -> str:
    if not contents.observed:
        return ""
    text = f"The {contents.score_name} of each training, and the best so far."
    if contents.recipes:
        line = max(t.accuracy or 0.0 for t in contents.recipes)
        text += f" The dashed line is the best built-in recipe, {line:.4f}."
    ranks = [
        [str(r["number"]), str(r["trials"]), "" if r["rank_correlation"] is None else f"{r['rank_correlation']:.2f}"]
        for r in contents.rounds
    ]
    rounds = (
        html_details("Rounds", html_table(["round", "trainings", "rank correlation of the predictor"], ranks))
        if ranks
        else ""
    )
    return html_figure(figures.progress(contents), text) + rounds


def _calibration(contents: Contents) -> str:
    if not contents.predictions:
        return ""
    rows = []
    for who, predictions in contents.predictions.items():
        own = Calibration.of(predictions)
        rows.append(
            [who.replace("_", " "), str(own.count), f"{own.error:.4f}", f"{own.bias:+.4f}", f"{own.within:.0%}"]
        )
    table = html_table(["predictions of", "count", "mean error", "bias", f"within {WIDTH} std"], rows)
    return (
        html_figure(
            figures.calibration(contents),
            f"The {contents.score_name} as predicted before each training, and as trained.",
        )
        + table
    )


def _knobs(contents: Contents) -> str:
    sampled = contents.sampled
    if sampled is None or not sampled.effects:
        return ""
    effects = sampled.effects
    shown = [e for e in effects[: figures.SHOWN_DEPENDENCES] if e.importance > 0]
    dependences = "".join(
        html_figure(
            figures.dependence(effect, contents.score_name),
            f"Mean predicted {contents.score_name} by {effect.knob}.",
            "small",
        )
        for effect in shown
    )
    rows = [[e.knob, f"{e.importance:.1%}"] for e in effects]
    text = (
        f"By the predictor, over {len(sampled.accuracies):,} candidates that meet the bounds: the share of variance that a knob explains "
        "alone (first-order Sobol index)."
    )
    parallel = ""
    if len(contents.observed) > 1:
        lines = figures.parallel(contents, [e.knob for e in effects])
        parallel = html_figure(
            lines,
            "Each training as a line over the knobs that matter most; brighter and thicker lines are more accurate.",
        )
    return (
        html_figure(figures.importance(effects, contents.score_name), text)
        + f'<div class="grid">{dependences}</div>'
        + parallel
        + html_details("All knobs", html_table(["knob", "share of variance"], rows))
    )


def _trials(contents: Contents) -> str:
    best = max(contents.observed, key=lambda t: t.accuracy or 0.0, default=None)
    rows = [
        [
            str(t.number),
            str(t.round),
            t.kind,
            result_text(t),
            "" if t.predicted is None else f"{t.predicted:.4f}",
            "" if not t.observation or t.observation.steps is None else str(t.observation.steps),
        ]
        for t in contents.trials
    ]
    number = None if best is None else next(i for i, t in enumerate(contents.trials) if t is best)
    table = html_table(["trial", "round", "kind", contents.score_name, "predicted", "steps"], rows, best=number)
    return html_details(f"{len(rows)} trainings", table, is_open=len(rows) <= 40) if rows else ""


def _curves(contents: Contents) -> str:
    if not any(t.observation and t.observation.curve for t in contents.observed):
        return ""
    return html_figure(
        figures.curves(contents),
        "Validation accuracy along each training; the best one is thick, a cross marks one that was stopped.",
    )


def _timeline(contents: Contents) -> str:
    if not any(t.observation and t.observation.seconds and t.number in contents.ended_at for t in contents.trials):
        return ""
    disturbed = [t.number for t in contents.trials if t.disturbed or (t.observation and t.observation.was_disturbed)]
    text = "When each training that did not fail ran: blue trials, orange leaders again, green on all images."
    text += f" Hatched: disturbed by other programs. Disturbed: {', '.join(map(str, disturbed))}." if disturbed else ""
    return html_figure(figures.timeline(contents), text)


def _failures(contents: Contents) -> str:
    rows = [[str(t.number), t.observation.failure or ""] for t in contents.failed if t.observation]
    return html_table(["trial", "reason"], rows) if rows else ""


def _network(contents: Contents) -> str:
    """Return the picture of the first winner's network, where it is one."""
    from jointnas.training.trained_blueprint import trained_blueprint

    context = contents.context
    if (
        not contents.winners
        or context.input_shape is None
        or "network" not in contents.winners[0].candidate["architecture"]
    ):
        return ""
    blueprint = trained_blueprint(contents.winners[0].candidate, context.input_shape, len(context.classes or ()))
    text = (
        "The winner's blocks in their order: as high as their images, darker with more MACs. On top their outputs as channels × height × "
        "width."
    )
    return html_figure(figures.network("network-1", blueprint), text)


def _images(contents: Contents) -> str:
    """Return training images as the winner's recipe changes them, where they can be read."""
    from jointnas.data.dataset import load_data
    from jointnas.training.recipe import Recipe
    from jointnas.training.sheet import contact_sheet

    if not contents.winners or contents.spec.data is None or contents.context.classes is None:
        return ""
    try:
        data = load_data(contents.spec.data, fingerprint=contents.context.fingerprint)
        recipe = Recipe.from_knobs(contents.winners[0].candidate["recipe"])
        picture = contact_sheet(data, recipe, SHEET_IMAGES, SHEET_VIEWS, seed=0)
    except JointNASError:
        return ""
    png = io.BytesIO()
    picture.save(png, format="PNG", optimize=True)
    text = f"{SHEET_IMAGES} training images, on the left as they are, then as the winner's recipe augments them."
    source = base64.b64encode(png.getvalue()).decode()
    return f'<figure><img src="data:image/png;base64,{source}" alt="{escape(text)}"><figcaption>{escape(text)}</figcaption></figure>'


def _confusion(contents: Contents) -> str:
    """Return the confusion matrix of the retrained winner on the test images, or of the best network on the validation images."""
    found = _retrained_confusion(contents) or _validation_confusion(contents)
    if found is None:
        return ""
    matrix, where = found
    rows = [
        [
            row["class"],
            str(row["images"]),
            f"{row['recall']:.1%}",
            f"{row['precision']:.1%}",
            f"{row['f1']:.3f}",
            row["taken_for"] or "",
        ]
        for row in matrix.rows()
    ]
    text = f"{where}: accuracy {matrix.accuracy:.4f}, balanced {matrix.balanced_accuracy:.4f}, macro F1 {matrix.macro_f1:.4f}."
    table = html_table(["class", "images", "recall", "precision", "F1", "most often taken for"], rows)
    return html_figure(figures.confusion(matrix.counts, matrix.classes), text) + html_details("By class", table)


def _retrained_confusion(contents: Contents) -> tuple[Confusion, str] | None:
    """Return the matrix of the first winner, where this one was trained again."""
    query = contents.queries[-1]["number"] if contents.queries else 1
    folder = contents.path / RETRAINED / f"{retrained_name(query)}-1"
    if not (folder / WINNER_FILE).is_file():
        return None
    winner = WinnerFile.read(folder)
    if not contents.winners or winner.candidate != contents.winners[0].candidate:
        return None
    counts = winner.results.get("confusion")
    return (
        (Confusion.from_json(counts, winner.classes), "Winner 1, retrained, on the test images (all seeds together)")
        if counts
        else None
    )


def _validation_confusion(contents: Contents) -> tuple[Confusion, str] | None:
    """Return the matrix of the best network, unless it was trained on the validation images too."""
    from jointnas.campaign.best import TRAINING_IMAGES
    from jointnas.campaign.evaluate import confusion_of
    from jointnas.campaign.winner_file import load
    from jointnas.data.dataset import load_data

    folder = contents.path / BEST
    if not (folder / WINNER_FILE).is_file() or contents.spec.data is None:
        return None
    try:
        if WinnerFile.read(folder).results.get("trained_on") != TRAINING_IMAGES:
            return None
        data = load_data(contents.spec.data, fingerprint=contents.context.fingerprint)
        return confusion_of(load(folder), data.val), "The best network on the validation images, which chose it"
    except JointNASError:
        return None


def _repeat(contents: Contents) -> str:
    name, spec = shlex.quote(str(contents.path)), contents.spec
    lines = [f"jointnas runs show {name} --config > again.toml"]
    if spec.kind == PolicySpec.kind:
        lines.append("jointnas policy search --config again.toml")
    if spec.kind in ("search", "direct", "nash"):
        lines.append("jointnas search --config again.toml")
        if spec.data is not None and getattr(spec, "train_fn", None) is None:
            lines += [f"jointnas retrain {name} --seeds 3", f"jointnas show {shlex.quote(f'{contents.path}#1')}"]
    commands, settings = escape("\n".join(lines)), escape(spec.to_toml())
    return f"<pre>{commands}</pre>" + html_details("again.toml", f"<pre>{settings}</pre>")


def _spread(values: Sequence[float]) -> str:
    own = spread(values)
    return f"{own['mean']:.4f}" + ("" if own["std"] is None else f" ± {own['std']:.4f} ({len(values)} seeds)")
