"""The families: published counts, what each knob does, and what is refused."""

import math

import pytest

from jointnas.errors import BlueprintError
from jointnas.network import families
from jointnas.network.blueprint import Blueprint
from jointnas.network.cost import blueprint_cost
from jointnas.network.families import make_blueprint

CIFAR = (3, 32, 32)


def of(network: str, **knobs: object) -> Blueprint:
    return make_blueprint({"network": network, **knobs}, CIFAR, 10)


def first_side(network: Blueprint) -> int:
    """Return the side of the image after the first block, which is the resolution the network works on."""
    return network.shapes()[1][1]


# ------------------------------------------------------------------------------------------------- published counts


def test_senet_has_the_published_size() -> None:
    found = blueprint_cost(of("senet"))
    assert found["params"] == 11_260_354
    assert round(found["macs"] / 1e6, 1) == 555.5


def test_senet_of_two_thirds_the_width_has_the_published_size() -> None:
    found = blueprint_cost(of("senet", width=0.67))
    assert found["params"] == 5_064_766
    assert round(found["macs"] / 1e6, 1) == 250.8


def test_resnet9_has_the_published_weights_and_a_shift_for_each_batch_norm_channel() -> None:
    network = of("resnet9")
    shifts = sum(
        network.shapes()[i + 1][0]
        for i, block in enumerate(network.blocks)
        for node in block.nodes
        if node.operation == "batch_norm"
    )
    assert shifts == 2_240
    assert blueprint_cost(network)["params"] == 6_568_640 + 2_240 == 6_570_880


# -------------------------------------------------------------------------------------------------- what knobs do


def test_a_family_says_its_knobs_with_their_defaults() -> None:
    assert families.find_family("senet").knobs == {"depth": 1.0, "width": 1.0, "resolution": 1.0}
    assert families.find_family("resnet9").knobs["width"] == 64


def test_absent_knobs_take_the_familys_defaults() -> None:
    assert of("senet") == of("senet", depth=1.0, width=1.0, resolution=1.0)


@pytest.mark.parametrize(
    ("resolution", "side"), [(1.0, 32), (1.18, 37), (0.75, 24), (0.99, 31), (4.0, 128), (8, 8), (20, 20), (32, 32)]
)
def test_resolution_multiplies_the_datas_size_or_gives_pixels(resolution: float, side: int) -> None:
    assert first_side(of("senet", resolution=resolution)) == side
    assert first_side(of("resnet9", resolution=resolution)) == side


def test_a_multiplier_keeps_the_shape_of_images_that_are_not_square() -> None:
    network = make_blueprint({"network": "senet", "resolution": 0.5}, (3, 48, 32), 10)
    assert network.shapes()[1][1:] == (24, 16)


def test_the_datas_own_size_is_not_resized() -> None:
    assert of("senet", resolution=1.0) == of("senet", resolution=32)
    assert all(n.operation != "resize" for block in of("senet").blocks for n in block.nodes)


def test_senet_widths_that_round_to_the_same_channels_are_one_network() -> None:
    assert of("senet", width=0.9999).digest() == of("senet").digest()
    assert of("senet", width=0.99).digest() != of("senet").digest()


@pytest.mark.parametrize(("depth", "count"), [(0.5, 1), (1.0, 2), (1.5, 3), (1.3, 3)])
def test_senet_depth_counts_blocks_per_stage(depth: float, count: int) -> None:
    assert sum(b.name == "pre_activation" for b in of("senet", depth=depth).blocks) == 4 * count


def test_senet_squeezes_to_one_unit_at_least() -> None:
    narrow = of("senet", width=0.05)  # 3 channels in the first stage
    assert narrow.shapes()[1][0] == 3
    squeezes = [n.get("channels") for n in narrow.blocks[1].nodes if n.operation == "conv" and n.get("bias")]
    assert squeezes == [1, 3]


def test_resnet9_depths_count_residual_blocks_after_the_first_and_third_stage() -> None:
    names = [b.name for b in of("resnet9", depth1=2, depth3=1).blocks]
    assert names == ["stem", "pooled", "residual", "residual", "pooled", "pooled", "residual", "head"]


def test_resnet9_stages_have_two_four_and_eight_times_the_stems_channels() -> None:
    shapes = of("resnet9", width=12, depth1=0, depth3=0).shapes()
    assert shapes == (CIFAR, (12, 32, 32), (24, 16, 16), (48, 8, 8), (96, 4, 4), (10,))


def test_resnet9_stems_are_a_trained_convolution_or_a_fixed_filter_and_a_mixture() -> None:
    def stem(whitening: bool) -> list[tuple[str, int]]:
        return [(n.operation, n.get("kernel")) for n in of("resnet9", whitening=whitening).blocks[0].nodes][:2]

    assert stem(False) == [("conv", 3), ("batch_norm", None)]
    assert stem(True) == [("whiten", 3), ("conv", 1)]


@pytest.mark.parametrize("activation", ["relu", "celu", "gelu", "silu"])
def test_resnet9_uses_the_activation_everywhere(activation: str) -> None:
    operations = {n.operation for b in of("resnet9", activation=activation).blocks for n in b.nodes}
    assert operations & {"relu", "celu", "gelu", "silu"} == {activation}


def test_resnet9_leaves_pooling_out_where_one_pixel_is_left() -> None:
    tiny = make_blueprint({"network": "resnet9", "width": 4}, (1, 4, 4), 10)
    assert sum(n.operation == "max_pool" for b in tiny.blocks for n in b.nodes) == 2
    assert tiny.shapes()[-2][1:] == (1, 1)


@pytest.mark.parametrize("name", ["resnet9", "senet"])
def test_macs_grow_with_the_square_of_the_width(name: str) -> None:
    narrow, wide = ({"resnet9": (16, 32), "senet": (0.25, 0.5)})[name]
    ratio = blueprint_cost(of(name, width=wide))["macs"] / blueprint_cost(of(name, width=narrow))["macs"]
    assert math.log2(ratio) == pytest.approx(2, abs=0.1)


# ---------------------------------------------------------------------------------------------------- what is refused


def test_an_unknown_network_is_refused_with_the_nearest() -> None:
    with pytest.raises(BlueprintError, match="no network is called 'resnet99': did you mean 'resnet9'"):
        of("resnet99")


def test_an_unknown_network_far_from_all_is_refused_with_the_list() -> None:
    with pytest.raises(BlueprintError, match=r"choose from .*resnet9"):
        of("zzz")


def test_an_unknown_knob_is_refused_with_the_nearest() -> None:
    with pytest.raises(BlueprintError, match="the network 'senet' has no knob 'widht': did you mean 'width'"):
        of("senet", widht=1.0)


def test_an_unknown_activation_is_refused_with_the_nearest() -> None:
    with pytest.raises(BlueprintError, match="no activation is called 'reul': did you mean 'relu'"):
        of("resnet9", activation="reul")


def test_an_architecture_names_its_network() -> None:
    with pytest.raises(BlueprintError, match="needs a network, got none"):
        make_blueprint({"width": 8}, CIFAR, 10)


@pytest.mark.parametrize(
    ("network", "knobs", "rule"),
    [
        ("resnet9", {"width": 0}, "width must be above 0, got 0"),
        ("resnet9", {"depth1": -1}, "depth1 must be 0 or more, got -1"),
        ("senet", {"width": -0.5}, "width must be above 0, got -0.5"),
        ("senet", {"width": 0.005}, "width must leave a channel in every stage"),
        ("senet", {"depth": 0.2}, "depth must leave a block in every stage"),
        ("senet", {"resolution": 0}, "resolution must be a multiplier"),
        ("senet", {"resolution": 5}, "resolution must be a multiplier"),
        ("senet", {"resolution": 0.01}, "leaves no pixel"),
    ],
)
def test_knobs_out_of_range_are_refused(network: str, knobs: dict[str, float], rule: str) -> None:
    with pytest.raises(BlueprintError, match=rule):
        of(network, **knobs)


@pytest.mark.parametrize(
    ("network", "knobs"),
    [
        ("resnet9", {"width": 12.5}),
        ("resnet9", {"width": "wide"}),
        ("resnet9", {"depth1": 1.5}),
        ("resnet9", {"whitening": "no"}),
        ("senet", {"width": "wide"}),
        ("senet", {"depth": math.inf}),
        ("senet", {"width": math.nan}),
        ("senet", {"resolution": math.nan}),
        ("senet", {"resolution": math.inf}),
    ],
)
def test_knobs_of_another_kind_are_refused(network: str, knobs: dict[str, object]) -> None:
    with pytest.raises(BlueprintError):
        of(network, **knobs)


def test_a_whole_number_written_with_a_point_is_the_same_network() -> None:
    assert of("resnet9", width=24.0, depth1=2.0).to_json() == of("resnet9", width=24, depth1=2).to_json()
    assert repr(of("resnet9", width=40.0)) == repr(of("resnet9", width=40))


@pytest.mark.parametrize(("shape", "classes"), [((3, 32), 10), ((3, 0, 32), 10), (CIFAR, 1)])
def test_a_network_needs_an_image_and_two_classes(shape: tuple[int, ...], classes: int) -> None:
    with pytest.raises(BlueprintError, match="needs an input shape"):
        make_blueprint({"network": "senet"}, shape, classes)


def test_a_family_of_ones_own_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(shape: tuple[int, ...], classes: int, /, *, width: float = 0.1) -> Blueprint:
        return make_blueprint({"network": "senet", "width": width}, shape, classes)

    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    families.register("mine", mine)
    assert families.find_family("mine").knobs == {"width": 0.1}
    assert of("mine", width=0.2) == of("senet", width=0.2)
    with pytest.raises(BlueprintError, match="a network called 'mine' is registered already"):
        families.register("mine", mine)
