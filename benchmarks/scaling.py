"""MADS scaling of a light network: how few MACs reach an accuracy, by MADS from two networks, by random search and by Optuna.

    python benchmarks/scaling.py --data cifar10-images.zip --accuracy 0.4 --train-time 60s --workers 2 --out runs/scaling \
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

from measure import machine, write

from jointnas.campaign.baselines import candidate as baseline
from jointnas.campaign.campaign import local_executor
from jointnas.campaign.direct import RealSearch
from jointnas.campaign.runner import Status, Trainings
from jointnas.campaign.store import DATABASE, Run
from jointnas.data import DataSpec, load_data
from jointnas.execution import Executor, share_slots
from jointnas.search.search import Search
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.space.transfer import nearest_candidate
from jointnas.training.clock import clock_from_json
from jointnas.units import parse_duration

FAMILIES = {"mads from senet18": ("senet", "senet18"), "mads from resnet18": ("resnet", "resnet18")}
Setting = argparse.Namespace


def show(status: Status, ended: Any) -> None:
    """Print each training as it ends."""
    if ended is not None:
        print(f"  trial {ended.number}: {ended.observation.accuracy}", flush=True)


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
    clock = clock_from_json({"train_seconds": parse_duration(options.train_time)})
    RealSearch(
        search, run, executor, clock, "mads", options.trainings, options.batch, 1, 1, options.seed, show
    ).conduct()


class Batches:
    """Trains batches of candidates into a run, taking up what it holds."""

    def __init__(self, space: Space, options: Setting, run: Run, executor: Executor) -> None:
        clock = clock_from_json({"train_seconds": parse_duration(options.train_time)})
        self.space = space
        self.trainings = Trainings(run, executor, clock, options.seed, show, Status(None, planned=options.trainings))
        self.known = {space.identity(t.candidate): t for t in run.trials()}

    def __call__(self, candidates: Sequence[Candidate]) -> list[float]:
        """Return the accuracies of candidates, 0 for a failure."""
        identities = [self.space.identity(c) for c in candidates]
        for candidate, identity in zip(candidates, identities, strict=True):
            if identity not in self.known:
                (self.known[identity],) = self.trainings.add(1, [candidate], [identity])
        ended = {t.number: t for t in self.trainings.train([self.known[i] for i in dict.fromkeys(identities)])}
        for identity in identities:
            self.known[identity] = ended[self.known[identity].number]
        found = [self.known[i].observation for i in identities]
        return [o.accuracy or 0.0 if o else 0.0 for o in found]


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


def opened(path: Path, asked: dict[str, Any]) -> Run:
    """Return an arm's run, a new one or the one of the same setting."""
    if not (path / DATABASE).is_file():
        return Run.create(path, asked)
    run = Run.open(path, write=True)
    if any(run.specification.get(key) != value for key, value in asked.items()):
        raise SystemExit(f"{path} is of another setting: choose another --out")
    return run


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
        with (
            opened(path, {"arm": name, **asked}) as run,
            local_executor(spec.to_json(), slot, data.fingerprint) as executor,
        ):
            ARMS[name](space, options, run, executor, name)
            found["arms"][name] = summary(run, space, options.accuracy, options.trainings)
    write(found, options.to)


if __name__ == "__main__":
    main()
