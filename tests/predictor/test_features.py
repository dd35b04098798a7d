"""The features of a candidate: groups of standardised numbers, with the known effects of recipe knobs."""

import numpy as np
import pytest

from jointnas.errors import PredictorError
from jointnas.predictor.features import Featurizer
from jointnas.predictor.steps import StepsModel
from jointnas.space.space import Space

SPACE = Space.load("resnet9", (3, 32, 32), 10)
REFERENCE = next(SPACE.stream(0, chunk=2048))


def make_featurizer(space: Space = SPACE) -> Featurizer:
    reference = next(space.stream(0, chunk=2048))
    return Featurizer(space, StepsModel(space, None), reference)


def test_features_are_standardised_and_each_is_in_a_group() -> None:
    features = make_featurizer()
    x = features(REFERENCE)
    assert x.shape == (2048, len(features.groups))
    assert np.unique(features.groups).tolist() == list(range(7))
    varying = x.std(axis=0) > 0
    assert x[:, varying].mean(axis=0) == pytest.approx(0, abs=1e-6)
    assert x[:, varying].std(axis=0) == pytest.approx(1, abs=1e-6)
    assert not x[:, ~varying].any()


def test_a_candidate_has_the_same_features_alone_and_among_others() -> None:
    features = make_featurizer()
    np.testing.assert_allclose(
        np.concatenate([features(REFERENCE[i : i + 1]) for i in range(9)]), features(REFERENCE[:9])
    )


@pytest.mark.parametrize("name", ["resnet9", "fbnet", "mobilenet", "joint", "resnet9-basic"])
def test_every_space_with_networks_has_the_same_groups(name: str) -> None:
    space = Space.load(name, (3, 32, 32), 10)
    features = make_featurizer(space)
    assert np.isfinite(features(space.to_codes(space.sample(64, seed=1)))).all()
    assert int(features.groups.max()) == 6


@pytest.mark.parametrize("name", ["resnet9", "fbnet", "joint", "nomad-nas"])
def test_every_feature_has_a_name_of_its_own(name: str) -> None:
    features = make_featurizer(Space.load(name, (3, 32, 32), 10))
    assert len(set(features.names)) == len(features.names) == len(features.groups)


@pytest.mark.parametrize(
    ("knob", "code", "named"),
    [
        ("flip", 1.0, {"flip=False", "flip=True"}),
        ("bias_weight_decay", 1e-3, {"bias_weight_decay", "bias_weight_decay is on"}),
    ],
)
def test_a_name_is_at_the_column_of_its_feature(knob: str, code: float, named: set[str]) -> None:
    features, place = make_featurizer(), next(i for i, own in enumerate(SPACE.knobs) if own.name == knob)
    one, other = REFERENCE[:1].copy(), REFERENCE[:1].copy()
    one[0, place], other[0, place] = 0.0, code
    assert {features.names[i] for i in np.flatnonzero((features(one) != features(other))[0])} == named


def test_the_features_of_an_abstract_space_have_names_too() -> None:
    space = Space.from_toml("format = 1\n[recipe]\nx = { low = 0.0, high = 1.0 }\ny = { choices = ['a', 'b'] }\n")
    assert make_featurizer(space).names == ["x", "y=a", "y=b"]


def test_the_learning_rate_has_features_of_its_own_for_each_optimizer() -> None:
    features = make_featurizer()
    candidate = SPACE.sample(1)[0]
    recipe = {**candidate["recipe"], "momentum": 0.9}

    def rows(**changed: object) -> np.ndarray:
        without = {k: v for k, v in {**recipe, **changed}.items() if k != "momentum" or changed["optimizer"] == "sgd"}
        return features(SPACE.to_codes([{"architecture": candidate["architecture"], "recipe": without}]))[0]

    own = features.groups == features.groups.max()
    moved = {
        name: rows(optimizer=name, learning_rate=0.5)[own] - rows(optimizer=name, learning_rate=0.05)[own]
        for name in ("sgd", "adam")
    }
    assert set(np.flatnonzero(moved["sgd"])).isdisjoint(np.flatnonzero(moved["adam"]))
    assert np.count_nonzero(moved["sgd"]) == 2


def test_the_steps_of_another_budget_change_only_the_groups_that_depend_on_steps() -> None:
    features = make_featurizer()
    usual, many = features(REFERENCE[:5]), features(REFERENCE[:5], np.full(5, 1.0))
    np.testing.assert_array_equal(usual, features(REFERENCE[:5], features.log_steps(REFERENCE[:5])))
    changed = np.unique(features.groups[(usual != many).any(axis=0)])
    assert set(changed.tolist()) <= {2, 3, 4, 5, 6}


def test_in_an_abstract_space_every_knob_is_a_group_and_so_are_the_costs() -> None:
    text = "format = 1\n[architecture]\nx = { low = 0.0, high = 1.0 }\nkind = { choices = ['a', 'b', 'c'] }\n"
    space = Space.from_toml(text).with_cost(lambda c: {"price": float(c["architecture"]["x"])})
    assert make_featurizer(space).groups.tolist() == [0, 1, 1, 1, 2]


def test_a_cost_that_is_not_finite_is_refused() -> None:
    space = Space.from_toml("format = 1\n[architecture]\nx = { low = 0.0, high = 1.0 }\n")
    with pytest.raises(PredictorError, match="not finite"):
        make_featurizer(space.with_cost(lambda c: {"price": float("nan")}))
