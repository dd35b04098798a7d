"""What the last quarter of a search trains."""

import pytest

from jointnas.campaign.rounds import alternating


@pytest.mark.parametrize(
    ("trained", "done", "expected"),
    [
        ([False, False, True, False, True], 0, [2, 0, 4, 1, 3]),
        ([False, False, True, False, True], 1, [0, 2, 1, 4, 3]),
        ([True, True, False], 0, [0, 1, 2]),
        ([False, False], 0, [0, 1]),
        ([], 0, []),
    ],
)
def test_every_other_leader_was_trained_before_as_long_as_there_are_any(
    trained: list[bool], done: int, expected: list[int]
) -> None:
    assert alternating(range(len(trained)), trained, done) == expected
