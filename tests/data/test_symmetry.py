"""Mirror symmetry: whether mirrored images still look like their classes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jointnas.data.dataset import Split, load_data
from jointnas.data.spec import DataSpec
from jointnas.data.symmetry import mirror_symmetry


def symmetry_of(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    np.savez(path / "images.npz", train_images=images, train_labels=labels)
    return mirror_symmetry(load_data(DataSpec(str(path / "images.npz")), path / "cache"))


def test_digits_lose_most_of_their_accuracy_in_the_mirror() -> None:
    assert 0.1 < mirror_symmetry(load_data(DataSpec("digits"))) < 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_classes_that_differ_from_top_to_bottom_keep_theirs(tmp_path: Path, channels: int) -> None:
    images, labels = np.zeros((400, 16, 16, channels), np.uint8), np.arange(400) % 2
    images[labels == 0, :8], images[labels == 1, 8:] = 200, 200
    assert symmetry_of(tmp_path, images, labels) == 1
    assert symmetry_of(tmp_path, images.transpose(0, 2, 1, 3), labels) < 0.1


def test_of_noise_nothing_is_claimed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
    assert symmetry_of(tmp_path, images, rng.integers(0, 4, 200)) > 0.5


def test_of_validation_images_of_one_class_nothing_is_claimed() -> None:
    data = load_data(DataSpec("digits"))
    own = data.val.labels == 0
    data = replace(data, val=Split(data.val.images[own], data.val.labels[own]))
    assert mirror_symmetry(data) == 1.0


def test_images_of_one_colour_have_a_symmetry(tmp_path: Path) -> None:
    assert symmetry_of(tmp_path, np.zeros((60, 4, 4, 1), np.uint8), np.arange(60) % 3) == 1
