"""What the specifications of all kinds of runs have."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import tomli_w

from jointnas.campaign.candidate_file import without_none
from jointnas.data.spec import DataSpec
from jointnas.errors import SearchError
from jointnas.execution import RAY, Slot, find_executor, remote_slots, share_slots
from jointnas.training.clock import clock_from_json
from jointnas.training.observation import ACCURACY

LARGEST_SEED = 99_999  # trials get seeds of 10,000 × seed + number, which stay below those of `retrain`


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

    def check_plugins(self) -> None:
        """Raise a `JointNASError` where what the run works with is not installed. A run can be read without it."""
        find_executor(self.executor)

    @property
    def at_a_time(self) -> int:
        """How many trainings run side by side."""
        return 1 if self.alone else self.workers

    @property
    def score(self) -> str:
        """Which score of its trainings the run maximises."""
        return ACCURACY

    @property
    def waves(self) -> float:
        """How many budgets pass one after another, as many trainings as there are workers at a time."""
        return 0.0

    @property
    def planned_seconds(self) -> float | None:
        """The time of all trainings, those side by side counted once; None where steps are counted."""
        return self.waves * self.clock["train_seconds"] if "train_seconds" in self.clock else None

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
        values.pop("latency_command", None)  # a file that is passed on runs no command
        clock = values.pop("clock")
        budget = {"train_time": clock["train_seconds"]} if "train_seconds" in clock else clock
        if values.get("space") is not None:
            values["space"] = tomllib.loads(values["space"])
        return tomli_w.dumps({**budget, **without_none(values)}, multiline_strings=True)

    def differences(self, other: Spec) -> list[str]:
        """Return the names of the fields in which two specs differ and that may not change between a run and its resumption."""
        if self.kind != other.kind:
            return ["kind"]
        mine, theirs = ({**spec.to_json(), "data": _read_as(spec.data)} for spec in (self, other))
        return [name for name in mine if name not in self.changeable and mine[name] != theirs[name]]


def _read_as(data: DataSpec | None) -> dict[str, Any] | None:
    """Return what decides the images: how they are fitted only where they are brought to a size."""
    if data is None:
        return None
    values = data.to_json()
    return values if data.image_size else {name: value for name, value in values.items() if name != "fit"}


def check_positive(name: str, value: int) -> None:
    """Raise `SearchError` unless an option's value is 1 or more."""
    if value < 1:
        raise SearchError(f"--{name.replace('_', '-')} must be 1 or more, got {value}: raise it")
