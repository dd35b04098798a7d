"""Which classes a network takes for which: the confusion matrix, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix: counts[i][j] images of class i were given class j."""

    counts: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, classes: Sequence[str]) -> Confusion:
        """Return that of (n, classes) logits or probabilities and (n,) labels."""
        n = len(classes)
        cells = torch.bincount(labels * n + logits.argmax(1), minlength=n * n).reshape(n, n)
        return cls.from_json(cells.tolist(), classes)

    @classmethod
    def from_json(cls, counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Confusion:
        """Return the matrix of nested lists."""
        return cls(tuple(tuple(int(n) for n in row) for row in counts), tuple(classes))

    def __add__(self, other: Confusion) -> Confusion:
        """Return the counts of both together."""
        return Confusion.from_json((self.array + other.array).tolist(), self.classes)

    @property
    def array(self) -> Counts:
        """The (classes, classes) counts."""
        return np.array(self.counts, dtype=np.int64)

    @property
    def accuracy(self) -> float:
        """The share of images that got their class."""
        return float(np.trace(self.array) / max(1, self.array.sum()))

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have images."""
        return float(np.mean([row["recall"] for row in self.rows() if row["images"]]))

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that have images or were given to some, 0 where a class was never right."""
        return float(np.mean([row["f1"] for row in self.rows() if row["images"] or row["given"]]))

    def rows(self) -> list[dict[str, Any]]:
        """Return for each class: its name, images, how many were given it, recall, precision, F1, and the class it is most taken for.

        A share of nothing is 0; `taken_for` is None where every image got its class.
        """
        array = self.array
        rows = []
        for i, name in enumerate(self.classes):
            images, given, right = int(array[i].sum()), int(array[:, i].sum()), int(array[i, i])
            wrong = array[i].copy()
            wrong[i] = 0
            rows.append(
                {
                    "class": name,
                    "images": images,
                    "given": given,
                    "recall": right / max(1, images),
                    "precision": right / max(1, given),
                    "f1": 2 * right / max(1, images + given),
                    "taken_for": self.classes[int(wrong.argmax())] if wrong.any() else None,
                }
            )
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return the matrix with what follows from it."""
        return {
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "classes": self.rows(),
            "confusion": [list(row) for row in self.counts],
        }
