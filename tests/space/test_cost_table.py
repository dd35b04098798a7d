"""Batches of architectures: the same costs and digests as each network's own, part by part."""

from __future__ import annotations

import numpy as np
import pytest

from jointnas.measurement.features import blueprint_features
from jointnas.network.blueprint import Blueprint
from jointnas.network.cost import blueprint_cost
from jointnas.space.cost_table import COSTS, distinct
from jointnas.space.space import Space
from tests.spaces import SPACES_OF_NETWORKS

SAMPLES = 64


def load(name: str) -> Space:
    return Space.load(name, input_shape=(3, 32, 32), classes=10)


@pytest.mark.parametrize("name", SPACES_OF_NETWORKS)
def test_a_batch_has_the_costs_and_digests_of_each_networks_own_blueprint(name: str) -> None:
    space = load(name)
    candidates = space.sample(SAMPLES, seed=3)
    codes = space.to_codes(candidates)
    networks = [space.architectures.blueprint(row) for row in codes[:, : space.n_architecture]]
    table = space.architectures.costs(codes[:, : space.n_architecture])
    own = [[blueprint_cost(network)[metric] for metric in COSTS] for network in networks]
    np.testing.assert_array_equal(table, own)
    assert space.architectures.digests(codes[:, : space.n_architecture]) == [n.digest() for n in networks]


@pytest.mark.parametrize("name", SPACES_OF_NETWORKS)
def test_numbers_that_add_up_over_parts_are_those_of_the_whole(name: str) -> None:
    space = load(name)
    candidates = space.sample(SAMPLES, seed=4)
    codes = space.to_codes(candidates)[:, : space.n_architecture]
    whole = [blueprint_features(space.blueprint(candidate)) for candidate in candidates]  # also where a part is empty
    np.testing.assert_allclose(space.architectures.sums(codes, blueprint_features), whole, rtol=1e-12)


def test_earlier_batches_do_not_change_the_costs() -> None:
    space = load("fbnet")
    codes = next(space.stream(0, chunk=256))[:, : space.n_architecture]
    fresh = [load("fbnet").architectures.costs(codes[i : i + 32]) for i in range(0, 256, 32)]
    space.architectures.costs(codes[::-1])
    np.testing.assert_array_equal(space.architectures.costs(codes), np.concatenate(fresh))


def test_the_cached_batch_is_not_returned_for_other_networks() -> None:
    space = load("fbnet")
    codes = next(space.stream(0, chunk=16))[:, : space.n_architecture]
    tables = space.architectures
    for part in (codes[:8], codes[8:], codes[:0], codes[:8]):
        networks = [load("fbnet").architectures.blueprint(row) for row in part]
        assert tables.digests(part) == [network.digest() for network in networks]
        assert tables.costs(part).tolist() == [
            [blueprint_cost(network)[metric] for metric in COSTS] for network in networks
        ]
        for found, network in zip(tables.sums(part, blueprint_features), networks, strict=True):
            np.testing.assert_allclose(found, blueprint_features(network), rtol=1e-12)


def test_equal_parts_of_many_networks_are_computed_once() -> None:
    space = load("fbnet")
    codes = next(space.stream(0, chunk=4096))[:, : space.n_architecture]
    computed = 0

    def count(part: Blueprint) -> list[float]:
        nonlocal computed
        computed += 1
        return [1]

    parts = space.architectures.sums(codes, count)[:, 0]
    assert len(np.unique(codes, axis=0)) == 4096
    assert computed < parts.sum() / 2
    space.architectures.sums(codes[::-1], count)
    assert computed < parts.sum() / 2


@pytest.mark.parametrize("bounds", [(3, 4, 5), (2**40, 2**40, 2**40)])
def test_distinct_rows_are_those_of_numpy(bounds: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 3, 500) for _ in bounds]
    first, inverse = distinct(list(zip(columns, bounds, strict=True)))
    rows = np.stack(columns, axis=1)
    np.testing.assert_array_equal(rows[first][inverse], rows)
    assert len(first) == len(np.unique(rows, axis=0))
