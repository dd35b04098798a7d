"""Training of weights of few bits."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from jointnas.data.dataset import load_data
from jointnas.data.spec import DataSpec
from jointnas.errors import BlueprintError
from jointnas.network.cost import blueprint_cost
from jointnas.network.levels import Levels, codes_of
from jointnas.network.module import Network, build, layers_of_few_bits
from jointnas.network.operations.packing import Packing
from jointnas.training.clock import StepClock
from jointnas.training.ensemble import train_ensemble
from jointnas.training.proxconnect import ProxConnect, strength
from jointnas.training.recipe import EXPECTED_LEARNING_RATE, QUANTISERS, Recipe
from jointnas.training.trained_blueprint import trained_blueprint
from jointnas.training.trainer import Training, train_network

OWN = QUANTISERS[1:]
ARCHITECTURE = {"network": "resnet9", "width": 4}


def trained(steps: int = 6, **knobs: object) -> Training:
    data = load_data(DataSpec("digits", train_images=200, val_images=100))
    candidate = {"architecture": ARCHITECTURE, "recipe": {"batch_size": 32, **knobs}}
    network = trained_blueprint(candidate, data.input_shape, len(data.classes))
    return train_network(network, Recipe.from_knobs(candidate["recipe"]), data, StepClock(steps), seed=1)


def are_on_levels(network: nn.Module) -> bool:
    for _, layer in layers_of_few_bits(network):
        assert layer.packing is not None
        levels = Levels(layer.packing)
        if not torch.equal(levels.projected(layer.weight, layer.weight_scale), layer.weight):
            return False
    return True


@pytest.mark.parametrize("quantiser", OWN)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_what_is_scored_has_its_weights_on_the_levels(quantiser: str, bits: int) -> None:
    model = trained(quantiser=quantiser, weight_bits=bits).model
    layers = list(layers_of_few_bits(model))
    assert len(layers) > 2
    assert are_on_levels(model)
    for _, layer in layers:
        counts = [len(row.unique()) for row in layer.weight.flatten(1)]
        assert max(counts) <= 2**bits


@pytest.mark.parametrize("optimizer", EXPECTED_LEARNING_RATE)
def test_every_optimizer_trains_weights_of_few_bits(optimizer: str) -> None:
    training = trained(quantiser="proxconnect", weight_bits=2, optimizer=optimizer, learning_rate=0.02)
    assert are_on_levels(training.model)
    assert training.observation.accuracy is not None


@pytest.mark.parametrize(
    "knobs",
    [
        {"ema": 0.9},
        {"lookahead": 2},
        {"norm_images": 100},
        {"gradient": "sam"},
        {"gradient": "mltp"},
        {"gradient_centralisation": True},
        {"ema": 0.9, "norm_images": 100, "lookahead": 2},
        {"scales_from": "start"},
        {"level_scales": "tensor", "weight_levels": "powers-of-two"},
        {"int8_activations": True},
        {"quantised_layers": "all"},
    ],
    ids=str,
)
def test_other_parts_of_a_recipe_leave_the_weights_on_their_levels(knobs: dict[str, object]) -> None:
    for quantiser in ("binaryconnect", "reverse-proxconnect"):
        assert are_on_levels(trained(quantiser=quantiser, weight_bits=2, **knobs).model)


def test_the_first_and_the_last_layer_stay_floats_unless_all_are_quantised() -> None:
    inner, every = (trained_blueprint(own, (3, 32, 32), 10) for own in (few(), few(quantised_layers="all")))
    counts = [sum(node.get("bits") is not None for b in plan.blocks for node in b.nodes) for plan in (inner, every)]
    assert counts[1] - counts[0] == 2
    layers = [n.get("bits") for b in inner.blocks for n in b.nodes if n.operation in ("conv", "linear")]
    assert layers[0] is layers[-1] is None


def few(**knobs: object) -> dict[str, dict[str, object]]:
    return {"architecture": ARCHITECTURE, "recipe": {"quantiser": "binaryconnect", "weight_bits": 1, **knobs}}


def test_a_network_of_another_library_has_no_layers_to_quantise() -> None:
    candidate = few()
    candidate["architecture"] = {"network": "library", "name": "shufflenet_v2_x1_0"}
    with pytest.raises(BlueprintError, match="a quantiser needs convolutions or linear layers of this project's own"):
        trained_blueprint(candidate, (3, 32, 32), 10)


def test_one_bit_is_an_eighth_of_a_byte_a_weight_and_a_scale_a_channel() -> None:
    plain = {"architecture": ARCHITECTURE, "recipe": {}}
    before, after = (blueprint_cost(trained_blueprint(own, (3, 32, 32), 10)) for own in (plain, few()))
    layers = [layer for _, layer in layers_of_few_bits(Network(trained_blueprint(few(), (3, 32, 32), 10)))]
    weights = sum(layer.weight.numel() for layer in layers)
    packed = sum(-(-layer.weight.numel() // 8) + 4 * len(layer.weight) for layer in layers)
    assert before["size"] - after["size"] == 4 * weights - packed
    assert before["params"] == after["params"]
    assert after["bitops"] < before["bitops"] == 1024 * before["macs"]


@pytest.mark.parametrize("kind", ["seeds", "snapshots"])
def test_members_of_an_ensemble_are_on_their_levels(kind: str) -> None:
    data = load_data(DataSpec("digits", train_images=200, val_images=100))
    candidate = few(batch_size=32)
    network = trained_blueprint(candidate, data.input_shape, len(data.classes))
    recipe = Recipe.from_knobs(candidate["recipe"])
    trained = train_ensemble(network, recipe, data, {"train_steps": 12}, 2, kind, keep_all=True)
    assert len(trained.networks) == 2
    assert all(are_on_levels(own) for own in trained.networks)


@pytest.mark.parametrize("knobs", [{}, {"ema": 0.9, "lookahead": 2}])
def test_points_of_the_curve_leave_the_training_as_it_is(knobs: dict[str, object]) -> None:
    data = load_data(DataSpec("digits", train_images=200, val_images=100))
    candidate = {"architecture": ARCHITECTURE, "recipe": {"batch_size": 32, "quantiser": "proxconnect", **knobs}}
    network = trained_blueprint(candidate, data.input_shape, len(data.classes))
    recipe = Recipe.from_knobs(candidate["recipe"])
    with_curve, without = (
        train_network(network, recipe, data, StepClock(12), seed=1, curve_images=own) for own in (100, 0)
    )
    assert with_curve.observation.curve
    states = [training.model.state_dict() for training in (with_curve, without)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_averages_have_the_scales_of_the_levels_at_the_start() -> None:
    model = trained(8, quantiser="binaryconnect", weight_bits=2, scales_from="start", ema=0.9).model
    plain = trained(8, quantiser="binaryconnect", weight_bits=2, scales_from="start").model
    pairs = zip(layers_of_few_bits(model), layers_of_few_bits(plain), strict=True)
    assert all(torch.allclose(a.weight_scale, b.weight_scale, rtol=1e-5) for (_, a), (_, b) in pairs)


# ------------------------------------------------------------------------------------------------------- the algorithms


def pair(quantiser: str, **knobs: object) -> tuple[Network, ProxConnect]:
    recipe = Recipe.from_knobs({"quantiser": quantiser, "weight_bits": 2, **knobs})
    plan = trained_blueprint(
        {"architecture": ARCHITECTURE, "recipe": {"quantiser": quantiser, "weight_bits": 2}}, (3, 32, 32), 10
    )
    network = build(plan, torch.Generator().manual_seed(0))
    own = ProxConnect(network, recipe)
    own.start()
    return network, own


def step(own: ProxConnect, fraction: float, change: float = 0.01) -> None:
    """A step of an optimizer that adds a constant to every weight."""
    own.prepare_step()
    with torch.no_grad():
        torch._foreach_add_(own.weights, change)
    own.finish_step(fraction)


@pytest.mark.parametrize("quantiser", ["binaryconnect", "proxconnect"])
def test_steps_start_from_the_continuous_weights(quantiser: str) -> None:
    _, own = pair(quantiser)
    before = [w.clone() for w in own.continuous]
    step(own, 0.1)
    step(own, 0.2)
    for a, b in zip(before, own.continuous, strict=True):
        assert torch.allclose(b, a + 0.02, atol=1e-6)


@pytest.mark.parametrize("quantiser", ["proxquant", "reverse-proxconnect"])
def test_steps_start_from_the_quantised_weights(quantiser: str) -> None:
    _, own = pair(quantiser)
    before = [w.clone() for w in own.quantised]
    step(own, 0.1)
    for a, b in zip(before, own.continuous, strict=True):
        assert torch.allclose(b, a + 0.01, atol=1e-6)


@pytest.mark.parametrize("quantiser", OWN)
def test_gradients_are_taken_at_the_weights_that_the_method_names(quantiser: str) -> None:
    _, own = pair(quantiser)
    step(own, 0.3)
    expected = own.continuous if quantiser == "reverse-proxconnect" else own.quantised
    for w, e in zip(own.weights, expected, strict=True):
        assert torch.equal(w, e)


def test_proxconnect_with_the_projection_is_binaryconnect_bit_for_bit() -> None:
    """Against BinaryConnect written out: the gradient of the quantised weights moves the continuous ones."""
    _, own = pair_of_one_layer("proxconnect", 2)
    (weight,), (layer, levels) = own.weights, own.layers[0]
    target, steps = torch.randn(weight.shape, generator=torch.Generator().manual_seed(7)), 30
    scales, optimizer = layer.weight_scale.clone(), torch.optim.SGD([weight], lr=0.05, momentum=0.9)
    continuous, velocity = own.continuous[0].clone(), torch.zeros_like(weight)
    own.recipe = replace(own.recipe, prox_until=0.01)
    own.prepare_step()
    own.finish_step(1.0)  # the map has grown to the projection
    for i in range(steps):
        optimizer.zero_grad()
        Quadratic(target).loss(weight).backward()
        own.prepare_step()
        optimizer.step()
        own.finish_step(1.0)
        gradient = levels.projected(continuous, scales) - target
        velocity = gradient if i == 0 else velocity.mul(0.9).add(gradient)
        continuous = continuous.add(velocity, alpha=-0.05)
        assert torch.equal(own.continuous[0], continuous)
        assert torch.equal(weight.detach(), levels.projected(continuous, scales))


@pytest.mark.parametrize("quantiser", ["proxquant", "reverse-proxconnect"])
def test_steps_from_the_quantised_weights_are_the_published_ones(quantiser: str) -> None:
    _, own = pair_of_one_layer(quantiser, 2)
    (weight,), (layer, levels) = own.weights, own.layers[0]
    target, steps = torch.randn(weight.shape, generator=torch.Generator().manual_seed(7)), 30
    scales, optimizer = layer.weight_scale.clone(), torch.optim.SGD([weight], lr=0.05)
    continuous, quantised = own.continuous[0].clone(), own.quantised[0].clone()
    for i in range(steps):
        optimizer.zero_grad()
        Quadratic(target).loss(weight).backward()
        own.prepare_step()
        optimizer.step()
        own.finish_step((i + 1) / steps)
        at = continuous if quantiser == "reverse-proxconnect" else quantised
        continuous = quantised - 0.05 * (at - target)
        quantised = levels.proximal(continuous, scales, *strength(own.recipe, (i + 1) / steps, i / steps), clip=False)
        assert torch.allclose(
            weight.detach(), continuous if quantiser == "reverse-proxconnect" else quantised, atol=1e-6
        )


@pytest.mark.parametrize("quantiser", OWN)
def test_rho_grows_to_its_end_and_stays(quantiser: str) -> None:
    recipe = Recipe(quantiser=quantiser, prox_rho=1.0, prox_until=0.5)
    assert strength(recipe, 0.5, 0.4)[0] == strength(recipe, 0.9, 0.8)[0] == 1.0
    if quantiser == "binaryconnect":
        assert strength(recipe, 0.0, 0.0) == (1.0, 1.0)
    else:
        assert strength(recipe, 0.0, 0.0) == (0.0, 0.0)


@pytest.mark.parametrize("knobs", [{"prox_rho": 0.7, "prox_varrho": 0.0}, {"prox_rho": 0.0, "prox_varrho": 0.6}])
def test_inside_fixed_levels_the_maps_of_proxquant_compose_to_that_of_proxconnect(knobs: dict[str, float]) -> None:
    levels, scales = Levels(Packing(2, "uniform", "channel")), torch.full((3,), 0.3)
    w = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).clamp(-0.9, 0.9)
    recipe = Recipe.from_knobs({"quantiser": "proxquant", "prox_until": 0.5, **knobs})
    own = w
    for before, fraction in pairwise(torch.linspace(0, 0.4, 9).tolist()):
        own = levels.proximal(own, scales, *strength(recipe, fraction, before), clip=False)
    whole = levels.proximal(w, scales, *strength(replace(recipe, quantiser="proxconnect"), 0.4, 0.3))
    assert torch.allclose(own, whole, atol=1e-4)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_without_gradients_scales_that_follow_the_weights_stay(bits: int) -> None:
    levels, recipe = Levels(Packing(bits, "uniform", "channel")), Recipe(quantiser="proxquant")
    w = torch.randn(4, 800, generator=torch.Generator().manual_seed(0))
    first = scales = levels.fitted_scales(w, levels.first_scales(w))
    for i in range(300):
        scales = levels.fitted_scales(w, scales)
        w = levels.proximal(w, scales, *strength(recipe, (i + 1) / 300, i / 300), clip=False)
    assert ((scales / first - 1).abs() < 0.25).all()
    assert torch.equal(levels.projected(w, scales), w)


class Quadratic(nn.Module):
    """½‖w − target‖², whose best weights on levels are the projection of the target."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.target = target

    def loss(self, w: Tensor) -> Tensor:
        return ((w - self.target) ** 2).sum() / 2


@pytest.mark.parametrize("quantiser", OWN)
@pytest.mark.parametrize("bits", [1, 2])
def test_least_squares_ends_at_the_known_quantised_optimum(quantiser: str, bits: int) -> None:
    """With a scale that is fixed, each weight's optimum is the level nearest to its target."""
    network, own = pair_of_one_layer(quantiser, bits)
    (weight,), (layer, levels) = own.weights, own.layers[0]
    scales = torch.full_like(layer.weight_scale, 0.4)
    layer.weight_scale.copy_(scales)
    codes = torch.tensor(codes_of(bits, "uniform"), dtype=torch.float32)
    draw = torch.Generator().manual_seed(3)
    target = 0.4 * codes[torch.randint(len(codes), weight.shape, generator=draw)] + 0.2 * (
        torch.rand(weight.shape, generator=draw) - 0.5
    )
    problem, steps = Quadratic(target), 400
    optimizer = torch.optim.SGD([weight], lr=0.05)
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - i / steps)  # BinaryConnect's last weights swing otherwise
        optimizer.zero_grad()
        problem.loss(weight).backward()
        own.prepare_step()
        optimizer.step()
        own.finish_step((i + 1) / steps)
    own.restore_continuous()
    own.project(network)
    reached = layer.weight.detach()
    assert (reached == levels.projected(target, scales)).float().mean() > 0.97


def pair_of_one_layer(quantiser: str, bits: int) -> tuple[Network, ProxConnect]:
    recipe = Recipe.from_knobs({"quantiser": quantiser, "weight_bits": bits, "scales_from": "start", "prox_until": 0.9})
    plan = trained_blueprint(
        {
            "architecture": {"network": "classic", "name": "lenet"},
            "recipe": {"quantiser": quantiser, "weight_bits": bits},
        },
        (3, 32, 32),
        10,
    )
    network = build(plan, torch.Generator().manual_seed(0))
    own = ProxConnect(network, recipe)
    own.start()
    own.layers, own.weights, own.continuous = own.layers[:1], own.weights[:1], own.continuous[:1]
    own.quantised = own.quantised[:1]
    return network, own


def test_the_average_of_binaryconnects_continuous_weights_nears_a_convex_optimum() -> None:
    """With a level on either side of each target, the mean of the quantised weights tends to the target (dual averaging)."""
    _, own = pair_of_one_layer("binaryconnect", 1)
    (weight,), (layer, _) = own.weights, own.layers[0]
    layer.weight_scale.fill_(1.0)
    target = torch.rand(weight.shape, generator=torch.Generator().manual_seed(5)) * 1.6 - 0.8
    problem, total, steps = Quadratic(target), torch.zeros_like(target), 2000
    optimizer = torch.optim.SGD([weight], lr=0.02)
    for i in range(steps):
        optimizer.zero_grad()
        problem.loss(weight).backward()
        own.prepare_step()
        optimizer.step()
        own.finish_step((i + 1) / steps)
        total += weight.detach()
    assert float((total / steps - target).abs().max()) < 0.06
