"""Callbacks that log a campaign to TensorBoard, MLflow or Weights & Biases: pass them as `run_search(callbacks=[…])`, or `--log`."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jointnas.campaign.candidate_file import candidate_costs
from jointnas.campaign.events import Event, RoundEnded, RunOpened, TrialEnded, WinnersFound
from jointnas.campaign.spec import Spec
from jointnas.campaign.store import Context
from jointnas.campaign.trial import Trial
from jointnas.errors import RunError, suggest


class Tracker(ABC):
    """Turns the events of a campaign into numbers and settings of a tracker's run. A trial's number is its step."""

    def __init__(self) -> None:
        self._context: Context | None = None
        self._best: float | None = None
        self._members, self._failed = 1, False

    def __call__(self, event: Event) -> None:
        """Log what an event brings; where the tracker fails, warn once and log nothing more: the campaign goes on."""
        if not self._failed:
            self._attempt(lambda: self._log_event(event))

    def close(self) -> None:
        """End the tracker's run; where that fails, warn."""
        self._attempt(self.end)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except RunError:  # its package is missing
            raise
        except Exception as error:  # whatever a tracker raises, as when its server is away
            self._failed = True
            warnings.warn(f"{type(self).__name__} failed and logs nothing more: {error}", stacklevel=3)

    def _log_event(self, event: Event) -> None:
        match event:
            case RunOpened():
                self._context, self._members = event.context, getattr(event.spec, "members", 1)
                ended = [t.accuracy for t in event.trials if t.accuracy is not None]
                self._best = max(ended, default=None)
                self.start(str(event.path), _settings(event.spec))
            case TrialEnded(trial):
                self.log(self._numbers(trial), trial.number)
            case RoundEnded(number, rank_correlation):
                if rank_correlation is not None:
                    self.log({"predictor/rank_correlation": rank_correlation}, number)
            case WinnersFound(winners):
                for rank, winner in enumerate(winners, 1):
                    self.log({f"winners/{name}": value for name, value in winner.costs.items()}, rank)
                    self.log({"winners/expected_accuracy": winner.mean}, rank)
            case _:
                pass

    def _numbers(self, trial: Trial) -> dict[str, float]:
        """Return the numbers of an ended trial; of one that failed, or that trained on all images, no accuracy."""
        observation = trial.observation
        if observation is None or trial.accuracy is None:
            return {"trial/failed": 1.0} if observation and observation.failure else {}
        self._best = trial.accuracy if self._best is None else max(self._best, trial.accuracy)
        numbers = {"trial/score": trial.accuracy, "trial/best": self._best, "trial/predicted": trial.predicted}
        for name in (
            "accuracy",
            "balanced_accuracy",
            "macro_f1",
            "log_loss",
            "smoothed_accuracy",
            "steps",
            "seconds",
            "images_per_second",
        ):
            numbers[f"trial/{name}"] = getattr(observation, name)
        if self._context and self._context.input_shape and "network" in trial.candidate["architecture"]:
            costs = candidate_costs(
                trial.candidate, self._context.input_shape, len(self._context.classes or ()), self._members
            )
            numbers |= {f"trial/{name}": value for name, value in costs.items()}
        return {name: float(value) for name, value in numbers.items() if value is not None}

    @abstractmethod
    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        """Begin the tracker's run of this name, with the campaign's settings."""

    @abstractmethod
    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log numbers by name."""

    @abstractmethod
    def end(self) -> None:
        """End the tracker's run, where there is one."""


class TensorBoard(Tracker):
    """Writes event files, by default into `RUN/tensorboard`: `tensorboard --logdir RUN/tensorboard`."""

    def __init__(self, folder: str | Path | None = None) -> None:
        super().__init__()
        self._folder = folder
        self._writer: Any = None

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        """Open the event file."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        self._writer = SummaryWriter(str(self._folder or Path(name) / "tensorboard"))
        self._writer.add_text("settings", "\n".join(f"- {key}: {value}" for key, value in settings.items()))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def end(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


class MLflow(Tracker):
    """Logs to MLflow's tracking store, as MLflow itself is set up (`MLFLOW_TRACKING_URI`), or to this one."""

    def __init__(self, uri: str | None = None, experiment: str = "jointnas") -> None:
        super().__init__()
        self._uri, self._experiment = uri, experiment
        self._mlflow: Any = None

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        """Begin a run in the experiment."""
        try:
            import mlflow
        except ImportError as error:
            raise _missing("mlflow") from error
        self._mlflow = mlflow
        if self._uri is not None:
            mlflow.set_tracking_uri(self._uri)
        mlflow.set_experiment(self._experiment)
        mlflow.start_run(run_name=name)
        mlflow.log_params({key: str(value)[:500] for key, value in settings.items()})

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log metrics."""
        self._mlflow.log_metrics(dict(numbers), step=step)

    def end(self) -> None:
        """End the run."""
        if self._mlflow is not None:
            self._mlflow.end_run()


class WandB(Tracker):
    """Logs to Weights & Biases: by default offline, into the run's folder; `wandb sync` sends the files later."""

    def __init__(self, project: str = "jointnas", mode: Any = "offline", folder: str | Path | None = None) -> None:
        super().__init__()
        self._project, self._mode, self._folder = project, mode, folder
        self._run: Any = None

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        """Begin a run of the project."""
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb") from error
        folder = str(self._folder or name)
        self._run = wandb.init(project=self._project, name=name, mode=self._mode, dir=folder, config=dict(settings))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log metrics; trials, rounds and winners are counted separately, as `GROUP/number`."""
        group = next(iter(numbers), "").partition("/")[0]
        self._run.log({**numbers, f"{group}/number": step})

    def end(self) -> None:
        """End the run."""
        if self._run is not None:
            self._run.finish()


TRACKERS: Mapping[str, type[Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}
"""By the names of their packages."""


def find_tracker(name: str) -> Tracker:
    """Return a new tracker by its name. Raises `RunError`, also where its package is not installed."""
    if name not in TRACKERS:
        raise RunError(f"no tracker is called {name!r}: {suggest(name, TRACKERS)}")
    if find_spec(name) is None:
        raise _missing(name)
    return TRACKERS[name]()


def _settings(spec: Spec) -> dict[str, Any]:
    """Return a campaign's settings without its space, which the run keeps."""
    return {name: value for name, value in spec.to_json().items() if name not in ("space", "start")}


def _missing(package: str) -> RunError:
    return RunError(f"the tracker needs {package}, which is not installed: pip install {package}")
