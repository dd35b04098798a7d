"""The specifications of searches: on a predictor, over real trainings, of policies, of recipes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar

from jointnas.campaign.spec.base import Spec, check_positive
from jointnas.errors import SearchError
from jointnas.predictor.contract import find_model
from jointnas.search.engines import CONTROLLER, engine_names, find_engine
from jointnas.search.objective import score_of
from jointnas.search.reference import Reference
from jointnas.search.search import ALL
from jointnas.space.constraint import MEASURED
from jointnas.space.knob_space import Candidate
from jointnas.training.members import ENSEMBLES, LARGEST_ENSEMBLE, SEEDS, part_of
from jointnas.training.observation import ACCURACY
from jointnas.training.policy_text import split_knobs

BEST_NETWORK, ALL_IMAGES = FINALS = ("best", "train+val")
FEWEST_FOR_ALL_IMAGES = 12  # budgets of a search that by default spends one of them on its winner and all images


@dataclass(frozen=True, kw_only=True)
class SearchSpec(Spec):
    """A search: rounds of real trainings, then stage two on the predictor.

    space: TOML text, unbound. rounds, batch: their product is how many whole budgets the search spends, confirmations included.
    confirm: how many of these train the leaders at the end, None for a quarter. portfolio: how many built-in recipes are in the
    first batch, None for half of it. final: "best" to keep the best network of the search, "train+val" to spend the last budget on
    training the winner again on the training and validation images together, None for that in a search of
    `FEWEST_FOR_ALL_IMAGES` budgets or more. members, ensemble: networks that are trained together within a budget, whose probabilities are
    averaged and whose costs add up, and their kind (`training.ensemble`). start: candidates to train before the built-in recipes. prior: the
    predictor to start from, "none" for none, None for the built-in one. early_stop: Kendall's τ from which later rounds train a part
    of the budget. train_fn: "module:function" that trains a candidate of an abstract space in place of the built-in trainer; cost_fn:
    one that returns such a candidate's costs by name, for constraints. relative_to: JSON of the `Reference` of the objective "max efficiency".
    latency_command: measures latency on another device (`DeviceCommand`).
    """

    kind = "search"
    changeable: ClassVar[tuple[str, ...]] = (
        "rounds",
        "batch",
        "top",
        "engine",
        "confirm",
        "executor",
        "mix_machines",
        "relative_to",
    )
    confirm_share: ClassVar[float] = 0.25
    uses_all_images: ClassVar[bool] = True  # at its end, by default

    space: str
    constraints: tuple[str, ...] = ()
    objective: str = "max accuracy"
    relative_to: Mapping[str, Any] | None = None
    measure: tuple[str, ...] = ()
    rounds: int = 4
    batch: int = 8
    top: int = 5
    engine: str = "evolution"
    predictor: str = "gp"
    prior: str | None = None
    start: tuple[Candidate, ...] = ()
    early_stop: float | None = None
    confirm: int | None = None
    portfolio: int | None = None
    final: str | None = None
    members: int = 1
    ensemble: str = SEEDS
    train_fn: str | None = None
    cost_fn: str | None = None
    latency_command: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine == CONTROLLER and not self.is_direct:
            raise SearchError(f"--engine {CONTROLLER} trains what it proposes: add --real")
        for name in ("rounds", "batch", "top", "members"):
            check_positive(name, getattr(self, name))
        if self.members > LARGEST_ENSEMBLE:
            raise SearchError(f"--members must be {LARGEST_ENSEMBLE} at most, got {self.members}: lower it")
        if self.ensemble not in ENSEMBLES:
            raise SearchError(f"--ensemble is {' or '.join(ENSEMBLES)}, got {self.ensemble!r}: choose one of them")
        if self.members > 1 and (self.train_fn is not None or self.early_stop is not None):
            other = "--train-fn" if self.train_fn is not None else "--early-stop"
            raise SearchError(
                f"--members trains whole networks, got --members {self.members} and {other}: drop one of them"
            )
        if self.ensemble != SEEDS and self.members == 1:
            raise SearchError(
                f"--ensemble goes with several --members, got --ensemble {self.ensemble} alone: add --members 3"
            )
        if self.members > 1:
            check_exact(self.objective, self.measure)
            if self.relative_to is not None:
                raise SearchError(
                    f"efficiency is of single networks, got --members {self.members} with --relative-to: drop one of them"
                )
        _ = self.reference  # raises for what is none
        part_of(self.clock, self.members)
        if self.early_stop is not None and not 0 < self.early_stop <= 1:
            raise SearchError(
                f"--early-stop is a rank correlation in (0, 1], got {self.early_stop:g}: the paper uses 0.92"
            )
        if self.score != ACCURACY and (self.early_stop is not None or self.train_fn is not None):
            other = "--early-stop" if self.early_stop is not None else "--train-fn"
            raise SearchError(f"{other} reads accuracies, got the objective {self.objective!r}: drop one of them")
        if self.final is not None and self.final not in FINALS:
            raise SearchError(f"--final is {' or '.join(FINALS)}, got {self.final!r}: choose one of them")
        if self.final == ALL_IMAGES and self.train_fn is not None:
            raise SearchError(f"--final {self.final} trains networks, got --train-fn {self.train_fn}: drop one of them")
        most = self.budgets - self.rounds - self.final_trainings
        if not 0 <= self.confirmations <= most:
            raise SearchError(
                f"--confirm must leave one training a round, between 0 and {max(0, most)}, got {self.confirmations}: "
                "lower it or raise --batch"
            )
        if self.portfolio is not None and self.portfolio < 0:
            raise SearchError(f"--portfolio must be 0 or more, got {self.portfolio}: raise it")

    def check_plugins(self) -> None:
        """Raise a `JointNASError` where its engine, predictor or executor is not installed."""
        super().check_plugins()
        for name in engine_names() if self.engine == ALL else [self.engine]:
            if name != CONTROLLER:  # which imports PyTorch
                find_engine(name)
        find_model(self.predictor)

    def differences(self, other: Spec) -> list[str]:
        """Return the names of the fields in which two specs differ and that may not change; a controller's batch is one of them."""
        found = super().differences(other)
        controlled = self.engine == CONTROLLER and isinstance(other, SearchSpec) and self.batch != other.batch
        return [*found, "batch"] if controlled and "batch" not in found else found

    @property
    def is_direct(self) -> bool:
        """Whether an engine searches real trainings, without a predictor in the loop."""
        return False

    def trained_as(self, candidate: Candidate) -> Candidate:
        """Return what is trained for a candidate of the space."""
        return candidate

    @property
    def streams(self) -> bool:
        """Whether trainings are proposed as others end, not in rounds: in a cluster with more workers than a batch has candidates.

        On one machine proposals would take the cores of the trainings that run.
        """
        return self.is_remote and self.early_stop is None and self.at_a_time > self.batch_of(1)

    @property
    def reference(self) -> Reference | None:
        """The models that the objective "max efficiency" is relative to."""
        return None if self.relative_to is None else Reference.from_json(self.relative_to)

    @property
    def score(self) -> str:
        """Which score of its trainings the search maximises."""
        return score_of(self.objective)

    @property
    def waves(self) -> float:
        """How many budgets pass one after another, as many trainings as there are workers at a time."""
        batches = [self.batch_of(number) for number in range(1, self.rounds + 1)]
        together = [sum(batches)] if self.streams else batches
        return sum(ceil(n / self.at_a_time) for n in (*together, self.confirmations, self.final_trainings))

    @property
    def budgets(self) -> int:
        """How many whole training budgets the search spends."""
        return self.rounds * self.batch

    @property
    def confirmations(self) -> int:
        """How many of the budgets train the leaders at the end."""
        return self._last_trainings[0]

    @property
    def final_trainings(self) -> int:
        """How many of the budgets train the winner on all images: one or none."""
        return self._last_trainings[1]

    @property
    def _last_trainings(self) -> tuple[int, int]:
        if self.is_direct:
            return 0, 0
        return self.last_trainings(self.rounds, self.batch, self.confirm, self.final, self.train_fn)

    @classmethod
    def last_trainings(
        cls, rounds: int, batch: int, confirm: int | None, final: str | None, train_fn: str | None
    ) -> tuple[int, int]:
        """Return how many of a search's budgets train the leaders, and how many the winner on all images.

        By default a round keeps one training at least.
        """
        left = rounds * (batch - 1)
        if final is None:
            wanted = cls.uses_all_images and train_fn is None and rounds * batch >= FEWEST_FOR_ALL_IMAGES
            on_all_images = int(wanted and left > (confirm or 0))
        else:
            on_all_images = int(final == ALL_IMAGES)
        if confirm is None:
            confirm = max(0, min(int(cls.confirm_share * rounds * batch), left - on_all_images))
        return confirm, on_all_images

    @property
    def portfolio_size(self) -> int:
        """How many members of the portfolio the first batch holds at most."""
        return self.batch_of(1) // 2 if self.portfolio is None else self.portfolio

    def batch_of(self, number: int) -> int:
        """Return how many candidates round `number`, from 1 on, trains: the first rounds take what does not divide evenly."""
        each, rest = divmod(self.budgets - self.confirmations - self.final_trainings, self.rounds)
        return each + (number <= rest)


@dataclass(frozen=True, kw_only=True)
class DirectSpec(SearchSpec):
    """A search without a predictor in the loop: an engine proposes, every proposal is trained (`--real`).

    repeats: trainings, with different seeds, that a candidate needs before it counts as the best.
    """

    kind = "direct"
    changeable = ("rounds", "batch", "top", "engine", "repeats", "executor", "mix_machines")
    confirm_share = 0.0
    uses_all_images = False

    repeats: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("repeats", self.repeats)
        if self.engine == ALL:
            raise SearchError("--real trains what one engine proposes, got --engine all: choose one engine")
        if self.early_stop is not None:
            raise SearchError(f"--real trains the whole budget, got --early-stop {self.early_stop:g}: drop one of them")
        if self.confirm:
            raise SearchError(f"--real confirms winners with --repeats, got --confirm {self.confirm}: drop it")
        if self.final == ALL_IMAGES:
            raise SearchError(f"--real keeps its best network, got --final {self.final}: drop it")
        if self.portfolio:
            raise SearchError(f"--real starts where --start says, got --portfolio {self.portfolio}: drop it")

    @property
    def is_direct(self) -> bool:
        """Whether an engine searches real trainings: always."""
        return True

    @property
    def portfolio_size(self) -> int:
        """None: an engine starts where `start` says."""
        return 0


@dataclass(frozen=True, kw_only=True)
class PolicySpec(SearchSpec):
    """A search of an augmentation policy for one network and recipe, as AutoAugment's (Cubuk et al. 2019).

    space: of policies, abstract: `augmentation-policy`, or one whose knobs are those of recipes. trained: the candidate that is trained with
    each policy. engine: what searches the predictor, or "ppo", AutoAugment's own controller over real trainings.
    """

    kind = "policy"
    changeable: ClassVar[tuple[str, ...]] = ("rounds", "batch", "top", "confirm", "executor", "mix_machines")
    uses_all_images = False
    repeats: ClassVar[int] = 1

    trained: Candidate

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.constraints or self.members > 1 or self.train_fn is not None:
            given = "--constraint" if self.constraints else "--members" if self.members > 1 else "--train-fn"
            raise SearchError(f"a policy changes no cost and trains one network, got {given}: drop it")
        unused = ["portfolio", "final", *(["confirm", "early_stop"] if self.is_direct else [])]
        for name in unused:
            if getattr(self, name):
                raise SearchError(f"a policy search has no use for {name} = {getattr(self, name)!r}: drop it")

    @property
    def is_direct(self) -> bool:
        """Whether the controller proposes."""
        return self.engine == CONTROLLER

    @property
    def portfolio_size(self) -> int:
        """None: the recipe is given."""
        return 0

    def trained_as(self, candidate: Candidate) -> Candidate:
        """Return the network and recipe with a candidate's policy."""
        policy, others = split_knobs({**candidate["architecture"], **candidate["recipe"]})
        own = others if policy is None else {**others, "policy": policy}
        return {"architecture": self.trained["architecture"], "recipe": {**self.trained["recipe"], **own}}


@dataclass(frozen=True, kw_only=True)
class AutotrainSpec(SearchSpec):
    """A search of the recipe alone for one network. default: the candidate whose recipe the searched one is compared with."""

    kind = "autotrain"
    changeable: ClassVar[tuple[str, ...]] = ("executor", "mix_machines")
    confirm_share = 0.0  # its winner is trained again beside the default
    uses_all_images = False

    default: Candidate


def check_exact(objective: str, measure: Sequence[str]) -> None:
    """Raise `SearchError` for measured metrics, which the members of an ensemble do not add up exactly."""
    measured = [name for name in MEASURED if objective.split()[-1:] == [name]]
    if measure or measured:
        given = f"--measure {measure[0]}" if measure else f"the objective {objective!r}"
        raise SearchError(f"--members adds up exact costs, got {given}: drop one of them")
