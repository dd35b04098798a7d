"""The families: published sizes, what their knobs do, and costs that equal the built networks of every built-in space."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch.nn import Conv2d, Linear

from jointnas.errors import BlueprintError
from jointnas.network import families
from jointnas.network.blueprint import Blueprint
from jointnas.network.cost import blueprint_cost
from jointnas.network.families import make_blueprint
from jointnas.network.layers import Whiten
from jointnas.network.module import Network
from jointnas.search.search import Search
from jointnas.space.space import Space
from tests.network.test_cost import FlopCountAnalysis, stored_bytes, traced
from tests.spaces import SPACES_OF_NETWORKS

pytestmark = pytest.mark.usefixtures("one_thread")

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)
SAMPLES, TRACED = 64, 4
AFFORDABLE = 300e6  # MACs of a network that is worth building in a test
PAGE = Path(__file__).parents[2] / "docs" / "families.md"


def of(network: str, **knobs: object) -> Blueprint:
    return make_blueprint({"network": network, **knobs}, CIFAR, 10)


def names(network: Blueprint) -> list[str]:
    return [block.name for block in network.blocks]


def operations(network: Blueprint) -> list[str]:
    return [node.operation for block in network.blocks for node in block.nodes]


def sides(network: Blueprint) -> list[int]:
    """Return the sides of the images that a network works on, each once."""
    return list(dict.fromkeys(shape[1] for shape in network.shapes()[1:-1]))


# ------------------------------------------------------------------------------------------------- published counts


def test_resnet18_for_small_images_has_the_published_size() -> None:
    found = blueprint_cost(of("resnet"))
    assert found["params"] == 11_173_962
    assert round(found["macs"] / 1e6, 1) == 555.4


def test_resnet18_of_width_0_73_has_the_published_parameters() -> None:
    assert blueprint_cost(of("resnet", width=0.73))["params"] == 5_962_891


def test_a_pre_activated_resnet18_has_the_known_parameters_and_a_norm_before_its_head() -> None:
    assert blueprint_cost(of("resnet", pre_activation=True))["params"] == 11_171_146 + 2 * 512


LARGE = {"stem": "imagenet", "depth1": 3, "depth2": 4, "depth3": 6, "depth4": 3}


@pytest.mark.parametrize(
    ("library", "params", "network", "knobs"),
    [
        ("resnet18", 11_689_512, "resnet", {"stem": "imagenet"}),
        ("resnet34", 21_797_672, "resnet", LARGE),
        ("resnet50", 25_557_032, "resnet", {**LARGE, "block": "bottleneck"}),
        ("mobilenet_v2", 3_504_872, "mobilenet", {"stem_stride": 2, "stride2": 2}),
    ],
)
def test_networks_for_large_images_cost_what_torchvisions_do(
    library: str, params: int, network: str, knobs: dict[str, object]
) -> None:
    found = blueprint_cost(make_blueprint({"network": network, **knobs}, IMAGENET, 1000))
    with torch.device("meta"):
        reference = torchvision.models.get_model(library).eval()
    assert found["params"] == params == sum(p.numel() for p in reference.parameters())
    counted = traced(reference.to_empty(device="cpu"), torch.zeros(1, *IMAGENET))
    assert (found["macs"], found["activations"]) == counted


@pytest.mark.parametrize("width", [0.35, 0.5, 1.4])
def test_mobilenets_widths_round_as_torchvisions_do(width: float) -> None:
    with torch.device("meta"):
        reference = torchvision.models.mobilenet_v2(width_mult=width)
    assert blueprint_cost(of("mobilenet", width=width, head=1280))["params"] == sum(
        p.numel() for name, p in reference.named_parameters() if not name.startswith("classifier")
    ) + 10 * (reference.last_channel + 1)


# -------------------------------------------------------------------------------------------------- what knobs do


def test_resnet_halves_the_image_in_every_stage_but_the_first_and_quarters_a_large_one_before() -> None:
    assert sides(of("resnet")) == [32, 16, 8, 4]
    assert sides(of("resnet", stem="imagenet")) == [8, 4, 2, 1]


@pytest.mark.parametrize(
    ("knobs", "blocks"),
    [({}, 8), ({"depth": 1.5}, 12), ({"depth": 0.5}, 4), ({"depth2": 4}, 10), ({"depth1": 5, "depth": 0.5}, 5)],
)
def test_resnet_depth_multiplies_the_blocks_of_each_stage(knobs: dict[str, object], blocks: int) -> None:
    assert names(of("resnet", **knobs)).count("basic") == blocks


def test_resnet_bottlenecks_give_four_times_the_channels() -> None:
    basic, bottleneck = (of("resnet", block=block, width=0.25).shapes()[-2] for block in ("basic", "bottleneck"))
    assert (basic, bottleneck) == ((128, 4, 4), (512, 4, 4))


def test_pre_activation_changes_the_order_of_the_norms_and_no_convolution() -> None:
    after, before = (of("resnet", pre_activation=p, width=0.1) for p in (False, True))
    assert blueprint_cost(after)["macs"] == blueprint_cost(before)["macs"]
    order = [" ".join(node.operation for node in network.blocks[1].nodes) for network in (after, before)]
    assert order == ["conv batch_norm relu conv batch_norm add relu", "batch_norm relu conv batch_norm relu conv add"]


def test_mobilenet_keeps_small_images_until_its_third_stage() -> None:
    assert sides(of("mobilenet")) == [32, 16, 8, 4]
    assert sides(of("mobilenet", stem_stride=2, stride2=2)) == [16, 8, 4, 2, 1]


@pytest.mark.parametrize(("depth", "blocks"), [(1.0, 17), (0.5, 11), (0.1, 7), (2.0, 34)])
def test_mobilenet_depth_multiplies_the_blocks_and_leaves_each_stage_one(depth: float, blocks: int) -> None:
    stages = [name for name in names(of("mobilenet", depth=depth)) if name.startswith("stage")]
    assert len(stages) == blocks
    assert len(set(stages)) == 7


def test_mobilenet_expands_from_its_second_stage_on() -> None:
    network = of("mobilenet", expand=3.0, kernel=5)
    filters = [dict(n.attributes) for b in network.blocks for n in b.nodes if n.get("groups", 1) > 1]
    assert [f["channels"] for f in filters[:3]] == [32, 3 * 16, 3 * 24]
    assert {f["kernel"] for f in filters} == {5}


def test_mobilenet_uses_its_activation_everywhere() -> None:
    assert "silu" not in operations(of("mobilenet"))
    assert operations(of("mobilenet", activation="silu")).count("silu") == operations(of("mobilenet")).count("relu6")


def test_mobilenets_head_grows_with_the_width_and_never_shrinks() -> None:
    assert [of("mobilenet", width=w, head=64).shapes()[-2][0] for w in (0.5, 1.0, 2.0)] == [64, 64, 128]


def test_a_chain_pools_between_its_stages_and_doubles_its_channels() -> None:
    network = of("chain", width=8, depth1=2, stages=2)
    assert names(network) == ["stem", "convolution", "pool", "convolution", "head"]
    assert network.shapes() == (CIFAR, (8, 32, 32), (8, 32, 32), (8, 16, 16), (16, 16, 16), (10,))


def test_depths_of_stages_that_a_chain_does_not_have_change_nothing() -> None:
    assert of("chain", stages=2, depth3=4, depth4=2) == of("chain", stages=2)


def test_a_chain_leaves_pooling_out_where_one_pixel_is_left() -> None:
    assert names(make_blueprint({"network": "chain", "stages": 4}, (1, 2, 4), 10)).count("pool") == 1


def test_chain_skips_lead_over_a_stages_convolutions_from_the_first_one() -> None:
    plain, blended, side_by_side = (
        of("chain", width=8, depth1=3, stages=1, skips=s) for s in ("none", "blend", "concat")
    )
    assert names(blended) == [*names(plain)[:-1], "blend", "head"]
    assert blended.wiring[3] == (3, 1)  # behind the third convolution, with the first one's output
    assert blended.shapes()[-2] == (8, 32, 32)
    assert side_by_side.shapes()[-2] == (16, 32, 32)


def test_a_chain_of_single_convolutions_has_nothing_to_skip() -> None:
    assert of("chain", skips="blend") == of("chain", skips="none")


def test_a_blended_chain_starts_as_the_chain_without_skips() -> None:
    image = torch.randn(2, *CIFAR, generator=torch.Generator().manual_seed(0))
    plain, blended = (Network(of("chain", width=4, depth2=3, skips=s)).eval() for s in ("none", "blend"))
    weights = [p for p in blended.parameters() if p.dim() > 0]
    with torch.no_grad():
        for p, same in zip(plain.parameters(), weights, strict=True):
            same.copy_(p.normal_(generator=torch.Generator().manual_seed(p.numel())))
        assert torch.equal(plain(image), blended(image))


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("network", "knobs", "rule"),
    [
        ("resnet", {"block": "bottle"}, "no block is called 'bottle': did you mean 'bottleneck'"),
        ("resnet", {"stem": "imagnet"}, "no stem is called 'imagnet': did you mean 'imagenet'"),
        ("resnet", {"width": 0.0}, "width must be above 0, got 0.0"),
        ("resnet", {"width": 0.005}, "width must leave a channel in every stage"),
        ("resnet", {"depth3": 0}, "every stage needs a block, got depth3 = 0 times depth = 1"),
        ("resnet", {"depth": 0.2}, "every stage needs a block, got depth1 = 2 times depth = 0.2"),
        ("mobilenet", {"width": -1.0}, "width must be above 0, got -1"),
        ("mobilenet", {"depth": 0.0}, "depth must be above 0, got 0"),
        ("mobilenet", {"expand": 0.0}, "expand must be above 0, got 0"),
        ("mobilenet", {"head": 0}, "head must be above 0, got 0"),
        ("mobilenet", {"kernel": 4}, "kernel must be odd, got 4"),
        ("mobilenet", {"activation": "relu66"}, "no activation is called 'relu66': did you mean 'relu6'"),
        ("mobilenet", {"stride3": 0}, "stride of conv must be a whole number from 1"),
        ("chain", {"width": 0}, "width must be above 0, got 0"),
        ("chain", {"depth1": 0}, "depth1 must be above 0, got 0"),
        ("chain", {"kernel": 2}, "kernel must be odd, got 2"),
        ("chain", {"stages": 0}, "stages must be 1 to 4, got 0"),
        ("chain", {"stages": 5}, "stages must be 1 to 4, got 5"),
        ("chain", {"skips": "blent"}, "no skip is called 'blent': did you mean 'blend'"),
    ],
)
def test_knobs_that_make_no_network_are_refused(network: str, knobs: dict[str, object], rule: str) -> None:
    with pytest.raises(BlueprintError, match=re.escape(rule)):
        of(network, **knobs)


# ------------------------------------------------------------------------------------ costs, over every built-in space


class Sampled:
    """Random networks of a built-in space: as the space costs them in one batch, and each by itself."""

    def __init__(self, name: str) -> None:
        self.space = Space.load(name, input_shape=CIFAR, classes=10).fix({"test_flip": False})
        codes = next(self.space.stream(seed=7, chunk=SAMPLES))[:SAMPLES]
        columns = self.space.costs(codes)
        self.costs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        self.digests = self.space.architectures.digests(codes[:, : self.space.n_architecture])
        self.blueprints = [self.space.blueprint(c) for c in self.space.to_candidates(codes)]
        distinct = sorted(map(self.digests.index, set(self.digests)), key=lambda i: self.costs[i]["macs"])
        affordable = [i for i in distinct if self.costs[i]["macs"] < AFFORDABLE]
        self.built = affordable or distinct[:2]  # indices, the cheapest first


@pytest.fixture(scope="module", params=[name for name in SPACES_OF_NETWORKS if name != "resnet9-quantised"])
def sampled(request: pytest.FixtureRequest) -> Sampled:
    return Sampled(request.param)


def measured(network: Network, image: torch.Tensor) -> tuple[int, int]:
    """Return the most bytes of values alive, and the outputs of layers with MACs, as operations run one by one.

    A value is freed after its last reader.
    """
    modules: list[torch.nn.Module] = []
    reads: list[list[int]] = []
    outer = [0]  # each block's output among the values; value 0 is the image, value i + 1 what module i gives
    for block, inputs in zip(network.blocks, network.blueprint.wiring, strict=True):
        inner = [outer[i] for i in inputs]
        for module, read in zip(block.nodes, block.reads, strict=True):
            modules.append(module)
            reads.append([inner[i] for i in read])
            inner.append(len(modules))
        outer.append(inner[-1])
    last = {value: step for step, read in enumerate(reads) for value in read}
    alive, peak, activations = {0: image}, 0, 0
    for step, (module, read) in enumerate(zip(modules, reads, strict=True)):
        alive[step + 1] = module(*[alive[value] for value in read])
        peak = max(peak, sum(value.nbytes for value in alive.values()))
        activations += alive[step + 1].numel() if isinstance(module, Conv2d | Linear | Whiten) else 0
        for value in {v for v in read if last[v] == step}:
            del alive[value]
    return peak, activations


def test_a_batch_costs_what_its_networks_cost_one_by_one(sampled: Sampled) -> None:
    assert sampled.costs == [blueprint_cost(network) for network in sampled.blueprints]
    assert sampled.digests == [network.digest() for network in sampled.blueprints]


def test_parameters_and_bytes_equal_the_built_networks(sampled: Sampled) -> None:
    for i in sampled.built:
        network, found = Network(sampled.blueprints[i]), sampled.costs[i]
        assert found["params"] == sum(p.numel() for p in network.parameters())
        assert found["size"] == stored_bytes(network)


def test_memory_and_activations_equal_those_of_a_run(sampled: Sampled) -> None:
    for i in sampled.built[:: max(1, len(sampled.built) // TRACED)]:
        network = Network(sampled.blueprints[i]).eval().to("meta")  # values have shapes and take no memory
        with torch.inference_mode():
            peak, activations = measured(network, torch.zeros(1, *CIFAR, device="meta"))
        assert sampled.costs[i]["memory"] == stored_bytes(network) + peak
        assert sampled.costs[i]["activations"] == activations


def test_macs_equal_a_trace(sampled: Sampled) -> None:
    for i in sampled.built[:TRACED]:
        trace = FlopCountAnalysis(Network(sampled.blueprints[i]).eval(), torch.zeros(1, *CIFAR))
        counted = trace.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
        assert sampled.costs[i]["macs"] == counted["conv"] + counted["linear"]


def test_networks_survive_json(sampled: Sampled) -> None:
    for i in sampled.built[:TRACED]:
        network = sampled.blueprints[i]
        assert Blueprint.from_json(json.loads(json.dumps(network.to_json()))) == network


# ------------------------------------------------------------------------------------------------- families of one's own


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the code of the page on families of one's own defines, run from top to bottom."""
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert all(block.count("\n") < 40 for block in blocks)
    defined: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), defined)
    return defined


def test_the_pages_family_is_searched_under_a_constraint_and_built(page: dict[str, Any]) -> None:
    space, batch = page["space"], page["batch"]
    assert len(batch) == 8
    assert all(space.cost(candidate)["macs"] < 5e6 for candidate in batch)
    assert page["network"](torch.randn(2, *CIFAR)).shape == (2, 10)
    search: Search = page["search"]
    search.predictor.members = 2
    search.tell(batch, [candidate["architecture"]["depth"] / 10 for candidate in batch])
    assert all(space.cost(candidate)["macs"] < 5e6 for candidate in search.ask(8))


def test_the_pages_family_in_parts_makes_the_same_networks(page: dict[str, Any]) -> None:
    for candidate in page["space"].sample(20, seed=1):
        assert of(**{**candidate["architecture"], "network": "tower-in-parts"}) == of(**candidate["architecture"])
