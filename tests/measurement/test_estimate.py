"""Estimates: features that add up, laws that are found again, and an error that is told of networks not fitted to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jointnas.errors import PredictorError
from jointnas.execution import Slot
from jointnas.measurement.estimate import Estimate, Estimator, blocks_alone, columns
from jointnas.measurement.features import FEATURES, STATES, blueprint_features, step_features
from jointnas.measurement.meter import Meter
from jointnas.measurement.store import Store, key, surroundings
from jointnas.measurement.training import make_trainer
from jointnas.network.blueprint import BlockBuilder, Blueprint
from jointnas.network.cost import blueprint_cost
from jointnas.network.families import FAMILIES, make_blueprint
from jointnas.space.constraint import TRAINING_METRICS
from jointnas.space.space import Space
from jointnas.training.clock import StepClock
from jointnas.training.recipe import Recipe, knob

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SHAPE = (3, 32, 32)
RNG = np.random.default_rng


def resnet9(**knobs: Any) -> Blueprint:
    return make_blueprint({"network": "resnet9", "width": 8, **knobs}, SHAPE, 10)


def named(network: Blueprint) -> dict[str, float]:
    """Return a network's features by name, those that are there."""
    return {name: value for name, value in zip(FEATURES, blueprint_features(network), strict=True) if value}


# ---------------------------------------------------------------------------------------------------------- features


def test_a_blocks_features_are_its_calls_its_work_and_its_weights() -> None:
    block = BlockBuilder("block")
    block.conv(channels=8, kernel=1)
    block.add("conv", channels=8, kernel=3, stride=2, padding=1, groups=8, bias=False)
    block.add("relu")
    block.add("max_pool", kernel=2, stride=2)
    block.conv(channels=6, kernel=3)
    block.add("batch_norm", scale=False)
    block.add("celu", alpha=0.3)
    assert named(Blueprint.chain((4, 8, 8), [block.build()])) == {
        "pointwise_calls": 1,
        "grouped_calls": 1,
        "spatial_calls": 1,
        "simple_calls": 1,
        "pool_calls": 1,
        "norm_calls": 1,
        "curved_calls": 1,
        "pointwise_work": 8 * 8 * 8 * 4,
        "grouped_work": 4 * 4 * 8 * 9,
        "spatial_work": 2 * 2 * 6 * 8 * 9,
        "simple_work": 4 * 4 * 8,
        "pool_work": 4 * 4 * 8,  # what it reads
        "norm_work": 2 * 2 * 6,
        "curved_work": 2 * 2 * 6,
        "convolved_values": 8 * 8 * 8 + 4 * 4 * 8 + 2 * 2 * 6,
        "weight_bytes": 4 * (4 * 8 + 8 * 9 + 6 * 8 * 9 + 3 * 6),
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_a_networks_work_and_weights_are_its_macs_and_its_size(name: str) -> None:
    network = make_blueprint({"network": name}, SHAPE, 10)
    found, costs = named(network), blueprint_cost(network)
    macs = sum(found.get(f"{kind}_work", 0) for kind in ("pointwise", "grouped", "spatial", "linear", "opaque"))
    assert macs == costs["macs"]
    assert found["convolved_values"] == costs["activations"]
    assert found["weight_bytes"] == costs["size"]
    nodes = sum(len(block.nodes) for block in network.blocks)
    assert sum(value for feature, value in found.items() if feature.endswith("_calls")) == nodes


def test_features_of_parts_in_a_row_add_up() -> None:
    whole = resnet9(depth1=2, resolution=0.75)
    first = Blueprint.chain(SHAPE, whole.blocks[:3])
    rest = Blueprint.chain(first.output_shape, whole.blocks[3:])
    assert blueprint_features(whole) == pytest.approx(np.add(blueprint_features(first), blueprint_features(rest)))


# -------------------------------------------------------------------------------------------------------------- laws


def law(n: int, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return features over five orders of magnitude, and values of a law with an intercept in which two have no part."""
    rng = RNG(seed)
    rows = rng.lognormal(0, 1, (n, 6)) * np.array([1, 1e3, 1e5, 10, 1e2, 1])
    return rows, rows @ np.array([2e-3, 5e-6, 1e-8, 0, 3e-5, 0]) + 4e-3


def test_a_linear_law_is_found_again() -> None:
    rows, values = law(60)
    found = Estimator.fit(rows, values, seed=0)
    assert found.weights == pytest.approx([2e-3, 5e-6, 1e-8, 0, 3e-5, 0], rel=1e-6, abs=1e-12)
    assert found.intercept == pytest.approx(4e-3)
    assert found.error < 1e-6
    fresh, expected = law(20, seed=1)
    assert found.predict(fresh) == pytest.approx(expected)


def test_the_error_of_noisy_values_is_about_the_noise() -> None:
    rows, values = law(200)
    noisy = values * RNG(3).lognormal(0, 0.1, 200)
    assert Estimator.fit(rows, noisy, seed=0).error == pytest.approx(0.1 * 0.6745, rel=0.3)  # the median of |N(0, 1)|


def test_no_weight_is_negative_where_less_would_fit_better() -> None:
    rows = np.array([[1.0, 0.0], [2.0, 1.0], [3.0, 3.0], [4.0, 3.0], [5.0, 1.0]])
    found = Estimator.fit(rows, 10 + rows[:, 0] - 2 * rows[:, 1], seed=0)
    assert (found.weights >= 0).all()
    assert found.intercept >= 0


def test_the_error_is_that_of_rows_that_were_held_out() -> None:
    values = np.exp(np.arange(8.0))
    found = Estimator.fit(np.eye(8), values, seed=0)  # each row its own feature: fitted without error, foreseen by none
    assert found.predict(np.eye(8)) == pytest.approx(values)
    assert found.error > 0.5


def test_blocks_help_a_law_that_networks_alone_are_too_few_for_and_their_error_is_not_told() -> None:
    rows, values = law(12)
    assert Estimator.fit(rows[:4], values[:4], seed=0).error > 1e-3
    assert Estimator.fit(rows, values, seed=0, whole=4).error < 1e-6


def test_blocks_that_are_faster_alone_pull_a_law_only_a_little() -> None:
    rows, values = law(60)
    values[40:] /= 1.3
    found = Estimator.fit(rows, values, seed=0, whole=40)
    assert found.predict(rows[:40]) == pytest.approx(values[:40], rel=0.02)
    assert found.error < 0.02


def test_measurements_that_failed_are_left_out() -> None:
    rows, values = law(40)
    gaps = np.where(np.arange(40) % 4 == 0, np.nan, values)
    assert Estimator.fit(rows, gaps, seed=0).weights == pytest.approx(
        Estimator.fit(rows[~np.isnan(gaps)], values[~np.isnan(gaps)], seed=0).weights
    )


@pytest.mark.parametrize("values", [[1.0, np.nan, np.nan], [1.0, 2.0, 0.0], [1.0, 2.0, -1.0]])
def test_too_few_figures_or_one_that_is_not_positive_are_refused(values: list[float]) -> None:
    with pytest.raises(PredictorError, match="at least 2 positive measurements"):
        Estimator.fit(np.ones((3, 1)), np.array(values), seed=0)


# ---------------------------------------------------------------------------------------------------------- training


def test_an_optimizer_keeps_as_many_numbers_a_weight_as_its_states_say() -> None:
    for name in knob("optimizer").metadata["choices"]:
        trainer = make_trainer(resnet9(), Recipe(batch_size=8, optimizer=name), 10, StepClock(1), CPU)
        trainer.step(iter(trainer.batches))
        state = trainer.optimizer.state[trainer.network.blocks[1].nodes[0].weight]  # type: ignore[index, union-attr]
        assert sum(value.ndim == 4 for value in state.values() if isinstance(value, torch.Tensor)) == STATES[name]


def effect(metric: str, **knobs: Any) -> np.ndarray[Any, Any]:
    """Return a recipe's step features over those of the default one."""
    rows = np.array([blueprint_features(resnet9())] * 2)
    base, found = step_features(metric, rows, columns([Recipe(), Recipe(**knobs)]))
    return np.array(found[base > 0] / base[base > 0])


def test_more_of_a_step_is_more_of_its_features() -> None:
    assert effect("images_per_second", learning_rate=1.0) == pytest.approx(1)
    for knobs in ({"gradient": "sam"}, {"gradient": "mltp"}, {"ema": 0.9}, {"optimizer": "adam"}, {"batch_size": 256}):
        found = effect("images_per_second", **knobs)
        assert found.max() > 1
        assert found.min() >= 1
    assert effect("images_per_second", gradient="sam", sam_every=4).max() == pytest.approx(1.25)
    assert effect("images_per_second", start_resolution=0.5, resize_until=1.0).min() < 0.65
    assert effect("images_per_second", momentum=0.0).min() == pytest.approx(0.5)


def test_two_tasks_hold_half_of_a_batch_at_once() -> None:
    assert effect("train_memory", gradient="mltp").min() == pytest.approx(0.5)
    assert effect("train_memory", batch_size=256).max() == pytest.approx(2)
    assert effect("train_memory", start_resolution=0.5) == pytest.approx(1)


def test_a_law_of_training_is_found_again_in_images_a_second() -> None:
    space = Space.load("resnet9", input_shape=SHAPE, classes=10)
    found = space.sample(160, seed=0)
    networks = np.array([blueprint_features(space.blueprint(c)) for c in found])
    recipes = columns([Recipe.from_knobs(c["recipe"]) for c in found])
    inputs = step_features("images_per_second", networks, recipes)
    per_feature = RNG(1).random(inputs.shape[1]) / np.maximum(inputs.mean(axis=0), 1e-12)
    speeds = recipes["batch_size"] / (inputs @ per_feature + 0.1)
    noisy = speeds * RNG(2).lognormal(0, 0.03, len(speeds))
    seconds = np.asarray(recipes["batch_size"] / noisy, dtype=np.float64)
    estimate = Estimate("images_per_second", Estimator.fit(inputs, seconds, seed=0))
    assert estimate.error < 0.06
    assert estimate.predict(networks, recipes) == pytest.approx(speeds.astype(np.float64), rel=0.15)


# ------------------------------------------------------------------------------------------------------- calibration


def test_blocks_alone_are_the_different_ones_of_the_networks() -> None:
    network = resnet9(depth1=2)
    alone = blocks_alone([network, network], 100, seed=0)
    assert len(alone) == len(set(network.blocks))
    assert sum(len(b.blocks) for b in alone) == len(alone)
    assert {block.output_shape for block in alone} == set(network.shapes()[1:])
    assert len(blocks_alone([network], 2, seed=0)) == 2


@pytest.mark.parametrize("metric", ["latency", "train_memory", "images_per_second"])
def test_an_estimate_is_calibrated_to_what_the_meter_says(metric: str, tmp_path: Path) -> None:
    slot, store = Slot("cpu", 1, 1), Store(tmp_path / "figures.sqlite")
    space = Space.load("resnet9", input_shape=SHAPE, classes=10)
    sizes = [16, 32, 64, 128] if metric in TRAINING_METRICS else [128]
    candidates = [
        {"architecture": c["architecture"], "recipe": {"batch_size": sizes[i % len(sizes)], "test_flip": i % 3 == 0}}
        for i, c in enumerate(space.sample(60, seed=2))
    ]

    def figure(network: Blueprint, recipe: Recipe) -> float:
        views = 1 if metric in TRAINING_METRICS else recipe.views
        step = 1e-12 * blueprint_cost(network)["macs"] * views * recipe.batch_size + 1e-3
        return recipe.batch_size / step if metric == "images_per_second" else step

    with Meter(slot, SHAPE, 10, store) as meter:
        whole = [meter.workload(c) for c in candidates]
        alone = [(block, Recipe()) for block in blocks_alone([network for network, _ in whole], 10, seed=0)]
        store.write({key(metric, *w, surroundings(slot)): figure(*w) for w in (*whole, *alone)})
        estimate = Estimate.calibrate(meter, metric, candidates, 10, seed=0)
    networks = np.array([blueprint_features(network) for network, _ in whole])
    found = estimate.predict(networks, columns([recipe for _, recipe in whole]))
    assert found == pytest.approx([figure(*w) for w in whole], rel=1e-3)
    assert estimate.error < 1e-3
