"""The portfolio: built-in recipes from which a search starts, each with a network that suits the bounds and the budget.

A search of few trainings that starts from what was best on other data ends ahead of one that does not (Feurer et al., JMLR 2022, on
Auto-sklearn 2.0). A recipe does not move to other bounds and machines with its network: a member of the portfolio is a rule, the recipe
and the steps that it needs. Its network is the costliest within the bounds that gets about as many steps in the budget, by its speed
measured on the run's device. A device that is too slow for the recipe's own network keeps most of it: see `SHRINKAGE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, log, nan, prod, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jointnas.campaign.candidate_file import built_in_recipes, find_candidate
from jointnas.errors import CandidateError
from jointnas.network.cost import blueprint_cost
from jointnas.network.families import make_blueprint
from jointnas.network.families.parts import resized
from jointnas.network.operations.operation import Shape
from jointnas.space.constraint import Constraint
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.space.sampling import draw_pool, feasible
from jointnas.space.space import Space
from jointnas.space.transfer import nearest_candidate
from jointnas.training.recipe import NO_QUANTISER

WIDTH = "width"  # the knob that scales a network
RESOLUTION = "resolution"  # the knob that says what share of an image's side it sees
VALUES = 64  # of a knob that are tried at most
ENOUGH = 0.8  # share of a member's steps that suffices
SHRINKAGE = 0.25
"""A device that allows a share of a recipe's steps gets a network with that power of the share of the MACs: half of them for a sixteenth of the
steps. It then takes fewer steps than the recipe needs, but a network that is small enough for all of them is much worse
(docs/results.md, "Recipes on slower machines")."""
GROWTH = 4.0  # of the MACs at most, from the network that a recipe is known for
MEASUREMENTS = 4  # of a member's networks at most
NETWORKS = 256  # drawn where the space lacks a member's network
AS_NEAR = 0.2  # distances that differ by less count as equal where accuracies are predicted

Steps = Callable[[Candidate], float]
"""How many training steps of a candidate the budget holds; NaN where that cannot be measured."""

Draws = Callable[[Sequence[Candidate]], NDArray[np.float64]]
"""Returns (d, n): d samples of the predicted accuracies of n candidates."""

Allowed = Callable[[Candidate], bool]
"""Whether a candidate meets the bounds that are measured on the device."""


@dataclass(frozen=True)
class Member:
    """A recipe of the portfolio with the network that it is known for.

    steps: that it takes there. image_size: side of the images that both are known for, in pixels.
    """

    name: str
    candidate: Candidate
    steps: int
    image_size: int


class Adapted(NamedTuple):
    """A member as a candidate of a space. distance: how far images, bounds and budget move it from what it is known for.

    That is the sum of the absolute logarithms of three ratios: of the images' sides, of the steps, and of the networks' MACs, where a larger
    network counts half as much as a smaller one.
    """

    candidate: Candidate
    distance: float


def anything(candidate: Candidate) -> bool:
    """Allow every candidate."""
    return True


def constant(steps: float) -> Steps:
    """Return a budget of so many steps for every candidate."""
    return lambda candidate: float(steps)


def portfolio() -> list[Member]:
    """Return the members: the built-in recipes whose file has a table `portfolio`."""
    files = {name: find_candidate(name) for name in built_in_recipes()}
    return [Member(name, file.candidate, **file.portfolio) for name, file in files.items() if file.portfolio]


def starting_candidates(
    space: Space,
    exact: Sequence[Constraint],
    n: int,
    steps: Steps | float,
    seed: int = 0,
    allowed: Allowed = anything,
    draws: Draws | None = None,
) -> dict[str, Candidate]:
    """Return n members of the portfolio by name, as candidates of a bound space within the exact bounds, the nearest to their own first.

    steps: a number where the budget counts steps itself: then a network costs no more than the one that the recipe is known for. allowed:
    whether a candidate meets the bounds that are not exact. draws: samples the predicted accuracies. Among members that are about
    equally near, such as one for photos and one for letters, the next is then the one that raises the expected accuracy of the best most.
    Members that the space cannot express, or not within the bounds, are left out.
    """
    made = {member.name: adapted(member, space, exact, steps, seed, allowed) for member in portfolio()}
    left = {name: own for name, own in made.items() if own is not None}
    drawn = draws([own.candidate for own in left.values()]) if draws and left else np.zeros((1, len(left)))
    accuracies = dict(zip(left, drawn.T, strict=True))
    best, margin = np.full(len(drawn), -np.inf), AS_NEAR if draws else 0.0
    chosen: dict[str, Candidate] = {}
    while left and len(chosen) < n:
        farthest = min(own.distance for own in left.values()) + margin
        near = {name: accuracies[name] for name, own in left.items() if own.distance <= farthest}
        name = max(near, key=lambda name: (np.maximum(best, near[name]).mean(), near[name].mean()))
        candidate, best = left.pop(name).candidate, np.maximum(best, accuracies[name])
        if candidate not in chosen.values():
            chosen[name] = candidate
    return chosen


def adapted(
    member: Member,
    space: Space,
    exact: Sequence[Constraint],
    steps: Steps | float,
    seed: int = 0,
    allowed: Allowed = anything,
) -> Adapted | None:
    """Return a member as a candidate of a bound space, None where it has none within the bounds; see `starting_candidates`."""
    codes = _networks(member, space, exact, seed) if _has_bits(member, space) else space.to_codes([])
    if not len(codes):
        return None
    macs, own_macs = _network_macs(space, codes), _own_macs(space, member)
    first = _last_within(macs, own_macs)
    last = _last_within(macs, GROWTH * own_macs) if callable(steps) else first
    steps_of = steps if callable(steps) else constant(steps)
    need = float(member.steps) if callable(steps) else 0.0
    row, reached = _costliest(
        space, codes, macs, own_macs, (first, last), need, lambda own: steps_of(own) if allowed(own) else nan
    )
    if isnan(reached):
        return None
    (candidate,) = space.to_candidates(codes[[row]])
    smaller = log(own_macs / macs[row])
    assert space.input_shape is not None
    size = abs(log(_side(space.input_shape) / member.image_size))
    return Adapted(candidate, size + abs(log(reached / member.steps)) + max(smaller, -0.5 * smaller))


def _has_bits(member: Member, space: Space) -> bool:
    """Return whether a space can express the bits of a member's weights."""
    knobs = {knob.name: knob for knob in space.knobs[space.n_architecture :]}
    quantiser = member.candidate["recipe"].get("quantiser", NO_QUANTISER)
    own = knobs["quantiser"].extremes if "quantiser" in knobs else (NO_QUANTISER,)
    return quantiser in own


def _networks(member: Member, space: Space, exact: Sequence[Constraint], seed: int) -> Codes:
    """Return (n, knobs) codes with the member's recipe on different networks within the bounds, by ascending MACs, then by views.

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
    ordered: Codes = codes[np.lexsort([space.views(codes), _network_macs(space, codes)])]
    return ordered


def _own_widths(member: Member, space: Space) -> list[Mapping[str, object]]:
    """Return the member's network at every width of the space. Raises `CandidateError` where the space lacks the network."""
    own, _ = nearest_candidate(space, {**member.candidate, "architecture": _own_network(member, space)})
    architecture = own["architecture"]
    widths = _values(space, WIDTH) if WIDTH in architecture else []
    return [{**architecture, WIDTH: width} for width in widths] or [architecture]


def _values(space: Space, name: str) -> list[Any]:
    """Return the values of an architecture knob whose values are positive numbers, evenly spaced where it has many; none without the knob."""
    for knob in space.knobs[: space.n_architecture]:
        if knob.name == name:
            low, high = (float(str(knob.extremes[i])) for i in (0, -1))
            return [knob.value(code) for code in np.unique([knob.nearest(v) for v in np.geomspace(low, high, VALUES)])]
    return []


def _network_macs(space: Space, codes: Codes) -> Codes:
    """Return the (n,) MACs of one view."""
    return np.asarray(space.costs(codes)["macs"] / space.views(codes))


def _costliest(
    space: Space, codes: Codes, macs: Codes, own_macs: float, rows: tuple[int, int], need: float, steps: Steps
) -> tuple[int, float]:
    """Return the row of the costliest network that gets about the steps needed, and its steps; else of the last one measured.

    codes, macs: in ascending order of the (n,) MACs. own_macs: those of the network that needs the steps; a smaller one needs fewer, by
    `SHRINKAGE`. rows: the one that is measured first, and the last that may be chosen. To measure few networks, the next one is chosen as if
    the seconds of a step were proportional to MACs, from the last one measured. A network without steps (NaN) is taken as too costly; the
    last measurement is then of the cheapest.
    """
    row, last = rows
    enough: tuple[int, float] | None = None
    for left in reversed(range(MEASUREMENTS)):
        reached = steps(space.to_candidates(codes[[row]])[0])
        affordable = macs[row] * (reached / need if need else 1.0)
        if not isnan(reached) and macs[row] <= _best_macs(affordable / ENOUGH, own_macs):
            enough = row, reached
        else:
            last = row - 1
        target = macs[row] / 2 if isnan(reached) else _best_macs(affordable, own_macs)
        following = min(last, _last_within(macs, target))
        if left == 0 or last < 0 or (enough is not None and following <= enough[0]):
            break
        row = 0 if isnan(reached) and left == 1 and enough is None else following
    row, reached = enough or (row, reached)
    return row, reached if isnan(reached) else max(1.0, reached)


def _best_macs(affordable: float, own_macs: float) -> float:
    """Return the MACs of the network to train where one of `affordable` MACs would get just the steps that a recipe needs; see `SHRINKAGE`."""
    return affordable if affordable >= own_macs else own_macs * float(affordable / own_macs) ** SHRINKAGE


def _last_within(macs: Codes, bound: float) -> int:
    """Return the last row of ascending MACs within a bound, the first where none is."""
    return max(0, int(np.searchsorted(macs, bound, side="right")) - 1)


def _own_macs(space: Space, member: Member) -> float:
    """Return the MACs of one view of the network that the member's recipe is known for, on the space's images."""
    assert space.input_shape is not None
    assert space.classes is not None
    network = make_blueprint(_own_network(member, space), space.input_shape, space.classes)
    return float(blueprint_cost(network)["macs"])


def _own_network(member: Member, space: Space) -> Mapping[str, Any]:
    """Return the member's architecture. It sees larger images than those that it is known for at about the same number of pixels."""
    assert space.input_shape is not None
    shape, own = space.input_shape, member.candidate["architecture"]
    if RESOLUTION not in own or _side(shape) <= member.image_size:
        return own
    known = _side((shape[0], member.image_size, member.image_size), own[RESOLUTION])
    values = _values(space, RESOLUTION)
    return {**own, RESOLUTION: min(values, key=lambda v: abs(log(_side(shape, v) / known)), default=own[RESOLUTION])}


def _side(shape: Shape, resolution: Any = 1.0) -> float:
    """Return the side in pixels of a square with as many pixels as a network sees of images of this shape (C, H, W)."""
    return sqrt(prod(resized(shape, float(resolution))[1:]))
