"""Models that have a network: what names stand for, and metrics that are measured again and again."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from jointnas.campaign.baselines import ARCHITECTURES
from jointnas.campaign.candidate_file import CandidateFile
from jointnas.efficiency.measured import measured, networks_named, with_costs, write_table
from jointnas.efficiency.models import Images, Metric, Model, joined, read_run, read_table, read_winner
from jointnas.errors import EfficiencyError
from jointnas.execution import share_slots
from tests.helpers import answer, jointnas, mistake

IMAGES = Images((3, 32, 32), 10)
SMALL = {"architecture": {"network": "resnet9", "width": 4}, "recipe": {}}


def test_names_stand_for_baselines_recipes_files_and_networks_of_libraries(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[architecture]\nnetwork = "resnet9"\nwidth = 4\n')
    assert set(networks_named("baselines") or {}) <= set(ARCHITECTURES)
    assert list(networks_named("senet18") or {}) == ["senet18"]
    assert (networks_named(str(file)) or {})["mine"].candidate["architecture"]["width"] == 4
    assert (networks_named("resnet9-1m") or {})["resnet9-1m"].candidate["recipe"]["optimizer"] == "muon"
    library = networks_named("mobilenet_v3_small") or {}
    (model,) = with_costs(library, Images((3, 224, 224), 1000))
    assert model.metrics["params"].mean == 2_542_856  # the number that torchvision documents
    assert networks_named("no such network") is None


def test_a_file_of_an_ensemble_costs_its_members_and_is_not_measured() -> None:
    one, three = (with_costs({"own": CandidateFile(SMALL, training={"members": n})}, IMAGES)[0] for n in (1, 3))
    assert three.metrics["macs"].mean == 3 * one.metrics["macs"].mean
    assert (one.candidate, three.candidate) == (SMALL, None)
    with pytest.raises(EfficiencyError, match="networks are measured on images of one kind, got no network"):
        measured([three], ["latency"], 1, share_slots(1, "cpu"))


def test_each_metric_is_measured_again_and_again_and_together_with_its_own(tmp_path: Path) -> None:
    models = with_costs({"small": CandidateFile(SMALL)}, IMAGES)
    steps: list[tuple[int, int]] = []
    asked = ["latency", "latency_p95", "images_per_second"]
    (model,) = measured(models, asked, 2, share_slots(1, "cpu"), lambda *own: steps.append(own))
    assert [len(model.metrics[name].values) for name in asked] == [2, 2, 2]
    assert all(value > 0 for name in asked for value in model.metrics[name].values)
    ended, total = steps[-1]
    assert ended == total
    assert 4 <= total <= 8  # what other programs disturbed is measured once more
    rows = [set(model.metrics[name].rows) for name in asked]
    assert rows[0] == rows[1]
    assert not rows[0] & rows[2]  # not measured together
    write_table([model], tmp_path / "models.csv")
    (again,) = read_table(tmp_path / "models.csv")
    assert {n: m.values for n, m in again.metrics.items()} == {n: m.values for n, m in model.metrics.items()}


def test_a_table_keeps_what_was_measured_together_apart_from_the_rest(tmp_path: Path) -> None:
    metrics = {
        "accuracy": Metric((0.1, 0.2), rows=(0, 1)),
        "latency": Metric((5.0, 6.0, 7.0), rows=(10, 11, 12)),
        "p95": Metric((8.0, 9.0, 10.0), rows=(10, 11, 12)),
        "macs": Metric((3.0,)),
    }
    write_table([Model("a", metrics)], tmp_path / "models.csv")
    (again,) = read_table(tmp_path / "models.csv")
    assert {n: m.values for n, m in again.metrics.items()} == {n: m.values for n, m in metrics.items()}
    assert again.metrics["latency"].rows == again.metrics["p95"].rows
    assert not set(again.metrics["latency"].rows) & set(again.metrics["accuracy"].rows)


def test_a_table_keeps_deviations(tmp_path: Path) -> None:
    models = [Model(n, {"cost": Metric((1.0 + i,), 0.5), "gain": Metric((2.0, 3.0))}) for i, n in enumerate("abc")]
    write_table(models, tmp_path / "models.csv")
    kept = next(m.metrics for m in read_table(tmp_path / "models.csv"))
    assert (kept["cost"].values, kept["cost"].deviation) == ((1.0,), 0.5)
    assert kept["gain"].values == (2.0, 3.0)


def test_models_of_one_name_are_one_with_the_metrics_of_all() -> None:
    one = Model("a", {"accuracy": Metric((0.5, 0.6), rows=(0, 1)), "macs": Metric((10.0,))})
    other = Model("a", {"latency": Metric((1.0, 2.0), rows=(0, 1)), "macs": Metric((10.0,))}, SMALL)
    (both,) = joined([one, other])
    assert set(both.metrics) == {"accuracy", "macs", "latency"}
    assert both.candidate == SMALL
    assert not set(both.metrics["accuracy"].rows) & set(both.metrics["latency"].rows)  # not measured together
    with pytest.raises(EfficiencyError, match="got latency of 'a' twice: rename"):
        joined([other, Model("a", {"latency": Metric((3.0,))})])


def test_the_command_ranks_networks_by_name_with_accuracies_of_a_table(tmp_path: Path) -> None:
    table = tmp_path / "accuracies.csv"
    table.write_text("model,accuracy\nlenet,0.55\nresnet9-1m,0.78\nsenet18,0.77\n")
    saved = tmp_path / "all.csv"
    found = answer(
        "rank", str(table), "lenet", "resnet9-1m", "senet18", "--cost", "macs", "--cost", "params", "--save", str(saved)
    )
    assert {row["model"] for row in found["models"]} == {"lenet", "resnet9-1m", "senet18"}
    assert next(row for row in found["models"] if row["model"] == "senet18")["efficiency"] < 1
    with saved.open() as file:
        assert {row["model"]: row["params"] for row in csv.DictReader(file)}["lenet"] == "62006.0"
    again = answer("rank", str(saved), "--cost", "macs", "--cost", "params", "--gain", "accuracy")
    assert [row["model"] for row in again["models"]] == [row["model"] for row in found["models"]]


def test_costs_alone_are_saved_to_be_ranked_with_accuracies_of_elsewhere(tmp_path: Path) -> None:
    saved = tmp_path / "costs.csv"
    ended = jointnas("rank", "lenet", "vgg16", "senet18", "--save", saved)
    assert ended.code == 0
    assert "has 3 models; none is ranked, as no metric is a gain" in " ".join(ended.err.split())
    assert {model.name for model in read_table(saved)} == {"lenet", "vgg16", "senet18"}
    assert answer("rank", "lenet", "vgg16", "senet18", "--save", saved)["models"] == []
    assert "efficiency needs a cost and a gain" in mistake(jointnas("rank", saved))


def test_models_of_a_table_get_exact_costs_by_their_names(tmp_path: Path) -> None:
    table = tmp_path / "accuracies.csv"
    table.write_text("model,accuracy\nlenet,0.55\nresnet9-1m,0.78\nvgg16,0.7\nno-network,0.9\n")
    found = answer("rank", table, "--cost", "macs", "--gain", "accuracy")
    assert {row["model"] for row in found["models"]} == {"lenet", "resnet9-1m", "vgg16"}
    assert found["models"][-1]["metrics"].keys() == {"macs", "accuracy"}
    assert "left out, as a metric is missing: no-network" in found["notes"]


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (("--orientation", "in"), "--orientation is input or output, got 'in'"),
        (("--resamples", "-1"), "--resamples must be 0 or more, got -1"),
        (("--gain", "acuracy"), "no model has the metric 'acuracy'"),
        ((), "efficiency needs a cost and a gain"),
        (("--gain", "params", "--cost", "macs", "--fixed", "size"), "--fixed is one of the costs macs, got 'size'"),
        (("--save", "/proc/x/speeds.csv"), "--save cannot be written to '/proc/x/speeds.csv'"),
    ],
)
def test_mistakes_are_found_before_anything_is_measured(
    arguments: tuple[str, ...], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jointnas.efficiency.measured.measured", lambda *given: pytest.fail("something was measured"))
    assert rule in mistake(jointnas("rank", "lenet", "vgg16", "senet18", "--measure", "latency", *arguments))


def test_models_of_a_table_are_measured_by_their_names(tmp_path: Path) -> None:
    table = tmp_path / "accuracies.csv"
    table.write_text("model,accuracy\nlenet,0.55\nresnet9-1m,0.78\nresnet9-10s,0.6\n")
    measure = ("--measure", "latency", "--repeats", "1", "--input-shape", "3x16x16", "--classes", "4")
    found = answer("rank", str(table), *measure)
    assert all(row["metrics"]["latency"] > 0 for row in found["models"])


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (("nosuchmodel",), "a model is a table (.csv), a run, a winner's folder"),
        (("lenet", "senet18"), "efficiency is relative to other models, got 2"),
        (("lenet", "senet18", "vgg16", "--measure", "watts"), "no measured metric is called 'watts'"),
        (("lenet", "senet18", "vgg16", "--measure", "latency", "--repeats", "0"), "--repeats must be 1 or more, got 0"),
        (("lenet", "senet18", "vgg16", "--save", "x.txt"), "--save writes a .csv file, got 'x.txt'"),
        (("lenet", "senet18", "vgg16"), "efficiency needs a cost and a gain"),
        (
            ("lenet", "senet18", "vgg16", "--input-shape", "32"),
            "an input shape is channels, height and width, got '32'",
        ),
    ],
)
def test_what_cannot_be_ranked_is_one_clear_sentence(arguments: tuple[str, ...], rule: str) -> None:
    assert rule in mistake(jointnas("rank", *arguments))


def test_a_runs_candidates_and_its_retrained_winner_are_models(tmp_path: Path) -> None:
    run = tmp_path / "run"
    budget = ("--train-steps", "2", "--rounds", "1", "--batch", "3", "--confirm", "0", "--portfolio", "0")
    assert jointnas("search", *budget, "--out", str(run)).code == 0
    assert jointnas("retrain", str(run), "--top", "1", "--seeds", "2").code == 0
    trained = read_run(run)
    assert len(trained) == 3
    for model in trained:
        together = [model.metrics[name] for name in ("accuracy", "train_seconds", "train_images_per_second")]
        assert all(metric.values[0] > 0 and metric.rows == (0,) for metric in together)
    winner = run / "retrained" / "winner-1"
    found = answer(
        "rank", str(winner), "lenet", "resnet9-1m", "--cost", "macs", "--gain", "params", "--input-shape", "3x32x32"
    )
    assert str(winner) in {row["model"] for row in found["models"]}
    assert len(read_winner(winner).metrics["test_accuracy"].values) == 2
    assert read_winner(winner).images == Images((1, 8, 8), 10)
    compared = ("--cost", "macs", "--gain", "params", "--input-shape", "3x32x32")
    arguments = ("rank", winner, "lenet", "resnet9-1m", "--measure", "latency", *compared)
    assert "networks are measured on images of one kind, got" in mistake(jointnas(*arguments))
