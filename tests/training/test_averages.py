"""Averages: the moving average in closed form, lookahead against a slow twin, batch norm's re-estimated statistics."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jointnas.network.families import make_blueprint
from jointnas.network.module import Network, build
from jointnas.training.averages import Lookahead, MovingAverage, reestimate_norms


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_network(name: str = "resnet9", **knobs: Any) -> Network:
    sizes: dict[str, dict[str, Any]] = {"resnet9": {"width": 4, "depth3": 0}, "senet": {"depth": 0.5, "width": 0.05}}
    return build(make_blueprint({"network": name, **sizes[name], **knobs}, (1, 8, 8), 4), seeded(0))


def some_images(sizes: tuple[int, ...]) -> list[Tensor]:
    """Return batches of these sizes, each with a different mean and deviation."""
    generator = seeded(1)
    return [(i + 1) * torch.randn(n, 1, 8, 8, generator=generator) + i for i, n in enumerate(sizes)]


def test_the_average_of_the_weights_has_its_closed_form() -> None:
    network = a_network()
    start = [t.clone().double() for t in network.state_dict().values()]
    average = MovingAverage(network, 0.25)
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


def test_the_average_leaves_the_network_it_follows_as_it_is() -> None:
    network = a_network()
    average = MovingAverage(network, 0.5)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1)
    before = copy.deepcopy(network.state_dict())
    average.update(1)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


# -------------------------------------------------------------------------------------------------------------- lookahead


@pytest.mark.parametrize(("every", "rate"), [(1, 0.5), (3, 0.5), (3, 0.8), (4, 1.0)])
def test_lookahead_is_its_slow_twin_over_several_cycles(every: int, rate: float) -> None:
    network = nn.Linear(3, 2).double()
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=seeded(0), dtype=torch.float64))
    ahead = Lookahead(network, every, rate)
    fast = [p.detach().clone() for p in network.parameters()]
    slow = [p.clone() for p in fast]
    generator = seeded(1)
    for step in range(1, 3 * every + 2):
        moves = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in fast]
        with torch.no_grad():
            for p, move in zip(network.parameters(), moves, strict=True):
                p.add_(move)
        ahead.update(step)
        fast = [p + move for p, move in zip(fast, moves, strict=True)]
        if step % every == 0:
            slow = [s + rate * (f - s) for s, f in zip(slow, fast, strict=True)]
            fast = [s.clone() for s in slow]
        for actual, expected in zip(network.parameters(), fast, strict=True):
            torch.testing.assert_close(actual.detach(), expected, rtol=1e-12, atol=1e-12)


def test_synchronising_twice_is_synchronising_once() -> None:
    network = a_network()
    ahead = Lookahead(network, 5, 0.5)
    start = [p.detach().clone() for p in network.parameters()]
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1)
    ahead.synchronise()
    ahead.synchronise()  # as at the end of a training whose last step was a slow one
    for p, before in zip(network.parameters(), start, strict=True):
        torch.testing.assert_close(p.detach(), before + 0.5)


# ------------------------------------------------------------------------------------------------ batch norm's statistics


@pytest.mark.parametrize("sizes", [(16,), (16, 16, 16), (16, 16, 5)])
def test_reestimated_statistics_are_the_means_of_each_batchs_mean_and_unbiased_variance(sizes: tuple[int, ...]) -> None:
    network = a_network(whitening=False)
    batches = some_images(sizes)
    conv, norm = network.blocks[0].nodes[:2]  # type: ignore[index]
    with torch.no_grad():
        outputs = [conv(images).transpose(0, 1).flatten(1) for images in batches]  # (C, n·H·W)
    reestimate_norms(network, batches)
    mean = torch.stack([out.mean(1) for out in outputs]).mean(0)
    variance = torch.stack([out.var(1, correction=1) for out in outputs]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet9", "senet"])
def test_reestimated_statistics_are_those_of_torchs_cumulative_average_in_training(name: str) -> None:
    network, batches = a_network(name), some_images((16, 16, 8))
    twin = copy.deepcopy(network)
    for norm in twin.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
    twin.train()
    with torch.no_grad():
        for images in batches:
            twin(images)
    network.train()(3 * batches[0] - 7)  # statistics that must be forgotten
    reestimate_norms(network, batches)
    names = [n for n, _ in network.named_buffers() if "running" in n]
    assert len(names) >= 8
    for n in names:
        torch.testing.assert_close(network.get_buffer(n), twin.get_buffer(n), rtol=1e-5, atol=1e-6)


def test_reestimation_leaves_dropout_and_stochastic_depth_off_and_everything_else_as_it_was() -> None:
    plain, regular = a_network(), a_network()
    regular.regularise(dropout=0.9, stochastic_depth=0.9, ghost_batch=0)
    batches = some_images((16, 16))
    before = [p.detach().clone() for p in regular.parameters()]
    state = torch.get_rng_state()
    for network in (plain, regular):
        network.train()
        reestimate_norms(network, batches)
    assert torch.equal(state, torch.get_rng_state())
    for a, b in zip(plain.buffers(), regular.buffers(), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(a, b) for a, b in zip(before, regular.parameters(), strict=True))
    for norm in (m for m in regular.modules() if isinstance(m, nn.BatchNorm2d)):
        assert norm.momentum == 0.1
        assert not norm.training
    assert not any(p.grad is not None for p in regular.parameters())


def test_reestimated_statistics_are_of_the_full_images_while_training_shows_small_ones() -> None:
    plan = make_blueprint({"network": "resnet9", "width": 4, "depth1": 0, "depth3": 0}, (1, 24, 24), 4)
    full, small = build(plan, seeded(0)), build(plan, seeded(0))
    small.resize.training_size = (16, 16)
    batches = [torch.randn(8, 1, 24, 24, generator=seeded(2))]
    for network in (full, small):
        network.train()
        reestimate_norms(network, batches)
    assert all(torch.equal(a, b) for a, b in zip(full.buffers(), small.buffers(), strict=True))
