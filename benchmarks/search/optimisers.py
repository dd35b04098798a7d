"""The optimisers that `search.py` compares: each spends the trainings of one task.

Beside ours stand its own variants, which say what a batch gains from where it is looked for and from how it is chosen.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from scipy.stats import norm
from sklearn.ensemble import RandomForestRegressor

import jointnas
from benchmarks.search.pooled import read_groups
from benchmarks.search.pretrain import TABLES, pretrain
from benchmarks.search.task import Array, Rows, Task
from jointnas.campaign.direct import optimise
from jointnas.predictor.contract import Predictor
from jointnas.predictor.pretrained import Pretrained
from jointnas.predictor.task import Task as Known
from jointnas.search.objective import Query
from jointnas.space.continuous import Continuous, Switchable
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes, Fixed, Ordered
from jointnas.space.sampling import draw_pool, feasible
from jointnas.space.space import Space

FIRST = 8  # random rows, before the forest is asked
POPULATION, ENTRANTS = 24, 6  # of regularised evolution
TIMED = 24  # candidates whose steps are known before the first training
PRIOR = Path(__file__).parents[2] / "predictors" / "resnet9-digits"


def ours(task: Task, seed: int, prior: str | None = "digits") -> None:
    """Stage one of `jointnas search`, with a prior of `PRIORS` or without."""
    start, known = (None, Known()) if prior is None else PRIORS[prior](task)
    search = jointnas.Search(task.space, task.constraints, seed, pool=task.pool, prior=start, task=known)
    while True:
        batch = search.ask(task.batch)
        search.tell(batch, [task.observe(c) for c in batch])


def digits(task: Task) -> tuple[Predictor, Known]:
    """Return the predictor of trainings on the digits."""
    return Predictor.load(PRIOR), Known()


@cache
def _shuffled() -> Predictor:
    found = Predictor.load(PRIOR)
    order = np.random.default_rng(0).permutation(len(found.candidates))
    return Predictor(found.space).fit(found.candidates, [found.observations[i] for i in order])


def shuffled(task: Task) -> tuple[Predictor, Known]:
    """Return the predictor of the digits fitted to its accuracies in another order: it knows nothing, and believes it does."""
    return _shuffled(), Known()


@cache
def _pretrained(fingerprint: str) -> Pretrained:
    return pretrain([group for group in read_groups(TABLES) if group.fingerprint != fingerprint])


def tables(task: Task) -> tuple[Pretrained, Known]:
    """Return the network that is pretrained on the tables of all other images, and the steps of some candidates."""
    codes = next(task.space.stream(TIMED, chunk=TIMED))
    steps = np.array([task.objective(candidate)[1] for candidate in task.space.to_candidates(codes)], dtype=np.float64)
    return _pretrained(task.fingerprint), Known(task.train_images, codes, steps)


PRIORS: dict[str, Callable[[Task], tuple[Predictor | Pretrained, Known]]] = {
    "digits": digits,
    "shuffled": shuffled,
    "tables": tables,
}


def varied(task: Task, seed: int, **parts: Any) -> None:
    """Ours without a prior, with some functions of stage one replaced."""
    with patch.multiple("jointnas.search.search", **parts):
        ours(task, seed, prior=None)


def bold(task: Task, seed: int, boldness: float) -> None:
    """Ours with the pretrained prior, whose batches follow another share of a sampled function's deviation from the mean."""
    with patch("jointnas.search.batch.BOLDNESS", boldness):
        ours(task, seed, prior="tables")


def no_children(predictor: Predictor, query: Query, parents: Codes, medians: Array, *rest: Any) -> tuple[Codes, Array]:
    """Look for a batch in the pool alone."""
    return parents[:0], medians[:0]


def most_promising(
    predictor: Predictor, query: Query, codes: Codes, medians: Array, n: int, seed: Sequence[int]
) -> Codes:
    """Choose a batch by the medians alone."""
    return codes[np.argsort(-query.utility(codes, medians), kind="stable")[:n]]


def upper_confidence(
    predictor: Predictor, query: Query, codes: Codes, medians: Array, n: int, seed: Sequence[int]
) -> Codes:
    """Choose each of a batch by mean + weight · deviation, its weight drawn from an exponential distribution (Hutter et al., 2012)."""
    mean, deviation = predictor.predict_codes(codes)
    chosen: list[int] = []
    for weight in np.random.default_rng(seed).exponential(1.0, n):
        order = np.argsort(-query.utility(codes, mean + weight * deviation), kind="stable")
        chosen.append(next(int(j) for j in order if j not in chosen))
    return codes[chosen]


def mads(task: Task, seed: int) -> None:
    """NOMAD alone, from one random candidate, through the project's own engine on trainings."""
    start = draw_pool(task.space, 1, task.constraints, seed)
    search = jointnas.Search(task.space, task.constraints, seed, pool_size=256)

    def evaluate(codes: Codes) -> Any:
        accuracies = [task.train(c) for c in task.space.to_candidates(codes)]
        return search.query.evaluate(codes, np.array(accuracies))

    optimise(search, "mads", evaluate, start, task.trainings + 1, 1)


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
    rows = task.pool
    if rows is not None:
        for i in rng.permutation(len(rows)):
            task.train(rows[i])
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
    bound = {"constraints_func": lambda trial: trial.user_attrs["over"]} if task.constraints else {}
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
                low, high, log = real_range(knob)
                codes.append(trial.suggest_float(knob.name, low, high, log=log))
            elif isinstance(knob, Ordered):
                codes.append(trial.suggest_int(knob.name, 0, len(knob.values) - 1))
            else:
                codes.append(trial.suggest_categorical(knob.name, list(range(knob.columns))))
        candidate = candidate_of(task.space, codes)
        trial.set_user_attr("over", (task.macs(candidate) - 1,))
        return task.train(candidate)

    study.optimize(objective, n_trials=task.trainings)


def real_range(knob: Continuous) -> tuple[float, float, bool]:
    """Return the bounds between which others search a real number, and whether by its logarithm.

    Of one that can be off they search the unit interval, whose first eighth is "off", as our samples have it.
    """
    return (0.0, 1.0, False) if isinstance(knob, Switchable) else (knob.low, knob.high, knob.log)


def candidate_of(space: Space, numbers: list[float]) -> Candidate:
    """Return the candidate of one number for each knob, the conditional ones that do not act left out."""
    codes = [
        float(knob.from_unit(np.array([number]))[0]) if isinstance(knob, Switchable) else number
        for knob, number in zip(space.knobs, numbers, strict=True)
    ]
    return space.to_candidates(space.settled(np.array([codes], dtype=np.float64)))[0]


def nevergrad_search(task: Task, seed: int) -> None:
    """Nevergrad's NGOpt."""
    import nevergrad

    warnings.simplefilter("ignore")
    parameters = {}
    for knob in task.space.knobs:
        if isinstance(knob, Continuous):
            low, high, log = real_range(knob)
            kind = nevergrad.p.Log if log else nevergrad.p.Scalar
            parameters[knob.name] = kind(lower=low, upper=high)
        elif isinstance(knob, Ordered):
            parameters[knob.name] = nevergrad.p.TransitionChoice(list(range(len(knob.values))))
        elif not isinstance(knob, Fixed):
            parameters[knob.name] = nevergrad.p.Choice(list(range(knob.columns)))
    space = nevergrad.p.Dict(**parameters)
    space.random_state.seed(seed)

    def candidate(values: dict[str, float]) -> Candidate:
        return candidate_of(task.space, [float(values.get(k.name, k.default)) for k in task.space.knobs])

    if task.constraints:
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
            low, high, log = real_range(knob)
            space.add(ConfigSpace.Float(knob.name, (low, high), log=log))
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
    "jointnas, no prior": partial(ours, prior=None),
    "jointnas, pretrained": partial(ours, prior="tables"),
    "jointnas, wrong prior": partial(ours, prior="shuffled"),
    "random": random_search,
    "regularised evolution": regularised_evolution,
    "optuna tpe": partial(optuna_search, sampler="tpe"),
    "optuna gp": partial(optuna_search, sampler="gp"),
    "optuna nsga-ii": partial(optuna_search, sampler="nsga2"),
    "smac3": smac_search,
    "nevergrad ngopt": nevergrad_search,
    "nomad": mads,
    "random forest": forest,
    "pretrained, whole functions": partial(bold, boldness=1.0),
    "pretrained, quarter functions": partial(bold, boldness=0.25),
    "pool, medians": partial(varied, children_of_the_best=no_children, choose=most_promising),
    "pool, draws": partial(varied, children_of_the_best=no_children),
    "children, medians": partial(varied, choose=most_promising),
    "children, upper confidence": partial(varied, choose=upper_confidence),
}
OF_ROWS = ("jointnas", "jointnas, no prior", "random", "random forest")
OF_SPACES = tuple(ARMS)[: list(ARMS).index("random forest")]
