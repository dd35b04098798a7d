"""Optimizers: each one's step is torch's own, Muon's is that of a slow twin, and every parameter is in its group."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from jointnas.network.families import make_blueprint
from jointnas.network.module import Network, build
from jointnas.training.optimizers import make_optimizer, orthogonalise, set_learning_rate
from jointnas.training.recipe import EXPECTED_LEARNING_RATE, Recipe

RATES = (0.3, 0.7, 0.1)  # a different learning rate in every step

TWINS: dict[str, Callable[..., optim.Optimizer]] = {
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "adamax": optim.Adamax,
    "adadelta": optim.Adadelta,
    "adagrad": optim.Adagrad,
    "asgd": optim.ASGD,
    "rmsprop": optim.RMSprop,
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_network(**knobs: Any) -> Network:
    plan = {"network": "senet", "depth": 0.5, "width": 0.05, **knobs}  # norms with scales, convolutions with biases
    return build(make_blueprint(plan, (3, 8, 8), 4), seeded(0))


def set_gradients(network: nn.Module, seed: int) -> None:
    generator = seeded(seed)
    for p in network.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def stepped(network: Network, recipe: Recipe) -> dict[str, Tensor]:
    """Return a network's weights after a step at each rate."""
    optimizer = make_optimizer(network, recipe)
    for i, rate in enumerate(RATES):
        set_gradients(network, i)
        set_learning_rate(optimizer, rate * recipe.optimizer_learning_rate)
        optimizer.step()
    return {name: p.detach() for name, p in network.named_parameters()}


def twin_stepped(
    network: Network, recipe: Recipe, make: Callable[..., optim.Optimizer], **more: Any
) -> dict[str, Tensor]:
    """Return the weights after the same steps of two optimizers of torch's, one for the weights, one for the rest."""
    expected = EXPECTED_LEARNING_RATE[recipe.optimizer] / EXPECTED_LEARNING_RATE["sgd"] * recipe.learning_rate
    groups = [
        ([p for p in network.parameters() if p.ndim >= 2], recipe.weight_decay, expected),
        (
            [p for p in network.parameters() if p.ndim < 2],
            recipe.bias_weight_decay,
            expected * recipe.bias_learning_rate,
        ),
    ]
    twins = [(make(own, lr=0.0, weight_decay=decay, **more), peak) for own, decay, peak in groups]
    for i, rate in enumerate(RATES):
        set_gradients(network, i)
        for twin, peak in twins:
            twin.param_groups[0]["lr"] = rate * peak
            twin.step()
    return {name: p.detach() for name, p in network.named_parameters()}


@pytest.mark.parametrize("optimizer", TWINS)
@pytest.mark.parametrize(("decay", "bias_decay", "bias_rate"), [(0.0, 0.0, 1.0), (0.02, 0.005, 4.0)])
def test_a_step_is_torchs_own_at_the_groups_rate_and_decay(
    optimizer: str, decay: float, bias_decay: float, bias_rate: float
) -> None:
    recipe = Recipe(
        optimizer=optimizer,
        learning_rate=0.2,
        weight_decay=decay,
        bias_weight_decay=bias_decay,
        bias_learning_rate=bias_rate,
    )
    actual, expected = stepped(a_network(), recipe), twin_stepped(a_network(), recipe, TWINS[optimizer])
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_of_sgd_is_torchs_with_nesterov_momentum(momentum: float) -> None:
    recipe = Recipe(
        momentum=momentum, learning_rate=0.2, weight_decay=0.02, bias_weight_decay=0.005, bias_learning_rate=4.0
    )
    actual = stepped(a_network(), recipe)
    expected = twin_stepped(a_network(), recipe, optim.SGD, momentum=momentum, nesterov=momentum > 0)
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("optimizer", EXPECTED_LEARNING_RATE)
def test_every_optimizer_moves_every_parameter_and_none_at_a_rate_of_zero(optimizer: str) -> None:
    network = a_network()
    before = [p.detach().clone() for p in network.parameters()]
    made = make_optimizer(network, Recipe(optimizer=optimizer, weight_decay=0.01, bias_weight_decay=0.01))
    set_gradients(network, 0)
    set_learning_rate(made, 0.0)
    made.step()
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    for _ in range(2):  # torch's ASGD follows the rate one step late
        set_learning_rate(made, 0.1)
        made.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


@pytest.mark.parametrize("optimizer", EXPECTED_LEARNING_RATE)
def test_weights_and_the_rest_have_separate_rates_and_decays(optimizer: str) -> None:
    network = a_network()
    recipe = Recipe(optimizer=optimizer, weight_decay=0.01, bias_weight_decay=0.002, bias_learning_rate=64.0)
    made = make_optimizer(network, recipe)
    set_learning_rate(made, 0.5)
    given = {id(p): (group["lr"], group["weight_decay"]) for group in made.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in made.param_groups) == len(given) == len(list(network.parameters()))
    for p in network.parameters():
        assert given[id(p)] == ((0.5, 0.01) if p.ndim >= 2 else (32.0, 0.002))


def test_the_typical_rates_are_the_nomad_teams_and_ours() -> None:
    theirs = {"adadelta": 1.0, "adagrad": 0.01, "sgd": 0.1, "adam": 0.01, "adamw": 0.01, "adamax": 0.002}
    assert {**theirs, "asgd": 0.1, "rmsprop": 0.01, "muon": 0.02} == EXPECTED_LEARNING_RATE
    for optimizer, expected in EXPECTED_LEARNING_RATE.items():
        actual = Recipe(optimizer=optimizer, learning_rate=0.03).optimizer_learning_rate
        assert actual == pytest.approx(0.3 * expected)


# ----------------------------------------------------------------------------------------------------------------- Muon


@pytest.mark.parametrize("shape", [(8, 8), (6, 40), (40, 6), (1, 9), (9, 1)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_an_orthogonalised_matrix_keeps_its_singular_vectors_and_brings_its_values_near_one(
    shape: tuple[int, int], scale: float
) -> None:
    rank = min(shape)
    u, _ = torch.linalg.qr(torch.randn(shape[0], rank, generator=seeded(0)))
    v, _ = torch.linalg.qr(torch.randn(shape[1], rank, generator=seeded(1)))
    values = torch.linspace(1, 0.1, rank) * scale
    (actual,) = orthogonalise([u * values @ v.T])  # its polar factor is u vᵀ
    inner = u.T @ actual @ v
    torch.testing.assert_close(inner, torch.diag(inner.diagonal()), rtol=0, atol=1e-4)  # the same singular vectors
    assert ((inner.diagonal() > 0.65) & (inner.diagonal() < 1.25)).all()
    left, _, right = torch.linalg.svd(u * values @ v.T, full_matrices=False)
    assert float((actual - left @ right).norm() / rank**0.5) < 0.35
    assert actual.shape == shape


def test_a_matrix_of_zeros_stays_one() -> None:
    assert not orthogonalise([torch.zeros(3, 5)])[0].any()


def test_the_transpose_is_orthogonalised_to_the_transpose() -> None:
    wide = torch.randn(4, 10, generator=seeded(0))
    upright, lying = orthogonalise([wide.T, wide])
    torch.testing.assert_close(upright, lying.T)


def one_by_one(matrix: Tensor) -> Tensor:
    """Return the published iteration on the matrix itself."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


@pytest.mark.parametrize(("smallest", "tolerance"), [(0.1, 1e-5), (1e-6, 2e-3)])  # singular value, of the greatest
def test_matrices_of_any_sizes_are_orthogonalised_as_by_the_iteration_on_each_one(
    smallest: float, tolerance: float
) -> None:
    shapes = [(8, 8), (6, 40), (40, 6), (6, 40), (6, 12), (1, 9), (64, 200)]
    matrices = []
    for i, (rows, columns) in enumerate(shapes):
        rank = min(rows, columns)
        u, _ = torch.linalg.qr(torch.randn(rows, rank, generator=seeded(i)))
        v, _ = torch.linalg.qr(torch.randn(columns, rank, generator=seeded(100 + i)))
        matrices.append(u * torch.logspace(0, math.log10(smallest), rank) @ v.T)
    for actual, matrix in zip(orthogonalise(matrices), matrices, strict=True):
        expected = one_by_one(matrix)
        assert actual.shape == expected.shape
        assert float((actual - expected).norm()) < tolerance * float(expected.norm())


def test_the_memory_format_of_filters_changes_no_step_of_muon() -> None:
    plain, last = a_network(), a_network().to(memory_format=torch.channels_last)
    recipe = Recipe(optimizer="muon", weight_decay=0.1)
    expected, actual = stepped(plain, recipe), stepped(last, recipe)
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-5, atol=1e-6)


def newton_schulz(matrix: Tensor) -> Tensor:
    """Return U p(p(…p(S)…)) Vᵀ with p(s) = a s + b s³ + c s⁵, by the singular values themselves, in float64."""
    u, s, vt = torch.linalg.svd(matrix.double() / (matrix.double().norm() + 1e-7), full_matrices=False)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    result: Tensor = u * s @ vt
    return result


def test_a_step_of_muon_is_that_of_a_slow_twin() -> None:
    recipe = Recipe(
        optimizer="muon",
        momentum=0.8,
        learning_rate=0.5,
        weight_decay=0.1,
        bias_weight_decay=0.02,
        bias_learning_rate=3.0,
    )
    network = a_network()
    names = [name for name, _ in network.named_parameters()]
    head = [name for name, p in network.named_parameters() if p.ndim == 2]
    assert len(head) == 1
    weights = {name: p.detach().double() for name, p in network.named_parameters()}
    velocities = {name: torch.zeros_like(w) for name, w in weights.items()}
    actual = stepped(network, recipe)
    for i, share in enumerate(RATES):
        twin = a_network()
        set_gradients(twin, i)
        gradients = {name: p.grad.double() for name, p in twin.named_parameters() if p.grad is not None}
        for name in names:
            w, g = weights[name], gradients[name]
            velocities[name] = 0.8 * velocities[name] + g
            update = g + 0.8 * velocities[name]  # Nesterov's
            if w.ndim == 4:
                rate, decay = share * 0.5 * 0.2, 0.1  # Muon's own scale: 0.02 where SGD's is 0.1
                rows = update.flatten(1)
                update = newton_schulz(rows).reshape(w.shape) * max(1.0, rows.shape[0] / rows.shape[1]) ** 0.5
            else:
                rate, decay = share * 0.5, 0.1  # SGD's
                if name not in head:
                    rate, decay = rate * 3, 0.02
            weights[name] = w * (1 - rate * decay) - rate * update
    for name in names:
        torch.testing.assert_close(actual[name].double(), weights[name], rtol=1e-3, atol=1e-4)


def test_without_decay_the_head_and_vectors_of_muon_take_the_steps_of_sgd() -> None:
    knobs: dict[str, Any] = {"learning_rate": 0.2, "weight_decay": 0.0, "bias_learning_rate": 4.0}
    muon = stepped(a_network(), Recipe(optimizer="muon", **knobs))
    sgd = stepped(a_network(), Recipe(optimizer="sgd", **knobs))
    plain = {name for name, w in muon.items() if w.ndim != 4}
    assert len(plain) > 5
    for name, w in muon.items():
        if name in plain:
            torch.testing.assert_close(w, sgd[name], rtol=1e-5, atol=1e-6)
        else:
            assert not torch.allclose(w, sgd[name], rtol=1e-2)


def test_a_parameter_without_a_gradient_is_left_alone_by_muon() -> None:
    network = a_network()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    made = make_optimizer(network, Recipe(optimizer="muon", weight_decay=0.1))
    set_gradients(network, 0)
    set_learning_rate(made, 0.1)
    still = next(iter(before))
    network.get_parameter(still).grad = None
    made.step()
    assert [name for name, p in network.named_parameters() if torch.equal(p, before[name])] == [still]
