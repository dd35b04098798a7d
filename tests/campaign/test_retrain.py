"""Retraining: the test images are scored here and nowhere else, with seeds of its own, and the first network is kept."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from jointnas import load
from jointnas.campaign.candidate_file import CandidateFile
from jointnas.campaign.folders import WINNER_FILE
from jointnas.campaign.retrain import FIRST_SEED, retrain_candidates, spread
from jointnas.campaign.runner import SEED_STRIDE
from jointnas.campaign.spec import LARGEST_SEED
from jointnas.campaign.store import locked
from jointnas.data.dataset import Data, load_data
from jointnas.data.spec import DataSpec
from jointnas.errors import DataError, RunError, SearchError
from jointnas.execution.executor import Executor, Job
from jointnas.execution.slots import Slot
from jointnas.network.cost import blueprint_cost
from jointnas.network.families import make_blueprint
from jointnas.space.knob_space import Candidate
from jointnas.training.job import TrainingJob, run_job, trial_executor

SPEC = DataSpec("digits")
SLOT = Slot("cpu", 1, 1)
CANDIDATE: Candidate = {
    "architecture": {"network": "resnet9", "width": 4, "depth1": 0, "depth3": 0},
    "recipe": {"learning_rate": 0.3, "batch_size": 64, "flip": False},
}


@pytest.fixture(scope="module")
def data():
    return load_data(SPEC)


@pytest.fixture(scope="module")
def retrained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrained")
    events = []
    with trial_executor(SPEC, SLOT, data.fingerprint) as executor:
        found = retrain_candidates(
            [CandidateFile(CANDIDATE)],
            2,
            data,
            {"train_steps": 60},
            executor,
            SLOT,
            folder,
            events.append,
        )
    return found[0], folder / "winner-1", events


def right(folder, split):
    """Return the share of a split's images that the kept network classifies as labelled."""
    with torch.inference_mode():
        said = load(folder)(split.images.permute(0, 3, 1, 2)).argmax(dim=1)
    return float((said == split.labels).double().mean())


def test_the_reported_test_accuracy_is_the_kept_networks_on_the_test_images(retrained, data):
    one, folder, _ = retrained
    assert right(folder, data.test()) == pytest.approx(one.test_accuracies[0])
    assert right(folder, data.val) == pytest.approx(one.val_accuracies[0])
    assert one.test_accuracies[0] != one.val_accuracies[0]


def test_each_seed_is_a_training_of_its_own_whose_weights_are_kept(retrained):
    one, folder, _ = retrained
    assert len(one.test_accuracies) == len(one.val_accuracies) == 2
    assert len(set(zip(one.test_accuracies, one.val_accuracies, strict=True))) == 2
    trained = [f"seed-{i}.{kind}" for i in (0, 1) for kind in ("json", "safetensors")]
    assert sorted(p.name for p in folder.iterdir()) == [*trained, WINNER_FILE]


def test_the_kept_network_is_the_first_seeds_and_not_the_best(retrained):
    _, folder, _ = retrained
    assert json.loads((folder / WINNER_FILE).read_text())["members"][0]["weights"] == "seed-0.safetensors"


def test_no_trial_of_a_search_shares_a_seed_with_a_retraining():
    assert SEED_STRIDE * (LARGEST_SEED + 1) <= FIRST_SEED


def test_a_row_has_its_costs_and_spreads_even_where_the_file_had_none(retrained, data):
    row = retrained[0].to_json()
    expected = blueprint_cost(make_blueprint(CANDIDATE["architecture"], data.input_shape, 10))
    assert {metric: row[metric] for metric in expected} == expected
    assert row["test_accuracy"]["seeds"] == list(retrained[0].test_accuracies)


def test_trainings_that_ended_are_not_trained_again_but_in_another_slot(data, tmp_path, monkeypatch):
    submitted, found = [], []
    with trial_executor(SPEC, SLOT, data.fingerprint) as executor:
        submit = executor.submit
        monkeypatch.setattr(executor, "submit", lambda jobs: (submitted.extend(jobs), submit(jobs)))
        for seeds, slot in ((1, SLOT), (2, SLOT), (2, Slot("cpu", 1, 2))):
            files = [CandidateFile(CANDIDATE)]
            found.append(
                retrain_candidates(files, seeds, data, {"train_steps": 3}, executor, slot, tmp_path)[0].test_accuracies
            )
    assert len(submitted) == 1 + 1 + 2
    assert found[1][:1] == found[0]
    assert found[1] == found[2]


class Unstarted(Executor):
    """Workers that cannot start."""

    def submit(self, jobs):
        raise SearchError("no worker starts")

    def poll(self, timeout):
        return []

    def cancel(self, number):
        pass

    def close(self):
        pass


def test_a_network_stays_until_another_training_of_it_starts_and_one_process_writes_at_a_time(data, tmp_path):
    files, seeds, clock = [CandidateFile(CANDIDATE)], 1, {"train_steps": 2}
    with trial_executor(SPEC, SLOT, data.fingerprint) as executor:
        retrain_candidates(files, seeds, data, clock, executor, SLOT, tmp_path)
        with locked(tmp_path), pytest.raises(RunError, match=r"in use by another process.*--to"):
            retrain_candidates(files, seeds, data, clock, executor, SLOT, tmp_path)
    with pytest.raises(SearchError, match="no worker starts"):
        retrain_candidates(files, seeds, data, {"train_steps": 3}, Unstarted(), SLOT, tmp_path)
    assert load(tmp_path / "winner-1").classes == data.classes


def test_a_spread_is_the_mean_and_the_sample_deviation():
    assert spread([0.5, 0.7]) == {"mean": 0.6, "std": pytest.approx(0.02**0.5), "seeds": [0.5, 0.7]}
    assert spread([0.5]) == {"mean": 0.5, "std": None, "seeds": [0.5]}
    assert spread([]) == {"mean": None, "std": None, "seeds": []}


def test_a_training_that_fails_leaves_the_others_and_says_why(data, tmp_path):
    diverging = {**CANDIDATE, "recipe": {"batch_size": 2000}}
    with trial_executor(SPEC, SLOT, data.fingerprint) as executor:
        found = retrain_candidates(
            [CandidateFile(diverging), CandidateFile(CANDIDATE)],
            1,
            data,
            {"train_steps": 5},
            executor,
            SLOT,
            tmp_path,
        )
    assert found[0].test_accuracies == ()
    assert "batch_size = 2000" in found[0].failures[0]
    assert len(found[1].test_accuracies) == 1
    assert [p.name for p in tmp_path.glob(f"*/{WINNER_FILE}")] == [WINNER_FILE]


def test_images_that_are_not_those_of_the_run_are_refused(data):
    with pytest.raises(DataError, match="keeps to the images it began with"):
        load_data(SPEC, fingerprint="0" * 16)
    with trial_executor(SPEC, SLOT, "0" * 16) as executor, pytest.raises(SearchError, match="began with"):
        list(executor.results([Job(1, {})]))


def test_a_search_never_reads_the_test_images(monkeypatch):
    """Everything a search touches of the data is made before and without `Data.test`."""

    def forbidden(self: Data):
        raise AssertionError("the test images were read")

    monkeypatch.setattr(Data, "test", forbidden)
    job = TrainingJob(CANDIDATE, {"train_steps": 2}, seed=0)
    assert run_job(job, load_data(SPEC), "cpu").test_accuracy is None
    with pytest.raises(AssertionError, match="were read"):
        run_job(replace(job, test=True), load_data(SPEC), "cpu")
