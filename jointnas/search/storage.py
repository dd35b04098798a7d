"""The candidates of a search: those that were asked, and the observations of those that were trained; in memory, and in a file."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from jointnas.errors import SearchError
from jointnas.search.database import Database, Migration, undamaged
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.space.space import Space
from jointnas.training.observation import Observation


class Observations:
    """Codes of a bound space with their observations, each identity once; the latest observation of an identity counts."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.asked: set[str] = set()  # identities that were asked or observed
        self._pending: dict[str, Codes] = {}  # codes of those that were asked and not observed
        self._codes: list[Codes] = []
        self._by_identity: dict[str, Observation] = {}

    def ask(self, codes: Codes, identities: Sequence[str]) -> None:
        """Add (n, knobs) codes that are asked; those that were observed stay so."""
        self.asked.update(identities)
        waiting = [(i, row) for row, i in zip(codes, identities, strict=True) if i not in self._by_identity]
        self._pending.update(waiting)

    def add(self, codes: Codes, identities: Sequence[str], observations: Sequence[Observation]) -> bool:
        """Add the observations of (n, knobs) codes; return whether one is new or changed for a predictor."""
        changed = False
        for row, identity, observation in zip(codes, identities, observations, strict=True):
            before = self._by_identity.get(identity)
            if before is None:
                self._codes.append(row)
            changed |= before is None or _learned(before) != _learned(observation)
            self._by_identity[identity] = observation
            self._pending.pop(identity, None)
        self.asked.update(identities)
        return changed

    @property
    def pending(self) -> Codes:
        """The (n, knobs) codes of the candidates that were asked and not observed."""
        return np.array(list(self._pending.values())).reshape(-1, len(self.space.knobs))

    @property
    def codes(self) -> Codes:
        """The (n, knobs) observed codes, in the order of their first observation."""
        return np.array(self._codes).reshape(-1, len(self.space.knobs))

    @property
    def observations(self) -> list[Observation]:
        """The (n,) observations of `codes`."""
        return list(self._by_identity.values())

    @property
    def identities(self) -> Set[str]:
        """The identities of `codes`."""
        return self._by_identity.keys()

    @property
    def n_trained(self) -> int:
        """How many candidates have an accuracy."""
        return sum(o.accuracy is not None for o in self._by_identity.values())

    @property
    def failed(self) -> Set[str]:
        """The identities of candidates whose training failed."""
        return {identity for identity, o in self._by_identity.items() if o.accuracy is None}

    def accuracies(self, identities: Sequence[str]) -> NDArray[np.float64]:
        """Return the (n,) observed accuracies of identities; NaN for a failure and for what was not observed."""
        observed = [self._by_identity.get(identity) for identity in identities]
        return np.array([np.nan if o is None or o.accuracy is None else o.accuracy for o in observed], dtype=np.float64)


def _learned(observation: Observation) -> tuple[float | None, float | None, int]:
    """Return what a predictor learns of an observation."""
    return observation.accuracy, observation.smoothed_accuracy, observation.trainings


TRIALS: tuple[Migration, ...] = (
    """
    CREATE TABLE searches (name TEXT PRIMARY KEY, settings TEXT NOT NULL, created_at REAL NOT NULL);
    CREATE TABLE trials (
        id INTEGER PRIMARY KEY, search TEXT NOT NULL REFERENCES searches (name), identity TEXT NOT NULL,
        candidate TEXT NOT NULL, owner TEXT, observation TEXT, change INTEGER NOT NULL, asked_at REAL NOT NULL, told_at REAL,
        UNIQUE (search, identity)
    );
    CREATE INDEX changes ON trials (search, change)
    """,
)
"""The format of a storage. change: grows with every change of a row, so that a process reads what is new to it alone."""


@dataclass(frozen=True)
class StoredTrial:
    """A candidate in the file, with its number there. Its observation is None until its training has ended."""

    id: int
    identity: str
    candidate: Candidate
    observation: Observation | None


class Storage:
    """The trials of one search in a SQLite file, which any number of processes of one machine may share; a file may hold several searches.

    settings: what must be equal for all processes of the search. Raises `RunError` for a file that cannot be used, `SearchError` for other
    settings than those that the search was begun with.
    """

    def __init__(self, path: str | Path, name: str, settings: Mapping[str, Any]) -> None:
        self.path, self.name = Path(path), name
        self._db = Database(self.path, f"the storage {str(path)!r}", TRIALS, go_on="start the program again", new=True)
        self._seen = 0  # the latest change that was read
        text = json.dumps(settings, sort_keys=True)
        with self._db.transaction() as db:
            db.execute("INSERT OR IGNORE INTO searches VALUES (?, ?, ?)", (name, text, time.time()))
        before = self._settings()
        if before != settings:
            setting = next((key for key in settings if before.get(key) != settings[key]), "version of jointnas")
            raise SearchError(
                f"the search {name!r} in {str(path)!r} was begun with another {setting}: use the same one, or another name"
            )

    @undamaged
    def _settings(self) -> dict[str, Any]:
        (row,) = self._db.rows("SELECT settings FROM searches WHERE name = ?", (self.name,))
        return dict(json.loads(row["settings"]))

    @undamaged
    def news(self) -> list[StoredTrial]:
        """Return the trials that any process has added or changed since the last call, in the order of the changes."""
        rows = self._db.rows(
            "SELECT * FROM trials WHERE search = ? AND change > ? ORDER BY change", (self.name, self._seen)
        )
        self._seen = max([self._seen, *(row["change"] for row in rows)])
        return [_stored(row) for row in rows]

    def claim(self, candidates: Sequence[Candidate], identities: Sequence[str]) -> list[int | None]:
        """Reserve candidates for this process. Return their ids, None for those that are in the file already."""
        ids: list[int | None] = []
        with self._db.transaction() as db:
            for candidate, identity in zip(candidates, identities, strict=True):
                cursor = db.execute(
                    "INSERT OR IGNORE INTO trials (search, identity, candidate, owner, change, asked_at) VALUES (?, ?, ?, ?, ?, ?)",
                    (self.name, identity, json.dumps(candidate), _process(), self._next_change(db), time.time()),
                )
                ids.append(cursor.lastrowid if cursor.rowcount else None)
        return ids

    @undamaged
    def adopt(self, n: int) -> list[StoredTrial]:
        """Reserve for this process at most n trials without a result whose process, on this machine, has ended; return them."""
        with self._db.transaction() as db:
            rows = db.execute(
                "SELECT * FROM trials WHERE search = ? AND observation IS NULL ORDER BY id", (self.name,)
            ).fetchall()
            left = [row for row in rows if _has_ended(row["owner"])][:n]
            for row in left:
                db.execute("UPDATE trials SET owner = ? WHERE id = ?", (_process(), row["id"]))
        return [_stored(row) for row in left]

    def tell(
        self, candidates: Sequence[Candidate], identities: Sequence[str], observations: Sequence[Observation]
    ) -> None:
        """Record the observations of candidates, asked or not, in the place of earlier ones; all or none."""
        with self._db.transaction() as db:
            for candidate, identity, observation in zip(candidates, identities, observations, strict=True):
                text, now = json.dumps(observation.to_json()), time.time()
                db.execute(
                    "INSERT INTO trials (search, identity, candidate, observation, change, asked_at, told_at) VALUES (?, ?, ?, ?, ?, ?, ?) "
                    "ON CONFLICT (search, identity) DO UPDATE SET "
                    "observation = excluded.observation, change = excluded.change, told_at = excluded.told_at",
                    (self.name, identity, json.dumps(candidate), text, self._next_change(db), now, now),
                )

    def _next_change(self, db: sqlite3.Connection) -> int:
        (latest,) = db.execute("SELECT COALESCE(MAX(change), 0) FROM trials WHERE search = ?", (self.name,)).fetchone()
        return int(latest) + 1


def _stored(row: sqlite3.Row) -> StoredTrial:
    text = row["observation"]
    observation = Observation.from_json(json.loads(text)) if text else None
    return StoredTrial(row["id"], row["identity"], json.loads(row["candidate"]), observation)


def _process() -> str:
    """Return this process's name, which no other one has, now or later: machine, number, and time of its start."""
    return json.dumps([socket.gethostname(), os.getpid(), _started_at(os.getpid())])


def _started_at(pid: int) -> float:
    """Return when a process was started; on Linux counted from the system's own start, as its clock may be set. Raises where there is none."""
    try:
        return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except FileNotFoundError:
        return float(psutil.Process(pid).create_time())


def _has_ended(owner: str | None) -> bool:
    """Whether a process of this machine has ended; False for those of other machines, of which nothing is known."""
    if owner is None:
        return False
    host, pid, started = json.loads(owner)
    if host != socket.gethostname():
        return False
    try:
        return _started_at(pid) != float(started)
    except (psutil.NoSuchProcess, ProcessLookupError):  # also while it was looked at
        return True
