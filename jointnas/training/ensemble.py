"""Ensembles: several networks trained within one budget, whose probabilities are averaged.

Members of seeds are trained one after another, each from its own weights in its part of the budget. Members of snapshots are copies of
one network at the ends of the cycles of one training (Huang et al. 2017, "Snapshot Ensembles").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from jointnas.data.dataset import Data
from jointnas.errors import BudgetError, DivergenceError
from jointnas.network.blueprint import Blueprint
from jointnas.network.module import Network
from jointnas.training.clock import clock_from_json
from jointnas.training.confusion import Confusion
from jointnas.training.members import SEEDS, SNAPSHOTS, part_of
from jointnas.training.observation import Observation
from jointnas.training.recipe import Recipe
from jointnas.training.scoring import accuracy, ensemble_logits, log_loss, smoothed_accuracy
from jointnas.training.trainer import CURVE_IMAGES, Progress, Trainer, seeded

SEED_STRIDE = 10**10  # between the seeds of two members


class Ensemble(NamedTuple):
    """The outcome of an ensemble's training: the observation of its networks together, and those that pay."""

    observation: Observation
    networks: list[Network]


def train_ensemble(
    network: Blueprint,
    recipe: Recipe,
    data: Data,
    clock: Mapping[str, float],
    members: int,
    kind: str = SEEDS,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    keep_all: bool = False,
    curve_images: int = CURVE_IMAGES,
    progress: Progress | None = None,
) -> Ensemble:
    """Train an ensemble of one network and recipe within the budget of `clock`, and score it on the validation images.

    Members that do not pay on the validation images are left out, unless `keep_all`. curve_images: see `train_network`; members of seeds
    have no learning curve together. Snapshots restart the learning rate (`sgdr`, cycles of
    one length). Raises `BudgetError` for a budget that does not hold a step of each member, and what `train_network` raises.
    """
    device = torch.device(device)
    if kind == SNAPSHOTS:
        recipe = replace(recipe, schedule="sgdr", cycles=members, cycle_growth=1.0)
        trained = partial(_trained, network, recipe, data, clock, device, snapshots=members, curve_images=curve_images)
        observation, networks, logits = trained(seed, progress)
        observations = [observation]
    else:
        part = part_of(clock, members)
        observations, networks, logits = [], [], []
        for i in range(members):
            watch = _part_progress(progress, i, members)
            trained = partial(_trained, network, recipe, data, part, device, snapshots=1, curve_images=0)
            own = trained(seed + i * SEED_STRIDE, watch)
            observations.append(own[0])
            networks += own[1]
            logits += own[2]
    kept = list(range(len(networks))) if keep_all else helpful_members(logits, data.val.labels)
    voted = ensemble_logits([logits[i] for i in kept])
    by_class = Confusion.of(voted, data.val.labels, data.classes)
    together = replace(
        observations[0],
        accuracy=by_class.accuracy,
        balanced_accuracy=by_class.balanced_accuracy,
        macro_f1=by_class.macro_f1,
        log_loss=log_loss(voted, data.val.labels),
        smoothed_accuracy=smoothed_accuracy(voted, data.val.labels),
        seconds=sum(o.seconds or 0.0 for o in observations),
        steps=round(fmean(o.steps or 0 for o in observations)),
        images_per_second=fmean(o.images_per_second or 0.0 for o in observations),
        cpu_share=min((o.cpu_share for o in observations if o.cpu_share is not None), default=None),
    )
    return Ensemble(together, [networks[i] for i in kept])


def helpful_members(logits: Sequence[Tensor], labels: Tensor) -> list[int]:
    """Return the indices of the members that pay, by their (n, classes) logits: while leaving one out loses no accuracy, it is left out.

    The one whose absence gives the most accuracy goes first, by equal accuracy the one whose absence gives the least log-loss.
    """
    kept = list(range(len(logits)))

    def merit(members: Sequence[int]) -> tuple[float, float]:
        voted = ensemble_logits([logits[i] for i in members])
        loss = log_loss(voted, labels)
        return accuracy(voted, labels), -(float("inf") if loss is None else loss)

    while len(kept) > 1:
        without = max(([j for j in kept if j != i] for i in kept), key=merit)
        if merit(without)[0] < merit(kept)[0]:
            break
        kept = without
    return kept


def _trained(
    network: Blueprint,
    recipe: Recipe,
    data: Data,
    clock: Mapping[str, float],
    device: torch.device,
    seed: int,
    progress: Progress | None,
    *,
    snapshots: int,
    curve_images: int,
) -> tuple[Observation, list[Network], list[Tensor]]:
    """Return the observation of one training, its networks, and their logits of the validation images."""
    running = clock_from_json(dict(clock))
    running.start()
    with seeded(seed, device):
        trainer = Trainer(
            network,
            recipe,
            data,
            running,
            seed,
            device,
            curve_images=curve_images,
            progress=progress,
            snapshots=snapshots,
        )
        observation = trainer.run().observation
    if len(trainer.networks) < snapshots:
        raise BudgetError(f"{snapshots} snapshots need as many steps, got a budget of {running}: raise it")
    if not all(bool(torch.isfinite(own).all()) for own in trainer.val_logits):
        raise DivergenceError("the outputs of a member are not finite: lower the learning rate")
    return observation, [own.eval() for own in trainer.networks], trainer.val_logits


def _part_progress(progress: Progress | None, i: int, members: int) -> Progress | None:
    """Return a report of the progress of the whole ensemble, from that of member i."""
    if progress is None:
        return None
    return lambda fraction, seconds: progress((i + fraction) / members, seconds)
