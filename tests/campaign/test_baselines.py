"""The baselines' campaign: every network on every repeat's own images, each training recorded once, and the ranking."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from jointnas.campaign.baselines import ARCHITECTURES, by_accuracy, candidate, repeat_images, train_baselines, trainable
from jointnas.campaign.candidate_file import CandidateFile, find_candidate
from jointnas.campaign.events import TrialEnded
from jointnas.campaign.folders import open_run
from jointnas.campaign.options import make_spec
from jointnas.campaign.store import Context
from jointnas.campaign.trial import Trial
from jointnas.cli import app
from jointnas.data.dataset import load_data
from jointnas.data.spec import DataSpec
from jointnas.efficiency.models import read_run
from jointnas.errors import RunError, SearchError
from jointnas.execution.slots import Slot
from jointnas.training.observation import Observation
from jointnas.training.recipe import Recipe

DIGITS = (1, 8, 8)
SPEC = DataSpec("digits", train_images=200, val_images=100)
NAMES = ("lenet", "mobilenet", "shufflenetv2")
BASELINES = make_spec({"data": SPEC, "train_steps": 2, "baselines": NAMES}, "baselines")
SMALL = ("--train-images", "200", "--val-images", "100", "--train-steps", "1")


class CrashError(Exception):
    """What a test raises where a process would die."""


def conduct(folder, repeats, *, resume=False, crash_after=None):
    """Train repeats of three baselines, or until `crash_after` trainings have ended; return the run's trials."""
    ended = []

    def watch(event):
        ended.append(isinstance(event, TrialEnded))
        if sum(ended) == crash_after:
            raise CrashError

    spec = replace(BASELINES, repeats=repeats)
    context = Context.of(None, load_data(SPEC), Slot("cpu", 1, 1))
    with open_run(folder, spec, context, resume) as run:
        with suppress(CrashError):
            train_baselines(run, watch)
        return run.trials()


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """The trials of a campaign that was killed after two trainings, and those after a resumption with one more repeat."""
    folder = tmp_path_factory.mktemp("baselines") / "run"
    return conduct(folder, 1, crash_after=2), conduct(folder, 2, resume=True)


def test_there_are_eighteen_baselines_of_one_recipe():
    found = [candidate(name) for name in ARCHITECTURES]
    assert len(found) == 18
    assert len({json.dumps(c["architecture"]) for c in found}) == 18
    assert len({Recipe.from_knobs(c["recipe"]) for c in found}) == 1


def test_every_repeat_has_images_of_its_own_and_the_first_has_those_that_were_asked_for():
    assert repeat_images(SPEC, 1) == SPEC
    assert len({load_data(repeat_images(SPEC, repeat)).fingerprint for repeat in range(1, 6)}) == 5


def test_every_baseline_is_trained_once_a_repeat(campaign):
    _, trials = campaign
    assert [t.number for t in trials] == [1, 2, 3, 4, 5, 6]
    assert [t.round for t in trials] == [1, 1, 1, 2, 2, 2]
    assert [t.candidate for t in trials] == 2 * [candidate(name) for name in NAMES]
    assert len({t.seed for t in trials}) == 6
    assert {t.observation.steps for t in trials if t.observation.accuracy is not None} == {2}


def test_a_campaign_that_was_killed_goes_on_where_it_stood(campaign):
    killed, trials = campaign
    assert [t.observation is not None for t in killed] == [True, True, False]
    assert trials[:2] == killed[:2]  # not trained again: even their times stand
    assert all(t.observation is not None for t in trials)


def test_a_network_that_does_not_fit_the_images_is_a_row_with_its_reason(campaign):
    rows = by_accuracy(campaign[1], BASELINES, DIGITS, 10)
    assert {row["name"] for row in rows[:2]} == {"mobilenet", "shufflenetv2"}
    assert all(len(row["val_accuracy"]["seeds"]) == 2 and row["images_per_second"] > 0 for row in rows[:2])
    last = rows[2]
    assert (last["name"], last["macs"], last["val_accuracy"]["mean"]) == ("lenet", None, None)
    assert [reason.partition(":")[0] for reason in last["failures"]] == ["repeat 1", "repeat 2"]
    assert "does not fit" in last["failures"][0]


def test_baselines_are_ranked_by_their_mean_accuracy_over_what_succeeded():
    names = ("resnet18", "senet18", "vgg16")
    told = [0.7, 0.6, None, 0.8, 0.95, None]
    trials = [
        Trial(
            number,
            1 + (number > 3),
            candidate(names[(number - 1) % 3]),
            number,
            names[(number - 1) % 3],
            observation=Observation.failed("too hot")
            if accuracy is None
            else Observation(accuracy, images_per_second=5),
        )
        for number, accuracy in enumerate(told, 1)
    ]
    rows = by_accuracy(trials, replace(BASELINES, baselines=names), (3, 32, 32), 10)
    assert [(row["rank"], row["name"]) for row in rows] == [(1, "senet18"), (2, "resnet18"), (3, "vgg16")]
    assert rows[0]["val_accuracy"]["mean"] == pytest.approx(0.775)
    assert rows[1]["val_accuracy"]["std"] == pytest.approx(0.1 / 2**0.5)
    assert (rows[0]["params"], rows[0]["images_per_second"]) == (11_260_354, 5)
    assert rows[2]["failures"] == ["repeat 1: too hot", "repeat 2: too hot"]


def test_baselines_of_a_library_that_is_missing_are_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert trainable(list(ARCHITECTURES)) == [name for name in ARCHITECTURES if name != "dpn92"]


def test_an_unknown_baseline_is_refused_with_the_nearest():
    with pytest.raises(SearchError, match="no baseline is called 'senet19': did you mean 'senet18'"):
        trainable(["senet19"])


# -------------------------------------------------------------------------------------------------- the command line


def say(*args):
    return CliRunner().invoke(app, ["baselines", *map(str, args)])


def answer(*args):
    found = say(*args, "--json")
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def test_the_command_ranks_and_a_resumption_trains_nothing_again(tmp_path):
    command = (*SMALL, "--repeats", 1, "--only", "mobilenet", "--out", tmp_path / "run")
    found = answer(*command)
    assert (found["run"], found["trials"], found["failed"]) == (str(tmp_path / "run"), 1, 0)
    (row,) = found["baselines"]
    assert (row["rank"], row["name"], row["architecture"]["name"]) == (1, "mobilenet", "mobilenet_v1")
    assert answer(*command, "--resume") == found
    assert isinstance(say(*command, "--only", "lenet", "--resume").exception, RunError)


def test_every_baseline_can_be_exported_as_a_candidate_file(tmp_path):
    for name in ARCHITECTURES:
        (tmp_path / "mine.toml").write_text(say("--export", name).stdout)
        assert CandidateFile.read(tmp_path / "mine.toml").candidate == candidate(name)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--only", "resnet19"), "did you mean 'resnet18'"),
        (("--export", "vgg19"), "did you mean 'vgg16'"),
        (("--repeats", 0), "--repeats must be 1 or more, got 0"),
        (("--seed", -1), "--seed must lie between 0 and 99999, got -1"),
    ],
)
def test_a_mistake_is_refused_in_one_sentence(args, message):
    error = say(*args).exception
    assert isinstance(error, SearchError)
    assert message in str(error)


def test_a_baseline_that_is_wanted_alone_and_whose_library_is_missing_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install timm" in str(say("--only", "dpn92").exception)


def test_another_recipe_trains_the_baselines_and_candidates_of_their_own_beside_them(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(
        '[architecture]\nnetwork = "resnet9"\nwidth = 8\n[recipe]\nbatch_size = 32\nquantiser = "proxconnect"\n'
    )
    chosen = ("--only", "mobilenet", "--recipe", "resnet9-1m", "--also", mine, "--repeats", 1)
    result = say("--data", "digits", *SMALL, *chosen, "--out", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.output
    rows = {row["name"]: row for row in json.loads(result.stdout)["baselines"]}
    assert rows["mobilenet"]["recipe"] == find_candidate("resnet9-1m").candidate["recipe"]
    assert rows["mine"]["recipe"] == {"batch_size": 32, "quantiser": "proxconnect"}
    assert all(row["val_accuracy"]["mean"] is not None for row in rows.values())
    models = {model.name: model for model in read_run(tmp_path / "run")}
    assert models["mine"].metrics["size"].mean < models["mine"].metrics["params"].mean
    twice = say("--only", "mobilenet", "--also", mine, "--also", mine)
    assert "--also needs a different name for each file, and none of a baseline, got 'mine' again" in str(
        twice.exception
    )
    mine.rename(tmp_path / "mobilenet.toml")
    result = say("--only", "mobilenet", "--also", tmp_path / "mobilenet.toml")
    assert "and none of a baseline, got 'mobilenet' again" in str(result.exception)
    with pytest.raises(SearchError, match="--also needs another name than that of a baseline, got 'lenet'"):
        replace(BASELINES, also={"lenet": candidate("lenet")})
