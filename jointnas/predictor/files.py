"""The files of a predictor: a description in JSON and tensors, with a hash of both. Reading them never executes anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jointnas.errors import JointNASError, PredictorError

FORMAT = 6
DESCRIPTION, WEIGHTS = "predictor.json", "predictor.safetensors"
EXPECTED = ("format", "space", "input_shape", "classes", "context", "trials", "rank_correlation")


class FileNames(NamedTuple):
    """What the files of a kind are called, their format, and what a description holds."""

    description: str
    weights: str
    format: int
    expected: tuple[str, ...]


PREDICTOR = FileNames(DESCRIPTION, WEIGHTS, FORMAT, EXPECTED)


def write_files(
    folder: Path, about: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], names: FileNames = PREDICTOR
) -> str:
    """Write a predictor's description and tensors into a folder, and return their digest. Raises `PredictorError`."""
    weights = save(dict(tensors))
    written = {"format": names.format, **about}
    written["digest"] = digest(written, weights)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        contents = {names.weights: weights, names.description: json.dumps(written).encode()}
        halves = {name: folder / f".{name}" for name in contents}
        for name, half in halves.items():
            half.write_bytes(contents[name])
        for name, half in halves.items():  # a full disk leaves the earlier files as they were
            half.replace(folder / name)
    except OSError as error:
        raise PredictorError(
            f"cannot save the predictor to {str(folder)!r} ({error.strerror}): choose a writable folder"
        ) from error
    return str(written["digest"])


def read_files(folder: Path, names: FileNames = PREDICTOR) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Return the description and tensors that `write_files` wrote. Raises `PredictorError`, also for files that changed since."""
    about = read_description(folder, names)
    with intact(folder):
        weights = (folder / names.weights).read_bytes()
        if about["digest"] != digest(about, weights):
            raise ValueError(f"{names.description} or {names.weights} changed since they were saved")
        return about, load(weights)


def read_description(folder: Path, names: FileNames = PREDICTOR) -> dict[str, Any]:
    """Return the description in a folder, without its tensors. Raises `PredictorError`."""
    with intact(folder):
        try:
            about = json.loads((folder / names.description).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise PredictorError(
                f"there is no predictor ({names.description}) in {str(folder)!r}: check the path"
            ) from error
        missing = [name for name in names.expected if name not in about]
        if missing:
            raise ValueError(f"{missing[0]} is missing")
        if names is PREDICTOR:
            _check_types(about["context"], about["trials"])
    if about["format"] != names.format:
        raise PredictorError(
            f"the predictor in {str(folder)!r} has format {about['format']!r}, this version reads {names.format}: "
            "install the version that wrote it"
        )
    return dict(about)


def _check_types(context: Any, trials: Any) -> None:
    """Raise `ValueError` where a predictor's context or trials have the wrong type."""
    parts = (context, *(context.get(name) or {} for name in ("data", "slot")))
    right = all(isinstance(part, dict) for part in parts) and isinstance(trials, list)
    if not right or not isinstance(context.get("members", 1), int):
        raise ValueError("the context or the trials have the wrong type")


@contextmanager
def intact(folder: Path) -> Iterator[None]:
    """Raise `PredictorError` for whatever fails inside: the files are damaged, or do not belong to their space."""
    try:
        yield
    except PredictorError:
        raise
    except JointNASError as error:
        raise PredictorError(
            f"the predictor in {str(folder)!r} does not fit its space ({error}): save it again"
        ) from error
    except (
        OSError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        SafetensorError,
    ) as error:
        raise PredictorError(f"the predictor in {str(folder)!r} is damaged ({error}): save it again") from error


def digest(about: Mapping[str, Any], weights: bytes) -> str:
    """Return the hash of a description and its tensors."""
    text = json.dumps({key: value for key, value in about.items() if key != "digest"}, sort_keys=True)
    return hashlib.sha256(text.encode() + weights).hexdigest()
