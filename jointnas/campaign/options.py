"""What users give for a run, as the specification that it becomes.

The command line, `jointnas.run_search` and a configuration file all go through `make_spec`.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import tomli_w

from jointnas.campaign.candidate_file import find_candidate
from jointnas.campaign.policy_file import with_policy_text
from jointnas.campaign.spec import (
    KINDS,
    DirectSpec,
    NashSpec,
    PolicySpec,
    SearchSpec,
    Spec,
    check_positive,
    spec_from_json,
)
from jointnas.data.spec import DataSpec
from jointnas.errors import BudgetError, RunError, SearchError, suggest
from jointnas.execution import RAY
from jointnas.execution.slots import find_device
from jointnas.search.engines import CONTROLLER
from jointnas.space.knob_space import check_candidate
from jointnas.space.space import Space
from jointnas.units import format_duration, is_finite, parse_duration

DEFAULT_TRAIN_TIME = "10m"
DEFAULT_SPACES = {PolicySpec.kind: "augmentation-policy"}  # resnet9 for other kinds
PLANNED_TRAININGS = 24  # of a search for which a total time alone is given
LONGEST_PLANNED_SECONDS = 600.0  # of one of them
OPTIONS = (
    "train_time",
    "train_steps",
    "train_images",
    "val_images",
    "image_size",
    "fit",
    "data_seed",
    "total_time",
    "ray",
    "architecture",
    "fix",
)
"""What users may give beside the fields of a spec: shorthands that `make_spec` resolves."""

TYPES: tuple[tuple[tuple[type, ...], str, tuple[str, ...]], ...] = (
    (
        (int,),
        "a whole number",
        (
            "train_steps",
            "train_images",
            "val_images",
            "image_size",
            "rounds",
            "batch",
            "seed",
            "data_seed",
            "workers",
            "workers_per_device",
            "repeats",
            "confirm",
        ),
    ),
    ((str, int, float), "a time such as '30s'", ("train_time", "total_time")),
    ((str, Path, Mapping, DataSpec), "a name, a path or a table", ("data",)),
    ((str, Path, Mapping), "a file, a name or a table", ("trained", "architecture")),
    ((str, Path, Mapping, Space), "a name, a file or a table", ("space",)),
    ((Mapping,), "a table of knobs", ("fix",)),
    ((Mapping,), "a table", ("clock",)),
    ((list, tuple), "a list", ("start",)),
    ((str,), "a name", ("device", "executor", "ray", "fit", "engine")),
)
"""Settings that are used before their spec checks them: their types, in words, by name."""


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings in a TOML file, as `jointnas runs show RUN --config` prints them. Raises `RunError`.

    Where the data's split has the seed of the search, it follows another seed that replaces this one. A file of a stranger runs no command.
    """
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"--config needs a readable TOML file, got {str(path)!r} ({error}): check the path") from error
    except tomllib.TOMLDecodeError as error:
        raise RunError(
            f"--config needs valid TOML, got an error in {str(path)!r}: {error}; correct the file"
        ) from error
    if "latency_command" in config:
        raise RunError(
            f"a configuration file runs no command, got latency_command in {str(path)!r}: remove it, and give --latency-command"
        )
    data = config.get("data")
    if isinstance(data, dict) and data.get("seed") == config.get("seed", 0):
        data.pop("seed", None)
    return config


def over_config(base: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a configuration file with others in their place.

    What can be written in two ways, as a budget, is replaced whichever way it is written. In a cluster the number of workers and that of
    those that share a GPU are two settings.
    """
    left, pairs = dict(base), [("train_time", "train_steps"), ("executor", "ray"), ("batch", "total_time")]
    if "ray" not in settings and not str({**base, **settings}.get("executor")).startswith(RAY):
        pairs.append(("workers", "workers_per_device"))
    for one, other in pairs:
        if one in settings or other in settings:
            left.pop(one, None)
            left.pop(other, None)
    return {**left, **settings}


def make_spec(options: Mapping[str, Any], kind: str = "search") -> Spec:
    """Return the spec of a run from what a user gives: fields of the spec, or the shorthands in `OPTIONS`.

    data: a name or path, a `DataSpec`, which brings the seed of its split, or a table of its fields. space: a built-in name, a path, TOML
    text, a table, or a `Space`.
    start: candidates, files or names of built-in recipes. train_time, total_time: text such as "10m", or seconds.
    Raises a `JointNASError` for what is unknown or does not fit together.
    """
    given = {name: value for name, value in options.items() if value is not None}
    _check_types(given)
    kind = given.pop("kind", kind)
    if given.get("engine") == NashSpec.kind or kind == NashSpec.kind:
        kind = _nash(given, kind)
    short = {name: given.pop(name) for name in OPTIONS if name in given}
    if "ray" in short:
        if "executor" in given:
            raise SearchError(f"--ray chooses the executor, got --executor {given['executor']} beside it: drop one")
        given["executor"] = f"{RAY}:{short['ray']}"
    if str(given.get("executor", "")).partition(":")[0] != RAY:
        own = (given.get("workers"), given.pop("workers_per_device", None), given.get("device", "auto"))
        given["workers"] = _workers(*own)
    given["clock"] = _clock(short, given.pop("clock", None))
    given["data"] = _data(given.pop("data", None), short, given.get("seed", 0), given.get("train_fn"))
    if kind == NashSpec.kind and "space" in given:
        given["space"] = _space(given["space"], {})
    elif "space" in given or issubclass(KINDS.get(kind, Spec), SearchSpec):
        given["space"] = _space(given.pop("space", DEFAULT_SPACES.get(kind, "resnet9")), short)
    if "trained" in given and not isinstance(given["trained"], Mapping):
        given["trained"] = find_candidate(given["trained"]).candidate
    for candidate in [*given.get("start", ()), given.get("trained")]:
        if isinstance(candidate, Mapping):
            check_candidate(candidate)
    if "start" in given:
        for candidate in given["start"]:
            if not isinstance(candidate, str | Path | Mapping):
                raise RunError(f"start is a list of files, names or tables, got {candidate!r} in it: correct it")
        given["start"] = [c if isinstance(c, Mapping) else find_candidate(c).candidate for c in given["start"]]
    if isinstance(given.get("constraints"), str):
        raise SearchError(f"constraints are a list, got {given['constraints']!r}: write it in brackets")
    if "total_time" in short:
        searches = KINDS.get(kind, SearchSpec)
        searches = searches if issubclass(searches, SearchSpec) else SearchSpec
        given |= _within(short["total_time"], given, "train_time" in short, searches)
    values = {**given, "kind": kind, "data": given["data"] and asdict(given["data"])}
    values = json.loads(json.dumps(values, default=str))
    spec = spec_from_json(values)
    spec.check_plugins()
    return spec


def _check_types(given: Mapping[str, Any]) -> None:
    """Raise `RunError` for settings of another type than theirs, as a file may have them."""
    for kinds, words, names in TYPES:
        for name in names:
            if name in given and (not isinstance(given[name], kinds) or isinstance(given[name], bool)):
                raise RunError(f"the setting {name} is {words}, got {given[name]!r}: correct it")


def _nash(given: dict[str, Any], kind: str) -> str:
    """Return the kind of a climb, whose engine is no setting of it. Raises `SearchError` for what does not go with it."""
    engine = given.pop("engine", NashSpec.kind)
    if engine != NashSpec.kind:
        raise SearchError(f"a nash run climbs by morphisms, got --engine {engine}: drop it")
    if kind == PolicySpec.kind:
        raise SearchError("--engine nash grows networks, but a policy search trains a given one: choose another engine")
    if kind not in (DirectSpec.kind, NashSpec.kind):
        raise SearchError("--engine nash trains every network that it grows: add --real")
    for name in ("fix", "architecture"):
        if given.pop(name, None):
            raise SearchError(
                f"NASH takes network and recipe from its start, got --{name}: give both in a file with --start"
            )
    if "total_time" in given:
        raise SearchError(
            f"NASH trains so many networks of --train-time, got --total-time {given['total_time']}: see how long it takes with --dry-run"
        )
    return NashSpec.kind


def _workers(workers: int | None, per_device: int | None, device: str) -> int:
    """Return how many trainings share the machine: by default one for each GPU that is named, or one. Raises `SearchError`."""
    if per_device is None:
        named = find_device(device)[1] if device == "cuda" else device.split(",")
        return max(1, len(named)) if workers is None else workers
    if workers is not None:
        raise SearchError(
            f"workers are counted in all or for each GPU, got --workers {workers} and --workers-per-device {per_device}: drop one"
        )
    check_positive("workers_per_device", per_device)
    gpus = find_device(device)[1]
    if not gpus:
        raise SearchError(f"--workers-per-device shares GPUs, got the device {device} without one: use --workers")
    return per_device * len(gpus)


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
    if isinstance(time, str):
        return parse_duration(time)
    if not is_finite(time):
        raise BudgetError(f"a time is a finite number of seconds, got {time!r}: lower it")
    return float(time)


def _data(given: Any, short: Mapping[str, Any], seed: int, train_fn: str | None) -> DataSpec | None:
    counts = {name: short[name] for name in ("train_images", "val_images", "image_size", "fit") if name in short}
    if given is None and train_fn is not None and not counts and "data_seed" not in short:
        return None
    table = (
        {"source": given} if isinstance(given, str | Path) else asdict(given) if isinstance(given, DataSpec) else given
    )
    table = {"source": "digits"} if table is None else dict(table)
    names = {f.name for f in fields(DataSpec)}
    for name in table:
        if name not in names:
            raise RunError(f"data has no setting {name!r}: {suggest(name, sorted(names))}")
    own = short.get("data_seed", table.get("seed"))
    if own is not None and (not isinstance(own, int) or isinstance(own, bool) or own < 0):
        raise RunError(f"the seed of the data's split is a whole number of 0 or more, got {own!r}: change it")
    own = seed if own is None else own
    return DataSpec(**{**table, **counts, "source": str(table.get("source", "digits")), "seed": own})


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
    return space.fix(with_policy_text(short.get("fix", {}), Path())).to_toml()


def _within(
    total_time: str | float, given: Mapping[str, Any], has_train_time: bool, searches: type[SearchSpec]
) -> dict[str, Any]:
    """Return the batch, and the clock where no training time is given, of a search that takes this time in all.

    searches: the kind of search. Raises `BudgetError` where the time does not hold one training a round.
    """
    if "batch" in given:
        raise SearchError(f"--total-time sets the batch, got --batch {given['batch']} beside it: drop one")
    if given.get("repeats", 1) > 1:
        raise SearchError(
            f"--total-time counts one training for each candidate, got --repeats {given['repeats']}: drop one"
        )
    if "train_seconds" not in given["clock"]:
        raise BudgetError("--total-time needs a training time, got --train-steps: give --train-time or --batch")
    rounds, workers = given.get("rounds", SearchSpec.rounds), 1 if given.get("alone") else given.get("workers", 1)
    check_positive("rounds", rounds)
    check_positive("workers", workers)
    total, clock = _seconds(total_time), dict(given["clock"])
    if not has_train_time:
        shared = total * workers / PLANNED_TRAININGS
        clock["train_seconds"] = float(min(LONGEST_PLANNED_SECONDS, max(1, math.floor(shared))))
    waves = int(total / clock["train_seconds"])
    confirm = 0 if given.get("engine") == CONTROLLER else given.get("confirm")

    def waves_of(batch: int) -> int:
        last = searches.last_trainings(rounds, batch, confirm, given.get("final"), given.get("train_fn"))
        each, rest = divmod(rounds * batch - sum(last), rounds)
        trained_together = [each + 1] * rest + [each] * (rounds - rest) + list(last)
        return sum(math.ceil(n / workers) for n in trained_together)

    most = waves * workers // rounds
    batch = next((b for b in range(most, 0, -1) if waves_of(b) <= waves), None)
    if batch is None:
        least = format_duration(waves_of(1) * clock["train_seconds"])
        raise BudgetError(
            f"--total-time must hold one training a round, got {total_time} for {rounds} rounds: give {least} or more"
        )
    return {"batch": batch, "clock": clock}
