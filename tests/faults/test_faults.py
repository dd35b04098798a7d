"""A short form of `benchmarks.faults`: each kind of fault once, at moments drawn by fixed seeds."""

from __future__ import annotations

import random
import sys
from functools import partial

import pytest

from tests.faults.faults import CannotHappen, faults, kill, kill_at_write

SECONDS = 4.0  # about as long as the fast search takes
KILLS = {
    **{f"kill -9 of {target}": partial(kill, "search", target, SECONDS) for target in ("command", "worker")},
    **{f"kill -9 before write {n}": partial(kill_at_write, "search", n) for n in (3, 60)},
}
CHOSEN = (
    "Ctrl-C twice",
    "the disk is full",
    "the database is cut off",
    "two searches on one run at once",
    "a file of the image cache is cut off",
    "a training starts a process that never ends",
)
FAULTS = {**KILLS, **{name: fault for name, (fault, _) in faults().items() if name in CHOSEN}}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the faults are made by Linux's signals and mounts")


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_lost(name, tmp_path):
    try:
        FAULTS[name](tmp_path, random.Random(name))
    except CannotHappen as reason:
        pytest.skip(str(reason))
