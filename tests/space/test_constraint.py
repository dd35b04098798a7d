"""Hard bounds: how they are written, what holds, and what is refused."""

import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jointnas.errors import ConstraintError
from jointnas.network.cost import METRICS
from jointnas.space.constraint import Constraint, parse_all, read_sweep, violations

COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@pytest.mark.parametrize(
    ("text", "constraint"),
    [
        ("macs<40M", Constraint("macs", "<", 40e6)),
        ("  params <= 1.5 M ", Constraint("params", "<=", 1.5e6)),
        ("activations>600K", Constraint("activations", ">", 600e3)),
        ("macs>=1.2G", Constraint("macs", ">=", 1.2e9)),
        ("params<1000000", Constraint("params", "<", 1e6)),
        ("size<4MB", Constraint("size", "<", 4e6)),
        ("memory<=64MiB", Constraint("memory", "<=", 64 * 2**20)),
    ],
)
def test_a_constraint_is_metric_comparison_and_bound(text: str, constraint: Constraint) -> None:
    assert Constraint.parse(text) == constraint


@pytest.mark.parametrize("text", ["macs<40M", "params<=1.5M", "size>4MB", "memory>=500KB", "activations<12"])
def test_a_constraint_is_written_as_it_was_read(text: str) -> None:
    assert str(Constraint.parse(text)) == text


@pytest.mark.parametrize("bound", [1_048_577, 40_000_001, 123_456])
@pytest.mark.parametrize("metric", ["macs", "size"])
def test_a_bound_of_many_digits_is_not_rounded_where_it_is_written(metric: str, bound: int) -> None:
    constraint = Constraint(metric, "<", bound)
    assert Constraint.parse(str(constraint)) == constraint


@pytest.mark.parametrize(("text", "bound"), [("1.001K", 1001), ("1.003M", 1_003_000), ("0.067G", 67_000_000)])
def test_a_decimal_bound_is_exact_so_that_equality_holds(text: str, bound: int) -> None:
    assert Constraint.parse(f"params<={text}").bound == bound
    assert Constraint.parse(f"params>={text}").bound == bound


@given(st.sampled_from(sorted(COMPARISONS)), st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_violation_is_zero_exactly_when_the_comparison_holds(comparison: str, value: int, bound: int) -> None:
    values = np.array([value, bound, bound - 1, bound + 1], dtype=np.float64)
    held = Constraint("macs", comparison, bound).violation(values) == 0
    assert held.tolist() == [COMPARISONS[comparison](v, bound) for v in values]


def test_a_violation_is_a_share_of_the_bound() -> None:
    values = np.array([50.0, 100.0, 150.0])
    np.testing.assert_allclose(Constraint("macs", "<=", 100).violation(values), [0, 0, 0.5])
    np.testing.assert_allclose(Constraint("macs", ">=", 100).violation(values), [0.5, 0, 0])


def test_a_value_at_a_bound_that_excludes_it_violates_least_of_all() -> None:
    at, beyond = Constraint("macs", "<", 100).violation(np.array([100.0, np.nextafter(100, 101)]))
    assert 0 < at < beyond


def test_a_value_that_is_no_number_violates_without_end() -> None:
    for comparison in COMPARISONS:
        assert Constraint("macs", comparison, 100).violation(np.array([np.nan])) == [np.inf]


def test_a_bound_of_zero_is_a_bound() -> None:
    values = np.array([0.0, 1.0])
    assert (Constraint("macs", "<=", 0).violation(values) == 0).tolist() == [True, False]
    assert (Constraint("macs", ">", 0).violation(values) == 0).tolist() == [False, True]


def test_violations_have_a_row_a_candidate_and_a_column_a_constraint() -> None:
    costs = {"macs": np.array([10.0, 30.0, 20.0]), "params": np.array([4.0, 1.0, 2.0])}
    found = violations(parse_all(["macs<=20", "params<=2"], METRICS), costs)
    np.testing.assert_allclose(found, [[0, 1], [0.5, 0], [0, 0]])
    assert violations((), costs).shape == (3, 0)


@pytest.mark.parametrize("metric", ["macs", "params"])
def test_a_bound_that_the_shell_ate_gets_the_quoted_form(metric: str) -> None:
    with pytest.raises(ConstraintError, match=f"constraint '{metric}': .* quoted for the shell, as in '{metric}<40M'"):
        Constraint.parse(metric)


@pytest.mark.parametrize(
    "text", ["", "<40M", "40M", "macs=40M", "macs==40M", "macs 40M", "macs<", "macs<=", "macs<<4", "macs!=4"]
)
def test_what_is_no_constraint_gets_the_quoted_form(text: str) -> None:
    with pytest.raises(ConstraintError, match="as in 'macs<40M'"):
        Constraint.parse(text)


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConstraintError, match="no metric is called 'mac' in 'mac<40M': did you mean 'macs'"):
        Constraint.parse("mac<40M")
    with pytest.raises(ConstraintError, match="choose from steps, watts"):
        Constraint.parse("macs<40M", metrics=["steps", "watts"])
    with pytest.raises(ConstraintError, match="no metric is called 'parms': did you mean 'params'"):
        parse_all([Constraint("parms", "<", 3)], METRICS)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("macs<40Q", "got 'Q' in '40Q'"),
        ("macs<4MB", "one of the units K, M, G, T, got 'MB'"),
        ("size<4M", "one of the units B, KB, MB, GB, KiB, MiB, GiB, got 'M'"),
        ("macs<many", "a count is a number with a unit, got 'many'"),
        ("macs<-4", "finite and not negative, got '-4'"),
        ("macs<40M<50M", "cannot read the bound"),
    ],
)
def test_a_bound_that_cannot_be_read_is_refused(text: str, rule: str) -> None:
    with pytest.raises(ConstraintError, match=rule):
        Constraint.parse(text)


def test_several_constraints_are_read_from_text_or_taken_as_they_are() -> None:
    ready = Constraint("size", "<", 4e6)
    assert parse_all(["macs<40M", ready], METRICS) == (Constraint("macs", "<", 40e6), ready)
    assert parse_all([], METRICS) == ()


def test_a_sweep_is_a_constraint_for_each_of_its_bounds() -> None:
    assert read_sweep("macs<5M,10M, 20M") == ["macs<5M", "macs<10M", "macs<20M"]
    assert read_sweep("latency <= 2ms") == ["latency<=2ms"]


@pytest.mark.parametrize("text", ["", "macs", "macs<", "macs<5M,", ",5M", "5M,10M"])
def test_what_is_no_sweep_is_refused(text: str) -> None:
    with pytest.raises(ConstraintError, match="cannot read the sweep"):
        read_sweep(text)
