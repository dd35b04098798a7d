"""The portfolio: known recipes from which a search starts, each on the widest network that the bounds and the budget allow.

A search of few trainings that starts from what was best on other data ends ahead of one that does not (Feurer et al., JMLR 2022, on
Auto-sklearn 2.0). A recipe does not move to other bounds and machines with its network: a member of the portfolio is a rule, the recipe
and the steps that it needs. Its network is the costliest within the bounds that gets about as many steps in the budget, by its speed
measured on the run's device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np

from jointnas.campaign.candidate_file import built_in_recipes, find_candidate
from jointnas.errors import CandidateError
from jointnas.measurement.meter import Meter
from jointnas.network.cost import blueprint_cost
from jointnas.network.families import make_blueprint
from jointnas.space.constraint import Constraint
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.space.sampling import draw_pool, feasible
from jointnas.space.space import Space
from jointnas.space.transfer import nearest_candidate

WIDTH = "width"  # the knob that scales a network
WIDTHS = 64  # values of a width that are tried at most
SHORTFALL = 0.8  # share of a member's steps that is enough
MEASUREMENTS = 3  # of a member's networks at most
NETWORKS = 256  # drawn where the space lacks a member's network

Steps = Callable[[Candidate], float]
"""How many training steps of a candidate the budget holds; NaN where that cannot be measured."""


@dataclass(frozen=True)
class Member:
    """A recipe of the portfolio with the network that it is known for. steps: that it needs."""

    name: str
    candidate: Candidate
    steps: int


def portfolio() -> list[Member]:
    """Return the members in their order: the built-in recipes whose file has a table `portfolio`."""
    files = {name: find_candidate(name) for name in built_in_recipes()}
    places = {name: int(file.portfolio["place"]) for name, file in files.items() if file.portfolio}
    ordered = sorted(places, key=lambda name: places[name])
    return [Member(name, files[name].candidate, int(files[name].portfolio["steps"])) for name in ordered]


class BudgetSteps:
    """The steps that a budget of seconds holds, by the speed of training measured on a device; each candidate is measured once."""

    def __init__(self, meter: Meter, seconds: float) -> None:
        self._meter, self._seconds = meter, seconds
        self.measured: list[tuple[Candidate, float]] = []

    def __call__(self, candidate: Candidate) -> float:
        """Return the steps, NaN where the measurement failed."""
        (row,) = self._meter.measure([candidate], ["images_per_second"])
        steps = self._seconds * row["images_per_second"] / int(self._meter.workload(candidate)[1].batch_size)
        if not isnan(steps):
            self.measured.append((candidate, steps))
        return steps


def starting_candidates(
    space: Space, exact: Sequence[Constraint], n: int, steps: Steps | None, seed: int = 0
) -> dict[str, Candidate]:
    """Return the first n members of the portfolio by name, as candidates of a bound space within the exact bounds.

    steps: None where the budget counts steps itself: then a network costs no more than the one that the recipe is known for.
    Members whose recipe the space cannot express are left out.
    """
    chosen: dict[str, Candidate] = {}
    for member in portfolio():
        if len(chosen) >= n:
            break
        codes = _networks(member, space, exact, seed)
        if len(codes):
            (candidate,) = space.to_candidates(codes[[_costliest(space, codes, member, steps)]])
            if candidate not in chosen.values():
                chosen[member.name] = candidate
    return chosen


def _networks(member: Member, space: Space, exact: Sequence[Constraint], seed: int) -> Codes:
    """Return (n, knobs) codes with the member's recipe on different networks within the bounds, in ascending order of MACs.

    Its own network at every width where the space has it, else networks drawn from the space. Scoring one view instead of two halves
    the costs: both are there.
    """
    try:
        architectures = _own_widths(member, space)
    except CandidateError:
        drawn = space.to_candidates(draw_pool(space, NETWORKS, exact, seed))
        architectures = [candidate["architecture"] for candidate in drawn]
    recipes = [{**member.candidate["recipe"], "test_flip": flip} for flip in (True, False)]
    try:
        nearest = [
            nearest_candidate(space, {"architecture": architecture, "recipe": recipe})[0]
            for architecture in architectures
            for recipe in recipes
        ]
    except CandidateError:
        return space.to_codes([])
    codes = space.to_codes(nearest)
    codes = codes[feasible(space, exact, codes)]
    codes = codes[space.distinct(codes)[0]]
    ordered: Codes = codes[np.argsort(_network_macs(space, codes), kind="stable")]
    return ordered


def _own_widths(member: Member, space: Space) -> list[Mapping[str, object]]:
    """Return the member's network at every width of the space. Raises `CandidateError` where the space lacks the network."""
    own, _ = nearest_candidate(space, member.candidate)
    architecture = own["architecture"]
    widths = [knob for knob in space.knobs[: space.n_architecture] if knob.name == WIDTH and WIDTH in architecture]
    if not widths:
        return [architecture]
    knob, low, high = widths[0], *(widths[0].extremes[i] for i in (0, -1))
    codes = np.unique([knob.nearest(value) for value in np.geomspace(float(low), float(high), WIDTHS)])
    return [{**architecture, WIDTH: knob.value(code)} for code in codes.tolist()]


def _network_macs(space: Space, codes: Codes) -> Codes:
    """Return the (n,) MACs of one view."""
    return np.asarray(space.costs(codes)["macs"] / space.views(codes))


def _costliest(space: Space, codes: Codes, member: Member, steps: Steps | None) -> int:
    """Return the row of the costliest network that gets about the member's steps; the cheapest where none does.

    codes: in ascending order of MACs. Few networks are measured: the seconds of a step are taken to grow with the MACs from the
    last one measured, and the next measurement corrects that. Of two rows of one network the one that scores two views is taken.
    """
    macs = _network_macs(space, codes)
    if steps is None:
        own = _known_macs(space, member)
        return _with_most_views(space, codes, macs, int(np.searchsorted(macs, own, side="right")) - 1)
    row, fits = len(codes) - 1, 0
    for _ in range(MEASUREMENTS):
        reached = steps(space.to_candidates(codes[[row]])[0])
        if isnan(reached):
            break
        if reached >= SHORTFALL * member.steps:
            fits = row
            break
        allowed = macs[row] * reached / member.steps
        row = max(0, min(row - 1, int(np.searchsorted(macs, allowed, side="right")) - 1))
    return _with_most_views(space, codes, macs, fits)


def _known_macs(space: Space, member: Member) -> float:
    """Return the MACs of one view of the network that the member's recipe is known for, on the space's images."""
    assert space.input_shape is not None
    assert space.classes is not None
    network = make_blueprint(member.candidate["architecture"], space.input_shape, space.classes)
    return float(blueprint_cost(network)["macs"])


def _with_most_views(space: Space, codes: Codes, macs: Codes, row: int) -> int:
    """Return the row with this row's network that scores the most views."""
    rows = np.flatnonzero(np.isclose(macs, macs[max(row, 0)]))
    return int(rows[np.argmax(space.views(codes[rows]))])


def timed_codes(space: Space, measured: Sequence[tuple[Candidate, float]]) -> tuple[Codes, Codes]:
    """Return the (m, knobs) codes of measured candidates and the (m,) steps that the budget holds for them."""
    return space.to_codes([candidate for candidate, _ in measured]), np.array([steps for _, steps in measured])
