"""Rankings under uncertainty, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jointnas.efficiency.envelopment import thetas
from jointnas.efficiency.models import Metric, Model, read_table
from jointnas.efficiency.ranking import rank
from jointnas.efficiency.uncertainty import draws, resample
from jointnas.errors import EfficiencyError
from tests.helpers import answer, jointnas, mistake

TABLE = """model,accuracy,latency,macs
a,0.90,10,100
a,0.91,11,100
a,0.92,9,100
a,0.90,10,100
a,0.91,10,100
b,0.80,5,60
b,0.82,6,60
b,0.81,5,60
b,0.79,5,60
b,0.80,5,60
c,0.80,9,90
c,0.81,9,90
c,0.79,9,90
c,0.80,9,90
c,0.80,9,90
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "models.csv").write_text(TABLE)
    return tmp_path / "models.csv"


def test_without_variance_every_resample_is_the_deterministic_efficiency() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 4, (6, 3))
    models = [
        Model(str(i), {n: Metric((float(v),)) for n, v in zip("xyz", row, strict=True)}) for i, row in enumerate(values)
    ]
    found = resample(models, ["x", "y"], ["z"], resamples=5)
    np.testing.assert_allclose(found.thetas, np.tile(thetas(values[:, :2], values[:, 2:]), (5, 1)), atol=1e-9)
    assert rank(models, ["x", "y"], ["z"]).stochastic is None


@pytest.mark.parametrize("repeats", [8, 3, 2])
def test_metrics_that_were_measured_together_are_drawn_together(repeats: int) -> None:
    x = tuple(np.linspace(1, 2, repeats))
    twin = Model("twin", {"cost": Metric(x), "gain": Metric(x)})  # its ratio never varies
    other = Model("other", {"cost": Metric((1.0,), 0.0), "gain": Metric((1.0,), 0.0)})
    found = resample([twin, other, other], ["cost"], ["gain"], resamples=50)
    np.testing.assert_allclose(found.thetas, 1, atol=1e-9)


def test_probabilities_add_up(table: Path) -> None:
    found = rank(read_table(table), ["latency", "macs"], ["accuracy"], resamples=200)
    assert found.stochastic is not None
    np.testing.assert_allclose(found.stochastic.ranks.sum(axis=1), 1)
    np.testing.assert_allclose(found.stochastic.ranks.sum(axis=0), 1)
    better = found.stochastic.better
    np.testing.assert_allclose(better + better.T, 1)
    assert [found.models[i].name for i in found.order] == ["b", "a", "c"]
    assert found.peers_text(2) == f"1.00 b at {found.efficiencies[2].theta:.0%} of the cost, 800ms less latency"


def test_the_command_prints_a_table_and_draws_a_picture(table: Path, tmp_path: Path) -> None:
    done = jointnas(
        "rank", table, "--cost", "latency", "--cost", "macs", "--resamples", "50", "--picture", tmp_path / "p.svg"
    )
    assert done.code == 0
    assert [line.split("\t")[1] for line in done.out.splitlines()] == ["model", "b", "a", "c"]
    assert "taken as exact, as no repeat differs: macs" in done.err
    assert (tmp_path / "p.svg").read_text().count("<svg") == 1
    found = answer("rank", table, "--resamples", "20")
    assert (found["costs"], found["gains"]) == (["latency", "macs"], ["accuracy"])
    assert found["models"][0]["efficient"] == 1
    assert found["better"]["b"]["c"] == 1


def test_a_mean_with_a_deviation_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("model,accuracy,latency,latency_std\na,0.9,10,2\nb,0.8,9,2\nc,0.7,9,0\n")
    found = rank(read_table(tmp_path / "m.csv"), resamples=400, seed=1)
    assert found.costs == ("latency",)
    assert found.stochastic is not None
    assert 0.3 < found.stochastic.better[0, 1] < 0.7
    assert found.stochastic.thetas[:, 2].std() > 0  # as the frontier moves


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("model,accuracy,macs\na,0.9,1\nb,0.8,2\n", (), "efficiency is relative to other models, got 2: give 3 or more"),
        ("model,accuracy,macs\na,0.9,\nb,,2\nc,0.7,3\n", (), "have no metric in common"),
        (TABLE, ("--cost", "lattency"), "did you mean 'latency'?"),
        (TABLE, ("--cost", "latency", "--gain", "latency"), "is a cost or a gain, got latency as both"),
        (TABLE, ("--fixed", "accuracy"), "--fixed is one of the costs"),
        (TABLE.replace("0.90,10", "0.90,fast", 1), (), "a metric is a number, got 'fast' for latency in line 2"),
        ("model,accuracy,macs\na,0.9,0\nb,0.8,2\nc,0.7,3\n", (), "metrics are finite and above 0, got 0 for macs of 'a'"),
        ("name,accuracy\n", (), "has the column model and one for each metric"),
        (TABLE, ("--seed", "-1"), "--seed must be 0 or more, got -1"),
        (TABLE, ("--fixed", "macs", "--orientation", "output"), "--fixed is of costs that are reduced"),
        ("model,accuracy,b,b_std\nx,1,2,-1\ny,1,2,1\nz,1,2,1\n", (), "a deviation is 0 or more, got b_std = -1 of 'x'"),
        ("model,accuracy,macs\na,0,9,3\nb,0.8,2\nc,0.7,1\n", (), "got more cells than columns in line 2"),
        ("model,accuracy,macs\n,0.9,3\nb,0.8,2\nc,0.7,1\n", (), "got no name of a model in line 2"),
        ("model,a,b,b_std\nx,1,2,1\nx,1,2,1\ny,1,2,1\nz,1,2,1\n", (), "either repeats or a deviation"),
    ],
)  # fmt: skip
def test_mistakes(text: str, options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(text)
    assert words in mistake(jointnas("rank", tmp_path / "m.csv", *options))


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(EfficiencyError, match="cannot be read"):
        read_table(tmp_path / "none.csv")


def test_a_model_that_another_dominates_is_not_efficient() -> None:
    values = {"good": (1.0, 0.7), "same cost, learned nothing": (1.0, 0.1), "large": (5.0, 0.9), "huge": (500.0, 0.901)}
    models = [Model(n, {"macs": Metric((c,)), "accuracy": Metric((a,))}) for n, (c, a) in values.items()]
    found = rank(models, returns="variable")
    assert [own.is_efficient for own in found.efficiencies] == [True, False, True, True]
    assert found.order[-1] == 1
    assert found.order[0] != 3  # not the most accurate at any cost
    noisy = [Model(m.name, {**m.metrics, "accuracy": Metric(m.metrics["accuracy"].values, 0.01)}) for m in models]
    drawn = rank(noisy, returns="variable", resamples=50).stochastic
    assert drawn is not None
    assert drawn.efficient[1] == 0


def test_a_model_that_was_measured_once_gets_the_deviation_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("model,accuracy,macs,family\na,0.9,2,x\na,0.8,2,x\nb,0.85,2,y\nc,0.7,1,z\n")
    found = rank(read_table(tmp_path / "m.csv"), resamples=300)
    assert found.stochastic is not None
    assert 0.3 < found.stochastic.better[0, 1] < 0.7
    assert any("measured once for some models" in note for note in found.notes)


def test_draws_of_few_repeats_have_their_mean_and_deviation() -> None:
    few = Model("few", {"cost": Metric((9.0, 10.0, 11.0)), "gain": Metric((1.0, 1.0, 1.0))})
    spread = Model("spread", {"cost": Metric((10.0,), 5.0), "gain": Metric((1.0,), 0.0)})
    small = Model("small", {"cost": Metric((0.001,)), "gain": Metric((1.0,), 0.0)})  # measured once
    drawn = draws([few, spread, small], ["cost", "gain"], 20_000, 0)[:, :, 0]
    np.testing.assert_allclose(drawn.mean(axis=0), [10, 10, 0.001], rtol=0.02)
    relative = np.sqrt((0.1**2 + 0.5**2) / 2)  # of the models that have repeats
    np.testing.assert_allclose(drawn.std(axis=0)[:2], [1, 5], rtol=0.1)
    assert drawn.std(axis=0)[2] / 0.001 == pytest.approx(relative, rel=0.1)
    assert (drawn > 0).all()


def test_models_without_a_named_metric_are_left_out_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("model,accuracy,macs\na,0.9,3\nb,0.8,2\nc,0.7,1\nd,,1\n")
    found = rank(read_table(tmp_path / "m.csv"), ["macs"], ["accuracy"])
    assert [model.name for model in found.models] == ["a", "b", "c"]
    assert "left out, as a metric is missing: d" in found.notes
    (tmp_path / "few.csv").write_text("model,accuracy,macs\na,0.9,3\nb,0.8,2\nc,,1\n")
    text = mistake(jointnas("rank", tmp_path / "few.csv", "--cost", "macs", "--gain", "accuracy"))
    assert "got a, b with macs, accuracy: give 3 or more models" in text
    text = mistake(jointnas("rank", tmp_path / "few.csv"))
    assert "got the metrics macs (accuracy of some models only)" in text


def test_slacks_are_named_beside_the_peers(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("model,accuracy,macs,params\na,0.8,100,100\nb,0.8,100,300\nc,0.4,400,400\n")
    found = rank(read_table(tmp_path / "m.csv"), returns="variable")
    assert found.peers_text(1) == "1.00 a at 100% of the cost, 200 less params"


def test_columns_of_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("model,accuracy,macs,family\na,0.9,3,x\nb,0.8,2,x\nc,0.7,1,y\n")
    ended = jointnas("rank", tmp_path / "m.csv")
    assert ended.code == 0
    assert "are skipped: family" in " ".join(ended.err.split())


def test_a_metric_of_one_model_in_two_tables_is_refused(table: Path, tmp_path: Path) -> None:
    (tmp_path / "again.csv").write_text(TABLE.replace("0.9", "0.7"))
    assert "got accuracy of 'a' twice: rename a model" in mistake(jointnas("rank", table, tmp_path / "again.csv"))


def test_seconds_of_trainings_are_a_column_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("model,accuracy,train_seconds\na,0.9,60,\nb,0.8,50,\nc,0.7,20,\n")
    assert answer("rank", tmp_path / "m.csv")["costs"] == ["train_seconds"]
