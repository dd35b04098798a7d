"""A program that uses the public names as a user's does; `mypy --strict` checks it against the installed wheel."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

import jointnas
from jointnas import Predictor, Search, Space


def train_all(search: Search, steps: int) -> list[jointnas.Observation]:
    """Train the next candidates of a search and report their observations."""
    candidates = search.ask(2)
    observations = [jointnas.train(c, data="digits", train_steps=steps).observation for c in candidates]
    search.tell(candidates, observations)
    return observations


def classify(folder: Path, images: torch.Tensor) -> list[int]:
    """Return the class of each image by a network that was kept."""
    classes: list[int] = jointnas.load(folder)(images).argmax(dim=1).tolist()
    return classes


def main() -> None:
    """Search, predict and build."""
    space = Space.load("resnet9", input_shape=(1, 8, 8), classes=10)
    search = Search(space, constraints=["macs<1M"], seed=0)
    accuracies: list[float] = []
    for _ in range(2):
        accuracies += [o.accuracy for o in train_all(search, steps=5) if o.accuracy is not None]
    for candidate, mean, std in search.best(3, engine="evolution"):
        print(candidate["architecture"]["width"], round(mean, 3), round(std, 3), space.cost(candidate)["macs"])
    candidates = space.sample(4, seed=0)
    predictor = Predictor(space, seed=0)
    predictor.fit(candidates, np.array([0.5, 0.6, 0.7, 0.8]))
    means, stds = predictor.predict(candidates)
    print(f"{means.mean():.3f} ± {stds.mean():.3f}", f"{max(accuracies):.3f}")
    network = jointnas.build(candidates[0], input_shape=(1, 8, 8), classes=10)
    print(sum(p.numel() for p in network.parameters()))


if __name__ == "__main__":
    try:
        main()
    except jointnas.JointNASError as error:
        sys.exit(str(error))
