"""Crashes: a search that is killed or interrupted leaves a run that resumes where it stood."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from jointnas.campaign.store import Run
from jointnas.errors import JointNASError
from tests.cli.commands import SEARCH_KEYS, SMALL, WINNER_KEYS
from tests.helpers import answer


def ended_trials(folder):
    """Return the ended trials of a run that may not be there yet."""
    try:
        with Run.open(folder) as run:
            return [t for t in run.trials() if t.observation is not None]
    except (JointNASError, sqlite3.Error):
        return []


def heed_interruptions():
    """Undo that Ctrl-C is ignored, as a job that a shell starts in the background inherits it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stopped(tmp_path, number, ended, *arguments):
    """Start a search, send its processes a signal when so many trials have ended; return its command, exit code and stderr."""
    out = tmp_path / "run"
    command = [
        str(Path(sys.executable).with_name("jointnas")),
        "search",
        *arguments,
        "--out",
        str(out),
        "--json",
        *SMALL,
    ]
    said = tmp_path / "said"
    with said.open("w") as file:
        first = subprocess.Popen(
            command,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=file,
            preexec_fn=heed_interruptions,
        )
    end = time.monotonic() + 120
    while len(ended_trials(out)) < ended:
        assert first.poll() is None, said.read_text()
        assert time.monotonic() < end
        time.sleep(0.02)
    if number == signal.SIGKILL:
        os.kill(first.pid, number)
    else:
        os.killpg(first.pid, number)  # as a terminal does
    return command, first.wait(60), said.read_text()


def test_a_search_that_was_killed_goes_on_where_it_stood(tmp_path, full_search):
    budget = ("--train-steps", "20", "--rounds", "2", "--batch", "3", "--confirm", "0")
    command, code, _ = stopped(tmp_path, signal.SIGKILL, 4, "--constraint", "macs<1M", *budget)
    assert code == -signal.SIGKILL
    out = tmp_path / "run"
    before = ended_trials(out)
    assert len(before) >= 4
    found = answer(*command[1:], "--resume")
    assert set(found) == SEARCH_KEYS
    assert (found["trials"], found["failed"]) == (6, 0)
    assert all(set(winner) >= WINNER_KEYS for winner in found["winners"])
    after = ended_trials(out)
    assert after[: len(before)] == before
    assert [t.number for t in after] == [1, 2, 3, 4, 5, 6]
    assert len({json.dumps(t.candidate, sort_keys=True) for t in after}) == 6


def test_ctrl_c_in_an_engine_over_real_trainings_leaves_a_run_that_resumes(tmp_path, full_search):
    budget = ("--train-steps", "20", "--rounds", "3", "--batch", "2", "--constraint", "macs<1M")
    command, code, said = stopped(tmp_path, signal.SIGINT, 3, "--real", "--engine", "mads", *budget)
    assert code == 130
    assert "--resume" in said.splitlines()[-1]
    assert "Traceback" not in said
    before = ended_trials(tmp_path / "run")
    assert len(before) >= 3
    assert answer(*command[1:], "--resume")["trials"] == 6
    after = {t.number: t for t in ended_trials(tmp_path / "run")}
    assert [after[t.number] for t in before] == before
