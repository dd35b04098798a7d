"""Image files: which files are images, and their pixels as uint8 arrays."""

from __future__ import annotations

import io
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jointnas.data.contract import Images
from jointnas.errors import DataError

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
    tokenize.TokenError,
    Image.DecompressionBombError,
)  # what PIL, zipfile and NumPy raise for files that are damaged, encrypted or compressed by an unsupported method
GREY_MODES = frozenset(("1", "L", "LA", "La", "I", "I;16", "I;16B", "F"))
LEVELS = frozenset(("I", "I;16", "I;16B", "F"))  # modes of more than 8 bits

LARGEST_IMAGE = 100_000_000  # pixels; decoded they take 300 MB
LARGEST_FILE = 512 * 1024**2  # bytes of an image file, as unpacked from a zip

CROP, PAD, STRETCH = FITS = ("crop", "pad", "stretch")
"""What becomes of an image whose shape is not the wanted one."""

ORIENTATION, UPRIGHT = 0x0112, 1  # the tag in EXIF data, and its value for an image that is stored as it is seen
ON_THE_SIDE = (5, 6, 7, 8)  # values for images that are stored turned by 90 degrees

_BILINEAR = Image.Resampling.BILINEAR
_FITTED: Mapping[str, Callable[[Image.Image, tuple[int, int]], Image.Image]] = {
    CROP: lambda image, size: ImageOps.fit(image, size, _BILINEAR),
    PAD: lambda image, size: ImageOps.pad(image, size, _BILINEAR),
    STRETCH: lambda image, size: image.resize(size, _BILINEAR),
}

Reader = Callable[[str], bytes]
"""A function from a file's name to its bytes."""

T = TypeVar("T")


def decode_file(path: Path, shape: tuple[int, ...], fit: str = CROP) -> Images:
    """Return one image file as (H, W, C) uint8, brought to a network's input shape (C, H, W). Raises `DataError`."""
    channels, height, width = shape
    if not path.is_file():
        raise DataError(f"there is no image file {str(path)!r}: check the path")
    return decode(str(path), lambda name: Path(name).read_bytes(), channels, (width, height), fit)


def is_image(name: str) -> bool:
    """Return whether a path is an image's, by its suffix; hidden files and those of macOS archives are none."""
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def read_header(name: str, read: Reader) -> tuple[bool, tuple[int, int]]:
    """Return whether an image is grey, and its (width, height) when it is upright. Raises `DataError`."""

    def header(image: Image.Image) -> tuple[bool, tuple[int, int]]:
        width, height = image.size
        return image.mode in GREY_MODES, (height, width) if _orientation(image) in ON_THE_SIDE else (width, height)

    return _with_image(name, read, header)


def decode(name: str, read: Reader, channels: int, size: tuple[int, int], fit: str = CROP) -> Images:
    """Return one image as (H, W, channels) uint8, upright, on white where it is transparent, and brought to (width, height).

    fit: what becomes of another shape: `crop` cuts the longer side, `pad` adds black, `stretch` distorts. Raises `DataError`.
    """
    if channels not in (1, 3):
        raise DataError(
            f"an image file has 1 or 3 channels, but {channels} are needed for {name!r}: give such images as arrays"
        )

    def pixels(image: Image.Image) -> Images:
        if _orientation(image) != UPRIGHT:
            image = ImageOps.exif_transpose(image)
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or (
            "transparency" in image.info and image.mode not in LEVELS
        ):
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        if image.mode in LEVELS:
            levels = np.asarray(image, dtype=np.float64)
            levels = levels * (255 / _white(image.mode, float(levels.max())))
            image = Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != size:
            image = _FITTED[fit](image, size)
        return np.asarray(image, dtype=np.uint8).reshape(size[1], size[0], channels)

    return _with_image(name, read, pixels)


def _white(mode: str, highest: float) -> int:
    """Return the level of white of an image of more than 8 bits, whose file does not name it."""
    if mode == "F":
        return 1 if highest <= 1 else 255
    return 255 if mode == "I" and highest <= 255 else 65535


def _orientation(image: Image.Image) -> int:
    """Return the orientation in an image's EXIF data, upright where they are damaged."""
    try:
        return int(image.getexif().get(ORIENTATION, UPRIGHT))
    except (*BROKEN, TypeError, LookupError):
        return UPRIGHT


def _with_image(name: str, read: Reader, use: Callable[[Image.Image], T]) -> T:
    """Return `use(image)`. Raises `DataError` with the file's name when the file cannot be read."""
    try:
        with Image.open(io.BytesIO(read(name))) as image:
            if image.width * image.height > LARGEST_IMAGE:
                raise DataError(
                    f"an image has {LARGEST_IMAGE:,} pixels at most, got {image.width}×{image.height} for {name!r}: make it smaller"
                )
            return use(image)
    except BROKEN as error:
        # Pillow's own message for bytes that are no image contains an object's address
        reason = "it is not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"cannot decode the image {name!r} ({reason}): repair or delete it") from error
