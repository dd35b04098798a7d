"""What training functions of users may return."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from jointnas.training.observation import Observation
from jointnas.training.user_function import _observation


def test_numbers_of_other_libraries_become_python_numbers() -> None:
    given = Observation(np.float32(0.5), steps=np.int64(7), log_loss=torch.tensor(0.25))  # type: ignore[arg-type]
    found = _observation(given)
    assert (found.accuracy, found.steps, found.log_loss) == (0.5, 7, 0.25)
    assert Observation.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize("result", [float("nan"), Observation(float("nan")), Observation(0.5, log_loss=float("inf"))])
def test_what_is_no_number_is_a_failure(result: object) -> None:
    found = _observation(result)
    assert found.accuracy is None
    assert found.failure is not None
    assert "the training function returned" in found.failure


def test_a_failure_that_a_function_reports_stays_one() -> None:
    assert _observation(Observation.failed("no disk")) == Observation.failed("no disk")
    assert _observation(None).failure == "the training function returned None"
