"""Gradient rules: SAM and MLTP against slow twins on copies of the network and in closed form, and centralised gradients."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jointnas.network.families import make_blueprint
from jointnas.network.module import Network, build
from jointnas.training.gradients import Loss, centralise, make_gradient_rule
from jointnas.training.recipe import Recipe

BATCH = 12


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_network() -> Network:
    """Return a tiny ResNet-9 in float64, where a rule and its slow twin differ by rounding alone."""
    plan = {"network": "resnet9", "width": 4, "depth1": 0, "depth3": 0, "whitening": False}
    return build(make_blueprint(plan, (1, 8, 8), 4), seeded(0)).double().train()


def a_batch(n: int = BATCH) -> tuple[Tensor, Tensor]:
    images = torch.randn(n, 1, 8, 8, generator=seeded(1), dtype=torch.float64)
    return images, torch.randint(4, (n,), generator=seeded(2))


def loss_of(network: nn.Module, images: Tensor, labels: Tensor) -> Loss:
    def loss(part: slice) -> Tensor:
        return F.cross_entropy(network(images[part]), labels[part])

    return loss


def gradients(network: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters()]


def plain_gradients(network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Return the gradient of the mean loss of some images, on a copy of the network."""
    twin = copy.deepcopy(network)
    return list(torch.autograd.grad(F.cross_entropy(twin(images), labels), list(twin.parameters())))


def loss_at(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the mean loss of some images, on a copy of the network."""
    return F.cross_entropy(copy.deepcopy(network)(images), labels).item()


def moved(network: Network, directions: list[Tensor], scale: float) -> Network:
    """Return a copy of the network, a step away."""
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for p, direction in zip(twin.parameters(), directions, strict=True):
            p.add_(direction, alpha=scale)
    return twin


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def global_norm(directions: list[Tensor]) -> float:
    return float(torch.cat([d.flatten() for d in directions]).norm())


def after(
    network: Network, recipe: Recipe, step: int = 0, rate: float = 0.1, n: int = BATCH
) -> tuple[list[Tensor], float]:
    """Return the gradient that a rule leaves in a network, and the loss it returns."""
    network.zero_grad()
    value = make_gradient_rule(network, recipe)(loss_of(network, *a_batch(n)), n, step, rate)
    return gradients(network), float(value)


# ------------------------------------------------------------------------------------------------------- what rules share


@pytest.mark.parametrize("gradient", ["plain", "sam", "mltp"])
def test_a_rule_leaves_the_weights_exactly_as_they_were(gradient: str) -> None:
    network = a_network().float()
    before = [p.detach().clone() for p in network.parameters()]
    images, labels = a_batch()
    rule = make_gradient_rule(network, Recipe(gradient=gradient, sam_rho=2.0, mltp_rate=10.0))
    for step in range(4):
        rule(loss_of(network, images.float(), labels), BATCH, step, 0.37)
        assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
        assert all(norm.momentum == 0.1 for norm in network.modules() if isinstance(norm, nn.BatchNorm2d))


@pytest.mark.parametrize(("gradient", "first"), [("plain", BATCH), ("sam", BATCH), ("mltp", BATCH // 2)])
def test_running_statistics_follow_the_first_pass_alone(gradient: str, first: int) -> None:
    network, twin = a_network(), a_network()
    after(network, Recipe(gradient=gradient, sam_rho=0.5))
    twin(a_batch()[0][:first])
    names = [name for name, _ in twin.named_buffers() if "running" in name]
    assert len(names) == 8
    for name in names:
        torch.testing.assert_close(network.get_buffer(name), twin.get_buffer(name), rtol=1e-12, atol=0)
        assert not torch.equal(network.get_buffer(name), a_network().get_buffer(name))


@pytest.mark.parametrize("gradient", ["plain", "sam", "mltp"])
def test_a_parameter_that_the_loss_does_not_reach_is_no_obstacle(gradient: str) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Parameter(torch.tensor([1.0, 2.0]))
            self.unused = nn.Parameter(torch.tensor([3.0]))

    pair = Pair()
    rule = make_gradient_rule(pair, Recipe(gradient=gradient, sam_rho=0.1))
    rule(lambda part: (pair.used**2).sum(), 4, 0, 0.1)
    assert pair.used.grad is not None
    assert pair.used.grad.abs().min() > 1
    assert pair.unused.grad is None or not pair.unused.grad.any()
    assert pair.unused.tolist() == [3.0]


def test_the_plain_gradient_is_that_of_the_mean_loss() -> None:
    network = a_network()
    expected = plain_gradients(network, *a_batch())
    value = loss_at(network, *a_batch())
    actual, loss = after(network, Recipe())
    assert_close(actual, expected)
    assert loss == pytest.approx(value)


# -------------------------------------------------------------------------------------------------------------------- SAM


@pytest.mark.parametrize("rho", [0.05, 0.5, 2.0])
def test_sam_is_its_slow_twin(rho: float) -> None:
    network = a_network()
    first = plain_gradients(network, *a_batch())
    expected = plain_gradients(moved(network, first, rho / global_norm(first)), *a_batch())
    value = loss_at(network, *a_batch())
    actual, loss = after(network, Recipe(gradient="sam", sam_rho=rho))
    assert_close(actual, expected)
    assert loss == pytest.approx(value)  # at the weights, not at the worst ones nearby
    assert global_norm([a - b for a, b in zip(actual, first, strict=True)]) > 1e-3 * global_norm(first)


def test_sam_with_a_radius_towards_zero_is_the_plain_gradient() -> None:
    network = a_network()
    plain = plain_gradients(network, *a_batch())
    away = []
    for rho in (0.1, 0.01, 0.001):
        actual, _ = after(network, Recipe(gradient="sam", sam_rho=rho))
        away.append(global_norm([a - b for a, b in zip(actual, plain, strict=True)]) / global_norm(plain))
    assert away[0] > away[1] > away[2]
    assert away[2] < 0.02


@pytest.mark.parametrize("every", [1, 2, 3])
def test_sams_second_pass_is_made_in_every_kth_step_only(every: int) -> None:
    recipe = Recipe(gradient="sam", sam_rho=0.5, sam_every=every)
    network = a_network()
    plain = plain_gradients(network, *a_batch())
    sharp, _ = after(network, Recipe(gradient="sam", sam_rho=0.5))
    for step in range(7):
        actual, _ = after(network, recipe, step)
        assert_close(actual, plain if step % every else sharp)


class Weights(nn.Module):
    """Three numbers and a matrix, as the weights of quadratic losses."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        self.matrix = nn.Parameter(torch.tensor([[3.0, -1.0]], dtype=torch.float64))

    def flat(self) -> Tensor:
        return torch.cat([p.flatten() for p in self.parameters()])


def curvature(seed: int) -> Tensor:
    root = torch.randn(5, 5, generator=seeded(seed), dtype=torch.float64)
    return root @ root.T


def quadratic_gradient(rule: dict[str, Any], loss: Callable[[Weights], Loss], step: int, rate: float) -> Tensor:
    weights = Weights()
    make_gradient_rule(weights, Recipe(**rule))(loss(weights), 8, step, rate)
    return torch.cat([g.flatten() for g in gradients(weights)])


def test_sam_on_a_quadratic_has_its_closed_form() -> None:
    h, w = curvature(0), Weights().flat().detach()

    def loss(weights: Weights) -> Loss:
        return lambda part: weights.flat() @ h @ weights.flat() / 2

    g = h @ w
    actual = quadratic_gradient({"gradient": "sam", "sam_rho": 0.7}, loss, 0, 0.1)
    torch.testing.assert_close(actual, h @ (w + 0.7 * g / g.norm()), rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------------------------- MLTP


@pytest.mark.parametrize("step", [0, 1, 2, 3])
@pytest.mark.parametrize("n", [BATCH, BATCH - 1])
def test_mltp_is_its_slow_twin_and_the_tasks_change_roles(step: int, n: int) -> None:
    network = a_network()
    images, labels = a_batch(n)
    halves = [slice(0, 6), slice(6, n)]
    first, second = halves if step % 2 == 0 else halves[::-1]
    for_first = plain_gradients(network, images[first], labels[first])
    ahead = moved(network, for_first, -0.25 * 1.5)
    for_second = plain_gradients(ahead, images[second], labels[second])
    losses = [loss_at(network, images[first], labels[first]), loss_at(ahead, images[second], labels[second])]
    actual, loss = after(network, Recipe(gradient="mltp", mltp_rate=1.5), step, rate=0.25, n=n)
    assert_close(actual, [(a + b) / 2 for a, b in zip(for_first, for_second, strict=True)])
    assert loss == pytest.approx(sum(losses) / 2)


@pytest.mark.parametrize("step", [0, 1])
def test_mltp_on_quadratics_has_its_closed_form(step: int) -> None:
    w = Weights().flat().detach()
    h = [curvature(0), curvature(1)]
    b = [torch.randn(5, generator=seeded(s), dtype=torch.float64) for s in (2, 3)]

    def loss(weights: Weights) -> Loss:
        def of(part: slice) -> Tensor:
            task = 0 if part.start in (None, 0) else 1
            return weights.flat() @ h[task] @ weights.flat() / 2 + b[task] @ weights.flat()

        return of

    g = [h[i] @ w + b[i] for i in (0, 1)]
    alpha = 0.25 * 0.5
    first, second = (0, 1) if step == 0 else (1, 0)
    actual = quadratic_gradient({"gradient": "mltp", "mltp_rate": 0.5}, loss, step, 0.25)
    expected = (g[first] + g[second] - alpha * h[second] @ g[first]) / 2  # g_B(w − α g_A) = g_B − α H_B g_A
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_both_roles_of_mltp_together_descend_the_losses_less_the_agreement_of_their_gradients() -> None:
    w = Weights().flat().detach().requires_grad_()
    h = [curvature(0), curvature(1)]

    def loss(weights: Weights) -> Loss:
        return lambda part: weights.flat() @ h[0 if part.start in (None, 0) else 1] @ weights.flat() / 2

    alpha = 2**-7
    both = sum(quadratic_gradient({"gradient": "mltp", "mltp_rate": 0.5}, loss, step, alpha / 0.5) for step in (0, 1))
    surrogate = w @ (h[0] + h[1]) @ w / 2 - alpha / 2 * (h[0] @ w) @ (h[1] @ w)
    (expected,) = torch.autograd.grad(2 * surrogate, w)
    torch.testing.assert_close(2 * both, expected, rtol=1e-9, atol=1e-9)


def test_mltp_at_a_rate_of_zero_is_the_mean_of_both_gradients() -> None:
    network = a_network()
    images, labels = a_batch()
    halves = [plain_gradients(network, images[part], labels[part]) for part in (slice(6), slice(6, 12))]
    actual, _ = after(network, Recipe(gradient="mltp"), rate=0.0)
    assert_close(actual, [(a + b) / 2 for a, b in zip(*halves, strict=True)])


# -------------------------------------------------------------------------------------------------------- centralisation


@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (4, 7), (2, 2, 1, 1)])
def test_a_centralised_gradient_is_less_its_filters_means(shape: tuple[int, ...]) -> None:
    p = torch.zeros(shape, requires_grad=True)
    g = torch.randn(shape, generator=seeded(0)) + 2
    p.grad = g.clone()
    centralise([p])
    for i in range(shape[0]):
        torch.testing.assert_close(p.grad[i], g[i] - g[i].mean())
    torch.testing.assert_close(p.grad.flatten(1).mean(1), torch.zeros(shape[0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 1, 1, 1)])
def test_vectors_and_filters_of_one_element_are_not_centralised(shape: tuple[int, ...]) -> None:
    p = torch.zeros(shape, requires_grad=True)
    g = torch.randn(shape, generator=seeded(0))
    p.grad = g.clone()
    centralise([p, torch.zeros(3, 3, requires_grad=True)])  # and one without a gradient is no obstacle
    assert torch.equal(p.grad, g)
