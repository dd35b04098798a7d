"""Ask-and-tell in a file: processes share a search, and one that ends in the middle loses nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from jointnas.errors import RunError, SearchError
from jointnas.search import storage as storage_module
from jointnas.search.search import Search
from jointnas.search.storage import Storage
from jointnas.space.space import Space
from jointnas.training.observation import Observation

TEXT = """
format = 1
[recipe]
x = { low = 0.0, high = 1.0 }
y = { low = 0.0, high = 1.0 }
"""


def space():
    return Space.from_toml(TEXT)


def accuracy(candidate):
    return 1 - (candidate["recipe"]["x"] - 0.3) ** 2


def search(path, **options):
    return Search(space(), storage=path, pool_size=500, **options)


def test_a_search_in_a_file_chooses_as_one_in_memory_does(tmp_path):
    stored, plain = search(tmp_path / "a.sqlite", seed=3), Search(space(), pool_size=500, seed=3)
    for _ in range(3):
        batches = [one.ask(3) for one in (stored, plain)]
        assert batches[0] == batches[1]
        for one, batch in zip((stored, plain), batches, strict=True):
            one.tell(batch, [accuracy(c) for c in batch])
    assert stored.best(2) == plain.best(2)
    assert batches[0].ids == (7, 8, 9)
    assert batches[1].ids == ()


def test_a_search_goes_on_in_another_process_with_all_that_was_told(tmp_path):
    first = search(tmp_path / "a.sqlite")
    batch = first.ask(4)
    first.tell(batch, [accuracy(batch[0]), None, Observation(0.25, steps=7), 0.5])
    again = search(tmp_path / "a.sqlite")
    assert again.trained == 3
    assert again.observed_codes.tolist() == first.observed_codes.tolist()
    assert not {json.dumps(c) for c in again.ask(4)} & {json.dumps(c) for c in batch}


def test_two_searches_on_one_file_ask_nothing_twice_and_learn_from_each_other(tmp_path):
    one, other = search(tmp_path / "a.sqlite"), search(tmp_path / "a.sqlite")
    asked = [batch for _ in range(4) for batch in (one.ask(2), other.ask(2))]
    assert len({json.dumps(c) for batch in asked for c in batch}) == 16
    assert one.trained == 0
    for batch in asked:
        other.tell(batch, [accuracy(c) for c in batch])
    one.ask(1)
    assert one.trained == other.trained == 16
    assert len(one.pending) == 1


def test_what_a_process_left_that_has_ended_is_asked_first(tmp_path):
    script = f"""
from tests.search.test_storage import search
batch = search({str(tmp_path / "a.sqlite")!r}).ask(3)
print(batch.ids[0], batch[0]["recipe"]["x"])
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    number, x = ended.stdout.split()
    again = search(tmp_path / "a.sqlite")
    assert len(again.pending) == 3
    batch = again.ask(4)
    assert (batch.ids[0], batch[0]["recipe"]["x"]) == (int(number), float(x))
    assert len(set(batch.ids)) == 4
    assert search(tmp_path / "a.sqlite").ask(1).ids[0] not in batch.ids  # this process has not ended


def test_a_process_that_took_the_number_of_one_that_ended_is_another(tmp_path, monkeypatch):
    search(tmp_path / "a.sqlite").ask(1)
    ids = search(tmp_path / "a.sqlite").ask(1).ids
    assert ids == (2,)
    monkeypatch.setattr(storage_module, "_started_at", lambda pid: 1.0)
    assert search(tmp_path / "a.sqlite").ask(1).ids == (1,)
    monkeypatch.setattr(storage_module.socket, "gethostname", lambda: "elsewhere")
    assert search(tmp_path / "a.sqlite").ask(1).ids == (3,)


def take_turns(path, seed, barrier, results):
    own = search(path, seed=seed)
    barrier.wait()
    told = 0
    for _ in range(5):
        batch = own.ask(1)
        own.tell(batch, [accuracy(c) for c in batch])
        told += len(batch)
    results.put((os.getpid(), told, own.trained))


def test_sixteen_processes_at_once_lose_and_double_nothing(tmp_path, monkeypatch):
    # Without a predictor all of them want the same candidates.
    monkeypatch.setattr("jointnas.search.search.MIN_FIT_EXAMPLES", 10**6)
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    barrier, results = context.Barrier(16), context.Queue()
    processes = [
        context.Process(target=take_turns, args=(tmp_path / "a.sqlite", seed, barrier, results)) for seed in range(16)
    ]
    for process in processes:
        process.start()
    told = [results.get(timeout=120)[1] for _ in processes]
    for process in processes:
        process.join()
    assert told == [5] * 16
    trials = Storage(tmp_path / "a.sqlite", "search", search(tmp_path / "a.sqlite")._settings()).news()
    assert len(trials) == len({t.identity for t in trials}) == 80
    assert all(t.observation and t.observation.accuracy == accuracy(t.candidate) for t in trials)


def test_a_file_holds_several_searches_by_name(tmp_path):
    one, other = search(tmp_path / "a.sqlite", name="one"), search(tmp_path / "a.sqlite", name="other")
    batch = one.ask(2)
    assert other.ask(2) == batch
    one.tell(batch, [0.5, 0.6])
    assert (one.trained, search(tmp_path / "a.sqlite", name="other").trained) == (2, 0)


@pytest.mark.parametrize(
    ("options", "setting"), [({"constraints": ["cost<3"]}, "constraints"), ({"space": TEXT + "z = 3\n"}, "space")]
)
def test_a_search_of_other_settings_under_the_same_name_is_refused(options, setting, tmp_path):
    given = Space.from_toml(options.pop("space", TEXT))
    cost = lambda candidate: {"cost": 1.0}  # noqa: E731
    pool = [{"architecture": {}, "recipe": {"x": x, "y": y}} for x, y in pairwise((0.1, 0.2, 0.3))]
    search(tmp_path / "a.sqlite")
    with pytest.raises(SearchError, match=f"another {setting}"):
        Search(given, storage=tmp_path / "a.sqlite", **options, **({"cost": cost, "pool": pool} if options else {}))


@pytest.mark.parametrize("content", [b"no database", b""])
def test_a_file_that_is_no_storage_is_refused_in_a_sentence(content, tmp_path):
    path = tmp_path / "a.sqlite"
    path.write_bytes(content)
    if content:
        with pytest.raises(RunError, match="restore the file"):
            search(path)
    else:
        assert search(path).trained == 0
    with pytest.raises(RunError, match="check the path"):
        search(tmp_path / "no folder" / "a.sqlite")


def test_a_storage_of_a_newer_format_is_refused(tmp_path):
    search(tmp_path / "a.sqlite")
    with sqlite3.connect(tmp_path / "a.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(RunError, match="format 99"):
        search(tmp_path / "a.sqlite")


def test_a_search_used_from_another_thread_says_so(tmp_path):
    with ThreadPoolExecutor(1) as threads:
        made = threads.submit(search, tmp_path / "a.sqlite").result()
    with pytest.raises(sqlite3.ProgrammingError, match="thread"):
        made.ask(1)
