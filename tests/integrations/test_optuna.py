"""Optuna: a sampler that finds what it should, and studies that hold a run's trials."""

from __future__ import annotations

from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna", reason="Optuna is not installed")

from jointnas.campaign.result import Campaign  # noqa: E402
from jointnas.errors import SearchError  # noqa: E402
from jointnas.integrations.optuna import JointNASSampler, _definition, to_study  # noqa: E402

optuna.logging.set_verbosity(optuna.logging.ERROR)


def bowl(trial) -> float:
    x = trial.suggest_float("x", -3.0, 3.0)
    rate = trial.suggest_float("rate", 1e-5, 1e-1, log=True)
    n = trial.suggest_int("n", 1, 9)
    kind = trial.suggest_categorical("kind", ["a", None, 3])
    import math

    return (x - 1) ** 2 + (math.log10(rate) + 3) ** 2 + 0.1 * (n - 4) ** 2 + (0.0 if kind is None else 1.0)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_it_finds_a_better_point_than_random_search(direction: str) -> None:
    sign = 1 if direction == "minimize" else -1
    best = {}
    for name, sampler in {"ours": JointNASSampler(0), "random": optuna.samplers.RandomSampler(0)}.items():
        study = optuna.create_study(direction=direction, sampler=sampler)
        study.optimize(lambda trial: sign * bowl(trial), n_trials=25)
        best[name] = sign * study.best_value
    assert best["ours"] < 0.7 * best["random"]


def test_failed_pruned_and_running_trials_are_kept_in_mind() -> None:
    study = optuna.create_study(sampler=JointNASSampler(0))

    def sometimes(trial) -> float:
        value = bowl(trial)
        if trial.number % 4 == 1:
            raise ValueError
        if trial.number % 4 == 2:
            raise optuna.TrialPruned
        return value

    study.optimize(sometimes, n_trials=8, catch=(ValueError,))
    running = [study.ask() for _ in range(3)]
    points = [tuple(trial.params.values()) for trial in running]
    for trial in running:
        bowl(trial)
    assert len({tuple(sorted(map(str, trial.params.items()))) for trial in running}) == 3, points


def test_parameters_that_few_trials_have_are_sampled_too() -> None:
    def conditional(trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        return x + (trial.suggest_float("y", 0, 1) if trial.suggest_categorical("deep", [True, False]) else 1)

    study = optuna.create_study(sampler=JointNASSampler(0))
    study.optimize(conditional, n_trials=12)
    assert study.best_value < 1.2


def test_what_optuna_allows_does_not_end_a_study() -> None:
    def odd(trial) -> float:
        trial.suggest_float("step", -0.3, 0.3, step=0.1)
        trial.suggest_int("large", 1, 10**6)
        trial.suggest_int("even", 2, 10, step=2)
        trial.suggest_float("whole", 0.0, 9.0, step=1.0)
        fine = trial.suggest_float("fine", 0.0, 1.0, step=1e-6)
        assert abs(fine * 1e6 - round(fine * 1e6)) < 1e-6
        return float("inf") if trial.number == 2 else float(trial.number)

    study = optuna.create_study(sampler=JointNASSampler(0))
    study.enqueue_trial({"step": 0.0, "large": 2_000_000, "even": 4})
    study.optimize(odd, n_trials=6)
    assert all(trial.params["even"] % 2 == 0 for trial in study.trials)
    assert _definition({"x": optuna.distributions.FloatDistribution(0, 9, step=1.0)})["recipe"]["p0"]["step"] == 1.0
    finite = optuna.create_study(sampler=JointNASSampler(0))
    finite.optimize(lambda trial: float(trial.suggest_categorical("a", [1, 2, 3])), n_trials=6)
    assert finite.best_value == 1


def test_several_objectives_are_refused() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=JointNASSampler(0))
    with pytest.raises(SearchError, match="one objective, got a study of 2"):
        study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 0.0), n_trials=2)


def test_a_run_becomes_a_study(run: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    to_study(run, url, "mine")
    study = optuna.load_study(study_name="mine", storage=url)
    trials = [row for row in Campaign(run).trials if row["kind"] != "final"]
    assert [t.value for t in study.trials] == [row["observation"]["accuracy"] for row in trials]
    assert study.trials[0].params["width"] == trials[0]["architecture"]["width"]
    assert study.trials[0].user_attrs["macs"] < 1e6
    assert study.trials[0].intermediate_values
