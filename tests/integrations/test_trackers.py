"""Trackers: the real packages hold every trial's accuracy, the winners' costs and the settings."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import pytest

from jointnas.campaign.events import Event, TrialEnded
from jointnas.campaign.result import Campaign
from jointnas.errors import RunError
from jointnas.integrations.trackers import MLflow, TensorBoard, Tracker, WandB, find_tracker


def log(tracker: Tracker, events: list[Event]) -> list[float]:
    """Send a campaign's events to a tracker, and return the accuracies in their order."""
    for event in events:
        tracker(event)
    tracker.close()
    return [event.trial.accuracy or 0.0 for event in events if isinstance(event, TrialEnded)]


def test_tensorboard_holds_the_accuracies(events: list[Event], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accuracies = log(TensorBoard(tmp_path), events)
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [round(e.value, 5) for e in read.Scalars("trial/accuracy")] == [round(a, 5) for a in accuracies]
    assert [e.step for e in read.Scalars("winners/macs")] == [1, 2]
    best = [e.value for e in read.Scalars("trial/best")]
    assert best == sorted(best)


def test_mlflow_holds_the_accuracies(events: list[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    accuracies = log(MLflow(uri), events)
    (found,) = mlflow.MlflowClient(uri).search_runs([mlflow.get_experiment_by_name("jointnas").experiment_id])
    history = mlflow.MlflowClient(uri).get_metric_history(found.info.run_id, "trial/accuracy")
    assert [m.value for m in sorted(history, key=lambda m: m.step)] == pytest.approx(accuracies)
    assert found.data.params["kind"] == "search"
    assert found.info.status == "FINISHED"


def test_wandb_writes_offline(events: list[Event], tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="Weights & Biases is not installed")
    log(WandB(folder=tmp_path), events)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert any(file.suffix == ".wandb" and file.stat().st_size > 0 for file in folder.iterdir())


def test_a_failed_trial_is_logged_as_one() -> None:
    class Memory(Tracker):
        def __init__(self) -> None:
            super().__init__()
            self.logged: list[tuple[str, float, int]] = []

        def start(self, name, settings):
            json.dumps(settings)

        def log(self, numbers, step):
            self.logged += [(name, value, step) for name, value in numbers.items()]

        def end(self):
            """Nothing is open."""

    from jointnas.campaign.trial import Trial
    from jointnas.training.observation import Observation

    memory = Memory()
    memory(
        TrialEnded(Trial(7, 1, {"architecture": {}, "recipe": {}}, 0, "", observation=Observation.failed("no memory")))
    )
    assert memory.logged == [("trial/failed", 1.0, 7)]
    on_all_images = Observation(None, steps=40)
    memory(TrialEnded(Trial(8, 1, {"architecture": {}, "recipe": {}}, 0, "", "final", observation=on_all_images)))
    assert len(memory.logged) == 1


def test_a_tracker_that_fails_does_not_end_a_campaign(events: list[Event]) -> None:
    class Away(TensorBoard):
        def log(self, numbers, step):
            raise ConnectionError("the server is away")

    tracker = Away("unused")
    tracker.start = lambda name, settings: None  # type: ignore[method-assign]
    first = next(i for i, event in enumerate(events) if isinstance(event, TrialEnded))
    for event in events[:first]:
        tracker(event)
    with pytest.warns(UserWarning, match="Away failed and logs nothing more: the server is away"):
        tracker(events[first])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for event in events[first:]:
            tracker(event)


def test_a_tracker_that_cannot_end_its_run_warns() -> None:
    class Gone(TensorBoard):
        def end(self):
            raise ConnectionError("the server is away")

    with pytest.warns(UserWarning, match="Gone failed and logs nothing more: the server is away"):
        Gone("unused").close()


def test_a_missing_package_is_named_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(RunError, match="the tracker needs mlflow, which is not installed: pip install mlflow"):
        find_tracker("mlflow")


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(RunError, match=r"no tracker is called 'tensorbord': did you mean 'tensorboard'\?"):
        find_tracker("tensorbord")


def test_a_campaign_shows_its_winners_in_a_notebook(run: Path) -> None:
    html = Campaign(run)._repr_html_()
    assert html.count("<tr>") == 3
    assert "expected accuracy" in html
