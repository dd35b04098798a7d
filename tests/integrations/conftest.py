"""One small run that the tests of all integrations log, convert or show."""

from __future__ import annotations

from pathlib import Path

import pytest

from jointnas.api import run_search
from jointnas.campaign.events import Event


@pytest.fixture(scope="session")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    """The events of a search of four trainings."""
    found: list[Event] = []
    settings = {
        "train_steps": 20,
        "rounds": 2,
        "batch": 2,
        "confirm": 0,
        "portfolio": 1,
        "top": 2,
        "fix": {"batch_size": 32},
    }
    run_search("digits", ["macs<1M"], out=tmp_path_factory.mktemp("run") / "run", callbacks=[found.append], **settings)
    return found


@pytest.fixture(scope="session")
def run(events: list[Event]) -> Path:
    """The run's folder."""
    return next(event.path for event in events if hasattr(event, "path"))
