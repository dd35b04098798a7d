"""The classifier: scikit-learn's own checks where they apply, and a search on digits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import train_test_split
from sklearn.utils import estimator_checks

from jointnas.integrations.sklearn import JointNASClassifier

CHECKS = (
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_mixin_order",
    "check_valid_tag_types",
)
"""Checks that need no data of two dimensions, which images are not."""


@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learns_checks(name: str) -> None:
    getattr(estimator_checks, name)("JointNASClassifier", JointNASClassifier())


@pytest.fixture(scope="module")
def fitted() -> tuple[JointNASClassifier, np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) * 15.9).astype(np.uint8)
    names = np.array([f"digit {label}" for label in labels])
    train, test, train_names, test_names = train_test_split(
        images, names, test_size=300, random_state=0, stratify=names
    )
    options = {"train_steps": 60, "confirm": 0, "portfolio": 1, "fix": {"batch_size": 64, "width": 8}}
    model = JointNASClassifier(["macs<1M"], rounds=1, batch=2, options=options)
    return model.fit(train, train_names), test, test_names


def test_it_predicts_the_labels_it_was_given(fitted: tuple[JointNASClassifier, np.ndarray, np.ndarray]) -> None:
    model, test, names = fitted
    probabilities = model.predict_proba(test)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert probabilities.shape == (300, 10)
    assert model.score(test, names) > 0.7
    assert set(model.predict(test)) <= set(names)
    assert model.results_["macs"] < 1e6


def test_what_are_no_images_is_refused(fitted: tuple[JointNASClassifier, np.ndarray, np.ndarray]) -> None:
    model, test, _ = fitted
    with pytest.raises(ValueError, match=r"uint8 images of shape .* got float64"):
        JointNASClassifier().fit(np.zeros((10, 8, 8)), np.arange(10))
    with pytest.raises(ValueError, match="one label for each image"):
        JointNASClassifier().fit(test, np.arange(3))
    with pytest.raises(ValueError, match="of those it was fitted on"):
        model.predict(np.zeros((2, 9, 9), dtype=np.uint8))
    with pytest.raises(NotFittedError):
        clone(model).predict(test)
