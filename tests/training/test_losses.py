"""Weights of classes: their closed forms, and a training on unequal classes that they change."""

import pytest
import torch
import torch.nn.functional as F

from jointnas.training.losses import class_weights, cross_entropy

LABELS = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_the_mean_weight_of_an_image_is_one(exponent: float) -> None:
    weights = class_weights(LABELS, 3, exponent)
    assert weights is not None
    assert float(weights[LABELS].mean()) == pytest.approx(1)
    assert float(weights[2] / weights[0]) == pytest.approx(6**exponent)


def test_with_the_exponent_one_all_classes_weigh_the_same() -> None:
    weights = class_weights(LABELS, 3, 1.0)
    assert weights is not None
    torch.testing.assert_close(weights * torch.bincount(LABELS), torch.full((3,), 100 / 3))


def test_without_an_exponent_images_count_alike() -> None:
    assert class_weights(LABELS, 3, 0.0) is None
    assert torch.isfinite(class_weights(LABELS, 5, 1.0)).all()  # type: ignore[arg-type]  # also without images of a class


def test_labels_and_probabilities_have_the_same_loss() -> None:
    logits, weights = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)), class_weights(LABELS, 3, 1.0)
    hard, soft = (cross_entropy(logits, t, 0.1, weights) for t in (LABELS, F.one_hot(LABELS, 3).float()))
    torch.testing.assert_close(hard, soft)
    by_hand = (F.cross_entropy(logits, LABELS, reduction="none") * weights[LABELS]).mean()  # type: ignore[index]
    torch.testing.assert_close(cross_entropy(logits, LABELS, 0.0, weights), by_hand)
