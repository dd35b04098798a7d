"""What all tests share: a cache of their own, a core of their own beside other test processes, and workers that start fast."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import forkserver

import pytest
import torch

from jointnas.search.search import POOL_SIZE, Search
from jointnas.search.winners import STAGE_TWO_BUDGET
from jointnas.training.job import WORKER_MODULES


def pytest_configure(config):
    """Give each of several test processes (`-n 2`) one core, so that none disturbs another's timings."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOINTNAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _fast_workers():
    """Import what trainings need once for all workers of the session, whichever executor comes first."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.set_forkserver_preload(list(WORKER_MODULES))
        forkserver.ensure_running()


@pytest.fixture(scope="session", autouse=True)
def _small_searches():
    """Draw small pools and let engines score few candidates, as most tests do not depend on how good the winners are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Search.__init__.__kwdefaults__, "pool_size", 2_000)
        patch.setattr("jointnas.search.winners.STAGE_TWO_BUDGET", 600)
        yield


@pytest.fixture
def full_search(monkeypatch):
    """Searches as users have them, for a test that depends on it."""
    monkeypatch.setitem(Search.__init__.__kwdefaults__, "pool_size", POOL_SIZE)
    monkeypatch.setattr("jointnas.search.winners.STAGE_TWO_BUDGET", STAGE_TWO_BUDGET)


@pytest.fixture
def two_cores(monkeypatch):
    """Let slots share two cores, however many this process may use."""
    monkeypatch.setattr("jointnas.execution.slots.available_cores", lambda: 2)


@pytest.fixture(scope="module")
def one_thread():
    """Tiny networks are several times as fast without a thread pool."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
