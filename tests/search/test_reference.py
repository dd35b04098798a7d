"""The efficiency of candidates relative to fixed models, and searches that maximise it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linprog

from jointnas.errors import EfficiencyError, SearchError
from jointnas.search.reference import Reference
from jointnas.search.search import Search
from jointnas.space.space import Space
from tests.helpers import answer, jointnas, mistake

NAMES = ("a", "b", "c", "d")


def by_program(x: np.ndarray, y: float, costs: np.ndarray, gains: np.ndarray) -> float:
    """θ of a candidate by the dual program: the largest u·y with v·x = 1 and u·y_j ≤ v·x_j."""
    m = len(x)
    found = linprog(
        [*np.zeros(m), -y],
        A_ub=np.column_stack([-costs, gains]),
        b_ub=np.zeros(len(costs)),
        A_eq=[[*x, 0.0]],
        b_eq=[1.0],
        bounds=(0, None),
    )
    return float(-found.fun)


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_efficiencies_are_those_of_the_dual_program(m: int) -> None:
    rng = np.random.default_rng(m)
    gains, costs = rng.uniform(0.3, 0.9, 14), rng.lognormal(0, 1, (14, m))
    reference = Reference(NAMES[:m], tuple((g, *row) for g, row in zip(gains, costs, strict=True)))
    y, x = rng.uniform(0.1, 1, 60), rng.lognormal(0, 1, (60, m))
    own = reference.efficiencies(y, {name: x[:, i] for i, name in enumerate(NAMES[:m])})
    expected = [by_program(row, value, costs, gains) for row, value in zip(x, y, strict=True)]
    np.testing.assert_allclose(own, expected, rtol=1e-7)


def test_the_models_themselves_are_at_one_at_most_and_the_unit_of_a_cost_does_not_matter() -> None:
    models = ((0.9, 10.0, 5.0), (0.8, 4.0, 6.0), (0.6, 2.0, 9.0), (0.7, 9.0, 9.0))
    values = np.array(models)
    plain = Reference(("a", "b"), models).efficiencies(values[:, 0], {"a": values[:, 1], "b": values[:, 2]})
    assert plain.max() == pytest.approx(1)
    assert plain[3] < 1
    scaled = Reference(("a", "b"), tuple((g, 1e6 * a, b) for g, a, b in models))
    again = scaled.efficiencies(values[:, 0], {"a": 1e6 * values[:, 1], "b": values[:, 2]})
    np.testing.assert_allclose(again, plain)


@pytest.mark.parametrize(
    ("costs", "models", "rule"),
    [
        ((), ((0.5,),), "by 1 to 4 costs, got none"),
        ((*NAMES, "e"), ((0.5, 1, 1, 1, 1, 1),), "by 1 to 4 costs, got a, b, c, d, e"),
        (("a",), ((0.5, 0.0),), "above 0, got 0"),
        (("a",), ((0.5,),), "has an accuracy and the costs a"),
        (("a",), ((0.5, float("nan")),), "has an accuracy and the costs a"),
    ],
)
def test_references_without_meaning_are_refused(costs: tuple[str, ...], models: object, rule: str) -> None:
    with pytest.raises(EfficiencyError, match=rule):
        Reference(costs, models)  # type: ignore[arg-type]


def test_a_search_returns_the_most_efficient_candidates_first() -> None:
    space = Space.load("resnet9", (1, 8, 8), 4)
    reference = Reference(("macs",), ((0.5, 1e6), (0.9, 4e6)))
    search = Search(space, seed=0, objective="max efficiency", reference=reference, pool_size=512)
    batch = search.ask(8)
    search.tell(batch, [0.5 + 0.04 * i for i in range(8)])
    winners = search.best(4)
    found = [w.costs["efficiency"] for w in winners]
    assert found == sorted(found, reverse=True)
    for w in winners:
        assert w.costs["efficiency"] == pytest.approx(w.mean / w.costs["macs"] / (0.5 / 1e6))


def test_a_front_of_a_search_for_efficiency_has_the_cheapest_first() -> None:
    space = Space.load("resnet9", (1, 8, 8), 4)
    reference = Reference(("params",), ((0.5, 1e6),))
    search = Search(space, seed=0, objective="max efficiency", reference=reference, pool_size=512)
    batch = search.ask(8)
    search.tell(batch, [0.5 + 0.04 * i for i in range(8)])
    front = search.front("macs")
    efficiencies = [-w.costs["efficiency"] for w in front]
    assert efficiencies != sorted(efficiencies)
    assert [w.costs["macs"] for w in front] == sorted(w.costs["macs"] for w in front)


def test_efficiency_and_its_reference_go_together() -> None:
    space = Space.load("resnet9", (1, 8, 8), 4)
    with pytest.raises(SearchError, match="'max efficiency' compares with other models: name a run or a table"):
        Search(space, objective="max efficiency")
    with pytest.raises(SearchError, match="--relative-to goes with 'max efficiency', got the objective 'max accuracy'"):
        Search(space, reference=Reference(("macs",), ((0.5, 1.0),)))
    with pytest.raises(SearchError, match="candidates have no cost 'watts'"):
        Search(space, objective="max efficiency", reference=Reference(("watts",), ((0.5, 1.0),)))


def test_a_campaign_and_a_question_maximise_efficiency(tmp_path: Path) -> None:
    table = tmp_path / "models.csv"
    table.write_text("model,accuracy,macs,size\na,0.9,2e6,4e5\nb,0.8,1e6,2e5\nc,0.5,3e5,9e4\n")
    run = tmp_path / "run"
    asked = ("--objective", "max efficiency", "--relative-to", str(table))
    found = answer(
        "search",
        "--train-steps",
        "2",
        "--rounds",
        "1",
        "--batch",
        "4",
        "--confirm",
        "0",
        "--portfolio",
        "0",
        "--out",
        str(run),
        *asked,
    )
    assert all(row["efficiency"] > 0 for row in found["winners"])
    again = answer("search", "--from", str(run), *asked, "--constraint", "macs<2M")
    rows = [row["efficiency"] for row in again["winners"]]
    assert rows[0] == max(rows)
    of_run = answer("search", "--from", str(run), "--objective", "max efficiency", "--relative-to", str(run))
    assert of_run["winners"][0]["efficiency"] > 0
    assert jointnas("report", str(run)).code == 0
    assert 'id="efficiency"' in (run / "report.html").read_text()
    asked = ("--objective", "max efficiency", "--relative-to", str(tmp_path / "no.csv"))
    text = mistake(jointnas("search", "--from", str(run), *asked))
    assert "no.csv" in text
