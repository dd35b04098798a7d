"""Ensembles of small networks as one batched computation: every layer carries a leading dimension of members.

An encoder reads the architecture; a proxy head gives its statistics from the embedding; an accuracy head reads
[embedding ‖ statistics ‖ recipe] (FBNetV3, §3.2). Each input of the accuracy head passes a learned gate under an L1 penalty, so
that the head learns which inputs matter. Members may weigh the examples differently: so the folds of a cross-validation are
members of the same computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ENCODER = (128, 64, 24)
HEAD = (128, 64)
PRETRAINING_EPOCHS = 20
PRETRAINING_BATCH = 128
PRETRAINING_RATE = 4e-3
FROZEN_STEPS, FROZEN_RATE = 150, 1e-2
JOINT_STEPS, JOINT_RATE = 150, 1.5e-3
FIT_BATCH = 32
WEIGHT_DECAY = 1.0
GATE_PENALTY = 1e-2

Features = tuple[Tensor, Tensor, Tensor]
"""(n, d_architecture), (n, proxies) and (n, d_recipe)."""


class _Linear(nn.Module):
    """One linear layer for each member: (m, n, in) to (m, n, out)."""

    def __init__(self, members: int, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = (6 / max(1, inputs)) ** 0.5  # He et al. 2015, uniform
        draw = torch.rand(members, inputs, outputs, generator=generator)
        self.weight = nn.Parameter((2 * draw - 1) * bound)
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


def _mlp(members: int, sizes: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [_Linear(members, inputs, outputs, generator), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class Ensemble(nn.Module):
    """Encoder, proxy head and accuracy head of m members."""

    def __init__(
        self, members: int, d_architecture: int, d_recipe: int, proxies: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.members = members
        self.encoder = _mlp(members, (d_architecture, *ENCODER), generator)
        self.proxy_head = _mlp(members, (ENCODER[-1], proxies), generator)
        inputs = ENCODER[-1] + proxies + d_recipe
        self.gates = nn.Parameter(torch.ones(members, 1, inputs))
        self.accuracy_head = _mlp(members, (inputs, *HEAD, 1), generator)

    def proxies(self, architecture: Tensor) -> Tensor:
        """Return (m, n, proxies) standardised statistics from (m, n, d_architecture)."""
        out: Tensor = self.proxy_head(F.silu(self.encoder(architecture)))
        return out

    def forward(self, architecture: Tensor, statistics: Tensor, recipe: Tensor) -> Tensor:
        """Return (m, n) standardised accuracies from features with the same leading (m, n)."""
        embedding = F.silu(self.encoder(architecture))
        out: Tensor = self.accuracy_head(self.gates * torch.cat([embedding, statistics, recipe], dim=2))
        return out.squeeze(2)

    @classmethod
    def for_features(cls, members: int, features: Features, generator: torch.Generator) -> Ensemble:
        """Return a fresh ensemble that reads features of these widths."""
        architecture, statistics, recipe = features
        return cls(members, architecture.shape[1], recipe.shape[1], statistics.shape[1], generator)

    @torch.no_grad()
    def scores(self, features: Features) -> Tensor:
        """Return (m, n) standardised accuracies, every member reading the same n rows."""
        out: Tensor = self(*[f.expand(self.members, -1, -1) for f in features])
        return out


def pretrain(members: int, features: Features, generator: torch.Generator) -> tuple[Ensemble, float]:
    """Return an ensemble whose encoders and proxy heads give the statistics, and its Huber loss on an eighth held out."""
    architecture, statistics, _ = features
    ensemble = Ensemble.for_features(members, features, generator)
    if statistics.shape[1] == 0:
        return ensemble, 0.0
    held_out, n = len(architecture) // 8, len(architecture)
    optimizer = torch.optim.Adam([*ensemble.encoder.parameters(), *ensemble.proxy_head.parameters()])
    steps = PRETRAINING_EPOCHS * ((n - held_out) // PRETRAINING_BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PRETRAINING_RATE, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(held_out, n, (PRETRAINING_BATCH,), generator=generator)
        batch = architecture[rows].expand(members, -1, -1)
        loss = F.huber_loss(ensemble.proxies(batch), statistics[rows].expand(members, -1, -1))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        seen = ensemble.proxies(architecture[:held_out].expand(members, -1, -1))
        return ensemble, float(F.huber_loss(seen, statistics[:held_out].expand(members, -1, -1)))


def fit_heads(
    pretrained: Ensemble, features: Features, targets: Tensor, weights: Tensor, generator: torch.Generator
) -> Ensemble:
    """Return an ensemble fitted to (n,) targets, each member weighing the examples by its row of (m, n) weights.

    First the accuracy heads alone, the pretrained encoders at rest, then both at a lower rate.
    """
    members, n = weights.shape
    ensemble = Ensemble.for_features(members, features, generator)
    for part in ("encoder", "proxy_head"):
        state = getattr(pretrained, part).state_dict()
        getattr(ensemble, part).load_state_dict({k: v[:members] for k, v in state.items()})
    wide = [f.expand(members, -1, -1) for f in features]
    head = list(ensemble.accuracy_head.parameters())
    for steps, rate, trained in (
        (FROZEN_STEPS, FROZEN_RATE, head),
        (JOINT_STEPS, JOINT_RATE, [*head, *ensemble.encoder.parameters()]),
    ):
        groups = [
            {"params": trained, "weight_decay": WEIGHT_DECAY},
            {"params": [ensemble.gates], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=rate)
        for _ in range(steps):
            rows = torch.randperm(n, generator=generator)[:FIT_BATCH]
            predicted = ensemble(*[w[:, rows] for w in wide])
            losses = F.huber_loss(predicted, targets[rows].expand(members, -1), reduction="none")
            loss = (losses * weights[:, rows]).sum() / len(rows) + GATE_PENALTY * ensemble.gates.abs().sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return ensemble
