"""Which candidates a table of real trainings holds, and under which budgets: its design, and how candidates are drawn.

Every data set has the same design, so that tables can be read together:
- **budgets**, in seconds of one core: 80 % of the rows 8 s, 15 % 30 s, 5 % 120 s, as most is learned from many short trainings and
  what changes with the budget from some long ones;
- **search spaces**: four fifths of the rows the full ResNet-9, the others `chain`, `resnet`, `fbnet` and `joint` in turn, less those
  whose networks do not exist for such images;
- **bounds** on MACs in turn, from tight to none; where nothing in a space meets one, the next looser one;
- **drawn** at random from a pool of the space under the bound, or by a predictor of the rows so far: then each is the best of a pool by a
  function drawn from its posterior (Thompson sampling). A table begins with random ones; half of it is to be of either kind;
- **noise**: every twentieth candidate is trained with three seeds.
- **recipes**, where asked for: every built-in recipe that the full ResNet-9 can express, made for each bound as a search makes it for its
  first batch; these rows say which recipes to start from.
Each share is met exactly, and independently of the others. The order is shuffled, so that what is there of a table that was stopped is
a fair sample of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.tables.table import UNBOUNDED, Row, Table
from jointnas.campaign.candidate_file import built_in_recipes, find_candidate
from jointnas.campaign.portfolio import Member, adapted
from jointnas.campaign.registry import find_predictor
from jointnas.campaign.timing import BudgetSteps
from jointnas.errors import ConstraintError
from jointnas.execution import Slot
from jointnas.measurement.meter import Meter
from jointnas.predictor.contract import MIN_FIT_EXAMPLES, Predictor
from jointnas.space.constraint import parse_all
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.space.sampling import draw_pool

BUDGETS = {"8": 80.0, "30": 15.0, "120": 5.0}
SPACES = {"resnet9": 16.0, "chain": 1.0, "resnet": 1.0, "fbnet": 1.0, "joint": 1.0}
BOUNDS = ("macs<2M", "macs<5M", "macs<10M", "macs<20M", "macs<40M", UNBOUNDED)
RANDOM, PREDICTED, RECIPE = "random", "predicted", "recipe"
MINUTE_STEPS = 600  # that a recipe needs whose file does not say it
POOL = 16_384  # candidates: the first of a Sobol sequence alone would tie many knobs to each other
EVERY, REPEATS = 20, 3  # candidates, the first of which is trained so often


def extended(table: Table, candidates: int, drawn: str, prior: str) -> Table:
    """Return the table with so many more candidates; prior: the name of the predictor that `predicted` ones start from."""
    card, first = table.card, len(table.by_candidate())
    rng = np.random.default_rng([card["seed"], first])
    columns = [
        rng.permutation(np.array(in_shares(shares, candidates)))
        for shares in (card["space_shares"], card["budgets"], dict.fromkeys(card["bounds"], 1.0))
    ]
    cells = [(str(space), float(budget), str(bound)) for space, budget, bound in zip(*columns, strict=True)]
    drawing = Drawing(table, rng, prior if drawn == PREDICTED else None)
    streams = {cell: drawing.candidates(*cell, cells.count(cell)) for cell in sorted(set(cells))}
    rows = list(table.rows)
    for i, (space, budget, bound) in enumerate(cells, first):
        met, candidate = next(streams[space, budget, bound])
        repeats = 1 if i % EVERY else REPEATS
        rows += [Row(space, met, budget, drawn, candidate, seed) for seed in range(10 * i, 10 * i + repeats)]
    return table.with_rows(rows)


def with_recipes(table: Table, budget: float, bounds: Sequence[str]) -> Table:
    """Return the table with a row for each built-in recipe under each bound that it does not have yet."""
    card, space, rows = table.card, table.space_named("resnet9"), list(table.rows)
    with Meter(Slot("cpu", 1, 1), space.input_shape or (), space.classes or 0) as meter:
        for bound in bounds:
            exact = [] if bound == UNBOUNDED else parse_all([bound], space.metrics)
            for name in built_in_recipes():
                file, drawn = find_candidate(name), f"{RECIPE} {name}"
                member = Member(name, file.candidate, file.portfolio.get("steps", MINUTE_STEPS))
                own = adapted(member, space, exact, BudgetSteps(meter, budget), card["seed"])
                held = any((row.drawn, row.bound, row.budget_seconds) == (drawn, bound, budget) for row in rows)
                if own is not None and not held:
                    rows.append(Row("resnet9", bound, budget, drawn, rounded(own.candidate), len(rows)))
    return table.with_rows(rows)


def in_shares(shares: Mapping[str, float], n: int) -> list[str]:
    """Return n values, each as often as its share says."""
    ends = np.cumsum(list(shares.values())) / sum(shares.values())
    return [list(shares)[place] for place in np.searchsorted(ends, (np.arange(n) + 0.5) / n)]


class Drawing:
    """Draws candidates that a table does not hold yet: at random, or by predictors where a prior is named."""

    def __init__(self, table: Table, rng: np.random.Generator, prior: str | None) -> None:
        self._table, self._rng, self._prior = table, rng, prior
        self._seed = int(rng.integers(2**31))
        self._space = cache(table.space_named)
        self._pool, self._predictors = cache(self._make_pool), cache(self._fit_predictors)
        self._taken = {
            name: set(self._space(name).identities(self._space(name).to_codes(observed)))
            for name in table.card["spaces"]
            if (observed := [row.candidate for row in table.rows if row.space == name])
        }

    def candidates(self, name: str, budget: float, bound: str, n: int) -> Iterator[tuple[str, Candidate]]:
        """Yield n candidates of a space, each with the bound that it was drawn under."""
        space, (bound, codes) = self._space(name), self._pool(name, bound)
        taken = self._taken.setdefault(name, set())
        for order in self._orders(name, budget, codes, n):
            for row in order:
                (identity,) = space.identities(codes[row : row + 1])
                if identity not in taken:
                    taken.add(identity)
                    yield bound, rounded(space.to_candidates(codes[row : row + 1])[0])
                    break
            else:
                raise SystemExit(f"the space {name!r} has no candidates left under {bound}: lower --candidates")

    def _orders(self, name: str, budget: float, codes: Codes, n: int) -> Iterator[NDArray[np.int64]]:
        """Yield n orders of (m, knobs) codes, those to be drawn first in front."""
        if self._prior is None:
            yield from [self._rng.permutation(len(codes))] * n
        else:
            seed = int(self._rng.integers(2**31))
            for scores in self._predictors(name)[budget].draw_scores(codes, n, [seed]):
                yield np.argsort(-scores, kind="stable")

    def _make_pool(self, name: str, bound: str) -> tuple[str, Codes]:
        """Return a pool of a space under a bound, or under the next looser one that something in the space meets."""
        bounds, space = self._table.card["bounds"], self._space(name)
        for looser in bounds[bounds.index(bound) :]:
            try:
                constraints = [] if looser == UNBOUNDED else parse_all([looser], space.metrics)
                return looser, draw_pool(space, POOL, constraints, self._seed)
            except ConstraintError:
                continue
        raise SystemExit(f"networks of a space meet one of the bounds, got none in {name!r} under {bound}: loosen it")

    def _fit_predictors(self, name: str) -> dict[float, Predictor]:
        """Return a predictor for each budget, fitted to its rows; each starts from that of the next shorter budget."""
        assert self._prior is not None
        predictors, prior = {}, Predictor.load(find_predictor(self._prior)[0])
        for budget in sorted(map(float, self._table.card["budgets"])):
            rows = [row for row in self._table.rows if (row.space, row.budget_seconds) == (name, budget)]
            examples = [(row.candidate, row.observation) for row in rows if row.observation]
            predictors[budget] = predictor = Predictor(self._space(name), self._seed, prior=prior)
            if sum(observation.accuracy is not None for _, observation in examples) >= MIN_FIT_EXAMPLES:
                prior = predictor.fit(*zip(*examples, strict=True))
        return predictors


def rounded(candidate: Candidate) -> Candidate:
    """Return the candidate with numbers of six digits, as cells of a table hold them."""
    return {  # type: ignore[return-value]
        group: {name: float(f"{v:.6g}") if isinstance(v, float) else v for name, v in candidate[group].items()}
        for group in ("architecture", "recipe")
    }
