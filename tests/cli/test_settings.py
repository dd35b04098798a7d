"""Settings of a run as a file, and training code of the user's own, on the command line."""

from __future__ import annotations

from pathlib import Path

from tests.cli.commands import RUN
from tests.helpers import answer, jointnas, mistake


def test_the_settings_of_a_run_repeat_it_and_options_replace_them(in_cycle, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(jointnas("runs", "show", RUN, "--config").out)
    again = answer("search", "--config", config, "--out", tmp_path / "again")
    assert again["winners"] == in_cycle.search["winners"]
    plan = answer("search", "--config", config, "--rounds", "1", "--batch", "2", "--train-time", "5s", "--dry-run")
    assert (plan["trainings"], plan["train_seconds"], plan["constraints"]) == (2, 10, ["macs<1M"])
    config.write_text(config.read_text().replace("batch = 3", "bacth = 3"))
    assert "did you mean 'batch'" in mistake(jointnas("search", "--config", config))


def test_a_function_of_the_users_trains_the_candidates_of_an_abstract_space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ridge.toml").write_text(
        "format = 1\n[architecture]\ndegree = { low = 1, high = 9 }\n"
        "[recipe]\nalpha = { low = 1e-4, high = 10.0, log = true }\n"
    )
    Path("ridge.py").write_text(
        "def train(candidate, *, seed, clock):\n"
        "    return 1 - abs(candidate['architecture']['degree'] - 4) / 10 - candidate['recipe']['alpha'] / 100\n"
        "def cost(candidate):\n"
        "    return {'terms': candidate['architecture']['degree'] + 1}\n"
    )
    task = ("--space", "ridge.toml", "--train-fn", "ridge:train", "--cost-fn", "ridge:cost", "-c", "terms<=4")
    found = answer("search", *task, "--rounds", "2", "--batch", "4", "--train-steps", "1", "--out", "run")
    assert (found["trials"], found["failed"], found["confirmations"]) == (6, 0, 2)
    assert found["winners"][0]["architecture"] == {"degree": 3}
    assert (
        answer("search", *task, "--rounds", "2", "--batch", "4", "--train-steps", "1", "--out", "run", "--resume")
        == found
    )
    assert answer("search", "--from", "run", "-c", "terms<=3", "--top", "1")["winners"][0]["terms"] <= 3
    assert "check the name" in mistake(jointnas("search", "--space", "ridge.toml", "--train-fn", "ridge:tarin"))
    assert "--train-fn" in mistake(jointnas("search", "--space", "ridge.toml"))
    assert answer("predictors", "show", "run")["data"] is None
    assert "intact" in jointnas("predictors", "check", "run").out
    assert "--cost-fn ridge:cost: ask that run" in mistake(jointnas("predictors", "fit", "run", "--to", "week"))
    assert not Path("week").exists()
    free = ("--space", "ridge.toml", "--train-fn", "ridge:train", "--rounds", "1", "--batch", "3", "--train-steps", "1")
    answer("search", *free, "--out", "free")
    adopted = jointnas("search", "--from", "free/predictor", "--out", "adopted", "--top", "1")
    assert "does not record the data" in mistake(adopted)
