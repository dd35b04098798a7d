"""Network families of installed packages: an entry point makes them known everywhere, in worker processes too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOWER = """
from jointnas.network.blueprint import Blueprint
from jointnas.network.families.parts import classifier, open_block

def tower(input_shape, classes, *, width=4):
    stem = open_block("stem", input_shape, 1.0)
    stem.conv(channels=width, stride=2)
    body = Blueprint.chain(input_shape, [stem.build()])
    return Blueprint.in_a_row([body, classifier(body.output_shape, classes)])
"""
MAKE = "from jointnas.network.families import make_blueprint; print(make_blueprint({!r}, (3, 8, 8), 2).shapes()[1])"
TRAIN = "from jointnas.cli import main; main()"


def installed(folder: Path, code: str, module: str = "towers") -> Path:
    """Return a folder for the module search path, which holds an installed package with the family "tower"."""
    (folder / "towers.py").write_text(code)
    about = folder / "tower_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tower-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[jointnas.families]\ntower = {module}:tower\n")
    return folder


def run(folder: Path, *program: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the folder on its module search path."""
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", *program], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )


def test_a_package_adds_a_network_with_its_knobs(tmp_path: Path) -> None:
    done = run(installed(tmp_path, TOWER), MAKE.format({"network": "tower", "width": 6}))
    assert done.stdout == "(6, 4, 4)\n", done.stderr


def test_a_worker_trains_the_network_of_a_package(tmp_path: Path) -> None:
    installed(tmp_path, TOWER)
    (tmp_path / "tower.toml").write_text('format = 1\n[architecture]\nnetwork = "tower"\n[recipe]\nbatch_size = 32\n')
    done = run(tmp_path, TRAIN, "train", "tower.toml", "--data", "digits", "--train-steps", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert '"accuracy"' in done.stdout


@pytest.mark.parametrize(
    ("code", "module", "reason"),
    [
        ("1 / 0", "towers", "ZeroDivisionError: division by zero"),
        ("tower = 3", "towers", "TypeError: 3 is not a callable object"),
        (TOWER, "absent", "ModuleNotFoundError: No module named 'absent'"),
    ],
)
def test_a_broken_package_is_named_with_the_reason(tmp_path: Path, code: str, module: str, reason: str) -> None:
    done = run(installed(tmp_path, code, module), MAKE.format({"network": "tower"}))
    assert done.stderr.splitlines()[-1] == (
        "jointnas.errors.BlueprintError: the installed package 'tower-package' does not provide its network 'tower' "
        f"({module}:tower: {reason}): update or uninstall it"
    )


def test_a_broken_package_disturbs_no_other_network_and_its_name_is_suggested(tmp_path: Path) -> None:
    installed(tmp_path, "1 / 0")
    assert run(tmp_path, MAKE.format({"network": "resnet"})).returncode == 0
    assert "did you mean 'tower'?" in run(tmp_path, MAKE.format({"network": "towr"})).stderr
