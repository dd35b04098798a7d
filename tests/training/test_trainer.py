"""Training: the same seed gives the same weights, clocks are kept, and each part of the recipe acts where it should."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import jointnas
from jointnas.data.dataset import Data, Split, load_data
from jointnas.data.spec import DataSpec
from jointnas.errors import BudgetError, DivergenceError, RecipeError
from jointnas.network.blueprint import Blueprint
from jointnas.network.families import make_blueprint
from jointnas.training.averages import reestimate_norms
from jointnas.training.batches import Normalise
from jointnas.training.clock import StepClock, WallClock
from jointnas.training.confusion import Confusion
from jointnas.training.observation import Observation
from jointnas.training.recipe import EXPECTED_LEARNING_RATE, Recipe
from jointnas.training.recipe_columns import effective
from jointnas.training.schedules import learning_rate_factor, training_side
from jointnas.training.scoring import SCORING_BATCH, accuracy, log_loss, logits_of, predict, smoothed_accuracy
from jointnas.training.trainer import Trainer, Training, train_network
from tests.contention import busy_neighbour, counts_waiting

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"network": "resnet9", "width": 8, "depth1": 0, "depth3": 0}
DIGITS_RECIPE: dict[str, Any] = {"batch_size": 64, "flip": False, "crop": 0.0}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data(DataSpec("digits"))


def small(data: Data) -> Blueprint:
    return make_blueprint(SMALL, data.input_shape, len(data.classes))


def train(data: Data, clock: StepClock | WallClock, seed: int = 0, **knobs: Any) -> Training:
    return train_network(small(data), Recipe(**{**DIGITS_RECIPE, **knobs}), data, clock, seed=seed)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def assert_same_weights(one: Training, other: Training | torch.nn.Module) -> None:
    assert same_weights(one.model, other.model if isinstance(other, Training) else other)


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
    assert observation.accuracy == pytest.approx(accuracy(logits, digits.val.labels))
    assert observation.failure is None


def test_the_learning_curve_is_read_at_fixed_fractions(digits: Data) -> None:
    observation = train(digits, StepClock(40)).observation
    assert [(p.fraction, p.steps) for p in observation.curve] == [(0.1, 4), (0.25, 10), (0.5, 20), (0.75, 30)]
    assert observation.curve[-1].accuracy > observation.curve[0].accuracy
    seconds = [p.seconds for p in observation.curve]
    assert seconds == sorted(seconds)
    assert observation.steps == 40
    assert observation.seconds is not None
    assert observation.seconds > seconds[-1]


def test_the_log_loss_is_the_cross_entropy_of_the_model_without_label_smoothing(digits: Data) -> None:
    observation, model = train(digits, StepClock(20), label_smoothing=0.2)
    logits = predict(model, digits.val, Normalise(digits.mean, digits.std, CPU), CPU)
    chosen = logits.double().softmax(1)[torch.arange(len(digits.val)), digits.val.labels]
    assert observation.log_loss == pytest.approx(float(-chosen.log().mean()))
    assert observation.smoothed_accuracy == pytest.approx(smoothed_accuracy(logits, digits.val.labels))


def test_a_log_loss_that_is_not_finite_is_none() -> None:
    assert log_loss(torch.tensor([[0.0, float("inf")]]), torch.tensor([0])) is None
    assert log_loss(torch.zeros(1, 2), torch.tensor([0])) == pytest.approx(math.log(2))


@pytest.mark.parametrize("images", [100, 288, 1000])
def test_the_curve_is_scored_on_curve_images_validation_images(digits: Data, images: int) -> None:
    recipe = Recipe(**DIGITS_RECIPE)
    whole = train_network(small(digits), recipe, digits, StepClock(20), curve_images=images).observation
    stopped = train_network(small(digits), recipe, digits, StepClock(20), stop_at=0.5).model
    part = Split(digits.val.images[:images], digits.val.labels[:images])
    logits = predict(stopped, part, Normalise(digits.mean, digits.std, CPU), CPU)
    (read,) = (point for point in whole.curve if point.fraction == 0.5)
    assert read.accuracy == accuracy(logits, part.labels)
    assert read.log_loss == log_loss(logits, part.labels)


class SlowScoring(StepClock):
    """A budget of steps, of which the scoring of the first images takes a given share."""

    def __init__(self, share: float) -> None:
        super().__init__(20)
        self.share = share

    def share_of(self, seconds: float) -> float:
        return self.share


@pytest.mark.parametrize(
    ("share", "wanted", "images"),
    [(0.0, 200, 200), (0.0032, 250, 200), (0.0064, 200, 128), (0.9, 200, 128), (0.9, 50, 50), (0.0, 0, 0)],
)
def test_the_curve_has_as_many_images_as_a_fiftieth_of_the_budget_holds(
    digits: Data, share: float, wanted: int, images: int
) -> None:
    recipe, clock = Recipe(**DIGITS_RECIPE), SlowScoring(share)  # of 128 images; the curve has four points
    trainer = Trainer(small(digits), recipe, digits, clock, 0, CPU, curve_images=wanted)
    observation = trainer.run().observation
    assert trainer.curve_images == images
    assert len(observation.curve) == (4 if images else 0)


def test_the_steps_take_less_than_the_seconds_of_a_training(digits: Data) -> None:
    observation = train(digits, StepClock(20)).observation
    assert observation.step_seconds is not None
    assert observation.seconds is not None
    assert 0 < 20 * observation.step_seconds < observation.seconds


@counts_waiting
def test_a_training_beside_a_busy_process_on_its_core_was_disturbed(digits: Data) -> None:
    with busy_neighbour():
        observation = train(digits, WallClock(1.5)).observation
    assert observation.cpu_share is not None
    assert 0 < observation.cpu_share < 0.75
    assert observation.was_disturbed


@pytest.mark.parametrize(("share", "disturbed"), [(None, False), (1.0, False), (0.5, True)])
def test_a_training_was_disturbed_where_it_waited_for_its_cores(share: float | None, disturbed: bool) -> None:
    assert Observation(0.5, cpu_share=share).was_disturbed is disturbed


def test_a_curve_of_few_steps_skips_what_one_step_passes(digits: Data) -> None:
    assert [p.fraction for p in train(digits, StepClock(2)).observation.curve] == [0.5, 1.0]


def test_training_within_a_time_ends_with_predictions_when_it_is_over(digits: Data) -> None:
    reports: list[tuple[float, float]] = []
    observation = train_network(
        small(digits),
        Recipe(**DIGITS_RECIPE),
        digits,
        WallClock(1.5),
        progress=lambda fraction, seconds: reports.append((fraction, seconds)),
    ).observation
    assert observation.seconds is not None
    assert observation.steps is not None
    assert 0.75 < observation.seconds < 2.5
    assert observation.steps > 0
    assert observation.accuracy is not None
    assert observation.images_per_second == pytest.approx(observation.steps * 64 / observation.seconds)
    assert len(observation.curve) <= 4
    assert reports == sorted(reports)
    assert 1 <= len(reports) <= 5


@pytest.mark.parametrize("seconds", [1e-9, 1e-4])
def test_a_time_too_short_for_one_step_is_refused(digits: Data, seconds: float) -> None:
    with pytest.raises(BudgetError, match=r"too short for one training step and the scoring.*--train-time"):
        train(digits, WallClock(seconds))


def test_a_loss_that_stops_being_finite_names_the_step_and_the_knob(digits: Data) -> None:
    message = (
        r"the training diverged: the loss is (nan|inf) at step \d+ with optimizer = sgd, learning_rate = 10, weight_decay = 1 "
        r"and gradient = plain; lower the learning rate"
    )
    with pytest.raises(DivergenceError, match=message):
        train(digits, StepClock(200), learning_rate=10.0, weight_decay=1.0, warmup=0.0)


def test_a_batch_larger_than_the_training_set_is_refused(digits: Data) -> None:
    with pytest.raises(RecipeError, match="batch_size = 4096"):
        train(digits, StepClock(1), batch_size=4096)


def test_a_loss_is_checked_one_step_late_and_the_last_one_by_the_outputs(digits: Data) -> None:
    poisoned = replace(digits, mean=(float("nan"),))  # the first loss is not a number already
    plan = make_blueprint({**SMALL, "whitening": False}, digits.input_shape, len(digits.classes))
    for steps, message in (
        (2, "the loss is nan at step 1 with"),
        (1, "the network's outputs are not finite after step 1 with"),
    ):
        with pytest.raises(DivergenceError, match=message):
            train_network(plan, Recipe(**DIGITS_RECIPE), poisoned, StepClock(steps))


@pytest.mark.parametrize("optimizer", EXPECTED_LEARNING_RATE)
def test_every_optimizer_learns_the_digits(digits: Data, optimizer: str) -> None:
    accuracy = train(digits, StepClock(60), optimizer=optimizer, learning_rate=0.2, ema=0.8).observation.accuracy
    assert accuracy is not None
    assert accuracy > 0.5


def test_more_steps_learn_more(digits: Data) -> None:
    few, many = (train(digits, StepClock(steps)).observation.accuracy for steps in (3, 60))
    assert few is not None
    assert many is not None
    assert many > few + 0.2


def test_the_averaged_weights_are_the_ones_that_are_scored(digits: Data) -> None:
    plain, averaged = (train(digits, StepClock(10), ema=ema).model for ema in (0.0, 0.5))
    name = next(name for name, p in plain.named_parameters() if p.ndim == 4)
    assert not torch.equal(plain.state_dict()[name], averaged.state_dict()[name])


def test_an_accuracy_is_the_share_of_all_images() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 3])
    answers = torch.tensor([0, 0, 0, 2, 1, 0, 1])  # 3 of 4, 1 of 2, none of 1; class 2 does not occur
    logits = torch.nn.functional.one_hot(answers, 4).float()
    assert accuracy(logits, labels) == pytest.approx(4 / 7)
    assert Confusion.of(logits, labels, "abcd").balanced_accuracy == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)


def test_the_one_call_that_trains_a_candidate_gives_the_same_as_its_parts(digits: Data) -> None:
    candidate = {"architecture": SMALL, "recipe": DIGITS_RECIPE}
    observation, model = jointnas.train(candidate, "digits", train_steps=5, seed=3, device="cpu")
    twin = train(digits, StepClock(5), seed=3)
    assert observation.accuracy == twin.observation.accuracy
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.model.parameters(), strict=True))


# ------------------------------------------------------------------------------------------------------ a part of a budget


@pytest.mark.parametrize("schedule", ["linear", "sgdr"])
@pytest.mark.parametrize(("stop_at", "steps"), [(0.25, 5), (0.5, 10), (0.52, 11), (1.0, 20)])
def test_a_training_that_stops_early_has_taken_the_first_steps_of_the_whole_one(
    digits: Data, schedule: str, stop_at: float, steps: int
) -> None:
    recipe = Recipe(**DIGITS_RECIPE, schedule=schedule)
    stopped = train_network(small(digits), recipe, digits, StepClock(20), stop_at=stop_at)
    whole = Trainer(small(digits), recipe, digits, StepClock(20), 0, CPU)
    batches = iter(whole.batches)
    whole.network.train()
    for step in range(steps):
        whole.step(batches)
        whole.clock.stepped()
        rates = [group["lr"] for group in whole.optimizer.param_groups]
        assert rates == [pytest.approx(0.1 * learning_rate_factor(recipe, step / 20))] * len(rates)
    assert (stopped.observation.steps, stopped.observation.fraction) == (steps, stop_at)
    assert_same_weights(stopped, whole.network)
    assert all(point.fraction <= stop_at + 1 / 20 for point in stopped.observation.curve)


FINISHES: list[
    tuple[dict[str, Any], float]
] = [  # what is done to the weights at the end, and what other images change in it
    ({}, 0),
    ({"lookahead": 20, "lookahead_rate": 0.5}, 0),
    ({"lookahead": 20, "ema": 0.9}, 0),
    ({"norm_images": 400}, 0.06),
    ({"norm_images": 400, "ema": 0.9, "lookahead": 5}, 0.06),
]


@pytest.mark.parametrize(("knobs", "tolerance"), FINISHES)
def test_a_point_of_the_curve_is_what_a_training_that_stops_there_reaches(
    digits: Data, knobs: dict[str, Any], tolerance: float
) -> None:
    recipe = Recipe(**{**DIGITS_RECIPE, **knobs})
    whole = train_network(small(digits), recipe, digits, StepClock(60)).observation
    stopped = train_network(small(digits), recipe, digits, StepClock(60), stop_at=0.5).observation
    read = next(point.accuracy for point in whole.curve if point.fraction == 0.5)
    assert read == pytest.approx(stopped.accuracy, abs=tolerance + 1e-9)


@pytest.mark.parametrize("knobs", [knobs for knobs, _ in FINISHES])
def test_reading_the_curve_changes_nothing_of_a_training(
    digits: Data, knobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = train(digits, StepClock(16), **knobs)
    monkeypatch.setattr("jointnas.training.trainer.CURVE_FRACTIONS", ())
    unread = train(digits, StepClock(16), **knobs)
    weights = [dict(t.model.state_dict()) for t in (read, unread)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("stop_at", [0.0, -0.5, 1.5, float("nan")])
def test_a_training_stops_at_a_fraction_of_its_budget(digits: Data, stop_at: float) -> None:
    with pytest.raises(BudgetError, match=r"fraction of the budget in \(0, 1\]"):
        train_network(small(digits), Recipe(**DIGITS_RECIPE), digits, StepClock(2), stop_at=stop_at)


def test_a_training_that_stops_early_under_a_wall_clock_leaves_the_rest_of_the_time(digits: Data) -> None:
    observation = train_network(small(digits), Recipe(**DIGITS_RECIPE), digits, WallClock(3), stop_at=0.25).observation
    assert observation.fraction == 0.25
    assert observation.seconds is not None
    assert observation.seconds < 2
    assert observation.accuracy is not None


# --------------------------------------------------------------------------------------------------------- random numbers


@pytest.mark.parametrize("knobs", [{"dropout": 0.5}, {"stochastic_depth": 0.5}, {"dropout": 0.3, "gradient": "sam"}])
def test_dropout_and_stochastic_depth_are_drawn_by_the_seed_and_leave_torchs_generator_alone(
    digits: Data, knobs: dict[str, Any]
) -> None:
    network = make_blueprint({**SMALL, "depth1": 1}, digits.input_shape, len(digits.classes))
    recipe = Recipe(**{**DIGITS_RECIPE, **knobs})
    trained = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        trained.append(train_network(network, recipe, digits, StepClock(4), seed=3))
        assert torch.equal(before, torch.get_rng_state())
    assert_same_weights(*trained)
    plain = train_network(network, replace(recipe, dropout=0.0, stochastic_depth=0.0), digits, StepClock(4), seed=3)
    assert not same_weights(trained[0].model, plain.model)


# ------------------------------------------------------------------------------------------------------------ the scoring


def test_with_test_flip_logits_are_the_mean_over_both_views(digits: Data) -> None:
    plain, mirrored = (train(digits, StepClock(20), test_flip=flip) for flip in (False, True))
    assert_same_weights(plain, mirrored.model)  # it changes the scoring alone
    normalise = Normalise(digits.mean, digits.std, CPU)
    images = normalise(digits.val.images)
    with torch.no_grad():
        logits = (mirrored.model(images) + mirrored.model(images.flip(3))) / 2
    observation = mirrored.observation
    assert observation.accuracy == pytest.approx(accuracy(logits, digits.val.labels))
    averaged = predict(mirrored.model, digits.val, normalise, CPU, flip=True)
    torch.testing.assert_close(averaged, logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(averaged, predict(mirrored.model, digits.val, normalise, CPU), atol=1e-2)
    with torch.no_grad():
        torch.testing.assert_close(logits_of(plain.model, images, False), plain.model(images))


def test_a_split_is_scored_in_batches_with_a_callback_after_each(digits: Data) -> None:
    model = train(digits, StepClock(2)).model
    rows = torch.arange(2 * SCORING_BATCH + 1) % len(digits.val)
    many = Split(digits.val.images[rows], digits.val.labels[rows])
    batches: list[None] = []
    normalise = Normalise(digits.mean, digits.std, CPU)
    logits = predict(model, many, normalise, CPU, on_batch=lambda: batches.append(None))
    assert len(batches) == 3
    torch.testing.assert_close(logits, predict(model, digits.val, normalise, CPU)[rows], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ema", [0.0, 0.5])
@pytest.mark.parametrize("norm_images", [128, 100_000])
def test_statistics_are_reestimated_from_training_images_at_the_final_weights(
    digits: Data, norm_images: int, ema: float
) -> None:
    plain, reestimated = (train(digits, StepClock(10), ema=ema, norm_images=n) for n in (0, norm_images))
    before, after = plain.model.state_dict(), reestimated.model.state_dict()
    assert all(torch.equal(p, after[name]) for name, p in plain.model.named_parameters())
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert {name.rsplit(".", 1)[1] for name in changed} == {"running_mean", "running_var", "num_batches_tracked"}
    # the mean over all batches hardly depends on which images stand in which
    images = Normalise(digits.mean, digits.std, CPU)(digits.train.images)
    reestimate_norms(plain.model, torch.split(images, 64))
    tolerance = 0.06 if norm_images > len(digits.train) else 0.3
    for name, expected in plain.model.named_buffers():
        if name.endswith("running_var"):
            torch.testing.assert_close(after[name], expected, rtol=tolerance, atol=1e-3)


# ------------------------------------------------------------------------------------------ sizes, channels and batches


def noise_like(data: Data, channels: int, side: int) -> Data:
    """Return the data with its images enlarged to `side` and one channel repeated, each a little different."""

    def grown(split: Split) -> Split:
        images = split.images[:64].float().permute(0, 3, 1, 2)
        images = torch.nn.functional.interpolate(images, size=(side, side)).expand(-1, channels, -1, -1)
        factors = torch.linspace(1, 0.5, channels)[:, None, None]
        return Split((images * factors).byte().permute(0, 2, 3, 1).contiguous(), split.labels[:64])

    mean, std = (tuple(values[0] * (1 - 0.1 * c) for c in range(channels)) for values in (data.mean, data.std))
    return replace(data, train=grown(data.train), val=grown(data.val), mean=mean, std=std)


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize(
    "knobs", [{}, {"mixup": 1.0, "cutmix": 1.0, "cutout": 0.5, "flip": "alternating", "crop": 0.2}]
)
def test_images_of_any_number_of_channels_train(digits: Data, channels: int, knobs: dict[str, Any]) -> None:
    data = noise_like(digits, channels, 8)
    observation, model = train(data, StepClock(3), batch_size=32, **knobs)
    assert model.blueprint.input_shape == (channels, 8, 8)
    assert observation.accuracy is not None


@pytest.mark.parametrize("resolution", [1.0, 0.75])
def test_training_images_grow_and_scoring_is_at_full_size(digits: Data, resolution: float) -> None:
    data = noise_like(digits, 1, 32)
    plan = make_blueprint({**SMALL, "width": 4, "resolution": resolution}, data.input_shape, len(data.classes))
    recipe = Recipe(**{**DIGITS_RECIPE, "batch_size": 32}, start_resolution=0.5, resize_until=0.8)
    trainer = Trainer(plan, recipe, data, StepClock(10), 0, CPU)
    seen: list[tuple[bool, int, int]] = []
    trainer.network.resize.register_forward_hook(
        lambda module, _, out: seen.append((module.training, out.shape[2], out.shape[3]))
    )
    full = round(32 * resolution)
    model = trainer.run().model
    stepped = [sides for training, *sides in seen if training]
    expected = [training_side(recipe, step / 10, full) for step in range(10)]
    assert stepped == [[side, side] for side in expected]
    assert expected[0] == 16
    assert expected[8:] == [full, full]
    assert {tuple(sides) for training, *sides in seen if not training} == {(full, full)}
    seen.clear()
    predict(model, data.val, Normalise(data.mean, data.std, CPU), CPU)
    assert seen == [(False, full, full)]


@pytest.mark.parametrize("knobs", [{"norm_images": 65}, {"ghost_batch": 63}])
def test_a_part_of_one_image_is_no_obstacle_to_a_network_that_ends_in_one_pixel(
    digits: Data, knobs: dict[str, Any]
) -> None:
    assert train(digits, StepClock(2), **knobs).observation.accuracy is not None


# -------------------------------------------------------------------------------------------- knobs that others switch on

BITS_1 = {"quantiser": "binaryconnect", "weight_bits": 1}
SWITCHED: list[tuple[str, tuple[Any, Any], dict[str, Any], dict[str, Any]]] = [
    ("momentum", (0.5, 0.9), {"optimizer": "adam"}, {"optimizer": "muon"}),
    ("sam_rho", (0.05, 1.0), {"gradient": "plain"}, {"gradient": "sam"}),
    ("sam_every", (1, 2), {"gradient": "mltp"}, {"gradient": "sam"}),
    ("mltp_rate", (0.5, 2.0), {"gradient": "sam"}, {"gradient": "mltp"}),
    ("lookahead_rate", (0.5, 0.8), {"lookahead": 0}, {"lookahead": 2}),
    ("cycles", (2, 3), {"schedule": "cosine"}, {"schedule": "sgdr"}),
    ("cycle_growth", (1.0, 3.0), {"schedule": "sgdr", "cycles": 1}, {"schedule": "sgdr", "cycles": 2}),
    ("resize_until", (0.4, 0.9), {"start_resolution": 1.0}, {"start_resolution": 0.5}),
    ("mix_probability", (0.2, 1.0), {"mixup": 0.0, "cutmix": 0.0}, {"cutmix": 1.0}),
    ("policy_operations", (1, 3), {"policy": "trivialaugment"}, {"policy": "randaugment"}),
    ("policy_magnitude", (3, 20), {"policy": "none"}, {"policy": "randaugment"}),
    ("ghost_batch", (32, 40), {"batch_size": 32}, {"batch_size": 64}),
    ("weight_bits", (1, 4), {"quantiser": "none"}, {"quantiser": "binaryconnect"}),
    ("weight_levels", ("uniform", "powers-of-two"), BITS_1, {**BITS_1, "weight_bits": 3}),
    ("level_scales", ("channel", "tensor"), {"quantiser": "none"}, BITS_1),
    ("scales_from", ("start", "each step"), {"quantiser": "none"}, BITS_1),
    ("quantised_layers", ("inner", "all"), {"quantiser": "none"}, BITS_1),
    ("int8_activations", (False, True), {"quantiser": "none"}, BITS_1),
    ("prox_rho", (0.2, 1.0), BITS_1, {"quantiser": "proxquant"}),
    ("prox_varrho", (0.0, 0.6), BITS_1, {"quantiser": "proxconnect"}),
    ("prox_until", (0.4, 1.0), BITS_1, {"quantiser": "reverse-proxconnect"}),
]


def test_every_knob_that_others_switch_on_is_tried_below() -> None:
    switched = {name for name, spec in Recipe.__dataclass_fields__.items() if spec.metadata["when"]}
    assert {name for name, *_ in SWITCHED} == switched


@pytest.mark.parametrize(("name", "values", "off", "on"), SWITCHED)
def test_a_knob_acts_where_the_others_switch_it_on_and_nowhere_else(
    digits: Data, name: str, values: tuple[Any, Any], off: dict[str, Any], on: dict[str, Any]
) -> None:
    data = noise_like(digits, 1, 24)
    for beside, acts in ((off, False), (on, True)):
        one, other = (train(data, StepClock(5), **{"batch_size": 64, **beside, name: value}) for value in values)
        assert same_weights(one.model, other.model) is not acts
        acting = [effective(Recipe(**{**DIGITS_RECIPE, **beside, name: value}), 24, 24) for value in values]
        assert (acting[0] != acting[1]) is acts
