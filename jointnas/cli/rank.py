"""`jointnas rank`: models by the efficiency with which they turn costs into gains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jointnas.cli.common import Json, Quiet, messages, print_json, print_table

if TYPE_CHECKING:
    from jointnas.efficiency.ranking import Ranking


def rank_command(
    sources: Annotated[list[str], typer.Argument(help="CSVs with a row for each repeat of a model, and runs.")],
    cost: Annotated[
        list[str] | None, typer.Option(help="A metric that should be small; repeatable (default: all in common).")
    ] = None,
    gain: Annotated[
        list[str] | None,
        typer.Option(help="A metric that should be large; repeatable (default: accuracies and speeds)."),
    ] = None,
    fixed: Annotated[list[str] | None, typer.Option(help="A cost that a model cannot change; repeatable.")] = None,
    orientation: Annotated[
        str, typer.Option(metavar="input|output", help="What is compared: shares of the costs, or of the gains.")
    ] = "input",
    returns: Annotated[
        str, typer.Option(metavar="constant|variable", help="Returns to scale: CCR, or BCC.")
    ] = "constant",
    resamples: Annotated[int, typer.Option(help="How often metrics are drawn from their repeats; 0 for never.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    top: Annotated[int, typer.Option(min=1, help="Models to list.")] = 30,
    picture: Annotated[Path | None, typer.Option(help="An .svg with efficiencies, ranks and the frontier.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Rank models by their relative efficiency over several metrics at once, with its uncertainty.

    By data envelopment analysis: a model has the efficiency θ where a mixture of others gives as much at the share θ of its costs. Metrics
    that repeats show to vary are drawn from them again and again, and the frontier with them.

    A CSV has the column model and one for each metric; rows of one model are repeats, whose metrics were measured together. latency_std
    beside latency is the deviation of a mean.

    \b
    Examples:
      jointnas rank models.csv --cost latency --cost macs --gain accuracy
      jointnas rank runs/digits-resnet9-1 --cost macs --cost params
      jointnas rank models.csv --returns variable --picture efficiency.svg
    """
    from jointnas.campaign.candidate_file import write_text
    from jointnas.campaign.folders import find_run
    from jointnas.efficiency.models import read_run, read_table, without_doubles
    from jointnas.efficiency.ranking import rank
    from jointnas.errors import EfficiencyError, ExportError

    if picture is not None and picture.suffix != ".svg":
        raise EfficiencyError(f"a picture of efficiencies is an .svg, got {str(picture)!r}: change --picture")
    models = [
        model
        for source in sources
        for model in (read_table(Path(source)) if Path(source).suffix.lower() == ".csv" else read_run(find_run(source)))
    ]
    given = {"orientation": orientation, "returns": returns, "resamples": resamples, "seed": seed}
    ranking = rank(without_doubles(models), cost or [], gain or [], fixed or [], **given)  # type: ignore[arg-type]
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


def _print_ranking(ranking: Ranking, top: int) -> None:
    """Print a line for each model, the most efficient first."""
    from jointnas.efficiency.ranking import QUANTILES
    from jointnas.space.constraint import format_metric

    stochastic = ranking.stochastic
    columns = ["rank", "model", "efficiency"]
    columns += [] if stochastic is None else ["mean", f"{QUANTILES[0]:.0%} – {QUANTILES[2]:.0%}", "efficient"]
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
