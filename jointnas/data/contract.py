"""The contract of a data source: images and labels by split, decoded into one uint8 array."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]  # (n, H, W, C)
Labels = NDArray[np.int64]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Contents:
    """Class names, labels by split (a source has train at least), the images' shape, and a function that writes the images."""

    classes: tuple[str, ...]
    labels: dict[str, Labels]
    shape: tuple[int, int, int]  # (H, W, C)
    write: Callable[[Images], None]  # fills an (n, H, W, C) array: train, then val, then test


class Source(ABC):
    """A data set that has not been decoded yet."""

    @abstractmethod
    def key(self) -> str:
        """Return a text that changes with the content; it is computed at every start, so it must be cheap."""

    @abstractmethod
    def open(self) -> AbstractContextManager[Contents]:
        """Return a context manager that yields the contents. Raises `DataError`."""


@contextmanager
def array_contents(classes: Sequence[str], splits: Mapping[str, tuple[Images, Labels]]) -> Iterator[Contents]:
    """Yield the contents of a data set that is in memory: (n, H, W, C) images and (n,) class indices of each split."""
    present = [split for split in SPLITS if split in splits]
    images = [splits[split][0] for split in present]

    def write(out: Images) -> None:
        np.concatenate(images, out=out)

    height, width, channels = images[0].shape[1:]
    labels = {split: splits[split][1].astype(np.int64) for split in present}
    yield Contents(tuple(classes), labels, (height, width, channels), write)


def file_key(path: Path) -> str:
    """Return a file's path, size and modification time."""
    stat = path.stat()
    return f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
