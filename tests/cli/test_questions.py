"""Questions to a run that has ended: other bounds, sweeps, fronts, measured metrics and engines, without a training."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from jointnas.campaign.ask import FittedCampaign
from jointnas.campaign.store import Run
from jointnas.cli.common import difference_text
from jointnas.predictor.contract import Predictor
from jointnas.search.search import LOWER_BOUND_DEVIATIONS
from tests.cli.commands import RUN, SEARCH_KEYS
from tests.helpers import answer, jointnas, mistake


@pytest.fixture(scope="module")
def copy(cycle, tmp_path_factory):
    """A copy of the cycle's folder, and a bound that not all of its winners meet."""
    folder = tmp_path_factory.mktemp("questions") / "copy"
    shutil.copytree(cycle.folder, folder)
    return SimpleNamespace(folder=folder, bound=max(winner["macs"] for winner in cycle.search["winners"]))


@pytest.fixture
def in_copy(copy, monkeypatch):
    monkeypatch.chdir(copy.folder)
    return copy


def ask(*args):
    return answer("search", "--from", RUN, *args)


def test_a_question_to_an_ended_run_keeps_its_own_bound_and_trains_nothing(in_copy):
    tighter = ask("--constraint", f"macs<{in_copy.bound}", "--top", "2")
    assert set(tighter) == SEARCH_KEYS
    assert (tighter["trials"], tighter["failed"]) == (0, 0)
    assert len(tighter["winners"]) == 2
    assert all(w["macs"] < in_copy.bound for w in tighter["winners"])
    with Run.open(Path(RUN)) as run:
        assert len(run.trials()) == 6
        first, *_, last = run.queries()
        assert [len(run.winners(query["number"])) for query in (first, last)] == [3, 2]
        assert first["constraints"] == ["macs<1M"]
        assert last["constraints"][0].startswith("macs<")


def test_a_question_to_a_run_is_answered_without_pytorch(in_copy):
    code = f"""
import sys
from jointnas.cli import app
app(["search", "--from", {RUN!r}, "--max", "macs=1M", "--top", "1"], standalone_mode=False)
sys.exit("torch" in sys.modules)
"""
    asked = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (asked.returncode, "retrained" in asked.stderr) == (0, True)


def test_a_sweep_answers_one_bound_after_another_as_each_is_answered_alone(in_copy):
    first, second = ask("--sweep", f"macs<{in_copy.bound},1M", "--top", "1")["sweep"]
    assert (first["constraint"], second["constraint"]) == (f"macs<{in_copy.bound}", "macs<1M")
    assert [len(answered["winners"]) for answered in (first, second)] == [1, 1]
    assert first["winners"][0]["macs"] < in_copy.bound
    alone = ask("--constraint", f"macs<{in_copy.bound}", "--top", "1")["winners"][0]
    assert all(first["winners"][0][group] == alone[group] for group in ("architecture", "recipe"))


def test_a_sweep_goes_on_after_a_bound_that_nothing_meets(in_copy):
    bounds = [f"macs<{in_copy.bound}", "macs<1K", "macs<1M"]
    ended = jointnas("search", "--from", RUN, "--sweep", f"macs<{in_copy.bound},1K,1M", "--top", "1", "--json")
    assert ended.code == 1
    swept = json.loads(ended.out)
    assert [answered["constraint"] for answered in swept["sweep"]] == bounds
    assert [len(answered["winners"]) for answered in swept["sweep"]] == [1, 0, 1]
    assert "smallest macs" in swept["sweep"][1]["reason"]
    assert {"run", "trials", "failed", "predictor"} < set(swept)
    twice = ask("--sweep", bounds[0], "--sweep", bounds[2], "--top", "1")
    assert [answered["winners"] for answered in twice["sweep"]] == [swept["sweep"][i]["winners"] for i in (0, 2)]
    assert "smallest macs" in ended.err.splitlines()[-1]


def test_a_sweep_with_a_bound_that_cannot_be_read_is_refused_before_the_first_is_answered(in_copy):
    before = answer("runs", "show", RUN)["queries"]
    assert "units" in mistake(jointnas("search", "--from", RUN, "--sweep", "macs<1M,2Q"))
    assert answer("runs", "show", RUN)["queries"] == before


def test_measured_metrics_of_the_winners_stand_beside_their_costs(in_copy):
    (winner,) = ask("--measure", "latency", "--measure", "train_memory", "--top", "1")["winners"]
    assert winner["latency"] > 0
    assert winner["train_memory"] > 4 * winner["params"]


def test_measured_metrics_stand_in_every_table(in_copy):
    shown = answer("show", f"{RUN}/export/winner-1.toml", "--measure", "latency")
    assert shown["members"][0]["costs"]["latency"] > 0
    trials = answer("runs", "show", RUN, "--measure", "latency")["trials"]
    assert all(trial["latency"] > 0 for trial in trials)


def test_the_cheapest_winners_come_in_the_order_of_their_cost(in_copy):
    winners = ask("-c", "accuracy>=0.01", "--objective", "min params", "--top", "2")["winners"]
    costs = [winner["params"] for winner in winners]
    assert costs == sorted(costs)
    assert all(winner["predicted_accuracy"] >= 0.01 for winner in winners)


def test_engines_are_set_side_by_side_on_one_predictor(in_copy):
    several = ask("--engine", "all", "--top", "2")
    engines = ["evolution", "mads", "hillclimb"]
    assert [report["engine"] for report in several["engines"]] == engines
    assert all(0 < report["scored"] <= 600 and report["seconds"] > 0 for report in several["engines"])
    assert all(set(w["found_by"]) <= set(engines) and w["found_by"] for w in several["winners"])
    predictor = Predictor.load(Path(RUN) / "predictor")
    winners = [{group: winner[group] for group in ("architecture", "recipe")} for winner in several["winners"]]
    codes = predictor.space.to_codes(winners)
    bounds = predictor.bound_codes(codes, -LOWER_BOUND_DEVIATIONS)  # which rank winners, while engines search medians
    assert bounds[0] >= bounds[1]
    assert predictor.median_codes(codes).max() <= max(r["best"] for r in several["engines"]) + 0.01


def test_a_front_trades_accuracy_for_its_cost(in_copy):
    winners = ask("--frontier", "macs", "--top", "4")["winners"]
    assert 2 <= len(winners) <= 4
    for metric in ("macs", "predicted_accuracy"):
        values = [w[metric] for w in winners]
        assert values == sorted(set(values))


def test_a_front_leaves_out_the_runs_own_bound_on_the_accuracy(in_copy):
    with FittedCampaign(RUN) as fitted:
        assert fitted.bounds_on_costs(["macs<1M", "accuracy>=0.6", "latency<2ms"]) == ["macs<1M", "latency<2ms"]


def test_a_negative_seed_is_refused(in_copy):
    assert "a seed is 0 or more, got -1" in mistake(jointnas("search", "--from", RUN, "--seed", "-1"))


def test_a_path_that_the_system_refuses_is_one_line(in_copy):
    assert "x" * 5000 in mistake(jointnas("runs", "show", "x" * 5000))


def test_a_question_that_nothing_meets_is_refused_with_the_smallest_value_there_is(in_copy):
    line = mistake(jointnas("search", "--from", RUN, "--constraint", "macs<10K"))
    assert re.search(r"smallest macs it reaches is \d", line)


def test_a_query_that_was_never_asked_is_refused(in_copy):
    assert "no query 77" in mistake(jointnas("export", RUN, "--query", "77"))


def test_a_winner_differs_from_another_in_knobs_that_it_has():
    plain = {"architecture": {"network": "resnet9", "width": 8}, "recipe": {"policy": "none", "lookahead": 0}}
    other = {"architecture": plain["architecture"], "recipe": {"policy": "randaugment", "policy_magnitude": 3}}
    assert difference_text(plain, other) == "policy none"
    assert difference_text(other, plain) == "policy randaugment, policy_magnitude 3"
