"""Where images come from: each source lists what it holds, then decodes it into one uint8 array."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from jointnas.errors import DataError, suggest

Images = NDArray[np.uint8]  # (n, H, W, C)
Labels = NDArray[np.int64]
SPLITS = ("train", "val", "test")
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)  # what PIL and zipfile raise for files that are damaged, encrypted or packed in ways they do not know
GREY_MODES = frozenset(("1", "L", "LA", "La", "I", "I;16", "I;16B", "F"))
MAXIMUM_WHITE = {"I": 65535, "I;16": 65535, "I;16B": 65535}


@dataclass(frozen=True)
class Contents:
    """Labels by split (absent ones missing), class names, the images' shape, and a way to write the images."""

    classes: tuple[str, ...]
    labels: dict[str, Labels]
    shape: tuple[int, int, int]  # (H, W, C)
    write: Callable[[Images], None]  # fills a (n, H, W, C) array: train, then val, then test


class Source(ABC):
    """The contract: a source has a key that changes when its content does, and can be opened to be decoded."""

    @abstractmethod
    def key(self) -> str:
        """Return a text that is different for different content; cheap enough to ask at every start."""

    @abstractmethod
    def open(self) -> Any:
        """Return a context manager that yields `Contents`. Raises `DataError`."""


def find_source(name: str, image_size: int | None, downloads: Path) -> Source:
    """Return the source called `name`: a named data set, an image folder, a zip of one, or an .npz."""
    path = Path(name).expanduser()
    if image_size is not None and (name in NAMED or path.suffix == ".npz"):
        raise DataError(
            f"--image-size is for image folders and zips, got {image_size} for {name!r}, which has one size: drop it"
        )
    if name == "digits":
        return Digits()
    if name in TORCHVISION:
        return Torchvision(name, downloads)
    if path.is_dir():
        return ImageFolder(path, image_size)
    if path.is_file() and zipfile.is_zipfile(path):
        return Npz(path) if path.suffix == ".npz" else ImageZip(path, image_size)
    if path.exists():
        raise DataError(f"data is an image folder, a zip of one or an .npz, got the file {name!r}: convert it")
    raise DataError(f"no data set, folder or file is called {name!r}: {suggest(name, NAMED)}, or give a path")


# ------------------------------------------------------------------------------------------------------- named sets


@contextmanager
def _arrays(classes: Sequence[str], splits: dict[str, tuple[Images, Labels]]) -> Iterator[Contents]:
    """Yield the contents of arrays that are in memory already."""
    present = [s for s in SPLITS if s in splits]
    images = [splits[s][0] for s in present]

    def write(out: Images) -> None:
        np.concatenate(images, out=out)

    shape = images[0].shape[1:]
    yield Contents(
        tuple(classes), {s: splits[s][1].astype(np.int64) for s in present}, (shape[0], shape[1], shape[2]), write
    )


class Digits(Source):
    """scikit-learn's handwritten digits: 1,797 grey images of 8×8 pixels, part of the package."""

    def key(self) -> str:
        """Return its name."""
        return "digits"

    def open(self) -> Any:
        """Decode 16 grey levels to 256."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        return _arrays([str(i) for i in range(10)], {"train": (images, digits.target)})


TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN", "fashionmnist": "FashionMNIST"}
NAMED = ("digits", *TORCHVISION)


@dataclass(frozen=True)
class Torchvision(Source):
    """A data set that torchvision downloads."""

    name: str
    downloads: Path

    def key(self) -> str:
        """Return its name."""
        return self.name

    def open(self) -> Any:
        """Download the set where it is not there yet, and take its arrays. Raises `DataError` without a network."""
        from torchvision import datasets

        make = getattr(datasets, TORCHVISION[self.name])
        splits: dict[str, tuple[Images, Labels]] = {}
        classes: Sequence[str] = ()
        for split in ("train", "test"):
            which = {"split": split} if self.name == "svhn" else {"train": split == "train"}
            try:
                found = make(self.downloads, download=True, **which)
            except (OSError, RuntimeError) as error:
                raise DataError(
                    f"{self.name} is downloaded once, which failed ({error}): connect, or give its images as a folder or zip"
                ) from error
            images = np.asarray(found.data)
            if self.name == "svhn":
                images = images.transpose(0, 2, 3, 1)
            labels = np.asarray(found.labels if self.name == "svhn" else found.targets)
            splits[split] = (np.ascontiguousarray(images[..., None] if images.ndim == 3 else images), labels)
            classes = getattr(found, "classes", None) or [str(i) for i in range(10)]
        return _arrays(classes, splits)


@dataclass(frozen=True)
class Npz(Source):
    """An .npz with `train_images, train_labels` (or `x_train, y_train`, or `images, labels`), val_ and test_ likewise."""

    path: Path

    def key(self) -> str:
        """Return the file's path, size and time of change."""
        return _file_key(self.path)

    def open(self) -> Any:
        """Load the arrays without unpickling anything. Raises `DataError`."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = {name.lower(): file[name] for name in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"an .npz holds plain arrays, got {str(self.path)!r} ({error}): save it again") from error
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
                f"an .npz has train_images and train_labels, got {', '.join(sorted(arrays))} in {self.path.name}: rename them"
            )
        shapes = {s: a[0].shape[1:] for s, a in splits.items()}
        if len(set(shapes.values())) > 1:
            raise DataError(f"all splits have images of one shape, got {shapes} in {self.path.name}: resize them")
        known = np.unique(splits["train"][1])
        for split, (images, labels) in splits.items():
            if not np.isin(labels, known).all():
                raise DataError(f"every class of {split} is one of train's, got another in {self.path.name}: drop it")
            splits[split] = (images, np.searchsorted(known, labels))
        return _arrays([str(i) for i in known], splits)

    def _images(self, name: str, x: NDArray[Any]) -> Images:
        if x.dtype != np.uint8:
            raise DataError(f"images are uint8 from 0 to 255, got {x.dtype} for {name}: scale and cast them")
        if x.ndim == 3:
            x = x[..., None]
        if x.ndim == 4 and x.shape[3] not in (1, 3, 4) and x.shape[1] in (1, 3, 4):
            x = x.transpose(0, 2, 3, 1)
        if x.ndim != 4 or not 1 <= x.shape[3] <= 4:
            raise DataError(
                f"images have shape (n, H, W), (n, H, W, C) or (n, C, H, W), got {x.shape} for {name}: reshape them"
            )
        return np.ascontiguousarray(x)

    def _labels(self, name: str, y: NDArray[Any], count: int) -> Labels:
        y = y.reshape(-1) if y.ndim == 2 and y.shape[1] == 1 else y
        if y.ndim != 1 or y.dtype.kind not in "iu" or len(y) != count or (count and int(y.min()) < 0):
            raise DataError(
                f"labels are {count} whole numbers from 0 on, got {y.dtype} of shape {y.shape} for {name}: convert them"
            )
        return y.astype(np.int64)


def _file_key(path: Path) -> str:
    stat = path.stat()
    return f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"


# ------------------------------------------------------------------------------------------------- folders and zips


class _ImageTree(Source):
    """Image files below `train/CLASS/`, `val/CLASS/` and `test/CLASS/`, or below `CLASS/` alone."""

    path: Path
    image_size: int | None

    @abstractmethod
    def _names(self) -> list[str]:
        """Return the files' paths, relative and with forward slashes."""

    @abstractmethod
    def _reader(self) -> Any:
        """Return a context manager that yields a function from a file's path to its bytes."""

    @contextmanager
    def open(self) -> Iterator[Contents]:
        """Sort the files into splits and classes, read every header, and yield what decodes them."""
        files = self._sorted()
        classes = sorted({label for split in files.values() for label, _ in split})
        trained = {label for label, _ in files["train"]}
        if trained & {*SPLIT_FOLDERS, "training", "testing"}:
            raise DataError(
                f"a folder split by hand has train/CLASS/, got {', '.join(sorted(trained))} in {str(self.path)!r}: rename it"
            )
        if len(trained) < 2:
            raise DataError(
                f"a data set has two classes or more, got {', '.join(sorted(trained)) or 'none'} in {str(self.path)!r}: "
                "put the images of each class in a folder of their own"
            )
        for split, rows in files.items():
            strange = sorted({label for label, _ in rows} - trained)
            if strange:
                raise DataError(
                    f"every class of {split} is one of train's, got {strange[0]!r} in {split} alone: move it"
                )
        names = [name for split in SPLITS for _, name in files.get(split, [])]
        labels = {s: np.array([classes.index(label) for label, _ in rows]) for s, rows in files.items()}
        with self._reader() as read, ThreadPoolExecutor() as threads:
            headers = list(threads.map(lambda name: _header(name, read), names))
            channels = 1 if all(grey for grey, _ in headers) else 3
            height, width = self._common_size(names, [size for _, size in headers])

            def write(out: Images) -> None:
                def fill(i: int) -> None:
                    out[i] = _decode(names[i], read, channels, (width, height))

                for _ in threads.map(fill, range(len(names))):
                    pass

            yield Contents(tuple(classes), labels, (height, width, channels), write)

    def _common_size(self, names: Sequence[str], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Return (height, width): the one asked for, or the one that all images share."""
        if self.image_size is not None:
            return self.image_size, self.image_size
        for name, size in zip(names, sizes, strict=True):
            if size != sizes[0]:
                raise DataError(
                    f"images have one size, got {sizes[0][0]}×{sizes[0][1]} for {names[0]!r} and {size[0]}×{size[1]} for "
                    f"{name!r}: say --image-size 32 or the like"
                )
        width, height = sizes[0]
        return height, width

    def _sorted(self) -> dict[str, list[tuple[str, str]]]:
        """Return {split: [(class, path), …]}, in the order of the paths."""
        names = sorted(name for name in self._names() if _is_image(name))
        if not names:
            raise DataError(
                f"an image folder has images in a folder for each class, got none in {str(self.path)!r}: check the path"
            )
        parts = [PurePosixPath(name).parts for name in names]
        depth = 0
        while (
            len({p[depth] for p in parts}) == 1
            and parts[0][depth] not in SPLIT_FOLDERS
            and min(map(len, parts)) > depth + 2
        ):
            depth += 1  # a folder around everything, as in most zips
        split_at_top = any(p[depth] == "train" and len(p) > depth + 2 for p in parts)
        files: dict[str, list[tuple[str, str]]] = {"train": []}
        for name, path in zip(names, parts, strict=True):
            inner = path[depth:]
            split = SPLIT_FOLDERS.get(inner[0]) if split_at_top else "train"
            if split is None:
                continue
            inner = inner[1:] if split_at_top else inner
            if len(inner) < 2:
                raise DataError(f"every image lies in the folder of its class, got {name!r}: move it into one")
            files.setdefault(split, []).append((inner[0], name))
        return files


@dataclass(frozen=True)
class ImageFolder(_ImageTree):
    """A folder of images."""

    path: Path
    image_size: int | None

    def key(self) -> str:
        """Return a hash of every image's path, size and time of change."""
        digest = hashlib.sha256()
        for name in sorted(n for n in self._names() if _is_image(n)):
            stat = (self.path / name).stat()
            digest.update(f"{name}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        return f"{self.path.resolve()}|{self.image_size}|{digest.hexdigest()}"

    def _names(self) -> list[str]:
        return [p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file()]

    @contextmanager
    def _reader(self) -> Iterator[Callable[[str], bytes]]:
        yield lambda name: (self.path / name).read_bytes()


@dataclass(frozen=True)
class ImageZip(_ImageTree):
    """A zip of an image folder, read in place: nothing is unpacked to disk."""

    path: Path
    image_size: int | None

    def key(self) -> str:
        """Return the file's path, size and time of change."""
        return f"{_file_key(self.path)}|{self.image_size}"

    def _names(self) -> list[str]:
        with zipfile.ZipFile(self.path) as archive:
            return [info.filename for info in archive.infolist() if not info.is_dir()]

    @contextmanager
    def _reader(self) -> Iterator[Callable[[str], bytes]]:
        with zipfile.ZipFile(self.path) as archive:
            yield archive.read


def decode_file(path: Path, shape: tuple[int, ...]) -> Images:
    """Return one image file as (H, W, C) uint8 of a network's input shape (C, H, W). Raises `DataError`."""
    channels, height, width = shape
    if not path.is_file():
        raise DataError(f"an image is a file, got {str(path)!r}: check the path")
    return _decode(str(path), lambda name: Path(name).read_bytes(), channels, (width, height))


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def _why(error: BaseException) -> str:
    """Return an error's text; Pillow's, of bytes that are no image, names an object in the memory."""
    return "no image" if isinstance(error, UnidentifiedImageError) else str(error)


def _opened(name: str, read: Callable[[str], bytes], use: Callable[[Image.Image], Any]) -> Any:
    """Return `use(image)`, every failure to read the file turned into a `DataError` that names it."""
    try:
        with Image.open(io.BytesIO(read(name))) as image:
            return use(image)
    except BROKEN as error:
        raise DataError(
            f"every image can be decoded, got a broken one at {name!r} ({_why(error)}): repair or delete it"
        ) from error


def _header(name: str, read: Callable[[str], bytes]) -> tuple[bool, tuple[int, int]]:
    """Return whether an image is grey, and its (width, height)."""
    found: tuple[bool, tuple[int, int]] = _opened(name, read, lambda image: (image.mode in GREY_MODES, image.size))
    return found


def _decode(name: str, read: Callable[[str], bytes], channels: int, size: tuple[int, int]) -> Images:
    """Return one image as (H, W, channels) uint8, resized to (width, height) where it has another size."""

    def pixels(image: Image.Image) -> Images:
        deep = MAXIMUM_WHITE.get(image.mode)
        if deep is not None:
            image = Image.fromarray(
                (np.asarray(image, dtype=np.float64) * (255 / deep)).round().clip(0, 255).astype(np.uint8)
            )
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(image, dtype=np.uint8).reshape(size[1], size[0], channels)

    decoded: Images = _opened(name, read, pixels)
    return decoded
