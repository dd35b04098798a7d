"""What a run does: one frozen dataclass for each kind, with its defaults, its checks, and its JSON and TOML forms.

The command line, `jointnas.run_search` and a configuration file all go through `make_spec`; a run stores the result.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import tomli_w

from jointnas.campaign.candidate_file import find_candidate, without_none
from jointnas.data.spec import DataSpec
from jointnas.errors import BudgetError, RunError, SearchError, suggest
from jointnas.execution import find_executor
from jointnas.predictor.contract import find_model
from jointnas.search.engines import engine_names, find_engine
from jointnas.search.search import ALL
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.training.clock import clock_from_json
from jointnas.units import format_duration, parse_duration

LARGEST_SEED = 99_999  # trials get seeds of 10,000 × seed + number, which stay below those of `retrain`
DEFAULT_TRAIN_TIME = "10m"
BEST_NETWORK, ALL_IMAGES = FINALS = ("best", "train+val")
PLANNED_TRAININGS = 24  # of a search for which a total time alone is given
LONGEST_PLANNED_SECONDS = 600.0  # of one of them


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What all runs have. Raises a `JointNASError` for values that do not fit together.

    data: the images, None where the training function brings its own. clock: {"train_seconds": s} or {"train_steps": n}.
    """

    kind: ClassVar[str]
    changeable: ClassVar[tuple[str, ...]] = ()  # may differ when a run is resumed

    data: DataSpec | None = field(default_factory=DataSpec)
    clock: Mapping[str, float]
    workers: int = 1
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        clock_from_json(dict(self.clock))
        if not 0 <= self.seed <= LARGEST_SEED:
            raise SearchError(f"--seed must lie between 0 and {LARGEST_SEED}, got {self.seed}: change it")

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; `spec_from_json` gives an equal spec back."""
        data = None if self.data is None else self.data.to_json()
        return {"kind": self.kind, **json.loads(json.dumps(asdict(self))), "data": data}

    def to_toml(self) -> str:
        """Return the configuration file that repeats the run (`--config`)."""
        values = self.to_json()
        clock = values.pop("clock")
        budget = {"train_time": clock["train_seconds"]} if "train_seconds" in clock else clock
        if "space" in values:
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
    confirm: how many of these train the leaders again at the end, None for a quarter. portfolio: how many known recipes are in the
    first batch, None for half of it. final: "best" to keep the best network of the search, "train+val" to spend the last budget on
    training it again on the training and validation images together. start: candidates to train before the known recipes. prior: the
    predictor to start from, "none" for none, None for the built-in one. early_stop: Kendall's τ from which later rounds train a part
    of the budget. train_fn: "module:function" that trains a candidate of an abstract space in place of the built-in trainer; cost_fn:
    one that returns such a candidate's costs by name, for constraints.
    """

    kind = "search"
    changeable: ClassVar[tuple[str, ...]] = ("rounds", "batch", "top", "engine", "confirm", "executor")
    confirm_share: ClassVar[float] = 0.25

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
    final: str = BEST_NETWORK
    train_fn: str | None = None
    cost_fn: str | None = None
    executor: str = "local"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in engine_names() if self.engine == ALL else [self.engine]:
            find_engine(name)
        find_executor(self.executor)
        find_model(self.predictor)
        for name in ("rounds", "batch", "top"):
            check_positive(name, getattr(self, name))
        if self.early_stop is not None and not 0 < self.early_stop <= 1:
            raise SearchError(
                f"--early-stop is a rank correlation in (0, 1], got {self.early_stop:g}: the paper uses 0.92"
            )
        if self.final not in FINALS:
            raise SearchError(f"--final is {' or '.join(FINALS)}, got {self.final!r}: choose one of them")
        if self.final != BEST_NETWORK and self.train_fn is not None:
            raise SearchError(f"--final {self.final} trains networks, got --train-fn {self.train_fn}: drop one of them")
        most = self.budgets - self.rounds - self.final_trainings
        if not 0 <= self.confirmations <= most:
            raise SearchError(
                f"--confirm must leave one training a round, between 0 and {max(0, most)}, got {self.confirmations}: "
                "lower it or raise --batch"
            )
        if self.portfolio is not None and self.portfolio < 0:
            raise SearchError(f"--portfolio must be 0 or more, got {self.portfolio}: raise it")

    @property
    def budgets(self) -> int:
        """How many whole training budgets the search spends."""
        return self.rounds * self.batch

    @property
    def confirmations(self) -> int:
        """How many of the budgets train the leaders again."""
        if self.confirm is not None:
            return self.confirm
        return default_confirmations(self.rounds, self.batch, self.confirm_share, self.final_trainings)

    @property
    def final_trainings(self) -> int:
        """How many of the budgets train the best network on all images: one or none."""
        return int(self.final != BEST_NETWORK)

    @property
    def known_recipes(self) -> int:
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
    changeable = ("rounds", "batch", "top", "engine", "repeats", "executor")
    confirm_share = 0.0

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
    def known_recipes(self) -> int:
        """None: an engine starts where `start` says."""
        return 0


@dataclass(frozen=True, kw_only=True)
class AutotrainSpec(SearchSpec):
    """A search of the recipe alone for one network. default: the candidate whose recipe the searched one is compared with."""

    kind = "autotrain"
    changeable: ClassVar[tuple[str, ...]] = ()
    confirm_share = 0.0  # its winner is trained again beside the default

    default: Candidate


@dataclass(frozen=True, kw_only=True)
class BaselinesSpec(Spec):
    """Trainings of baselines, each `repeats` times on images of another seed."""

    kind = "baselines"
    changeable = ("repeats",)

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
    kind.kind: kind for kind in (SearchSpec, DirectSpec, AutotrainSpec, BaselinesSpec, AdoptedSpec)
}


def default_confirmations(rounds: int, batch: int, share: float, final: int) -> int:
    """Return this share of a search's budgets, less where a round would be left without a training; `final` are spent otherwise."""
    return max(0, min(int(share * rounds * batch), rounds * (batch - 1) - final))


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


# ------------------------------------------------------------------------------------------------- what users write


OPTIONS = (
    "train_time",
    "train_steps",
    "train_images",
    "val_images",
    "image_size",
    "total_time",
    "architecture",
    "fix",
)
"""What users may give beside the fields of a spec: shorthands that `make_spec` resolves."""


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings in a TOML file, as `jointnas runs show RUN --config` prints them. Raises `RunError`."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"--config needs a readable TOML file, got {str(path)!r} ({error}): check the path") from error
    except tomllib.TOMLDecodeError as error:
        raise RunError(
            f"--config needs valid TOML, got an error in {str(path)!r}: {error}; correct the file"
        ) from error


def make_spec(options: Mapping[str, Any], kind: str = "search") -> Spec:
    """Return the spec of a run from what a user gives: fields of the spec, or the shorthands in `OPTIONS`.

    data: a name or path, a `DataSpec`, or a table of its fields. space: a built-in name, a path, TOML text, a table, or a `Space`.
    start: candidates, files or names of built-in recipes. train_time, total_time: text such as "10m", or seconds.
    Raises a `JointNASError` for what is unknown or does not fit together.
    """
    given = {name: value for name, value in options.items() if value is not None}
    kind = given.pop("kind", kind)
    short = {name: given.pop(name) for name in OPTIONS if name in given}
    given["clock"] = _clock(short, given.pop("clock", None))
    given["data"] = _data(given.pop("data", None), short, given.get("seed", 0), given.get("train_fn"))
    if "space" in given or issubclass(KINDS.get(kind, Spec), SearchSpec):
        given["space"] = _space(given.pop("space", "resnet9"), short)
    if "start" in given:
        given["start"] = [c if isinstance(c, Mapping) else find_candidate(c).candidate for c in given["start"]]
    if isinstance(given.get("constraints"), str):
        raise SearchError(f"constraints are a list, got {given['constraints']!r}: write it in brackets")
    if "total_time" in short:
        searches = KINDS.get(kind, SearchSpec)
        share = searches.confirm_share if issubclass(searches, SearchSpec) else 0.0
        given |= _within(short["total_time"], given, "train_time" in short, share)
    values = json.loads(json.dumps({**given, "kind": kind, "data": given["data"] and asdict(given["data"])}))
    return spec_from_json(values)


def _clock(short: Mapping[str, Any], clock: Mapping[str, float] | None) -> dict[str, float]:
    return clock_json(short.get("train_time"), short.get("train_steps"), None if clock is None else dict(clock))


def clock_json(
    train_time: str | float | None, train_steps: int | None, default: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return the clock of a time or a number of steps; the default where neither is given. Raises `BudgetError`."""
    if train_time is not None and train_steps is not None:
        raise BudgetError(
            f"a budget is a time or steps, got --train-time {train_time} and --train-steps {train_steps}: drop one"
        )
    if train_steps is not None:
        if train_steps < 1:
            raise BudgetError(f"a training needs one step or more, got {train_steps}: raise --train-steps")
        return {"train_steps": train_steps}
    if train_time is None and default is not None:
        return dict(default)
    seconds = _seconds(DEFAULT_TRAIN_TIME if train_time is None else train_time)
    if seconds <= 0:
        raise BudgetError(f"a training time must be above 0 seconds, got --train-time {train_time}: raise it")
    return {"train_seconds": seconds}


def _seconds(time: str | float) -> float:
    return parse_duration(time) if isinstance(time, str) else float(time)


def _data(given: Any, short: Mapping[str, Any], seed: int, train_fn: str | None) -> DataSpec | None:
    counts = {name: short[name] for name in ("train_images", "val_images", "image_size") if name in short}
    if given is None and train_fn is not None and not counts:
        return None
    table = (
        {"source": given} if isinstance(given, str | Path) else asdict(given) if isinstance(given, DataSpec) else given
    )
    table = {"source": "digits"} if table is None else dict(table)
    names = {f.name for f in fields(DataSpec)}
    for name in table:
        if name not in names:
            raise RunError(f"data has no setting {name!r}: {suggest(name, sorted(names))}")
    return DataSpec(**{**table, **counts, "source": str(table.get("source", "digits")), "seed": seed})


def _space(given: Any, short: Mapping[str, Any]) -> str:
    """Return the space as TOML, with knobs or the whole architecture held where the options hold them."""
    if isinstance(given, Space):
        space = given
    elif isinstance(given, Mapping):
        space = Space.from_toml(tomli_w.dumps(given))
    elif isinstance(given, str) and "\n" in given:
        space = Space.from_toml(given)
    else:
        space = Space.load(given)
    if "architecture" in short:
        space = space.with_architecture(find_candidate(short["architecture"]).candidate["architecture"])
    return space.fix(short.get("fix", {})).to_toml()


def _within(
    total_time: str | float, given: Mapping[str, Any], has_train_time: bool, confirm_share: float
) -> dict[str, Any]:
    """Return the batch, and the clock where no training time is given, of a search that takes this time in all.

    confirm_share: of the trainings, where their number is not given. Raises `BudgetError` where it does not hold one training a round.
    """
    if "batch" in given:
        raise SearchError(f"--total-time sets the batch, got --batch {given['batch']} beside it: drop one")
    if given.get("repeats", 1) > 1:
        raise SearchError(
            f"--total-time counts one training for each candidate, got --repeats {given['repeats']}: drop one"
        )
    if "train_seconds" not in given["clock"]:
        raise BudgetError("--total-time needs a training time, got --train-steps: give --train-time or --batch")
    rounds, workers = given.get("rounds", SearchSpec.rounds), given.get("workers", 1)
    check_positive("rounds", rounds)
    check_positive("workers", workers)
    total, clock = _seconds(total_time), dict(given["clock"])
    if not has_train_time:
        shared = total * workers / PLANNED_TRAININGS
        clock["train_seconds"] = float(min(LONGEST_PLANNED_SECONDS, max(1, math.floor(shared))))
    waves, final = int(total / clock["train_seconds"]), int(given.get("final", BEST_NETWORK) != BEST_NETWORK)

    def waves_of(batch: int) -> int:
        confirm = given.get("confirm")
        confirm = default_confirmations(rounds, batch, confirm_share, final) if confirm is None else confirm
        each = (rounds * batch - confirm - final) / rounds
        return int(rounds * math.ceil(math.ceil(each) / workers) + math.ceil(confirm / workers)) + final

    batch = max((b for b in range(1, waves * workers + 1) if waves_of(b) <= waves), default=0)
    if batch < 1:
        least = format_duration(waves_of(1) * clock["train_seconds"])
        raise BudgetError(
            f"--total-time must hold one training a round, got {total_time} for {rounds} rounds: give {least} or more"
        )
    return {"batch": batch, "clock": clock}
