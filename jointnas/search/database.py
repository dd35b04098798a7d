"""A SQLite file whose format has numbered migrations, and in which each change is one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from jointnas.errors import RunError

WAIT_SECONDS = 30.0  # for another process that writes
DAMAGES = (sqlite3.DatabaseError, sqlite3.OperationalError, UnicodeDecodeError)
"""What a damaged, locked or full file causes, the last one where a text is damaged; their subclasses are faults of the program."""

Migration = str | Callable[[sqlite3.Connection], None]
"""SQL statements, or a function where the rows that a database holds are converted in Python."""


class Database:
    """An open file; any number of processes of one machine may have it open.

    name: what it belongs to, in messages, as in "the run 'runs/photos'". go_on: what a user does when the cause of an error is gone. A file
    that has seen n of the migrations has `user_version` n. new: whether it may be empty before. Raises `RunError` for a file that is no
    database, is damaged or locked, or has a newer format.
    """

    def __init__(
        self, path: Path, name: str, migrations: Sequence[Migration], *, go_on: str, new: bool = False
    ) -> None:
        self.name, self._migrations, self._go_on = name, migrations, go_on
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=WAIT_SECONDS)
        except sqlite3.Error as error:
            raise RunError(f"{name} cannot be opened ({error}): check the path and its permissions") from error
        self._connection.row_factory = sqlite3.Row
        is_open = False
        try:
            self._migrate(new)
            is_open = True
        except (sqlite3.Error, UnicodeDecodeError) as error:
            remedy = _remedy(error) if "locked" in str(error) else "restore the file, or make the folder writable"
            raise RunError(f"the database of {name} cannot be used ({error}): {remedy}") from error
        finally:
            if not is_open:
                self.close()

    def _migrate(self, new: bool) -> None:
        version, newest = self._version, len(self._migrations)
        if version > newest:
            raise RunError(f"{self.name} has format {version}, but this version reads up to {newest}: upgrade jointnas")
        if version == 0 and not new:
            raise RunError(f"the database of {self.name} is empty: start a new one")
        if version == newest:
            return
        db = self._connection
        db.execute("PRAGMA journal_mode = WAL")
        for number, migration in enumerate(self._migrations, 1):
            db.execute("BEGIN IMMEDIATE")  # then nobody else is at it, who may have been faster
            if self._version < number:
                if callable(migration):
                    migration(db)
                else:
                    for statement in filter(str.strip, migration.split(";")):
                        db.execute(statement)
                db.execute(f"PRAGMA user_version = {number}")
            db.execute("COMMIT")

    @property
    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Return what a query finds. Raises `RunError` for a damaged or locked file."""
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.ProgrammingError:  # the fault of the caller, such as another thread
            raise
        except (sqlite3.Error, UnicodeDecodeError) as error:
            remedy = _remedy(error) if "locked" in str(error) else "restore the file"
            raise RunError(f"the database of {self.name} cannot be read ({error}): {remedy}") from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Return a context in which all changes are made, or none. Raises `RunError` where they cannot be."""
        db = self._connection
        try:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except BaseException as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if type(error) in DAMAGES:
                raise RunError(
                    f"{self.name} cannot be written ({error}): {_remedy(error)}, then {self._go_on}"
                ) from error
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _remedy(error: BaseException) -> str:
    """Return what a user can do about a database that cannot be used."""
    text = str(error)
    if "locked" in text:
        return "end the program that holds it"
    if "malformed" in text or "not a database" in text or isinstance(error, UnicodeDecodeError):
        return "restore the file"
    if "unable to open" in text or "readonly" in text:
        return "make its folder writable"
    return "make room on the disk"


class HasDatabase(Protocol):
    """What keeps its data in a database."""

    _db: Database


S = TypeVar("S", bound=HasDatabase)
P = ParamSpec("P")
T = TypeVar("T")


def undamaged(read: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Return a method that raises `RunError` where its database holds what no version writes, as after a damage."""

    @wraps(read)
    def checked(owner: S, /, *args: P.args, **options: P.kwargs) -> T:
        try:
            return read(owner, *args, **options)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunError(f"the database of {owner._db.name} is damaged ({error}): restore the file") from error

    return checked
