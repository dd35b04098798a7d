"""The files of a predictor: a description in JSON and tensors, sealed by a hash of both. Reading them never executes anything."""

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

FORMAT = 5
DESCRIPTION, WEIGHTS = "predictor.json", "predictor.safetensors"
EXPECTED = ("format", "space", "input_shape", "classes", "context", "trials", "rank_correlation")


def write_files(folder: Path, about: Mapping[str, Any], tensors: Mapping[str, NDArray[np.float64]]) -> str:
    """Write what a predictor says of itself and its tensors into a folder, and return their digest. Raises `PredictorError`."""
    weights = save(dict(tensors))
    written = {"format": FORMAT, **about}
    written["digest"] = digest(written, weights)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS).write_bytes(weights)
        (folder / DESCRIPTION).write_text(json.dumps(written), encoding="utf-8")
    except OSError as error:
        raise PredictorError(
            f"a predictor is saved to a writable folder, got {str(folder)!r} ({error.strerror}): choose another"
        ) from error
    return str(written["digest"])


def read_files(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Return what `write_files` wrote. Raises `PredictorError`, also where one of the files was changed since."""
    about = read_description(folder)
    with whole(folder):
        weights = (folder / WEIGHTS).read_bytes()
        if about["digest"] != digest(about, weights):
            raise ValueError(f"{DESCRIPTION} or {WEIGHTS} changed since they were saved")
        return about, load(weights)


def read_description(folder: Path) -> dict[str, Any]:
    """Return what `predictor.json` in a folder says, the tensors unread. Raises `PredictorError`."""
    with whole(folder):
        try:
            about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise PredictorError(
                f"a predictor is a folder with {DESCRIPTION}, got {str(folder)!r}: check the path"
            ) from error
        missing = [name for name in EXPECTED if name not in about]
        if missing:
            raise ValueError(f"no {missing[0]}")
        context, trials = about["context"], about["trials"]
        parts = (context, *(context.get(name, {}) for name in ("data", "slot")))
        if not (all(isinstance(part, dict) for part in parts) and isinstance(trials, list)):
            raise ValueError("a context and trials of another kind")
    if about["format"] != FORMAT:
        raise PredictorError(
            f"a predictor has format {FORMAT}, got {about['format']!r} in {str(folder)!r}: install the version that wrote it"
        )
    return dict(about)


@contextmanager
def whole(folder: Path) -> Iterator[None]:
    """Say of whatever goes wrong within that a predictor's files are not whole, or not of its space: raises `PredictorError`."""
    try:
        yield
    except PredictorError:
        raise
    except JointNASError as error:
        raise PredictorError(
            f"a predictor fits its own space, got {error} in {str(folder)!r}: save it again"
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
        raise PredictorError(
            f"the files of a predictor are whole, got {error} in {str(folder)!r}: save it again"
        ) from error


def digest(about: Mapping[str, Any], weights: bytes) -> str:
    """Return a hash of all that a predictor's files say."""
    text = json.dumps({key: value for key, value in about.items() if key != "digest"}, sort_keys=True)
    return hashlib.sha256(text.encode() + weights).hexdigest()
