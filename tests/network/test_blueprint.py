"""A network as data: shapes, digests, JSON, and what cannot be a network."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from jointnas.errors import BlueprintError
from jointnas.network.blueprint import Block, BlockBuilder, Blueprint, make_node
from jointnas.network.families import make_blueprint
from jointnas.network.operations.operation import Node
from jointnas.space.space import Space


def small() -> Blueprint:
    """A convolution with a skip around it, pooled and classified: 3×8×8 → 5."""
    body = BlockBuilder("body")
    body.conv(channels=3)
    body.add("add", 0, body.add("relu"))
    head = BlockBuilder("head")
    head.add("global_avg_pool")
    head.add("flatten")
    head.add("linear", features=5, bias=True)
    return Blueprint.chain((3, 8, 8), [body.build(), head.build()])


def plain() -> Blueprint:
    """A convolution, pooled and classified: 3×8×8 → 5. Nothing in it checks another value's shape."""
    block = BlockBuilder("all")
    block.conv(channels=3)
    block.add("global_avg_pool")
    block.add("flatten")
    block.add("linear", features=5, bias=True)
    return Blueprint.chain((3, 8, 8), [block.build()])


def elsewhere(program: str, payload: bytes = b"") -> str:
    """What `program` prints in a process of its own, where words hash differently."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, input=payload, capture_output=True, check=True).stdout.decode().strip()


def test_values_are_the_image_and_the_output_of_each_block() -> None:
    assert small().shapes() == ((3, 8, 8), (3, 8, 8), (5,))


def test_a_strided_convolution_rounds_its_side_up_and_a_pooling_down() -> None:
    block = BlockBuilder("block")
    block.conv(channels=6, stride=2)
    block.add("max_pool", kernel=2, stride=2)
    assert Blueprint.chain((3, 9, 7), [block.build()]).shapes()[-1] == (6, 2, 2)  # 9×7 → 5×4 → 2×2


def test_a_builder_reads_the_newest_value_unless_told_otherwise() -> None:
    block = BlockBuilder("block", n_inputs=2)
    assert (block.add("relu"), block.add("relu"), block.add("add", 0, 3)) == (2, 3, 4)
    assert [n.inputs for n in block.build().nodes] == [(1,), (2,), (0, 3)]


def test_attributes_are_found_by_name_with_a_default() -> None:
    node = make_node("max_pool", [0], {"stride": 2, "kernel": 3})
    assert (node.get("kernel"), node.get("stride"), node.get("bits", 32)) == (3, 2, 32)
    assert node == make_node("max_pool", [0], {"kernel": 3, "stride": 2})


def test_equal_networks_are_equal_hash_equally_and_share_a_digest() -> None:
    assert small() == small()
    assert len({small(), small()}) == 1
    assert small().digest() == small().digest()


def test_any_change_changes_the_digest() -> None:
    one = small()
    renamed = Blueprint(one.input_shape, (Block("other", one.blocks[0].nodes), one.blocks[1]), one.wiring)
    larger = Blueprint((3, 9, 9), one.blocks, one.wiring)
    rewired = Blueprint(one.input_shape, one.blocks, ((0,), (0,)))
    assert len({b.digest() for b in (one, renamed, larger, rewired)}) == 4


def test_a_digest_is_the_same_in_another_process() -> None:
    program = "from jointnas.network.families import make_blueprint; print(make_blueprint({'network': 'senet'}, (3, 32, 32), 10).digest())"
    assert elsewhere(program) == make_blueprint({"network": "senet"}, (3, 32, 32), 10).digest()


def test_a_block_that_travelled_to_another_process_still_hashes_as_its_equals_there() -> None:
    block = small().blocks[0]
    hash(block)
    program = (
        "import sys, pickle, dataclasses; block = pickle.load(sys.stdin.buffer);"
        "fresh = dataclasses.replace(block); print(block == fresh and hash(block) == hash(fresh))"
    )
    assert elsewhere(program, pickle.dumps(block)) == "True"


@pytest.mark.parametrize("name", ["resnet9", "senet"])
def test_json_gives_an_equal_network_back(name: str) -> None:
    space = Space.load(name, input_shape=(3, 32, 32), classes=10)
    for candidate in space.sample(16, seed=3):
        before = space.blueprint(candidate)
        after = Blueprint.from_json(json.loads(json.dumps(before.to_json())))
        assert after == before
        assert after.digest() == before.digest()


def test_a_wiring_that_is_no_chain_survives_json() -> None:
    merge = Block("merge", (Node("add", (0, 1)),), n_inputs=2)
    relu = Block("relu", (Node("relu", (0,)),))
    network = Blueprint((2, 4, 4), (relu, relu, merge), ((0,), (0,), (1, 2)))
    assert Blueprint.from_json(network.to_json()) == network


def test_an_unknown_operation_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(BlueprintError, match="no operation is called 'conf': did you mean 'conv'"):
        BlockBuilder("block").add("conf")


@pytest.mark.parametrize(
    ("nodes", "rule"),
    [
        ([Node("linear", (0,), (("features", 5),))], "linear needs a vector"),
        ([Node("flatten", (0,)), Node("global_avg_pool", (1,))], "global_avg_pool needs an image"),
        ([make_node("max_pool", [0], {"kernel": 9, "stride": 1})], "does not fit an image side of 8"),
        (
            [
                make_node(
                    "conv", [0], {"channels": 4, "kernel": 1, "stride": 1, "padding": 0, "groups": 2, "bias": False}
                )
            ],
            "groups of a convolution must divide its channels",
        ),
        ([Node("global_avg_pool", (0,)), Node("add", (0, 1))], "add needs values of one shape"),
        (
            [Node("flatten", (0,)), Node("multiply", (0, 1))],
            "multiply needs an image, and a second one or a value per channel",
        ),
        ([Node("whiten", (0,), (("kernel", 2),))], "whiten"),  # half a pixel of padding would be needed
        ([Node("relu", (1,))], "can only read earlier values"),
        ([Node("relu", (-1,))], "can only read earlier values"),
        ([Node("relu", ())], "can only read earlier values"),
    ],
)
def test_nodes_that_do_not_fit_are_refused(nodes: list[Node], rule: str) -> None:
    with pytest.raises(BlueprintError, match=rule):
        Blueprint.chain((3, 8, 8), [Block("block", tuple(nodes))]).shapes()


Spoiler = Callable[[dict[str, Any]], Any]


def conv_with(**attributes: Any) -> Spoiler:
    return lambda data: data["blocks"][0]["nodes"][0].update(attributes)


def linear_with(**attributes: Any) -> Spoiler:
    return lambda data: data["blocks"][0]["nodes"][3].update(attributes)


MALFORMED: dict[str, Spoiler] = {
    "no format": lambda d: d.pop("format"),
    "another format": lambda d: d.update(format=2),
    "no blocks": lambda d: d.pop("blocks"),
    "blocks that are a number": lambda d: d.update(blocks=7),
    "a block that is a word": lambda d: d.update(blocks=["body"]),
    "a block without nodes": lambda d: d["blocks"][0].pop("nodes"),
    "an input shape of words": lambda d: d.update(input_shape=["a", 8, 8]),
    "a vector for an image": lambda d: d.update(input_shape=[192]),
    "an unknown operation": conv_with(operation="__import__"),
    "an operation that is a list": conv_with(operation=["conv"]),
    "a node that reads itself": conv_with(inputs=[1]),
    "a node that reads backwards": conv_with(inputs=[-1]),
    "a node that reads nothing": conv_with(inputs=[]),
    "a block that reads a later one": lambda d: d["blocks"][0].update(inputs=[1]),
    "an attribute that is a list": conv_with(extra=[1]),
    "no channels": lambda d: d["blocks"][0]["nodes"][0].pop("channels"),
    "channels that are a word": conv_with(channels="many"),
    "negative channels": conv_with(channels=-3),
    "a kernel larger than the image": conv_with(kernel=64),
    "a kernel that is no number": conv_with(kernel=float("nan")),
}

HOSTILE: dict[str, Spoiler] = {
    "no image at all": lambda d: d.update(input_shape=[0, 8, 8]),
    "a negative image": lambda d: d.update(input_shape=[3, -8, -8]),
    "an infinite image": lambda d: d.update(input_shape=[3, float("inf"), 8]),
    "a block that reads the newest value by −1": lambda d: d["blocks"][0].update(inputs=[-1]),
    "an empty list of blocks": lambda d: d.update(blocks=[]),
    "an empty list of nodes": lambda d: d["blocks"][0].update(nodes=[]),
    "stride 0": conv_with(stride=0),
    "no groups": conv_with(groups=0),
    "negative groups": conv_with(groups=-1),
    "kernel 0": conv_with(kernel=0, padding=0),
    "a negative kernel": conv_with(kernel=-1),
    "negative padding": conv_with(padding=-1),
    "an infinite kernel": conv_with(kernel=float("inf")),
    "channels that are not whole": conv_with(channels=3.5),
    "channels in quotes": conv_with(channels="3"),
    "a convolution of two values": conv_with(inputs=[0, 0]),
    "no padding given": lambda d: d["blocks"][0]["nodes"][0].pop("padding"),
    "no features": linear_with(features=0),
    "negative features": linear_with(features=-5),
    "negative bits": linear_with(bits=-8),
    "bits that are a word": linear_with(bits="few"),
}


@pytest.mark.parametrize("spoil", [pytest.param(s, id=name) for name, s in {**MALFORMED, **HOSTILE}.items()])
def test_json_that_is_no_network_is_refused(spoil: Spoiler) -> None:
    data = plain().to_json()
    spoil(data)
    with pytest.raises(BlueprintError):
        Blueprint.from_json(data)


@pytest.mark.parametrize("data", [None, 3, "network", [], {}, {"format": 1}, {"format": 1, "blocks": None}])
def test_json_of_another_kind_is_refused(data: Any) -> None:
    with pytest.raises(BlueprintError, match="a blueprint"):
        Blueprint.from_json(data)
