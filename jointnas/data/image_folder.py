"""Image folders and zips of them: the folders name the classes, and the splits where the data set has them."""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from jointnas.data.contract import SPLITS, Contents, Images, Source, file_key
from jointnas.data.images import CROP, LARGEST_FILE, Reader, decode, is_image, read_header
from jointnas.errors import DataError
from jointnas.units import format_size

SIDES = (32, 48, 64, 96, 128, 160, 192, 224)  # pixels, that are suggested for images of mixed sizes
SPLIT_FOLDERS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test",
}  # fmt: skip
"""The splits of folders, by their names in lower case."""


class ImageTree(Source):
    """Image files below `train/CLASS/`, `val/CLASS/` and `test/CLASS/`, or below `CLASS/` alone."""

    path: Path
    image_size: int | None
    fit: str
    classes_are_folders: ClassVar[bool] = True

    @abstractmethod
    def _names(self) -> list[str]:
        """Return the files' paths, relative and with forward slashes."""

    @abstractmethod
    def _reader(self) -> AbstractContextManager[Reader]:
        """Return a context manager that yields a function from a file's path to its bytes."""

    @contextmanager
    def open(self) -> Iterator[Contents]:
        """Assign the files to splits and classes, read every header, and yield the contents. Raises `DataError`."""
        files = self._files_by_split()
        classes = sorted({label for split in files.values() for label, _ in split})
        trained = {label for label, _ in files["train"]}
        if self.classes_are_folders and any(_split_of(label) for label in trained):
            raise DataError(
                f"{str(self.path)!r} has the folders {', '.join(sorted(trained))} but no train/: use train/CLASS/ and test/CLASS/"
            )
        if len(trained) < 2:
            raise DataError(
                f"a data set needs two classes or more, got {', '.join(sorted(trained)) or 'none'} in {str(self.path)!r}: "
                "put the images of each class into a folder of its own"
            )
        for split, rows in files.items():
            untrained = sorted({label for label, _ in rows} - trained)
            if untrained:
                raise DataError(
                    f"the class {untrained[0]!r} has images in {split} but none in train: add some to train or remove the class"
                )
        names = [name for split in SPLITS for _, name in files.get(split, [])]
        labels = {s: np.array([classes.index(label) for label, _ in rows]) for s, rows in files.items()}
        with self._reader() as read, ThreadPoolExecutor() as threads:
            headers = list(threads.map(lambda name: read_header(name, read), names))
            channels = 1 if all(grey for grey, _ in headers) else 3
            height, width = common_size(names, [size for _, size in headers], self.image_size)

            def write(out: Images) -> None:
                def fill(i: int) -> None:
                    out[i] = decode(names[i], read, channels, (width, height), self.fit)

                for _ in threads.map(fill, range(len(names))):
                    pass

            yield Contents(tuple(classes), labels, (height, width, channels), write)

    def labelled(self, split: str | None, shape: tuple[int, ...]) -> tuple[Images, list[str], str]:
        """Return labelled images, brought to a network's input shape (C, H, W), their classes, and the name of the split.

        split: None for the test images where there are some, else for all. Unlike `open` this needs no training images. Raises `DataError`.
        """
        files = {name: rows for name, rows in self._files_by_split().items() if rows}
        if split is None:
            split = "test" if "test" in files else "all"
        if split not in (*files, "all"):
            raise DataError(
                f"{str(self.path)!r} has the splits {', '.join(files)}, got --split {split}: choose one of them"
            )
        rows = [row for name, own in files.items() if split in (name, "all") for row in own]
        channels, height, width = shape
        with self._reader() as read, ThreadPoolExecutor() as threads:
            images = list(threads.map(lambda row: decode(row[1], read, channels, (width, height), self.fit), rows))
        return np.stack(images), [label for label, _ in rows], split

    def _files_by_split(self) -> dict[str, list[tuple[str, str]]]:
        """Return {split: [(class, path), …]}, sorted by path. Raises `DataError`."""
        names = sorted(name for name in self._names() if is_image(name))
        if not names:
            raise DataError(
                f"there are no images in {str(self.path)!r}: check the path; each class has a folder of its own"
            )
        parts = [PurePosixPath(name).parts for name in names]
        depth = 0
        while (
            len({p[depth] for p in parts}) == 1
            and _split_of(parts[0][depth]) is None
            and min(map(len, parts)) > depth + 2
        ):
            depth += 1  # one folder contains all others, as in most zips
        split_at_top = any(_split_of(p[depth]) == "train" and len(p) > depth + 2 for p in parts) or all(
            _split_of(p[depth]) and len(p) > depth + 2 for p in parts
        )
        files: dict[str, list[tuple[str, str]]] = {"train": []}
        for name, path in zip(names, parts, strict=True):
            inner = path[depth:]
            split = _split_of(inner[0]) if split_at_top else "train"
            if split is None:
                continue
            inner = inner[1:] if split_at_top else inner
            if len(inner) < 2:
                raise DataError(
                    f"the image {name!r} lies outside the class folders: move it into the folder of its class"
                )
            files.setdefault(split, []).append((inner[0], name))
        return files


def _split_of(folder: str) -> str | None:
    """Return the split that a folder is called after, None for another name."""
    return SPLIT_FOLDERS.get(folder.lower())


def common_size(names: Sequence[str], sizes: Sequence[tuple[int, int]], image_size: int | None) -> tuple[int, int]:
    """Return (height, width) of all images: the requested size, or their own (width, height).

    Raises `DataError` where they differ, with a size to choose.
    """
    if image_size is not None:
        return image_size, image_size
    for name, size in zip(names, sizes, strict=True):
        if size != sizes[0]:
            raise DataError(
                f"the images have different sizes, {sizes[0][0]}×{sizes[0][1]} for {names[0]!r} and {size[0]}×{size[1]} for {name!r}: choose "
                f"one with --image-size; {suggested_size(sizes)} keeps most of what they show, smaller ones train faster"
            )
    width, height = sizes[0]
    return height, width


def suggested_size(sizes: Sequence[tuple[int, int]]) -> int:
    """Return a side in pixels for images of these (width, height): no more than three quarters of them have, and a network can use."""
    shorter = sorted(min(size) for size in sizes)[len(sizes) // 4]
    return max((side for side in SIDES if side <= shorter), default=SIDES[0])


@dataclass(frozen=True)
class ImageFolder(ImageTree):
    """A folder of images."""

    path: Path
    image_size: int | None
    fit: str = CROP

    def key(self) -> str:
        """Return a hash of every image's path, size and modification time."""
        digest = hashlib.sha256()
        for name in sorted(n for n in self._names() if is_image(n)):
            stat = (self.path / name).stat()
            digest.update(f"{name}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        return f"{self.path.resolve()}|{self.image_size}|{self.fit}|{digest.hexdigest()}"

    def _names(self) -> list[str]:
        """Return the paths of all files, also behind links to folders. Raises `DataError` for a name that is not UTF-8."""
        names: list[str] = []
        for folder, folders, files in os.walk(self.path, followlinks=True):
            place = Path(folder)
            if place.is_symlink() and place.resolve() in [above.resolve() for above in place.parents]:
                folders.clear()  # a link to a folder above itself
                continue
            names += [(place / name).relative_to(self.path).as_posix() for name in files if (place / name).is_file()]
        for name in names:
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"names of images and classes are UTF-8, got {os.fsencode(name)!r}: rename it"
                ) from error
        return names

    @contextmanager
    def _reader(self) -> Iterator[Reader]:
        yield lambda name: (self.path / name).read_bytes()


@dataclass(frozen=True)
class ImageZip(ImageTree):
    """A zip of an image folder, read without unpacking it to disk."""

    path: Path
    image_size: int | None
    fit: str = CROP

    def key(self) -> str:
        """Return the file's path, size and modification time."""
        return f"{file_key(self.path)}|{self.image_size}|{self.fit}"

    def _names(self) -> list[str]:
        with self._archive() as archive:
            return [info.filename for info in archive.infolist() if not info.is_dir()]

    def _archive(self) -> zipfile.ZipFile:
        """Return the open zip. Raises `DataError` for a damaged one."""
        try:
            return zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, RuntimeError) as error:
            raise DataError(f"the zip {str(self.path)!r} cannot be read ({error}): make it again") from error

    @contextmanager
    def _reader(self) -> Iterator[Reader]:
        with self._archive() as archive:

            def read(name: str) -> bytes:
                size = archive.getinfo(name).file_size
                if size > LARGEST_FILE:
                    raise DataError(
                        f"an image file has {format_size(LARGEST_FILE)} at most, got {format_size(size)} for {name!r}: remove it from the zip"
                    )
                return archive.read(name)

            yield read
