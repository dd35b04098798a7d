"""A small cycle of commands, from search to prediction, that the tests of several commands look at."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from tests.cli.commands import RUN, SEARCH
from tests.helpers import answer, save_image


@pytest.fixture(scope="session")
def cycle(tmp_path_factory):
    """What the commands answered, one after another, and the folder they ran in."""
    folder = tmp_path_factory.mktemp("cycle")
    done = SimpleNamespace(folder=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save_image(folder / "seven.png")
        done.search = answer(*SEARCH)
        done.export = answer("export", RUN, "--format", "toml")
        done.show = answer("show", f"{RUN}/export/winner-1.toml")
        done.train = answer("train", f"{RUN}/export/winner-1.toml", "--train-steps", "10", "--to", "trained")
        done.retrain = answer("retrain", RUN, "--seeds", "2", "--top", "1")
        done.predict = answer("predict", f"{RUN}/retrained/winner-1", "seven.png")
        done.list = answer("runs", "list")
        done.runs_show = answer("runs", "show", "digits-resnet9-1")
    return done


@pytest.fixture
def in_cycle(cycle, monkeypatch):
    """The cycle, in its folder; a test that uses it changes nothing there that another reads."""
    monkeypatch.chdir(cycle.folder)
    return cycle


@pytest.fixture
def in_copy(cycle, tmp_path, monkeypatch):
    """The cycle, in a copy of its folder, to change."""
    shutil.copytree(cycle.folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return cycle
