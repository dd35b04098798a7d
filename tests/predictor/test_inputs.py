"""The inputs of networks that predict candidates of any space: of one meaning in all of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jointnas.predictor.inputs import FARTHEST, NetworkInputs
from jointnas.predictor.prior import Budget
from jointnas.predictor.task import TrainingImages
from jointnas.space.space import Space
from jointnas.space.transfer import nearest_candidate

SPACE = Space.load("resnet9", (3, 32, 32), 10)
CODES = next(SPACE.stream(0, chunk=512))
BUDGET = Budget(np.linspace(-1, 1, 512), 6.0, TrainingImages(5000, 0.9))
INPUTS = NetworkInputs.fit([(SPACE, CODES, BUDGET)])


def test_they_have_mean_0_and_deviation_1_unless_they_are_constant() -> None:
    inputs = np.concatenate(INPUTS(SPACE, CODES, BUDGET), axis=1)
    varying = inputs.std(axis=0) > 0
    assert varying.sum() > 100
    assert np.abs(inputs).max() <= FARTHEST
    assert np.abs(np.median(inputs[:, varying].mean(axis=0))) < 0.05
    assert np.median(inputs[:, varying].std(axis=0)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", ["joint", "fbnet", "chain", "mobilenet", "senet", "resnet9-basic"])
def test_every_space_with_networks_has_them(name: str) -> None:
    space = Space.load(name, (3, 32, 32), 10)
    codes = space.to_codes(space.sample(16, seed=1))
    architecture, rest = INPUTS(space, codes, Budget(np.zeros(16), 6.0))
    assert np.isfinite(architecture).all() and np.isfinite(rest).all()  # noqa: PT018
    assert architecture.shape[1] + rest.shape[1] == len(INPUTS.tensors["input_mean"])


def test_a_candidate_has_the_same_inputs_in_another_space_that_holds_it() -> None:
    joint = Space.load("joint", (3, 32, 32), 10)
    for candidate in SPACE.sample(12, seed=3):
        other, changes = nearest_candidate(joint, candidate)
        assert not changes
        own, same = (
            np.concatenate(INPUTS(s, s.to_codes([c]), Budget(np.zeros(1), 6.0)), axis=1)
            for s, c in ((SPACE, candidate), (joint, other))
        )
        np.testing.assert_allclose(own, same, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda b: Budget(b.log_steps + 1, b.mean_log_steps, b.images),
        lambda b: Budget(b.log_steps, b.mean_log_steps + 1, b.images),
        lambda b: Budget(b.log_steps, b.mean_log_steps, replace(b.images, count=500)),
        lambda b: Budget(b.log_steps, b.mean_log_steps, replace(b.images, mirror_symmetry=0.5)),
    ],
    ids=["steps", "mean steps", "images", "mirror symmetry"],
)
def test_the_budget_counts(change: Callable[[Any], Budget]) -> None:
    spread = NetworkInputs.fit(
        [(SPACE, CODES, BUDGET), (SPACE, CODES, Budget(BUDGET.log_steps, 7.0, TrainingImages(1000, 0.2)))]
    )
    before, after = (np.concatenate(spread(SPACE, CODES, budget), axis=1) for budget in (BUDGET, change(BUDGET)))
    assert not np.allclose(before, after)


def test_inactive_knobs_count_as_their_defaults() -> None:
    candidate = next(c for c in SPACE.sample(64) if c["recipe"]["gradient"] == "plain")
    fixed = Space.from_toml(
        SPACE.to_toml().replace('[recipe.sam_rho.when]\ngradient = [\n    "sam",\n]\n', ""), (3, 32, 32), 10
    )
    weak, strong = ({**candidate["recipe"], "sam_rho": rho} for rho in (0.02, 0.5))
    codes = fixed.to_codes([{"architecture": candidate["architecture"], "recipe": r} for r in (weak, strong)])
    inputs = np.concatenate(INPUTS(fixed, codes, Budget(np.zeros(2), 6.0)), axis=1)
    np.testing.assert_array_equal(inputs[0], inputs[1])
