"""The smoothed accuracy: its level, and that it says more of a network than the accuracy on as many images."""

import numpy as np
import pytest
import torch
from torch import Tensor

from jointnas.training.scoring import SHARPENING, accuracy, smoothed_accuracy


def random_logits(n: int, classes: int, skill: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return logits of a network that is calibrated, and labels that follow its probabilities; a larger skill is more often right."""
    generator = torch.Generator().manual_seed(seed)
    logits = skill * torch.randn(n, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


def read(logits: Tensor, labels: Tensor) -> float:
    found = smoothed_accuracy(logits, labels)
    assert found is not None
    return found


def test_it_is_the_mean_sharpened_probability_of_the_true_class_of_a_calibrated_network() -> None:
    logits, labels = random_logits(2000, 5, 2.0, 0)
    own = (SHARPENING * logits).softmax(1)[torch.arange(2000), labels].mean()
    assert read(logits, labels) == pytest.approx(float(own), abs=0.005)


@pytest.mark.parametrize("factor", [0.25, 1.7, 3.0])
def test_a_network_that_is_too_sure_or_too_unsure_is_calibrated(factor: float) -> None:
    logits, labels = random_logits(1500, 5, 2.0, 1)
    assert read(factor * logits, labels) == pytest.approx(read(logits, labels), abs=0.005)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_it_grows_from_chance_with_the_accuracy(classes: int) -> None:
    skills = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0]
    found = [read(*random_logits(2000, classes, skill, i)) for i, skill in enumerate(skills)]
    right = [accuracy(*random_logits(2000, classes, skill, i)) for i, skill in enumerate(skills)]
    assert found[0] == pytest.approx(1 / classes, abs=0.01)
    assert found == sorted(found)
    np.testing.assert_allclose(found, right, atol=0.12)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_network_without_errors_is_not_certain(scale: float) -> None:
    """A hundred images that are right by a margin of 2: without errors, the best temperature would be 0."""
    logits = scale * torch.tensor([2.0, 0.0]).expand(100, 2)
    assert 0.98 < read(logits, torch.zeros(100, dtype=torch.long)) < 0.9999


def test_logits_that_are_not_finite_have_none() -> None:
    assert smoothed_accuracy(torch.tensor([[0.0, float("inf")]]), torch.tensor([0])) is None


def test_it_ranks_networks_better_than_the_accuracy_on_as_many_images() -> None:
    skills = np.linspace(1.6, 1.9, 40)
    found: dict[str, list[float]] = {"accuracy": [], "smoothed": []}
    for seed in range(10):
        networks = [random_logits(500, 10, skill, 100 * seed + i) for i, skill in enumerate(skills)]
        found["accuracy"].append(np.corrcoef(skills, [accuracy(*own) for own in networks])[0, 1])
        found["smoothed"].append(np.corrcoef(skills, [read(*own) for own in networks])[0, 1])
    assert np.mean(found["smoothed"]) > np.mean(found["accuracy"]) + 0.03
