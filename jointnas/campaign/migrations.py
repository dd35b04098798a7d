"""The numbered migrations of a run's database."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from jointnas.search.database import Migration

CREATED = "created_at"


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
    db.execute(  # a new table, because SQLite before 3.35 cannot drop columns
        "CREATE TABLE converted (number INTEGER PRIMARY KEY, round INTEGER NOT NULL, identity TEXT NOT NULL UNIQUE, "
        "candidate TEXT NOT NULL, seed INTEGER NOT NULL, predicted REAL, std REAL, asked_at REAL NOT NULL, ended_at REAL, "
        "observation TEXT)"
    )
    db.execute(f"INSERT INTO converted ({kept}) SELECT {kept} FROM trials")
    db.executemany("UPDATE converted SET observation = ? WHERE number = ?", observations)
    db.execute("DROP TABLE curves")
    db.execute("DROP TABLE trials")
    db.execute("ALTER TABLE converted RENAME TO trials")


def _add_kinds(db: sqlite3.Connection) -> None:
    """Give each trial a kind and a repeat, where these were words behind its identity, and each run a kind and a context."""
    specification = {row["key"]: json.loads(row["value"]) for row in db.execute("SELECT * FROM specification")}
    last_round = db.execute("SELECT MAX(round) FROM trials").fetchone()[0]
    is_baselines = "baselines" in specification
    db.execute(
        "CREATE TABLE converted (number INTEGER PRIMARY KEY, round INTEGER NOT NULL, kind TEXT NOT NULL, repeat INTEGER NOT NULL, "
        "identity TEXT NOT NULL, candidate TEXT NOT NULL, seed INTEGER NOT NULL, predicted REAL, std REAL, asked_at REAL NOT NULL, "
        "ended_at REAL, observation TEXT, UNIQUE (identity, kind, repeat))"
    )
    for row in db.execute("SELECT * FROM trials").fetchall():
        identity, _, word = row["identity"].partition(" ")
        number = int(word) - 1 if word.isdecimal() else 0
        kind = "confirmation" if word == "confirmed" else "repeat" if number and not is_baselines else "trial"
        placed = last_round if kind == "confirmation" else row["round"]
        db.execute(
            "INSERT INTO converted VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (row["number"], placed, kind, number, identity, *tuple(row)[3:]),
        )
    db.execute("DROP TABLE trials")
    db.execute("ALTER TABLE converted RENAME TO trials")
    if specification.keys() - {CREATED}:
        db.execute("DELETE FROM specification WHERE key != ?", (CREATED,))
        rows = [(key, json.dumps(value)) for key, value in _typed(specification).items()]
        db.executemany("INSERT INTO specification VALUES (?, ?)", rows)


CONTEXT = ("fingerprint", "input_shape", "classes", "slot", "space", "prior")
"""What a specification of format 3 held of the data and the machine, beside what the user asked for."""


def _typed(old: dict[str, Any]) -> dict[str, Any]:
    """Return the spec, with its kind, and the context in a specification of format 3, which held them in one."""
    context = {key: old.get(key) for key in CONTEXT}
    spec = {key: value for key, value in old.items() if key not in (CREATED, "real", "from", *CONTEXT)}
    spec |= {"workers": old["slot"]["workers"], "device": old["slot"]["device"]}
    if "baselines" in old:
        kept = {key: spec[key] for key in ("data", "clock", "seed", "workers", "device", "baselines")}
        return {"spec": {**kept, "kind": "baselines", "repeats": old["rounds"]}, "context": context}
    spec["space"] = old["space"]
    if "from" in old:
        return {"spec": {**spec, "kind": "adopted", "predictor": old["from"]}, "context": context}
    spec["prior"] = None if old.get("prior") else "none"
    if old.get("real"):
        return {"spec": {**spec, "kind": "direct"}, "context": context}
    spec.pop("repeats", None)
    return {"spec": {**spec, "kind": "autotrain" if "default" in old else "search"}, "context": context}


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
    _add_kinds,
    "ALTER TABLE winners ADD COLUMN found_by TEXT NOT NULL DEFAULT '[]'",
    "ALTER TABLE trials ADD COLUMN parent INTEGER REFERENCES trials (number)",
    "ALTER TABLE trials ADD COLUMN disturbed TEXT",
)
"""Numbered by position; a database that has seen n of them has user_version n."""
