"""Executors: every job ends exactly once, whatever becomes of the worker that ran it."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from functools import partial
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from jointnas import plugins
from jointnas.errors import JointNASError, SearchError
from jointnas.execution import ENTRY_POINTS, Event, Job, LocalExecutor, Slot, find_executor
from jointnas.execution.executor import LOST
from jointnas.execution.recorded import RecordedExecutor
from jointnas.execution.retrying import RetryingExecutor
from tests.executors import InProcessExecutor, make_in_process

DEADLINE_SECONDS = 60
ONE = Slot("cpu", 1, 1)
LEAKED = []  # in a worker


# ------------------------------------------------------------------------------- what runs in workers, found by name


def prepare():
    return handle


def handle(payload, progress):
    do = payload["do"]
    if do == "square":
        return {"square": payload["x"] ** 2}
    if do == "progress":
        progress(0.25, 1.0)
        progress(0.75, 3.0)
        return {}
    if do == "about":
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        return {"pid": os.getpid(), "cores": cores, "variable": os.environ.get("JOINTNAS_TEST")}
    if do == "once":  # fails in its first attempt, in the way of another job
        marker = Path(payload["marker"])
        if not marker.exists():
            marker.touch()
            return handle(payload["first"], progress)
        return handle({"do": "about"}, progress)
    if do == "imported":
        return {"imported": payload["module"] in sys.modules}
    if do == "threads":
        return {"torch": sys.modules["torch"].get_num_threads(), "environment": os.environ["OMP_NUM_THREADS"]}
    if do == "leak":
        LEAKED.append(b"x" * payload["megabytes"] * 1024**2)
        return {"pid": os.getpid()}
    if do == "wait":
        (Path(payload["folder"]) / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(payload["seconds"])
        return {}
    if do == "print":
        sys.stdout.write("from a job\n")
        sys.stdout.flush()
        os.write(1, b"and below Python\n")
        return {}
    if do == "raise":
        raise {"key": KeyError, "own": JointNASError, "memory": MemoryError, "runtime": RuntimeError}[payload["kind"]](
            payload["message"]
        )
    if do == "exit":
        os._exit(payload["code"])
    if do == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if payload.get("starts"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(payload["starts"]).write_text(str(child.pid))
    Path(payload["pid_file"]).write_text(str(os.getpid()))  # do == "endless"
    while True:
        if payload["report"]:
            progress(0.5, 0.0)
        time.sleep(0.05)


def prepare_torch():
    importlib.import_module("torch")
    return handle


def prepare_with_error():
    raise JointNASError("the images are not there: fetch them")


def prepare_crashing(count_file):
    with open(count_file, "a") as file:
        file.write("x")
    os._exit(7)


# ---------------------------------------------------------------------------------------------- every kind of executor


def make_recorded(prepare, slot, hang_seconds=30, preload=()):
    return RecordedExecutor(LocalExecutor(prepare, slot, hang_seconds, preload), {"data": "none"})


def make_retrying(prepare, slot, hang_seconds=30, preload=()):
    return RetryingExecutor(LocalExecutor(prepare, slot, hang_seconds, preload))


@pytest.fixture(
    scope="module",
    params=[LocalExecutor, make_recorded, make_retrying, make_in_process],
    ids=["local", "recorded", "retrying", "in-process"],
)
def any_executor(request):
    """One executor of each kind that the tests of the contract share: each leaves it working."""
    with closing(request.param(prepare, Slot("cpu", 1, 2))) as shared:
        yield shared


def outcomes(executor, jobs):
    """Return {number: event} of the ends of all jobs, after checking that each ended exactly once."""
    events = list(executor.results(jobs))
    ends = [e for e in events if e.kind in ("done", "failed")]
    assert Counter(e.number for e in ends) == Counter(job.number for job in jobs)
    return {e.number: e for e in ends}


def job(number, folder, **payload):
    """Return a job with a file of its own for what it keeps, as a recorded one has."""
    return Job(number, {**payload, "weights": str(folder / f"{number}.safetensors")})


def test_every_job_ends_once_and_returns_its_result(any_executor, tmp_path):
    ended = outcomes(any_executor, [job(n, tmp_path, do="square", x=n) for n in range(1, 10)])
    assert {n: e.result["square"] for n, e in ended.items()} == {n: n**2 for n in range(1, 10)}


def test_a_job_reports_its_start_then_its_progress_then_its_end(any_executor, tmp_path):
    events = list(any_executor.results([job(1, tmp_path, do="progress")]))
    assert [(e.kind, e.fraction, e.seconds) for e in events] == [
        ("started", 0.0, 0.0),
        ("progress", 0.25, 1.0),
        ("progress", 0.75, 3.0),
        ("done", 0.0, 0.0),
    ]


def test_a_job_that_raises_fails_with_the_errors_type_and_message_and_the_others_finish(any_executor, tmp_path):
    squares = [job(n, tmp_path, do="square", x=n) for n in (1, 2, 3)]
    ended = outcomes(any_executor, [job(9, tmp_path, do="raise", kind="key", message="stem"), *squares])
    assert ended[9].kind == "failed"
    assert ended[9].reason == "KeyError: 'stem'"
    assert all(ended[n].kind == "done" for n in (1, 2, 3))


def test_an_error_of_the_package_fails_with_its_sentence_alone(any_executor, tmp_path):
    sentence = "the rule, the value, the remedy"
    assert outcomes(any_executor, [job(1, tmp_path, do="raise", kind="own", message=sentence)])[1].reason == sentence


def test_a_job_that_was_cancelled_before_its_start_is_in_no_event(any_executor, tmp_path):
    any_executor.submit([job(n, tmp_path, do="square", x=n) for n in range(1, 6)])
    any_executor.cancel(5)
    events = []
    while sum(e.kind == "done" for e in events) < 4:
        events += any_executor.poll(0.2)
    assert {e.number for e in events} == {1, 2, 3, 4}
    assert outcomes(any_executor, [job(6, tmp_path, do="square", x=6)])[6].kind == "done"


def test_an_executor_is_looked_up_by_its_name(monkeypatch):
    assert find_executor("local") is LocalExecutor
    plugin = EntryPoint("in-process", "tests.executors:make_in_process", ENTRY_POINTS)
    monkeypatch.setattr(plugins, "entry_points", lambda **chosen: EntryPoints([plugin]).select(**chosen))
    assert find_executor("in-process") is make_in_process
    with pytest.raises(SearchError, match="did you mean 'in-process'"):
        find_executor("in-proces")


def test_a_plugin_that_cannot_be_imported_is_an_error_that_names_its_cause(monkeypatch):
    plugin = EntryPoint("broken", "tests.no_such_module:make", ENTRY_POINTS)
    monkeypatch.setattr(plugins, "entry_points", lambda **chosen: EntryPoints([plugin]).select(**chosen))
    with pytest.raises(JointNASError, match=r"'broken'.*no_such_module"):
        find_executor("broken")


# ------------------------------------------------------------------------------------------------------ worker processes


def squares(first, n=3):
    return [Job(first + i, {"do": "square", "x": first + i}) for i in range(n)]


def wait_for(condition, seconds=DEADLINE_SECONDS):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value


def poll_until(executor, wanted, seconds=DEADLINE_SECONDS):
    """Poll until an event satisfies `wanted`; return all events up to it."""
    events, end = [], time.monotonic() + seconds
    while not any(wanted(e) for e in events):
        assert time.monotonic() < end, f"waited in vain, got {events}"
        events += executor.poll(0.2)
    return events


def is_gone(pid):
    """Whether no process runs under this number; one that is dead and not yet waited for counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    ("kind", "message"),
    [("memory", "no room"), ("runtime", "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")],
)
def test_a_job_without_memory_says_so_and_its_worker_is_replaced(kind, message):
    with LocalExecutor(prepare, ONE) as executor:
        before = outcomes(executor, [Job(1, {"do": "about"})])[1].result["pid"]
        ended = outcomes(executor, [Job(2, {"do": "raise", "kind": kind, "message": message}), Job(3, {"do": "about"})])
    assert ended[2].reason == f"out of memory: {message}"
    assert ended[3].result["pid"] != before


@pytest.mark.parametrize(
    ("payload", "reason"), [({"do": "exit", "code": 3}, "exit code 3"), ({"do": "kill"}, "killed by SIGKILL")]
)
def test_a_worker_that_dies_fails_its_job_alone_and_the_rest_finish_in_its_replacement(payload, reason):
    with LocalExecutor(prepare, ONE) as executor:
        ended = outcomes(executor, [Job(7, payload), *squares(1)])
    assert ended[7].kind == "failed"
    assert reason in ended[7].reason
    assert [ended[n].result["square"] for n in (1, 2, 3)] == [1, 4, 9]


def test_a_worker_killed_while_idle_is_replaced_and_each_later_job_ends_once():
    with LocalExecutor(prepare, ONE) as executor:
        pid = outcomes(executor, [Job(1, {"do": "about"})])[1].result["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: is_gone(pid))
        ended = outcomes(executor, squares(2))
    assert [ended[n].kind for n in (3, 4)] == ["done", "done"]


def test_a_job_that_says_nothing_for_too_long_fails_and_its_worker_is_replaced(tmp_path):
    pid_file = tmp_path / "pid"
    silent = Job(5, {"do": "endless", "pid_file": str(pid_file), "report": False})
    with LocalExecutor(prepare, ONE, hang_seconds=2) as executor:
        ended = outcomes(executor, [silent, *squares(1)])
        assert is_gone(int(pid_file.read_text()))
    assert "hung" in ended[5].reason
    assert "2 seconds" in ended[5].reason
    assert [ended[n].result["square"] for n in (1, 2, 3)] == [1, 4, 9]


def test_a_worker_that_was_stopped_is_replaced_and_ended(tmp_path):
    pid_file = tmp_path / "pid"
    talking = Job(5, {"do": "endless", "pid_file": str(pid_file), "report": True})
    with LocalExecutor(prepare, ONE, hang_seconds=2) as executor:
        executor.submit([talking, *squares(1)])
        poll_until(executor, lambda e: e.kind == "progress")
        os.kill(int(pid_file.read_text()), signal.SIGSTOP)
        events = poll_until(executor, lambda e: e.kind == "done" and e.number == 3)
        assert is_gone(int(pid_file.read_text()))
    assert [(e.number, e.cause) for e in events if e.kind == "failed"] == [(5, "hung")]


def test_a_worker_that_keeps_more_and_more_memory_is_replaced(monkeypatch):
    monkeypatch.setattr("jointnas.execution.executor.LEAK_BYTES", 100 * 1024**2)
    with LocalExecutor(prepare, ONE) as executor:
        jobs = [Job(n, {"do": "leak", "megabytes": megabytes}) for n, megabytes in enumerate((1, 1, 200, 1))]
        pids = [e.result["pid"] for e in outcomes(executor, jobs).values()]
    assert pids[0] == pids[1] == pids[2] != pids[3]


def test_a_job_that_keeps_reporting_outlives_the_patience_until_it_is_cancelled(tmp_path):
    talking = Job(5, {"do": "endless", "pid_file": str(tmp_path / "pid"), "report": True})
    with LocalExecutor(prepare, ONE, hang_seconds=2) as executor:
        executor.submit([talking, *squares(1)])
        poll_until(executor, lambda e: e.kind == "progress")
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert all(e.kind == "progress" for e in executor.poll(0.2))
        executor.cancel(5)
        executor.cancel(2)  # still in the queue
        events = poll_until(executor, lambda e: e.kind == "done" and e.number == 3)
        assert is_gone(int((tmp_path / "pid").read_text()))
    assert [e.number for e in events if e.kind == "done"] == [1, 3]
    assert not {e.number for e in events} & {2, 5}


def test_an_error_of_the_package_while_a_worker_prepares_ends_the_search_with_its_sentence():
    with (
        LocalExecutor(prepare_with_error, ONE) as executor,
        pytest.raises(SearchError, match="the images are not there"),
    ):
        list(executor.results(squares(1)))


def test_workers_that_crash_while_they_prepare_are_given_up_after_three_starts(tmp_path):
    starts = tmp_path / "starts"
    with (
        LocalExecutor(partial(prepare_crashing, str(starts)), ONE) as executor,
        pytest.raises(SearchError, match=r"3 attempts.*exit code 7"),
    ):
        list(executor.results(squares(1)))
    assert starts.read_text() == "xxx"


def test_closing_ends_the_workers_in_the_middle_of_their_jobs(tmp_path):
    pid_file = tmp_path / "pid"
    with LocalExecutor(prepare, ONE) as executor:
        executor.submit([Job(1, {"do": "endless", "pid_file": str(pid_file), "report": True})])
        poll_until(executor, lambda e: e.kind == "progress")
    assert is_gone(int(pid_file.read_text()))


@pytest.mark.parametrize("threads", [1, 3])
def test_a_worker_computes_with_as_many_threads_as_its_slot(threads):
    with LocalExecutor(prepare_torch, Slot("cpu", threads, 1)) as executor:
        ended = outcomes(executor, [Job(1, {"do": "threads"})])
    assert ended[1].result == {"torch": threads, "environment": str(threads)}


def test_a_worker_imports_its_modules_before_it_prepares_whatever_executor_came_first(tmp_path, monkeypatch):
    (tmp_path / "needed.py").write_text("ready = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for modules, imported in ((["needed"], True), ([], False)):
        with LocalExecutor(prepare, ONE, preload=modules) as executor:
            assert (
                outcomes(executor, [Job(1, {"do": "imported", "module": "needed"})])[1].result["imported"] is imported
            )


def test_a_worker_has_the_environment_of_its_executor(monkeypatch):
    for value in ("one", "two"):
        monkeypatch.setenv("JOINTNAS_TEST", value)
        with LocalExecutor(prepare, ONE) as executor:
            assert outcomes(executor, [Job(1, {"do": "about"})])[1].result["variable"] == value


def test_a_job_alone_runs_while_no_other_does_and_those_after_it_go_on_side_by_side():
    jobs = [*squares(1), Job(7, {"do": "about"}, alone=True), *squares(10)]
    running, seen = set(), []
    with LocalExecutor(prepare, Slot("cpu", 1, 2)) as executor:
        for event in executor.results(jobs):
            (running.add if event.kind == "started" else running.discard)(event.number)
            assert running == {7} or 7 not in running
            seen += [event.number] if event.kind == "done" else []
    assert sorted(seen) == [1, 2, 3, 7, 10, 11, 12]
    assert seen.index(7) == 3


# -------------------------------------------------------------------------------------------------------------- retrying

SHORT = {"do": "raise", "kind": "memory", "message": "no room"}


@pytest.mark.parametrize("first", [SHORT, {"do": "kill"}], ids=["out of memory", "killed"])
def test_a_job_for_which_memory_ran_out_is_run_once_more_alone(first, tmp_path):
    job = Job(9, {"do": "once", "marker": str(tmp_path / "marker"), "first": first})
    with make_retrying(prepare, Slot("cpu", 1, 2)) as executor:
        events = list(executor.results([job, *squares(1)]))
        assert outcomes(executor, squares(20)).keys() == {20, 21, 22}
    kinds = [e.kind for e in events if e.number == 9]
    assert kinds == ["started", "retried", "started", "done"]
    assert [e.attempts for e in events if e.kind == "done"] == [1, 1, 1, 2]
    assert events[-1].number == 9


def test_a_job_that_never_has_enough_memory_fails_after_its_second_run():
    with make_retrying(prepare, ONE) as executor:
        events = list(executor.results([Job(9, SHORT), *squares(1)]))
    assert [e.kind for e in events if e.number == 9] == ["started", "retried", "started", "failed"]
    failed = next(e for e in events if e.kind == "failed")
    assert (failed.attempts, failed.reason) == (2, "out of memory: no room")


@pytest.mark.parametrize(
    "payload", [{"do": "raise", "kind": "key", "message": "stem"}, {"do": "exit", "code": 3}], ids=["raises", "exits"]
)
def test_a_job_that_fails_by_itself_is_not_run_again(payload):
    with make_retrying(prepare, ONE) as executor:
        events = list(executor.results([Job(9, payload)]))
    assert [e.kind for e in events] == ["started", "failed"]


class LosingExecutor(InProcessExecutor):
    """Loses the machine of each job so many times."""

    def __init__(self, losses):
        super().__init__(handle)
        self.losses = losses

    def poll(self, timeout):
        events = super().poll(timeout)
        if events and events[-1].kind == "done" and self.losses:
            self.losses -= 1
            events[-1] = Event("failed", events[-1].number, reason="the node died", cause=LOST)
        return events


@pytest.mark.parametrize(("losses", "end"), [(1, "done"), (2, "done"), (3, "failed")])
def test_a_job_whose_machine_is_lost_is_run_again_twice_at_most(losses, end):
    events = list(RetryingExecutor(LosingExecutor(losses)).results(squares(1, 1)))
    assert [e.kind for e in events if e.kind != "started"] == ["retried"] * min(losses, 2) + [end]
    assert events[-1].attempts == min(losses, 2) + 1


# ------------------------------------------------------------------------------------------------------------ processes

PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.execution import test_executor
from jointnas.execution import Job, LocalExecutor, Slot

if __name__ == "__main__":
    endless = {"do": "endless", "pid_file": sys.argv[2], "starts": sys.argv[3], "report": sys.argv[4] == "True"}
    jobs = [Job(1, endless if sys.argv[2] else {"do": "print"})]
    with LocalExecutor(test_executor.prepare, Slot("cpu", 1, 1)) as executor:
        for event in executor.results(jobs):
            pass
"""


@pytest.mark.parametrize("reports", [True, False], ids=["reporting", "silent"])
def test_a_worker_whose_parent_was_killed_ends_itself_and_what_its_job_started(reports, tmp_path):
    script, pid_file, child_file = (tmp_path / name for name in ("parent.py", "pid", "child"))
    script.write_text(PARENT)
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen([sys.executable, str(script), root, str(pid_file), str(child_file), str(reports)])
    try:
        worker = int(wait_for(lambda: pid_file.exists() and pid_file.read_text()))
        child = int(child_file.read_text())
        assert not is_gone(worker)
        assert not is_gone(child)
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: is_gone(worker) and is_gone(child), 10)


def test_closing_ends_the_processes_that_a_job_started(tmp_path):
    job = {"do": "endless", "pid_file": str(tmp_path / "pid"), "starts": str(tmp_path / "child"), "report": True}
    with LocalExecutor(prepare, ONE) as executor:
        executor.submit([Job(1, job)])
        poll_until(executor, lambda e: e.kind == "progress")
    wait_for(lambda: is_gone(int((tmp_path / "child").read_text())), 10)


def test_what_jobs_print_goes_to_stderr(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, str(script), str(Path(__file__).parents[2]), "", "", ""]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=True)
    assert ended.stdout == ""
    assert ended.stderr.splitlines()[-2:] == ["from a job", "and below Python"]
