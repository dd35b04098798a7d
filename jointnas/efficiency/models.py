"""Models with their metrics and the repeats of these: from a table, or from a run."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from jointnas.campaign.candidate_file import candidate_costs
from jointnas.campaign.folders import find_run
from jointnas.campaign.spec import BaselinesSpec, Spec
from jointnas.campaign.store import Context, Run
from jointnas.campaign.trial import FINAL, Trial
from jointnas.campaign.winner_file import WinnerFile
from jointnas.errors import EfficiencyError, suggest
from jointnas.search.reference import Reference
from jointnas.space.knob_space import Candidate
from jointnas.training.observation import ACCURACY, Observation

MODEL = "model"
DEVIATION = "_std"
FEWEST = 3  # models that are ranked
ROWS_OF_A_SOURCE = 10**9  # at most: rows of two sources are so far apart
TRAIN_SECONDS, TRAIN_SPEED = BY_NAME = ("train_seconds", "train_images_per_second")
"""Of trainings of a run; where there is one, they are compared only if they are named."""

COSTS_OF_RUNS = ("macs", "size")  # by which a search compares with a run
GAIN_ENDINGS = ("accuracy", "macro_f1", "images_per_second")
"""What the names of metrics end with that are gains where nobody says otherwise; all others are costs."""


class Images(NamedTuple):
    """Images that a model classifies: their shape (C, H, W), and the number of classes."""

    shape: tuple[int, ...]
    classes: int


@dataclass(frozen=True)
class Metric:
    """One metric of one model: its repeats, with the rows that they are from, or a mean and the deviation of single measurements.

    rows: by default 0, 1, 2, …
    """

    values: tuple[float, ...]
    deviation: float | None = None
    rows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.rows:
            object.__setattr__(self, "rows", tuple(range(len(self.values))))

    @property
    def is_single(self) -> bool:
        """Whether it is one measurement without a deviation."""
        return self.deviation is None and len(self.values) == 1

    @property
    def mean(self) -> float:
        """The mean of the repeats."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float:
        """The deviation that is given, or that of the repeats; 0 of one repeat."""
        if self.deviation is not None:
            return self.deviation
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


@dataclass(frozen=True)
class Model:
    """A model and its metrics by name.

    candidate: its single network and recipe, where they are known. images: what it classifies.
    """

    name: str
    metrics: Mapping[str, Metric]
    candidate: Candidate | None = None
    images: Images | None = None


def read_table(path: Path, note: Callable[[str], object] = lambda text: None) -> list[Model]:
    """Return the models in a CSV. Raises `EfficiencyError`.

    A column `model`, and one for each metric; several rows of a model are repeats, whose metrics were measured together; an empty cell is
    no repeat. A column `latency_std` beside `latency` is its deviation, of a mean in one row. note: is called with a sentence on columns of
    text, which are skipped.
    """
    name = str(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EfficiencyError(f"the table {name!r} cannot be read ({error}): save it as a CSV in UTF-8") from error
    columns = [column for column in (rows[0] if rows else {}) if column]
    if MODEL not in columns or len(columns) < 2:
        raise EfficiencyError(
            f"a table of models has the column {MODEL} and one for each metric, got {', '.join(columns) or 'no rows'} in {name!r}: add them"
        )
    found: dict[str, dict[str, dict[int, float]]] = {}
    numeric = [c for c in columns if c != MODEL and not all(_is_text(row.get(c)) for row in rows)]
    skipped = [c for c in columns if c != MODEL and c not in numeric]
    if skipped:
        note(f"columns of text in {name!r} are skipped: {', '.join(skipped)}")
    for number, row in enumerate(rows, 2):
        model = str(row[MODEL] or "").strip()
        if not model or any(cell.strip() for cell in row.get(None, ())):
            wrong = "no name of a model" if not model else "more cells than columns"
            raise EfficiencyError(
                f"a row has a model and a cell for each column, got {wrong} in line {number} of {name!r}: correct it"
            )
        own = found.setdefault(model, {})
        for column in numeric:
            text = str(row.get(column) or "").strip()
            if not text:
                continue
            try:
                own.setdefault(column, {})[number] = float(text)
            except ValueError as error:
                raise EfficiencyError(
                    f"a metric is a number, got {text!r} for {column} in line {number} of {name!r}: correct it"
                ) from error
    return [Model(model, _metrics(model, values)) for model, values in found.items()]


def _is_text(cell: str | None) -> bool:
    """Whether a cell is neither a number nor empty: a column of texts is no metric."""
    try:
        float(cell or "0")
    except ValueError:
        return True
    return False


def _metrics(model: str, values: Mapping[str, Mapping[int, float]]) -> dict[str, Metric]:
    metrics = {}
    for column, own in values.items():
        if column.endswith(DEVIATION) and column.removesuffix(DEVIATION) in values:
            continue
        deviations = list(values.get(column + DEVIATION, {}).values())
        if len(deviations) > 1 or (deviations and len(own) > 1):
            raise EfficiencyError(
                f"{column}{DEVIATION} is of one mean, got {len(own)} rows of {model!r}: give either repeats or a deviation"
            )
        if deviations and not 0 <= deviations[0] < inf:
            raise EfficiencyError(
                f"a deviation is 0 or more, got {column}{DEVIATION} = {deviations[0]:g} of {model!r}: correct it"
            )
        metrics[column] = Metric(tuple(own.values()), deviations[0] if deviations else None, tuple(own))
    return metrics


def joined(models: Sequence[Model]) -> list[Model]:
    """Return the models, those of one name as one with the metrics of all. Raises `EfficiencyError` for a metric that two of them have.

    Exact costs may be given twice. Rows of repeats are of their own source, so those of two sources are never taken as measured together.
    """
    found: dict[str, Model] = {}
    for number, model in enumerate(models):
        metrics = {
            name: replace(m, rows=tuple(r + number * ROWS_OF_A_SOURCE for r in m.rows))
            for name, m in model.metrics.items()
        }
        if model.name in found:
            other = found[model.name]
            double = next(
                (n for n, m in metrics.items() if n in other.metrics and m.values != other.metrics[n].values), None
            )
            if double is not None:
                raise EfficiencyError(
                    f"a model has each metric once, for one recipe and images of one shape, got {double} of {model.name!r} twice: rename a "
                    "model, or take both from the same recipe and images"
                )
            metrics = {**metrics, **other.metrics}
        other = found.get(model.name, model)
        found[model.name] = Model(model.name, metrics, model.candidate or other.candidate, model.images or other.images)
    return list(found.values())


def read_run(path: Path, name: str | None = None) -> list[Model]:
    """Return the trained candidates of a run, each with its exact costs and with the accuracies, seconds and speeds of its trainings, which
    were measured together. Those that got no image right are left out. Raises `RunError`.

    name: what the models are called before the numbers of their first trials, by default the name of the run's folder.
    """
    with Run.open(path) as run:
        trials, context, spec = run.trials(), run.context, run.spec
    return models_of(trials, context, spec, path.name if name is None else name)


def models_of(trials: Sequence[Trial], context: Context, spec: Spec, name: str) -> list[Model]:
    """Return the trained candidates among a run's trials, as `read_run`."""
    members = getattr(spec, "members", 1)
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        seen = trial.observation
        if seen is not None and seen.accuracy is not None and trial.kind != FINAL and seen.fraction == 1:
            found.setdefault(trial.identity, []).append(trial)
    models = []
    for identity, own_trials in found.items():
        trial = own_trials[0]
        metrics = _training_metrics([t.observation for t in own_trials if t.observation])
        if metrics[ACCURACY].mean == 0:
            continue
        images = None if context.input_shape is None else Images(context.input_shape, len(context.classes or ()))
        has_network = images is not None and "network" in trial.candidate["architecture"]
        if images is not None and has_network:
            costs = candidate_costs(trial.candidate, *images, members)
            metrics |= {metric: Metric((float(value),)) for metric, value in costs.items()}
        own = identity if isinstance(spec, BaselinesSpec) else f"{name} {trial.number}"
        models.append(Model(own, metrics, trial.candidate if has_network and members == 1 else None, images))
    return models


def _training_metrics(observations: Sequence[Observation]) -> dict[str, Metric]:
    """Return what all trainings of a candidate recorded, by the names of the metrics."""
    recorded = {
        ACCURACY: [o.accuracy for o in observations],
        TRAIN_SECONDS: [o.seconds for o in observations],
        TRAIN_SPEED: [o.images_per_second for o in observations],
    }
    return {
        name: Metric(tuple(v for v in values if v is not None), rows=tuple(range(len(values))))
        for name, values in recorded.items()
        if None not in values
    }


def read_winner(folder: Path) -> Model:
    """Return the trained network in a winner's folder: its accuracies by seed, and its costs. Raises `ExportError`."""
    winner = WinnerFile.read(folder)
    metrics = {name: Metric((float(value),)) for name, value in winner.costs.items()}
    results = winner.results
    accuracies = results.get("val_accuracies") or results.get("val_accuracy") or results.get(ACCURACY)
    for name, given in ((ACCURACY, accuracies), ("test_accuracy", results.get("test_accuracy"))):
        own = _numbers(given)
        if own:
            metrics[name] = Metric(own, rows=tuple(range(len(own))))
    images = Images(winner.members[0].blueprint.input_shape, len(winner.classes))
    return Model(str(folder), metrics, winner.candidate if len(winner.members) == 1 else None, images)


def _numbers(given: Any) -> tuple[float, ...]:
    """Return the numbers in a number, a list or the "seeds" of a table; none of anything else."""
    given = given.get("seeds") if isinstance(given, dict) else given
    values = given if isinstance(given, list) else [given]
    return tuple(float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool))


def common_metrics(models: Sequence[Model]) -> list[str]:
    """Return the metrics that all models have, in the order of the first. Raises `EfficiencyError` for too few models or metrics."""
    if len(models) < FEWEST:
        raise EfficiencyError(f"efficiency is relative to other models, got {len(models)}: give {FEWEST} or more")
    names = [name for name in models[0].metrics if all(name in model.metrics for model in models)]
    if not names:
        raise EfficiencyError("the models have no metric in common: complete their rows")
    return names


def chosen_metrics(
    models: Sequence[Model], costs: Sequence[str], gains: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the costs and the gains to compare models by: those that are named, else all that they have in common.

    Raises `EfficiencyError` for a metric that is on both sides, and without a cost or a gain.
    """
    names = common_metrics(models)
    both = set(costs) & set(gains)
    if both:
        raise EfficiencyError(f"a metric is a cost or a gain, got {sorted(both)[0]} as both: drop one")
    of_runs = any(model.images is not None for model in models)
    free = [name for name in names if name not in (*costs, *gains, *(BY_NAME if of_runs else ()))]
    taken_gains = tuple(gains) or tuple(name for name in free if name.endswith(GAIN_ENDINGS))
    taken_costs = tuple(costs) or tuple(name for name in free if not name.endswith(GAIN_ENDINGS))
    if not (taken_costs and taken_gains):
        rest = sorted({name for model in models for name in model.metrics} - set(names))
        some = f" ({', '.join(rest)} of some models only)" if rest else ""
        raise EfficiencyError(
            f"efficiency needs a cost and a gain, got the metrics {', '.join(names)}{some}: name them with --cost and --gain"
        )
    return taken_costs, taken_gains


def with_metrics(models: Sequence[Model], names: Sequence[str]) -> tuple[list[Model], list[str]]:
    """Return the models that have all these metrics, and the names of the others.

    Raises `EfficiencyError` for a metric that no model has, and where too few models have all.
    """
    every = sorted({name for model in models for name in model.metrics})
    for name in names:
        if name not in every:
            raise EfficiencyError(f"no model has the metric {name!r}: {suggest(name, every)}")
    kept = [model for model in models if all(name in model.metrics for name in names)]
    if len(kept) < min(FEWEST, len(models)):
        few = ", ".join(model.name for model in kept) or "none"
        raise EfficiencyError(
            f"efficiency is relative to other models, got {few} with {', '.join(names)}: give {FEWEST} or more models that have all of these"
        )
    return kept, [model.name for model in models if model not in kept]


def check_values(models: Sequence[Model], names: Sequence[str]) -> None:
    """Raise `EfficiencyError` for a metric of which no efficiency exists: one that is not finite, or not above 0."""
    for model in models:
        for name in names:
            value = model.metrics[name].mean
            if not 0 < value < inf:
                raise EfficiencyError(
                    f"metrics are finite and above 0, got {value:g} for {name} of {model.name!r}: leave the model or the metric out"
                )


def reference_named(name: str | Path) -> Reference:
    """Return the models that `search --relative-to` names: a table's by all its costs, or a run's trained candidates by `COSTS_OF_RUNS`.

    Raises `EfficiencyError` or `RunError`.
    """
    if Path(name).suffix.lower() == ".csv":
        models = read_table(Path(name))
        names = common_metrics(models)
        costs = tuple(column for column in names if not column.endswith(GAIN_ENDINGS))
        if not costs or [column for column in names if column.endswith(GAIN_ENDINGS)] != [ACCURACY]:
            raise EfficiencyError(
                f"--relative-to needs a table whose rows all have {ACCURACY} and a cost, and no other gain, got {', '.join(names)} in "
                f"{str(name)!r}: complete its rows, or rename and drop columns"
            )
    else:
        costs = COSTS_OF_RUNS
        models = [m for m in read_run(find_run(str(name))) if set(costs) <= m.metrics.keys()]
        if not models:
            raise EfficiencyError(
                f"--relative-to needs a run with trained networks, got none in {str(name)!r}: name another run or a table"
            )
    compared = (ACCURACY, *costs)
    return Reference(costs, tuple(tuple(model.metrics[n].mean for n in compared) for model in models))
