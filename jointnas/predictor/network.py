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

CHUNK_ROWS = 4096  # whose hidden values stay in the processor's cache
HUBER = 1.0  # standard deviations from which on the loss is linear
Float32 = NDArray[np.float32]
Parameters = Mapping[str, Any]
"""Arrays or tensors by layer and kind; the first axis is the members'."""

ENCODER = ("encoder_in", "encoder_out")
PROXY = ("proxy",)
HEAD = ("joined", "head_embedding", "hidden", "out", "linear_architecture", "linear")


@dataclass(frozen=True)
class Shape:
    """The sizes of a network: inputs of the architecture, of the rest, and costs that the encoder predicts."""

    architecture: int
    rest: int
    costs: int
    members: int = 8
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


def embedding(p: Parameters, architecture: Any, drop: Callable[[Any], Any] = _same) -> Any:
    """Return the (m, n, e) embeddings of (n, a) or (m, n, a) inputs."""
    hidden = (architecture @ p["encoder_in.weight"] + p["encoder_in.bias"]).clip(min=0)
    return drop(hidden) @ p["encoder_out.weight"] + p["encoder_out.bias"]


def costs(p: Parameters, architecture: Any) -> Any:
    """Return the (m, n, c) costs that the encoder's own head predicts."""
    return embedding(p, architecture) @ p["proxy.weight"] + p["proxy.bias"]


def outputs(p: Parameters, architecture: Any, rest: Any, drop: Callable[[Any], Any] = _same) -> Any:
    """Return the (m, n) outputs for (n, a) and (n, r) inputs, or those of each member: (m, n, a) and (m, n, r)."""
    embedded = embedding(p, architecture, drop)
    joined = rest @ p["joined.weight"] + embedded @ p["head_embedding.weight"] + p["joined.bias"]
    hidden = (drop(joined.clip(min=0)) @ p["hidden.weight"] + p["hidden.bias"]).clip(min=0)
    straight = architecture @ p["linear_architecture.weight"] + rest @ p["linear.weight"]
    return (drop(hidden) @ p["out.weight"] + p["out.bias"] + straight)[..., 0]


def predict(p: Parameters, architecture: Float32, rest: Float32) -> Float32:
    """Return the (m, n) outputs of arrays, in pieces."""
    members = len(p["out.bias"])
    out = np.empty((members, len(rest)), dtype=np.float32)
    for start in range(0, len(rest), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        out[:, part] = outputs(p, architecture[part], rest[part])
    return out


@dataclass(frozen=True)
class Plan:
    """How parameters are trained: AdamW whose rate falls linearly to zero."""

    passes: int
    rate: float = 3e-3
    batch: int = 64
    weight_decay: float = 0.1
    dropout: float = 0.1


def train_costs(p: Parameters, architecture: Float32, true: Float32, plan: Plan, seed: int) -> dict[str, Float32]:
    """Return parameters whose encoder predicts (n, c) standardised costs from (n, a) architectures."""
    layers = (*ENCODER, *PROXY)
    return _train(p, layers, [architecture, true], plan, seed, lambda q, x, y, drop: ((costs(q, x) - y) ** 2).mean(-1))


def train_outputs(
    p: Parameters,
    layers: Sequence[str],
    examples: tuple[Float32, Float32, Float32, Float32],
    plan: Plan,
    seed: int,
) -> dict[str, Float32]:
    """Return parameters, of which those of these layers are trained by Huber's loss; the others stay as they are.

    examples: (n, a) and (n, r) inputs, (n,) targets, (n,) weights.
    """
    from torch.nn.functional import huber_loss

    def loss(q: Parameters, x: Any, rest: Any, y: Any, w: Any, drop: Callable[[Any], Any]) -> Any:
        return w * huber_loss(outputs(q, x, rest, drop), y, reduction="none", delta=HUBER)

    return _train(p, layers, list(examples), plan, seed, loss)


def _train(
    p: Parameters,
    layers: Sequence[str],
    examples: Sequence[Float32],
    plan: Plan,
    seed: int,
    loss: Callable[..., Any],
) -> dict[str, Float32]:
    """Return parameters after training these layers; each member sees the examples in an order of its own.

    loss: of parameters, a batch (m, b, …) of each of the examples, and a dropout; returns (m, b).
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    members, n = len(p["out.bias"]), len(examples[0])
    data = [torch.from_numpy(values) for values in examples]
    fixed = {name: torch.from_numpy(np.array(values)) for name, values in p.items()}
    trained = {name: values.requires_grad_() for name, values in fixed.items() if name.split(".")[0] in layers}
    decayed, free = ([v for k, v in trained.items() if k.endswith(end)] for end in (".weight", ".bias"))
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": free, "weight_decay": 0.0}], lr=plan.rate
    )
    batches = -(-n // plan.batch)

    def drop(values: Any) -> Any:
        kept = torch.rand(values.shape, generator=generator) >= plan.dropout
        return values * kept / (1 - plan.dropout)

    for done in range(plan.passes):
        orders = torch.rand(members, n, generator=generator).argsort(dim=1)
        for i, rows in enumerate(orders.tensor_split(batches, dim=1)):
            for group in optimizer.param_groups:
                group["lr"] = plan.rate * (1 - (done * batches + i) / (plan.passes * batches))
            optimizer.zero_grad(set_to_none=True)
            loss(fixed, *(values[rows] for values in data), drop).mean(dim=1).sum().backward()
            optimizer.step()
    return {name: values.detach().numpy() for name, values in fixed.items()}
