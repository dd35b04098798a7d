"""An ensemble of networks with FBNetV3's shape: an encoder of the architecture, and a head that reads its embedding and the recipe.

The encoder has a second head, for the costs of the network: it is pretrained on these, which are free. All members of the ensemble are
trained at once: parameters have an axis of members, and a layer is one batched product. The forward pass is the same for NumPy, which
predicts, and PyTorch, which is imported to train alone (Dai et al., CVPR 2021, §3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jointnas.cores import for_slices, one_blas_thread

CHUNK_ROWS = 1024  # whose hidden values stay in the processor's cache
HUBER = 1.0  # standard deviations from which on the loss is linear
Float32 = NDArray[np.float32]
Parameters = Mapping[str, Any]
"""Arrays or tensors by layer and kind; the first axis is the members'."""
Drop = Callable[[Any], Any]
"""Dropout of hidden values."""

ENCODER = ("encoder_in", "encoder_out")
PROXY = ("proxy",)
HEAD = ("joined", "head_embedding", "hidden", "out", "linear_architecture", "linear")


@dataclass(frozen=True)
class Shape:
    """The sizes of a network: inputs of the architecture, of the rest, and costs that the encoder predicts."""

    architecture: int
    rest: int
    costs: int
    members: int
    encoder: int = 64
    embedding: int = 24
    hidden: tuple[int, int] = (96, 48)

    def parameters(self, seed: int) -> dict[str, Float32]:
        """Return random parameters: He et al. (2015) before a ReLU, small ones before an output."""
        rng, (first, second) = np.random.default_rng(seed), self.hidden
        layers = {
            "encoder_in": (self.architecture, self.encoder, 2.0),
            "encoder_out": (self.encoder, self.embedding, 1.0),
            "proxy": (self.embedding, self.costs, 1.0),
            "joined": (self.rest, first, 1.0),
            "head_embedding": (self.embedding, first, 1.0),
            "hidden": (first, second, 2.0),
            "out": (second, 1, 0.1),
            "linear_architecture": (self.architecture, 1, 0.0),
            "linear": (self.rest, 1, 0.0),
        }
        parameters = {}
        for name, (read, written, gain) in layers.items():
            weights = rng.standard_normal((self.members, read, written)) * np.sqrt(gain / max(read, 1))
            parameters[f"{name}.weight"] = weights.astype(np.float32)
            if name in (*ENCODER, *PROXY, "joined", "hidden", "out"):
                parameters[f"{name}.bias"] = np.zeros((self.members, 1, written), dtype=np.float32)
        return parameters


def _same(values: Any) -> Any:
    return values


def embedding(p: Parameters, architecture: Any, drop: Drop = _same) -> Any:
    """Return the (m, n, e) embeddings of (n, a) or (m, n, a) inputs."""
    hidden = (architecture @ p["encoder_in.weight"] + p["encoder_in.bias"]).clip(min=0)
    return drop(hidden) @ p["encoder_out.weight"] + p["encoder_out.bias"]


def costs(p: Parameters, architecture: Any) -> Any:
    """Return the (m, n, c) costs that the encoder's own head predicts."""
    return embedding(p, architecture) @ p["proxy.weight"] + p["proxy.bias"]


def outputs(p: Parameters, architecture: Any, rest: Any, drop: Drop = _same) -> Any:
    """Return the (m, n) outputs for (n, a) and (n, r) inputs, or those of each member: (m, n, a) and (m, n, r)."""
    embedded = embedding(p, architecture, drop)
    joined = rest @ p["joined.weight"] + embedded @ p["head_embedding.weight"] + p["joined.bias"]
    hidden = (drop(joined.clip(min=0)) @ p["hidden.weight"] + p["hidden.bias"]).clip(min=0)
    straight = architecture @ p["linear_architecture.weight"] + rest @ p["linear.weight"]
    return (drop(hidden) @ p["out.weight"] + p["out.bias"] + straight)[..., 0]


def predict(p: Parameters, architecture: Float32, rest: Float32) -> Float32:
    """Return the (m, n) outputs of arrays, in pieces."""
    out = np.empty((len(p["out.bias"]), len(rest)), dtype=np.float32)

    def fill(part: slice) -> None:
        out[:, part] = outputs(p, architecture[part], rest[part])

    with one_blas_thread():
        for_slices(fill, len(rest), CHUNK_ROWS)
    return out


@dataclass(frozen=True)
class Plan:
    """How parameters are trained: AdamW, whose rate falls linearly to zero.

    updates: fewest; whole passes over the examples are made. anchored: whether weights decay to those that they start from, not to 0.
    """

    updates: int
    rate: float = 3e-3
    batch: int = 64
    weight_decay: float = 1.0
    dropout: float = 0.1
    anchored: bool = False


def train_costs(p: Parameters, architecture: Float32, true: Float32, plan: Plan, seed: int) -> dict[str, Float32]:
    """Return parameters whose encoder predicts (n, c) standardised costs from (n, a) architectures."""

    def loss(q: Parameters, x: Any, y: Any, drop: Drop) -> Any:
        return ((costs(q, x) - y) ** 2).mean(-1)

    weights = np.ones((len(p["out.bias"]), len(true)), dtype=np.float32)
    return _train(p, (*ENCODER, *PROXY), [architecture, true], weights, plan, seed, loss)


def train_outputs(
    p: Parameters,
    layers: Sequence[str],
    examples: tuple[Float32, Float32, Float32],
    weights: Float32,
    plan: Plan,
    seed: int,
) -> dict[str, Float32]:
    """Return parameters, of which those of these layers are trained by Huber's loss; the others stay as they are.

    examples: (n, a) and (n, r) inputs, (n,) targets. weights: (m, n) of the examples for each member; 0 holds one out.
    """
    from torch.nn.functional import huber_loss

    def loss(q: Parameters, x: Any, rest: Any, y: Any, drop: Drop) -> Any:
        return huber_loss(outputs(q, x, rest, drop), y, reduction="none", delta=HUBER)

    return _train(p, layers, examples, weights, plan, seed, loss)


def _train(
    p: Parameters,
    layers: Sequence[str],
    examples: Sequence[Float32],
    weights: Float32,
    plan: Plan,
    seed: int,
    loss: Callable[..., Any],
) -> dict[str, Float32]:
    """Return parameters after training these layers; each member sees the examples in an order of its own.

    weights: (m, n). loss: of parameters, a batch (m, b, …) of each of the examples, and a dropout; returns (m, b).
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    data, share = [torch.from_numpy(values) for values in examples], torch.from_numpy(weights)
    start = {name: torch.from_numpy(np.array(values)) for name, values in p.items()}
    moved = {name: _moving(values, plan) for name, values in start.items() if name.split(".")[0] in layers}
    optimizer = torch.optim.AdamW(list(moved.values()), lr=plan.rate, weight_decay=plan.weight_decay)

    def current() -> dict[str, Any]:
        return {**start, **{name: start[name] + v if plan.anchored else v for name, v in moved.items()}}

    def drop(values: Any) -> Any:
        kept = torch.rand(values.shape, generator=generator) >= plan.dropout
        return values * kept / (1 - plan.dropout)

    batches = -(-share.shape[1] // plan.batch)
    passes = -(-plan.updates // batches)
    for done in range(passes):
        orders = torch.rand(share.shape, generator=generator).argsort(dim=1)
        for i, rows in enumerate(orders.tensor_split(batches, dim=1)):
            optimizer.param_groups[0]["lr"] = plan.rate * (1 - (done * batches + i) / (passes * batches))
            optimizer.zero_grad(set_to_none=True)
            losses = loss(current(), *(values[rows] for values in data), drop)
            (losses * share.gather(1, rows)).mean(dim=1).sum().backward()
            optimizer.step()
    return {name: values.detach().numpy() for name, values in current().items()}


def _moving(start: Any, plan: Plan) -> Any:
    """Return what is trained of a tensor: its difference from the start where it is anchored."""
    import torch

    return (torch.zeros_like(start) if plan.anchored else start.clone()).requires_grad_()


def repeated(p: Parameters, members: int) -> dict[str, Float32]:
    """Return parameters of so many members: those of the given ones in turn."""
    turns = np.arange(members) % len(p["out.bias"])
    return {name: values[turns] for name, values in p.items()}


def shape_of(p: Parameters) -> Shape:
    """Return the shape of a network with these parameters."""
    members, architecture, encoder = p["encoder_in.weight"].shape
    rest, first = p["joined.weight"].shape[1:]
    size, n_costs = p["proxy.weight"].shape[1:]
    return Shape(architecture, rest, n_costs, members, encoder, size, (first, p["hidden.weight"].shape[2]))


def check_parameters(p: Parameters, shape: Shape) -> None:
    """Raise `ValueError` unless the parameters are those of a network of this shape."""
    expected = {name: values.shape for name, values in shape.parameters(0).items()}
    if {name: values.shape for name, values in p.items()} != expected:
        raise ValueError("the weights are not those of its network")
