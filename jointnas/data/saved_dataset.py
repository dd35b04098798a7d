"""A folder that Hugging Face's `datasets` saved (`save_to_disk`): images and labels in Arrow files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jointnas.data.contract import SPLITS, Contents, Images, Source
from jointnas.data.image_folder import SPLIT_FOLDERS, common_size
from jointnas.data.images import CROP, decode, read_header
from jointnas.errors import DataError

MARKS = ("dataset_dict.json", "dataset_info.json")


def is_saved_dataset(path: Path) -> bool:
    """Return whether a folder is one that `datasets` saved."""
    return any((path / mark).is_file() for mark in MARKS) and any(path.rglob("*.arrow"))


@dataclass(frozen=True)
class SavedDataset(Source):
    """A saved `Dataset` or `DatasetDict` with one column of images and one of class labels."""

    path: Path
    image_size: int | None
    fit: str = CROP

    def key(self) -> str:
        """Return a hash of every file's path, size and modification time."""
        digest = hashlib.sha256()
        for file in sorted(p for p in self.path.rglob("*") if p.is_file()):
            stat = file.stat()
            digest.update(f"{file.relative_to(self.path)}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        return f"{self.path.resolve()}|{self.image_size}|{self.fit}|{digest.hexdigest()}"

    @contextmanager
    def open(self) -> Iterator[Contents]:
        """Read every header, and yield the contents. Raises `DataError`."""
        splits = self._splits()
        image, label = self._columns(splits["train"])
        classes = tuple(splits["train"].features[label].names)
        present = [split for split in SPLITS if split in splits]
        given = {split: list(splits[split][label]) for split in present}
        if any(value is None or value < 0 for own in given.values() for value in own):
            raise DataError(f"every image has a class, got rows without a label in {str(self.path)!r}: remove them")
        labels = {split: np.array(own, dtype=np.int64) for split, own in given.items()}
        rows = [(split, i) for split in present for i in range(len(splits[split]))]

        def read(name: str) -> bytes:
            split, _, number = name.partition(" ")
            value = splits[split][int(number)][image]
            if value is None:
                raise DataError(
                    f"every row has an image, got none in row {number} of {split} in {str(self.path)!r}: remove it"
                )
            return value["bytes"] or Path(value["path"]).read_bytes()

        names = [f"{split} {i}" for split, i in rows]
        headers = [read_header(name, read) for name in names]
        channels = 1 if all(grey for grey, _ in headers) else 3
        height, width = common_size(names, [size for _, size in headers], self.image_size)

        def write(out: Images) -> None:
            for i, name in enumerate(names):
                out[i] = decode(name, read, channels, (width, height), self.fit)

        yield Contents(classes, labels, (height, width, channels), write)

    def _splits(self) -> dict[str, Any]:
        """Return the splits by our names, images not decoded. Raises `DataError`."""
        try:
            from datasets import Dataset, Image, load_from_disk
        except ImportError as error:
            raise DataError(
                f"{str(self.path)!r} was saved by Hugging Face's datasets, which is not installed: pip install datasets"
            ) from error
        try:
            loaded = load_from_disk(str(self.path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"the saved data set {str(self.path)!r} cannot be read ({error}): save it again") from error
        named = {"train": loaded} if isinstance(loaded, Dataset) else dict(loaded)
        splits = {SPLIT_FOLDERS[name]: own for name, own in named.items() if name in SPLIT_FOLDERS}
        if "train" not in splits:
            raise DataError(
                f"a data set has a split called train, got {', '.join(named)} in {str(self.path)!r}: rename one"
            )
        image, _ = self._columns(splits["train"])
        return {split: own.cast_column(image, Image(decode=False)) for split, own in splits.items()}

    def _columns(self, dataset: Any) -> tuple[str, str]:
        """Return the names of the columns of images and of class labels. Raises `DataError` unless there is one of each."""
        kinds = {name: type(feature).__name__ for name, feature in dataset.features.items()}
        images, labels = ([n for n, kind in kinds.items() if kind == wanted] for wanted in ("Image", "ClassLabel"))
        if len(images) != 1 or len(labels) != 1:
            raise DataError(
                f"a data set has one column of type Image and one of type ClassLabel, got {kinds} in {str(self.path)!r}: cast the columns"
            )
        return images[0], labels[0]
