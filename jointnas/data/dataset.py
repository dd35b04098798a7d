"""A data set ready for training: three stratified splits, drawn by seed, and the statistics that normalise them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jointnas.data.image_folder import ImageTree
from jointnas.data.images import FITS
from jointnas.data.pack import Pack, cache_folder, open_pack
from jointnas.data.sources import find_source, takes_size
from jointnas.data.spec import DataSpec
from jointnas.errors import DataError

TEST_SHARE = 0.2  # split off where the source has no test images
VALIDATION_SHARE = 0.2  # of the remaining images, where it has no validation images
LARGEST_VALIDATION = 5000
TEST_SEED = 0  # all runs on a source share one test split, whatever their seed
COUNTED_IMAGES = 1024  # whose pixels are counted at once
SMALLEST_STD = 1e-3

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Some images and their classes: (n, H, W, C) uint8 and (n,) int64, on the CPU."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """A data set under training. The test split is read from the pack on demand."""

    train: Split
    val: Split
    classes: tuple[str, ...]
    fingerprint: str
    mean: tuple[float, ...]  # by channel, of training pixels in [0, 1]
    std: tuple[float, ...]
    notes: tuple[str, ...]
    fit: str  # see `DataSpec`
    _pack: Pack
    _test: Indices

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The images' shape as networks see it, (C, H, W)."""
        _, height, width, channels = self.train.images.shape
        return channels, height, width

    @property
    def test_images(self) -> int:
        """How many test images there are."""
        return len(self._test)

    def with_val_in_train(self, kept: int) -> Data:
        """Return these data with the validation images among the training images too; so many of them are kept for scoring.

        An accuracy on them then says nothing, but scoring them finds a network whose outputs are not finite.
        """
        images, labels = (
            torch.cat([getattr(s, name) for s in (self.train, self.val)]) for name in ("images", "labels")
        )
        return replace(self, train=Split(images, labels), val=Split(self.val.images[:kept], self.val.labels[:kept]))

    def test(self) -> Split:
        """Return the test split. Only what has a final network may call this: no choice may rest on it."""
        return _take(self._pack, self._test)


def load_data(
    spec: DataSpec, cache: Path | None = None, fingerprint: str | None = None, pack: Pack | None = None
) -> Data:
    """Return the data set of `spec`, decoding its source on first use; with `pack` from that one, and no file is read.

    Raises `DataError`, also when a fingerprint is given and the images are no longer those that had it.
    """
    for name in ("train_images", "val_images", "image_size"):
        value = getattr(spec, name)
        if value is not None and value < 1:
            raise DataError(f"--{name.replace('_', '-')} must be 1 or more, got {value}: raise it")
    if spec.fit not in FITS:
        raise DataError(f"--fit is {', '.join(FITS)}, got {spec.fit!r}: choose one of them")
    if pack is None:
        pack = open_pack(spec.source, spec.image_size, cache, spec.fit)
    else:
        pack.check()
    if len(pack.classes) < 2:
        raise DataError(
            f"a data set needs two classes or more, got {len(pack.classes)} in {spec.source!r}: add images of another"
        )
    notes: list[str] = []
    rest = _range(pack, "train")
    if "test" in pack.ranges:
        test = _range(pack, "test")
    else:
        test, rest = _draw(
            pack, rest, _share(len(rest), TEST_SHARE, len(pack.classes)), np.random.default_rng(TEST_SEED), "test"
        )
        notes.append(f"{spec.source} has no test images: {len(test)} of its images are held out as the test set")
    rng = np.random.default_rng([spec.seed, 1])
    if "val" in pack.ranges:
        rows = _range(pack, "val")
        val, _ = _draw(pack, rows, spec.val_images or len(rows), rng, "validation")
    else:
        wanted = spec.val_images or min(LARGEST_VALIDATION, _share(len(rest), VALIDATION_SHARE, len(pack.classes)))
        val, rest = _draw(pack, rest, wanted, rng, "validation")
    train, _ = _draw(pack, rest, spec.train_images or max(1, len(rest)), rng, "training")
    missing = sorted(set(range(len(pack.classes))) - set(pack.labels[train].tolist()))
    if missing:
        names = ", ".join(pack.classes[c] for c in missing)
        notes.append(
            f"no network can learn classes without training images, here {names}: add images, or remove these classes"
        )
    notes += [*_copies(pack, "validation", val, train), *_copies(pack, "test", test, np.concatenate([train, val]))]
    split = _take(pack, train)
    mean, std = channel_statistics(split.images)
    key = json.dumps([pack.fingerprint, train.tolist(), val.tolist()])
    current = hashlib.sha256(key.encode()).hexdigest()[:16]
    if fingerprint not in (None, current):
        raise DataError(
            f"a run keeps to the images it began with, got others in {spec.source!r}: restore them or start a new run"
        )
    return Data(
        train=split,
        val=_take(pack, val),
        classes=pack.classes,
        fingerprint=current,
        mean=mean,
        std=std,
        notes=tuple(notes),
        fit=spec.fit,
        _pack=pack,
        _test=test,
    )


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation, `SMALLEST_STD` at least, of each channel of (n, H, W, C) uint8 images in [0, 1].

    Pixels are counted by value, as floats would take many times the memory of the images.
    """
    channels, values = images.shape[3], np.arange(256) / 255
    counts = np.zeros((channels, 256))
    for part in torch.split(images, COUNTED_IMAGES):
        counts += [np.bincount(part[..., channel].numpy().ravel(), minlength=256) for channel in range(channels)]
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    deviation = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.tolist()), tuple(np.maximum(deviation, SMALLEST_STD).tolist())


def labelled_images(
    source: str, shape: tuple[int, ...], fit: str, split: str | None = None
) -> tuple[Split, str, tuple[str, ...]]:
    """Return all labelled images of a source, or of one split as the source divides them, the split's name, and the class names.

    shape: the network's input (C, H, W), to which image files are brought as `fit` says. split: "train", "val" or "test"; None for the test
    images where the source has some, else for all. Raises `DataError`.
    """
    found = find_source(source, None, cache_folder() / "downloads", fit)
    if isinstance(found, ImageTree):
        images, names, split = found.labelled(split, shape)
        classes = tuple(sorted(set(names)))
        labels = torch.tensor([classes.index(name) for name in names])
        return Split(torch.from_numpy(images), labels), split, classes
    side = shape[1] if shape[1] == shape[2] and takes_size(source) else None
    pack = open_pack(source, side, fit=fit)
    if split is None and "test" not in pack.ranges:
        return _take(pack, np.arange(len(pack.labels))), "all", pack.classes
    split = split or "test"
    if split not in pack.ranges:
        raise DataError(f"{source!r} has the splits {', '.join(pack.ranges)}, got --split {split}: choose one of them")
    return _take(pack, _range(pack, split)), split, pack.classes


def _copies(pack: Pack, name: str, rows: Indices, others: Indices) -> list[str]:
    """Return a sentence where images of a split are exact copies of others: their accuracy is then too high."""
    count = int(np.isin(pack.digests[rows], pack.digests[others]).sum())
    kept = f"{count} of {len(rows)} {name} images are exact copies of images in another split, which raises the accuracy: remove copies"
    return [kept] if count else []


def _range(pack: Pack, split: str) -> Indices:
    return np.arange(*pack.ranges[split], dtype=np.int64)


def _share(n: int, share: float, least: int) -> int:
    return max(least, round(n * share))


def _draw(pack: Pack, rows: Indices, n: int, rng: np.random.Generator, split: str) -> tuple[Indices, Indices]:
    """Return n of `rows` in shuffled order, stratified by class, and the remaining rows.

    scikit-learn's stratified splits refuse classes of one image and draw others than the runs so far.
    """
    if n > len(rows) or n < 1:
        raise DataError(f"only {len(rows)} images are left for {split}, {n} were requested: request fewer")
    present, counts = np.unique(pack.labels[rows], return_counts=True)
    if n < len(present):
        raise DataError(f"{split} needs an image of each of {len(present)} classes, {n} were requested: request more")
    shares = counts * (n / len(rows))
    quota = np.floor(shares).astype(np.int64)
    quota[np.argsort(quota - shares, kind="stable")[: n - quota.sum()]] += 1  # the largest remainders
    while not quota.all():  # a class of few images has one at the cost of the largest
        quota[quota.argmax()] -= 1
        quota[quota.argmin()] += 1
    chosen = [rng.permutation(rows[pack.labels[rows] == c])[:q] for c, q in zip(present, quota, strict=True)]
    taken = rng.permutation(np.concatenate(chosen))
    return taken, np.setdiff1d(rows, taken)


def _take(pack: Pack, rows: Indices) -> Split:
    order = np.argsort(rows)  # read the file sequentially, then restore the order
    images = np.empty((len(rows), *pack.images.shape[1:]), dtype=np.uint8)
    images[order] = pack.images[rows[order]]
    return Split(torch.from_numpy(images), torch.from_numpy(pack.labels[rows]))
