"""What the predictor reads of a candidate: groups of numbers, standardised, that say what is known of how recipes act."""

import numpy as np
import pytest

from jointnas.errors import PredictorError
from jointnas.predictor.features import Inputs
from jointnas.predictor.steps import Pace
from jointnas.space.space import Space

SPACE = Space.load("resnet9", (3, 32, 32), 10)
FREE = next(SPACE.stream(0, chunk=2048))


def read(space: Space = SPACE) -> Inputs:
    free = next(space.stream(0, chunk=2048))
    return Inputs(space, Pace(space, None), free)


def test_inputs_are_standardised_and_each_is_in_a_group() -> None:
    inputs = read()
    x = inputs(FREE)
    assert x.shape == (2048, len(inputs.groups))
    assert np.unique(inputs.groups).tolist() == list(range(7))
    varying = x.std(axis=0) > 0
    assert x[:, varying].mean(axis=0) == pytest.approx(0, abs=1e-6)
    assert x[:, varying].std(axis=0) == pytest.approx(1, abs=1e-6)
    assert not x[:, ~varying].any()


def test_a_candidate_reads_the_same_alone_and_among_others() -> None:
    inputs = read()
    np.testing.assert_allclose(np.concatenate([inputs(FREE[i : i + 1]) for i in range(9)]), inputs(FREE[:9]))


@pytest.mark.parametrize("name", ["resnet9", "fbnet", "mobilenet", "joint", "resnet9-basic"])
def test_every_space_with_networks_has_the_same_groups(name: str) -> None:
    space = Space.load(name, (3, 32, 32), 10)
    inputs = read(space)
    assert np.isfinite(inputs(space.to_codes(space.sample(64, seed=1)))).all()
    assert int(inputs.groups.max()) == 6


def test_the_same_rate_is_read_for_each_optimizer_apart() -> None:
    inputs = read()
    candidate = SPACE.sample(1)[0]
    recipe = {**candidate["recipe"], "momentum": 0.9}

    def rows(**changed: object) -> np.ndarray:
        without = {k: v for k, v in {**recipe, **changed}.items() if k != "momentum" or changed["optimizer"] == "sgd"}
        return inputs(SPACE.to_codes([{"architecture": candidate["architecture"], "recipe": without}]))[0]

    own = inputs.groups == inputs.groups.max()
    moved = {
        name: rows(optimizer=name, learning_rate=0.5)[own] - rows(optimizer=name, learning_rate=0.05)[own]
        for name in ("sgd", "adam")
    }
    assert set(np.flatnonzero(moved["sgd"])).isdisjoint(np.flatnonzero(moved["adam"]))
    assert np.count_nonzero(moved["sgd"]) == 2


def test_steps_that_are_believed_move_what_depends_on_them_alone() -> None:
    inputs = read()
    usual, many = inputs(FREE[:5]), inputs(FREE[:5], np.full(5, 1.0))
    np.testing.assert_array_equal(usual, inputs(FREE[:5], inputs.steps(FREE[:5])))
    changed = np.unique(inputs.groups[(usual != many).any(axis=0)])
    assert set(changed.tolist()) <= {2, 3, 4, 5, 6}


def test_of_an_abstract_space_every_knob_is_a_group_and_so_are_the_costs() -> None:
    text = "format = 1\n[architecture]\nx = { low = 0.0, high = 1.0 }\nkind = { choices = ['a', 'b', 'c'] }\n"
    space = Space.from_toml(text).with_cost(lambda c: {"price": float(c["architecture"]["x"])})
    assert read(space).groups.tolist() == [0, 1, 1, 1, 2]


def test_a_cost_that_is_no_number_is_refused() -> None:
    space = Space.from_toml("format = 1\n[architecture]\nx = { low = 0.0, high = 1.0 }\n")
    with pytest.raises(PredictorError, match="a finite number"):
        read(space.with_cost(lambda c: {"price": float("nan")}))
