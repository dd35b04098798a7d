"""The smoothed accuracy: its meaning, and that it says more of a network than the accuracy on as many images."""

import numpy as np
import pytest
import torch
from torch import Tensor

from jointnas.training.scoring import INVERSE_TEMPERATURES, accuracy, smoothed_accuracy


def random_logits(n: int, classes: int, skill: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return logits of a network that is calibrated, and labels that follow its probabilities; a larger skill is more often right."""
    generator = torch.Generator().manual_seed(seed)
    logits = skill * torch.randn(n, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


def test_a_calibrated_network_of_two_classes_has_its_mean_probability_of_the_true_class() -> None:
    logits, labels = random_logits(2000, 2, 2.0, 0)
    own = logits.softmax(1)[torch.arange(2000), labels].mean()
    assert smoothed_accuracy(logits, labels) == pytest.approx(float(own), abs=0.005)


@pytest.mark.parametrize("factor", [0.25, 1.7, 3.0])
def test_a_network_that_is_too_sure_or_too_unsure_is_calibrated(factor: float) -> None:
    logits, labels = random_logits(1500, 5, 2.0, 1)
    assert smoothed_accuracy(factor * logits, labels) == pytest.approx(smoothed_accuracy(logits, labels), abs=0.003)


def test_the_strongest_rival_counts_and_no_other_class() -> None:
    """All images alike are right with the highest inverse temperature: a margin of one logit counts as σ of it."""
    logits = torch.tensor([[3.0, 2.0, -50.0], [3.0, -50.0, 2.0]])
    labels = torch.tensor([0, 0])
    assert smoothed_accuracy(logits, labels) == pytest.approx(1 / (1 + np.exp(-INVERSE_TEMPERATURES[-1])))


def test_logits_that_are_not_finite_have_none() -> None:
    assert smoothed_accuracy(torch.tensor([[0.0, float("inf")]]), torch.tensor([0])) is None


def test_it_ranks_networks_better_than_the_accuracy_on_as_many_images() -> None:
    skills = np.linspace(1.6, 1.9, 40)
    found: dict[str, list[float]] = {"accuracy": [], "smoothed": []}
    for seed in range(10):
        read = [random_logits(500, 10, skill, 100 * seed + i) for i, skill in enumerate(skills)]
        found["accuracy"].append(np.corrcoef(skills, [accuracy(*own) for own in read])[0, 1])
        found["smoothed"].append(np.corrcoef(skills, [smoothed_accuracy(*own) or 0.0 for own in read])[0, 1])
    assert np.mean(found["smoothed"]) > np.mean(found["accuracy"]) + 0.03
