"""Fit the network that campaigns start from to all tables of real trainings, to be shipped in predictors/tables.

    python -m benchmarks.search.pretrain --to predictors/tables
    python -m benchmarks.search.pretrain --leave-out fashion --to /tmp/without-fashion

A table that is left out takes with it all tables of the same images. What differs between data sets is learned from networks that are fitted
without each of them; `--networks FOLDER` keeps these, and `transfer` and `longer_budgets` measure them.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from benchmarks.search.pooled import Group, Part, read_groups
from benchmarks.search.teachers import LONG, Teacher, boosting, forest, levelled, pooled
from benchmarks.tables.plan import MUTATIONS, mutated
from jointnas.cores import available_cores
from jointnas.errors import BlueprintError, PredictorError, SpaceError
from jointnas.measurement.estimate import Estimator
from jointnas.predictor import network
from jointnas.predictor.contract import Predictor
from jointnas.predictor.gp import Hyperparameters, negative_log_likelihood
from jointnas.predictor.gp_predictor import GPModel
from jointnas.predictor.network import ENCODER, HEAD, Plan
from jointnas.predictor.pretrained import Card, Pretrained, is_pretrained
from jointnas.predictor.prior import Budget
from jointnas.predictor.steps import StepsModel
from jointnas.predictor.task import Task, TrainingImages
from jointnas.space.knobs import Codes
from jointnas.space.space import Space
from jointnas.training.observation import Observation

TABLES = Path(__file__).parents[1] / "tables"
SHIPPED = Path(__file__).parents[2] / "predictors" / "tables"
SECONDS = 8.0  # the budget that is assumed where steps are unknown: most rows have it
MEMBERS, HIDDEN = 4, (96, 48)
LAW_ROWS = 2000  # that the law of step seconds is fitted to
TASKS, TASK_CANDIDATES, PARENTS, DISTILLED_BATCH = 48, 512, 32, 128
FEWEST_PARENTS = 10  # candidates of a table under a long budget: with fewer, the better half is not good
SPACES = (*["resnet9"] * 12, "chain", "resnet", "fbnet", "joint")  # of made-up tasks in turn
SIDES, CHANNELS = (8, 28, 32, 32, 32, 64), (1, 3, 3)
CLASSES, IMAGES, BUDGETS, LONG_BUDGETS = (2, 40), (500, 10_000), (3, 200), (20, 200)  # the ends of ranges
SYMMETRIES = (0.1, 1.0)  # the ends of a range, for half of the tasks; 1 for the others, as for photos
RELEVANCE_DEVIATION = 1.5  # of the logarithms of relevance
JOINT_DEVIATION = 2.0  # of the logarithms of hyperparameters about their usual prior means
Array = NDArray[np.float64]
FEWEST_CORRECTED, CORRECTED = 20, 300  # random candidates of a group that a Gaussian process corrects the network with


@dataclass(frozen=True)
class Training:
    """How the network is trained: passes over the pooled rows, with the encoder frozen and as a whole, then over what it is distilled from.

    weight_power: see `teachers.pooled`.
    """

    frozen_passes: int = 40
    whole_passes: int = 15
    rate: float = 4e-3
    weight_decay: float = 1.0
    dropout: float = 0.1
    weight_power: float = 0.5
    members: int = MEMBERS
    hidden: tuple[int, int] = HIDDEN
    distilled_passes: int = 12


def pretrain(groups: Sequence[Group], training: Training = Training(), command: str = "", seed: int = 0) -> Pretrained:
    """Return the network that is shipped: distilled (Hinton et al., 2015) from the mean of three models of these groups.

    It learns what they predict for the candidates of the tables, and for others of made-up tasks: of any classes, images and budget. Some are
    mutations of good candidates under long budgets, where a search chooses.
    """
    levels = levelled(groups)
    alone = network_alone(levels, training, seed=seed)
    teachers: list[Teacher] = [alone.scores, boosting(levels), forest(levels)]
    examples = [(part.space, part.codes, part.budget) for group in groups for part in group.parts]
    examples += [
        *made_up_tasks(alone, np.random.default_rng(seed)),
        *near_good(groups, alone, np.random.default_rng([seed, 1])),
    ]
    encoded = [alone.inputs(*own) for own in examples]
    architecture, rest = (np.concatenate(arrays) for arrays in zip(*encoded, strict=True))
    targets = np.concatenate([np.mean([teacher(*own) for teacher in teachers], axis=0) for own in examples])
    n_costs = len(examples[0][0].metrics)
    shape = network.Shape(architecture.shape[1], rest.shape[1], n_costs, training.members, hidden=training.hidden)
    updates = -(-len(rest) // DISTILLED_BATCH)  # in one pass
    plan = Plan(4 * updates, batch=DISTILLED_BATCH, weight_decay=0.0, dropout=0.0)
    costs = np.ascontiguousarray(rest[:, :n_costs])
    parameters = network.train_costs(shape.parameters(seed), architecture, costs, plan, seed)
    plan = Plan(training.distilled_passes * updates, training.rate, DISTILLED_BATCH, weight_decay=0.01, dropout=0.0)
    equal = np.ones((training.members, len(rest)), dtype=np.float32)
    rows = architecture, rest, targets.astype(np.float32)
    return Pretrained(
        alone.inputs,
        network.train_outputs(parameters, (*ENCODER, *HEAD), rows, equal, plan, seed),
        alone.step_seconds,
        _card(groups, command),  # what accuracies were, so by the centres as measured
    )


def made_up_tasks(prior: Pretrained, rng: np.random.Generator) -> Iterator[tuple[Space, Codes, Budget]]:
    """Yield candidates of tasks that no table has: half at random, half children of those that a prior finds the best of these."""
    for number in range(TASKS):
        try:
            space, images, seconds = _made_up(Space.load(SPACES[number % len(SPACES)]), BUDGETS, rng)
            codes = next(space.stream(int(rng.integers(2**31)), chunk=TASK_CANDIDATES))
            budget = _budget(prior, space, codes, seconds, images)
        except (SpaceError, BlueprintError):  # the space has no networks for such images
            continue
        yield space, codes, budget
        best = codes[np.argsort(-prior.scores(space, codes, budget))[:PARENTS]]
        mothers, fathers = (best[rng.integers(len(best), size=TASK_CANDIDATES)] for _ in range(2))
        children = space.mutate_codes(space.cross_codes(mothers, fathers, rng), rng)
        yield space, children, _budget(prior, space, children, seconds, images)


def near_good(
    groups: Sequence[Group], prior: Pretrained, rng: np.random.Generator
) -> Iterator[tuple[Space, Codes, Budget]]:
    """Yield candidates of tasks that no table has: mutations of the better half of a table's candidates under a long budget."""
    parts = [max(group.parts, key=lambda part: len(part.codes)) for group in groups if group.seconds >= LONG]
    parts = [part for part in parts if len(part.codes) >= FEWEST_PARENTS]
    for _ in range(TASKS if parts else 0):
        part = parts[rng.integers(len(parts))]
        better = part.codes[np.argsort(-part.accuracies)[: -(-len(part.codes) // 2)]]
        codes = better[rng.integers(len(better), size=TASK_CANDIDATES)]
        times = rng.integers(MUTATIONS + 1, size=TASK_CANDIDATES)
        try:
            space, images, seconds = _made_up(part.space, LONG_BUDGETS, rng)
            codes = mutated(space, codes, times, rng)
            yield space, codes, _budget(prior, space, codes, seconds, images)
        except (SpaceError, BlueprintError):  # a candidate has no network for such images
            continue


def _made_up(
    space: Space, budgets: tuple[float, float], rng: np.random.Generator
) -> tuple[Space, TrainingImages, float]:
    """Return a space bound to made-up images, these images, and the seconds of a budget within these ends."""
    side, channels = int(rng.choice(SIDES)), int(rng.choice(CHANNELS))
    classes, count, seconds = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in (CLASSES, IMAGES, budgets))
    images = TrainingImages(int(count), float(rng.choice([1.0, rng.uniform(*SYMMETRIES)])))
    return space.bind((channels, side, side), int(classes)), images, seconds


def _budget(prior: Pretrained, space: Space, codes: Codes, seconds: float, images: TrainingImages) -> Budget:
    """Return so many seconds as a budget of (n, knobs) codes, by the prior's law of a step's seconds."""
    steps = seconds / StepsModel(space, prior.step_seconds).step_shares(codes)
    return Budget(np.log(np.maximum(1, steps)), 0.0, images)


def network_alone(groups: Sequence[Group], training: Training = Training(), seed: int = 0) -> Pretrained:
    """Return the network that is fitted to the trainings of these groups alone."""
    inputs, architecture, rest, targets, weights = pooled(groups, training.weight_power)
    every = np.tile((weights / weights.mean()).astype(np.float32), (training.members, 1))
    n_costs = len(groups[0].parts[0].space.metrics)
    shape = network.Shape(architecture.shape[1], rest.shape[1], n_costs, training.members, hidden=training.hidden)
    passes = -(-len(rest) // Plan.batch)  # updates in one
    plan = Plan(10 * passes, weight_decay=0.0, dropout=0.0)
    costs = np.ascontiguousarray(rest[:, :n_costs])
    parameters = network.train_costs(shape.parameters(seed), architecture, costs, plan, seed)
    examples = architecture, rest, targets.astype(np.float32)
    for number, (layers, count, rate) in enumerate(
        [(HEAD, training.frozen_passes, training.rate), ((*ENCODER, *HEAD), training.whole_passes, training.rate / 5)]
    ):
        plan = Plan(count * passes, rate, weight_decay=training.weight_decay, dropout=training.dropout)
        parameters = network.train_outputs(parameters, layers, examples, every, plan, seed + number)
    return Pretrained(inputs, parameters, _step_law(groups), _card(groups))


def _step_law(groups: Sequence[Group]) -> Estimator:
    """Return the law of the seconds of a training step, fitted to steps timed in quiet where there are any."""
    parts = [(group.seconds, part) for group in groups for part in group.parts]
    quiet = any(np.isfinite(part.quiet).any() for _, part in parts)
    timed = [
        (StepsModel(part.space, None).features(part.codes), seconds / (part.quiet if quiet else part.steps))
        for seconds, part in parts
    ]
    features, step_seconds = (np.concatenate(arrays) for arrays in zip(*timed, strict=True))
    known = np.flatnonzero(np.isfinite(step_seconds))
    rows = np.random.default_rng(0).permutation(known)[:LAW_ROWS]
    return Estimator.fit(features[rows], step_seconds[rows], 0)


@dataclass(frozen=True)
class Source:
    """The tables that networks are fitted to.

    tables: their folder. left_out: names of tables; those of the same images go too. networks: a folder that keeps what `network_without`
    returns.
    """

    tables: Path = TABLES
    left_out: tuple[str, ...] = ()
    networks: Path | None = None


@cache
def groups_of(source: Source) -> list[Group]:
    """Return the groups of the tables; each process reads them once."""
    return without(read_groups(source.tables), source.left_out)


def networks_without(source: Source, training: Training) -> dict[str, Pretrained]:
    """Return, for each data set's images, the network that is fitted to the groups of all other images."""
    names = {group.images: group.table for group in groups_of(source)}
    fit = partial(network_without, source, training)
    with ProcessPoolExecutor(available_cores(), get_context("spawn"), _one_thread) as processes:
        return dict(zip(names, processes.map(fit, names.values()), strict=True))


def corrected_networks(source: Source, training: Training) -> dict[str, Pretrained]:
    """Return `networks_without`, each with the residual and the relevance that follow from all other images.

    A predictor that starts from one is that of a campaign on images which nothing was fitted to.
    """
    networks, groups = networks_without(source, training), groups_of(source)
    models = {
        images: corrected([group for group in groups if group.images == images], fitted)
        for images, fitted in networks.items()
    }
    for images, fitted in networks.items():
        others = [model for other, own in models.items() if other != images for model in own]
        fitted.residual, relevance = joint_residual(others)
        fitted.card = replace(fitted.card, relevance=relevance)
    return networks


def _one_thread() -> None:
    torch.set_num_threads(1)
    threadpool_limits(1)


def network_without(source: Source, training: Training, name: str) -> Pretrained:
    """Return the network that is fitted to the groups of all other images than those of a table.

    One that the source's folder keeps is read if it was fitted to the same tables by the same code; a new one is kept there.
    """
    groups = groups_of(source)
    others = without(groups, [name])
    (images,) = {group.images for group in groups if group.table == name}
    first = next(group.table for group in groups if group.images == images)
    folder = source.networks / first if source.networks else None
    made_by = _digest(source, training)
    if folder is not None and is_pretrained(folder):
        kept = Pretrained.load(folder)
        if kept.card.command == made_by:
            return kept
    fitted = pretrain(others, training, made_by)
    if folder is not None:
        fitted.save(folder)
    return fitted


@cache
def _digest(source: Source, training: Training) -> str:
    """Return a digest of the tables and of the code that networks are fitted by."""
    found = hashlib.sha256(f"{training} {source.left_out}".encode())
    own = [Path(__file__).with_name(name) for name in ("pretrain.py", "teachers.py", "pooled.py")]
    code = [*own, *Path(network.__file__).parent.glob("*.py")]
    for path in sorted([*code, *source.tables.glob("*.csv"), *source.tables.glob("*.json")]):
        found.update(path.read_bytes())
    return found.hexdigest()


def left_out(source: Source, training: Training = Training()) -> tuple[Hyperparameters, dict[str, float], float]:
    """Return what is expected of images that the network has not seen: the hyperparameters of a Gaussian process that corrects it, the
    relevance of features, and the deviation of targets about its predictions, a mean over groups.
    """
    models, deviations, groups = [], [], groups_of(source)
    for images, other in networks_without(source, training).items():
        own = [group for group in groups if group.images == images]
        models += corrected(own, other)
        for group in own:
            part = commonest(group)
            if part.drawn_at_random.sum() >= FEWEST_CORRECTED:
                errors = group.targets(part) - other.scores(part.space, part.codes, part.budget)
                deviations.append(float(errors[part.drawn_at_random].std()))
    return *joint_residual(models), float(np.mean(deviations))


def commonest(group: Group) -> Part:
    """Return the part of the space that most random candidates of a group are of."""
    return max(group.parts, key=lambda part: int(part.drawn_at_random.sum()))


def corrected(groups: Sequence[Group], prior: Pretrained) -> list[GPModel]:
    """Return a campaign's model for each group that is large enough: it starts from a prior and is fitted to random candidates."""
    models = []
    for group in groups:
        part = commonest(group)
        chosen = np.random.default_rng(0).permutation(np.flatnonzero(part.drawn_at_random))[:CORRECTED]
        if len(chosen) < FEWEST_CORRECTED:
            continue
        observed = [
            Observation(part.accuracies[i], steps=int(part.steps[i]), trainings=int(part.trainings[i])) for i in chosen
        ]
        task = Task(part.budget.images, val_images=group.val_images)
        predictor = Predictor(part.space, prior=prior, task=task, kind="gp")
        model = predictor.fit_codes(part.codes[chosen], observed).model
        assert isinstance(model, GPModel)
        models.append(model)
    return models


def joint_residual(models: Sequence[GPModel]) -> tuple[Hyperparameters, dict[str, float]]:
    """Return the hyperparameters, and the relevance of features by name, under which the examples of all models together are likely.

    That is the mode of their posterior, under a prior wider than for one model. What differs between data sets gets a large relevance: then
    a few trainings are enough to learn it.
    """
    start = Hyperparameters.prior_mean(int(models[0].groups.max()) + 1).to_vector()
    names = sorted({name for model in models for name in model.feature_names})
    examples = [model.examples(np.arange(len(model.accuracies))) for model in models]
    columns = [np.array([names.index(name) for name in model.feature_names]) for model in models]

    def loss(vector: Array) -> tuple[float, Array]:
        hyperparameters, logs = Hyperparameters.from_vector(vector[: len(start)]), vector[len(start) :]
        z = np.concatenate([(vector[: len(start)] - start) / JOINT_DEVIATION, logs / RELEVANCE_DEVIATION])
        value = 0.5 * float(z @ z)
        gradient = np.concatenate([z[: len(start)] / JOINT_DEVIATION, z[len(start) :] / RELEVANCE_DEVIATION])
        for model, own, which in zip(models, examples, columns, strict=True):
            relevant = replace(own, relevance=np.exp(logs[which]))
            found, by_hyperparameters, by_relevance = negative_log_likelihood(relevant, model.groups, hyperparameters)
            value += found
            gradient[: len(start)] += by_hyperparameters
            np.add.at(gradient, len(start) + which, by_relevance)
        return value, gradient

    begin = np.concatenate([start, np.zeros(len(names))])
    mode = minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=[(-9, 6)] * len(begin)).x
    factors = np.exp(mode[len(start) :])
    relevance = {name: round(float(factor), 4) for name, factor in zip(names, factors, strict=True)}
    return Hyperparameters.from_vector(mode[: len(start)]), relevance


def _card(groups: Sequence[Group], command: str = "") -> Card:
    above = [group.centre + np.log(group.classes - 1) for group in groups]
    trainings = sum(float(part.trainings.sum()) for group in groups for part in group.parts)
    spread = float(np.sqrt(np.mean([group.spread**2 for group in groups])))
    names = tuple(sorted({group.table for group in groups}))
    return Card(names, int(trainings), float(np.mean(above)), spread, 1.0, SECONDS, command)


def without(groups: Sequence[Group], names: Sequence[str]) -> list[Group]:
    """Return the groups of all other images than those of the tables of these names. Raises `PredictorError` for an unknown name."""
    unknown = set(names) - {group.table for group in groups}
    if unknown:
        raise PredictorError(
            f"no table has the name {min(unknown)!r}: leave out one of {sorted({g.table for g in groups})}"
        )
    images = {group.images for group in groups if group.table in names}
    return [group for group in groups if group.images not in images]


def main() -> None:
    """Fit and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=TABLES)
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--networks", type=Path, metavar="FOLDER", help="keeps the networks without each data set")
    parser.add_argument("--to", type=Path, default=SHIPPED)
    options = parser.parse_args()
    began = time.perf_counter()
    source = Source(options.tables, tuple(options.leave_out), options.networks)
    left = ["--leave-out", *options.leave_out] if options.leave_out else []
    command = shlex.join(["python", "-m", "benchmarks.search.pretrain", *left])
    fitted = pretrain(groups_of(source), command=command)
    fitted.residual, relevance, deviation = left_out(source)
    fitted.card = replace(fitted.card, deviation=deviation, relevance=relevance)
    fitted.save(options.to)
    law = fitted.step_seconds.error
    print(f"{fitted.describe()}, step seconds within {law:.0%} at the median, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
