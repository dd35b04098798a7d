"""Data envelopment analysis: properties, a published example, and the other form of the same linear program."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from jointnas.efficiency.envelopment import Analysis, efficiencies, non_dominated, super_efficiencies, thetas
from jointnas.errors import EfficiencyError

# Two inputs and one output of Cooper, Seiford & Tone, "Data Envelopment Analysis", example 2.2
BOOK_COSTS = np.array([[4.0, 3], [7, 3], [8, 1], [4, 2], [2, 4], [10, 1]])
BOOK_GAINS = np.ones((6, 1))
BOOK_THETAS = [6 / 7, 12 / 19, 1, 1, 1, 1]


def drawn(seed: int, n: int = 12, m: int = 3, s: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(0.2, 5, (n, m)), rng.uniform(0.2, 5, (n, s))


def multiplier_thetas(costs: np.ndarray, gains: np.ndarray) -> list[float]:
    """Return the efficiencies by the dual program: max u·y_o with v·x_o = 1 and u·y_j ≤ v·x_j for all j."""
    n, m = costs.shape
    found = []
    for o in range(n):
        objective = -np.concatenate([np.zeros(m), gains[o]])
        a = np.hstack([-costs, gains])
        equal = np.concatenate([costs[o], np.zeros(gains.shape[1])])[None]
        found.append(-linprog(objective, A_ub=a, b_ub=np.zeros(n), A_eq=equal, b_eq=[1], method="highs").fun)
    return found


def test_the_published_example() -> None:
    found = efficiencies(BOOK_COSTS, BOOK_GAINS)
    np.testing.assert_allclose([e.theta for e in found], BOOK_THETAS, atol=1e-9)
    assert found[0].peers == pytest.approx({3: 5 / 7, 4: 2 / 7})
    np.testing.assert_allclose(found[5].slacks, [2, 0, 0], atol=1e-9)  # on the frontier, but C gives the same for less


@pytest.mark.parametrize("seed", range(5))
def test_both_forms_of_the_program_agree(seed: int) -> None:
    costs, gains = drawn(seed)
    np.testing.assert_allclose(thetas(costs, gains), multiplier_thetas(costs, gains), atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["constant", "variable"]), st.sampled_from(["input", "output"]))
def test_properties(seed: int, returns: str, orientation: str) -> None:
    costs, gains = drawn(seed, n=7)
    analysis = Analysis(orientation, returns)
    found = thetas(costs, gains, analysis)
    assert (found > 0).all()
    assert found.max() == pytest.approx(1)
    assert (found <= 1 + 1e-9).all()
    units = np.array([1e-6, 1.0, 1e9])
    np.testing.assert_allclose(thetas(costs * units, gains * 1e3, analysis), found, atol=1e-7)
    worse_costs, worse_gains = np.vstack([costs, costs[0] * 1.2]), np.vstack([gains, gains[0] * 0.9])
    assert thetas(worse_costs, worse_gains, analysis)[-1] < 1 - 1e-6  # strictly dominated
    if returns == "variable":
        assert (found >= thetas(costs, gains, Analysis(orientation)) - 1e-9).all()


def test_models_of_very_different_sizes_are_solved_as_exactly() -> None:
    costs = 10.0 ** np.arange(1, 9)[:, None]
    gains = np.linspace(0.2, 0.9, 8)[:, None]
    ratio = (gains / costs).ravel()
    np.testing.assert_allclose(thetas(costs, gains), ratio / ratio.max(), rtol=1e-6)
    two = np.concatenate([costs, costs[::-1]], axis=1)
    found = efficiencies(two, gains, Analysis(returns="variable"))
    assert found[0].theta == pytest.approx(1)
    assert found[-1].theta == pytest.approx(1)
    assert all(0 < own.theta <= 1 for own in found)


def test_one_cost_and_one_gain_are_a_ratio() -> None:
    costs, gains = drawn(1, m=1, s=1)
    ratio = gains[:, 0] / costs[:, 0]
    np.testing.assert_allclose(thetas(costs, gains), ratio / ratio.max(), atol=1e-9)


def test_peers_give_as_much_at_the_share_of_the_costs() -> None:
    costs, gains = drawn(2)
    for o, own in enumerate(efficiencies(costs, gains)):
        weights = np.zeros(len(costs))
        weights[list(own.peers)] = list(own.peers.values())
        slacks = np.array(own.slacks)
        np.testing.assert_allclose(weights @ costs + slacks[:3], own.theta * costs[o], atol=1e-6)
        np.testing.assert_allclose(weights @ gains - slacks[3:], gains[o], atol=1e-6)


def test_super_efficiency_orders_the_frontier_and_leaves_the_others() -> None:
    costs, gains = drawn(3)
    plain, beyond = thetas(costs, gains), super_efficiencies(costs, gains)
    inside = plain < 1 - 1e-9
    np.testing.assert_allclose(beyond[inside], plain[inside], atol=1e-9)
    assert (beyond[~inside] >= 1).all()


def test_a_fixed_cost_is_not_reduced() -> None:
    costs = np.array([[2.0, 10.0], [4.0, 10.0], [1.0, 40.0]])
    gains = np.ones((3, 1))
    assert thetas(costs, gains, Analysis(fixed=(False, True)))[1] == pytest.approx(0.5)  # the third has too much of it
    with pytest.raises(EfficiencyError, match="one cost at least can be reduced"):
        Analysis(fixed=(True, True))


def test_dominated_rows_are_no_peers() -> None:
    costs, gains = np.array([[1.0], [1.0], [2.0], [3.0]]), np.array([[1.0], [1.0], [1.0], [4.0]])
    assert non_dominated(costs, gains).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("costs", "words"),
    [
        ([[0.0], [1]], "each cost is above 0, got 0"),
        ([[np.nan], [1]], "is a finite number"),
        ([[-1.0], [1]], "above 0, got -1"),
    ],
)
def test_values_without_an_efficiency_are_refused(costs: list[list[float]], words: str) -> None:
    with pytest.raises(EfficiencyError, match=words):
        efficiencies(np.array(costs), np.ones((2, 1)))
    with pytest.raises(EfficiencyError, match="--returns is constant or variable, got 'some'"):
        Analysis(returns="some")


@pytest.mark.parametrize("returns", ["constant", "variable"])
@pytest.mark.parametrize("orientation", ["input", "output"])
def test_many_models_at_once_have_the_efficiencies_that_each_has_alone(returns: str, orientation: str) -> None:
    costs, gains = drawn(0, n=130)
    analysis = Analysis(orientation, returns)
    alone = [own.theta for own in efficiencies(costs, gains, analysis)]
    np.testing.assert_allclose(thetas(costs, gains, analysis), alone, atol=2e-6)
