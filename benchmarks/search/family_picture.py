"""Draw the family of a climb (NASH): each trial's validation accuracy by step, below the one whose weights it started from.

python -m benchmarks.search.family_picture runs/photos-nash-1 --to docs/family.png
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from jointnas.campaign.candidate_file import candidate_costs
from jointnas.campaign.store import Run
from jointnas.campaign.trial import FINAL
from jointnas.network.families import MORPHISMS

LABELLED = 2  # morphisms of a best network whose text is drawn, at most


def main() -> None:
    """Read the run and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    with Run.open(options.run) as run:
        context, trials = run.context, {t.number: t for t in run.trials() if t.kind != FINAL and t.accuracy is not None}
    macs = {
        n: candidate_costs(t.candidate, context.input_shape or (), len(context.classes or ()))["macs"] / 1e6
        for n, t in trials.items()
    }
    parents = {t.parent for t in trials.values()}
    last = max(t.round for t in trials.values())
    best = {n for n, t in trials.items() if n in parents}
    best.add(max((n for n, t in trials.items() if t.round == last), key=lambda n: trials[n].accuracy or 0.0))
    plt.style.use("seaborn-v0_8-whitegrid")
    figure, axes = plt.subplots(figsize=(11, 5.2), layout="constrained")
    for number, trial in trials.items():
        if trial.parent is not None:
            parent, on_path = trials[trial.parent], number in best
            style = {"color": "crimson", "lw": 2.2} if on_path else {"color": "grey", "lw": 0.8, "alpha": 0.6}
            axes.plot([parent.round, trial.round], [parent.accuracy or 0.0, trial.accuracy or 0.0], zorder=1, **style)
    numbers = list(trials)
    points = axes.scatter(
        [trials[n].round for n in numbers],
        [trials[n].accuracy or 0.0 for n in numbers],
        c=[macs[n] for n in numbers],
        cmap="viridis",
        s=[110 if n in best else 50 for n in numbers],
        edgecolors="white",
        zorder=2,
    )
    for number in sorted(best):
        trial = trials[number]
        inherited = 0 if trial.parent is None else len(_morphisms(trials[trial.parent].candidate))
        own = _morphisms(trial.candidate)[inherited:]
        text = "; ".join(own[:LABELLED]) + (f"; {len(own) - LABELLED} more" if len(own) > LABELLED else "")
        label = text or ("the first network" if trial.parent is None else "unmodified")
        axes.annotate(
            label, (trial.round, trial.accuracy or 0.0), (0, 12), textcoords="offset points", ha="center", fontsize=7
        )
    figure.colorbar(points, label="million MACs", pad=0.01)
    axes.set(xlabel="step", ylabel="validation accuracy", xticks=range(last + 1), xlim=(-0.5, last + 0.5))
    axes.set_title("NASH: children grow from the best network of the step before (red: the path to the final network)")
    options.to.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.to, dpi=110)


def _morphisms(candidate: Mapping[str, Any]) -> list[str]:
    return [str(text) for text in candidate["architecture"].get(MORPHISMS, ())]


if __name__ == "__main__":
    main()
