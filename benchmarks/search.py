"""The best network after so many trainings: ours against the optimisers that a user would pick instead.

    python benchmarks/search.py --seeds 20 --workers 2 --to benchmarks/results/search.json

The objective is a surrogate of the table of real trainings: the mean of boosted trees and of a support vector machine, fitted to its first
`--candidates`. They are not ours, but read the inputs that ours reads (`jointnas.inputs`): from the knobs and costs alone no model came
near. The card says how well it ranks the candidates that it has not seen. A training answers with the surrogate's accuracy
and the noise that repeated trainings show. What counts is the surrogate's own accuracy for the candidate that looked best so far.

Everyone trains `--trainings` candidates of the space. Ours asks for batches of `--batch`, which everyone else is spared. There is a loose
bound and a tight one, and each optimiser gets it in its own best way: Optuna's as a constraint function, Nevergrad's as a cheap
constraint, the others by drawing again; SMAC, which has none, is told the worst accuracy so far (it also takes trainings as free of
noise, or it would repeat them). A candidate that breaks the bound is a training wasted. A training tells its steps too, which ours reads.

`--rows` searches the table's own rows instead, with accuracies as they were trained: only what can rank a list takes part.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import machine
from numpy.typing import NDArray
from predictor import Examples, noise
from scipy.stats import kendalltau, norm
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from table import TABLE, Table

import jointnas
from jointnas.constraint import parse_all
from jointnas.inputs import Inputs
from jointnas.knobs import Codes, Continuous, Fixed, Ordered
from jointnas.pace import Pace
from jointnas.pool import feasible, pool
from jointnas.predictor import Predictor
from jointnas.shelf import DEFAULT_PRIOR
from jointnas.space import Candidate, Space
from jointnas.training.observation import Observation

BOUNDS = ("macs<40M", "macs<3M")
MARKS = (16, 32, 64, 128)
FOLDS = 5
FREE = 4096
FIRST = 8  # random rows, before the forest is asked
POPULATION, ENTRANTS = 24, 6  # of regularised evolution
PRIOR = Path(__file__).parent.parent / "predictors" / DEFAULT_PRIOR
Array = NDArray[np.float64]


class Spent(Exception):
    """All trainings are used up."""


class Surrogate:
    """An accuracy for every candidate, fitted to the table's rows."""

    def __init__(self, table: Table, candidates: int) -> None:
        fitted_to, others = table.split(candidates)
        missing = candidates - sum(1 for _ in fitted_to.trained())
        if missing > 0:
            raise SystemExit(
                f"a surrogate is fitted to {candidates} trained candidates, got {missing} fewer: lower --candidates"
            )
        examples = Examples(fitted_to)
        self.space: Space = examples.space
        self.deviation = noise(examples.repeated)
        codes, y = examples.codes, examples.accuracies
        self._pace = Pace.fit(self.space, codes, examples.observations, 0)
        self._inputs = Inputs(self.space, self._pace, next(self.space.stream(0, chunk=FREE)))
        x = self._inputs(codes)
        self._models = models(x, y)
        said = np.empty(len(y))
        folds = np.random.default_rng(0).permutation(len(y)) % FOLDS
        for fold in range(FOLDS):
            seen = folds != fold
            said[~seen] = answer(models(x[seen], y[seen]), x[~seen])
        self.card = {"rows": len(y), "noise": round(self.deviation, 4), "cross-validated": agreement(said, y)}
        unseen = Examples(others)
        self.unseen = None  # how well it tells what it was not fitted to
        if len(unseen.accuracies):
            self.unseen = agreement(answer(self._models, self._inputs(unseen.codes)), unseen.accuracies)

    def __call__(self, candidate: Candidate) -> tuple[float, int]:
        """Return a candidate's accuracy, and the steps that its training takes."""
        codes = self.space.to_codes([candidate])
        return float(answer(self._models, self._inputs(codes))[0]), round(float(self._pace.steps(codes)[0]))


class Rows:
    """The table's own accuracies."""

    def __init__(self, table: Table) -> None:
        self.examples = Examples(table)
        self.space, self.deviation = self.examples.space, 0.0
        identities = self.space.identities(self.examples.codes)
        self._found = dict(zip(identities, self.examples.observations, strict=True))
        self.card = {"rows": len(self._found)}

    def __call__(self, candidate: Candidate) -> tuple[float, int]:
        """Return a row's accuracy, and the steps that its training took."""
        observation = self._found[self.space.identity(candidate)]
        return observation.accuracy or 0.0, observation.steps or 1


def agreement(said: Array, y: Array) -> dict[str, float]:
    """Return how well (n,) numbers tell (n,) accuracies."""
    explained = 1 - ((said - y) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    return {"rows": len(y), "tau": round(float(kendalltau(said, y).statistic), 3), "r2": round(float(explained), 3)}


def models(x: Array, y: Array) -> list[Any]:
    """Return what is fitted to (n, d) inputs and (n,) accuracies."""
    trees = GradientBoostingRegressor(n_estimators=300, learning_rate=0.05, subsample=0.8, random_state=0)
    machine = make_pipeline(StandardScaler(), SVR(C=0.3, epsilon=0.01, gamma=0.002))
    return [model.fit(x, y) for model in (trees, machine)]


def answer(fitted: list[Any], x: Array) -> Array:
    """Return the mean of what was fitted."""
    return np.asarray(np.mean([model.predict(x) for model in fitted], axis=0))


OBJECTIVE: Surrogate | Rows


class Task:
    """One search: the space, the bound, and trainings that are counted."""

    def __init__(self, objective: Surrogate | Rows, bound: str, trainings: int, batch: int, seed: int) -> None:
        self.objective, self.space = objective, objective.space
        self.trainings, self.batch = trainings, batch
        self.constraints = parse_all([bound], self.space.metrics)
        self._rng = np.random.default_rng([seed, 1])
        self.candidates: list[Candidate] = []
        self.true: list[float] = []
        self.seen: list[float] = []
        self.held: list[bool] = []

    def macs(self, candidate: Candidate) -> float:
        """Return what is bounded, over the bound."""
        return float(self.space.cost(candidate)["macs"] / self.constraints[0].bound)

    def train(self, candidate: Candidate) -> float:
        """Return the noisy accuracy of one more training. Raises `Spent`."""
        return self.observe(candidate).accuracy or 0.0

    def observe(self, candidate: Candidate) -> Observation:
        """Return what one more training tells. Raises `Spent`."""
        if len(self.true) == self.trainings:
            raise Spent
        accuracy, steps = self.objective(candidate)
        self.candidates.append(candidate)
        self.true.append(accuracy)
        self.seen.append(float(accuracy + self.objective.deviation * self._rng.standard_normal()))
        self.held.append(self.macs(candidate) < 1)
        return Observation(self.seen[-1], steps=steps)

    @property
    def pool(self) -> list[Candidate] | None:
        """The rows within the bound, None where there is the whole space."""
        if isinstance(self.objective, Surrogate):
            return None
        return [c for c in self.objective.examples.candidates if self.macs(c) < 1]

    def leaders(self) -> list[int | None]:
        """Return after each training which one looked best so far among those within the bound; None before there is one."""
        found: list[int | None] = []
        leader = None
        for i, (seen, held) in enumerate(zip(self.seen, self.held, strict=True)):
            if held and (leader is None or seen > self.seen[leader]):
                leader = i
            found.append(leader)
        return found + found[-1:] * (self.trainings - len(found))  # where an optimiser found nothing more to train


# ------------------------------------------------------------------------------------------------------ optimisers


def ours(task: Task, seed: int, prior: bool = True) -> None:
    """Stage one of `jointnas search`, with the built-in prior or without."""
    search = jointnas.Search(
        task.space,
        task.constraints,
        seed,
        pool=task.pool,
        prior=Predictor.load(PRIOR) if prior else None,
    )
    while True:
        batch = search.ask(task.batch)
        search.tell(batch, [task.observe(c) for c in batch])


def mads(task: Task, seed: int) -> None:
    """NOMAD alone, from one random candidate, through the project's own engine on trainings."""
    start = pool(task.space, 1, task.constraints, seed)
    search = jointnas.Search(task.space, task.constraints, seed, pool_size=256)

    def evaluate(codes: Codes) -> Any:
        accuracies = [task.train(c) for c in task.space.to_candidates(codes)]
        return search.query.evaluation(codes, np.array(accuracies))

    search.optimise("mads", evaluate, start, task.trainings + 1, 1)


def drawn(task: Task, rng: np.random.Generator) -> Candidate:
    """Return a random candidate within the bound."""
    while True:
        codes = task.space.to_codes(task.space.sample(64, int(rng.integers(2**31))))
        codes = codes[feasible(task.space, task.constraints, codes)]
        if len(codes):
            return task.space.to_candidates(codes[:1])[0]


def random_search(task: Task, seed: int) -> None:
    """Draw candidates within the bound."""
    rng = np.random.default_rng(seed)
    if task.pool is not None:
        for i in rng.permutation(len(task.pool)):
            task.train(task.pool[i])
    while True:
        task.train(drawn(task, rng))


def forest(task: Task, seed: int) -> None:
    """Expected improvement by a random forest over the rows, which reads the knobs and the logarithms of MACs and parameters."""
    assert isinstance(task.objective, Rows)
    examples = task.objective.examples
    rows = [i for i, c in enumerate(examples.candidates) if task.macs(c) < 1]
    known = list(np.random.default_rng(seed).permutation(rows)[:FIRST])
    found = [task.train(examples.candidates[i]) for i in known]
    while len(known) < len(rows):
        left = [i for i in rows if i not in known]
        model = RandomForestRegressor(200, random_state=seed, n_jobs=1).fit(examples.x[known], found)
        said = np.array([tree.predict(examples.x[left]) for tree in model.estimators_])
        mean, deviation = said.mean(axis=0), np.maximum(said.std(axis=0), 1e-9)
        better = (mean - max(found)) / deviation
        known.append(left[int((deviation * (better * norm.cdf(better) + norm.pdf(better))).argmax())])
        found.append(task.train(examples.candidates[known[-1]]))


def regularised_evolution(task: Task, seed: int) -> None:
    """Real et al. (2019): the best of a few random members has a mutated child, the oldest member dies."""
    rng = np.random.default_rng(seed)
    population: list[tuple[Candidate, float]] = []
    while True:
        if len(population) < POPULATION:
            child = drawn(task, rng)
        else:
            entrants = [population[i] for i in rng.choice(POPULATION, ENTRANTS, replace=False)]
            parent = max(entrants, key=lambda one: one[1])[0]
            children = (task.space.mutate(parent, rng) for _ in iter(int, 1))
            child = next(c for c in children if task.macs(c) < 1)
        population = [*population, (child, task.train(child))][-POPULATION:]


def optuna_search(task: Task, seed: int, sampler: str) -> None:
    """Optuna with one of its samplers; every knob is asked for, whether it acts or not."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    bound = {"constraints_func": lambda trial: trial.user_attrs["over"]}
    samplers: dict[str, Callable[[], Any]] = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=True, **bound),
        "gp": lambda: optuna.samplers.GPSampler(seed=seed, deterministic_objective=False, **bound),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION, **bound),
    }
    study = optuna.create_study(direction="maximize", sampler=samplers[sampler]())

    def objective(trial: Any) -> float:
        codes = []
        for knob in task.space.knobs:
            if isinstance(knob, Fixed):
                codes.append(knob.default)
            elif isinstance(knob, Continuous):
                codes.append(trial.suggest_float(knob.name, knob.low, knob.high, log=knob.log))
            elif isinstance(knob, Ordered):
                codes.append(trial.suggest_int(knob.name, 0, len(knob.values) - 1))
            else:
                codes.append(trial.suggest_categorical(knob.name, list(range(knob.columns))))
        candidate = candidate_of(task.space, codes)
        trial.set_user_attr("over", (task.macs(candidate) - 1,))
        return task.train(candidate)

    study.optimize(objective, n_trials=task.trainings)


def candidate_of(space: Space, codes: list[float]) -> Candidate:
    """Return the candidate of one code for each knob, the conditional ones that do not act left out."""
    return space.to_candidates(space.settled(np.array([codes], dtype=np.float64)))[0]


def nevergrad_search(task: Task, seed: int) -> None:
    """Nevergrad's NGOpt."""
    import nevergrad

    warnings.simplefilter("ignore")
    parameters = {}
    for knob in task.space.knobs:
        if isinstance(knob, Continuous):
            kind = nevergrad.p.Log if knob.log else nevergrad.p.Scalar
            parameters[knob.name] = kind(lower=knob.low, upper=knob.high)
        elif isinstance(knob, Ordered):
            parameters[knob.name] = nevergrad.p.TransitionChoice(list(range(len(knob.values))))
        elif not isinstance(knob, Fixed):
            parameters[knob.name] = nevergrad.p.Choice(list(range(knob.columns)))
    space = nevergrad.p.Dict(**parameters)
    space.random_state.seed(seed)

    def candidate(values: dict[str, float]) -> Candidate:
        return candidate_of(task.space, [float(values.get(k.name, k.default)) for k in task.space.knobs])

    space.register_cheap_constraint(lambda values: 1 - task.macs(candidate(values)))
    optimiser = nevergrad.optimizers.NGOpt(space, budget=task.trainings)
    while True:
        asked = optimiser.ask()
        optimiser.tell(asked, -task.train(candidate(asked.value)))


def smac_search(task: Task, seed: int) -> None:
    """SMAC3 with its settings for hyperparameters: a random forest and expected improvement."""
    import ConfigSpace
    from smac import HyperparameterOptimizationFacade, Scenario
    from smac.runhistory.dataclasses import TrialValue

    warnings.simplefilter("ignore")
    space = ConfigSpace.ConfigurationSpace(seed=seed)
    for knob in task.space.knobs:
        if isinstance(knob, Continuous):
            space.add(ConfigSpace.Float(knob.name, (knob.low, knob.high), log=knob.log))
        elif isinstance(knob, Ordered):
            space.add(ConfigSpace.Integer(knob.name, (0, len(knob.values) - 1)))
        elif not isinstance(knob, Fixed):
            space.add(ConfigSpace.Categorical(knob.name, list(range(knob.columns))))
    folder = Path(tempfile.mkdtemp())
    scenario = Scenario(space, n_trials=task.trainings, deterministic=True, seed=seed, output_directory=folder)
    facade = HyperparameterOptimizationFacade(scenario, lambda config, seed=0: 0.0, logging_level=40, overwrite=True)
    worst = 1.0
    while True:
        info = facade.ask()
        values = dict(info.config)
        codes = [float(values.get(k.name, k.default)) for k in task.space.knobs]
        candidate = candidate_of(task.space, codes)
        seen = task.train(candidate)
        worst = min(worst, seen)
        facade.tell(info, TrialValue(cost=1 - (seen if task.macs(candidate) < 1 else worst)))


ARMS: dict[str, Callable[[Task, int], None]] = {
    "jointnas": ours,
    "jointnas, no prior": partial(ours, prior=False),
    "random": random_search,
    "regularised evolution": regularised_evolution,
    "optuna tpe": partial(optuna_search, sampler="tpe"),
    "optuna gp": partial(optuna_search, sampler="gp"),
    "optuna nsga-ii": partial(optuna_search, sampler="nsga2"),
    "smac3": smac_search,
    "nevergrad ngopt": nevergrad_search,
    "nomad": mads,
    "random forest": forest,
}
OF_ROWS = ("jointnas", "jointnas, no prior", "random", "random forest")
OF_SPACES = tuple(name for name in ARMS if name != "random forest")


# ------------------------------------------------------------------------------------------------- all of them


def begin(table: Path, rows: bool, candidates: int) -> None:
    """Read the table that the runs of this process search, or fit its surrogate."""
    global OBJECTIVE
    OBJECTIVE = Rows(Table.read(table)) if rows else Surrogate(Table.read(table), candidates)


def run(job: tuple[str, str, int], trainings: int, batch: int) -> dict[str, Any]:
    """Return what one optimiser found with one seed."""
    name, bound, seed = job
    task = Task(OBJECTIVE, bound, trainings, batch, seed)
    began = time.process_time()
    with suppress(Spent):
        ARMS[name](task, seed)
    leaders = task.leaders()
    last = leaders[-1] if leaders else None
    return {
        "arm": name,
        "bound": bound,
        "seed": seed,
        "best": [0.0 if i is None else round(task.true[i], 4) for i in leaders],
        "winner": None if last is None else task.candidates[last],
        "wasted": task.held.count(False),
        "seconds": round(time.process_time() - began, 1),
    }


def summary(runs: list[dict[str, Any]], trainings: int) -> dict[str, Any]:
    """Return medians and quartiles by bound and arm, and after how many trainings ours is where each peer ends."""
    found: dict[str, Any] = {}
    for bound in sorted({one["bound"] for one in runs}):
        curves: dict[str, Array] = {}
        found[bound] = rows = {}
        for name in ARMS:
            own = [one for one in runs if one["arm"] == name and one["bound"] == bound]
            if not own:
                continue
            curves[name] = np.array([one["best"] for one in own])
            quartiles = np.quantile(curves[name], [0.5, 0.25, 0.75], axis=0)
            rows[name] = {
                "seeds": len(own),
                "best": {str(n): [round(float(v), 4) for v in quartiles[:, n - 1]] for n in MARKS if n <= trainings},
                "wasted": round(float(np.mean([one["wasted"] for one in own])), 1),
                "seconds": round(float(np.median([one["seconds"] for one in own])), 1),
            }
        for name, own in curves.items():
            for mine in ("jointnas", "jointnas, no prior"):
                if mine in curves and name != mine:
                    below = np.flatnonzero(np.median(curves[mine], axis=0) < np.median(own[:, -1]))
                    reached = int(below[-1]) + 2 if len(below) else 1  # from here on it is never behind
                    rows[name][f"{mine}: trainings to its end"] = reached if reached <= trainings else None
    return found


def main() -> None:
    """Run every optimiser with every seed, kept as each ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--candidates", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trainings", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rows", action="store_true")
    parser.add_argument("--arms", nargs="+")
    parser.add_argument("--bounds", nargs="+", default=list(BOUNDS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    kept = json.loads(options.to.read_text()) if options.to.exists() else {"runs": []}
    task = [options.table, options.rows, options.candidates]
    begin(*task)
    arms = options.arms or (OF_ROWS if options.rows else OF_SPACES)
    setting = {"objective": OBJECTIVE.card, "trainings": options.trainings, "batch": options.batch}
    if any(kept.get(name, value) != value for name, value in setting.items()):
        raise SystemExit(
            f"results go on for the table and options that they began with, got others in {options.to}: remove it"
        )
    print(json.dumps(OBJECTIVE.card), flush=True)
    done = {(one["arm"], one["bound"], one["seed"]) for one in kept["runs"]}
    jobs = [(arm, bound, seed) for seed in range(options.seeds) for bound in options.bounds for arm in arms]
    jobs = [job for job in jobs if job not in done]
    work = partial(run, trainings=options.trainings, batch=options.batch)
    with multiprocessing.get_context("spawn").Pool(options.workers, begin, task) as workers:
        for one in workers.imap_unordered(work, jobs):
            kept["runs"].append(one)
            options.to.write_text(json.dumps({**setting, "runs": kept["runs"]}))
            print(one["arm"], one["bound"], one["seed"], one["best"][-1], one["seconds"], flush=True)
    results = summary(kept["runs"], options.trainings)
    unseen = OBJECTIVE.unseen if isinstance(OBJECTIVE, Surrogate) else None
    print(json.dumps(results, indent=1))
    options.to.write_text(
        json.dumps({"machine": machine(), **setting, "unseen": unseen, "summary": results, "runs": kept["runs"]}) + "\n"
    )


if __name__ == "__main__":
    main()
