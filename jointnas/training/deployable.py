"""A network as a module for deployment: uint8 images in, class probabilities out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jointnas.network.module import Network
from jointnas.training.batches import Normalise
from jointnas.training.scoring import logits_of


class DeployableMember(nn.Module):
    """One network with its normalisation and its views of an image."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: Network, mean: Sequence[float], std: Sequence[float], flip: bool) -> None:
        super().__init__()
        self.network, self.flip = network, flip
        normalise = Normalise(mean, std, torch.device("cpu"))
        self.register_buffer("scale", normalise.scale[:, None, None])  # (C, 1, 1)
        self.register_buffer("shift", normalise.shift[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (n, classes) probabilities of (n, C, H, W) float pixels from 0 to 255."""
        return logits_of(self.network, pixels * self.scale + self.shift, self.flip).softmax(dim=1)


class Deployable(nn.Module):
    """A trained model in evaluation mode: (n, C, H, W) uint8 images in, the (n, classes) mean of its members' probabilities out."""

    def __init__(self, members: list[DeployableMember]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Return the probabilities."""
        pixels = images.float()
        votes = [member(pixels) for member in self.members]
        return votes[0] if len(votes) == 1 else torch.stack(votes).mean(dim=0)
