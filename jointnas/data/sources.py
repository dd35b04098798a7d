"""Data sources by name: data sets that come with jointnas, torchvision or an installed package, and files and folders."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jointnas.data.contract import SPLITS, Contents, Images, Labels, Source, array_contents, file_key
from jointnas.data.image_folder import ImageFolder, ImageZip
from jointnas.data.image_table import ImageTable
from jointnas.data.images import BROKEN, CROP
from jointnas.data.saved_dataset import SavedDataset, is_saved_dataset
from jointnas.errors import DataError, suggest
from jointnas.plugins import load_plugin, plugin_names

TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN", "fashionmnist": "FashionMNIST"}
BUILT_IN = ("digits", *TORCHVISION)
DATA_GROUP = "jointnas.data"


def source_names() -> list[str]:
    """Return the names of all named data sets: the built-in ones, then those of installed packages."""
    return [*BUILT_IN, *plugin_names(DATA_GROUP)]


def find_source(name: str, image_size: int | None, downloads: Path, fit: str = CROP) -> Source:
    """Return the source called `name`: a named data set, an image folder, a zip of one, a table of files (.csv), a folder that Hugging
    Face's `datasets` saved, or an .npz.

    An installed package names a data set by an entry point in the group `jointnas.data`: a function without arguments, or a class,
    that returns a `Source`. Raises `DataError`.
    """
    path = Path(name).expanduser()
    named = name in source_names()
    if image_size is not None and not takes_size(name):
        raise DataError(
            f"--image-size {image_size} applies to image files, but the images of {name!r} have one size: drop it"
        )
    if named:
        return _find_named(name, downloads)
    if path.is_dir():
        return SavedDataset(path, image_size, fit) if is_saved_dataset(path) else ImageFolder(path, image_size, fit)
    if path.is_file() and path.suffix.lower() == ".csv":
        return ImageTable(path, image_size, fit)
    if path.is_file() and zipfile.is_zipfile(path):
        return Npz(path) if path.suffix == ".npz" else ImageZip(path, image_size, fit)
    if path.exists():
        raise DataError(
            f"the file {name!r} is no zip of an image folder, no .csv and no .npz: convert it to one of them"
        )
    raise DataError(f"no data set, folder or file is called {name!r}: {suggest(name, source_names())}, or give a path")


def takes_size(name: str) -> bool:
    """Return whether a source is made of image files, which may be brought to one size."""
    return name not in source_names() and Path(name).suffix != ".npz"


def _find_named(name: str, downloads: Path) -> Source:
    if name == "digits":
        return Digits()
    if name in TORCHVISION:
        return Torchvision(name, downloads)
    make: Callable[[], object] = load_plugin(DATA_GROUP, name, BUILT_IN, DataError)
    source = make()
    if not isinstance(source, Source):
        raise DataError(
            f"the entry point {name!r} in {DATA_GROUP} returns a jointnas.data.Source, got {type(source).__name__}: update its package"
        )
    return source


class Digits(Source):
    """scikit-learn's handwritten digits: 1,797 grey images of 8×8 pixels, which scikit-learn contains."""

    def key(self) -> str:
        """Return its name."""
        return "digits"

    def open(self) -> AbstractContextManager[Contents]:
        """Return the images with their 16 grey levels scaled to 256."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        return array_contents([str(i) for i in range(10)], {"train": (images, digits.target)})


@dataclass(frozen=True)
class Torchvision(Source):
    """A data set that torchvision downloads."""

    name: str
    downloads: Path

    def key(self) -> str:
        """Return its name."""
        return self.name

    def open(self) -> AbstractContextManager[Contents]:
        """Download the data set unless it exists, and return its arrays. Raises `DataError` when the download fails."""
        from torchvision import datasets

        make = getattr(datasets, TORCHVISION[self.name])
        splits: dict[str, tuple[Images, Labels]] = {}
        classes: Sequence[str] = ()
        for split in ("train", "test"):
            which = {"split": split} if self.name == "svhn" else {"train": split == "train"}
            try:
                dataset = make(self.downloads, download=True, **which)
            except (OSError, RuntimeError) as error:
                raise DataError(
                    f"cannot download {self.name} ({error}): connect to the internet, or pass its images as a folder or zip"
                ) from error
            images = np.asarray(dataset.data)
            if self.name == "svhn":
                images = images.transpose(0, 2, 3, 1)
            labels = np.asarray(dataset.labels if self.name == "svhn" else dataset.targets)
            splits[split] = (np.ascontiguousarray(images[..., None] if images.ndim == 3 else images), labels)
            classes = getattr(dataset, "classes", None) or [str(i) for i in range(10)]
        return array_contents(classes, splits)


@dataclass(frozen=True)
class Npz(Source):
    """An .npz with `train_images, train_labels` (or `x_train, y_train`, or `images, labels`), val_ and test_ likewise."""

    path: Path

    def key(self) -> str:
        """Return the file's path, size and modification time."""
        return file_key(self.path)

    def open(self) -> AbstractContextManager[Contents]:
        """Load the arrays without unpickling anything. Raises `DataError`."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = {name.lower(): file[name] for name in file.files}
        except (*BROKEN, LookupError, TypeError, MemoryError) as error:
            raise DataError(
                f"{str(self.path)!r} is not an .npz of plain arrays ({error}): save it again with numpy.savez"
            ) from error
        splits: dict[str, tuple[Images, Labels]] = {}
        for split in SPLITS:
            pairs = [(f"{split}_images", f"{split}_labels"), (f"x_{split}", f"y_{split}")]
            if split == "train":
                pairs.append(("images", "labels"))
            for x, y in pairs:
                if x in arrays and y in arrays:
                    splits[split] = (self._images(x, arrays[x]), self._labels(y, arrays[y], len(arrays[x])))
                    break
        if "train" not in splits:
            raise DataError(
                f"{self.path.name} needs the arrays train_images and train_labels, got {', '.join(sorted(arrays))}: rename them"
            )
        shapes = {s: a[0].shape[1:] for s, a in splits.items()}
        if len(set(shapes.values())) > 1:
            raise DataError(
                f"the splits of {self.path.name} have images of different shapes, {shapes}: resize them to one shape"
            )
        classes = np.unique(splits["train"][1])
        for split, (images, labels) in splits.items():
            if not np.isin(labels, classes).all():
                raise DataError(
                    f"{split} of {self.path.name} has a class without training images: add some to train or remove the class"
                )
            splits[split] = (images, np.searchsorted(classes, labels))
        return array_contents([str(i) for i in classes], splits)

    def _images(self, name: str, x: NDArray[Any]) -> Images:
        if x.dtype != np.uint8:
            raise DataError(f"{name} must be uint8 from 0 to 255, got {x.dtype}: scale and cast it")
        if x.ndim == 3:
            x = x[..., None]
        if x.ndim == 4 and x.shape[3] not in (1, 3, 4) and x.shape[1] in (1, 3, 4):
            x = x.transpose(0, 2, 3, 1)
        if x.ndim != 4 or not 1 <= x.shape[3] <= 4:
            raise DataError(
                f"{name} must have the shape (n, H, W), (n, H, W, C) or (n, C, H, W), got {x.shape}: reshape it"
            )
        return np.ascontiguousarray(x)

    def _labels(self, name: str, y: NDArray[Any], count: int) -> Labels:
        y = y.reshape(-1) if y.ndim == 2 and y.shape[1] == 1 else y
        if y.ndim != 1 or y.dtype.kind not in "iu" or len(y) != count or (count and int(y.min()) < 0):
            raise DataError(
                f"{name} must be {count} whole numbers from 0 on, got {y.dtype} of shape {y.shape}: convert it"
            )
        return y.astype(np.int64)
