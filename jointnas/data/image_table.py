"""A table of image files: a CSV with a path and a class in each row, and a split where it has one."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jointnas.data.contract import file_key
from jointnas.data.image_folder import SPLIT_FOLDERS, ImageTree
from jointnas.data.images import CROP, LARGEST_FILE, Reader
from jointnas.errors import DataError
from jointnas.units import format_size

PATHS = ("path", "file", "filename", "file_name", "image")
LABELS = ("label", "class", "category", "target")
SPLIT = "split"


@dataclass(frozen=True)
class ImageTable(ImageTree):
    """The images that a CSV names, by paths that are absolute or begin at its folder."""

    path: Path
    image_size: int | None
    fit: str = CROP
    classes_are_folders = False

    def key(self) -> str:
        """Return a hash of the table, and of each image's size and modification time."""
        digest = hashlib.sha256()
        for _, _, name in self._rows():
            stat = self._file(name).stat() if self._file(name).is_file() else None
            digest.update(f"{name}|{stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
        return f"{file_key(self.path)}|{self.image_size}|{self.fit}|{digest.hexdigest()}"

    def _files_by_split(self) -> dict[str, list[tuple[str, str]]]:
        files: dict[str, list[tuple[str, str]]] = {"train": []}
        for split, label, name in self._rows():
            files.setdefault(split, []).append((label, name))
        return {split: sorted(rows, key=lambda row: row[1]) for split, rows in files.items()}

    def _rows(self) -> list[tuple[str, str, str]]:
        """Return (split, class, path) of each row. Raises `DataError`."""
        name = str(self.path)
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                rows = [{str(k).strip().lower(): v for k, v in row.items()} for row in csv.DictReader(file)]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"the table {name!r} cannot be read ({error}): save it as a CSV in UTF-8") from error
        if not rows:
            raise DataError(
                f"the table {name!r} has no rows: write a header such as path,label and a row for each image"
            )
        path, label = (next((n for n in names if n in rows[0]), None) for names in (PATHS, LABELS))
        if path is None or label is None:
            raise DataError(
                f"a table of images has a column {' or '.join(PATHS)} and one {' or '.join(LABELS)}, got {', '.join(rows[0])} in {name!r}: "
                "rename them"
            )
        found = []
        for number, row in enumerate(rows, 2):
            text, own, split = (str(row.get(column) or "").strip() for column in (path, label, SPLIT))
            if not (text and own):
                raise DataError(
                    f"each row of a table names an image and its class, got line {number} of {name!r} without one: complete it"
                )
            if split and split.lower() not in SPLIT_FOLDERS:
                raise DataError(f"a split is train, val or test, got {split!r} in line {number} of {name!r}: rename it")
            found.append((SPLIT_FOLDERS[split.lower()] if split else "train", own, text))
        return found

    def _file(self, name: str) -> Path:
        return self.path.parent / name

    def _names(self) -> list[str]:
        return [name for _, _, name in self._rows()]

    @contextmanager
    def _reader(self) -> Iterator[Reader]:
        def read(name: str) -> bytes:
            file = self._file(name)
            if not file.is_file():
                raise DataError(
                    f"the table {str(self.path)!r} names images, got {name!r}, which is no file: correct the path"
                )
            if file.stat().st_size > LARGEST_FILE:
                raise DataError(f"an image file has {format_size(LARGEST_FILE)} at most, got {name!r}: make it smaller")
            return file.read_bytes()

        yield read
