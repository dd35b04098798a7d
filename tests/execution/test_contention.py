"""The share of the processor: near 1 on a core of one's own, near 1/2 beside a busy process, none where it is not counted."""

from __future__ import annotations

import time

import pytest

from jointnas.execution import contention
from jointnas.execution.contention import CpuShare, ThreadTimes, read_thread_times
from tests.contention import busy_neighbour, counts_waiting


def write_times(folder, **threads):
    """Write the scheduler's counts of threads, named t1, t2 …, where a system has them."""
    for number, (running, waiting) in threads.items():
        (folder / number).mkdir(exist_ok=True)
        (folder / number / "schedstat").write_text(f"{running} {waiting} 7\n")


@counts_waiting
def test_a_busy_process_on_the_same_core_takes_half_of_it():
    with busy_neighbour():
        share, end = CpuShare(), time.monotonic() + 1.5
        while time.monotonic() < end:
            pass
        beside = share.read()
    assert beside is not None
    assert 0 < beside < 0.75  # how far below a half depends on what else runs there


def test_only_what_came_after_the_start_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(contention, "THREADS", tmp_path)
    write_times(tmp_path, t1=(1000, 9000))
    share = CpuShare()
    write_times(tmp_path, t1=(1300, 9100))
    assert share.read() == 300 / 400


def test_threads_count_from_their_own_start_and_those_that_ended_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(contention, "THREADS", tmp_path)
    write_times(tmp_path, t1=(1000, 0), t2=(500, 500), t3=(700, 0))
    share = CpuShare()
    write_times(tmp_path, t1=(1600, 200), t3=(100, 0), t4=(100, 0))  # t3 is a new thread under an old number
    (tmp_path / "t2" / "schedstat").unlink()
    assert share.read() == (600 + 100 + 100) / (600 + 200 + 100 + 100)


@pytest.mark.parametrize("text", [None, "", "none of these"])
def test_a_system_that_does_not_count_has_no_share(text, tmp_path, monkeypatch):
    monkeypatch.setattr(contention, "THREADS", tmp_path / "task")
    if text is not None:
        (tmp_path / "task" / "1").mkdir(parents=True)
        (tmp_path / "task" / "1" / "schedstat").write_text(text)
    assert read_thread_times() == {}
    assert CpuShare().read() is None


def test_counts_that_are_always_zero_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr(contention, "THREADS", tmp_path)
    write_times(tmp_path, t1=(0, 0))
    assert read_thread_times() == {"t1": ThreadTimes(0, 0)}
    assert CpuShare().read() is None
