"""Jobs on a real Ray cluster of two nodes on this machine's loopback addresses, which the tests start; they need the extra `ray`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
cluster_utils = pytest.importorskip("ray.cluster_utils")

from jointnas.campaign.store import Run  # noqa: E402
from jointnas.data.spec import DataSpec  # noqa: E402
from jointnas.errors import DataError, SearchError  # noqa: E402
from jointnas.execution import Job, find_executor, remote_slots  # noqa: E402
from jointnas.execution.ray_executor import RayExecutor  # noqa: E402
from jointnas.execution.retrying import RetryingExecutor  # noqa: E402
from jointnas.training.job import PrepareTrials  # noqa: E402
from tests.execution import test_executor as contract  # noqa: E402
from tests.execution.test_executor import SHORT, outcomes, poll_until, prepare, prepare_with_error, squares  # noqa: E402

ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of four cores each, whose processes find the tests' modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", ROOT)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        own = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
        own.add_node(num_cpus=4)
        own.wait_for_nodes()
        yield own
        own.shutdown()


@pytest.fixture
def executor(cluster):
    with closing(RayExecutor(prepare, remote_slots(8), 30, address=cluster.address)) as own:
        yield own


# ----------------------------------------------------------------------------------------- the contract, as for any executor


@pytest.fixture
def any_executor(executor):
    return executor


test_results = contract.test_every_job_ends_once_and_returns_its_result
test_an_error_of_its_own = contract.test_a_job_that_raises_fails_with_the_errors_type_and_message_and_the_others_finish
test_an_error_of_the_package = contract.test_an_error_of_the_package_fails_with_its_sentence_alone
test_progress = contract.test_a_job_reports_its_start_then_its_progress_then_its_end
test_a_cancelled_job = contract.test_a_job_that_was_cancelled_before_its_start_is_in_no_event


def test_five_hundred_jobs_over_eight_workers_lose_and_double_nothing(executor):
    ended = outcomes(executor, squares(1, 500))
    assert {n: e.result["square"] for n, e in ended.items()} == {n: n**2 for n in range(1, 501)}


def test_a_process_that_dies_fails_its_job_alone(executor):
    ended = outcomes(executor, [Job(7, {"do": "exit", "code": 3}), *squares(1)])
    assert (ended[7].kind, ended[7].cause) == ("failed", "died")
    assert all(ended[n].kind == "done" for n in (1, 2, 3))


def test_a_job_that_says_nothing_for_too_long_is_ended_by_force(cluster, tmp_path):
    pid_file = tmp_path / "pid"
    silent = Job(5, {"do": "endless", "pid_file": str(pid_file), "report": False})
    with closing(RayExecutor(prepare, remote_slots(2), 3, address=cluster.address)) as executor:
        ended = outcomes(executor, [silent, *squares(1)])
        assert (ended[5].kind, ended[5].cause) == ("failed", "hung")
        contract.wait_for(lambda: contract.is_gone(int(pid_file.read_text())), 20)


def test_a_job_without_memory_is_run_once_more(cluster, tmp_path):
    job = Job(9, {"do": "once", "marker": str(tmp_path / "marker"), "first": SHORT})
    with closing(RetryingExecutor(RayExecutor(prepare, remote_slots(4), 30, address=cluster.address))) as executor:
        events = list(executor.results([job, *squares(1)]))
    assert [e.kind for e in events if e.number == 9 and e.kind != "started"] == ["retried", "done"]


def test_the_search_ends_where_no_node_is_large_enough(cluster, monkeypatch):
    with closing(RayExecutor(prepare, remote_slots(1, threads=64), 30, address=cluster.address)) as executor:
        monkeypatch.setattr("jointnas.execution.ray_executor.PATIENCE_SECONDS", 1.0)
        with pytest.raises(SearchError, match="a node with 64 free cores"):
            list(executor.results(squares(1, 1)))


def test_a_worker_that_cannot_prepare_ends_the_search_with_its_sentence(cluster):
    with (
        closing(RayExecutor(prepare_with_error, remote_slots(1), 30, address=cluster.address)) as executor,
        pytest.raises(SearchError, match="the images are not there"),
    ):
        list(executor.results(squares(1)))


# ------------------------------------------------------------------------------------------------------------- lost nodes


def test_messages_are_collected_on_the_drivers_node(cluster):
    for _ in range(4):
        with closing(RayExecutor(prepare, remote_slots(1), 30, address=cluster.address)) as executor:
            node = ray.get(executor._inbox.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()))
            assert node == ray.get_runtime_context().get_node_id()


def test_jobs_of_a_node_that_is_killed_run_again_elsewhere(cluster, tmp_path):
    node = cluster.add_node(num_cpus=4, resources={"extra": 1})
    cluster.wait_for_nodes()
    jobs = [Job(n, {"do": "wait", "seconds": 4.0, "folder": str(tmp_path)}) for n in range(1, 13)]
    with closing(RetryingExecutor(RayExecutor(prepare, remote_slots(12), 60, address=cluster.address))) as executor:
        executor.submit(jobs)
        events = poll_until(executor, lambda e: len(list(tmp_path.iterdir())) == 12)
        cluster.remove_node(node, allow_graceful=False)
        while sum(e.kind in ("done", "failed") for e in events) < 12:
            events += executor.poll(0.5)
    assert {e.number for e in events if e.kind == "done"} == set(range(1, 13))
    retried = [e for e in events if e.kind == "retried"]
    assert retried
    assert {e.cause for e in retried} == {"lost"}


# ------------------------------------------------------------------------------------------------------------------ data


def test_images_that_changed_on_their_way_are_refused():
    spec = DataSpec("digits", 100, 50)
    carried = PrepareTrials(spec, "cpu", None).carried()
    assert carried.pack is not None
    carried.pack.images[0, 0, 0, 0] += 1  # as a broken transfer would
    with pytest.raises(DataError, match="have changed on their way"):
        carried()


def test_a_search_on_the_cluster_goes_on_when_its_command_was_killed(cluster, tmp_path):
    small = ("--train-images", "100", "--val-images", "50", "--train-steps", "2", "--fix", "width=4")
    command = [
        sys.executable,
        "-m",
        "jointnas",
        "search",
        "-c",
        "macs<1M",
        *small,
        "--rounds",
        "2",
        "--batch",
        "3",
        "--confirm",
        "0",
        "--json",
    ]
    command += ["--portfolio", "0", "--ray", cluster.address, "--workers", "2", "--out", "run"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": ROOT}
    first = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def ended():
        try:
            with Run.open(tmp_path / "run") as run:
                return [t for t in run.trials() if t.observation]
        except Exception:
            return []

    contract.wait_for(lambda: len(ended()) >= 2 or first.poll() is not None, 120)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = ended()
    second = subprocess.run([*command, "--resume"], cwd=tmp_path, env=environment, capture_output=True, timeout=300)
    assert second.returncode == 0, second.stderr
    assert (json.loads(second.stdout)["trials"], json.loads(second.stdout)["failed"]) == (6, 0)
    after = {t.number: t for t in ended()}
    assert [after[t.number] for t in before] == before
    assert [t.number for t in ended()] == [1, 2, 3, 4, 5, 6]


# ------------------------------------------------------------------------------------------------------------- bad input


def test_an_address_where_no_cluster_is_gives_one_sentence(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(SearchError, match=r"no Ray cluster can be used at '127\.0\.0\.1:1'"):
        find_executor("ray:127.0.0.1:1")(prepare, remote_slots(1), 30, ())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workers": 0}, "--workers must be 1 or more, got 0"),
        ({"workers": 1, "threads": 0}, "--threads must be 1 or more, got 0"),
        ({"workers": 1, "device": "cuda:1"}, "got 'cuda:1'"),
    ],
)
def test_slots_of_a_cluster_that_cannot_be_are_refused(options, text):
    with pytest.raises(SearchError, match=text):
        remote_slots(**options)


# ------------------------------------------------------------------------------------------------------------- documents


def test_the_manifests_in_the_documents_are_whole():
    yaml = pytest.importorskip("yaml")
    text = (Path(ROOT) / "docs" / "cluster.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    job, task = (yaml.safe_load(block) for block in blocks)
    assert all(len(block.splitlines()) <= 15 for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["rayStartParams"] == {}
        (container,) = group["template"]["spec"]["containers"]
        assert set(container) >= {"name", "image", "resources"}
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in group["template"]["spec"]["volumes"]}
    assert all(group["groupName"] and group["replicas"] for group in cluster["workerGroupSpecs"])
    assert task["num_nodes"] > 1
    for command in (job["spec"]["entrypoint"], task["run"]):
        assert "jointnas search --ray auto" in command
