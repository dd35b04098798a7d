"""The ensemble of networks: one pass for all members, and what its training moves."""

import numpy as np
import torch

from jointnas.predictor.network import ENCODER, HEAD, Plan, Shape, costs, outputs, predict, train_costs, train_outputs

RNG = np.random.default_rng(0)
X, REST = RNG.standard_normal((200, 5)).astype(np.float32), RNG.standard_normal((200, 7)).astype(np.float32)
Y = (X[:, 0] + np.abs(REST[:, 1])).astype(np.float32)
SHAPE = Shape(5, 7, 2, members=3)


def test_numpy_and_torch_compute_the_same_outputs_and_members_differ() -> None:
    parameters = SHAPE.parameters(0)
    own = predict(parameters, X, REST)
    tensors = {name: torch.from_numpy(values) for name, values in parameters.items()}
    np.testing.assert_allclose(own, outputs(tensors, torch.from_numpy(X), torch.from_numpy(REST)).numpy(), atol=1e-5)
    assert own.shape == (3, 200)
    assert not np.allclose(own[0], own[1])


def test_the_encoder_learns_costs_and_the_head_leaves_it_as_it_is() -> None:
    true = np.stack([X[:, 0] + X[:, 1], X[:, 2]], axis=1)
    trained = train_costs(SHAPE.parameters(0), X, true, Plan(400, weight_decay=0.0, dropout=0.0), 0)
    assert np.mean((costs(trained, X) - true) ** 2) < 0.05
    weights = np.ones((3, 200), dtype=np.float32)
    head = train_outputs(trained, HEAD, (X, REST, Y), weights, Plan(400), 0)
    for name, values in head.items():
        assert np.array_equal(values, trained[name]) == (name.split(".")[0] not in HEAD)
    assert np.corrcoef(predict(head, X, REST).mean(axis=0), Y)[0, 1] > 0.95
    whole = train_outputs(head, (*ENCODER, *HEAD), (X, REST, Y), weights, Plan(10), 0)
    assert not np.array_equal(whole["encoder_in.weight"], head["encoder_in.weight"])


def test_a_member_does_not_see_examples_without_weight() -> None:
    weights = np.ones((3, 200), dtype=np.float32)
    weights[0, :100] = 0
    plan, start = Plan(60, batch=200, dropout=0.0), SHAPE.parameters(0)
    moved = np.where(np.arange(200) < 100, Y + 5, Y).astype(np.float32)
    one, other = (train_outputs(start, HEAD, (X, REST, y), weights, plan, 0) for y in (Y, moved))
    np.testing.assert_allclose(one["out.weight"][0], other["out.weight"][0], atol=1e-5)
    assert not np.allclose(one["out.weight"][1], other["out.weight"][1], atol=1e-3)


def test_anchored_weights_stay_near_those_that_they_start_from() -> None:
    start = {name: values + 1 for name, values in SHAPE.parameters(0).items()}
    examples, weights = (X, REST, np.zeros(200, dtype=np.float32)), np.zeros((3, 200), dtype=np.float32)
    anchored = train_outputs(start, HEAD, examples, weights, Plan(50, weight_decay=10.0, anchored=True), 0)
    free = train_outputs(start, HEAD, examples, weights, Plan(50, weight_decay=10.0), 0)
    np.testing.assert_array_equal(anchored["hidden.weight"], start["hidden.weight"])
    assert np.abs(free["hidden.weight"]).mean() < 0.9 * np.abs(start["hidden.weight"]).mean()
