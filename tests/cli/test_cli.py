"""The command line: a small cycle from search to prediction, the examples in every help, and one line for every mistake."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from PIL import Image

from jointnas.campaign.candidate_file import CandidateFile, WinnerFile, find_candidate
from jointnas.campaign.registry import find_predictor
from jointnas.campaign.store import DATABASE, Run, Trial
from jointnas.cli import app, main
from jointnas.cli.campaign import point_to_the_best_trial
from jointnas.cores import available_cores
from jointnas.errors import JointNASError
from jointnas.predictor.files import FORMAT
from jointnas.predictor.gp_predictor import Predictor
from jointnas.resources import resource_folder
from jointnas.search.search import Winner
from jointnas.training.observation import Observation

UsageError = typer.BadParameter.__bases__[0]
RUN = "runs/digits-resnet9-1"
SMALL = ("--fix", "width=4", "--fix", "batch_size=32", "--fix", "ema=0.0")
SEARCH = ("search", "-c", "macs<1M", "--train-steps", "20", "--rounds", "2", "--batch", "3", "--top", "3", *SMALL)
SEARCH_KEYS = {"run", "trials", "failed", "predictor", "winners"}
WINNER_KEYS = {"rank", "architecture", "recipe", "predicted_accuracy", "std", "accuracy", "macs", "params"}
RETRAINED_KEYS = {
    "rank", "architecture", "recipe", "predicted_accuracy", "test_accuracy", "val_accuracy", "macs", "params",
}  # fmt: skip
CANDIDATE = '[architecture]\nnetwork = "resnet9"\nwidth = 4\n[recipe]\nbatch_size = 32\n'


def jointnas(*args):
    """Run a command in this process; return its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["jointnas", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            main()
    return SimpleNamespace(code=end.value.code or 0, out=out.getvalue(), err=err.getvalue())


def answer(*args):
    """Run a command that succeeds with --json and return its object."""
    found = jointnas(*args, "--json")
    assert found.code == 0, found.err
    return json.loads(found.out)


def mistake(found):
    """Return the one line that a failed command says, after checking that it says no more than data's own note."""
    assert found.code == 1
    lines = [line for line in found.err.splitlines() if "brings no test images" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("jointnas: ")
    assert found.out == ""
    return lines[0]


def save_image(path, seed=0, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)).save(path)


# ------------------------------------------------------------------------------------------------------ a small cycle


@pytest.fixture(scope="module")
def cycle(tmp_path_factory):
    """What the commands answered, one after another, and the folder they ran in."""
    folder = tmp_path_factory.mktemp("cycle")
    done = SimpleNamespace(folder=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save_image(folder / "seven.png")
        done.search = answer(*SEARCH)
        done.export = answer("export", RUN)
        done.export_json = answer("export", "digits-resnet9-1", "--format", "json", "--top", "1", "--to", "best")
        done.show = answer("show", f"{RUN}/export/winner-1.toml")
        done.train = answer("train", f"{RUN}/export/winner-1.toml", "--train-steps", "10", "--to", "trained")
        done.retrain = answer("retrain", RUN, "--seeds", "2", "--top", "1")
        done.predict = answer("predict", f"{RUN}/retrained/winner-1", "seven.png")
        done.list = answer("runs", "list")
        done.figures = answer("show", f"{RUN}/export/winner-1.toml", "--measure", "latency")
        done.trial_figures = answer("runs", "show", "digits-resnet9-1", "--measure", "latency")
        done.runs_show = answer("runs", "show", "digits-resnet9-1")
        done.bound = max(winner["macs"] for winner in done.search["winners"])
        done.tighter = answer("search", "--from", RUN, "--constraint", f"macs<{done.bound}", "--top", "2")
        done.sweep = answer("search", "--from", RUN, "--sweep", f"macs<{done.bound},1M", "--top", "1")
        done.measured = answer(
            "search", "--from", RUN, "--measure", "latency", "--measure", "train_memory", "--top", "1"
        )
        done.cheapest = answer(
            "search", "--from", RUN, "-c", "accuracy>=0.01", "--objective", "min params", "--top", "2"
        )
        with pytest.MonkeyPatch.context() as quick:
            quick.setattr("jointnas.search.winners.STAGE_TWO_BUDGET", 600)
            done.several = answer("search", "--from", RUN, "--engine", "all", "--top", "2")
            done.front = answer("search", "--from", RUN, "--frontier", "macs", "--top", "4")
        real = (
            "--real",
            "--engine",
            "hillclimb",
            "--repeats",
            "2",
            "--rounds",
            "2",
            "--batch",
            "2",
            "--train-steps",
            "4",
        )
        least = ("--objective", "min macs", "-c", "accuracy>=0.01", "--start", f"{RUN}/export/winner-1.toml")
        done.real = answer("search", *real, *least, "--out", "real", "--top", "2")
        done.again = answer("search", *real, *least, "--out", "real", "--top", "2", "--resume")
        held = ("--architecture", f"{RUN}/export/winner-1.toml", "--space", "autotrain", "--out", "held")
        done.held = answer("search", *held, "--train-steps", "4", "--rounds", "1", "--batch", "2", "--top", "2")
        done.ended = answer(*SEARCH, "--resume", "--out", RUN)
    return done


@pytest.fixture
def in_cycle(cycle, monkeypatch):
    monkeypatch.chdir(cycle.folder)
    return cycle


def test_a_search_answers_with_its_run_trials_and_winners(cycle):
    found = cycle.search
    assert set(found) == SEARCH_KEYS
    assert (found["run"], found["trials"], found["failed"]) == (RUN, 6, 0)
    assert -1 <= found["predictor"]["rank_correlation"] <= 1
    assert [w["rank"] for w in found["winners"]] == [1, 2, 3]
    assert all(set(w) >= WINNER_KEYS for w in found["winners"])
    assert all(w["macs"] < 1e6 and w["architecture"]["width"] == 4 for w in found["winners"])


def test_a_question_to_an_ended_run_keeps_its_own_bound_and_trains_nothing(cycle):
    found = cycle.tighter
    assert set(found) == SEARCH_KEYS
    assert (found["trials"], found["failed"]) == (0, 0)
    assert len(found["winners"]) == 2
    assert all(w["macs"] < cycle.bound for w in found["winners"])
    with Run.open(cycle.folder / RUN) as run:
        assert len(run.trials()) == 6
        assert [len(run.winners(query)) for query in (1, 2)] == [3, 2]
        assert run.queries()[0]["constraints"] == ["macs<1M"]
        assert run.queries()[1]["constraints"][0].startswith("macs<")


def test_a_sweep_answers_one_bound_after_another(cycle):
    first, second = cycle.sweep["sweep"]
    assert (first["constraint"], second["constraint"]) == (f"macs<{cycle.bound}", "macs<1M")
    assert [len(answered["winners"]) for answered in (first, second)] == [1, 1]
    assert first["winners"][0]["macs"] < cycle.bound
    alone = cycle.tighter["winners"][0]
    assert all(first["winners"][0][group] == alone[group] for group in ("architecture", "recipe"))


def test_a_sweep_goes_on_after_a_bound_that_nothing_meets(in_cycle):
    asked = ("search", "--from", RUN, "--sweep", f"macs<{in_cycle.bound},1K,1M", "--top", "1", "--json")
    found = jointnas(*asked)
    assert found.code == 1
    said = json.loads(found.out)
    assert [answered["constraint"] for answered in said["sweep"]] == [f"macs<{in_cycle.bound}", "macs<1K", "macs<1M"]
    assert [len(answered["winners"]) for answered in said["sweep"]] == [1, 0, 1]
    assert "smallest macs" in said["sweep"][1]["reason"]
    assert {"run", "trials", "failed", "predictor"} < set(said)
    twice = answer("search", "--from", RUN, "--sweep", f"macs<{in_cycle.bound}", "--sweep", "macs<1M", "--top", "1")
    assert [answered["winners"] for answered in twice["sweep"]] == [said["sweep"][i]["winners"] for i in (0, 2)]
    assert "smallest macs" in found.err.splitlines()[-1]
    before = len(answer("runs", "show", RUN)["queries"])
    assert "units" in mistake(jointnas("search", "--from", RUN, "--sweep", "macs<1M,2Q"))
    assert len(answer("runs", "show", RUN)["queries"]) == before


def test_what_is_measured_of_the_winners_stands_beside_their_costs(cycle):
    (winner,) = cycle.measured["winners"]
    assert 0 < winner["latency"] < 1
    assert winner["train_memory"] > 4 * winner["params"]


def test_what_is_measured_stands_in_every_table(cycle):
    latency = cycle.figures["members"][0]["costs"]["latency"]
    assert latency > 0
    assert all(trial["latency"] > 0 for trial in cycle.trial_figures["trials"])


def test_the_cheapest_winners_come_in_the_order_of_their_cost(cycle):
    costs = [winner["params"] for winner in cycle.cheapest["winners"]]
    assert costs == sorted(costs)
    assert all(winner["predicted_accuracy"] >= 0.01 for winner in cycle.cheapest["winners"])


def test_a_search_that_has_ended_answers_again_when_it_is_resumed(cycle):
    assert cycle.ended == cycle.search


def test_engines_are_set_side_by_side_on_one_predictor(cycle):
    found = cycle.several
    assert [report["engine"] for report in found["engines"]] == ["evolution", "mads", "hillclimb"]
    assert all(0 < report["scored"] <= 600 and report["seconds"] > 0 for report in found["engines"])
    assert all(set(w["found_by"]) <= {"evolution", "mads", "hillclimb"} and w["found_by"] for w in found["winners"])
    predictor = Predictor.load(cycle.folder / RUN / "predictor")
    first = {group: found["winners"][0][group] for group in ("architecture", "recipe")}
    (median,) = predictor.median_codes(predictor.space.to_codes([first]))  # a winner tells its mean, an engine medians
    assert median == pytest.approx(max(r["best"] for r in found["engines"]), abs=0.01)


def test_a_front_trades_accuracy_for_its_cost(cycle):
    winners = cycle.front["winners"]
    assert 2 <= len(winners) <= 4
    for metric in ("macs", "predicted_accuracy"):
        values = [w[metric] for w in winners]
        assert values == sorted(set(values))


def test_a_real_search_returns_what_it_trained_and_goes_on_without_training_again(cycle):
    found = cycle.real
    assert set(found) == SEARCH_KEYS
    assert 4 <= found["trials"] <= 8  # candidates, and the second trainings of those that were best
    assert [w["macs"] for w in found["winners"]] == sorted(w["macs"] for w in found["winners"])
    assert all(w["accuracy"] >= 0.01 for w in found["winners"])
    assert cycle.again == found


def test_a_held_network_leaves_recipes_to_be_searched(cycle):
    held = cycle.search["winners"][0]["architecture"]
    assert [winner["architecture"] for winner in cycle.held["winners"]] == [held, held]
    assert cycle.held["winners"][0]["recipe"] != cycle.held["winners"][1]["recipe"]


def test_exports_hold_the_winners_and_how_they_were_trained(in_cycle):
    assert in_cycle.export["files"] == [f"{RUN}/export/winner-{rank}.toml" for rank in (1, 2, 3)]
    assert in_cycle.export_json["files"] == ["best/winner-1.json"]
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
    assert "from 1 to 6, got 77" in mistake(jointnas("export", RUN, "--trial", "77"))
    assert "got --top 1 beside --trial" in mistake(jointnas("export", RUN, "--trial", "2", "--top", "1"))
    assert "got --query 1 beside --trial" in mistake(jointnas("export", RUN, "--trial", "2", "--query", "1"))


@pytest.mark.parametrize(("predicted", "width", "told"), [(0.7, 8, True), (0.8, 8, False), (0.7, 16, False)])
def test_a_trial_that_beats_what_is_predicted_of_all_winners_is_pointed_to(predicted, width, told):
    one, two, three = ({"architecture": {"width": width}, "recipe": {}} for width in (4, 16, 8))
    ended = [Trial(1, 1, one, 0, observation=Observation(0.5)), Trial(2, 1, one, 0)]
    ended += [
        Trial(3, 1, two, 0, observation=Observation(0.75)),
        Trial(4, 1, three, 0, observation=Observation.failed("?")),
    ]
    winner = Winner({"architecture": {"width": width}, "recipe": {}}, predicted, 0.1, None, {})
    said = io.StringIO()
    with redirect_stderr(said):
        point_to_the_best_trial(ended, [winner], Path("runs/one"))
    assert ("export runs/one --trial 3" in said.getvalue()) is told


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


def test_a_winner_retrained_under_another_budget_says_nothing_of_its_prediction(in_cycle):
    before = in_cycle.runs_show
    shutil.copytree(RUN, "copied")
    answer("retrain", "copied", "--query", "2", "--seeds", "1", "--top", "1", "--train-steps", "2")
    shown = answer("runs", "show", "copied")
    assert shown["agreement"] == before["agreement"]
    found = [(row["query"], row["clock"]) for row in shown["retrained"]]
    assert found == [(1, before["specification"]["clock"]), (2, {"train_steps": 2})]


def test_a_file_that_is_retrained_leaves_the_run_it_came_from_as_it_was(in_cycle):
    answer("retrain", f"{RUN}/export/winner-1.toml", "--seeds", "1", "--train-steps", "2", "--to", "elsewhere")
    assert answer("runs", "show", RUN)["retrained"] == in_cycle.runs_show["retrained"]


def test_off_a_terminal_tables_are_plain_lines_of_tab_separated_cells(in_cycle):
    found = jointnas("runs", "show", RUN)
    assert found.code == 0
    tables = [[line.split("\t") for line in part.splitlines()] for part in found.out.split("\n\n")]
    assert [[row[0] for row in table] for table in tables] == [
        ["trial", "1", "2", "3", "4", "5", "6"],
        ["query", *(str(query["number"]) for query in answer("runs", "show", RUN)["queries"])],
        ["query", "1"],
        ["predictions of", "trials", "retrained winners"],
    ]
    assert [{len(row) for row in table} for table in tables] == [{6}, {4}, {8}, {5}]
    assert "\x1b" not in found.out + found.err


def test_a_predictor_is_fitted_to_runs_shown_checked_and_asked(in_cycle, tmp_path):
    week = tmp_path / "week"
    assert "6 trials" in jointnas("predictors", "fit", RUN, "--to", week).out
    card = answer("predictors", "show", week, "--top", "3")
    assert (card["space"], card["data"], card["budget"], card["trials"]) == ("resnet9", "digits", "20 steps", 6)
    best = [one["accuracy"] for one in card["best"]]
    assert best == sorted(best, reverse=True)
    assert len(best) == 3
    assert answer("predictors", "show", RUN, "--top", "3")["best"] == card["best"]
    checked = jointnas("predictors", "check", week, RUN)
    assert (checked.code, checked.out.count("right")) == (0, 2)
    (winner,) = answer("search", "--from", week, "-c", "macs<1M", "--top", "1")["winners"]
    assert winner["macs"] < 1e6


def test_a_predictor_alone_is_made_a_run_by_its_first_answer(in_cycle, tmp_path):
    week, out = tmp_path / "week", tmp_path / "asked"
    assert jointnas("predictors", "fit", RUN, "--to", week).code == 0
    assert "did you mean 'macs'" in mistake(jointnas("search", "--from", week, "-c", "mac<1M", "--out", out))
    assert "smallest macs" in mistake(jointnas("search", "--from", week, "-c", "macs<1K", "--out", out))
    assert not out.exists()
    (winner,) = answer("search", "--from", week, "-c", "macs<1M", "--top", "1", "--out", out)["winners"]
    (file,) = answer("export", out)["files"]
    assert CandidateFile.read(Path(file)).candidate["architecture"] == winner["architecture"]
    assert f"--from {out}" in mistake(jointnas("search", "--from", week, "--out", out))
    assert "drop --out" in mistake(jointnas("search", "--from", out, "--out", tmp_path / "again"))


def test_predictors_that_do_not_fit_are_refused(in_cycle, tmp_path):
    week = tmp_path / "week"
    Run.create(tmp_path / "other", {"command": "baselines"}).close()
    assert "another command" in mistake(jointnas("predictors", "fit", tmp_path / "other", "--to", week))
    assert "another space" in mistake(jointnas("predictors", "fit", RUN, "held", "--to", week))
    assert not week.exists()
    assert jointnas("predictors", "fit", RUN, "--to", week).code == 0
    assert "which exists" in mistake(jointnas("predictors", "fit", RUN, "--to", week))
    assert "no run and no predictor is called 'nowhere'" in mistake(jointnas("search", "--from", "nowhere"))
    weights = (week / "predictor.safetensors").read_bytes()
    (week / "predictor.safetensors").write_bytes(weights[:-4] + b"\0\0\0\1")
    assert "whole" in mistake(jointnas("predictors", "check", week))
    (week / "predictor.safetensors").write_bytes(weights)
    about = json.loads((week / "predictor.json").read_text())
    for change, message in (
        ({"format": 99}, f"format {FORMAT}, got 99"),
        ({"trials": []}, "whole"),
        ({"space": "?"}, "changed since they were saved"),
    ):
        (week / "predictor.json").write_text(json.dumps({**about, **change}))
        assert message in mistake(jointnas("predictors", "check", week))
    (week / "predictor.json").write_text("{}")
    assert "whole" in mistake(jointnas("predictors", "show", week))


def test_a_run_in_use_is_refused(in_cycle):
    with Run.open(Path(RUN), write=True):
        assert "in use" in mistake(jointnas(*SEARCH, "--resume", "--out", RUN))


def test_a_run_is_not_resumed_with_another_command(in_cycle):
    line = mistake(jointnas(*SEARCH, "--resume", "--out", RUN, "--train-steps", "21"))
    assert "another clock" in line
    assert "21" in line


def test_a_run_that_exists_is_not_written_over(in_cycle):
    before = (Path(RUN) / DATABASE).read_bytes()
    assert "--resume" in mistake(jointnas(*SEARCH, "--out", RUN))
    assert (Path(RUN) / DATABASE).read_bytes() == before


def test_a_question_that_nothing_meets_is_refused_with_the_smallest_value_there_is(in_cycle):
    line = mistake(jointnas("search", "--from", RUN, "--constraint", "macs<10K"))
    assert re.search(r"smallest macs it reaches is \d", line)


def test_a_query_that_was_never_asked_is_refused(in_cycle):
    assert "got 77" in mistake(jointnas("export", RUN, "--query", "77"))


def test_an_export_below_a_file_is_refused(in_cycle):
    assert "writable" in mistake(jointnas("export", RUN, "--to", "seven.png/best"))
    assert "writable" in mistake(jointnas("train", f"{RUN}/export/winner-1.toml", "--to", "seven.png/best"))


def test_an_image_that_is_broken_is_refused_by_name(in_cycle):
    Path("broken.png").write_bytes(b"no image")
    assert "broken.png" in mistake(jointnas("predict", "trained", "seven.png", "broken.png"))


# --------------------------------------------------------------------------------------------------- help and examples


def commands(command, path=()):
    """Yield (path, command) of every command but the root."""
    for name, inner in getattr(command, "commands", {}).items():
        yield (*path, name), inner
        yield from commands(inner, (*path, name))


ROOT = typer.main.get_command(app)
COMMANDS = dict(commands(ROOT))


def examples_of(command):
    return [line.strip() for line in (command.help or "").splitlines() if line.strip().startswith("jointnas ")]


EXAMPLES = sorted({line for command in COMMANDS.values() for line in examples_of(command)})
QUICK = ("runs", "spaces", "recipes", "predictors", "augment", "export", "show", "predict")
CHEAP = [line for line in EXAMPLES if line.split()[1] in QUICK and "cifar10" not in line]


def parse(command, args, parent=None):
    """Parse arguments as the command line does, without running anything. Raises its usage error."""
    context = command.make_context(command.name or "jointnas", list(args), parent=parent)
    rest = [*context._protected_args, *context.args] if hasattr(command, "commands") else []
    if rest:
        _, inner, rest = command.resolve_command(context, rest)
        parse(inner, rest, context)


def arguments(line):
    """Return an example's arguments, without the program's name and what the shell takes."""
    return shlex.split(line.partition(" > ")[0])[1:]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_commands_help_has_examples_of_that_command(path):
    found = jointnas(*path, "--help")
    assert found.code == 0
    shown = found.out.partition("Examples:")[2]
    assert f"jointnas {' '.join(path)}" in shown
    assert examples_of(COMMANDS[path])


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_in_a_help_can_be_parsed(line):
    parse(ROOT, arguments(line))


def test_an_example_with_an_option_that_does_not_exist_would_not_parse():
    with pytest.raises(UsageError, match="--no-such"):
        parse(ROOT, ["search", "--no-such", "1"])


@pytest.mark.parametrize("line", CHEAP)
def test_every_example_that_is_cheap_works_as_it_stands(line, in_cycle):
    space = (resource_folder("spaces") / "resnet9.toml").read_text()
    Path("mine.toml").write_text(space if " spaces " in line else CANDIDATE)
    found = jointnas(*arguments(line))
    assert (found.code, found.err) == (0, "")
    assert found.out


@pytest.mark.parametrize(
    "args",
    [
        ("search", "--no-such"),
        ("search", "--rounds", "many"),
        ("nothing",),
        ("runs", "nothing"),
        ("show",),
        ("predict", "trained"),
    ],
)
def test_a_usage_error_exits_2(args):
    found = jointnas(*args)
    assert found.code == 2
    assert "Usage:" in found.err
    assert found.out == ""


def test_the_version_is_printed():
    import jointnas as package

    assert jointnas("--version").out.strip() == package.__version__


def test_every_built_in_recipe_is_listed_and_can_be_copied(tmp_path):
    names = {row["name"] for row in answer("recipes")["recipes"]}
    assert names == {path.stem for path in resource_folder("recipes").glob("*.toml")}
    assert {"nomad-senet", "resnet9-baseline", "resnet9-sam-ip", "resnet9-mltp"} <= names
    for name in names:
        (tmp_path / "mine.toml").write_text(jointnas("recipes", "show", name).out)
        assert CandidateFile.read(tmp_path / "mine.toml") == find_candidate(name)


def test_a_sheet_shows_the_drawn_images_beside_their_views(in_cycle):
    found = jointnas("augment", "--images", 3, "--views", 4, "--show", "some/sheet.png")
    assert (found.code, found.out, found.err) == (0, "some/sheet.png\n", "")
    with Image.open("some/sheet.png") as picture:
        width, height = picture.size
    assert width * 3 > height * 4  # five columns, three rows


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with everything that can be wrong."""
    folder = tmp_path_factory.mktemp("desk")
    files = {
        "network.toml": 'format = 1\n[architecture]\nnetwork = "resnet99"\nwidth = 4\n',
        "malformed.toml": "[architecture\n",
        "upside_down.toml": 'format = 1\n[architecture]\nnetwork = "resnet9"\nwidth = { low = 9, high = 4 }\n',
        "condition.toml": 'format = 1\n[architecture]\nnetwork = "resnet9"\nwidth = { low = 4, high = 9, when = { dept = 1 } }\n',
        "misfit.toml": '[architecture]\nnetwork = "resnet9"\nwidht = 4\n',
        "text.toml": '[architecture]\nnetwork = "resnet9"\nwidth = "wide"\n',
        "mine.toml": CANDIDATE,
        "half.toml": CANDIDATE + '[training.data]\nsource = "digits"\n',
        "clock.toml": CANDIDATE + "[training.clock]\nhours = 1\n",
        "diverge.toml": CANDIDATE + "learning_rate = 10\nweight_decay = 1.0\nwarmup = 0.0\nmomentum = 0.99\n",
        "whole.toml": CANDIDATE.replace("32", "60000"),
        "policy.toml": CANDIDATE + 'policy = "autoaugment"\n',
        "magnitude.toml": CANDIDATE + 'policy = "randaugment"\npolicy_magnitude = 31\n',
        "probability.toml": CANDIDATE + "mixup = 0.2\nmix_probability = 1.5\n",
        "rate.toml": CANDIDATE + "learning_rate = 11\n",
        "file": "",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    for i in range(10):
        save_image(folder / "one" / "cat" / f"{i}.png", i)
        save_image(folder / "broken" / "cat" / f"{i}.png", i)
        save_image(folder / "broken" / "dog" / f"{i}.png", i)
        save_image(folder / "mixed" / ("cat" if i % 2 else "dog") / f"{i}.png", i, 8 + i)
    (folder / "broken" / "dog" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    Run.create(folder / "newer", {}).close()
    with sqlite3.connect(folder / "newer" / DATABASE) as db:
        db.execute("PRAGMA user_version = 99")
    return folder


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("search --space resnet99", "did you mean 'resnet9'"),
        ("search --space none.toml", "none.toml"),
        ("search --space network.toml", "did you mean 'resnet9'"),
        ("search --space malformed.toml", "valid TOML"),
        ("search --space upside_down.toml", r"width.*(low|9)"),
        ("search --space condition.toml", "dept"),
        ("search --fix widht=8", "did you mean 'width'"),
        ("search --fix width", "knob=value"),
        ("search --fix width=banana", "banana"),
        ("search --engine evolutoin", "did you mean 'evolution'"),
        ("search --real --engine all", "one engine"),
        ("search --real --early-stop 0.9", "drop one"),
        ("search --repeats 3", "add --real"),
        ("search --real --repeats 0", "1 or more, got 0"),
        ("search --frontier macs", "name the run"),
        ("search --from none --frontier macs -c accuracy>=0.5", "trades accuracy itself"),
        ("search --total-time 1h --real --repeats 3", "one training a candidate, got --repeats 3"),
        ("search -c macs<1e9999999", "finite"),
        ("predictors fit none --to x --seed -1", "--seed lies between 0 and 99999, got -1"),
        ("predictors show none --top 0", "--top is 1 or more, got 0"),
        ("predictors fit none --to x", "run.sqlite"),
        ("search --sweep macs<1M,2M", "name the run"),
        ("search --from resnet9-digits --measure macs", "no measured metric is called 'macs'"),
        ("search --from none --sweep macs", "write it like 'macs<5M,10M,20M'"),
        ("search --from none --sweep macs<1M --frontier macs", "two questions"),
        ("search --start nothing.toml", "nothing.toml"),
        ("search --space senet --start resnet9-baseline", "fixed at 'senet', got 'resnet9'"),
        ("search --real -c accuracy>=0.5", "min METRIC"),
        ("search --data digit", "did you mean 'digits'"),
        ("search --data file", "convert it"),
        ("search --data one", "two classes or more, got cat"),
        ("search --data broken", "3.png"),
        ("search --data mixed", "--image-size"),
        ("search --train-images 5000", "got a demand for 5000"),
        ("search --val-images 5000", "got a demand for 5000"),
        ("search --train-images 0", "--train-images is 1 or more, got 0"),
        ("search --train-time 0s", "above 0 seconds"),
        ("search --train-time 10x", "units.*'x'"),
        ("search --train-time 10s --train-steps 10", "drop one"),
        ("search --train-steps 0", "one step or more"),
        ("search --total-time 1h --train-steps 10", "--total-time needs a training time"),
        ("search --total-time 1h --train-time 10s --workers 0", "one or more each, got 0"),
        ("search --seed 100000", "--seed lies between 0 and 99999, got 100000"),
        ("search --from resnet9-digits -c accuracy>=90%", "an accuracy is a number, got '90%': write it like 0.9"),
        ("retrain winner.toml --query 2", "names a run's winners, got --query 2"),
        ("search --total-time 1s --train-time 10s --rounds 2 --confirm 0", "say 20s or more"),
        ("search --total-time 1s --train-time 10s --rounds 2", "the 5 winners to confirm.*say 1m 10s or more"),
        ("search --confirm 6", "between 0 and the 5 winners of --top, got 6"),
        ("search --real --confirm 1", "--real confirms winners by --repeats"),
        ("search --from nothing --out there", "no run and no predictor is called 'nothing'"),
        ("search --rounds 0", "--rounds is 1 or more, got 0"),
        ("search --workers 99", f"share {available_cores()} cores.*got 99"),
        ("search --device tpu", "'tpu'"),
        ("search -c mac<1M", "did you mean 'macs'"),
        ("search -c macs", "'macs<40M'"),
        ("search -c macs<1Q", "units.*'Q'"),
        ("search -c macs<1K", r"smallest macs it reaches is \d"),
        ("search --out file/run --train-steps 1", "writable.*--out"),
        ("search --from none", "no run and no predictor is called 'none'"),
        ("search --from newer", "format 99.*upgrade"),
        ("runs show newer", "format 99.*upgrade"),
        ("runs show none", "run.sqlite"),
        ("export newer", "format 99.*upgrade"),
        ("export none", "run.sqlite"),
        ("train misfit.toml", "did you mean 'width'"),
        ("train none.toml", "check the path"),
        ("train clock.toml --data digits", "clock"),
        ("retrain misfit.toml", "did you mean 'width'"),
        ("retrain mine.toml", "use jointnas train"),
        ("retrain half.toml", "half.toml|training"),
        ("show misfit.toml", "did you mean 'width'"),
        ("show text.toml", "width"),
        ("show mine.toml --input-shape 28x28", "3x32x32"),
        ("show one", "winner.json"),
        ("predict one one/cat/0.png", "winner.json"),
        ("search --early-stop 1.5", r"in \(0, 1\], got 1\.5"),
        ("train resnet9-sma", "did you mean 'resnet9-sam'"),
        ("train diverge.toml --train-steps 30", r"loss stays finite, got (nan|inf) at step \d+ .*learning_rate = 10"),
        ("train whole.toml --train-steps 1", "training images, got batch_size = 60000"),
        ("train policy.toml", "policy is one of none, autoaugment-cifar10, .*got 'autoaugment'"),
        ("train magnitude.toml", r"policy_magnitude lies in \[0, 30\], got 31"),
        ("train probability.toml", r"mix_probability lies in \[0, 1\], got 1\.5"),
        ("train rate.toml", r"learning_rate lies in \[1e-05, 10\], got 11"),
        ("recipes show nomad-senett", "did you mean 'nomad-senet'"),
        ("augment --fix polcy=none", "did you mean 'policy'"),
        ("augment --fix policy=autoaugment", "policy is one of none"),
        ("augment --show sheet.txt", "a picture is a .png"),
        ("augment --show file/sheet.png", "writable folder"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_remedy(line, message, desk, monkeypatch):
    monkeypatch.chdir(desk)
    assert re.search(message, mistake(jointnas(*line.split())))
    assert not (desk / "runs").exists()


@pytest.mark.parametrize("value", ["sgd", "adamw"])
def test_a_choice_that_others_depend_on_can_be_fixed(value, desk, monkeypatch):
    monkeypatch.chdir(desk)
    plan = answer("search", "--fix", f"optimizer={value}", "--dry-run", "--train-steps", "1")
    assert plan["pool"] > 0


def test_trainings_that_confirm_winners_are_none_of_the_searchs_own(tmp_path):
    times = ("--train-steps", "2", "--rounds", "1", "--batch", "3", "--confirm", "1", "--top", "1")
    found = answer("search", *times, *SMALL, "--out", tmp_path / "run")
    assert (found["trials"], found["failed"]) == (3, 0)
    with Run.open(tmp_path / "run") as run:
        assert len(run.trials()) == 4


def test_winners_of_a_shipped_predictor_can_be_trained(tmp_path):
    found = answer("search", "--from", "resnet9-digits", "-c", "macs<300K", "--top", "1", "--out", tmp_path / "run")
    assert found["winners"][0]["macs"] < 300_000
    (winner,) = answer("retrain", tmp_path / "run", "--train-steps", "1", "--seeds", "1", "--top", "1")["winners"]
    assert len(winner["test_accuracy"]["seeds"]) == 1


def test_runs_are_merged_with_what_they_started_from(tmp_path):
    for number in (1, 2):
        seed = ("--seed", number, "--train-steps", "1", "--rounds", "1", "--batch", "2", "--top", "1")
        answer("search", *seed, *SMALL, "--prior", "resnet9-digits", "--out", tmp_path / str(number))
    again = ("predictors", "fit", tmp_path / "1", "--seed", "1", "--to", tmp_path / "one")
    assert jointnas(*again).code == 0
    alone, merged = (Predictor.load(path) for path in (tmp_path / "1" / "predictor", tmp_path / "one"))
    assert merged.prior is not None
    assert merged.prior.digest == Predictor.load(find_predictor("resnet9-digits")[0]).digest
    grid = alone.space.sample(16)
    assert merged.predict(grid)[0] == pytest.approx(alone.predict(grid)[0])
    without = ("--prior", "none", "--train-steps", "1", "--rounds", "1", "--batch", "2", "--top", "1")
    answer("search", *without, *SMALL, "--seed", "1", "--out", tmp_path / "3")
    refused = jointnas("predictors", "fit", tmp_path / "1", tmp_path / "3", "--to", tmp_path / "two")
    assert "another prior" in mistake(refused)


def test_a_total_time_is_filled_with_rounds_and_keeps_a_share_to_confirm_the_winners(desk):
    times = ("--total-time", "2m", "--train-time", "10s", "--rounds", "2", "--workers", "2", "--top", "3")
    plan = answer("search", *times, "--dry-run")
    waves = (12 - 2) // 2  # of two trainings side by side, for each round, when two are kept for three winners
    assert (plan["batch"], plan["trainings"]) == (2 * waves, 2 * 2 * waves + 3)
    assert plan["train_seconds"] == 120


def test_a_dry_run_says_what_would_be_trained_and_makes_no_run(desk, monkeypatch):
    monkeypatch.chdir(desk)
    args = ("search", "-c", "macs<1M", "--train-time", "30s", "--rounds", "2", "--batch", "4", "--dry-run")
    plan = answer(*args, "--out", "dry", *SMALL)
    assert (plan["trainings"], plan["train_seconds"], plan["workers"]) == (8, 240, 1)
    assert plan["train_images"] + plan["val_images"] + plan["test_images"] == 1797
    assert plan["constraints"] == ["macs<1M"]
    assert not (desk / "dry").exists()
    assert not (desk / "runs").exists()


def test_a_budget_too_short_for_one_step_fails_and_its_trials_are_recorded(tmp_path):
    found = jointnas(
        "search", "--train-time", "1ms", "--rounds", "2", "--batch", "2", "--out", tmp_path / "run", *SMALL
    )
    assert found.code == 1
    assert [line for line in found.err.splitlines() if line.startswith("jointnas: ")] == found.err.splitlines()[-1:]
    assert "--train-time" in found.err.splitlines()[-1]
    with Run.open(tmp_path / "run") as run:
        trials = run.trials()
    assert len(trials) == 2
    assert all(t.observation.accuracy is None and "budget" in t.observation.failure for t in trials)


def test_a_run_that_was_killed_before_its_specification_does_not_hide_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Run.create(Path("runs/whole"), {"constraints": [], "data": {"source": "digits"}}).close()
    Run.create(Path("runs/half"), {}).close()
    assert "runs/whole" in [row["run"] for row in answer("runs")["runs"]]


# ------------------------------------------------------------------------------------------------------------- a crash


def ended_trials(folder):
    """Return the ended trials of a run that may not be there yet."""
    try:
        with Run.open(folder) as run:
            return [t for t in run.trials() if t.observation is not None]
    except (JointNASError, sqlite3.Error):
        return []


def heed_interruptions():
    """Undo that Ctrl-C is ignored, as a job that a shell starts in the background inherits it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stopped(tmp_path, number, ended, *arguments):
    """Start a search, send its processes a signal when so many trials have ended; return its command, exit code and stderr."""
    out = tmp_path / "run"
    command = [
        str(Path(sys.executable).with_name("jointnas")),
        "search",
        *arguments,
        "--out",
        str(out),
        "--json",
        *SMALL,
    ]
    said = tmp_path / "said"
    with said.open("w") as file:
        first = subprocess.Popen(
            command,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=file,
            preexec_fn=heed_interruptions,
        )
    end = time.monotonic() + 120
    while len(ended_trials(out)) < ended:
        assert first.poll() is None, said.read_text()
        assert time.monotonic() < end
        time.sleep(0.02)
    if number == signal.SIGKILL:
        os.kill(first.pid, number)
    else:
        os.killpg(first.pid, number)  # as a terminal does
    return command, first.wait(60), said.read_text()


def test_a_search_that_was_killed_goes_on_where_it_stood(tmp_path):
    budget = ("--train-steps", "50", "--rounds", "2", "--batch", "3")
    command, code, _ = stopped(tmp_path, signal.SIGKILL, 4, "--constraint", "macs<1M", *budget)
    assert code == -signal.SIGKILL
    out = tmp_path / "run"
    before = ended_trials(out)
    assert len(before) >= 4
    second = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=240)
    assert second.returncode == 0, second.stderr
    found = json.loads(second.stdout)
    assert set(found) == SEARCH_KEYS
    assert (found["trials"], found["failed"]) == (6, 0)
    assert all(set(winner) >= WINNER_KEYS for winner in found["winners"])
    after = ended_trials(out)
    assert after[: len(before)] == before
    assert [t.number for t in after] == [1, 2, 3, 4, 5, 6]
    assert len({json.dumps(t.candidate, sort_keys=True) for t in after}) == 6


def test_ctrl_c_in_an_engine_over_real_trainings_leaves_a_run_that_resumes(tmp_path):
    budget = ("--train-steps", "20", "--rounds", "3", "--batch", "2", "--constraint", "macs<1M")
    command, code, said = stopped(tmp_path, signal.SIGINT, 3, "--real", "--engine", "mads", *budget)
    assert code == 130
    assert "--resume" in said.splitlines()[-1]
    assert "Traceback" not in said
    before = ended_trials(tmp_path / "run")
    assert len(before) >= 3
    second = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=240)
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["trials"] == 6
    after = {t.number: t for t in ended_trials(tmp_path / "run")}
    assert [after[t.number] for t in before] == before
