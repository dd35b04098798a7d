"""AutoTrain: networks stay as they are, recipes are searched, and both recipes meet on the test images with new seeds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from jointnas.campaign.autotrain import AutoTrained, changed_knobs
from jointnas.campaign.candidate_file import CandidateFile, find_candidate
from jointnas.campaign.retrain import FIRST_SEED, Retrained
from jointnas.campaign.store import Run
from jointnas.campaign.winner_file import WinnerFile
from jointnas.cli import autotrain as command
from jointnas.network.cost import blueprint_cost
from jointnas.network.families import make_blueprint
from jointnas.training.recipe import Recipe
from tests.helpers import answer, jointnas, mistake

SPACE = """
format = 1
[architecture]
network = "senet"
[recipe]
optimizer = { choices = ["sgd", "adamw"] }
learning_rate = { low = 0.05, high = 1.0, log = true }
momentum = { values = [0.8, 0.95], when = { optimizer = "sgd" } }
batch_size = 32
"""
NARROW = """
[architecture]
network = "resnet9"
width = 4
depth1 = 0
[recipe]
learning_rate = 0.2
flip = false
"""
COMMAND = ("autotrain", "narrow.toml", "resnet9-1m", "--space", "small.toml", "--train-images", "300", "--train-steps")
COMMAND += ("10", "--rounds", "1", "--batch", "3", "--seeds", "2", "--out", "out")
NETWORKS = ("narrow", "resnet9-1m")


def write_files():
    Path("narrow.toml").write_text(NARROW)
    Path("small.toml").write_text(SPACE)


def trials():
    """Return the trials of each network's run."""
    found = {}
    for name in NETWORKS:
        found[name] = []
        if (Path("out") / name).exists():
            with Run.open(Path("out") / name) as run:
                found[name] = run.trials()
    return found


def weights():
    """Return when each kept network was written."""
    return {str(path): path.stat().st_mtime_ns for path in Path("out").glob("*/retrained/*/*.safetensors")}


def stop_after(n):
    """Return what stands in for the progress of a comparison and for Ctrl-C after n of its trainings."""

    def watch(news):
        if news.ended == n:
            raise KeyboardInterrupt

    return watch


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """The folder of two networks; how a first command was stopped, and what the second, which resumed it, answered."""
    done = SimpleNamespace(folder=tmp_path_factory.mktemp("autotrain"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(done.folder)
        write_files()
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(command, "_print_training", stop_after(3))
            done.stopped = jointnas(*COMMAND)
        done.trials_then, done.weights_then = trials(), weights()
        done.rows = answer(*COMMAND, "--resume")["networks"]
    return done


@pytest.fixture
def in_session(session, monkeypatch):
    monkeypatch.chdir(session.folder)
    return session


@pytest.fixture
def in_copy(session, tmp_path, monkeypatch):
    """A copy of the session's folder, to change."""
    shutil.copytree(session.folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return session


def test_every_trial_is_another_recipe_for_the_network_as_its_file_has_it(in_session):
    for name, ran in trials().items():
        own = find_candidate("narrow.toml" if name == "narrow" else name).candidate["architecture"]
        assert [t.candidate["architecture"] for t in ran] == [own] * 3
        assert len({json.dumps(t.candidate["recipe"], sort_keys=True) for t in ran}) == 3


def test_a_row_has_the_networks_costs_both_spreads_and_their_difference_in_points(in_session):
    assert tuple(row["network"] for row in in_session.rows) == NETWORKS
    for row in in_session.rows:
        means = []
        for side in ("default", "searched"):
            test = row[side]["test_accuracy"]
            assert len(test["seeds"]) == 2
            assert test["mean"] == pytest.approx(sum(test["seeds"]) / 2)
            assert row[side]["failures"] == []
            means.append(test["mean"])
        assert row["gain_points"] == pytest.approx(100 * (means[1] - means[0]))
        one_view = blueprint_cost(make_blueprint(row["architecture"], (1, 8, 8), 10))["macs"]
        recipes = (row["default"]["recipe"], row["searched"]["recipe"])
        views = [Recipe.from_knobs(recipe).views for recipe in recipes]
        assert [row["macs"], row["searched"]["macs"]] == [one_view * n for n in views]


def test_the_default_recipe_is_the_candidates_own_and_the_searched_one_the_best_by_prediction(in_session):
    (narrow, _), own = in_session.rows, CandidateFile.read(Path("narrow.toml")).candidate
    kept = [WinnerFile.read(Path(narrow[side]["folder"])).candidate for side in ("default", "searched")]
    with Run.open(Path("out/narrow")) as run:
        (winner,) = run.winners()
    assert kept == [own, winner.candidate]
    assert narrow["searched"]["predicted_accuracy"] == winner.mean
    assert narrow["changed"]["batch_size"] == 32
    assert narrow["changed"]["flip"] is True  # not in the space: at the default of all recipes, not at this file's


def test_both_recipes_get_the_same_seeds_and_no_trial_had_one_of_them(in_session):
    records = [json.loads(path.read_text()) for path in Path("out").glob("*/retrained/*/seed-*.json")]
    assert sorted(record["asked"]["seed"] - FIRST_SEED for record in records) == [0] * 4 + [1] * 4
    assert all(trial.seed < FIRST_SEED for ran in trials().values() for trial in ran)


def test_an_interruption_exits_130_and_says_how_to_go_on(session):
    assert session.stopped.code == 130
    assert session.stopped.out == ""
    assert session.stopped.err.splitlines()[-1].endswith("the same command, --resume and --out out")


def test_what_had_ended_before_an_interruption_is_not_trained_again(in_session):
    assert [len(ran) for ran in in_session.trials_then.values()] == [3, 0]
    assert trials()["narrow"] == in_session.trials_then["narrow"]  # even their times stand
    assert len(in_session.weights_then) == 3
    assert weights().items() > in_session.weights_then.items()


def test_only_trainings_that_are_missing_are_made_up_for(in_copy):
    Path("out/narrow/retrained/recipe-2/seed-1.safetensors").unlink()
    before, ran = weights(), trials()
    rows = answer(*COMMAND, "--resume", "--seeds", "3")["networks"]
    assert weights().items() > before.items()
    assert len(weights()) == 2 * 2 * 3
    assert trials() == ran
    for row, old in zip(rows, in_copy.rows, strict=True):
        for side in ("default", "searched"):
            assert row[side]["test_accuracy"]["seeds"][:2] == old[side]["test_accuracy"]["seeds"]
            assert len(row[side]["test_accuracy"]["seeds"]) == 3


def test_a_run_answers_further_questions_and_keeps_to_its_comparison(in_copy):
    asked = answer("search", "--from", "out/narrow", "--top", "2")["winners"]
    assert len(asked) == 2
    (path,) = answer("export", "out/narrow", "--query", "1")["files"]
    assert CandidateFile.read(Path(path)).candidate["recipe"] == in_copy.rows[0]["searched"]["recipe"]
    found = jointnas(*COMMAND, "--resume")
    assert found.code == 0
    rows = [line.split("\t") for line in found.out.splitlines()]
    assert [row[0] for row in rows] == ["network", *NETWORKS]
    for row, old in zip(rows[1:], in_copy.rows, strict=True):
        assert float(row[4]) == pytest.approx(old["gain_points"], abs=0.005)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("autotrain resnet9-1n", "did you mean 'resnet9-1m'"),
        ("autotrain narrow.toml other/narrow.toml", "two candidates are called 'narrow'"),
        ("autotrain narrow.toml --space autotrian", "did you mean 'autotrain'"),
        ("autotrain narrow.toml --seeds 0", "--seeds must be 1 or more, got 0"),
        ("autotrain narrow.toml --seed -1", "--seed must lie between 0 and 99999, got -1"),
        ("autotrain narrow.toml --out out", "'out', which exists: continue with --resume"),
        ("autotrain narrow.toml --resume", "name it with --out"),
        ("autotrain narrow.toml --resume --out nowhere", "'nowhere' is no folder"),
        (
            f"{' '.join(COMMAND)} --resume --train-steps 11",
            "clock differs from that of 'out/narrow' ({'train_steps': 10} before",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_trained(line, message, in_session):
    before = sorted(Path().rglob("*.sqlite"))
    assert message in mistake(jointnas(*line.split()))
    assert sorted(Path().rglob("*.sqlite")) == before


# ------------------------------------------------------------------------------------------------------ one comparison


def outcome(test_accuracies, **recipe):
    """Return a recipe's outcome on a tiny network; without accuracies its trainings failed."""
    file = CandidateFile({"architecture": {"network": "resnet9", "width": 4}, "recipe": recipe})
    failures = () if test_accuracies else ("seed 0: out of memory",)
    return Retrained(1, file, Path("nowhere"), {"macs": 25_000}, (), test_accuracies, failures)


def test_a_gain_is_the_difference_of_the_means_and_may_be_a_loss():
    assert AutoTrained("net", outcome((0.5, 0.7)), outcome((0.8, 0.9))).gain_points == pytest.approx(25)
    assert AutoTrained("net", outcome((0.8, 0.9)), outcome((0.5, 0.7))).gain_points == pytest.approx(-25)
    assert AutoTrained("net", outcome((0.8,)), outcome(())).gain_points is None


@pytest.mark.parametrize(
    ("default", "searched", "changed"),
    [
        ({}, {"label_smoothing": 0.1, "learning_rate": 0.3}, {"learning_rate": 0.3}),
        ({"ema": 0.99}, {}, {"ema": 0.0}),
        ({"momentum": 0.8}, {"optimizer": "adamw"}, {"optimizer": "adamw"}),
        ({}, {"gradient": "sam", "sam_rho": 0.2}, {"gradient": "sam", "sam_rho": 0.2}),
    ],
)
def test_knobs_that_changed_are_those_that_act_and_are_not_the_defaults(default, searched, changed):
    assert changed_knobs(Recipe(**default), Recipe(**searched)) == changed


def test_the_table_says_a_loss_and_a_failure_as_they_are(capsys):
    worse = AutoTrained("worse", outcome((0.8, 0.9)), outcome((0.6, 0.7), ema=0.99))
    broken = AutoTrained("broken", outcome((0.8,)), outcome(()))
    command._print_compared([worse, broken], "2 seeds each")
    said = capsys.readouterr()
    rows = [line.split("\t") for line in said.out.splitlines()]
    assert rows[1:] == [
        ["worse", "25K", "85.00 ± 7.07", "65.00 ± 7.07", "-20.00", "ema 0.99"],
        ["broken", "25K", "80.00 (one seed)", "failed", "", ""],
    ]
    assert "worse: the searched recipe is no better" in said.err
    assert "broken, searched recipe, seed 0: out of memory" in said.err
