"""The files of a predictor: a description in JSON and tensors, with a hash of both. Reading them never executes anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jointnas.errors import JointNASError, PredictorError

FORMAT = 6
DESCRIPTION, WEIGHTS = "predictor.json", "predictor.safetensors"
EXPECTED = ("format", "space", "input_shape", "classes", "context", "trials", "rank_correlation")


def write_files(folder: Path, about: Mapping[str, Any], tensors: Mapping[str, NDArray[np.float64]]) -> str:
    """Write a predictor's description and tensors into a folder, and return their digest. Raises `PredictorError`."""
    weights = save(dict(tensors))
    written = {"format": FORMAT, **about}
    written["digest"] = digest(written, weights)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS).write_bytes(weights)
        (folder / DESCRIPTION).write_text(json.dumps(written), encoding="utf-8")
    except OSError as error:
        raise PredictorError(
            f"cannot save the predictor to {str(folder)!r} ({error.strerror}): choose a writable folder"
        ) from error
    return str(written["digest"])


def read_files(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Return the description and tensors that `write_files` wrote. Raises `PredictorError`, also for files that changed since."""
    about = read_description(folder)
    with intact(folder):
        weights = (folder / WEIGHTS).read_bytes()
        if about["digest"] != digest(about, weights):
            raise ValueError(f"{DESCRIPTION} or {WEIGHTS} changed since they were saved")
        return about, load(weights)


def read_description(folder: Path) -> dict[str, Any]:
    """Return the description in a folder's `predictor.json`, without its tensors. Raises `PredictorError`."""
    with intact(folder):
        try:
            about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise PredictorError(f"there is no predictor ({DESCRIPTION}) in {str(folder)!r}: check the path") from error
        missing = [name for name in EXPECTED if name not in about]
        if missing:
            raise ValueError(f"{missing[0]} is missing")
        context, trials = about["context"], about["trials"]
        parts = (context, *(context.get(name) or {} for name in ("data", "slot")))
        if not (all(isinstance(part, dict) for part in parts) and isinstance(trials, list)):
            raise ValueError("the context or the trials have the wrong type")
    if about["format"] != FORMAT:
        raise PredictorError(
            f"the predictor in {str(folder)!r} has format {about['format']!r}, this version reads {FORMAT}: install the version that wrote it"
        )
    return dict(about)


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
