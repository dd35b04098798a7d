"""`jointnas rank`: models by the efficiency with which they turn costs into gains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jointnas.cli.common import Device, Json, Measured, Quiet, messages, print_json, print_table

if TYPE_CHECKING:
    from jointnas.efficiency.models import Model
    from jointnas.efficiency.ranking import Ranking

INPUT = ((3, 32, 32), 10)  # where nothing says otherwise
PROGRESS_EVERY = 50  # measurements


def rank_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="CSVs with a row for each repeat of a model; runs; winners' folders; candidate files; built-in recipes; baselines, or one of "
            "them; networks of torchvision and timm."
        ),
    ],
    cost: Annotated[
        list[str] | None, typer.Option(help="A metric that should be small; repeatable (default: all in common).")
    ] = None,
    gain: Annotated[
        list[str] | None,
        typer.Option(help="A metric that should be large; repeatable (default: accuracies and speeds)."),
    ] = None,
    fixed: Annotated[
        list[str] | None,
        typer.Option(help="A cost that is compared but not to be reduced, such as the input's size; repeatable."),
    ] = None,
    orientation: Annotated[
        str, typer.Option(metavar="input|output", help="What is compared: shares of the costs, or of the gains.")
    ] = "input",
    returns: Annotated[
        str,
        typer.Option(
            metavar="constant|variable",
            help="Returns to scale: whether a small model may be scaled up to stand for a large one (CCR), or only mixtures count (BCC).",
        ),
    ] = "constant",
    resamples: Annotated[int, typer.Option(help="How often metrics are drawn from their repeats; 0 for never.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    measure: Measured = None,
    repeats: Annotated[int, typer.Option(help="Measurements of each metric of --measure.")] = 10,
    input_shape: Annotated[
        str | None, typer.Option(help="Images of named networks as CxHxW (default: the first run's, or 3x32x32).")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Their classes (default: the first run's, or 10).")] = None,
    device: Device = "auto",
    top: Annotated[int, typer.Option(min=1, help="Models to list.")] = 30,
    save: Annotated[Path | None, typer.Option(help="A .csv for the models' metrics, to rank them again.")] = None,
    picture: Annotated[Path | None, typer.Option(help="An .svg with efficiencies, ranks and the frontier.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Rank models by their relative efficiency over several metrics at once, with its uncertainty.

    By data envelopment analysis: a model has the efficiency θ where a mixture of others gives as much at the share θ of its costs. Where a
    metric has repeats, it is resampled from them 1,000 times, and all efficiencies are computed again each time.

    A CSV has the column model and one for each metric; rows of one model are repeats, whose metrics were measured together. latency_std
    beside latency is the deviation of a mean. Models of one name in several sources are one; those that lack a metric that is compared are
    left out. A model of a table whose name is that of a network gets the exact costs that are named and missing, and what --measure names is
    measured on this device.

    \b
    Examples:
      jointnas rank models.csv --cost latency --cost macs --gain accuracy
      jointnas rank runs/digits-resnet9-1 --cost macs --cost params
      jointnas rank baselines --measure latency --repeats 10 --save speeds.csv
      jointnas rank speeds.csv runs/cifar10-baselines-1 --returns variable --cost latency --gain accuracy --picture efficiency.svg
    """
    from jointnas.campaign.candidate_file import make_writable, write_text
    from jointnas.efficiency.measured import write_table
    from jointnas.efficiency.models import GAIN_ENDINGS
    from jointnas.efficiency.ranking import comparison, rank
    from jointnas.errors import EfficiencyError, ExportError

    for name, path, kind in (("--picture", picture, ".svg"), ("--save", save, ".csv")):
        if path is not None and path.suffix != kind:
            raise EfficiencyError(f"{name} writes a {kind} file, got {str(path)!r}: change its name")
        if path is not None:
            try:
                make_writable(path.parent)
            except ExportError as error:
                raise EfficiencyError(f"{name} cannot be written to {str(path)!r}: choose another file") from error
    given: dict[str, Any] = {"costs": cost or [], "gains": gain or [], "fixed": fixed or []}
    given |= {"orientation": orientation, "returns": returns, "resamples": resamples, "seed": seed}

    def is_ranked(models: Sequence[Model]) -> bool:
        has_gain = any(name.endswith(GAIN_ENDINGS) for model in models for name in model.metrics)
        return bool(gain or has_gain or save is None or picture is not None)

    def check(models: Sequence[Model]) -> None:
        if is_ranked(models):
            comparison(models, **given)

    models = _models(
        sources, measure or [], [*(cost or []), *(gain or [])], check, repeats, input_shape, classes, device
    )
    if save is not None:
        write_table(models, save)
    if not is_ranked(models):
        note = f"{save} has {len(models)} models; none is ranked, as no metric is a gain such as accuracy"
        messages.print(note)
        if as_json:
            print_json({"costs": [], "gains": [], "models": [], "better": None, "notes": [note]})
        return
    ranking = rank(models, **given)
    if picture is not None:
        from jointnas.efficiency.picture import draw_ranking

        try:
            write_text(picture, draw_ranking(ranking))
        except ExportError as error:
            raise EfficiencyError(f"--picture cannot be written to {str(picture)!r}: choose another file") from error
    if as_json:
        print_json(ranking.to_json())
        return
    for note in ranking.notes:
        messages.print(note)
    _print_ranking(ranking, top)


def _models(
    sources: Sequence[str],
    metrics: Sequence[str],
    compared: Sequence[str],
    check: Callable[[Sequence[Model]], object],
    repeats: int,
    shape: str | None,
    classes: int | None,
    device: str,
) -> list[Model]:
    """Return the models of all sources with their metrics.

    metrics: to measure. compared: those that are named; a model of a table that lacks an exact cost gets it if its name is that of a network.
    check: is called before anything is measured, with models whose measured metrics are not those yet.
    """
    from dataclasses import replace

    from jointnas.campaign.folders import WINNER_FILE, find_run
    from jointnas.cli.show import parse_shape
    from jointnas.efficiency.measured import (
        check_measurements,
        measured,
        network_named,
        networks_named,
        unknown_model,
        with_costs,
    )
    from jointnas.efficiency.models import Images, Metric, joined, read_run, read_table, read_winner
    from jointnas.errors import EfficiencyError, RunError
    from jointnas.execution import share_slots
    from jointnas.network.cost import METRICS

    found: list[Model] = []
    networks: dict[str, Any] = {}
    folders: list[str] = []
    for source in sources:
        path = Path(source)
        if path.suffix.lower() == ".csv":
            found += read_table(path, messages.print)
        elif (path / WINNER_FILE).is_file():
            found.append(read_winner(path))
        elif not path.is_dir() and (own := networks_named(source)) is not None:
            double = next((name for name in own if name in networks), None)
            if double is not None:
                raise EfficiencyError(f"models need different names, got {double!r} twice: rename a file or drop one")
            networks.update(own)
        else:
            try:
                folder = find_run(source)
            except RunError as error:
                raise (error if "/" in source else unknown_model(source)) from error
            found += read_run(folder, str(folder) if folder.name in folders else None)
            folders.append(folder.name)
    images = next((model.images for model in found if model.images is not None), Images(*INPUT))
    images = Images(parse_shape(shape) if shape else images.shape, images.classes if classes is None else classes)
    completed = []
    for i, model in enumerate(found):
        missing = [name for name in compared if name in METRICS and name not in model.metrics]
        if model.images is None and (metrics or missing) and (file := network_named(model.name)) is not None:
            (network,) = with_costs({model.name: file}, images)
            exact = {name: network.metrics[name] for name in missing}
            found[i] = replace(network, metrics={**model.metrics, **exact})
            completed += [model.name] if missing else []
    if completed:
        shape_text = "×".join(map(str, images.shape))
        messages.print(
            f"exact costs of {', '.join(completed)} are for images of {shape_text} and {images.classes} classes"
        )
    models = joined([*with_costs(networks, images), *found])
    if not metrics:
        return models
    slot = share_slots(1, device)
    check_measurements(metrics, repeats, slot)
    expected = {name: Metric((1.0,)) for name in metrics}
    check([m if m.candidate is None else replace(m, metrics={**m.metrics, **expected}) for m in models])

    def show(ended: int, total: int) -> None:
        if ended % PROGRESS_EVERY == 0 or ended == total:
            messages.print(f"measured {ended} of {total}")

    return measured(models, metrics, repeats, slot, show)


def _print_ranking(ranking: Ranking, top: int) -> None:
    """Print a line for each model, the most efficient first."""
    from jointnas.efficiency.ranking import QUANTILES
    from jointnas.space.constraint import format_metric

    stochastic = ranking.stochastic
    columns = ["rank", "model", "efficiency"]
    columns += [] if stochastic is None else ["mean", f"{QUANTILES[0]:.0%} – {QUANTILES[2]:.0%}", "on frontier"]
    rows = []
    for place, i in enumerate(ranking.order[:top], 1):
        model = ranking.models[i]
        row = [str(place), model.name, f"{ranking.efficiencies[i].theta:.3f}"]
        if stochastic is not None:
            low, _, high = stochastic.quantiles(QUANTILES)[:, i]
            row += [f"{stochastic.mean[i]:.3f}", f"{low:.3f} – {high:.3f}", f"{stochastic.efficient[i]:.0%}"]
        row += [format_metric(name, model.metrics[name].mean) for name in (*ranking.costs, *ranking.gains)]
        rows.append((*row, ranking.peers_text(i)))
    print_table("", (*columns, *ranking.costs, *ranking.gains, "as good as"), rows)
