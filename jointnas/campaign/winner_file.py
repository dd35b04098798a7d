"""Winner folders: `winner.json` and the weights of its members, which `retrain` and `train --to` write and `load` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jointnas.campaign.candidate_file import read_table, write_text
from jointnas.campaign.folders import BEST, WINNER_FILE
from jointnas.data.images import CROP, FITS, STRETCH
from jointnas.errors import ExportError
from jointnas.network.blueprint import Blueprint
from jointnas.network.cost import blueprint_cost, scoring_cost
from jointnas.network.module import Network
from jointnas.network.weights_file import load_weights
from jointnas.space.knob_space import Candidate
from jointnas.space.toml import GROUPS
from jointnas.training.deployable import Deployable, DeployableMember
from jointnas.training.recipe import views_of

FORMAT = 1


@dataclass(frozen=True)
class Member:
    """One trained network: its blueprint, the file of its weights, and what its input is normalised by."""

    blueprint: Blueprint
    weights: str  # a safetensors file beside winner.json
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool  # whether it averages over an image and its mirror

    @property
    def views(self) -> int:
        """How many views of an image it scores."""
        return int(views_of(self.flip))

    @property
    def costs(self) -> dict[str, int]:
        """What it costs to classify an image, by all its views."""
        return scoring_cost(blueprint_cost(self.blueprint), self.views)


@dataclass(frozen=True)
class WinnerFile:
    """A folder with `winner.json`: the members to use, the candidate they came from, its results by seed.

    fit: how images of another shape were brought to that of the input (`data.images.decode`).
    """

    members: tuple[Member, ...]
    classes: tuple[str, ...]
    candidate: Candidate
    results: dict[str, Any]
    fit: str = CROP

    @property
    def costs(self) -> dict[str, int]:
        """The members' costs added up."""
        parts = [member.costs for member in self.members]
        return {metric: sum(part[metric] for part in parts) for metric in parts[0]}

    def write(self, folder: Path) -> None:
        """Write `winner.json` beside the weights. Raises `ExportError`."""
        data = {
            "format": FORMAT,
            "classes": list(self.classes),
            "fit": self.fit,
            "members": [
                {
                    "weights": m.weights,
                    "mean": m.mean,
                    "std": m.std,
                    "flip": m.flip,
                    "blueprint": m.blueprint.to_json(),
                }
                for m in self.members
            ],
            "candidate": self.candidate,
            "results": self.results,
        }
        write_text(folder / WINNER_FILE, json.dumps(data, indent=1))

    @classmethod
    def read(cls, folder: Path) -> WinnerFile:
        """Return what `write` wrote; the weights stay on the disk. Raises `ExportError` or `BlueprintError`."""
        path = folder / WINNER_FILE
        if not path.is_file():
            inner = sorted(p.parent.name for p in folder.glob(f"*/{WINNER_FILE}"))
            remedy = f"did you mean {str(folder / inner[0])!r}?" if inner else "retrain a winner first"
            raise ExportError(f"a trained winner is a folder with {WINNER_FILE}, got {str(folder)!r}: {remedy}")
        data = read_table(path)
        try:
            if data["format"] != FORMAT:
                raise ExportError(
                    f"the winner in {str(folder)!r} has format {data['format']!r}, but this version reads {FORMAT}: upgrade jointnas"
                )
            members = tuple(
                Member(
                    Blueprint.from_json(m["blueprint"]),
                    Path(str(m["weights"])).name,  # never a path out of the folder
                    tuple(float(x) for x in m["mean"]),
                    tuple(float(x) for x in m["std"]),
                    bool(m.get("flip", False)),  # absent in the first winners
                )
                for m in data["members"]
            )
            if not members:
                raise ExportError(f"the winner in {str(folder)!r} has no member: retrain it")
            if not isinstance(data["results"], dict) or not all(isinstance(data["candidate"][g], dict) for g in GROUPS):
                raise TypeError("candidate and results are tables")
            fit = data.get("fit", STRETCH)  # absent in earlier winners
            if fit not in FITS:
                raise ValueError(f"fit {fit!r}")
            return cls(members, tuple(str(c) for c in data["classes"]), data["candidate"], data["results"], fit)
        except (KeyError, TypeError, ValueError) as error:
            raise ExportError(f"{WINNER_FILE} in {str(folder)!r} is damaged ({error!r}): retrain the winner") from error


class Model(nn.Module):
    """One or more trained networks with their normalisation: uint8 images in, class probabilities out."""

    def __init__(
        self, networks: Sequence[Network], members: Sequence[Member], classes: Sequence[str], fit: str = CROP
    ) -> None:
        super().__init__()
        self.classes, self.fit = tuple(classes), fit
        self.input_shape = members[0].blueprint.input_shape
        own = [DeployableMember(n, m.mean, m.std, m.flip) for n, m in zip(networks, members, strict=True)]
        self.deployable = Deployable(own)

    @property
    def networks(self) -> list[Network]:
        """The members' networks, without their normalisation."""
        return [module for module in self.deployable.modules() if isinstance(module, Network)]

    def forward(self, images: Tensor) -> Tensor:
        """Return (n, classes) probabilities, the members' mean, of (n, C, H, W) uint8 images."""
        if images.ndim != 4 or tuple(images.shape[1:]) != self.input_shape or images.dtype != torch.uint8:
            shape = "×".join(map(str, self.input_shape))
            raise ExportError(
                f"images must be uint8 of shape (n, {shape}), got {images.dtype} of {tuple(images.shape)}: convert them"
            )
        probabilities: Tensor = self.deployable(images)
        return probabilities


def load(folder: Path | str) -> Model:
    """Return the trained model in a winner's folder, or the best one of a run, in evaluation mode.

    Raises `ExportError`; executes nothing.
    """
    folder = Path(folder)
    if (folder / BEST / WINNER_FILE).is_file():
        folder = folder / BEST
    winner = WinnerFile.read(folder)
    networks = [load_weights(Network(member.blueprint), folder / member.weights) for member in winner.members]
    return Model(networks, winner.members, winner.classes, winner.fit).eval()
