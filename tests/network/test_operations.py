"""Every operation is declared in one place: what is declared equals what its layer does, for each by its name."""

import subprocess
import sys
from math import prod
from typing import Any

import pytest
import torch

from jointnas.errors import BlueprintError
from jointnas.measurement.features import FEATURES, blueprint_features
from jointnas.network.blueprint import BlockBuilder, Blueprint
from jointnas.network.cost import blueprint_cost
from jointnas.network.module import Network, build
from jointnas.network.operations import OPERATIONS
from jointnas.network.operations.operation import FLAG, NATURAL, POSITIVE, REAL, WORD, AttributeType, Channels
from jointnas.network.operations.packing import PACKABLE

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGE = (4, 9, 7)
VALUES: dict[AttributeType, Any] = {POSITIVE: 3, NATURAL: 1, FLAG: True, REAL: 0.5}
SPECIAL: dict[str, dict[str, Any]] = {  # where those make no network of these images
    "conv": {"channels": 6, "groups": 2},
    "shuffle": {"groups": 2},
    "opaque": {"library": "torchvision", "name": "shufflenet_v2_x1_0"},
}


def attributes(operation: str) -> dict[str, Any]:
    """Return values for all attributes of an operation, optional ones too."""
    optional = {} if operation in PACKABLE else OPERATIONS[operation].optional  # those of few bits are in `test_cost`
    declared = {**OPERATIONS[operation].attributes, **optional}
    values = {name: VALUES[kind] for name, kind in declared.items() if kind is not WORD}
    return {**values, **SPECIAL.get(operation, {})}


def alone(operation: str) -> Blueprint:
    """Return a network of this operation, which reads the image as often as it must."""
    block = BlockBuilder("block")
    read = block.add("flatten", 0) if operation == "linear" else 0
    block.add(operation, *[read] * OPERATIONS[operation].inputs[0], **attributes(operation))
    return Blueprint.chain(IMAGE, [block.build()])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_layer_writes_the_declared_shape_and_stores_the_declared_numbers(operation: str) -> None:
    plan = alone(operation)
    network, costs = build(plan).eval(), blueprint_cost(plan)
    assert network(torch.randn(2, *IMAGE)).shape == (2, *plan.output_shape)
    assert costs["params"] == sum(p.numel() for p in network.parameters())
    stored = [t for t in network.state_dict().values() if t.is_floating_point()]
    assert costs["size"] == sum(t.nbytes for t in stored)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_has_one_kind_of_work_in_forecasts(operation: str) -> None:
    kinds = [name for name, value in zip(FEATURES, blueprint_features(alone(operation)), strict=True) if value]
    work = OPERATIONS[operation].work_of(alone(operation).blocks[0].nodes[-1])
    assert f"{work}_calls" in kinds
    assert f"{work}_work" in kinds


def written_channels(operation: str) -> torch.Tensor:
    """Return whether each channel that is written depends on each that is read, (written, 4): found by gradients."""
    network = build(alone(operation)).eval()
    image = torch.randn(1, *IMAGE, generator=torch.Generator().manual_seed(0)).abs().requires_grad_()
    output = network(image)
    rows = []
    for channel in range(output.shape[1]):
        (gradient,) = torch.autograd.grad(output[:, channel].sum(), image, retain_graph=True)
        rows.append(gradient[0].abs().sum((1, 2)) > 0)
    return torch.stack(rows)


@pytest.mark.parametrize("operation", [name for name, o in OPERATIONS.items() if o.channels is Channels.KEPT])
def test_an_operation_that_keeps_channels_reads_the_same_one(operation: str) -> None:
    assert torch.equal(written_channels(operation), torch.eye(IMAGE[0], dtype=torch.bool))


def test_channels_that_are_moved_are_declared_in_their_order() -> None:
    one = torch.eye(IMAGE[0], dtype=torch.bool)
    assert torch.equal(written_channels("concat"), torch.cat([one, one]))
    assert torch.equal(written_channels("flatten"), one.repeat_interleave(prod(IMAGE[1:]), 0))
    assert {name for name, o in OPERATIONS.items() if o.channels is Channels.CONCATENATED} == {"concat"}
    assert {name for name, o in OPERATIONS.items() if o.channels is Channels.FLATTENED} == {"flatten"}


@pytest.mark.parametrize("operation", [name for name, o in OPERATIONS.items() if o.width])
def test_an_operation_with_a_width_writes_as_many_channels_and_reads_all(operation: str) -> None:
    width = OPERATIONS[operation].width
    assert OPERATIONS[operation].channels is Channels.MIXED
    assert alone(operation).output_shape[0] == attributes(operation)[str(width)]


def activations() -> list[str]:
    """Return the operations of one input that may be applied to what they write, without weights."""
    plain = [name for name, o in OPERATIONS.items() if o.inputs == (1, 1) and not blueprint_cost(alone(name))["size"]]
    return [name for name in plain if alone(name).output_shape == IMAGE]


@pytest.mark.parametrize("operation", activations())
def test_idempotent_operations_are_declared(operation: str) -> None:
    network = Network(alone(operation)).eval()
    once = network(8 * torch.randn(2, *IMAGE, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(network(once), once) == OPERATIONS[operation].idempotent


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_attribute_of_the_wrong_type_is_refused(operation: str) -> None:
    for name in OPERATIONS[operation].attributes:
        with pytest.raises(BlueprintError, match=f"{name} of {operation} must be "):
            BlockBuilder("block").add(
                operation, *[0] * OPERATIONS[operation].inputs[0], **{**attributes(operation), name: None}
            )


def test_shapes_costs_and_features_need_no_torch() -> None:
    program = (
        "import sys; from jointnas.network.families import make_blueprint; from jointnas.network.cost import blueprint_cost;"
        "from jointnas.measurement.features import blueprint_features;"
        "b = make_blueprint({'network': 'fbnet'}, (3, 32, 32), 10); blueprint_cost(b), blueprint_features(b);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
