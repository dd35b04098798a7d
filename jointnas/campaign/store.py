"""The run store: a folder with one SQLite file, committed trial by trial, so that `kill -9` loses only what is in flight."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from jointnas.errors import RunError, suggest
from jointnas.search.winners import Winner
from jointnas.space.knob_space import Candidate
from jointnas.training.observation import Observation

DATABASE = "run.sqlite"
CREATED = "created_at"
LOCK = ".lock"
RUNS = Path("runs")
CONFIRMING = 0  # the round of the trainings that confirm winners

Migration = str | Callable[[sqlite3.Connection], None]
"""SQL statements, or a function where the rows that a database holds are converted in Python."""


def _store_observations_as_json(db: sqlite3.Connection) -> None:
    """Move the columns and the curve of each observation into one JSON column."""
    columns = ("accuracy", "balanced_accuracy", "fraction", "seconds", "steps", "images_per_second", "failure")
    curves: dict[int, list[list[float]]] = {}
    for row in db.execute("SELECT * FROM curves ORDER BY trial, fraction"):
        curves.setdefault(row["trial"], []).append([row[n] for n in ("fraction", "seconds", "steps", "accuracy")])
    observations = [
        (json.dumps({**{name: row[name] for name in columns}, "curve": curves.get(row["number"], [])}), row["number"])
        for row in db.execute("SELECT * FROM trials WHERE ended_at IS NOT NULL")
    ]
    kept = "number, round, identity, candidate, seed, predicted, std, asked_at, ended_at"
    db.execute(  # a table of its own, as SQLite before 3.35 drops no column
        "CREATE TABLE converted (number INTEGER PRIMARY KEY, round INTEGER NOT NULL, identity TEXT NOT NULL UNIQUE, "
        "candidate TEXT NOT NULL, seed INTEGER NOT NULL, predicted REAL, std REAL, asked_at REAL NOT NULL, ended_at REAL, "
        "observation TEXT)"
    )
    db.execute(f"INSERT INTO converted ({kept}) SELECT {kept} FROM trials")
    db.executemany("UPDATE converted SET observation = ? WHERE number = ?", observations)
    db.execute("DROP TABLE curves")
    db.execute("DROP TABLE trials")
    db.execute("ALTER TABLE converted RENAME TO trials")


MIGRATIONS: tuple[Migration, ...] = (
    """
    CREATE TABLE specification (key TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE trials (
        number INTEGER PRIMARY KEY, round INTEGER NOT NULL, identity TEXT NOT NULL UNIQUE, candidate TEXT NOT NULL,
        seed INTEGER NOT NULL, predicted REAL, std REAL, asked_at REAL NOT NULL, ended_at REAL,
        accuracy REAL, balanced_accuracy REAL, fraction REAL, seconds REAL, steps INTEGER, images_per_second REAL,
        failure TEXT
    );
    CREATE TABLE curves (
        trial INTEGER NOT NULL REFERENCES trials (number), fraction REAL NOT NULL, seconds REAL NOT NULL,
        steps INTEGER NOT NULL, accuracy REAL NOT NULL
    );
    CREATE INDEX curves_by_trial ON curves (trial);
    CREATE TABLE rounds (number INTEGER PRIMARY KEY, trials INTEGER NOT NULL, rank_correlation REAL, ended_at REAL NOT NULL);
    CREATE TABLE queries (
        number INTEGER PRIMARY KEY, constraints TEXT NOT NULL, engine TEXT NOT NULL, seed INTEGER NOT NULL, at REAL NOT NULL
    );
    CREATE TABLE winners (
        query INTEGER NOT NULL REFERENCES queries (number), rank INTEGER NOT NULL, candidate TEXT NOT NULL,
        predicted REAL NOT NULL, std REAL NOT NULL, accuracy REAL, costs TEXT NOT NULL, PRIMARY KEY (query, rank)
    );
    """,
    """
    CREATE TABLE retrained (
        query INTEGER NOT NULL, rank INTEGER NOT NULL, clock TEXT NOT NULL, slot TEXT NOT NULL, val_accuracies TEXT NOT NULL,
        test_accuracies TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (query, rank, clock, slot),
        FOREIGN KEY (query, rank) REFERENCES winners (query, rank)
    );
    """,
    _store_observations_as_json,
)
"""Numbered by position; a database that has seen n of them has user_version n."""


@dataclass(frozen=True)
class Trial:
    """One candidate that a search asked for, and what came of it; None while it waits or runs."""

    number: int
    round: int
    candidate: Candidate
    seed: int
    predicted: float | None = None
    std: float | None = None
    observation: Observation | None = None


class Run:
    """An open run folder. Close it, or use it as a context manager."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: FileLock | None) -> None:
        self.path, self._db, self._lock = path, connection, lock

    # ------------------------------------------------------------------------------------------------------ opening

    @classmethod
    def create(cls, path: Path, specification: Mapping[str, Any]) -> Run:
        """Return a new run, locked for writing. Raises `RunError` when the folder exists or cannot be written."""
        try:
            path.mkdir(parents=True, exist_ok=False)
        except FileExistsError as error:
            remedy = "say --resume to go on with it, or --out for another folder"
            raise RunError(f"a new run makes its own folder, got {str(path)!r}, which exists: {remedy}") from error
        except OSError as error:
            raise RunError(
                f"a run folder is made in a writable place, got {str(path)!r} ({error.strerror}): choose another --out"
            ) from error
        run = cls._open(path, _locked(path), new=True)
        with run._transaction():
            rows = [(key, json.dumps(value)) for key, value in {**specification, CREATED: time.time()}.items()]
            run._db.executemany("INSERT INTO specification VALUES (?, ?)", rows)
        return run

    @classmethod
    def open(cls, path: Path, *, write: bool = False) -> Run:
        """Return an existing run; with `write` it is locked. Raises `RunError` when it is missing, in use or newer."""
        if not (path / DATABASE).is_file():
            beside = list_runs(path.parent) if path.parent.is_dir() else []
            known = [p.name for p in (beside if path.name != str(path) else [*beside, *list_runs()])]
            raise RunError(f"a run is a folder with {DATABASE}, got {str(path)!r}: {suggest(path.name, known)}")
        run = cls._open(path, _locked(path) if write else None)
        if not run.specification:
            run.close()
            raise RunError(
                f"a run says what it searches, got nothing in {str(path)!r}: it was killed while it was made, delete it"
            )
        return run

    @classmethod
    def _open(cls, path: Path, lock: FileLock | None, new: bool = False) -> Run:
        db = sqlite3.connect(path / DATABASE, isolation_level=None)
        db.row_factory = sqlite3.Row
        run, opened = cls(path, db, lock), False
        try:
            run._migrate(new)
            opened = True
        except sqlite3.DatabaseError as error:
            raise RunError(
                f"{DATABASE} of a run is a whole database in a writable folder, got {str(path)!r} ({error}): repair it"
            ) from error
        finally:
            if not opened:
                db.close()
                if lock:
                    lock.release()
        return run

    def _migrate(self, new: bool) -> None:
        version = self._version
        if version > len(MIGRATIONS):
            raise RunError(
                f"this version reads runs up to format {len(MIGRATIONS)}, got format {version} in {str(self.path)!r}: upgrade jointnas"
            )
        if version == 0 and not new:
            raise RunError(f"a run says its format, got none in {str(self.path)!r}: start a new run")
        if version == len(MIGRATIONS):
            return
        self._db.execute("PRAGMA journal_mode = WAL")
        for number, migration in enumerate(MIGRATIONS, 1):
            self._db.execute("BEGIN IMMEDIATE")  # then nobody else is at it, who may have been faster
            if self._version < number:
                if callable(migration):
                    migration(self._db)
                else:
                    for statement in filter(str.strip, migration.split(";")):
                        self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {number}")
            self._db.execute("COMMIT")

    @property
    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise RunError(
                    f"a run is written to a disk with room, got {str(self.path)!r} ({error}): make room, then say the command again, "
                    "a search with --resume"
                ) from error
            raise

    def close(self) -> None:
        """Close the database and release the lock."""
        self._db.close()
        if self._lock:
            self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------- specification, trials

    @property
    def specification(self) -> dict[str, Any]:
        """What the run was started with: space, data, clock, slot, constraints, seed, rounds, batch …"""
        rows = self._db.execute("SELECT * FROM specification WHERE key != ?", (CREATED,))
        return {row["key"]: json.loads(row["value"]) for row in rows}

    @property
    def created_at(self) -> float:
        """When the run was started, in seconds of Unix time."""
        row = self._db.execute("SELECT value FROM specification WHERE key = ?", (CREATED,)).fetchone()
        return float(row["value"])

    def add_trials(self, trials: Sequence[Trial], identities: Sequence[str]) -> None:
        """Record a batch that was asked for, all or none of it."""
        with self._transaction():
            for trial, identity in zip(trials, identities, strict=True):
                self._db.execute(
                    "INSERT INTO trials (number, round, identity, candidate, seed, predicted, std, asked_at) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        trial.number,
                        trial.round,
                        identity,
                        json.dumps(trial.candidate),
                        trial.seed,
                        trial.predicted,
                        trial.std,
                        time.time(),
                    ),
                )

    def end_trial(self, number: int, observation: Observation) -> None:
        """Record the observation that a trial ended with."""
        values = (time.time(), json.dumps(observation.to_json()), number)
        with self._transaction():
            self._db.execute("UPDATE trials SET ended_at = ?, observation = ? WHERE number = ?", values)

    def trials(self) -> list[Trial]:
        """Return all trials in the order they were asked for."""
        rows = self._db.execute("SELECT * FROM trials ORDER BY number")
        return [
            Trial(
                row["number"],
                row["round"],
                json.loads(row["candidate"]),
                row["seed"],
                row["predicted"],
                row["std"],
                Observation.from_json(json.loads(row["observation"])) if row["observation"] else None,
            )
            for row in rows
        ]

    # ------------------------------------------------------------------------------------------------ rounds, queries

    def end_round(self, number: int, trials: int, rank_correlation: float | None) -> None:
        """Record that a round's trials ended and how well the predictor, refitted, ranks."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO rounds VALUES (?, ?, ?, ?)", (number, trials, rank_correlation, time.time())
            )

    def rounds(self) -> list[dict[str, Any]]:
        """Return the ended rounds: number, trials told so far, rank_correlation, ended_at."""
        return [dict(row) for row in self._db.execute("SELECT * FROM rounds ORDER BY number")]

    def add_query(self, constraints: Sequence[str], engine: str, seed: int, winners: Sequence[Winner]) -> int:
        """Record a question to the predictor and its winners; return the query's number, from 1 on."""
        with self._transaction():
            cursor = self._db.execute(
                "INSERT INTO queries (constraints, engine, seed, at) VALUES (?, ?, ?, ?)",
                (json.dumps(list(constraints)), engine, seed, time.time()),
            )
            number = int(cursor.lastrowid or 0)
            for rank, w in enumerate(winners, 1):
                self._db.execute(
                    "INSERT INTO winners VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (number, rank, json.dumps(w.candidate), w.mean, w.std, w.accuracy, json.dumps(w.costs)),
                )
        return number

    def queries(self) -> list[dict[str, Any]]:
        """Return the queries: number, constraints, engine, seed, at."""
        rows = self._db.execute("SELECT * FROM queries ORDER BY number")
        return [{**dict(row), "constraints": json.loads(row["constraints"])} for row in rows]

    def winners(self, query: int | None = None) -> list[Winner]:
        """Return the winners of a query, best first; of the latest when none is named. Raises `RunError`."""
        numbers = [q["number"] for q in self.queries()]
        if not numbers:
            raise RunError(
                f"a run has winners once its search has ended, got none in {str(self.path)!r}: say search --resume"
            )
        query = numbers[-1] if query is None else query
        if query not in numbers:
            raise RunError(f"a query is one of {', '.join(map(str, numbers))}, got {query}: choose one of them")
        rows = self._db.execute("SELECT * FROM winners WHERE query = ? ORDER BY rank", (query,))
        return [
            Winner(json.loads(r["candidate"]), r["predicted"], r["std"], r["accuracy"], json.loads(r["costs"]))
            for r in rows
        ]

    def add_retrained(
        self,
        query: int,
        rank: int,
        clock: Mapping[str, Any],
        slot: Mapping[str, Any],
        val_accuracies: Sequence[float],
        test_accuracies: Sequence[float],
    ) -> None:
        """Record what a winner reached when it was trained again, in the place of earlier ones of this budget and slot.

        Raises `RunError` for a winner that the run does not have, or without an accuracy.
        """
        if not 1 <= rank <= len(self.winners(query)):
            raise RunError(
                f"a winner is one of the {len(self.winners(query))} of query {query}, got {rank}: choose one of them"
            )
        if not (val_accuracies and test_accuracies):
            raise RunError(f"a retrained winner has an accuracy, got none of winner {rank}: leave it out")
        values = (dict(clock), dict(slot), list(val_accuracies), list(test_accuracies))
        texts = [json.dumps(value, sort_keys=True) for value in values]
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO retrained VALUES (?, ?, ?, ?, ?, ?, ?)", (query, rank, *texts, time.time())
            )

    def retrained(self) -> list[dict[str, Any]]:
        """Return winners trained again: query, rank, candidate, predicted, std, clock, slot, val_ and test_accuracies, at."""
        rows = self._db.execute(
            "SELECT query, rank, candidate, predicted, std, clock, slot, val_accuracies, test_accuracies, at "
            "FROM retrained JOIN winners USING (query, rank) ORDER BY query, rank, at"
        )
        texts = ("candidate", "clock", "slot", "val_accuracies", "test_accuracies")
        return [{**dict(row), **{name: json.loads(row[name]) for name in texts}} for row in rows]


def list_runs(folder: Path = RUNS) -> list[Path]:
    """Return the run folders below `folder`, oldest first; those that cannot be read come before all others."""

    def age(path: Path) -> float:
        try:
            with Run.open(path) as run:
                return run.created_at
        except RunError:
            return 0.0

    return sorted((path.parent for path in folder.glob(f"*/{DATABASE}")), key=age)


def find_run(name: str) -> Path:
    """Return the folder of a run named by its path, or by its name in `runs/`."""
    path = Path(name)
    return path if (path / DATABASE).is_file() or not (RUNS / name / DATABASE).is_file() else RUNS / name


def _locked(path: Path) -> FileLock:
    if not os.access(path, os.W_OK):
        raise RunError(f"a run folder is writable, got {str(path)!r}: change its permissions or choose another")
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(
            f"a run has one writer at a time, got {str(path)!r}, which is in use: wait for it or choose another --out"
        ) from error
    return lock
