"""MADS scaling of a light network: how few MACs reach an accuracy, by MADS from two networks, by random search, by Optuna and by ours.

    python -m benchmarks.costs.scaling --data cifar10-images.zip --image-size 16 --steps 100 --sweep --out runs/scaling
    python -m benchmarks.costs.scaling --data cifar10-images.zip --image-size 16 --steps 100 --accuracy 0.37 --trainings 8 \
        --out runs/scaling --to benchmarks/results/scaling.json

The NOMAD team's first formulation (HAET 2021): least MACs over depth, width and resolution multipliers at an accuracy, one recipe. A training
has a number of steps, so that a larger network loses nothing but MACs; `--sweep` trains networks of ascending MACs and shows whether
accuracy and MACs trade. Every arm makes as many trainings, `--batch` of them at a time. MADS starts from SENet-18 or ResNet-18 at
`--start-width`; Optuna is its TPE sampler with the accuracy as its constraint and the network as one more choice, random search draws from
the same Sobol sequence as our pools, and `jointnas` is our predictor with the objective "min macs". An arm ends with the cheapest network
whose training met the bound. That network is trained again with `--check` other seeds. Each arm keeps its trainings in a run, so the same
command continues after an interruption. All accuracies are of the 1,000 validation images.

Needs Optuna (`pip install optuna`).
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from benchmarks.measure import machine, write
from jointnas.campaign.baselines import candidate as baseline
from jointnas.campaign.direct import DirectSearch
from jointnas.campaign.events import Event, TrialEnded
from jointnas.campaign.folders import open_run
from jointnas.campaign.options import make_spec
from jointnas.campaign.retrain import FIRST_SEED
from jointnas.campaign.runner import Runner
from jointnas.campaign.spec import DirectSpec
from jointnas.campaign.store import Context, Run
from jointnas.data.dataset import Data, load_data
from jointnas.data.spec import DataSpec
from jointnas.execution import Executor, share_slots
from jointnas.search.search import Search
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.space.transfer import nearest_candidate
from jointnas.training.job import TrainingJob, TrainingResult, trial_executor

WIDTHS = (0.02, 0.3)  # multipliers; of the start too
SWEEP = (  # width, depth, resolution
    (0.02, 0.5, 0.5),
    (0.04, 0.5, 0.75),
    (0.06, 0.5, 1.0),
    (0.12, 0.5, 1.0),
    (0.25, 0.5, 1.0),
    (0.25, 1.0, 1.0),
)
FAMILIES = {"mads from senet18": ("senet", "senet18"), "mads from resnet18": ("resnet", "resnet18")}
Setting = argparse.Namespace


def show(event: Event) -> None:
    """Print each training as it ends."""
    if isinstance(event, TrialEnded):
        print(f"  trial {event.trial.number}: {event.trial.accuracy}", flush=True)


def by_mads(space: Space, options: Setting, run: Run, executor: Executor, name: str) -> None:
    """Let MADS start from a baseline brought into the space."""
    family, _ = FAMILIES[name]
    space = space.fix({"network": family})
    search = Search(
        space,
        [f"accuracy>={options.accuracy}"],
        options.seed,
        objective="min macs",
        start=[start_of(space, name, options)],
    )
    spec = run.spec
    assert isinstance(spec, DirectSpec)
    DirectSearch(search, Runner(run, executor, spec.clock, spec.seed, show), spec, show).train()


def start_of(space: Space, name: str, options: Setting) -> Candidate:
    """Return the network that an arm of MADS starts from."""
    plain = baseline(FAMILIES[name][1])
    architecture = {**plain["architecture"], "width": options.start_width}
    return nearest_candidate(space, {**plain, "architecture": architecture})[0]


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


def by_ours(space: Space, options: Setting, run: Run, executor: Executor, name: str) -> None:
    """Ask the project's own search, a batch at a time."""
    search = Search(space, [f"accuracy>={options.accuracy}"], options.seed, objective="min macs")
    train = Batches(space, options, run, executor)
    for i in range(0, options.trainings, options.batch):
        batch = search.ask(min(options.batch, options.trainings - i))
        search.tell(batch, train(list(batch)))


def by_optuna(space: Space, options: Setting, run: Run, executor: Executor, name: str) -> None:
    """Ask Optuna's TPE sampler, a batch at a time; what it proposes again is answered without a training."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=options.seed, constant_liar=True))
    train = Batches(space, options, run, executor)
    proposed: set[str] = set()
    while len(proposed) < options.trainings:
        asked = [study.ask() for _ in range(min(options.batch, options.trainings - len(proposed)))]
        candidates = [nearest_candidate(space, {"architecture": _suggested(trial), "recipe": {}})[0] for trial in asked]
        proposed.update(space.identity(c) for c in candidates)
        for trial, candidate, accuracy in zip(asked, candidates, train(candidates), strict=True):
            trial.set_constraint("accuracy", options.accuracy - accuracy)
            study.tell(trial, space.cost(candidate)["macs"])


def _suggested(trial: Any) -> dict[str, Any]:
    return {
        "network": trial.suggest_categorical("network", ["senet", "resnet"]),
        "depth": trial.suggest_float("depth", 0.5, 1.5, step=0.5),
        "width": trial.suggest_float("width", *WIDTHS, step=0.01),
        "resolution": trial.suggest_float("resolution", 0.5, 1.25, step=0.03125),
    }


ARMS: dict[str, Callable[[Space, Setting, Run, Executor, str], None]] = {
    "mads from senet18": by_mads,
    "mads from resnet18": by_mads,
    "optuna": by_optuna,
    "jointnas": by_ours,
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
            "train_steps": options.steps,
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
            best = (macs, {"knobs": trial.candidate["architecture"], "accuracy": reached, "macs": int(macs)})
        least.append(None if best[1] is None else int(best[0]))
    held = sum(reached >= accuracy for _, reached in rows)
    return {"trainings": len(rows), "met_the_bound": held, "least_macs": least, "best": best[1]}


def scaling_space(data: Data) -> Space:
    """Return the formulation: `nomad-nas` at the widths of light networks."""
    text = Space.load("nomad-nas").to_toml()
    table = tomllib.loads(text)
    table["architecture"]["width"] = {"low": WIDTHS[0], "high": WIDTHS[1], "step": 0.01}
    return Space.from_toml(tomli_w.dumps(table), data.input_shape, len(data.classes), name="scaling")


def checked(candidate: Candidate, options: Setting, executor: Executor) -> list[float]:
    """Return the accuracies of new trainings of a candidate."""
    clock = {"train_steps": options.steps}
    jobs = [TrainingJob(candidate, clock, FIRST_SEED + seed).numbered(seed) for seed in range(options.check)]
    results = [TrainingResult.of(e) for e in executor.results(jobs) if e.kind in ("done", "failed")]
    return sorted(r.observation.accuracy or 0.0 for r in results)


def sweep(space: Space, options: Setting, executor: Executor) -> None:
    """Print the accuracies of networks of ascending MACs, and of the two that MADS starts from."""
    candidates = [
        nearest_candidate(
            space, {"architecture": {"network": network, "width": w, "depth": d, "resolution": r}, "recipe": {}}
        )[0]
        for network in ("senet", "resnet")
        for w, d, r in SWEEP
    ]
    for candidate in [*candidates, *(start_of(space, name, options) for name in FAMILIES)]:
        knobs = " ".join(f"{k} {v}" for k, v in candidate["architecture"].items())
        print(
            f"{space.cost(candidate)['macs']:>12,} MACs  {checked(candidate, options, executor)}  {knobs}", flush=True
        )


def main() -> None:
    """Run the arms of each seed one after the other and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--accuracy", type=float)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--start-width", type=float, default=0.25)
    parser.add_argument("--trainings", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--check", type=int, default=2, help="trainings of what an arm ends with")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    slot = share_slots(options.workers, "auto")
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        options.seed = seed
        spec = DataSpec(options.data, 5000, 1000, options.image_size, seed)
        data = load_data(spec)
        space = scaling_space(data)
        with trial_executor(spec, slot, data.fingerprint) as executor:
            if options.sweep:
                sweep(space, options, executor)
                continue
            for name in options.arms:
                print(f"seed {seed}: {name}", flush=True)
                path, context = options.out / f"{name.replace(' ', '-')}-{seed}", Context.of(space, data, slot)
                with open_run(path, arm_spec(name, space, spec, options), context, resume=path.exists()) as run:
                    ARMS[name](space, options, run, executor, name)
                    row = {"arm": name, "seed": seed, **summary(run, space, options.accuracy, options.trainings)}
                own = row["best"] and {"architecture": row["best"]["knobs"], "recipe": space.sample(1)[0]["recipe"]}
                row["checked"] = [] if own is None else checked(own, options, executor)
                row["start_macs"] = {n: space.cost(start_of(space, n, options))["macs"] for n in FAMILIES}
                print(f"  {row['best']} again {row['checked']}", flush=True)
                rows.append(row)
    if not options.sweep:
        kept = ("image_size", "accuracy", "steps", "start_width", "trainings", "batch", "workers")
        write({"machine": machine(), **{key: getattr(options, key) for key in kept}, "rows": rows}, options.to)


if __name__ == "__main__":
    main()
