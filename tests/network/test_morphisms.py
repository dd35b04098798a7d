"""Network morphisms: what a network computes stays, what it costs grows, what cannot be is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from jointnas.errors import BlueprintError, MorphismError
from jointnas.network.blueprint import BlockBuilder, Blueprint
from jointnas.network.cost import blueprint_cost
from jointnas.network.families import FAMILIES, make_blueprint
from jointnas.network.graph import Place
from jointnas.network.layers import BatchNorm
from jointnas.network.module import Network, build
from jointnas.network.morphisms import Deeper, Morphism, Skip, Wider, apply, draw, morph, options, parse, preview
from jointnas.network.operations import OPERATIONS
from jointnas.network.operations.operation import Channels

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGE = (3, 16, 16)
CLASSES = 5
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
KINDS = (Deeper, Wider, Skip)
SAMPLES = 3


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 8, shape: tuple[int, ...] = IMAGE, seed: int = 1) -> Tensor:
    return torch.randn(n, *shape, generator=seeded(seed))


def lived_in(plan: Blueprint, dtype: torch.dtype = torch.float32) -> Network:
    """Return a network as training leaves it: its norms have scales, shifts and statistics of their own."""
    rng = seeded(0)
    network = build(plan, rng)
    with torch.no_grad():
        for module in network.modules():
            bias = getattr(module, "bias", None)
            if bias is not None:
                bias.normal_(0, 0.3, generator=rng)
            if isinstance(module, BatchNorm):
                module.momentum = 0.4
                if module.weight is not None:
                    module.weight.uniform_(0.5, 1.5, generator=rng)
        for seed in range(4):
            network.train()(images(8, plan.input_shape, seed) + 0.2)
    return network.to(dtype).eval()


def small(name: str) -> Blueprint:
    """Return a narrow network of a family, with ReLU where the family lets one choose."""
    wanted = {"width": {int: 8, float: 0.125}, "activation": {str: "relu"}}
    defaults = FAMILIES[name].knobs
    knobs = {k: of_kind[type(defaults[k])] for k, of_kind in wanted.items() if k in defaults}
    return make_blueprint({"network": name, **knobs}, IMAGE, CLASSES)


@cache
def grown_up(name: str, dtype: torch.dtype) -> Network:
    """Return a family's small network, lived in; made once, since morphisms leave it alone, as a test below proves."""
    return lived_in(small(name), dtype)


GROWING = [name for name in FAMILIES if None in options(small(name)).values()]


def logits(network: Network) -> Tensor:
    weight = next(network.parameters())
    with torch.no_grad():
        return network(images(4, network.blueprint.input_shape).to(weight.dtype))


def assert_same(after: Network, before: Network) -> None:
    """Check that two networks give the same logits, and logits that tell images apart."""
    expected = logits(before)
    tolerance = TOLERANCE[expected.dtype]
    assert expected.std(dim=0).max() > 1e-2
    torch.testing.assert_close(logits(after), expected, atol=tolerance, rtol=tolerance)


def allowed(plan: Blueprint, kind: type[Morphism]) -> list[Morphism]:
    return [m for m, reason in options(plan).items() if reason is None and isinstance(m, kind)]


def below(factor: float, plan: Blueprint) -> Callable[[Blueprint], bool]:
    """Return the test whether a network has less than so many times the parameters of `plan`."""
    limit = factor * blueprint_cost(plan)["params"]
    return lambda child: blueprint_cost(child)["params"] < limit


def sample(morphisms: list[Morphism], n: int) -> list[Morphism]:
    """Return n of the morphisms at most, from the first on at equal distances."""
    return morphisms[:: max(1, -(-len(morphisms) // n))]


def classified(body: BlockBuilder, shape: tuple[int, ...] = (3, 8, 8)) -> Blueprint:
    """Return a block that gives an image, pooled and classified by a block of its own."""
    head = BlockBuilder("head")
    head.add("global_avg_pool")
    head.add("flatten")
    head.add("linear", features=CLASSES, bias=True)
    return Blueprint.chain(shape, [body.build(), head.build()])


def chain() -> Blueprint:
    """Convolutions (nodes 0 and 4) with norms, ReLUs and pools, and a classifier that reads every pixel."""
    block = BlockBuilder("all")
    for channels in (4, 6):
        block.conv(channels=channels)
        block.add("batch_norm", scale=True)
        block.add("relu")
        block.add("max_pool", kernel=2, stride=2)
    block.add("flatten")
    block.add("linear", features=CLASSES, bias=True)
    return Blueprint.chain((3, 8, 8), [block.build()])


def inverted_residual() -> Blueprint:
    """A stem, then: 1×1 (node 0), depthwise (3), squeeze and excitation (7, 9), 1×1 (12), and the shortcut."""
    stem = BlockBuilder("stem")
    stem.conv(channels=4)
    stem.add("batch_norm", scale=True)
    stem.add("relu")
    block = BlockBuilder("inverted")
    block.conv(channels=8, kernel=1)
    block.add("batch_norm", scale=True)
    block.add("hard_swish")
    block.add("conv", channels=8, kernel=3, stride=1, padding=1, groups=8, bias=False)
    block.add("batch_norm", scale=True)
    inner = block.add("hard_swish")
    block.add("global_avg_pool")
    block.conv(channels=2, kernel=1, bias=True)
    block.add("relu")
    block.conv(channels=8, kernel=1, bias=True)
    block.add("multiply", inner, block.add("hard_sigmoid"))
    block.conv(channels=4, kernel=1)
    block.add("add", 0, block.add("batch_norm", scale=True))
    head = classified(BlockBuilder("none")).blocks[1]
    return Blueprint.chain((3, 8, 8), [stem.build(), block.build(), head])


def dense() -> Blueprint:
    """Two convolutions (nodes 0 and 2) whose ReLUs are put side by side, normed, and read by a third (7)."""
    block = BlockBuilder("dense")
    block.conv(channels=4)
    first = block.add("relu")
    block.conv(channels=3)
    block.add("concat", block.add("relu"), first)
    block.add("batch_norm", scale=False)
    block.add("relu")
    block.conv(channels=6)
    return classified(block)


def channels(plan: Blueprint) -> list[int]:
    """Return the output channels of every convolution."""
    return [n.get("channels") for block in plan.blocks for n in block.nodes if n.operation == "conv"]


# -------------------------------------------------------------------------------------------------- what is computed


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GROWING)
def test_a_morphism_keeps_the_logits(name: str, kind: type[Morphism], dtype: torch.dtype) -> None:
    network = grown_up(name, dtype)
    for morphism in sample(allowed(network.blueprint, kind), SAMPLES):
        assert_same(apply(network, morphism, seeded(2)), network)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("make", [chain, inverted_residual, dense])
def test_every_morphism_of_a_small_network_keeps_the_logits(make: Callable[[], Blueprint], dtype: torch.dtype) -> None:
    network = lived_in(make(), dtype)
    found = [morphism for kind in KINDS for morphism in allowed(make(), kind)]
    assert len(found) > 6
    for morphism in found:
        assert_same(apply(network, morphism, seeded(2)), network)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", GROWING)
def test_five_random_morphisms_in_a_row_keep_the_logits(name: str, seed: int, dtype: torch.dtype) -> None:
    network = grown_up(name, dtype)
    child = morph(network, seeded(seed), 5, fits=below(10, network.blueprint))
    assert child.blueprint != network.blueprint
    assert_same(child, network)


@pytest.mark.parametrize("seed", range(10))
def test_ten_random_morphisms_of_a_small_network_keep_the_logits(seed: int) -> None:
    network = lived_in(inverted_residual(), torch.float64)
    assert_same(morph(network, seeded(seed), 10, fits=lambda plan: max(channels(plan)) < 300), network)


ATTRIBUTES = {
    "batch_norm": {"scale": False},
    "celu": {"alpha": 0.3},
    "scale": {"factor": 0.5},
    "resize": {"height": 5, "width": 6},
    "max_pool": {"kernel": 3, "stride": 2, "padding": 1},
    "avg_pool": {"kernel": 2, "stride": 1},
}


@pytest.mark.parametrize("operation", [name for name, o in OPERATIONS.items() if o.channels is Channels.KEPT])
def test_channels_are_copied_through_every_operation_that_keeps_them(operation: str) -> None:
    block = BlockBuilder("block")
    block.conv(channels=4)
    value = block.add("batch_norm", scale=True)
    both = [value, block.add("relu")] if operation in ("add", "blend", "multiply") else [value]
    block.add(operation, *both, **ATTRIBUTES.get(operation, {}))
    block.conv(channels=3, kernel=1)
    network = lived_in(classified(block), torch.float64)
    assert_same(apply(network, Wider(Place(0, 0), 9), seeded(0)), network)


def test_a_morphism_leaves_the_network_it_starts_from_alone() -> None:
    network = lived_in(chain())
    plan, before = network.blueprint, {k: v.clone() for k, v in network.state_dict().items()}
    child = morph(network, seeded(0), 5)
    for weight in child.parameters():
        weight.data.zero_()
    assert network.blueprint == plan
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_precision_and_mode_are_kept() -> None:
    child = morph(lived_in(chain(), torch.float64).train(), seeded(0), 5)
    assert {p.dtype for p in child.parameters()} == {torch.float64}
    assert child.training
    assert not morph(child.eval(), seeded(0), 1).training


# ------------------------------------------------------------------------------------------------------------- deeper


def test_deeper_inserts_a_layer_that_all_readers_of_the_activation_read() -> None:
    block = BlockBuilder("block")
    block.conv(channels=4)
    active = block.add("relu")
    block.add("add", active, block.conv(active, channels=4))
    plan = preview(classified(block), Deeper(Place(0, 1), 5))
    assert [(n.operation, n.inputs) for n in plan.blocks[0].nodes] == [
        ("conv", (0,)),
        ("relu", (1,)),
        ("conv", (2,)),
        ("batch_norm", (3,)),
        ("relu", (4,)),
        ("conv", (5,)),
        ("add", (5, 6)),
    ]
    assert [n.get("kernel") for n in plan.blocks[0].nodes if n.operation == "conv"] == [3, 5, 3]


def test_deeper_at_the_end_of_a_block_becomes_its_end() -> None:
    block = BlockBuilder("block")
    block.conv(channels=4)
    block.add("relu6")
    network = lived_in(classified(block), torch.float64)
    child = apply(network, Deeper(Place(0, 1), 3), seeded(0))
    assert [n.operation for n in child.blueprint.blocks[0].nodes] == ["conv", "relu6", "conv", "batch_norm", "relu6"]
    assert_same(child, network)


def test_a_deeper_network_stays_near_in_training_where_norms_see_the_batch() -> None:
    network = lived_in(chain())
    batch = images(256, (3, 8, 8))
    child = apply(network, Deeper(Place(0, 2), 3), seeded(0))
    before, after = network.train()(batch), child.train()(batch)
    assert (after - before).std() < 0.1 * before.std()


def test_a_fresh_norm_has_the_statistics_of_rectified_normal_values() -> None:
    network = build(chain(), seeded(0))
    norm = network.blocks[0].nodes[1]
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, -0.5, 0.3]))
    fresh = apply(network, Deeper(Place(0, 2), 3), seeded(0)).blocks[0].nodes[4]
    values = (torch.randn(200_000, 4, generator=seeded(1)) * norm.weight + norm.bias).relu()
    torch.testing.assert_close(fresh.running_mean, values.mean(0).detach(), atol=0.01, rtol=0)
    torch.testing.assert_close(fresh.running_var, values.var(0).detach(), atol=0.02, rtol=0)


# -------------------------------------------------------------------------------------------------------------- wider


def test_wider_copies_outgoing_channels_and_shares_the_weights_that_read_them() -> None:
    network = lived_in(chain(), torch.float64)
    child = apply(network, Wider(Place(0, 0), 12), seeded(0), noise=0.0)
    old, new = (n.blocks[0].nodes for n in (network, child))
    copied = [int((old[0].weight == row).flatten(1).all(1).nonzero()) for row in new[0].weight]  # g
    assert copied[:4] == [0, 1, 2, 3]
    assert len(set(copied[4:])) > 1
    assert copied[4:8] != copied[8:]
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(getattr(new[1], name), getattr(old[1], name)[copied])
    for j, g in enumerate(copied):
        torch.testing.assert_close(new[4].weight[:, j], old[4].weight[:, g] / copied.count(g))


def test_noise_leaves_the_sum_over_the_copies_of_a_channel_as_it_was() -> None:
    network = lived_in(chain(), torch.float64)
    child = apply(network, Wider(Place(0, 0), 16), seeded(0), noise=3.0)
    old, new = (n.blocks[0].nodes for n in (network, child))
    copies = (new[0].weight[:, None] == old[0].weight).flatten(2).all(2).double()  # (16, 4)
    torch.testing.assert_close(torch.einsum("ojhw,jc->ochw", new[4].weight, copies), old[4].weight)
    assert_same(child, network)


@pytest.mark.parametrize(("noise", "alike"), [(0.0, True), (0.1, False)])
def test_copies_of_a_channel_get_different_gradients_only_with_noise(noise: float, alike: bool) -> None:
    child = apply(lived_in(chain(), torch.float64), Wider(Place(0, 0), 16), seeded(0), noise=noise).train()
    conv = child.blocks[0].nodes[0]
    F.cross_entropy(child(images(8, (3, 8, 8)).double()), torch.arange(8) % CLASSES).backward()
    pairs = [(i, j) for j in range(4, 16) for i in range(j) if torch.equal(conv.weight[i], conv.weight[j])]
    assert len(pairs) >= 12
    assert all(torch.allclose(conv.weight.grad[i], conv.weight.grad[j], rtol=1e-6) == alike for i, j in pairs)


def test_a_residual_stream_widens_as_a_whole() -> None:
    plan = inverted_residual()
    assert channels(plan) == [4, 8, 8, 2, 8, 4]
    for place in (Place(0, 0), Place(1, 12)):
        assert channels(preview(plan, Wider(place, 10))) == [10, 8, 8, 2, 8, 10]


def test_a_depthwise_convolution_and_an_excitation_widen_with_what_they_read() -> None:
    plan = preview(inverted_residual(), Wider(Place(1, 0), 12))
    assert channels(plan) == [4, 12, 12, 2, 12, 4]
    assert [n.get("groups") for n in plan.blocks[1].nodes if n.operation == "conv"] == [1, 12, 1, 1, 1]
    assert plan == preview(inverted_residual(), Wider(Place(1, 3), 12))


def test_values_side_by_side_widen_one_without_the_other() -> None:
    plan = dense()
    assert [s[0] for s in preview(plan, Wider(Place(0, 2), 9)).shapes()] == [3, 6, CLASSES]
    network = lived_in(plan, torch.float64)
    child = apply(network, Wider(Place(0, 2), 9), seeded(0))
    assert child.blocks[0].nodes[7].weight.shape == (6, 13, 3, 3)
    assert_same(child, network)


# --------------------------------------------------------------------------------------------------------------- skip


def test_a_skip_by_concatenation_starts_with_zero_weights_that_training_moves() -> None:
    network = lived_in(inverted_residual())
    child = apply(network, Skip(Place(1, 12), Place(1, 2), "concat"), seeded(0))
    new = child.blocks[1].nodes[13].weight
    assert torch.equal(new[:, :8], network.blocks[1].nodes[12].weight)
    assert torch.equal(new[:, 8:], torch.zeros(4, 8, 1, 1))
    child(images(4, (3, 8, 8))).square().sum().backward()
    assert new.grad is not None
    assert new.grad[:, 8:].abs().min() > 0


def test_a_skip_by_blending_starts_at_one_and_training_moves_it() -> None:
    child = apply(lived_in(inverted_residual()), Skip(Place(1, 12), Place(1, 2), "blend"), seeded(0))
    weight = child.blocks[1].nodes[12].weight
    assert weight == 1
    child(images(4, (3, 8, 8))).square().sum().backward()
    assert weight.grad.abs() > 0


def test_a_skip_from_another_block_gives_the_block_one_more_input() -> None:
    plan = make_blueprint({"network": "resnet9", "width": 4, "depth1": 2}, IMAGE, CLASSES)
    assert [block.name for block in plan.blocks[:4]] == ["stem", "pooled", "residual", "residual"]
    inside, across = (Skip(Place(block, 3), Place(1, 3), "concat") for block in (2, 3))
    assert preview(plan, inside).wiring[:4] == ((0,), (1,), (2,), (3,))  # the block reads it already
    assert preview(plan, across).wiring[:4] == ((0,), (1,), (2,), (3, 2))
    assert preview(preview(plan, across), replace(across, join="blend", place=Place(3, 0))).wiring[3] == (3, 2)


def test_a_source_is_joined_once() -> None:
    skip = Skip(Place(1, 12), Place(1, 2), "concat")
    plan = preview(inverted_residual(), skip)
    with pytest.raises(
        MorphismError, match="start at a value that its end does not read, got hard_swish at block 1, node 2"
    ):
        preview(plan, Skip(Place(1, 13), Place(1, 2), "concat"))


# --------------------------------------------------------------------------------------------- several, at random


@pytest.mark.parametrize("name", GROWING)
def test_costs_grow_and_json_keeps_the_blueprint(name: str) -> None:
    plan = small(name)
    before = blueprint_cost(plan)
    for kind in KINDS:
        for morphism in sample(allowed(plan, kind), SAMPLES):
            after = preview(plan, morphism)
            found = blueprint_cost(after)
            assert found["params"] > before["params"]
            assert found["macs"] >= before["macs"]
            assert Blueprint.from_json(json.loads(json.dumps(after.to_json()))) == after


@pytest.mark.parametrize("kind", KINDS)
def test_a_preview_is_the_blueprint_of_the_changed_network(kind: type[Morphism]) -> None:
    network = lived_in(inverted_residual())
    for morphism in allowed(network.blueprint, kind):
        assert apply(network, morphism, seeded(0)).blueprint == preview(network.blueprint, morphism)


def test_a_seed_gives_the_same_child_and_another_seed_another() -> None:
    network = lived_in(inverted_residual())
    one, again, other = (morph(network, seeded(seed), 5) for seed in (0, 0, 1))
    assert one.blueprint == again.blueprint != other.blueprint
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))


def test_children_are_made_by_all_kinds_of_morphisms() -> None:
    network = lived_in(inverted_residual())
    children = [morph(network, seeded(seed), 1).blueprint for seed in range(20)]
    before, *after = ([n.operation for b in p.blocks for n in b.nodes] for p in (network.blueprint, *children))
    assert any(found.count("conv") > before.count("conv") for found in after)  # deeper
    assert any(found == before for found in after)  # wider
    assert any("concat" in found for found in after)
    assert any("blend" in found for found in after)


def test_no_child_leaves_the_limit_on_its_costs() -> None:
    network = lived_in(inverted_residual())
    limit = blueprint_cost(network.blueprint)["macs"] * 1.5
    for seed in range(10):
        assert (
            blueprint_cost(
                morph(network, seeded(seed), 5, fits=lambda p: blueprint_cost(p)["macs"] <= limit).blueprint
            )["macs"]
            <= limit
        )


def test_a_limit_that_no_morphism_meets_is_refused() -> None:
    with pytest.raises(MorphismError, match="no morphism of this network of 1 blocks is allowed"):
        morph(lived_in(chain()), seeded(0), 1, fits=lambda plan: False)


@pytest.mark.parametrize("name", GROWING)
def test_a_morphed_network_trains(name: str) -> None:
    parent = grown_up(name, torch.float32)
    network = morph(parent, seeded(3), 5, fits=below(10, parent.blueprint)).train()
    batch, labels = images(16), torch.arange(16) % CLASSES
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    losses = []
    for _ in range(4):
        losses.append(F.cross_entropy(network(batch), labels))
        optimizer.zero_grad()
        losses[-1].backward()
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())
        optimizer.step()
    assert min(losses[1:]) < losses[0]


# ------------------------------------------------------------------------------------------------------ what is refused


def whitened() -> Blueprint:
    block = BlockBuilder("block")
    block.conv(channels=2, kernel=1)
    block.add("whiten", kernel=3)
    block.conv(channels=4)
    block.add("relu")
    return classified(block)


def grouped() -> Blueprint:
    """A convolution whose output is read in two groups."""
    block = BlockBuilder("block")
    block.conv(channels=4)
    block.add("relu")
    block.add("conv", channels=4, kernel=3, stride=1, padding=1, groups=2, bias=False)
    return classified(block)


def with_the_image() -> Blueprint:
    """A convolution that the image itself is added to."""
    block = BlockBuilder("block")
    block.add("add", 0, block.conv(channels=3))
    return classified(block)


def beside_a_concatenation() -> Blueprint:
    """A convolution (2) that is added to two others side by side (0 and 1), and one (5) that reads the sum."""
    block = BlockBuilder("block")
    side = block.add("concat", block.conv(0, channels=2), block.conv(0, channels=2))
    block.add("add", side, block.conv(0, channels=4))
    block.conv(channels=2)
    return classified(block)


def without_a_linear_layer() -> Blueprint:
    block = BlockBuilder("block")
    block.conv(channels=CLASSES)
    block.add("global_avg_pool")
    block.add("flatten")
    return Blueprint.chain((3, 8, 8), [block.build()])


REFUSED: list[tuple[Callable[[], Blueprint], Morphism, str]] = [
    (chain, Deeper(Place(0, 2), 4), "must be 3 or 5, got 4"),
    (chain, Deeper(Place(0, 1), 3), "must follow relu or relu6, .* got batch_norm at block 0, node 1"),
    (chain, Deeper(Place(0, 99), 3), "there is no node 99 in block 0"),
    (chain, Deeper(Place(-1, 0), 3), "there is no node 0 in block -1"),
    (inverted_residual, Deeper(Place(1, 2), 3), "got hard_swish at block 1, node 2"),
    (inverted_residual, Deeper(Place(1, 8), 3), r"several pixels, got shape \(2, 1, 1\) from relu"),
    (chain, Wider(Place(0, 1), 8), "only a convolution can be widened, got batch_norm"),
    (chain, Wider(Place(0, 0), 4), "more than the 4 channels .* at most 65536, got 4"),
    (chain, Wider(Place(0, 0), 65537), "at most 65536, got 65537"),
    (
        whitened,
        Wider(Place(0, 0), 4),
        "operations that mix or keep its channels, got whiten at block 0, node 1 behind conv",
    ),
    (grouped, Wider(Place(0, 0), 8), "operations that mix or keep its channels, got conv at block 0, node 2"),
    (grouped, Wider(Place(0, 2), 8), "only convolutions of one group can be widened, got conv at block 0, node 2"),
    (with_the_image, Wider(Place(0, 0), 6), "got the image among the values that widen with conv"),
    (beside_a_concatenation, Wider(Place(0, 3), 8), "got concat at block 0, node 2 among the values"),
    (
        beside_a_concatenation,
        Wider(Place(0, 0), 8),
        "operations that mix or keep its channels, got add at block 0, node 4",
    ),
    (without_a_linear_layer, Wider(Place(0, 0), 10), "the number of classes cannot change"),
    (dense, Skip(Place(0, 7), Place(0, 1), "sum"), "must join by concat or blend, got 'sum'"),
    (dense, Skip(Place(0, 4), Place(0, 1), "blend"), "must end at a convolution, got concat"),
    (inverted_residual, Skip(Place(1, 3), Place(0, 1), "concat"), "must end at a convolution of one group, got conv"),
    (dense, Skip(Place(0, 0), Place(0, 1), "concat"), "must go forward, got block 0, node 1 to block 0, node 0"),
    (
        inverted_residual,
        Skip(Place(1, 0), Place(0, 0), "concat"),
        "read the last value of a block, got conv at block 0",
    ),
    (
        chain,
        Skip(Place(0, 4), Place(0, 1), "concat"),
        "must start at an activation, .* got batch_norm at block 0, node 1",
    ),
    (dense, Skip(Place(0, 2), Place(0, 1), "concat"), "start at a value that its end does not read, got relu"),
    (chain, Skip(Place(0, 4), Place(0, 2), "concat"), r"no pool or stride between\), got \(4, 8, 8\) and \(4, 4, 4\)"),
    (dense, Skip(Place(0, 7), Place(0, 1), "blend"), r"of one shape, got \(4, 8, 8\) and \(7, 8, 8\)"),
]


@pytest.mark.parametrize(("make", "morphism", "reason"), REFUSED)
def test_what_cannot_be_is_refused_with_its_reason(
    make: Callable[[], Blueprint], morphism: Morphism, reason: str
) -> None:
    with pytest.raises(MorphismError, match=reason):
        apply(build(make()), morphism, seeded(0))
    with pytest.raises(MorphismError, match=reason):
        preview(make(), morphism)


def test_options_give_the_reason_for_what_is_refused() -> None:
    found = options(grouped())
    assert found[Deeper(Place(0, 1), 3)] is None
    assert "got conv at block 0, node 2" in str(found[Wider(Place(0, 0), 8)])
    assert {type(morphism) for morphism in found} == set(KINDS)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_options_refuse_is_refused_for_the_same_reason(name: str) -> None:
    plan = small(name)
    found = options(plan)
    refused = sample([morphism for morphism, reason in found.items() if reason is not None], 50)
    assert refused
    for morphism in refused:
        with pytest.raises(MorphismError) as caught:
            preview(plan, morphism)
        assert str(caught.value) == found[morphism]


def test_every_family_but_wrapped_networks_can_grow() -> None:
    assert set(FAMILIES) - set(GROWING) == {"library"}


def test_a_celu_is_no_place_to_go_deeper() -> None:
    plan = make_blueprint({"network": "resnet9", "width": 4}, IMAGE, CLASSES)
    assert allowed(plan, Deeper) == []
    assert allowed(plan, Wider)


# ------------------------------------------------------------------------------------------------------------ as text


@pytest.mark.parametrize("name", ["chain", "resnet", "resnet9"])
def test_a_morphism_can_be_written_and_read(name: str) -> None:
    for morphism in options(small(name)):
        assert parse(str(morphism)) == morphism


def test_an_architecture_with_morphisms_is_the_morphed_network() -> None:
    architecture = {"network": "chain", "width": 4, "stages": 2}
    plan = make_blueprint(architecture, IMAGE, CLASSES)
    drawn = draw(plan, seeded(0), 5)
    expected = plan
    for morphism in drawn:
        expected = preview(expected, morphism)
    assert make_blueprint({**architecture, "morphisms": [str(m) for m in drawn]}, IMAGE, CLASSES) == expected


@pytest.mark.parametrize("text", ["deeper 1.1", "wider 1.x channels 8", "skip 3.0 from 2 concat", "", 7])
def test_other_texts_are_no_morphisms(text: object) -> None:
    with pytest.raises(MorphismError, match=r"a morphism is written as 'deeper 2\.1 kernel 3'"):
        parse(text)


def test_morphisms_are_a_list() -> None:
    with pytest.raises(BlueprintError, match=r"are a list of texts, got 'deeper 0\.2 kernel 3'"):
        make_blueprint({"network": "chain", "morphisms": "deeper 0.2 kernel 3"}, IMAGE, CLASSES)
