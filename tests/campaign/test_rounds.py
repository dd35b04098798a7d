"""What the last quarter of a search trains."""

from types import SimpleNamespace

import pytest

from jointnas.campaign.rounds import Rounds, alternating, trained_first
from jointnas.search.search import Search
from jointnas.search.winners import Winner
from tests.search.cube import cube, truth


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


def test_a_trained_candidate_is_among_leaders_and_winners_also_where_the_search_finds_only_new_ones(
    monkeypatch,
) -> None:
    search = Search(cube(), seed=1)
    trained = search.ask(12)
    search.tell(trained, [truth(candidate) for candidate in trained])
    new = [winner for winner in search.best(20) if winner.accuracy is None]
    monkeypatch.setattr(search, "best", lambda *_, **__: list(new))
    spec = SimpleNamespace(top=5, confirmations=4, engine="evolution")
    rounds = Rounds(search, SimpleNamespace(trials={}), SimpleNamespace(rounds=list), spec, print)  # type: ignore[arg-type]

    first, second = rounds._uncertain_leaders(2)

    assert first.candidate == max(trained, key=truth)
    assert second.accuracy is None
    winners = rounds.winners()
    assert winners[0].candidate == max(trained, key=truth)  # so that there is a network to keep
    assert [w.accuracy is None for w in winners] == [False] + [True] * 4


def test_a_trained_candidate_stands_first_and_a_clearly_worse_one_last() -> None:
    def winner(mean: float, accuracy: float | None) -> Winner:
        return Winner({"architecture": {}, "recipe": {}}, mean, 0.01, accuracy, {})

    predicted, poor, close, lucky = winner(0.8, None), winner(0.5, 0.4), winner(0.785, 0.78), winner(0.79, 0.81)
    assert trained_first([predicted, poor, close, lucky]) == [poor, close, lucky, predicted]
    assert trained_first([lucky, predicted, poor, close]) == [lucky, close, predicted, poor]
    assert trained_first([poor, lucky]) == [poor, lucky]
