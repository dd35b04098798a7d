"""The cache of decoded sources: each is one memory-mapped uint8 array, from which processes take the images that they need.

A pack is a folder that is written beside and renamed, so it is complete or absent; one process at a time writes it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from jointnas.data.contract import SPLITS, Contents
from jointnas.data.images import BROKEN, CROP
from jointnas.data.sources import find_source
from jointnas.errors import DataError

FORMAT = 3  # changes where the same files give other contents


@dataclass(frozen=True)
class Pack:
    """A decoded source: (n, H, W, C) images and (n,) labels, the splits one after another."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ranges: dict[str, tuple[int, int]]
    classes: tuple[str, ...]
    fingerprint: str
    digests: NDArray[np.uint64]  # (n,), equal for equal images

    def in_memory(self) -> Pack:
        """Return this pack with its content, for a machine that has no file of it."""
        return replace(self, images=np.array(self.images), labels=np.array(self.labels))

    def check(self) -> None:
        """Raise `DataError` unless the content has its fingerprint, as after a transfer."""
        if content_fingerprint(self.images, self.labels) != self.fingerprint:
            raise DataError("decoded images have changed on their way to this machine: start the command again")


def cache_folder() -> Path:
    """Return the folder of packs and downloads: `$JOINTNAS_CACHE`, or `jointnas` in the user's cache folder."""
    own = os.environ.get("JOINTNAS_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jointnas"


def open_pack(source_name: str, image_size: int | None, cache: Path | None = None, fit: str = CROP) -> Pack:
    """Return the pack of a source, decoding the source on first use. Raises `DataError`."""
    cache = cache or cache_folder()
    source = find_source(source_name, image_size, cache / "downloads", fit)
    folder = cache / "packs" / hashlib.sha256(f"{FORMAT}|{source.key()}".encode()).hexdigest()[:20]
    pack = _read(folder)
    if pack is None:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder.with_suffix(".lock"))
            lock.acquire()
        except OSError as error:
            raise DataError(
                f"cannot write decoded images to {str(cache)!r} ({error.strerror}): set JOINTNAS_CACHE to a writable folder"
            ) from error
        try:
            pack = _read(folder)
            if pack is None:
                shutil.rmtree(folder, ignore_errors=True)
                with source.open() as contents:
                    _write(folder, contents)
                pack = _read(folder)
        finally:
            lock.release()
    if pack is None:
        raise DataError(
            f"decoded images in {str(folder)!r} cannot be read back: set JOINTNAS_CACHE to a folder on another disk"
        )
    return pack


def _write(folder: Path, contents: Contents) -> None:
    for stale in folder.parent.glob(f"{folder.name}.partial-*"):  # of processes that died while they held the lock
        shutil.rmtree(stale, ignore_errors=True)
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        present = [s for s in SPLITS if s in contents.labels]
        labels = np.concatenate([contents.labels[s] for s in present])
        shape = (len(labels), *contents.shape)
        images = np.lib.format.open_memmap(partial / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        _reserve(partial / "images.npy")
        contents.write(images)
        images.flush()
        np.save(partial / "labels.npy", labels)
        np.save(partial / "digests.npy", content_digests(images))
        ends = np.cumsum([len(contents.labels[s]) for s in present]).tolist()
        about = {
            "classes": contents.classes,
            "ranges": {s: (end - len(contents.labels[s]), end) for s, end in zip(present, ends, strict=True)},
            "fingerprint": content_fingerprint(images, labels),
        }
        (partial / "pack.json").write_text(json.dumps(about))
        partial.rename(folder)
    except OSError as error:
        raise DataError(
            f"cannot write decoded images to {str(partial)!r} ({error.strerror}): set JOINTNAS_CACHE to a folder with enough space"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _reserve(path: Path) -> None:
    """Reserve the disk space of a file that is written through memory, where a full disk would end the process.

    Raises `OSError` where there is not enough; file systems that cannot reserve space are left as they are.
    """
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise


def content_fingerprint(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    """Return a hash of decoded images and their labels."""
    return hashlib.sha256(hashlib.sha256(images.data).digest() + labels.tobytes()).hexdigest()[:16]


def content_digests(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return a hash of each of (n, H, W, C) images."""
    hashes = (hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images)
    return np.frombuffer(b"".join(hashes), dtype=np.uint64)


def _read(folder: Path) -> Pack | None:
    """Return the pack in a folder, None where there is none, or a damaged one."""
    try:
        about = json.loads((folder / "pack.json").read_text())
        pack = Pack(
            np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),
            np.load(folder / "labels.npy", allow_pickle=False),
            {split: (start, end) for split, (start, end) in about["ranges"].items()},
            tuple(about["classes"]),
            about["fingerprint"],
            np.load(folder / "digests.npy", allow_pickle=False),
        )
    except (*BROKEN, LookupError, TypeError, AttributeError, MemoryError):
        return None
    counts = {
        len(pack.images),
        len(pack.labels),
        len(pack.digests),
        max((end for _, end in pack.ranges.values()), default=0),
    }
    return pack if len(counts) == 1 else None
