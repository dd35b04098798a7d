"""MADS scaling of a light network: how few MACs reach an accuracy, by MADS from two networks, by random search and by Optuna.

    python -m benchmarks.costs.scaling --data cifar10-images.zip --accuracy 0.4 --train-time 60s --workers 2 --out runs/scaling \
        --to benchmarks/results/scaling.json

The NOMAD team's first formulation (HAET 2021): least MACs over depth, width and resolution multipliers at an accuracy, one recipe.
Every arm makes as many trainings, `--batch` of them at a time; Optuna is its TPE sampler with the accuracy as its constraint and the
network as one more choice, random search draws from the same Sobol sequence as our pools. Each arm's trainings are kept in a run of
its own; the same command goes on where it stood. Ranked by what was found: one training each, on validation images.

Needs Optuna (`pip install optuna`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, write
from jointnas.campaign.baselines import candidate as baseline
from jointnas.campaign.direct import DirectSearch
from jointnas.campaign.events import Event, TrialEnded
from jointnas.campaign.folders import open_run
from jointnas.campaign.options import make_spec
from jointnas.campaign.runner import Runner
from jointnas.campaign.spec import DirectSpec
from jointnas.campaign.store import Context, Run
from jointnas.data.dataset import load_data
from jointnas.data.spec import DataSpec
from jointnas.execution import Executor, share_slots
from jointnas.search.search import Search
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.space.transfer import nearest_candidate
from jointnas.training.job import trial_executor

FAMILIES = {"mads from senet18": ("senet", "senet18"), "mads from resnet18": ("resnet", "resnet18")}
Setting = argparse.Namespace


def show(event: Event) -> None:
    """Print each training as it ends."""
    if isinstance(event, TrialEnded):
        print(f"  trial {event.trial.number}: {event.trial.accuracy}", flush=True)


def by_mads(space: Space, options: Setting, run: Run, executor: Executor, name: str) -> None:
    """Let MADS start from a baseline brought into the space."""
    family, start = FAMILIES[name]
    space = space.fix({"network": family})
    search = Search(
        space,
        [f"accuracy>={options.accuracy}"],
        options.seed,
        objective="min macs",
        start=[nearest_candidate(space, baseline(start))[0]],
    )
    spec = run.spec
    assert isinstance(spec, DirectSpec)
    DirectSearch(search, Runner(run, executor, spec.clock, spec.seed, show), spec, show).train()


class Batches:
    """Trains batches of candidates into a run, taking up what it holds."""

    def __init__(self, space: Space, options: Setting, run: Run, executor: Executor) -> None:
        self.space = space
        self.runner = Runner(run, executor, run.spec.clock, options.seed, show)
        self.trials = {t.identity: t for t in run.trials()}

    def __call__(self, candidates: Sequence[Candidate]) -> list[float]:
        """Return the accuracies of candidates, 0 for a failure."""
        identities = [self.space.identity(c) for c in candidates]
        for candidate, identity in zip(candidates, identities, strict=True):
            if identity not in self.trials:
                (self.trials[identity],) = self.runner.add(1, [candidate], [identity])
        ended = self.runner.train([self.trials[i] for i in dict.fromkeys(identities)])
        self.trials.update({t.identity: t for t in ended})
        return [self.trials[i].accuracy or 0.0 for i in identities]


def by_random(space: Space, options: Setting, run: Run, executor: Executor, name: str) -> None:
    """Train the first distinct points of the space's Sobol sequence."""
    train = Batches(space, options, run, executor)
    distinct = {space.identity(c): c for c in space.sample(4 * options.trainings, options.seed)}
    candidates = list(distinct.values())[: options.trainings]
    for i in range(0, len(candidates), options.batch):
        train(candidates[i : i + options.batch])


def by_optuna(space: Space, options: Setting, run: Run, executor: Executor, name: str) -> None:
    """Ask Optuna's TPE sampler, a batch at a time; what it proposes again is answered without a training."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        seed=options.seed, constraints_func=lambda trial: trial.user_attrs["violation"], constant_liar=True
    )
    study = optuna.create_study(sampler=sampler)
    train = Batches(space, options, run, executor)
    proposed: set[str] = set()
    while len(proposed) < options.trainings:
        asked = [study.ask() for _ in range(min(options.batch, options.trainings - len(proposed)))]
        candidates = [nearest_candidate(space, {"architecture": _suggested(trial), "recipe": {}})[0] for trial in asked]
        proposed.update(space.identity(c) for c in candidates)
        for trial, candidate, accuracy in zip(asked, candidates, train(candidates), strict=True):
            trial.set_user_attr("violation", [options.accuracy - accuracy])
            study.tell(trial, space.cost(candidate)["macs"])


def _suggested(trial: Any) -> dict[str, Any]:
    return {
        "network": trial.suggest_categorical("network", ["senet", "resnet"]),
        "depth": trial.suggest_float("depth", 0.5, 1.5, step=0.5),
        "width": trial.suggest_float("width", 0.2, 1.2, step=0.01),
        "resolution": trial.suggest_float("resolution", 0.5, 1.25, step=0.03125),
    }


ARMS: dict[str, Callable[[Space, Setting, Run, Executor, str], None]] = {
    "mads from senet18": by_mads,
    "mads from resnet18": by_mads,
    "optuna": by_optuna,
    "random": by_random,
}


def arm_spec(name: str, space: Space, data: DataSpec, options: Setting) -> DirectSpec:
    """Return what an arm's run is asked to do; an arm that is not ours keeps to it in everything but the engine."""
    spec = make_spec(
        {
            "data": data,
            "space": space.fix({"network": FAMILIES[name][0]}) if name in FAMILIES else space,
            "constraints": [f"accuracy>={options.accuracy}"],
            "objective": "min macs",
            "train_time": options.train_time,
            "rounds": -(-options.trainings // options.batch),
            "batch": options.batch,
            "workers": options.workers,
            "engine": "mads",
            "top": 1,
            "seed": options.seed,
        },
        "direct",
    )
    assert isinstance(spec, DirectSpec)
    return spec


def summary(run: Run, space: Space, accuracy: float, trainings: int) -> dict[str, Any]:
    """Return the least MACs at the accuracy after each training, and the candidate behind the last of them."""
    rows = [(t, t.observation.accuracy or 0.0 if t.observation else 0.0) for t in run.trials()[:trainings]]
    best: tuple[float, Any] = (float("inf"), None)
    least = []
    for trial, reached in rows:
        macs = space.cost(trial.candidate)["macs"]
        if reached >= accuracy and macs < best[0]:
            best = (macs, {**trial.candidate["architecture"], "accuracy": reached})
        least.append(None if best[1] is None else int(best[0]))
    held = sum(reached >= accuracy for _, reached in rows)
    return {"trainings": len(rows), "met_the_bound": held, "least_macs": least, "best": best[1]}


def main() -> None:
    """Run the arms one after the other and write what each found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--accuracy", type=float, required=True)
    parser.add_argument("--train-time", default="60s")
    parser.add_argument("--trainings", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    spec = DataSpec(options.data, train_images=5000, val_images=1000, seed=options.seed)
    data, slot = load_data(spec), share_slots(options.workers, "auto")
    space = Space.load("nomad-nas", data.input_shape, len(data.classes))
    kept = ("accuracy", "train_time", "trainings", "batch", "workers", "seed")
    asked = {**{key: getattr(options, key) for key in kept}, "fingerprint": data.fingerprint}
    found: dict[str, Any] = {
        "machine": machine(),
        **asked,
        "slot": slot.to_json(),
        "arms": {},
    }
    for name in options.arms:
        print(name, flush=True)
        path = options.out / name.replace(" ", "-")
        context = Context.of(space, data, slot)
        with (
            open_run(path, arm_spec(name, space, spec, options), context, resume=path.exists()) as run,
            trial_executor(spec, slot, data.fingerprint) as executor,
        ):
            ARMS[name](space, options, run, executor, name)
            found["arms"][name] = summary(run, space, options.accuracy, options.trainings)
    write(found, options.to)


if __name__ == "__main__":
    main()
