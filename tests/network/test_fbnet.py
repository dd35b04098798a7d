"""FBNetV3: the published model, the blocks that it is made of, and what is refused."""

from __future__ import annotations

import pytest

from jointnas.campaign.candidate_file import find_candidate
from jointnas.errors import BlueprintError
from jointnas.network.blueprint import Blueprint
from jointnas.network.cost import blueprint_cost
from jointnas.network.families import make_blueprint
from jointnas.space.space import Space

PUBLISHED = find_candidate("fbnetv3-a").candidate


def of(**knobs: object) -> Blueprint:
    return make_blueprint({"network": "fbnet", **knobs}, (3, 32, 32), 10)


def operations(network: Blueprint, block: int) -> list[str]:
    return [node.operation for node in network.blocks[block].nodes]


# -------------------------------------------------------------------------------------------------- the published model


def test_the_published_model_has_its_published_size() -> None:
    found = blueprint_cost(make_blueprint(PUBLISHED["architecture"], (3, 224, 224), 1000))
    assert round(found["params"] / 1e6, 1) == 8.6
    assert round(found["macs"] / 1e6, 1) == 355.5


def test_the_papers_count_is_that_of_widths_one_step_of_its_ranges_below_the_published_ones() -> None:
    """The paper says 343M MACs; the authors rounded the widths to multiples of eight before they published the model."""
    narrower = {**PUBLISHED["architecture"], "width4": 68, "width5": 116, "width6": 180, "width7": 220}
    assert blueprint_cost(make_blueprint(narrower, (3, 224, 224), 1000))["macs"] == pytest.approx(343e6, rel=0.005)


def test_the_published_model_lies_in_the_published_ranges() -> None:
    space = Space.load("fbnetv3-imagenet", input_shape=(3, 224, 224), classes=1000)
    candidate = space.sample(1)[0]
    for knob in space.knobs[: space.n_architecture]:
        knob.code(PUBLISHED["architecture"][knob.name])
    space.validate({**candidate, "architecture": PUBLISHED["architecture"]})


def test_images_shrink_as_published() -> None:
    network = make_blueprint(PUBLISHED["architecture"], (3, 224, 224), 1000)
    sides = [shape[1] for shape in network.shapes()[1:-1]]
    assert list(dict.fromkeys(sides)) == [112, 56, 28, 13, 6]


# ------------------------------------------------------------------------------------------------------ what knobs do


def test_small_images_are_halved_three_times() -> None:
    assert [shape[1] for shape in of().shapes()[1:-1]][-1] == 4


def test_a_stage_has_as_many_blocks_as_it_is_told() -> None:
    names = [block.name for block in of(blocks3=4, blocks5=1).blocks]
    assert names.count("stage3") == 4
    assert names.count("stage5") == 1


def test_an_expansion_of_one_leaves_the_first_convolution_out() -> None:
    assert operations(of(stem=16, width1=16), 1)[:2] == ["conv", "batch_norm"]
    assert of(stem=16, width1=16).blocks[1].nodes[0].get("groups") == 16
    assert of(stem=16, width1=16, expand1=2.0).blocks[1].nodes[0].get("groups") == 1


def test_squeezes_have_a_quarter_of_the_blocks_input_channels() -> None:
    network = of(width5=64, expand_rest5=3.0, blocks5=2, squeeze5=True)
    block = [b for b in network.blocks if b.name == "stage5"][1]
    widths = [n.get("channels") for n in block.nodes if n.operation == "conv"]
    assert widths == [192, 192, 16, 192, 64]


def test_a_block_adds_its_input_where_nothing_changes_size() -> None:
    network = of(blocks2=2)
    first, second = (b for b in network.blocks if b.name == "stage2")
    assert first.nodes[-1].operation == "batch_norm"
    assert second.nodes[-1].operation == "add"


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"width3": 0}, "width3 must be above 0, got 0"),
        ({"blocks2": 0}, "blocks2 must be above 0, got 0"),
        ({"kernel4": 4}, "kernel4 must be odd, got 4"),
        ({"kernel_rest4": 2}, "kernel_rest4 must be odd, got 2"),
        ({"stem": 0}, "stem must be above 0, got 0"),
        ({"head": 0}, "head must be above 0, got 0"),
        ({"activation": "tanh"}, "no activation is called 'tanh'"),
        ({"squeeze1": 1}, "squeeze1 must be true or false, got 1"),
    ],
)
def test_what_makes_no_network_is_refused(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(BlueprintError, match=message):
        of(**knobs)
