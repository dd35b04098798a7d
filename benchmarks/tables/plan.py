"""Which candidates a table of real trainings holds, and under which budgets: its design, and how candidates are drawn.

Every data set has the same design, so that tables can be read together:
- **budgets**, in seconds of one core: 80 % of the rows 8 s, 15 % 30 s, 5 % 120 s, as most is learned from many short trainings and
  what changes with the budget from some long ones;
- **search spaces**: four fifths of the rows the full ResNet-9, the others `chain`, `resnet`, `fbnet` and `joint` in turn, less those
  whose networks do not exist for such images;
- **bounds** on MACs in turn, from tight to none; where nothing in a space meets one, the next looser one;
- **drawn** at random from a pool of the space under the bound, or by a predictor of the rows so far: then each is the best of that pool and
  of `near` candidates, by a function drawn from its posterior (Thompson sampling) as a search draws it. A table begins with random ones.
  Good recipes are too rare in a space of forty knobs for random draws to show what would better them: `near` draws take a member of
  the portfolio, made for the bound and the budget, and mutate it once to four times, as a search does. One training says little of
  one mutation, as the noise is of the size of most effects: `crossed` draws give `resnet9-1m` half of the factors of
  `CROSSINGS`, in an orthogonal design, so that every training counts for the effect of each;
- **noise**: every twentieth candidate is trained with three seeds.
- **recipes**, where asked for: every built-in recipe that the full ResNet-9 can express, made for each bound as a search makes it for its
  first batch; these rows say which recipes to start from.
Each share is met exactly, and independently of the others. The order is shuffled, so that what is there of a table that was stopped is
a fair sample of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

from benchmarks.tables.crossings import CROSSINGS
from benchmarks.tables.table import UNBOUNDED, Row, Table
from jointnas.campaign.candidate_file import find_candidate
from jointnas.campaign.portfolio import Member, adapted, portfolio
from jointnas.campaign.registry import find_prior
from jointnas.campaign.timing import BudgetSteps
from jointnas.errors import ConstraintError
from jointnas.execution import Slot
from jointnas.measurement.meter import Meter
from jointnas.predictor.contract import MIN_FIT_EXAMPLES, Predictor
from jointnas.predictor.task import Task
from jointnas.search.batch import SAMPLE_SCALE
from jointnas.space.constraint import Constraint, parse_all
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.space.sampling import draw_pool, feasible
from jointnas.space.space import Space
from jointnas.space.transfer import nearest_candidate
from jointnas.training.observation import mean_observation

BUDGETS = {"8": 80.0, "30": 15.0, "120": 5.0}
SPACES = {"resnet9": 16.0, "chain": 1.0, "resnet": 1.0, "fbnet": 1.0, "joint": 1.0}
BOUNDS = ("macs<2M", "macs<5M", "macs<10M", "macs<20M", "macs<40M", UNBOUNDED)
RANDOM, PREDICTED, NEAR, RECIPE = "random", "predicted", "near", "recipe"
MINUTE = {"steps": 600, "image_size": 32}  # what a recipe is known for whose file does not say it
POOL = 16_384  # candidates: the first of a Sobol sequence alone would tie many knobs to each other
EVERY, REPEATS = 20, 3  # candidates, the first of which is trained so often
NEAR_POOL, MUTATIONS = 1024, 4  # candidates near recipes, and how often each is mutated at most


def extended(
    table: Table, candidates: int, drawn: str, prior: str | None, design: Mapping[str, Mapping[str, float]]
) -> Table:
    """Return the table with so many more candidates.

    prior: what `predicted` ones start from, None for the pretrained network. design: shares of `spaces`, `budgets` and `bounds` of these
    candidates, where they differ from those of the table's card; spaces and bounds are some of the card's.
    """
    card, first = table.card, len(table.by_candidate())
    rng = np.random.default_rng([card["seed"], first])
    own = {"spaces": card["space_shares"], "budgets": card["budgets"], "bounds": dict.fromkeys(card["bounds"], 1.0)}
    for name in ("spaces", "bounds"):
        for value in design.get(name, ()):
            if value not in own[name]:
                raise SystemExit(f"the table has the {name} {', '.join(own[name])}, got {value!r}: give one of these")
    columns = [rng.permutation(np.array(in_shares(shares, candidates))) for shares in (own | dict(design)).values()]
    cells = [(str(space), float(budget), str(bound)) for space, budget, bound in zip(*columns, strict=True)]
    drawing = Drawing(table, rng, drawn, prior)
    streams = {cell: drawing.candidates(*cell, cells.count(cell)) for cell in sorted(set(cells))}
    rows = list(table.rows)
    for i, (space, budget, bound) in enumerate(cells, first):
        met, candidate = next(streams[space, budget, bound])
        repeats = 1 if i % EVERY else REPEATS
        rows += [Row(space, met, budget, drawn, candidate, seed) for seed in range(10 * i, 10 * i + repeats)]
    return table.with_rows(rows)


def with_recipes(table: Table, budget: float, bounds: Sequence[str], names: Sequence[str]) -> Table:
    """Return the table with a row for each of these built-in recipes under each bound that it does not have yet."""
    card, space, rows = table.card, table.space_named("resnet9"), list(table.rows)
    with Meter(Slot("cpu", 1, 1), space.input_shape or (), space.classes or 0) as meter:
        for bound in bounds:
            exact = exact_bounds(space, bound)
            for name in names:
                file, drawn = find_candidate(name), f"{RECIPE} {name}"
                member = Member(name, file.candidate, **{**MINUTE, **file.portfolio})
                own = adapted(member, space, exact, BudgetSteps(meter, budget), card["seed"])
                held = any((row.drawn, row.bound, row.budget_seconds) == (drawn, bound, budget) for row in rows)
                if own is not None and not held:
                    rows.append(Row("resnet9", bound, budget, drawn, rounded(own.candidate), len(rows)))
    return table.with_rows(rows)


def exact_bounds(space: Space, bound: str) -> Sequence[Constraint]:
    """Return the constraints of a bound of a table, none for "none"."""
    return () if bound == UNBOUNDED else parse_all([bound], space.metrics)


def mutated(space: Space, codes: Codes, times: NDArray[np.int64], rng: np.random.Generator) -> Codes:
    """Return (n, knobs) codes, each mutated as often as (n,) times say."""
    found = codes.copy()
    for done in range(int(times.max(initial=0))):
        found[times > done] = space.mutate_codes(found[times > done], rng)
    return found


def in_shares(shares: Mapping[str, float], n: int) -> list[str]:
    """Return n values, each as often as its share says."""
    ends = np.cumsum(list(shares.values())) / sum(shares.values())
    return [list(shares)[place] for place in np.searchsorted(ends, (np.arange(n) + 0.5) / n)]


class Drawing:
    """Draws candidates that a table does not hold yet: at random, near recipes, or by predictors that start from a named one."""

    def __init__(self, table: Table, rng: np.random.Generator, drawn: str, prior: str | None) -> None:
        self._table, self._rng, self._drawn, self._prior = table, rng, drawn, prior
        self._seed = int(rng.integers(2**31))
        self._space = cache(table.space_named)
        self._pool = cache(self._make_pool)
        self._taken = {
            name: set(self._space(name).identities(self._space(name).to_codes(observed)))
            for name in table.card["spaces"]
            if (observed := [row.candidate for row in table.rows if row.space == name])
        }

    def candidates(self, name: str, budget: float, bound: str, n: int) -> Iterator[tuple[str, Candidate]]:
        """Yield n candidates of a space, each with the bound that it was drawn under."""
        space = self._space(name)
        if self._drawn == NEAR or self._drawn in CROSSINGS:
            codes = self._near(name, budget, bound) if self._drawn == NEAR else self._crossed(name, bound, n)
            if not len(codes):
                raise SystemExit(
                    f"the space {name!r} cannot express a recipe of the portfolio under {bound}: leave it out (--spaces)"
                )
        else:
            bound, codes = self._pool(name, bound)
            if self._drawn == PREDICTED:
                codes = np.concatenate([codes, self._near(name, budget, bound)])
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
        if self._drawn != PREDICTED:
            yield from [self._rng.permutation(len(codes))] * n
        else:
            seed = int(self._rng.integers(2**31))
            for accuracies in self._predictor(name, budget).sample_codes(codes, n, [seed], SAMPLE_SCALE):
                yield np.argsort(-accuracies, kind="stable")

    def _make_pool(self, name: str, bound: str) -> tuple[str, Codes]:
        """Return a pool of a space under a bound, or under the next looser one that something in the space meets."""
        bounds, space = self._table.card["bounds"], self._space(name)
        for looser in bounds[bounds.index(bound) :]:
            try:
                return looser, draw_pool(space, POOL, exact_bounds(space, looser), self._seed)
            except ConstraintError:
                continue
        raise SystemExit(f"networks of a space meet one of the bounds, got none in {name!r} under {bound}: loosen it")

    def _near(self, name: str, budget: float, bound: str) -> Codes:
        """Return mutated members of the portfolio, the nearer to their own bound and budget the more often.

        Without a row where the space can express no member.
        """
        space = self._space(name)
        exact = exact_bounds(space, bound)
        with Meter(Slot("cpu", 1, 1), space.input_shape or (), space.classes or 0) as meter:
            found = [adapted(member, space, exact, BudgetSteps(meter, budget), self._seed) for member in portfolio()]
        members = [member for member in found if member is not None]
        if not members:
            return space.to_codes([])
        weights = np.array([exp(-member.distance) for member in members])
        chosen = self._rng.choice(len(members), NEAR_POOL, p=weights / weights.sum())
        codes = space.to_codes([members[i].candidate for i in chosen])
        codes = mutated(space, codes, self._rng.integers(1, MUTATIONS + 1, size=NEAR_POOL), self._rng)
        return codes[feasible(space, exact, codes)]

    def _crossed(self, name: str, bound: str, n: int) -> Codes:
        """Return n candidates or more: the recipe of a crossing, made for the bound; each has the factors that a row of a Hadamard matrix says.

        Candidates that break the bound are left out. There are none where the space cannot express the recipe.
        """
        space = self._space(name)
        exact = exact_bounds(space, bound)
        recipe, base, factors = CROSSINGS[self._drawn]
        (member,) = (member for member in portfolio() if member.name == recipe)
        found = adapted(member, space, exact, float(member.steps), self._seed)
        if found is None:
            return space.to_codes([])
        size = 1 << max(n - 1, len(factors)).bit_length()
        columns = hadamard(size)[:, 1 + self._rng.permutation(size - 1)[: len(factors)]]
        crossed: list[Candidate] = []
        for signs in self._rng.permutation(columns):
            held = [factor for factor, sign in zip(factors, signs, strict=True) if sign > 0]
            given = {name: v for factor in (base, *held) for name, v in factor.items()}
            crossed.append(changed(found.candidate, given))
        codes = space.to_codes([nearest_candidate(space, candidate)[0] for candidate in crossed])
        return codes[feasible(space, exact, codes)]

    def _predictor(self, name: str, budget: float) -> Predictor:
        """Return a predictor fitted to the rows of this space and budget."""
        space = self._space(name)
        rows = [row for row in self._table.rows if (row.space, row.budget_seconds) == (name, budget)]
        timed = [row for row in rows if row.quiet_step_seconds]
        steps = np.array([budget / row.quiet_step_seconds for row in timed if row.quiet_step_seconds])
        task = Task(self._table.images, space.to_codes([row.candidate for row in timed]), steps)
        predictor = Predictor(space, self._seed, prior=find_prior(self._prior, space), task=task)
        groups = [list(own) for _, own in groupby(rows, key=lambda row: row.group)]
        observed = [(own[0].candidate, [row.observation for row in own if row.observation]) for own in groups]
        examples = [(candidate, mean_observation(o)) for candidate, o in observed if o]
        if sum(o.accuracy is not None for _, o in examples) >= MIN_FIT_EXAMPLES:
            predictor.fit(*zip(*examples, strict=True))
        return predictor


def changed(candidate: Candidate, knobs: Mapping[str, Any]) -> Candidate:
    """Return the candidate with other values of some of its knobs. Raises `SystemExit` for a knob that does not act in it."""
    missing = knobs.keys() - candidate["architecture"].keys() - candidate["recipe"].keys()
    if missing:
        raise SystemExit(f"a factor changes knobs that act in the recipe, got {min(missing)}: leave it out")
    return {  # type: ignore[return-value]
        group: {name: knobs.get(name, v) for name, v in candidate[group].items()}
        for group in ("architecture", "recipe")
    }


def rounded(candidate: Candidate) -> Candidate:
    """Return the candidate with numbers of six digits, as cells of a table hold them."""
    return {  # type: ignore[return-value]
        group: {name: float(f"{v:.6g}") if isinstance(v, float) else v for name, v in candidate[group].items()}
        for group in ("architecture", "recipe")
    }
