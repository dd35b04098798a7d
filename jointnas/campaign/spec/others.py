"""The specifications of runs that are no search: a climb by morphisms, baselines, a predictor that was adopted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Any, ClassVar

from jointnas.campaign.spec.base import Spec, check_positive
from jointnas.errors import SearchError
from jointnas.space.knob_space import Candidate
from jointnas.training.members import SEEDS


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

    @property
    def waves(self) -> float:
        """How many budgets pass one after another, as many trainings as there are workers at a time."""
        return self.pretraining + self.rounds * ceil(self.batch / self.at_a_time) + self.final_training

    def budgets_of(self, step: int, final: bool) -> float:
        """Return how many budgets a training has: the first network's, one of a step, or the last one."""
        return self.final_training if final else 1.0 if step else self.pretraining

    def clock_of(self, budgets: float) -> dict[str, float]:
        """Return the clock of so many budgets."""
        if "train_steps" in self.clock:
            return {"train_steps": max(1, round(budgets * self.clock["train_steps"]))}
        return {"train_seconds": budgets * self.clock["train_seconds"]}


@dataclass(frozen=True, kw_only=True)
class BaselinesSpec(Spec):
    """Trainings of baselines, each `repeats` times on images of another seed.

    recipe: what baselines are trained by (default: the plain recipe of `jointnas.campaign.baselines`). also: candidates with recipes of their
    own that are trained beside them, by name. Raises `SearchError` for the name of one of the baselines.
    """

    kind = "baselines"
    changeable = ("repeats", "executor", "mix_machines")

    baselines: tuple[str, ...]
    recipe: dict[str, Any] | None = None
    also: Mapping[str, Candidate] = field(default_factory=dict)
    repeats: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("repeats", self.repeats)
        double = next((name for name in self.also if name in self.baselines), None)
        if double is not None:
            raise SearchError(f"--also needs another name than that of a baseline, got {double!r}: rename its file")


@dataclass(frozen=True, kw_only=True)
class AdoptedSpec(Spec):
    """A run without trainings, made from a stand-alone predictor so that its winners can be exported and trained.

    predictor: its name or folder. objective, members, ensemble: those of the searches that it was fitted to.
    """

    kind = "adopted"

    space: str
    constraints: tuple[str, ...] = ()
    predictor: str
    objective: str = "max accuracy"
    members: int = 1
    ensemble: str = SEEDS
