"""A batch: the candidates of one ask, with what the search has computed of them already."""

from collections.abc import Sequence

import numpy as np
import pytest

from jointnas.errors import JointNASError
from jointnas.predictor.contract import Predictor
from jointnas.search.batch import Batch
from jointnas.search.search import Search
from jointnas.space.space import Space
from tests.search.cube import cube, light, point, truth


def test_a_batch_is_a_list_of_candidates_with_their_identities() -> None:
    search = light(cube())
    batch = search.ask(5)
    assert isinstance(batch, list)
    assert batch == search.space.to_candidates(batch.codes)
    assert batch.identities == [search.space.identity(c) for c in batch]


def test_a_large_first_batch_holds_no_candidate_twice() -> None:
    batch = light(cube()).ask(20)
    assert len(batch) == len(set(batch.identities)) == 20


def test_before_the_first_training_a_prior_varies_what_the_search_starts_from() -> None:
    space = cube(30)
    examples = space.sample(40, seed=3)
    prior = Predictor(space).fit(examples, [truth(c) for c in examples])
    start = point(*[0.5] * 30)
    search = Search(space, pool_size=500, prior=prior, start=[start])
    batch = search.ask(8)  # the start, five by the prior, two that are drawn
    changed = (batch.codes != space.to_codes([start])).sum(axis=1).tolist()
    assert changed[0] == 0
    assert all(1 <= count < 30 for count in changed[1:6])
    assert changed[6:] == [30, 30]  # members of the pool


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(JointNASError, match="a seed is 0 or more, got -1"):
        Search(cube(), seed=-1)
    with pytest.raises(JointNASError, match="a seed is 0 or more, got -1"):
        cube().sample(2, seed=-1)


def test_its_predictions_are_those_of_the_fitted_predictor() -> None:
    search = light(cube())
    batch = search.ask(5)
    assert batch.predictions == [None] * 5
    search.tell(batch, [truth(c) for c in batch])
    batch = search.ask(5)
    mean, std = search.fitted().predict(batch)
    np.testing.assert_allclose([p for p in batch.predictions if p], np.stack([mean, std], axis=1))


def counted(search: Search, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many candidates each call encodes, from now on."""
    encoded: list[int] = []
    to_codes = Space.to_codes

    def counting(self: Space, candidates: Sequence[object]) -> object:
        encoded.append(len(candidates))
        return to_codes(self, candidates)  # type: ignore[arg-type]

    monkeypatch.setattr(Space, "to_codes", counting)
    return encoded


def test_a_candidate_is_decoded_once_and_never_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    search = light(cube())
    encoded = counted(search, monkeypatch)
    for _ in range(2):
        batch = search.ask(6)
        search.tell(batch, [truth(c) for c in batch])
    assert encoded == []


def test_a_changed_batch_is_told_as_it_is() -> None:
    changed, plain = light(cube()), light(cube())
    batch = changed.ask(6)
    assert plain.ask(6) == batch
    batch[0]["architecture"]["x0"] = 0.123
    batch.reverse()
    results = [truth(c) for c in batch]
    changed.tell(batch, results)
    plain.tell(list(batch), results)
    assert not batch.belongs_to(changed.space)
    np.testing.assert_array_equal(changed.observed_codes, plain.observed_codes)
    assert 0.123 in changed.observed_codes[:, 0]


def test_a_batch_of_another_search_is_encoded_for_this_one() -> None:
    batch = light(cube()).ask(3)
    search = light(cube())
    assert isinstance(batch, Batch)
    search.tell(batch, [truth(c) for c in batch])
    assert search.trained == 3
