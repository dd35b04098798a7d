"""The optimisers of others that `search.py` compares with ours, each in its own best form.

A bound on what is computed before a training costs them no training: they draw again, learn it as a constraint, or are given the worst
accuracy so far. Knobs that do not apply are conditional where the optimiser has such knobs and gains by them. Each starts from the
candidates of `Task.start`, built-in recipes for instance, in the way that it offers.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import jointnas
from benchmarks.search.task import Task
from jointnas.campaign.direct import optimise
from jointnas.space.continuous import Continuous, Switchable
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes, Fixed, Knob, Ordered
from jointnas.space.sampling import draw_pool, feasible
from jointnas.space.space import Space

POPULATION, ENTRANTS = 24, 6  # of regularised evolution
INITIAL = 8  # random candidates before a Gaussian process of BoTorch is asked
POOL, NEIGHBOURS, INCUMBENTS = 2048, 256, 8  # among which BoTorch's acquisition function is maximised
WHOLE = 9  # the whole budget for NePS, in units of the shortest

Numbers = dict[str, float]
"""A number for each knob that is not fixed: an index, or a real number within `real_range`."""


class Knobs:
    """A space as optimisers of others see it: a number for each knob, also for knobs that do not act."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.free = [knob for knob in space.knobs if not isinstance(knob, Fixed)]

    def candidate(self, numbers: Mapping[str, Any]) -> Candidate:
        """Return the candidate of some numbers, without the knobs that do not act; a missing knob has its default."""
        codes = [self._code(knob, numbers) for knob in self.space.knobs]
        return self.space.to_candidates(self.space.settled(np.array([codes], dtype=np.float64)))[0]

    def _code(self, knob: Knob, numbers: Mapping[str, Any]) -> float:
        if knob.name not in numbers:
            return knob.default
        number = float(numbers[knob.name])
        return float(knob.from_unit(np.array([number]))[0]) if isinstance(knob, Switchable) else number

    def numbers(self, candidate: Candidate, inactive: bool = True) -> dict[str, Any]:
        """Return the numbers of a candidate. inactive: whether knobs that do not act are among them, with their defaults."""
        codes, found = self.space.to_codes([candidate])[0], dict[str, Any]()
        for knob, code in zip(self.space.knobs, codes, strict=True):
            if isinstance(knob, Fixed) or (np.isnan(code) and not inactive):
                continue
            own = knob.default if np.isnan(code) else float(code)
            if isinstance(knob, Switchable):
                own = float(knob.to_unit(np.array([own]))[0])
            found[knob.name] = own if isinstance(knob, Continuous) else int(own)
        return found

    @cached_property
    def conditions(self) -> dict[str, dict[str, list[int]]]:
        """For each knob, in an order that has parents first, the indices of other knobs that activate it."""
        by_name = {knob.name: knob for knob in self.space.knobs}
        found: dict[str, dict[str, list[int]]] = {}
        while len(found) < len(by_name):
            for knob in self.space.knobs:
                if knob.name not in found and all(other in found for other, _ in knob.when):
                    found[knob.name] = {
                        other: [int(by_name[other].code(value)) for value in values]
                        for other, values in knob.when
                        if not isinstance(by_name[other], Fixed)
                    }
        return {name: own for name, own in found.items() if not isinstance(by_name[name], Fixed)}


def real_range(knob: Continuous) -> tuple[float, float, bool]:
    """Return the bounds between which others search a real number, and whether by its logarithm.

    Of one that can be off they search the unit interval, whose first eighth is "off", as our samples have it.
    """
    return (0.0, 1.0, False) if isinstance(knob, Switchable) else (knob.low, knob.high, knob.log)


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
    for candidate in task.start:
        task.train(candidate)
    while True:
        task.train(drawn(task, rng))


def regularised_evolution(task: Task, seed: int) -> None:
    """Real et al. (2019): the best of a few random members has a mutated child, the oldest member dies."""
    rng = np.random.default_rng(seed)
    population = [(candidate, task.train(candidate)) for candidate in task.start]
    while True:
        if len(population) < POPULATION:
            child = drawn(task, rng)
        else:
            entrants = [population[i] for i in rng.choice(POPULATION, ENTRANTS, replace=False)]
            parent = max(entrants, key=lambda one: one[1])[0]
            children = (task.space.mutate(parent, rng) for _ in iter(int, 1))
            child = next(c for c in children if task.share(c) < 1)
        population = [*population, (child, task.train(child))][-POPULATION:]


def mads(task: Task, seed: int) -> None:
    """NOMAD alone, from the first candidate of `start` or a random one, through the project's own engine on trainings."""
    start = task.space.to_codes(task.start[:1]) if task.start else draw_pool(task.space, 1, task.constraints, seed)
    search = jointnas.Search(task.space, task.constraints, seed, pool_size=256)

    def evaluate(codes: Codes) -> Any:
        accuracies = [task.train(c) for c in task.space.to_candidates(codes)]
        return search.query.evaluate(codes, np.array(accuracies))

    optimise(search, "mads", evaluate, start, task.trainings + 1, 1)


def optuna_search(task: Task, seed: int, sampler: str) -> None:
    """Optuna with one of its samplers and its constraint of a trial.

    A trial of TPE beyond the bound is pruned. The other samplers learn from complete trials alone and are given the worst accuracy so far.
    TPE has conditional knobs, in groups; the Gaussian process would not model these and gets all knobs.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    knobs, worst = Knobs(task.space), 1.0
    samplers: dict[str, Callable[[], Any]] = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True),
        "gp": lambda: optuna.samplers.GPSampler(seed=seed, deterministic_objective=False),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION),
    }
    conditional = sampler == "tpe"
    study = optuna.create_study(direction="maximize", sampler=samplers[sampler]())
    for candidate in task.start:
        study.enqueue_trial(knobs.numbers(candidate, inactive=not conditional))
    by_name = {knob.name: knob for knob in knobs.free}

    def suggested(trial: Any) -> Numbers:
        numbers: Numbers = {}
        for name, conditions in knobs.conditions.items():
            if conditional and any(numbers.get(other, -1) not in codes for other, codes in conditions.items()):
                continue
            knob = by_name[name]
            if isinstance(knob, Continuous):
                low, high, log = real_range(knob)
                numbers[name] = trial.suggest_float(name, low, high, log=log)
            elif isinstance(knob, Ordered):
                numbers[name] = trial.suggest_int(name, 0, len(knob.values) - 1)
            else:
                numbers[name] = trial.suggest_categorical(name, list(range(knob.columns)))
        return numbers

    while True:
        trial = study.ask()
        candidate = knobs.candidate(suggested(trial))
        over = task.share(candidate) - 1 if task.constraints else -1.0
        trial.set_constraint("cost", over if over < 0 else over + 1e-9)
        if over < 0:
            seen = task.train(candidate)
            worst = min(worst, seen)
            study.tell(trial, seen)
        elif sampler == "tpe":
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, worst)


def nevergrad_search(task: Task, seed: int) -> None:
    """Nevergrad's NGOpt, with the bound as a cheap constraint."""
    import nevergrad

    warnings.simplefilter("ignore")
    knobs, parameters = Knobs(task.space), {}
    for knob in knobs.free:
        if isinstance(knob, Continuous):
            low, high, log = real_range(knob)
            kind = nevergrad.p.Log if log else nevergrad.p.Scalar
            parameters[knob.name] = kind(lower=low, upper=high)
        elif isinstance(knob, Ordered):
            parameters[knob.name] = nevergrad.p.TransitionChoice(list(range(len(knob.values))))
        else:
            parameters[knob.name] = nevergrad.p.Choice(list(range(knob.columns)))
    space = nevergrad.p.Dict(**parameters)
    space.random_state.seed(seed)
    if task.constraints:
        space.register_cheap_constraint(lambda values: 1 - task.share(knobs.candidate(values)))
    optimiser = nevergrad.optimizers.NGOpt(space, budget=task.trainings)
    for candidate in task.start:
        optimiser.suggest(knobs.numbers(candidate))
    while True:
        asked = optimiser.ask()
        optimiser.tell(asked, -task.train(knobs.candidate(asked.value)))


def smac_search(task: Task, seed: int) -> None:
    """SMAC3 with its settings for hyperparameters: a random forest and expected improvement, over conditional knobs.

    A candidate beyond the bound is given the worst accuracy so far.
    """
    import ConfigSpace
    from smac import HyperparameterOptimizationFacade, Scenario
    from smac.runhistory.dataclasses import TrialValue

    warnings.simplefilter("ignore")
    knobs, space = Knobs(task.space), ConfigSpace.ConfigurationSpace(seed=seed)
    by_name = {knob.name: knob for knob in knobs.free}
    for name, conditions in knobs.conditions.items():
        knob = by_name[name]
        if isinstance(knob, Continuous):
            low, high, log = real_range(knob)
            space.add(ConfigSpace.Float(name, (low, high), log=log))
        elif isinstance(knob, Ordered):
            space.add(ConfigSpace.Integer(name, (0, len(knob.values) - 1)))
        else:
            space.add(ConfigSpace.Categorical(name, list(range(knob.columns))))
        activating = [ConfigSpace.InCondition(space[name], space[other], codes) for other, codes in conditions.items()]
        if activating:
            space.add(activating[0] if len(activating) == 1 else ConfigSpace.AndConjunction(*activating))
    start = [ConfigSpace.Configuration(space, knobs.numbers(c, inactive=False)) for c in task.start]
    folder = Path(tempfile.mkdtemp())
    scenario = Scenario(space, n_trials=100 * task.trainings, deterministic=True, seed=seed, output_directory=folder)
    design = HyperparameterOptimizationFacade.get_initial_design(
        scenario, n_configs=task.trainings // 4, additional_configs=start
    )
    facade = HyperparameterOptimizationFacade(
        scenario, lambda config, seed=0: 0.0, initial_design=design, logging_level=40, overwrite=True
    )
    worst = 1.0
    while True:
        info = facade.ask()
        candidate = knobs.candidate(dict(info.config))
        if task.share(candidate) < 1:
            seen = task.train(candidate)
            worst = min(worst, seen)
        else:
            seen = worst
        facade.tell(info, TrialValue(cost=1 - seen))


def botorch_search(task: Task, seed: int) -> None:
    """BoTorch's Gaussian process and q-log noisy expected improvement, maximised over candidates within the bound.

    The inputs are one-hot choices, numbers in the unit interval, and whether a knob acts. The acquisition function is maximised over new
    random candidates and over mutations of the best.
    """
    import torch
    from botorch.acquisition.logei import qLogNoisyExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.optim import optimize_acqf_discrete
    from gpytorch.mlls import ExactMarginalLogLikelihood

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)

    def inputs(candidates: list[Candidate]) -> Any:
        encoded = task.space.encode_codes(task.space.to_codes(candidates))
        return torch.as_tensor(np.concatenate(encoded, axis=1), dtype=torch.float64)

    known = [*task.start, *(drawn(task, rng) for _ in range(INITIAL))]
    seen = [task.train(candidate) for candidate in known]
    while True:
        x, y = inputs(known), torch.tensor(seen, dtype=torch.float64)[:, None]
        model = SingleTaskGP(x, y)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        acquisition = qLogNoisyExpectedImprovement(model, x, prune_baseline=True)
        pool = task.space.to_candidates(draw_pool(task.space, POOL, task.constraints, int(rng.integers(2**31))))
        best = [known[i] for i in np.argsort(seen)[::-1][:INCUMBENTS]]
        mutated = [task.space.mutate(best[int(rng.integers(len(best)))], rng) for _ in range(NEIGHBOURS)]
        choices = pool + [c for c in mutated if task.share(c) < 1]
        places = inputs(choices)
        found, _ = optimize_acqf_discrete(acquisition, q=1, choices=places, max_batch_size=512)
        known.append(choices[int((places - found).abs().sum(dim=1).argmin())])
        seen.append(task.train(known[-1]))


def neps_search(task: Task, seed: int) -> None:
    """NePS' PriorBand, which stops trainings early and has the first candidate of `start` as its prior.

    A promoted training goes on from where it stopped. Beyond the bound it is given an accuracy of 0, which costs nothing.
    """
    import neps
    import torch

    warnings.simplefilter("ignore")
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (NePS draws from it)
    knobs = Knobs(task.space)
    prior = knobs.numbers(task.start[0]) if task.start else {}
    parameters: dict[str, Any] = {"budget": neps.HPOInteger(1, WHOLE, is_fidelity=True)}
    for knob in knobs.free:
        belief = {"prior": prior[knob.name], "prior_confidence": "medium"} if prior else {}
        if isinstance(knob, Continuous):
            low, high, log = real_range(knob)
            parameters[knob.name] = neps.HPOFloat(low, high, log=log, **belief)
        elif isinstance(knob, Ordered):
            parameters[knob.name] = neps.HPOInteger(0, len(knob.values) - 1, **belief)
        else:
            parameters[knob.name] = neps.HPOCategorical(list(range(knob.columns)), **belief)
    space = neps.SearchSpace(parameters)
    optimiser = neps.AskAndTell(neps.optimizers.algorithms.priorband(space, sample_prior_first=bool(prior)))
    trained: dict[str, int] = {}
    while True:
        trial = optimiser.ask()
        config = dict(trial.config)
        units = int(config.pop("budget"))
        candidate = knobs.candidate(config)
        name = task.space.identity(candidate)
        seen = 0.0
        if task.share(candidate) < 1:
            seen = task.train_until(candidate, trained.get(name, 0) / WHOLE, units / WHOLE)
            trained[name] = units
        optimiser.tell(trial, 1 - seen)
