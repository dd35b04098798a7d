"""Slots: cores and GPUs are shared evenly, and each worker keeps to its own."""

from __future__ import annotations

import os
import sys

import pytest
import torch

from jointnas.cores import available_cores
from jointnas.errors import SearchError
from jointnas.execution import Job, LocalExecutor, Slot, share_slots, slots
from jointnas.execution.slots import nearest_slot
from tests.execution.test_executor import outcomes, prepare

CORES = available_cores()
AFFINITY = getattr(os, "sched_getaffinity", lambda pid: ())(0)


@pytest.fixture
def four_gpus(monkeypatch):
    """A machine with eight cores and four GPUs."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(slots, "available_cores", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_slots_share_the_cores_and_never_oversubscribe_them():
    for workers in range(1, CORES + 1):
        slot = share_slots(workers, "cpu")
        assert slot.threads >= 1
        assert slot.threads * slot.workers <= CORES
        assert (slot.workers, slot.device) == (workers, "cpu")


def test_one_slot_alone_has_the_threads_of_one_of_several():
    alone, several = share_slots(CORES, "cpu", alone=True), share_slots(CORES, "cpu")
    assert (alone.workers, alone.threads) == (1, several.threads)


@pytest.mark.parametrize("workers", [0, -1, CORES + 1])
def test_more_workers_than_cores_or_none_are_refused(workers):
    with pytest.raises(SearchError, match=f"got {workers}"):
        share_slots(workers, "cpu")


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:x", "cuda:0,", "cuda:0,0", "cpu:0", "mps:1", "auto:0", ""])
def test_a_device_that_is_unknown_is_refused(device):
    with pytest.raises(SearchError, match="a device is auto, cpu"):
        share_slots(1, device)


@pytest.mark.parametrize(
    ("workers", "device", "gpus", "name"),
    [
        (4, "cuda", (0, 1, 2, 3), "cuda:0,1,2,3"),
        (6, "auto", (0, 1, 2, 3), "cuda:0,1,2,3"),
        (2, "auto", (0, 1), "cuda:0,1"),
        (4, "cuda:1,3", (1, 3), "cuda:1,3"),
        (1, "cuda:2", (2,), "cuda:2"),
        (2, "cpu", (), "cpu"),
    ],
)
def test_a_device_names_the_gpus_that_its_slots_take(four_gpus, workers, device, gpus, name):
    slot = share_slots(workers, device)
    assert (slot.gpus, slot.name) == (gpus, name)
    assert Slot.from_json(slot.to_json()) == slot


def test_a_gpu_that_is_not_there_is_refused_with_how_many_there_are(four_gpus):
    with pytest.raises(SearchError, match="4 GPUs, numbered from 0, got --device cuda:4"):
        share_slots(1, "cuda:4")


def test_workers_take_gpus_by_turns_see_their_own_alone_and_share_its_memory(four_gpus, monkeypatch):
    slot = share_slots(5, "cuda:1,3")
    places = [slot.place(i) for i in range(5)]
    assert [p.environment["CUDA_VISIBLE_DEVICES"] for p in places] == ["1", "3", "1", "3", "1"]
    assert {p.memory_share for p in places} == {1 / 3}
    assert slot.place(0, alone=True).memory_share == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")  # the user gives this process a part of the machine
    assert [slot.place(i).environment["CUDA_VISIBLE_DEVICES"] for i in (0, 1)] == ["5", "7"]


def test_a_place_on_the_processor_changes_no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert Slot("cpu", 1, 2).place(1).environment["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.skipif(sys.platform != "linux", reason="this system does not pin processes to cores")
@pytest.mark.skipif(
    CORES < 2 or len(getattr(os, "sched_getaffinity", lambda pid: ())(0)) != CORES,
    reason="the cores are not this process's own",
)
def test_workers_stay_on_cores_of_their_own():
    slot = share_slots(2, "cpu")
    with LocalExecutor(prepare, slot) as executor:
        ended = outcomes(executor, [Job(n, {"do": "about"}) for n in range(1, 9)])
    by_worker = {e.result["pid"]: e.result["cores"] for e in ended.values()}
    assert all(len(cores) == slot.threads for cores in by_worker.values())
    used = [core for cores in by_worker.values() for core in cores]
    assert len(used) == len(set(used))


@pytest.mark.parametrize(
    ("affinity", "cores", "slot"),
    [
        ({0, 1, 2, 3}, 2, Slot("cpu", 1, 2)),  # a quota: other containers would be given the same cores
        ({0, 1, 2, 3}, 4, Slot("cpu", 1, 2)),  # a part of the machine
        ({0, 1, 2, 3}, 4, Slot("cpu", 4, 1)),
    ],
)
def test_workers_that_do_not_have_the_machine_to_themselves_are_not_pinned(affinity, cores, slot, monkeypatch):
    monkeypatch.setattr(slots.os, "sched_getaffinity", lambda pid: affinity, raising=False)
    monkeypatch.setattr(slots, "available_cores", lambda: cores)
    assert slot.place(0).cores == ()


def test_cores_are_given_out_in_order(monkeypatch):
    monkeypatch.setattr(slots.os, "sched_getaffinity", lambda pid: {2, 3, 5, 7, 8}, raising=False)
    monkeypatch.setattr(slots, "available_cores", lambda: 5)
    assert [share_slots(2, "cpu").place(i).cores for i in (0, 1)] == [(2, 3), (5, 7)]


def test_the_nearest_slot_is_the_same_one_where_this_machine_has_it() -> None:
    half = Slot("cpu", max(1, available_cores() // 2), 1)  # as of a run with --alone
    assert nearest_slot(half) == half
    assert nearest_slot(Slot("cpu", 10_000, 10_000)) == share_slots(available_cores(), "cpu")
    if not torch.backends.mps.is_available():
        assert nearest_slot(Slot("mps", 1, 1)) == share_slots(1, "cpu")
