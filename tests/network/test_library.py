"""The networks of the baselines: torchvision's and timm's as opaque operations, and the classics of our own operations."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import warnings
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from jointnas.campaign.baselines import ARCHITECTURES
from jointnas.errors import BlueprintError
from jointnas.network import families, library_networks
from jointnas.network.blueprint import BlockBuilder, Blueprint
from jointnas.network.cost import blueprint_cost
from jointnas.network.families.classic import CLASSICS
from jointnas.network.module import Network, build

pytestmark = pytest.mark.usefixtures("one_thread")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

CIFAR = (3, 32, 32)
needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")


def marked(names):
    """Return the names as parameters, those that timm brings skipped where it is missing."""
    return [pytest.param(name, marks=needs_timm if name == "dpn92" else ()) for name in names]


def of(network, shape=CIFAR, **knobs):
    return families.make_blueprint({"network": network, **knobs}, shape, 10)


# ------------------------------------------------------------------------------------------------------ all eighteen


@pytest.fixture(scope="module", params=marked(ARCHITECTURES))
def baseline(request):
    """A baseline's blueprint for CIFAR's images, and its network in evaluation mode."""
    blueprint = families.make_blueprint(ARCHITECTURES[request.param], CIFAR, 10)
    return SimpleNamespace(blueprint=blueprint, network=Network(blueprint).eval())


def test_a_baseline_gives_a_logit_for_each_class_of_each_image(baseline):
    with torch.inference_mode():
        assert baseline.network(torch.zeros(2, *CIFAR)).shape == (2, 10)


def test_a_baseline_survives_json(baseline):
    again = Blueprint.from_json(json.loads(json.dumps(baseline.blueprint.to_json())))
    assert again == baseline.blueprint
    assert again.digest() == baseline.blueprint.digest()


def test_a_baseline_costs_what_fvcore_counts_and_its_weights_hold(baseline):
    found, network = blueprint_cost(baseline.blueprint), baseline.network
    image = torch.zeros(1, *CIFAR)
    flops, outputs = FlopCountAnalysis(network, image), ActivationCountAnalysis(network, image)
    for analysis in (flops, outputs):
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_operator = flops.by_operator()
        assert found["macs"] == by_operator["conv"] + by_operator["linear"]
        assert found["activations"] == outputs.total()
    assert found["params"] == sum(p.numel() for p in network.parameters())
    numbers = sum(t.numel() for t in network.state_dict().values() if t.is_floating_point())
    assert found["size"] == 4 * numbers
    assert found["memory"] > found["size"] + 4 * 3 * 32 * 32


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("resnet18", 11_173_962, 555_422_720),
        ("senet18", 11_260_354, 555_509_760),
        ("lenet", 62_006, 651_720),
        ("resnext29", 9_128_778, 1_409_492_992),
        ("mobilenet", 3_217_226, 46_354_432),
        ("shufflenet", 887_582, 39_614_080),
        ("shufflenetv2", 1_263_854, 45_002_112),
        ("regnetx200mf", 2_321_946, 223_317_600),
        ("pnasnet", 130_646, 28_037_856),
        ("dla", 16_291_386, 1_030_935_552),
        ("simpledla", 15_142_970, 913_495_040),
    ],
)
def test_a_baseline_has_the_size_that_it_has_in_the_pytorch_cifar_collection(name, params, macs):
    found = blueprint_cost(families.make_blueprint(ARCHITECTURES[name], CIFAR, 10))
    assert (found["params"], found["macs"]) == (params, macs)


# ------------------------------------------------------------------------------------------------------------ opaque


def test_a_librarys_network_costs_what_the_same_network_of_our_operations_does():
    theirs, ours = blueprint_cost(of("library", name="resnet18")), blueprint_cost(of("resnet"))
    for metric in ("macs", "params", "activations", "size"):
        assert theirs[metric] == ours[metric]


def test_the_memory_of_a_librarys_network_is_its_weights_and_the_most_that_one_layer_reads_and_writes():
    found = blueprint_cost(of("library", name="resnet18"))
    assert found["memory"] - found["size"] == 4 * 2 * 64 * 32 * 32


def test_what_else_is_alive_is_held_beside_a_librarys_network():
    body = BlockBuilder("body")
    body.conv(channels=7)
    body.add("opaque", 1, library="torchvision", name="resnet18", features=10)
    body.add("flatten", 0)
    body.add("linear", features=10, bias=False)
    body.add("add", 2, 4)
    found = blueprint_cost(Blueprint.chain(CIFAR, [body.build()]))
    assert found["memory"] - found["size"] == 4 * (3 + 2 * 64) * 32 * 32


@pytest.mark.parametrize("name", marked(library_networks.NETWORKS))
def test_a_librarys_network_halves_images_early_from_64_pixels_on(name):
    small, large = (blueprint_cost(of("library", (3, side, side), name=name))["macs"] for side in (63, 64))
    assert small > 3 * large


@pytest.mark.parametrize("name", [name for name in CLASSICS if name not in ("lenet", "vgg16")])
def test_a_classic_network_halves_images_early_from_64_pixels_on(name):
    small, large = (blueprint_cost(of("classic", (3, side, side), name=name))["macs"] for side in (63, 64))
    assert small > 3 * large


def test_grey_images_narrow_the_first_convolution_and_nothing_else():
    colour, grey = (blueprint_cost(of("library", (channels, 28, 28)))["params"] for channels in (3, 1))
    assert colour - grey == 2 * 64 * 3 * 3


@pytest.mark.parametrize("network", ["library", "classic"])
def test_resolution_resizes_what_the_network_reads(network):
    assert blueprint_cost(of(network, resolution=0.5))["macs"] == blueprint_cost(of(network, (3, 16, 16)))["macs"]


def test_fresh_weights_follow_from_the_generator_alone():
    def weights(seed):
        network = build(of("library", name="shufflenet_v2_x1_0"), torch.Generator().manual_seed(seed))
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_librarys_network_drops_nothing_out_by_itself():
    network = build(of("library", name="efficientnet_b0", shape=(3, 16, 16)))
    chances = [m.p for m in network.modules() if isinstance(m, nn.Dropout) or type(m).__name__ == "StochasticDepth"]
    assert chances
    assert set(chances) == {0.0}


def test_images_that_cannot_be_halved_often_enough_are_refused():
    with pytest.raises(BlueprintError, match=r"densenet121 does not fit images of 3×4×4.*raise the resolution"):
        blueprint_cost(of("library", (3, 4, 4), name="densenet121"))


def test_neither_blueprints_nor_their_checks_import_a_library():
    program = (
        "import sys; from jointnas.network.families import make_blueprint; import jointnas.network.cost;"
        "from jointnas.network.blueprint import Blueprint;"
        "Blueprint.from_json(make_blueprint({'network': 'library'}, (3, 32, 32), 10).to_json());"
        "print({'torch', 'torchvision', 'timm'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("network", "name", "near"), [("library", "resnet19", "resnet18"), ("classic", "vgg61", "vgg16")]
)
def test_an_unknown_network_is_refused_with_the_nearest(network, name, near):
    with pytest.raises(BlueprintError, match=f"is called '{name}': did you mean '{near}'"):
        of(network, name=name)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "raft_large"},  # of torchvision, but no classifier
        {"library": "timm"},  # which has a network of this name too
        {"library": "os", "name": "system"},
        {"name": ["resnet18"]},
        {"features": 0},
        {"weights": "DEFAULT"},
        {"pretrained": True},
    ],
)
def test_a_file_that_names_something_outside_the_table_is_refused(changes):
    data = of("library").to_json()
    node = data["blocks"][0]["nodes"][0]
    assert Blueprint.from_json(copy.deepcopy(data))
    node.update(changes)
    with pytest.raises(BlueprintError):
        Blueprint.from_json(data)


def test_a_network_whose_library_is_missing_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BlueprintError, match=r"pip install timm"):
        library_networks.build("timm", "dpn92", CIFAR, 10)


# ----------------------------------------------------------------------------------------------------------- shuffle


def shuffled(groups):
    block = BlockBuilder("block")
    block.add("shuffle", groups=groups)
    return Blueprint.chain((6, 1, 1), [block.build()])


def test_shuffle_deals_the_channels_out_one_of_each_group_in_turn():
    found = Network(shuffled(2))(torch.arange(6.0).reshape(1, 6, 1, 1))
    assert found.flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_shuffle_refuses_groups_that_do_not_divide_the_channels():
    with pytest.raises(BlueprintError, match="groups of shuffle must divide its channels, got 4 groups of 6"):
        shuffled(4).shapes()
