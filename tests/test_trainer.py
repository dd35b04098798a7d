"""Training: the same seed gives the same weights, clocks are kept, and averages, schedules and scores are as written."""

import math
from typing import Any

import pytest
import torch

import jointnas
from jointnas.blueprint import Blueprint
from jointnas.data import Data, DataSpec, load_data
from jointnas.errors import BudgetError, DivergenceError, RecipeError
from jointnas.module import build
from jointnas.networks import blueprint
from jointnas.recipe import Recipe
from jointnas.training import StepClock, Training, WallClock, train_network
from jointnas.training.batches import Normalise
from jointnas.training.optimizers import learning_rate_factor, make_optimizer
from jointnas.training.trainer import _Average, accuracies, predict

SMALL = {"network": "resnet9", "width": 8, "depth1": 0, "depth3": 0}
DIGITS_RECIPE: dict[str, Any] = {"batch_size": 64, "flip": False, "crop": 0.0}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data(DataSpec("digits"))


def small(data: Data) -> Blueprint:
    return blueprint(SMALL, data.input_shape, len(data.classes))


def train(data: Data, clock: StepClock | WallClock, seed: int = 0, **knobs: Any) -> Training:
    return train_network(small(data), Recipe(**{**DIGITS_RECIPE, **knobs}), data, clock, seed=seed)


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_gives_others(digits: Data) -> None:
    knobs = {"crop": 0.125, "flip": True, "cutout": 0.25, "ema": 0.9}
    first, again, other = (train(digits, StepClock(8), seed, **knobs) for seed in (1, 1, 2))
    weights = [dict(t.model.state_dict()) for t in (first, again, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert first.observation.accuracy == again.observation.accuracy
    parameters = [name for name, _ in first.model.named_parameters()]
    assert not any(torch.equal(weights[0][n], weights[2][n]) for n in parameters)


def test_the_accuracy_is_that_of_the_model_on_all_validation_images(digits: Data) -> None:
    observation, model = train(digits, StepClock(20))
    assert not model.training
    logits = predict(model, digits.val, Normalise(digits.mean, digits.std, CPU), CPU)
    assert logits.shape == (len(digits.val), 10)
    assert (observation.accuracy, observation.balanced_accuracy) == accuracies(logits, digits.val.labels)
    assert observation.failure is None


def test_the_learning_curve_is_read_at_fixed_fractions(digits: Data) -> None:
    observation = train(digits, StepClock(40)).observation
    assert [(p.fraction, p.steps) for p in observation.curve] == [(0.1, 4), (0.25, 10), (0.5, 20), (0.75, 30)]
    assert all(0 <= p.accuracy <= 1 for p in observation.curve)
    seconds = [p.seconds for p in observation.curve]
    assert seconds == sorted(seconds)
    assert observation.steps == 40
    assert observation.seconds is not None
    assert observation.seconds > seconds[-1]


def test_a_curve_of_few_steps_skips_what_one_step_passes(digits: Data) -> None:
    assert [p.fraction for p in train(digits, StepClock(2)).observation.curve] == [0.5, 1.0]


def test_training_within_a_time_ends_with_predictions_when_it_is_over(digits: Data) -> None:
    told: list[tuple[float, float]] = []
    observation = train_network(
        small(digits),
        Recipe(**DIGITS_RECIPE),
        digits,
        WallClock(1.5),
        progress=lambda fraction, seconds: told.append((fraction, seconds)),
    ).observation
    assert observation.seconds is not None
    assert observation.steps is not None
    assert 0.75 < observation.seconds < 2.5
    assert observation.steps > 0
    assert observation.accuracy is not None
    assert observation.images_per_second == pytest.approx(observation.steps * 64 / observation.seconds)
    assert len(observation.curve) <= 4
    assert told == sorted(told)
    assert 1 <= len(told) <= 5


@pytest.mark.parametrize("seconds", [1e-9, 1e-4])
def test_a_time_too_short_for_one_step_is_refused(digits: Data, seconds: float) -> None:
    with pytest.raises(BudgetError, match=r"one training step and the scoring.*--train-time"):
        train(digits, WallClock(seconds))


def test_a_loss_that_stops_being_finite_names_the_step_and_the_knob(digits: Data) -> None:
    with pytest.raises(DivergenceError, match=r"at step \d+ with sgd and learning_rate = 10: lower the learning rate"):
        train(digits, StepClock(200), learning_rate=10.0, weight_decay=1.0, warmup=0.0)


def test_a_batch_larger_than_the_training_set_is_refused(digits: Data) -> None:
    with pytest.raises(RecipeError, match="batch_size = 4096"):
        train(digits, StepClock(1), batch_size=4096)


@pytest.mark.parametrize(
    ("optimizer", "knobs"),
    [("sgd", {"momentum": 0.9}), ("sgd", {"momentum": 0.0}), ("adam", {"weight_decay": 0.0}), ("adamw", {"ema": 0.9})],
)
def test_every_optimizer_learns_the_digits(digits: Data, optimizer: str, knobs: dict[str, Any]) -> None:
    accuracy = train(digits, StepClock(100), optimizer=optimizer, learning_rate=0.2, **knobs).observation.accuracy
    assert accuracy is not None
    assert accuracy > 0.6


def test_more_steps_learn_more(digits: Data) -> None:
    few, many = (train(digits, StepClock(steps)).observation.accuracy for steps in (3, 60))
    assert few is not None
    assert many is not None
    assert many > few + 0.2


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_weights_are_decayed_and_biases_and_norms_are_not(digits: Data, optimizer: str) -> None:
    network = build(small(digits), torch.Generator().manual_seed(0))
    made = make_optimizer(network, Recipe(optimizer=optimizer, weight_decay=0.01))
    decays = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    assert {id(p) for p in network.parameters()} == set(decays)
    assert all(decays[id(p)] == (0.01 if p.ndim >= 2 else 0.0) for p in network.parameters())
    assert set(decays.values()) == {0.0, 0.01}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", {0.0: 0.0, 0.1: 0.5, 0.2: 1.0, 0.4: 0.75, 0.6: 0.5, 1.0: 0.0}),
        ("cosine", {0.0: 0.0, 0.1: 0.5, 0.2: 1.0, 0.4: (1 + math.sqrt(0.5)) / 2, 0.6: 0.5, 1.0: 0.0}),
    ],
)
def test_the_learning_rate_warms_up_and_then_falls_to_zero(schedule: str, expected: dict[float, float]) -> None:
    recipe = Recipe(schedule=schedule, warmup=0.2)
    for fraction, factor in expected.items():
        assert learning_rate_factor(recipe, fraction) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_without_warmup_the_learning_rate_starts_at_its_peak(schedule: str) -> None:
    assert learning_rate_factor(Recipe(schedule=schedule, warmup=0.0), 0.0) == 1


def test_the_average_of_the_weights_has_its_closed_form(digits: Data) -> None:
    network = build(small(digits), torch.Generator().manual_seed(0))
    start = [t.clone().double() for t in network.state_dict().values()]
    average = _Average(network, 0.25)
    for step in (1, 2, 3, 4):
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.fill_(step)
        average.update(step)
    # (1 + t) / (10 + t) is 2/11, 3/12, 4/13, 5/14: the decay is held at 1/4 from the second step on
    for before, after in zip(start, average.network.state_dict().values(), strict=True):
        expected = before
        for step, decay in ((1, 2 / 11), (2, 0.25), (3, 0.25), (4, 0.25)):
            expected = decay * expected + (1 - decay) * step
        if after.is_floating_point():
            torch.testing.assert_close(after.double(), expected, rtol=1e-6, atol=1e-6)


def test_the_averaged_weights_are_the_ones_that_are_scored(digits: Data) -> None:
    plain, averaged = (train(digits, StepClock(10), ema=ema).model for ema in (0.0, 0.5))
    name = next(name for name, p in plain.named_parameters() if p.ndim == 4)
    assert not torch.equal(plain.state_dict()[name], averaged.state_dict()[name])


def test_accuracies_are_shares_of_all_images_and_mean_shares_by_class() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 3])
    answers = torch.tensor([0, 0, 0, 2, 1, 0, 1])  # 3 of 4, 1 of 2, none of 1; class 2 does not occur
    logits = torch.nn.functional.one_hot(answers, 4).float()
    accuracy, balanced = accuracies(logits, labels)
    assert accuracy == pytest.approx(4 / 7)
    assert balanced == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)


def test_the_one_call_that_trains_a_candidate_gives_the_same_as_its_parts(digits: Data) -> None:
    candidate = {"architecture": SMALL, "recipe": DIGITS_RECIPE}
    observation, model = jointnas.train(candidate, "digits", train_steps=5, seed=3, device="cpu")
    twin = train(digits, StepClock(5), seed=3)
    assert observation.accuracy == twin.observation.accuracy
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.model.parameters(), strict=True))
