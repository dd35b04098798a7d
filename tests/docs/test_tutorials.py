"""The tutorials run as they stand, with shorter budgets, on a folder of small photos; the README and the site keep their form."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import jointnas

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHORTER = (
    (r"--train-time \S+", "--train-steps 6"),
    (r"--train-steps 40", "--train-steps 6"),
    (r"--rounds \d+ --batch \d+", "--rounds 1 --batch 2"),
    (r"--seeds 3", "--seeds 1"),
    (r"--workers 2", "--workers 1"),
    (r"--image-size 64", "--image-size 16"),
)
"""What makes a command of a tutorial short enough for a test."""

FUNCTION = """
def train(candidate, seed, clock):
    return 0.5 + 0.05 * candidate["recipe"]["layers"]
"""
SETTINGS = "format = 1\n[recipe]\nlayers = { low = 1, high = 8 }\n"


def photos(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for c, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for i in range(80):
            pixels = rng.integers(80 * c, 120 + 80 * c, (66 + i % 7, 70 + i % 11, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.jpg")


def shortened(line: str) -> str:
    for pattern, replacement in SHORTER:
        line = re.sub(pattern, replacement, line)
    searches = "search --data" in line and "--rounds" not in line
    return f"{line} --rounds 1 --batch 2" if searches else line


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("jointnas.measurement.forecast.CALIBRATION", 4)
    monkeypatch.setattr("jointnas.measurement.forecast.BLOCKS", 2)
    photos(tmp_path / "photos")
    photos(tmp_path / "later-photos")
    (tmp_path / "mytask.py").write_text(FUNCTION)
    (tmp_path / "settings.toml").write_text(SETTINGS)
    ran = 0
    for kind, block in BLOCK.findall(path.read_text(encoding="utf-8")):
        if kind == "python":
            if "import optuna" in block:
                pytest.importorskip("optuna", reason="Optuna is not installed")
            exec(compile(block, path.name, "exec"), {"__name__": "tutorial"})
            ran += 1
            continue
        for line in block.splitlines():
            assert line.startswith("$ jointnas "), line
            command, _, target = shortened(line.removeprefix("$ jointnas ")).partition(" > ")
            done = jointnas(*shlex.split(command))
            assert done.code == 0, f"{line}: {done.err}"
            if target:
                Path(target).write_text(done.out, encoding="utf-8")
            ran += 1
    assert ran >= 2


def test_the_readme_is_short_and_its_tables_have_short_cells() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert not any("@@" in line for line in lines)
    cells = [cell.strip() for line in lines if line.startswith("|") for cell in line.strip("|").split("|")]
    assert max(map(len, cells)) <= 60


def test_links_of_the_readme_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "predictors/README.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if not target.startswith("http"):
                assert (ROOT / name).parent.joinpath(target).exists(), f"{target} in {name}"


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="MkDocs is not installed")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "run_search" in (tmp_path / "site" / "reference" / "index.html").read_text(encoding="utf-8")
    shutil.rmtree(tmp_path / "site")


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    notebook = nbformat.read(ROOT / "docs" / "tutorials" / "notebook.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = str([cell.get("outputs") for cell in notebook.cells])
    assert "expected accuracy" in shown
