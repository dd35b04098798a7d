"""What a run does: one frozen dataclass for each kind, with its defaults, its checks, and its JSON and TOML forms.

A run stores its specification; what users give becomes one in `options`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import inf
from typing import Any, ClassVar

import tomli_w

from jointnas.campaign.candidate_file import without_none
from jointnas.data.spec import DataSpec
from jointnas.errors import RunError, SearchError, suggest
from jointnas.execution import RAY, Slot, find_executor, remote_slots, share_slots
from jointnas.predictor.contract import find_model
from jointnas.search.engines import CONTROLLER, engine_names, find_engine
from jointnas.search.search import ALL
from jointnas.space.constraint import MEASURED
from jointnas.space.knob_space import Candidate
from jointnas.training.clock import clock_from_json
from jointnas.training.members import ENSEMBLES, LARGEST_ENSEMBLE, SEEDS, part_of
from jointnas.training.policy_text import split_knobs

LARGEST_SEED = 99_999  # trials get seeds of 10,000 × seed + number, which stay below those of `retrain`
BEST_NETWORK, ALL_IMAGES = FINALS = ("best", "train+val")
FEWEST_FOR_ALL_IMAGES = 12  # budgets of a search that by default spends one of them on its winner and all images


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What all runs have. Raises a `JointNASError` for values that do not fit together.

    data: the images, None where the training function brings its own. clock: {"train_seconds": s} or {"train_steps": n}. workers: how many
    share the machine. device: see `share_slots`. alone: whether one training runs at a time, in the slot of one of the workers. executor:
    "local", "ray:ADDRESS" for a cluster, or one that a package adds. threads, workers_per_device: of each training, and of those that share
    a GPU, in a cluster. mix_machines: whether trainings under one clock may have machines of several kinds.
    """

    kind: ClassVar[str]
    changeable: ClassVar[tuple[str, ...]] = ()  # may differ when a run is resumed

    data: DataSpec | None = field(default_factory=DataSpec)
    clock: Mapping[str, float]
    workers: int = 1
    device: str = "auto"
    alone: bool = False
    threads: int | None = None
    workers_per_device: int | None = None
    mix_machines: bool = False
    executor: str = "local"
    seed: int = 0

    def __post_init__(self) -> None:
        clock_from_json(dict(self.clock))
        find_executor(self.executor)
        if self.threads is not None and not self.is_remote:
            raise SearchError(
                f"--threads are of a cluster's workers, got --threads {self.threads} without --ray: drop it"
            )
        if self.workers_per_device is not None and (not self.is_remote or self.device != "cuda"):
            raise SearchError(
                f"--workers-per-device shares GPUs, got {self.workers_per_device} for the device {self.device}: add --device cuda"
            )
        for name in ("alone", "mix_machines"):
            if not isinstance(getattr(self, name), bool):
                raise SearchError(f"the setting {name} is true or false, got {getattr(self, name)!r}: correct it")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise SearchError(f"--seed must lie between 0 and {LARGEST_SEED}, got {self.seed}: change it")

    @property
    def at_a_time(self) -> int:
        """How many trainings run side by side."""
        return 1 if self.alone else self.workers

    @property
    def is_remote(self) -> bool:
        """Whether the trainings run in a Ray cluster."""
        return self.executor.partition(":")[0] == RAY

    @property
    def slot(self) -> Slot:
        """Where each training runs. Raises `SearchError` for workers or a device that this machine does not have."""
        if self.is_remote:
            threads = 1 if self.threads is None else self.threads
            per_gpu = 1 if self.workers_per_device is None else self.workers_per_device
            return remote_slots(self.at_a_time, self.device, threads, per_gpu)
        return share_slots(self.workers, self.device, alone=self.alone)

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; `spec_from_json` gives an equal spec back."""
        data = None if self.data is None else self.data.to_json()
        return {"kind": self.kind, **json.loads(json.dumps(asdict(self))), "data": data}

    def to_toml(self) -> str:
        """Return the configuration file that repeats the run (`--config`)."""
        values = self.to_json()
        clock = values.pop("clock")
        budget = {"train_time": clock["train_seconds"]} if "train_seconds" in clock else clock
        if values.get("space") is not None:
            values["space"] = tomllib.loads(values["space"])
        return tomli_w.dumps({**budget, **without_none(values)}, multiline_strings=True)

    def differences(self, other: Spec) -> list[str]:
        """Return the names of the fields in which two specs differ and that may not change between a run and its resumption."""
        if self.kind != other.kind:
            return ["kind"]
        mine, theirs = self.to_json(), other.to_json()
        return [name for name in mine if name not in self.changeable and mine[name] != theirs[name]]


@dataclass(frozen=True, kw_only=True)
class SearchSpec(Spec):
    """A search: rounds of real trainings, then stage two on the predictor.

    space: TOML text, unbound. rounds, batch: their product is how many whole budgets the search spends, confirmations included.
    confirm: how many of these train the leaders again at the end, None for a quarter. portfolio: how many built-in recipes are in the
    first batch, None for half of it. final: "best" to keep the best network of the search, "train+val" to spend the last budget on
    training the winner again on the training and validation images together, None for that in a search of
    `FEWEST_FOR_ALL_IMAGES` budgets or more. members, ensemble: networks that are trained together within a budget, whose probabilities are
    averaged and whose costs add up, and their kind (`training.ensemble`). start: candidates to train before the built-in recipes. prior: the
    predictor to start from, "none" for none, None for the built-in one. early_stop: Kendall's τ from which later rounds train a part
    of the budget. train_fn: "module:function" that trains a candidate of an abstract space in place of the built-in trainer; cost_fn:
    one that returns such a candidate's costs by name, for constraints.
    """

    kind = "search"
    changeable: ClassVar[tuple[str, ...]] = ("rounds", "batch", "top", "engine", "confirm", "executor", "mix_machines")
    confirm_share: ClassVar[float] = 0.25
    uses_all_images: ClassVar[bool] = True  # at its end, by default

    space: str
    constraints: tuple[str, ...] = ()
    objective: str = "max accuracy"
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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in engine_names() if self.engine == ALL else [self.engine]:
            if name != CONTROLLER:  # which imports PyTorch
                find_engine(name)
        if self.engine == CONTROLLER and not self.is_direct:
            raise SearchError(f"--engine {CONTROLLER} trains what it proposes: add --real")
        find_model(self.predictor)
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
        part_of(self.clock, self.members)
        if self.early_stop is not None and not 0 < self.early_stop <= 1:
            raise SearchError(
                f"--early-stop is a rank correlation in (0, 1], got {self.early_stop:g}: the paper uses 0.92"
            )
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
    def budgets(self) -> int:
        """How many whole training budgets the search spends."""
        return self.rounds * self.batch

    @property
    def confirmations(self) -> int:
        """How many of the budgets train the leaders again."""
        return self._last_trainings[0]

    @property
    def final_trainings(self) -> int:
        """How many of the budgets train the winner on all images: one or none."""
        return self._last_trainings[1]

    @property
    def _last_trainings(self) -> tuple[int, int]:
        return self.last_trainings(self.rounds, self.batch, self.confirm, self.final, self.train_fn)

    @classmethod
    def last_trainings(
        cls, rounds: int, batch: int, confirm: int | None, final: str | None, train_fn: str | None
    ) -> tuple[int, int]:
        """Return how many of a search's budgets train the leaders again, and how many the winner on all images.

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
        if self.final_trainings:
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
class NashSpec(Spec):
    """Hill climbing by network morphisms over real trainings (NASH: Elsken, Metzen & Hutter 2017). The defaults are the paper's.

    space: TOML text, unbound; the first network is its smallest one where `start` has none. start: the candidate to start from; without
    it and a space, the built-in recipe nash. rounds: steps of the climb. batch: networks that a step trains, the unmodified best among
    them. morphisms: of each of the others. clock: the budget of one of these. pretraining, final_training: the budgets of the first
    network and of the best one at the end, in parts of that. last_learning_rate: where each cosine ends. inherit: whether children
    start from their parent's weights.
    """

    kind = "nash"
    changeable: ClassVar[tuple[str, ...]] = ("executor", "mix_machines")

    space: str | None = None
    constraints: tuple[str, ...] = ()
    start: tuple[Candidate, ...] = ()
    rounds: int = 5
    batch: int = 8
    morphisms: int = 5
    pretraining: float = 20 / 17
    final_training: float = 100 / 17
    last_learning_rate: float = 0.0
    inherit: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rounds", "batch", "morphisms"):
            check_positive(name, getattr(self, name))
        for name in ("pretraining", "final_training"):
            if not 0 < getattr(self, name) < inf:
                raise SearchError(
                    f"--{name.replace('_', '-')} is a number of training budgets above 0, got {getattr(self, name):g}: raise it"
                )
        if not 0 <= self.last_learning_rate < inf:
            raise SearchError(
                f"--last-learning-rate must be 0 or more, got {self.last_learning_rate:g}: the paper uses 0"
            )
        if len(self.start) > 1:
            raise SearchError(f"NASH grows one network, got {len(self.start)} to start from: give one --start")
        if self.start and self.space is not None:
            raise SearchError(
                "NASH starts from a candidate or from the smallest network of a space, got both: drop one"
            )

    @property
    def budgets(self) -> int:
        """How many networks are trained: the first one, those of all steps, and the best one at the end."""
        return 1 + self.rounds * self.batch + 1

    def budgets_of(self, step: int, final: bool) -> float:
        """Return how many budgets a training has: the first network's, one of a step, or the last one."""
        return self.final_training if final else 1.0 if step else self.pretraining

    def clock_of(self, budgets: float) -> dict[str, float]:
        """Return the clock of so many budgets."""
        if "train_steps" in self.clock:
            return {"train_steps": max(1, round(budgets * self.clock["train_steps"]))}
        return {"train_seconds": budgets * self.clock["train_seconds"]}


@dataclass(frozen=True, kw_only=True)
class AutotrainSpec(SearchSpec):
    """A search of the recipe alone for one network. default: the candidate whose recipe the searched one is compared with."""

    kind = "autotrain"
    changeable: ClassVar[tuple[str, ...]] = ("executor", "mix_machines")
    confirm_share = 0.0  # its winner is trained again beside the default
    uses_all_images = False

    default: Candidate


@dataclass(frozen=True, kw_only=True)
class BaselinesSpec(Spec):
    """Trainings of baselines, each `repeats` times on images of another seed."""

    kind = "baselines"
    changeable = ("repeats", "executor", "mix_machines")

    baselines: tuple[str, ...]
    repeats: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("repeats", self.repeats)


@dataclass(frozen=True, kw_only=True)
class AdoptedSpec(Spec):
    """A run without trainings, made from a stand-alone predictor so that its winners can be exported and trained."""

    kind = "adopted"

    space: str
    constraints: tuple[str, ...] = ()
    predictor: str  # its name or folder


KINDS: Mapping[str, type[Spec]] = {
    kind.kind: kind
    for kind in (SearchSpec, DirectSpec, PolicySpec, NashSpec, AutotrainSpec, BaselinesSpec, AdoptedSpec)
}


def check_exact(objective: str, measure: Sequence[str]) -> None:
    """Raise `SearchError` for measured metrics, which the members of an ensemble do not add up exactly."""
    measured = [name for name in MEASURED if objective.split()[-1:] == [name]]
    if measure or measured:
        given = f"--measure {measure[0]}" if measure else f"the objective {objective!r}"
        raise SearchError(f"--members adds up exact costs, got {given}: drop one of them")


def check_positive(name: str, value: int) -> None:
    """Raise `SearchError` unless an option's value is 1 or more."""
    if value < 1:
        raise SearchError(f"--{name.replace('_', '-')} must be 1 or more, got {value}: raise it")


def spec_from_json(values: Mapping[str, Any]) -> Spec:
    """Return the spec that `Spec.to_json` wrote. Raises `RunError` for an unknown kind or field."""
    kind = KINDS.get(str(values.get("kind")))
    if kind is None:
        raise RunError(f"no kind of run is called {values.get('kind')!r}: {suggest(values.get('kind'), KINDS)}")
    names = {f.name for f in fields(kind)}
    for name in values:
        if name not in names and name != "kind":
            raise RunError(f"a {kind.kind} run has no setting {name!r}: {suggest(name, sorted(names))}")
    given: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items() if n != "kind"}
    if given.get("data") is not None:
        given["data"] = DataSpec(**given["data"])
    try:
        return kind(**given)
    except TypeError as error:  # a field without a default is missing
        raise RunError(f"the settings of a {kind.kind} run are not complete ({error}): add what is missing") from error
