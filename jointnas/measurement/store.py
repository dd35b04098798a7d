"""The store of measurements: one SQLite file in the cache folder, shared by any number of processes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from jointnas.cores import processor_name
from jointnas.data.pack import cache_folder
from jointnas.errors import ConstraintError, DataError
from jointnas.execution import Slot
from jointnas.measurement.training import as_measured
from jointnas.network.blueprint import Blueprint
from jointnas.space.constraint import TRAINING_METRICS
from jointnas.training.precision import trains_in_bfloat16
from jointnas.training.recipe import Recipe
from jointnas.training.recipe_columns import effective

DATABASE = "measurements.sqlite"
FORMAT = 1  # increased when the way of measuring changes
WAIT_SECONDS = 60.0  # for another process that writes


class Store:
    """Measured values by key. Each call opens the file, so that a store can be passed to any thread or process."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_folder() / DATABASE

    def read(self, keys: Iterable[str]) -> dict[str, float]:
        """Return the stored values of these keys. Raises `DataError`."""
        with self._opened() as db:
            rows = [(key, db.execute("SELECT value FROM figures WHERE key = ?", (key,)).fetchone()) for key in keys]
            return {key: float(row[0]) for key, row in rows if row}

    def write(self, figures: Mapping[str, float]) -> None:
        """Store values; they replace older ones of the same keys. Raises `DataError`."""
        with self._opened() as db, db:
            db.executemany("INSERT OR REPLACE INTO figures VALUES (?, ?)", figures.items())

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=WAIT_SECONDS)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last figures, never the file
                db.execute(
                    "CREATE TABLE IF NOT EXISTS figures (key TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID"
                )
                yield db
        except (OSError, sqlite3.DatabaseError, ValueError, TypeError) as error:  # the last two for damaged values
            raise DataError(
                f"measurements cannot be stored in {str(self.path)!r} ({error}): delete the file or set JOINTNAS_CACHE"
            ) from error


def surroundings(slot: Slot) -> dict[str, Any]:
    """Return what every measurement in a slot depends on besides the network: the device, its share, the version of torch."""
    if slot.device == "cuda" and not torch.cuda.is_available():
        raise ConstraintError(
            "a GPU's speed is measured on a machine that has one, and this one has none: start the command on such a node, or give "
            "--portfolio 0 and no bound on a measured metric"
        )
    name = torch.cuda.get_device_name(slot.gpus[0] if slot.gpus else 0) if slot.device == "cuda" else processor_name()
    share = {"device": slot.device, "threads": slot.threads, "workers": slot.workers}
    return {"format": FORMAT, **share, "name": name, "torch": torch.__version__}


def key(metric: str, network: Blueprint, recipe: Recipe, place: Mapping[str, Any]) -> str:
    """Return the key of a measurement: JSON of all that it depends on; `place` comes from `surroundings`.

    A network of a library depends on the library's version; training metrics depend on the recipe (see `as_measured`) and the
    precision of training, others on how many views of an image the recipe scores.
    """
    about = {**place, "metric": metric, "network": network.digest(), "precision": "float32"}
    if network.libraries:
        about["libraries"] = {name: version(name) for name in network.libraries}
    if metric in TRAINING_METRICS:
        if trains_in_bfloat16(torch.device(str(place["device"]))):
            about["precision"] = "bfloat16"
        about["recipe"] = effective(as_measured(recipe), *network.input_shape[1:])
    else:
        about["views"] = recipe.views
    return json.dumps(about, sort_keys=True)
