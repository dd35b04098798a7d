"""Costs by arithmetic: against fvcore's traces, against the module's own weights, and against a slow twin."""

import random
import warnings
from math import prod

import pytest
import torch

from jointnas.network.blueprint import Block, BlockBuilder, Blueprint, block_shapes
from jointnas.network.cost import METRICS, blueprint_cost, node_cost
from jointnas.network.module import Network, build
from jointnas.network.operations.operation import Node
from jointnas.space.space import Space

pytestmark = pytest.mark.usefixtures("one_thread")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

SAMPLES = 3
AFFORDABLE = 60e6


def traced(network: Network, image: torch.Tensor) -> tuple[float, float]:
    """Return fvcore's MACs of convolutions and linear layers, and its activations."""
    flops, outputs = FlopCountAnalysis(network, image), ActivationCountAnalysis(network, image)
    for analysis in (flops, outputs):
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_operator = flops.by_operator()
        return by_operator["conv"] + by_operator["linear"], outputs.total()


def stored_bytes(network: Network) -> int:
    return sum(t.numel() * t.element_size() for t in network.state_dict().values() if t.is_floating_point())


@pytest.mark.parametrize("side", [8, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["resnet9", "senet"])
def test_costs_equal_the_built_networks(name: str, channels: int, side: int) -> None:
    space = Space.load(name, input_shape=(channels, side, side), classes=10).fix({"test_flip": False})
    affordable = [c for c in space.sample(64, seed=side + channels) if space.cost(c)["macs"] < AFFORDABLE]
    assert len(affordable) >= SAMPLES
    for candidate in affordable[:SAMPLES]:
        found = space.cost(candidate)
        network = build(space.blueprint(candidate)).eval()
        assert (found["macs"], found["activations"]) == traced(network, torch.zeros(1, channels, side, side))
        assert found["params"] == sum(p.numel() for p in network.parameters())
        assert found["size"] == stored_bytes(network)


def test_a_convolution_costs_what_the_textbook_says() -> None:
    block = BlockBuilder("block")
    block.add("conv", channels=6, kernel=3, stride=2, padding=1, groups=2, bias=True)
    found = blueprint_cost(Blueprint.chain((4, 7, 5), [block.build()]))
    outputs = 6 * 4 * 3
    assert found["macs"] == outputs * (4 // 2) * 3**2
    assert found["params"] == 6 * (4 // 2) * 3**2 + 6
    assert found["activations"] == outputs
    assert found["size"] == 4 * found["params"]
    assert found["memory"] == found["size"] + 4 * (4 * 7 * 5 + outputs)


def test_a_linear_layer_costs_its_matrix() -> None:
    found = blueprint_cost(
        Blueprint.chain((12,), [Block("head", (Node("linear", (0,), (("bias", True), ("features", 5))),))])
    )
    assert (found["macs"], found["params"], found["activations"]) == (60, 65, 5)


def test_a_whitening_filter_is_computed_and_stored_but_not_trained() -> None:
    found = blueprint_cost(Blueprint.chain((2, 4, 4), [Block("stem", (Node("whiten", (0,), (("kernel", 3),)),))]))
    assert found["macs"] == 18 * 16 * 18
    assert found["params"] == 0
    assert found["size"] == 4 * 18**2


def test_a_batch_norm_trains_a_shift_and_a_scale_and_stores_two_statistics() -> None:
    def of(scale: bool) -> dict[str, int]:
        return blueprint_cost(
            Blueprint.chain((5, 2, 2), [Block("norm", (Node("batch_norm", (0,), (("scale", scale),)),))])
        )

    assert (of(True)["params"], of(True)["size"]) == (10, 4 * 20)
    assert (of(False)["params"], of(False)["size"]) == (5, 4 * 15)
    assert of(True)["macs"] == of(True)["activations"] == 0


def test_weights_of_few_bits_are_packed_to_whole_bytes_and_have_scales() -> None:
    def of(**bits: int | str) -> dict[str, int]:
        block = BlockBuilder("block")
        block.add("conv", channels=7, kernel=3, stride=1, padding=1, groups=1, bias=True, **bits)
        return blueprint_cost(Blueprint.chain((4, 6, 6), [block.build()]))

    plain, weights = of(), 7 * 4 * 9
    for bits in (1, 2, 3, 4, 8):
        packed = of(bits=bits, levels="uniform", scales="channel")
        assert packed["size"] == -(-weights * bits // 8) + 4 * 7 + 4 * 7
        assert packed["bitops"] == plain["macs"] * bits * 32
        assert of(bits=bits, levels="uniform", scales="tensor")["size"] == packed["size"] - 4 * 6
    both = of(bits=4, levels="uniform", scales="channel", activation_bits=8)
    assert both["bitops"] == plain["macs"] * 32
    assert plain["bitops"] == plain["macs"] * 1024
    assert both["params"] == plain["params"]


def test_every_metric_is_there_and_whole() -> None:
    found = blueprint_cost(Blueprint.chain((1, 2, 2), [Block("block", (Node("relu", (0,)),))]))
    assert tuple(found) == METRICS
    assert all(type(v) is int for v in found.values())


# ---------------------------------------------------------------------------------------------------------- memory


def widen(channels: int) -> Block:
    """A block of one convolution, 1×1 and without bias."""
    block = BlockBuilder("widen")
    block.conv(channels=channels, kernel=1)
    return block.build()


RELU = Block("relu", (Node("relu", (0,)),))
SUM = Block("sum", (Node("add", (0, 1)),), n_inputs=2)
PIXELS = 4 * 4


def peak(blueprint: Blueprint) -> int:
    """Return how many float32 values are alive at most."""
    found = blueprint_cost(blueprint)
    return (found["memory"] - found["size"]) // 4


def test_a_chain_holds_two_neighbouring_values() -> None:
    chain = Blueprint.chain((1, 4, 4), [widen(8), widen(2), widen(3)])
    assert peak(chain) == (8 + 2) * PIXELS


def test_a_skip_across_blocks_is_held_until_it_is_read() -> None:
    #  0 ── widen 8 ── widen 2 ── relu ── sum ;  value 1 (8 channels) is read again by the last widen
    skip = Blueprint(
        (1, 4, 4), (widen(8), widen(2), RELU, widen(2), SUM), ((0,), (1,), (2,), (1,), (3, 4))
    )  # alive in turn: 1+8, 8+2, 8+2+2, 8+2+2, 2+2+2 channels
    assert peak(skip) == 12 * PIXELS
    early = Blueprint((1, 4, 4), (widen(8), widen(2), RELU, RELU, SUM), ((0,), (1,), (2,), (3,), (3, 4)))
    assert peak(early) == 10 * PIXELS


def test_a_skip_inside_a_block_is_held_until_it_is_read() -> None:
    block = BlockBuilder("residual")
    block.conv(channels=5, kernel=1)
    block.conv(channels=2, kernel=1)
    block.add("add", 0, 2)
    assert peak(Blueprint.chain((2, 4, 4), [block.build()])) == (2 + 5 + 2) * PIXELS


def test_the_image_is_held_while_something_still_reads_it() -> None:
    late = Blueprint((3, 4, 4), (widen(1), widen(3), SUM), ((0,), (1,), (0, 2)))
    assert peak(late) == (3 + 3 + 3) * PIXELS


def test_a_value_read_twice_by_one_block_is_held_once() -> None:
    double = Blueprint((3, 4, 4), (RELU, SUM), ((0,), (1, 1)))
    assert peak(double) == (3 + 3) * PIXELS


def random_block(rng: random.Random, inputs: list[int], out: int) -> Block:
    """Return a block that reads each input (given by channels) and in which every value is read."""
    block = BlockBuilder("random", n_inputs=len(inputs))
    channels, unread = list(inputs), set(range(len(inputs)))
    for _ in range(rng.randint(0, 5)):
        source = rng.randrange(len(channels))
        partners = [v for v in range(len(channels)) if channels[v] == channels[source] and v != source]
        if partners and rng.random() < 0.5:
            partner = rng.choice(partners)
            block.add("add", source, partner)
            channels.append(channels[source])
            unread.discard(partner)
        elif rng.random() < 0.3:
            block.add("relu", source)
            channels.append(channels[source])
        else:
            channels.append(rng.randint(1, 9))
            block.conv(source, channels=channels[-1], kernel=1)
        unread.discard(source)
        unread.add(len(channels) - 1)
    ends = [block.conv(v, channels=out, kernel=1) for v in sorted(unread)]
    if len(ends) > 1:
        block.add("add", *ends)
    return block.build()


def random_blueprint(seed: int) -> Blueprint:
    """Return a small network with skips inside and across its blocks, in which every value is read."""
    rng = random.Random(seed)
    channels, unread = [rng.randint(1, 9)], {0}
    blocks, wiring = [], []
    for _ in range(rng.randint(1, 5)):
        reads = tuple(rng.sample(range(len(channels)), rng.randint(1, min(3, len(channels)))))
        channels.append(rng.randint(1, 9))
        blocks.append(random_block(rng, [channels[i] for i in reads], channels[-1]))
        wiring.append(reads)
        unread = (unread - set(reads)) | {len(channels) - 1}
    reads = tuple(sorted(unread))
    blocks.append(random_block(rng, [channels[i] for i in reads], 2))
    wiring.append(reads)
    return Blueprint((channels[0], 4, 4), tuple(blocks), tuple(wiring))


def slow_memory(blueprint: Blueprint) -> int:
    """Return stored bytes plus the peak, with the whole network laid out as one list of operations on named values."""
    shapes, stored = blueprint.shapes(), 0
    sizes = {("block", 0): prod(shapes[0])}
    steps: list[tuple[set[tuple[object, ...]], tuple[object, ...]]] = []
    for b, (block, inputs) in enumerate(zip(blueprint.blocks, blueprint.wiring, strict=True), start=1):
        inner = block_shapes(block, tuple(shapes[i] for i in inputs))
        names: list[tuple[object, ...]] = [("block", i) for i in inputs]
        for n, node in enumerate(block.nodes):
            is_output = n == len(block.nodes) - 1
            names.append(("block", b) if is_output else ("node", b, n))
            sizes[names[-1]] = prod(inner[len(inputs) + n])
            cost = node_cost(node, inner[node.inputs[0]], inner[len(inputs) + n])
            stored += 4 * (cost.trained + cost.fixed)
            steps.append(({names[i] for i in node.inputs}, names[-1]))
    peak = 0
    for now, (_, written) in enumerate(steps):
        made = {("block", 0), *(w for _, w in steps[:now])}
        needed = {value for value in made if any(value in reads for reads, _ in steps[now:])}
        peak = max(peak, sum(sizes[v] for v in needed | {written}))
    return stored + 4 * peak


def test_memory_equals_a_slow_count_over_random_networks() -> None:
    networks = [random_blueprint(seed) for seed in range(300)]
    assert any(max(map(len, network.wiring)) > 2 for network in networks)
    for network in networks:
        assert blueprint_cost(network)["memory"] == slow_memory(network)


@pytest.mark.parametrize("name", ["resnet9", "senet"])
def test_memory_equals_a_slow_count_over_the_families(name: str) -> None:
    space = Space.load(name, input_shape=(3, 32, 32), classes=10)
    for candidate in space.sample(16, seed=5):
        assert space.cost(candidate)["memory"] == slow_memory(space.blueprint(candidate))
