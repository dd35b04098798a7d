"""The run store: a folder with one SQLite file, committed trial by trial, so that `kill -9` loses only what is in flight."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from jointnas.campaign.migrations import CREATED, MIGRATIONS
from jointnas.campaign.spec import Spec, spec_from_json
from jointnas.campaign.trial import Trial
from jointnas.errors import RunError
from jointnas.execution.slots import Slot
from jointnas.search.database import Database, undamaged
from jointnas.search.objective import score_of
from jointnas.search.winners import Winner
from jointnas.space.space import Space
from jointnas.training.observation import Observation

if TYPE_CHECKING:
    from jointnas.data.dataset import Data  # it imports PyTorch, which reading a run does without


DATABASE = "run.sqlite"
LOCK = ".lock"


@dataclass(frozen=True)
class Context:
    """What a run was started on: fingerprint, shape (C, H, W) and classes of its data, its slot, its space, its prior.

    space: TOML of the space in force, restricted to what the data allow. prior: the digest of the predictor it started from. Data's
    fields are None where the training function brings its own, the space's where the run has none.
    """

    fingerprint: str | None
    input_shape: tuple[int, ...] | None
    classes: tuple[str, ...] | None
    slot: Slot
    space: str | None = None
    prior: str | None = None

    @classmethod
    def of(cls, space: Space | None, data: Data | None, slot: Slot, prior: str | None = None) -> Context:
        """Return the context of a run in this space, on this data, in slots of this kind."""
        text = None if space is None else space.to_toml()
        if data is None:
            return cls(None, None, None, slot, text, prior)
        return cls(data.fingerprint, data.input_shape, data.classes, slot, text, prior)

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; `from_json` gives an equal context back."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Context:
        """Return what `to_json` wrote."""
        tuples: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**{**tuples, "slot": Slot.from_json(values["slot"])})


class Run:
    """An open run folder. Close it, or use it as a context manager."""

    def __init__(self, path: Path, database: Database, lock: FileLock | None) -> None:
        self.path, self._db, self._lock = path, database, lock

    # ------------------------------------------------------------------------------------------------------ opening

    @classmethod
    def create(cls, path: Path, spec: Spec, context: Context) -> Run:
        """Return a new run, locked for writing, in a new or empty folder. Raises `RunError` for another, or one that cannot be written."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            is_free = {file.name for file in path.iterdir()} <= {
                LOCK
            }  # as a run that was killed at its start leaves it
        except OSError as error:
            raise RunError(
                f"the run folder {str(path)!r} cannot be made ({error.strerror}): choose another with --out"
            ) from error
        lock = locked(path) if is_free else None
        if lock is None or (path / DATABASE).exists():  # which another process may just have made
            if lock:
                lock.release()
            remedy = "go on with it with --resume, or choose another folder with --out"
            raise RunError(f"a new run needs a new folder, got {str(path)!r}, which exists: {remedy}")
        run = cls._open(path, lock, new=True)
        with run._closed_on_error(), run._db.transaction() as db:
            values = {CREATED: time.time(), "spec": spec.to_json(), "context": context.to_json()}
            rows = [(key, json.dumps(value)) for key, value in values.items()]
            db.executemany("INSERT INTO specification VALUES (?, ?)", rows)
        return run

    @classmethod
    def open(cls, path: Path, *, write: bool = False) -> Run:
        """Return the run in a folder; with `write` it is locked. Raises `RunError` when it is missing, in use or newer."""
        if not (path / DATABASE).is_file():
            raise RunError(f"a run is a folder with {DATABASE}, got {str(path)!r}: check the path")
        run = cls._open(path, locked(path) if write else None)
        with run._closed_on_error():
            if not run._settings():
                raise RunError(f"the run {str(path)!r} was interrupted while it was made and holds nothing: delete it")
        return run

    @classmethod
    def _open(cls, path: Path, lock: FileLock | None, new: bool = False) -> Run:
        try:
            name, go_on = f"the run {str(path)!r}", "repeat the command, a search with --resume"
            return cls(path, Database(path / DATABASE, name, MIGRATIONS, go_on=go_on, new=new), lock)
        except RunError:
            if lock:
                lock.release()
            raise

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
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

    @undamaged
    def _settings(self) -> dict[str, Any]:
        rows = self._db.rows("SELECT * FROM specification WHERE key != ?", (CREATED,))
        return {row["key"]: json.loads(row["value"]) for row in rows}

    @property
    @undamaged
    def spec(self) -> Spec:
        """What the run was asked to do."""
        return spec_from_json(self._settings()["spec"])

    @property
    @undamaged
    def score(self) -> str:
        """Which score of its trainings the run maximises."""
        return score_of(str(self._settings()["spec"].get("objective", "")))

    def replace_spec(self, spec: Spec) -> None:
        """Record a spec in the place of the earlier one."""
        with self._db.transaction() as db:
            text = json.dumps(spec.to_json())
            db.execute("UPDATE specification SET value = ? WHERE key = 'spec'", (text,))

    @property
    @undamaged
    def context(self) -> Context:
        """What the run was started on."""
        return Context.from_json(self._settings()["context"])

    @property
    def space(self) -> Space:
        """The space that the run's candidates are of, bound to its data. Raises `RunError` for a run without one."""
        context = self.context
        if context.space is None:
            raise RunError(f"the run {str(self.path)!r} searched no space: name the run of a search")
        return Space.from_toml(context.space, context.input_shape, len(context.classes) if context.classes else None)

    @property
    @undamaged
    def created_at(self) -> float:
        """When the run was started, in seconds of Unix time."""
        (row,) = self._db.rows("SELECT value FROM specification WHERE key = ?", (CREATED,))
        return float(row["value"])

    def add_trials(self, trials: Sequence[Trial]) -> None:
        """Record trials that were asked for, all or none of them."""
        columns = "number, round, kind, repeat, identity, candidate, seed, predicted, std, parent, asked_at"
        rows = [
            (
                *(t.number, t.round, t.kind, t.repeat, t.identity),
                json.dumps(t.candidate),
                t.seed,
                t.predicted,
                t.std,
                t.parent,
            )
            for t in trials
        ]
        with self._db.transaction() as db:
            db.executemany(
                f"INSERT INTO trials ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(*row, time.time()) for row in rows],
            )

    def end_trial(self, number: int, observation: Observation) -> None:
        """Record the observation that a trial ended with."""
        values = (time.time(), json.dumps(observation.to_json()), number)
        with self._db.transaction() as db:
            db.execute("UPDATE trials SET ended_at = ?, observation = ? WHERE number = ?", values)

    def reopen(self, numbers: Sequence[int], *, disturbed: bool) -> None:
        """Let trials wait for another training. disturbed: keep their observations as those of disturbed trainings; else they are dropped."""
        kept = "observation" if disturbed else "disturbed"
        with self._db.transaction() as db:
            db.executemany(
                f"UPDATE trials SET disturbed = {kept}, observation = NULL, ended_at = NULL WHERE number = ?",
                [(number,) for number in numbers],
            )

    @undamaged
    def trials(self) -> list[Trial]:
        """Return all trials in the order they were asked for."""
        rows, metric = self._db.rows("SELECT * FROM trials ORDER BY number"), self.score
        return [
            Trial(
                number=row["number"],
                round=row["round"],
                candidate=json.loads(row["candidate"]),
                seed=row["seed"],
                identity=row["identity"],
                kind=row["kind"],
                repeat=row["repeat"],
                predicted=row["predicted"],
                std=row["std"],
                observation=_observation(row["observation"]),
                parent=row["parent"],
                disturbed=_observation(row["disturbed"]),
                metric=metric,
            )
            for row in rows
        ]

    def ended_at(self) -> dict[int, float]:
        """Return when each trial ended, in seconds of Unix time, by number; those in flight are absent."""
        rows = self._db.rows("SELECT number, ended_at FROM trials WHERE ended_at IS NOT NULL")
        return {row["number"]: float(row["ended_at"]) for row in rows}

    # ------------------------------------------------------------------------------------------------ rounds, queries

    def end_round(self, number: int, trials: int, rank_correlation: float | None) -> None:
        """Record that a round's trials ended and how well the predictor, refitted, ranks."""
        with self._db.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO rounds VALUES (?, ?, ?, ?)", (number, trials, rank_correlation, time.time())
            )

    def rounds(self) -> list[dict[str, Any]]:
        """Return the ended rounds: number, trials until then, rank_correlation, ended_at."""
        return [dict(row) for row in self._db.rows("SELECT * FROM rounds ORDER BY number")]

    def add_query(self, constraints: Sequence[str], engine: str, seed: int, winners: Sequence[Winner]) -> int:
        """Record a question to the predictor and its winners; return the query's number, from 1 on."""
        with self._db.transaction() as db:
            cursor = db.execute(
                "INSERT INTO queries (constraints, engine, seed, at) VALUES (?, ?, ?, ?)",
                (json.dumps(list(constraints)), engine, seed, time.time()),
            )
            number = int(cursor.lastrowid or 0)
            for rank, w in enumerate(winners, 1):
                db.execute(
                    "INSERT INTO winners VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        number,
                        rank,
                        json.dumps(w.candidate),
                        w.mean,
                        w.std,
                        w.accuracy,
                        json.dumps(w.costs),
                        json.dumps(w.found_by),
                    ),
                )
        return number

    @undamaged
    def queries(self) -> list[dict[str, Any]]:
        """Return the queries: number, constraints, engine, seed, at."""
        rows = self._db.rows("SELECT * FROM queries ORDER BY number")
        return [{**dict(row), "constraints": json.loads(row["constraints"])} for row in rows]

    @undamaged
    def winners(self, query: int | None = None) -> list[Winner]:
        """Return the winners of a query, best first; of the latest when none is named. Raises `RunError`."""
        numbers = [q["number"] for q in self.queries()]
        if not numbers:
            raise RunError(
                f"the search of the run {str(self.path)!r} has not ended, so it has no winners: continue it with --resume"
            )
        query = numbers[-1] if query is None else query
        if query not in numbers:
            raise RunError(f"the run has no query {query}: choose one of {', '.join(map(str, numbers))}")
        rows = self._db.rows("SELECT * FROM winners WHERE query = ? ORDER BY rank", (query,))
        return [
            Winner(
                json.loads(r["candidate"]),
                r["predicted"],
                r["std"],
                r["accuracy"],
                json.loads(r["costs"]),
                tuple(json.loads(r["found_by"])),
            )
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
            raise RunError(f"query {query} has {len(self.winners(query))} winners, got rank {rank}: choose one of them")
        if not (val_accuracies and test_accuracies):
            raise RunError(f"no training of winner {rank} succeeded: there is nothing to record")
        values = (dict(clock), dict(slot), list(val_accuracies), list(test_accuracies))
        texts = [json.dumps(value, sort_keys=True) for value in values]
        with self._db.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO retrained VALUES (?, ?, ?, ?, ?, ?, ?)", (query, rank, *texts, time.time())
            )

    @undamaged
    def retrained(self) -> list[dict[str, Any]]:
        """Return winners trained again: query, rank, candidate, predicted, std, clock, slot, val_ and test_accuracies, at."""
        rows = self._db.rows(
            "SELECT query, rank, candidate, predicted, std, clock, slot, val_accuracies, test_accuracies, at "
            "FROM retrained JOIN winners USING (query, rank) ORDER BY query, rank, at"
        )
        texts = ("candidate", "clock", "slot", "val_accuracies", "test_accuracies")
        return [{**dict(row), **{name: json.loads(row[name]) for name in texts}} for row in rows]


def _observation(text: str | None) -> Observation | None:
    return Observation.from_json(json.loads(text)) if text else None


def locked(path: Path, what: str = "the run", option: str = "--out") -> FileLock:
    """Return the lock of a folder that one process writes at a time, acquired. Raises `RunError` that names what it is."""
    if not os.access(path, os.W_OK):
        raise RunError(f"{what} folder {str(path)!r} is not writable: change its permissions or choose another")
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(
            f"{what} {str(path)!r} is in use by another process: wait for it or choose another {option}"
        ) from error
    except OSError as error:
        raise RunError(
            f"{what} folder {str(path)!r} cannot be locked ({error.strerror}): change its permissions or choose another"
        ) from error
    return lock
