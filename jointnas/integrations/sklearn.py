"""A classifier in scikit-learn's manner: `fit` searches network and recipe, `predict` uses the best network."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from jointnas.api import run_search
from jointnas.campaign.evaluate import probabilities_of
from jointnas.campaign.winner_file import Model, load

Array = NDArray[Any]
CACHE = "JOINTNAS_CACHE"


class JointNASClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Searches the network and the recipe that are most accurate within a training budget and cost bounds.

    constraints: such as ["macs<20M"]. train_time, rounds, batch, workers, seed: see `run_search`. options: its other options. Images are
    uint8 of shape (n, H, W) or (n, H, W, C), with C 1 to 4. `fit` starts worker processes: call it below
    `if __name__ == "__main__":` in a script.

    After `fit`: `classes_`, `model_` (a `Model`), `winner_` (the candidate), `results_` (what it reached), `n_trials_`.
    """

    def __init__(
        self,
        constraints: Sequence[str] = ("macs<20M",),
        train_time: str | float = "60s",
        rounds: int = 3,
        batch: int = 6,
        workers: int | None = None,
        seed: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.constraints = constraints
        self.train_time = train_time
        self.rounds = rounds
        self.batch = batch
        self.workers = workers
        self.seed = seed
        self.options = options

    def fit(self, X: Array, y: Array) -> JointNASClassifier:
        """Search on images and their labels, a fifth of which judge the trainings. Raises `ValueError` for what are no images."""
        images, labels = _images(X), np.asarray(y)
        if labels.ndim != 1 or len(labels) != len(images):
            raise ValueError(f"y holds one label for each image, got shape {labels.shape} for {len(images)} images")
        self.classes_, indices = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs two classes or more, got {len(self.classes_)}")
        folder, cache = Path(tempfile.mkdtemp(prefix="jointnas-")), os.environ.get(CACHE)
        os.environ[CACHE] = str(folder / "cache")  # the decoded images go with the folder
        try:
            # The source needs test images, which nothing here reads: the first image stands for them.
            first = [int(np.flatnonzero(indices == c)[0]) for c in range(len(self.classes_))]
            arrays = {
                "train_images": images,
                "train_labels": indices,
                "test_images": images[first],
                "test_labels": indices[first],
            }
            np.savez(folder / "images.npz", **arrays)  # type: ignore[arg-type]
            campaign = run_search(
                folder / "images.npz",
                list(self.constraints),
                self.train_time if "train_steps" not in (self.options or {}) else None,
                rounds=self.rounds,
                batch=self.batch,
                workers=self.workers,
                seed=self.seed,
                out=folder / "run",
                **(self.options or {}),
            )
            self.model_: Model = load(campaign.path)
            best = campaign.best
            self.winner_, self.n_trials_ = best.candidate, len(campaign.trials)
            self.results_ = {"expected_accuracy": best.mean, "std": best.std, **best.costs}
        finally:
            os.environ.pop(CACHE)
            if cache is not None:
                os.environ[CACHE] = cache
            shutil.rmtree(folder, ignore_errors=True)
        self.image_shape_ = images.shape[1:]
        return self

    def predict_proba(self, X: Array) -> Array:
        """Return the (n, classes) probabilities of images of the shape that it was fitted on."""
        check_is_fitted(self)
        images = _images(X)
        if images.shape[1:] != self.image_shape_:
            raise ValueError(
                f"images have the shape {self.image_shape_} of those it was fitted on, got {images.shape[1:]}"
            )
        return np.asarray(probabilities_of(self.model_, torch.from_numpy(images)).numpy())

    def predict(self, X: Array) -> Array:
        """Return the (n,) most probable classes."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])


def _images(X: Array) -> NDArray[np.uint8]:
    """Return images as (n, H, W, C) uint8. Raises `ValueError`."""
    images = np.asarray(X)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype != np.uint8 or not 1 <= images.shape[3] <= 4:
        raise ValueError(
            f"X holds uint8 images of shape (n, H, W) or (n, H, W, C), got {images.dtype} of shape {np.shape(X)}: reshape and scale it"
        )
    return np.ascontiguousarray(images)
