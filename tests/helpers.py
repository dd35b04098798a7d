"""What tests of several rooms share: the command line run in this process, runs and small images."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jointnas.campaign.folders import open_run
from jointnas.campaign.options import make_spec
from jointnas.campaign.store import Context
from jointnas.cli import main
from jointnas.execution.slots import Slot


def jointnas(*args):
    """Run a command in this process; return its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["jointnas", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            main()
    return SimpleNamespace(code=end.value.code or 0, out=out.getvalue(), err=err.getvalue())


def answer(*args):
    """Run a command that succeeds with --json and return its object."""
    ended = jointnas(*args, "--json")
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def mistake(ended):
    """Return the one line that a failed command prints, after checking that it prints no more than data's own note."""
    assert ended.code == 1
    lines = [line for line in ended.err.splitlines() if "has no test images" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("jointnas: ")
    assert ended.out == ""
    return lines[0]


def make_run(path, kind="search", **settings):
    """Return a new run without trials."""
    return open_run(
        path, make_spec(settings, kind), Context("0", (1, 8, 8), ("a", "b"), Slot("cpu", 1, 1)), resume=False
    )


def save_image(path, seed=0, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)).save(path)
