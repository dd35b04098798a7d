"""The small cycle from search to prediction: what each command answers, writes and refuses."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from PIL import Image

from jointnas.campaign.candidate_file import CandidateFile, find_candidate
from jointnas.campaign.store import DATABASE
from jointnas.campaign.winner_file import WinnerFile
from jointnas.resources import resource_folder
from tests.cli.commands import RETRAINED_KEYS, RUN, SEARCH_KEYS, WINNER_KEYS
from tests.helpers import answer, jointnas, make_run, mistake


def test_a_search_answers_with_its_run_trials_and_winners(cycle):
    searched = cycle.search
    assert set(searched) == SEARCH_KEYS
    assert (searched["run"], searched["trials"], searched["failed"]) == (RUN, 6, 0)
    assert [w["rank"] for w in searched["winners"]] == [1, 2, 3]
    assert all(set(w) >= WINNER_KEYS for w in searched["winners"])
    assert all(w["macs"] < 1e6 and w["architecture"]["width"] == 4 for w in searched["winners"])


def test_exports_hold_the_winners_and_how_they_were_trained(in_cycle):
    assert in_cycle.export["files"] == [f"{RUN}/export/winner-{rank}.toml" for rank in (1, 2, 3)]
    best = answer("export", "digits-resnet9-1", "--format", "json", "--top", "1", "--to", "best")
    assert best["files"] == ["best/winner-1.json"]
    winner = in_cycle.search["winners"][0]
    for path in ("best/winner-1.json", f"{RUN}/export/winner-1.toml"):
        file = CandidateFile.read(Path(path))
        assert file.candidate == {"architecture": winner["architecture"], "recipe": winner["recipe"]}
        assert file.costs["macs"] == winner["macs"]
        assert file.training["clock"] == {"train_steps": 20}
        assert file.training["data"]["source"] == "digits"


def test_a_trial_can_be_exported_and_trained_again(in_cycle, tmp_path):
    assert jointnas("export", RUN, "--trial", "2", "--trial", "5", "--to", tmp_path).out.splitlines() == [
        str(tmp_path / "trial-2.toml"),
        str(tmp_path / "trial-5.toml"),
    ]
    file = CandidateFile.read(tmp_path / "trial-5.toml")
    (trial,) = [trial for trial in answer("runs", "show", RUN)["trials"] if trial["number"] == 5]
    assert file.candidate == {"architecture": trial["architecture"], "recipe": trial["recipe"]}
    assert (file.results["accuracy"], file.results["fraction"]) == (trial["observation"]["accuracy"], 1.0)
    assert file.training == CandidateFile.read(Path(f"{RUN}/export/winner-1.toml")).training
    answer("retrain", tmp_path / "trial-5.toml", "--seeds", "1", "--train-steps", "2", "--to", tmp_path / "again")
    assert "has no trial 77: choose 1 to 6" in mistake(jointnas("export", RUN, "--trial", "77"))
    assert "--top chooses among winners" in mistake(jointnas("export", RUN, "--trial", "2", "--top", "1"))
    assert "--query chooses among winners" in mistake(jointnas("export", RUN, "--trial", "2", "--query", "1"))


def test_show_costs_the_network_as_the_search_did(cycle):
    assert [m["costs"]["macs"] for m in cycle.show["members"]] == [cycle.search["winners"][0]["macs"]]
    assert cycle.show["members"][0]["blueprint"]["input_shape"] == [1, 8, 8]


def test_train_takes_its_own_budget_and_the_files_data_and_keeps_the_network(in_cycle):
    assert in_cycle.train["steps"] == 10
    assert 0 <= in_cycle.train["accuracy"] <= 1
    winner = WinnerFile.read(Path("trained"))
    assert (winner.classes, winner.members[0].blueprint.input_shape) == (tuple("0123456789"), (1, 8, 8))
    assert answer("predict", "trained", "seven.png")["predictions"][0]["image"] == "seven.png"


def test_retrain_scores_the_test_images_with_every_seed(in_cycle):
    (row,) = in_cycle.retrain["winners"]
    assert set(row) >= RETRAINED_KEYS
    for key in ("test_accuracy", "val_accuracy"):
        assert set(row[key]) == {"mean", "std", "seeds"}
        assert len(row[key]["seeds"]) == 2
        assert row[key]["mean"] == pytest.approx(sum(row[key]["seeds"]) / 2)
    assert row["macs"] == in_cycle.search["winners"][0]["macs"]
    weights = {path.name for path in Path(row["folder"]).iterdir()}
    assert weights == {"winner.json", *(f"seed-{i}.{kind}" for i in (0, 1) for kind in ("json", "safetensors"))}


def test_predict_names_a_class_with_its_probability(cycle):
    (row,) = cycle.predict["predictions"]
    assert row["image"] == "seven.png"
    assert row["class"] in "0123456789"
    assert 0.1 <= row["probability"] <= 1  # the best of ten


def test_runs_are_listed_and_shown_with_their_trials(cycle):
    (row,) = cycle.list["runs"]
    assert (row["run"], row["trials"], row["ended"], row["data"]) == (RUN, 6, 6, "digits")
    trials = cycle.runs_show["trials"]
    assert [t["number"] for t in trials] == [1, 2, 3, 4, 5, 6]
    assert row["best"] == max(t["observation"]["accuracy"] for t in trials)


def test_a_run_says_how_far_its_predictions_were_from_what_its_trainings_gave(in_cycle):
    shown, winner = in_cycle.runs_show, in_cycle.search["winners"][0]
    (row,) = in_cycle.retrain["winners"]
    (again,) = shown["retrained"]
    assert (again["query"], again["rank"], again["predicted"]) == (1, 1, winner["predicted_accuracy"])
    assert again["val_accuracies"] == row["val_accuracy"]["seeds"]
    assert again["test_accuracies"] == row["test_accuracy"]["seeds"]
    assert again["clock"] == shown["specification"]["clock"]
    away = again["predicted"] - row["val_accuracy"]["mean"]
    assert shown["agreement"]["retrained_winners"]["bias"] == pytest.approx(away)
    predicted = [t for t in shown["trials"] if t["predicted_accuracy"] is not None]
    far = [abs(t["predicted_accuracy"] - t["observation"]["accuracy"]) for t in predicted]
    assert shown["agreement"]["trials"] == {
        "count": len(far),
        "bias": pytest.approx(
            sum(t["predicted_accuracy"] - t["observation"]["accuracy"] for t in predicted) / len(far)
        ),
        "error": pytest.approx(sum(far) / len(far)),
        "within": sum(a <= 2 * t["std"] for a, t in zip(far, predicted, strict=True)) / len(far),
    }


def test_a_winner_retrained_under_another_budget_says_nothing_of_its_prediction(in_copy):
    before = in_copy.runs_show
    answer("search", "--from", RUN, "-c", "macs<1M", "--top", "1")
    first = Path(RUN, "retrained", "winner-1", "winner.json").read_bytes()
    answer("retrain", RUN, "--query", "2", "--seeds", "1", "--top", "1", "--train-steps", "2")
    assert Path(RUN, "retrained", "winner-1", "winner.json").read_bytes() == first
    assert len(answer("predict", f"{RUN}/retrained/query-2-winner-1", "seven.png")["predictions"]) == 1
    shown = answer("runs", "show", RUN)
    assert shown["agreement"] == before["agreement"]
    assert [(row["query"], row["clock"]) for row in shown["retrained"]] == [
        (1, before["specification"]["clock"]),
        (2, {"train_steps": 2}),
    ]


def test_a_file_that_is_retrained_leaves_the_run_it_came_from_as_it_was(in_cycle):
    answer("retrain", f"{RUN}/export/winner-1.toml", "--seeds", "1", "--train-steps", "2", "--to", "elsewhere")
    assert answer("runs", "show", RUN)["retrained"] == in_cycle.runs_show["retrained"]


def test_off_a_terminal_tables_are_plain_lines_of_tab_separated_cells(in_cycle):
    found = jointnas("runs", "show", RUN)
    assert found.code == 0
    tables = [[line.split("\t") for line in part.splitlines()] for part in found.out.split("\n\n")]
    assert [[row[0] for row in table] for table in tables] == [
        ["trial", "1", "2", "3", "4", "5", "6"],
        ["rank", "1", "2", "3"],
        ["query", *(str(query["number"]) for query in answer("runs", "show", RUN)["queries"])],
        ["query", "1"],
        ["predictions of", "trials", "retrained winners"],
    ]
    assert [{len(row) for row in table} for table in tables] == [{7}, {6}, {4}, {8}, {5}]
    assert "\x1b" not in found.out + found.err


def test_an_export_below_a_file_is_refused(in_cycle):
    assert "cannot be written" in mistake(jointnas("export", RUN, "--to", "seven.png/best"))
    assert "cannot be written" in mistake(jointnas("train", f"{RUN}/export/winner-1.toml", "--to", "seven.png/best"))


def test_an_image_that_is_broken_is_refused_by_name(in_cycle):
    Path("broken.png").write_bytes(b"no image")
    assert "broken.png" in mistake(jointnas("predict", "trained", "seven.png", "broken.png"))


def test_every_built_in_recipe_is_listed_and_can_be_copied(tmp_path):
    names = {row["name"] for row in answer("recipes")["recipes"]}
    assert names == {path.stem for path in resource_folder("recipes").glob("*.toml")}
    assert {"nomad-senet", "resnet9-baseline", "resnet9-sam-ip", "resnet9-mltp"} <= names
    for name in names:
        (tmp_path / "mine.toml").write_text(jointnas("recipes", "show", name).out)
        assert CandidateFile.read(tmp_path / "mine.toml") == find_candidate(name)


def test_a_sheet_shows_the_drawn_images_beside_their_views(in_copy):
    found = jointnas("augment", "--images", 3, "--views", 4, "--show", "some/sheet.png")
    assert (found.code, found.out, found.err) == (0, "some/sheet.png\n", "")
    with Image.open("some/sheet.png") as picture:
        width, height = picture.size
    assert width * 3 > height * 4  # five columns, three rows


def test_a_run_that_was_killed_before_its_specification_does_not_hide_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/whole")).close()
    make_run(Path("runs/half")).close()
    with sqlite3.connect(Path("runs/half") / DATABASE) as db:
        db.execute("DELETE FROM specification")
    assert "runs/whole" in [row["run"] for row in answer("runs")["runs"]]
