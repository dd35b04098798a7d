"""Which candidates the tables of trainings hold."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from scipy.linalg import hadamard

from benchmarks.search.effects import effects
from benchmarks.search.pretrain import TABLES
from benchmarks.tables.crossings import CROSSED, CROSSINGS
from benchmarks.tables.plan import Drawing, changed
from benchmarks.tables.table import Table


def test_crossed_candidates_hold_half_of_the_factors_each_independent_of_the_others() -> None:
    table = replace(Table.read(TABLES / "tiny-scenes.csv"), rows=[])
    drawing = Drawing(table, np.random.default_rng(0), CROSSED, None)
    drawn = list(islice(drawing.candidates("resnet9", 60.0, "macs<20M", 32), 32))
    factors = [list(factor.items())[-1] for factor in CROSSINGS[CROSSED].factors]  # the width follows the bound
    held = np.array(
        [[{**c["architecture"], **c["recipe"]}[name] == value for name, value in factors] for _, c in drawn]
    )
    assert (held.sum(axis=0) == 16).all()
    assert np.abs(np.corrcoef(held.T) - np.eye(len(factors))).max() < 1e-9
    assert {bound for bound, _ in drawn} == {"macs<20M"}


def test_effects_of_crossed_factors_are_told_from_noise_and_from_what_differs_between_tables() -> None:
    rng = np.random.default_rng(0)
    held = np.tile(hadamard(32)[:, 1:9] > 0, (2, 1))
    true = np.array([0.02, -0.02, 0.01, 0, 0, 0, 0, 0])
    tables = ["easy"] * 32 + ["hard"] * 32
    accuracy = held @ true + np.where(np.array(tables) == "easy", 0.9, 0.4) + rng.normal(0, 0.01, 64)
    found, spread, deviation = effects(held, tables, accuracy)
    assert deviation == pytest.approx(0.01, rel=0.3)
    assert spread == pytest.approx(2 * deviation / 64**0.5)
    assert np.abs((found - true) / spread).max() < 3


def test_a_factor_of_a_knob_that_does_not_act_is_refused() -> None:
    candidate = {"architecture": {"width": 8}, "recipe": {"gradient": "plain"}}
    assert changed(candidate, {"gradient": "mltp"})["recipe"] == {"gradient": "mltp"}
    with pytest.raises(SystemExit, match="mltp_rate"):
        changed(candidate, {"gradient": "mltp", "mltp_rate": 0.5})
