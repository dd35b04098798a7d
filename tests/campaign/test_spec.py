"""Specs: one place of defaults and checks for the command line, the library and configuration files."""

from __future__ import annotations

import datetime
import tomllib
from pathlib import Path
from typing import Any

import pytest

from jointnas.campaign.options import make_spec, over_config, read_config
from jointnas.campaign.spec import DirectSpec, SearchSpec, Spec, spec_from_json
from jointnas.cli.plan import trainings_text
from jointnas.data.spec import DataSpec
from jointnas.errors import JointNASError, RunError
from jointnas.space.space import Space

SPACE = """
format = 1
[architecture]
network = "resnet9"
width = { low = 4, high = 16, step = 4 }
[recipe]
learning_rate = { low = 0.01, high = 1.0, log = true }
"""
START = {"architecture": {"network": "resnet9", "width": 8}, "recipe": {"learning_rate": 0.5}}
SPECS: list[Spec] = [
    make_spec({}),
    make_spec({"data": "cifar10", "train_images": 500, "train_time": "30s", "constraints": ["macs<2M", "params<1M"]}),
    make_spec({"space": SPACE, "fix": {"width": 8}, "start": [START], "early_stop": 0.92, "workers": 2, "seed": 7}),
    make_spec({"train_steps": 50, "repeats": 3, "objective": "min macs", "engine": "mads"}, "direct"),
    make_spec({"space": SPACE, "default": START, "top": 1}, "autotrain"),
    make_spec({"baselines": ["lenet", "senet18"], "repeats": 2}, "baselines"),
    make_spec({"space": SPACE, "train_fn": "task:train", "cost_fn": "task:cost"}),
    make_spec({"space": SPACE, "members": 3, "ensemble": "snapshots", "train_steps": 9}),
    make_spec({"start": [START], "morphisms": 2, "constraints": ["macs<2M"]}, "nash"),
    make_spec({"trained": START, "engine": "ppo", "rounds": 2}, "policy"),
]
by_kind = pytest.mark.parametrize("spec", SPECS, ids=[spec.kind for spec in SPECS])


@by_kind
def test_a_spec_comes_back_from_json(spec: Spec) -> None:
    assert spec_from_json(spec.to_json()).to_json() == spec.to_json()


@by_kind
def test_the_toml_of_a_spec_makes_it_again(spec: Spec) -> None:
    again = make_spec(tomllib.loads(spec.to_toml()))
    assert type(again) is type(spec)
    assert again.to_json() == spec.to_json()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_steps": "40"}, "the setting train_steps is a whole number, got '40'"),
        ({"rounds": True}, "the setting rounds is a whole number, got True"),
        ({"data": 5}, "the setting data is a name, a path or a table, got 5"),
        ({"fix": "a=b"}, "the setting fix is a table of knobs, got 'a=b'"),
        ({"start": "resnet9-1m"}, "the setting start is a list, got 'resnet9-1m'"),
        ({"trained": 5, "kind": "policy"}, "the setting trained is a file, a name or a table, got 5"),
        ({"space": 3}, "the setting space is a name, a file or a table, got 3"),
        ({"start": [5]}, "start is a list of files, names or tables, got 5 in it"),
        ({"clock": 5}, "the setting clock is a table, got 5"),
        ({"objective": 3}, "the setting objective is a text, got 3"),
        ({"top": "5"}, "the setting top is a whole number, got '5'"),
        ({"early_stop": "0.9"}, "the setting early_stop is a number, got '0.9'"),
        ({"constraints": [5]}, r"the setting constraints is a list of texts, got \[5\]"),
        ({"measure": 3}, "the setting measure is a list of texts, got 3"),
        ({"relative_to": [1]}, r"the setting relative_to is a table, got \[1\]"),
        ({"alone": "yes"}, "the setting alone is true or false, got 'yes'"),
    ],
)
def test_settings_of_another_type_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        make_spec(settings)


def test_shorthands_stand_for_the_fields_they_name() -> None:
    spec = make_spec({"train_time": "1m", "total_time": "10m", "rounds": 2, "workers": 2, "image_size": 16, "seed": 3})
    assert isinstance(spec, SearchSpec)
    assert spec.clock == {"train_seconds": 60.0}
    # seven and six candidates, then four trainings again, then one on all images: 4 + 3 + 2 + 1 turns
    assert (spec.batch, spec.confirmations, spec.final_trainings) == (9, 4, 1)
    assert spec.data is not None
    assert (spec.data.image_size, spec.data.seed) == (16, 3)


def test_the_split_has_a_seed_of_its_own_where_one_is_given(tmp_path: Any) -> None:
    def split(**settings: Any) -> int:
        data = make_spec(settings).data
        assert data is not None
        return data.seed

    assert split(seed=3) == 3
    assert split(seed=3, data_seed=1) == 1
    assert split(seed=3, data=DataSpec("digits", seed=2)) == 2
    repeated = tmp_path / "run.toml"
    for settings, splits in (({"seed": 3}, (3, 5)), ({"seed": 3, "data_seed": 1}, (1, 1))):
        repeated.write_text(make_spec(settings).to_toml())
        config = read_config(repeated)
        assert (split(**config), split(**{**config, "seed": 5})) == splits


@pytest.mark.parametrize("settings", [{"data_seed": -1}, {"data": {"seed": "x"}}, {"data": {"seed": True}}])
def test_the_seed_of_the_split_is_a_whole_number(settings: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="a whole number of 0 or more, got"):
        make_spec(settings)


def test_a_space_may_be_a_name_a_file_text_a_table_or_a_space(tmp_path: Any) -> None:
    (tmp_path / "mine.toml").write_text(SPACE)
    ways = [tmp_path / "mine.toml", str(tmp_path / "mine.toml"), SPACE, tomllib.loads(SPACE), Space.from_toml(SPACE)]
    knobs = {Space.from_toml(make_spec({"space": way}).space).knobs for way in ways}
    assert knobs == {Space.from_toml(SPACE).knobs}
    assert Space.from_toml(make_spec({}).space).knobs == Space.load("resnet9").knobs


@pytest.mark.parametrize(
    ("options", "kind", "reason"),
    [
        ({"rounds": 0}, "search", "--rounds must be 1 or more, got 0"),
        ({"top": -1}, "search", "--top must be 1 or more, got -1"),
        ({"seed": 100_000}, "search", "--seed must lie between 0 and 99999, got 100000"),
        ({"early_stop": 1.5}, "search", r"\(0, 1\], got 1.5"),
        ({"confirm": 29}, "search", "leave one training a round, between 0 and 28, got 29"),
        ({"portfolio": -1}, "search", "--portfolio must be 0 or more, got -1"),
        ({"portfolio": 1}, "direct", "got --portfolio 1: drop it"),
        ({"engine": "annealing"}, "search", "no engine is called 'annealing'"),
        ({"engine": "all"}, "direct", "choose one engine"),
        ({"early_stop": 0.9}, "direct", "whole budget, got --early-stop 0.9"),
        ({"confirm": 1}, "direct", "--repeats, got --confirm 1"),
        ({"repeats": 0}, "direct", "--repeats must be 1 or more"),
        ({"train_time": "1m", "train_steps": 5}, "search", "a time or steps"),
        ({"train_time": 0}, "search", "above 0 seconds"),
        ({"train_steps": 0}, "search", "one step or more"),
        (
            {"total_time": "1m", "train_time": "1m"},
            "search",
            "one training a round, got 1m for 4 rounds: give 4m or more",
        ),
        ({"total_time": "1m", "batch": 4}, "search", "--total-time sets the batch, got --batch 4"),
        ({"total_time": "1m", "train_steps": 4}, "search", "needs a training time"),
        ({"constraints": "macs<1M"}, "search", "constraints are a list"),
        ({"bacth": 3}, "search", "no setting 'bacth': did you mean 'batch'"),
        ({"data": {"sorce": "digits"}}, "search", "no setting 'sorce': did you mean 'source'"),
        ({}, "serach", "no kind of run is called 'serach': did you mean 'search'"),
        ({}, "autotrain", "not complete.*default"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_value(options: dict[str, Any], kind: str, reason: str) -> None:
    with pytest.raises(JointNASError, match=reason):
        make_spec(options, kind)


def test_only_some_settings_may_change_between_a_run_and_its_resumption() -> None:
    before = make_spec({"rounds": 2})
    assert before.differences(make_spec({"rounds": 3, "batch": 4, "top": 1, "engine": "mads"})) == []
    assert before.differences(make_spec({"rounds": 2, "seed": 1})) == ["data", "seed"]
    assert before.differences(make_spec({"rounds": 2}, "direct")) == ["kind"]
    assert isinstance(make_spec({}, "direct"), DirectSpec)


def test_a_run_is_read_where_its_engine_is_not_installed() -> None:
    stored = {**make_spec({"rounds": 2}).to_json(), "engine": "annealing", "predictor": "forest", "executor": "slurm"}
    spec = spec_from_json(stored)
    assert spec.to_json() == stored
    with pytest.raises(JointNASError, match="no executor is called 'slurm'"):
        spec.check_plugins()


def test_a_very_long_total_time_is_planned_at_once() -> None:
    spec = make_spec({"total_time": "1000000h", "train_time": "1s", "rounds": 3, "workers": 2, "final": "best"})
    assert isinstance(spec, SearchSpec)
    assert spec.planned_seconds is not None
    assert 3_599_999_990 <= spec.planned_seconds <= 3_600_000_000


def test_a_configuration_file_that_cannot_be_read_is_named(tmp_path: Any) -> None:
    (tmp_path / "bad.toml").write_text("rounds = = 3")
    with pytest.raises(RunError, match=r"valid TOML.*bad"):
        read_config(tmp_path / "bad.toml")
    with pytest.raises(RunError, match=r"readable TOML file.*none"):
        read_config(tmp_path / "none.toml")


def test_a_configuration_file_runs_no_command(tmp_path: Any) -> None:
    (tmp_path / "theirs.toml").write_text('latency_command = "sh theirs.sh {onnx}"')
    with pytest.raises(RunError, match=r"runs no command.*theirs"):
        read_config(tmp_path / "theirs.toml")


def test_a_total_time_replaces_the_batch_of_a_configuration_file() -> None:
    settings = over_config({"rounds": 3, "batch": 8, "train_time": "10s"}, {"total_time": "5m"})
    assert settings == {"rounds": 3, "train_time": "10s", "total_time": "5m"}


def test_a_setting_of_a_type_that_json_lacks_is_named_or_read_as_text() -> None:
    with pytest.raises(RunError, match="created"):
        make_spec({"created": datetime.date(2026, 12, 1)})
    assert make_spec({"prior": Path("runs/a")}).prior == str(Path("runs/a"))  # type: ignore[attr-defined]


def test_a_controller_over_real_trainings_trains_no_leaders() -> None:
    settings = {"engine": "ppo", "rounds": 4, "batch": 8, "trained": "resnet9-10s"}
    spec = make_spec({**settings, "space": "augmentation-policy"}, "policy")
    assert (spec.confirmations, spec.budgets) == (0, 32)  # type: ignore[attr-defined]
    assert "32 candidates at most" in trainings_text(spec)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "kind", "confirmations", "on_all_images"),
    [
        ({"rounds": 3, "batch": 6}, "search", 4, 1),
        ({"rounds": 3, "batch": 4}, "search", 3, 1),
        ({"rounds": 2, "batch": 5}, "search", 2, 0),
        ({"rounds": 2, "batch": 5, "final": "train+val"}, "search", 2, 1),
        ({"rounds": 3, "batch": 6, "final": "best"}, "search", 4, 0),
        ({"rounds": 3, "batch": 6, "confirm": 15}, "search", 15, 0),
        ({"rounds": 3, "batch": 6, "train_fn": "task:train", "space": SPACE}, "search", 4, 0),
        ({"rounds": 3, "batch": 6}, "direct", 0, 0),
    ],
)
def test_a_search_of_twelve_budgets_or_more_trains_its_winner_on_all_images(
    options: dict[str, Any], kind: str, confirmations: int, on_all_images: int
) -> None:
    spec = make_spec(options, kind)
    assert isinstance(spec, SearchSpec)
    assert (spec.confirmations, spec.final_trainings) == (confirmations, on_all_images)
    trained = sum(spec.batch_of(number) for number in range(1, spec.rounds + 1))
    assert trained + confirmations + on_all_images == spec.budgets


def test_the_last_training_fits_into_the_total_time() -> None:
    plain, again = (
        make_spec({"total_time": "10m", "train_time": "1m", "rounds": 2, "workers": 2, "final": final})
        for final in ("best", None)
    )
    assert isinstance(plain, SearchSpec)
    assert isinstance(again, SearchSpec)
    assert (plain.final_trainings, again.final_trainings) == (0, 1)
    for spec in (plain, again):
        waves = [-(-n // 2) for n in (spec.batch_of(1), spec.batch_of(2), spec.confirmations, spec.final_trainings)]
        assert sum(waves) <= 10
