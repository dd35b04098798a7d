"""Draw an ended campaign: what was trained in each round, what the winners reached, how the trainings learned, and how far
predictions were from what trainings gave.

python -m benchmarks.search.campaign_picture runs/cifar --to docs/campaign.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from jointnas.campaign.calibration import Prediction, predictions_of
from jointnas.campaign.candidate_file import candidate_costs
from jointnas.campaign.folders import WINNER_FILE
from jointnas.campaign.spec import SearchSpec
from jointnas.campaign.store import Run
from jointnas.campaign.trial import Trial
from jointnas.space.knob_space import Candidate

COLOURS = plt.colormaps["viridis"]


def draw_trials(axes: Axes, trials: list[Trial], shape: tuple[int, ...], classes: int, rounds: int) -> None:
    """Draw validation accuracy over MACs, a colour a round."""
    for number in range(1, rounds + 1):
        of_round = [t for t in trials if t.round == number and t.observation and t.observation.accuracy is not None]
        macs = [millions_of_macs(t.candidate, shape, classes) for t in of_round]
        accuracies = [t.observation.accuracy for t in of_round if t.observation]
        colour = COLOURS((number - 1) / max(1, rounds - 1) * 0.85)
        axes.scatter(macs, accuracies, color=colour, s=36, label=f"round {number}, validation")
    axes.set(xlabel="million MACs", ylabel="accuracy", title="candidates and retrained winners")


def millions_of_macs(candidate: Candidate, shape: tuple[int, ...], classes: int) -> float:
    """Return the MACs of all views that a candidate scores."""
    return candidate_costs(candidate, shape, classes)["macs"] / 1e6


def draw_winners(axes: Axes, folder: Path) -> None:
    """Draw the retrained winners' test accuracy, mean and standard deviation over seeds."""
    label: str | None = "winner, test (mean ± sd)"
    for path in sorted(folder.glob(f"retrained/*/{WINNER_FILE}")):
        results = json.loads(path.read_text())["results"]
        test = results["test_accuracy"]
        axes.errorbar(
            results["macs"] / 1e6,
            test["mean"],
            yerr=test["std"],
            fmt="*",
            color="crimson",
            ms=13,
            capsize=4,
            label=label,
        )
        label = None


def draw_curves(axes: Axes, trials: list[Trial], rounds: int) -> None:
    """Draw the learning curves, the final accuracy as their last point."""
    for trial in trials:
        if trial.kind != "confirmation" and trial.observation and trial.observation.accuracy is not None:
            points = [(p.fraction, p.accuracy) for p in trial.observation.curve] + [(1.0, trial.observation.accuracy)]
            colour = COLOURS((trial.round - 1) / max(1, rounds - 1) * 0.85)
            axes.plot(*zip(*points, strict=True), color=colour, lw=1.2, marker=".", ms=4)
    axes.set(xlabel="fraction of the training budget", ylabel="validation accuracy", title="learning curves")


def draw_predictions(axes: Axes, predictions: dict[str, list[Prediction]]) -> None:
    """Draw validation accuracies over those that were predicted before."""
    for (name, rows), (colour, mark) in zip(predictions.items(), (("steelblue", "o"), ("crimson", "*")), strict=False):
        mean, std, trained = zip(*rows, strict=True)
        label = name.replace("_", " ")
        axes.errorbar(mean, trained, xerr=std, fmt=mark, color=colour, ms=7, alpha=0.8, elinewidth=1, label=label)
    middle = fmean(one.mean for rows in predictions.values() for one in rows)
    axes.axline((middle, middle), slope=1, color="grey", lw=1)
    axes.set(xlabel="predicted before (± sd)", ylabel="validation accuracy", title="predicted against observed")
    axes.legend(frameon=True)


def main() -> None:
    """Read the run and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    with Run.open(options.run) as run:
        spec, context, trials = run.spec, run.context, run.trials()
        predictions = predictions_of(spec, context, trials, run.retrained())
    assert isinstance(spec, SearchSpec)
    assert spec.data is not None
    rounds = max(t.round for t in trials)
    plt.style.use("seaborn-v0_8-whitegrid")
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2), sharey=True, layout="constrained")
    draw_trials(left, trials, context.input_shape or (), len(context.classes or ()), rounds)
    draw_winners(left, options.run)
    draw_curves(middle, trials, rounds)
    if predictions:
        draw_predictions(right, predictions)
    left.legend(frameon=True)
    constraints = ", ".join(spec.constraints)
    figure.suptitle(f"{Path(spec.data.source).stem}: {len(trials)} trainings under {constraints}")
    options.to.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.to, dpi=130)


if __name__ == "__main__":
    main()
