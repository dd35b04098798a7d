"""The confusion matrix: its shares by hand, and those of scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from jointnas.training.confusion import Confusion


@pytest.fixture
def drawn() -> tuple[Confusion, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (200,), generator=rng)
    logits = torch.randn(200, 5, generator=rng) + 2 * torch.nn.functional.one_hot(labels, 5)  # no image is of class 4
    return Confusion.of(logits, labels, "abcde"), labels, logits.argmax(1)


def test_it_agrees_with_scikit_learn(drawn: tuple[Confusion, torch.Tensor, torch.Tensor]) -> None:
    found, labels, given = drawn
    np.testing.assert_array_equal(found.array, confusion_matrix(labels, given, labels=range(5)))
    assert found.accuracy == pytest.approx(accuracy_score(labels, given))
    with pytest.warns(UserWarning, match="not in y_true"):
        assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, given))
    assert found.macro_f1 == pytest.approx(f1_score(labels, given, average="macro"))


def test_each_class_says_what_it_is_taken_for() -> None:
    found = Confusion.from_json([[3, 1, 0], [0, 4, 0], [2, 1, 1]], ("cat", "dog", "owl"))
    cat, dog, owl = found.rows()
    assert (cat["recall"], cat["precision"], cat["taken_for"]) == (0.75, 0.6, "dog")
    assert (dog["recall"], dog["taken_for"]) == (1.0, None)
    assert (owl["images"], owl["given"], owl["taken_for"]) == (4, 1, "cat")


def test_matrices_add_up(drawn: tuple[Confusion, torch.Tensor, torch.Tensor]) -> None:
    found, _, _ = drawn
    np.testing.assert_array_equal((found + found).array, 2 * found.array)
    assert (found + found).accuracy == found.accuracy
