"""Features in which measured metrics are linear: sums over a network's blocks and, for training, their products with recipe terms."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from jointnas.network.blueprint import Block, Blueprint, block_shapes
from jointnas.network.cost import BYTES_PER_VALUE, node_cost
from jointnas.network.operations import OPERATIONS
from jointnas.network.operations.operation import Shape, Work
from jointnas.training.recipe_columns import Columns, column, quantises

Array = NDArray[np.float64]

PHASES = 3  # of a training with progressive resizing, each measured at its own image size

_PLACE = {work: i for i, work in enumerate(Work)}

CALLS = tuple(f"{kind}_calls" for kind in Work)
WORK = (*(f"{kind}_work" for kind in Work), "convolved_values")
FEATURES = (*CALLS, *WORK, "weight_bytes")
"""The features of a network for one image: the calls of each kind of work; its amount, which is the MACs of convolutions and
linear layers, the values that pools read, and the values that others write; the values that convolutions write; weight bytes."""


@lru_cache(maxsize=200_000)
def block_features(block: Block, input_shapes: tuple[Shape, ...]) -> tuple[float, ...]:
    """Return `FEATURES` of a block that reads values of these shapes."""
    shapes = block_shapes(block, input_shapes)
    calls, work = [0.0] * len(Work), [0.0] * len(Work)
    convolved = stored = 0
    for node, output in zip(block.nodes, shapes[len(input_shapes) :], strict=True):
        source, kind = shapes[node.inputs[0]], OPERATIONS[node.operation].work_of(node)
        cost = node_cost(node, source, output)
        calls[_PLACE[kind]] += 1
        work[_PLACE[kind]] += cost.macs or prod(source if kind is Work.POOL else output)
        convolved += cost.activations
        stored += (cost.trained + cost.fixed) * BYTES_PER_VALUE
    return (*calls, *work, convolved, stored)


def blueprint_features(blueprint: Blueprint) -> tuple[float, ...]:
    """Return `FEATURES` of a network. They add up: those of a network are the sum of its parts'."""
    shapes = blueprint.shapes()
    blocks = zip(blueprint.blocks, blueprint.wiring, strict=True)
    rows = [block_features(block, tuple(shapes[i] for i in inputs)) for block, inputs in blocks]
    return tuple(map(sum, zip(*rows, strict=True))) if rows else (0.0,) * len(FEATURES)


# ------------------------------------------------------------------------------------------------------- training

STATES: Mapping[str, int] = {
    "sgd": 1, "adam": 2, "adamw": 2, "adamax": 2, "adadelta": 2, "adagrad": 1, "asgd": 1, "rmsprop": 1, "muon": 1,
}  # fmt: skip
"""Numbers that each optimizer stores per weight; SGD without momentum stores none."""

POLICY_OPERATIONS: Mapping[str, int] = {"none": 0, "trivialaugment": 1}
"""Operations that a policy applies to an image: two by default, as in AutoAugment; RandAugment has a knob for it."""


def step_features(metric: str, networks: Array, recipes: Columns) -> Array:
    """Return the (n, g) features of a training step, in which its seconds or, for `train_memory`, its bytes are linear.

    networks: (n, `FEATURES`). Of seconds: calls and reads of the weights by the passes that the gradient takes; work by the
    images that go through them, at their mean area where they grow; weights by what the optimizer, averages and quantiser keep of
    each; the policy's operations; the images. Of bytes: values by the images of a pass, and copies of the weights.
    """
    n = len(networks)
    calls, work, weights = np.split(networks, [len(CALLS), len(FEATURES) - 1], axis=1)
    batch = column(recipes, "batch_size", n).astype(np.float64)
    gradient, optimizer = column(recipes, "gradient", n), column(recipes, "optimizer", n)
    sam, two_tasks = gradient == "sam", gradient == "mltp"
    states = np.array([STATES[name] for name in optimizer.tolist()], dtype=np.float64)
    states[(optimizer == "sgd") & (column(recipes, "momentum", n) == 0)] = 0
    averages = (column(recipes, "ema", n) > 0).astype(np.float64) + (column(recipes, "lookahead", n) > 0)
    quantised = quantises(recipes, n)
    if metric == "train_memory":
        at_once = np.where(two_tasks, batch / 2, batch)
        copies = (
            2 + states + averages + 2 * (sam | two_tasks) + 2 * quantised
        )  # the weights, their gradients, and both again when moved
        return np.column_stack([work * at_once[:, None], weights * copies[:, None], batch])
    again = np.where(sam, 1 / column(recipes, "sam_every", n).astype(np.float64), 0)
    passes = (1 + again + two_tasks)[:, None]
    images = (batch * (1 + again) * _area(recipes, n))[:, None]
    columns = [
        calls * passes,
        work * images,
        weights * passes,
        weights * (1 + states + averages + 2 * quantised)[:, None],
        weights * (optimizer == "muon")[:, None],
        batch * _policy_operations(recipes, n),
        batch,
    ]
    return np.column_stack(columns)


def _policy_operations(recipes: Columns, n: int) -> Array:
    policy, chosen = column(recipes, "policy", n), column(recipes, "policy_operations", n)
    fixed = np.array([POLICY_OPERATIONS.get(name, 2) for name in policy.tolist()], dtype=np.float64)
    return np.where(policy == "randaugment", chosen, fixed).astype(np.float64)


def _area(recipes: Columns, n: int) -> Array:
    """Return the (n,) mean areas of training images over the budget, as shares of the full one."""
    start, until = (
        column(recipes, name, n).astype(np.float64)[:, None] for name in ("start_resolution", "resize_until")
    )
    fractions = (np.arange(PHASES) + 0.5) / PHASES  # (phases,), where images are measured
    side = np.minimum(1, start + (1 - start) * fractions / until)
    return np.asarray(np.mean(side**2, axis=1))
