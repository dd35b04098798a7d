"""The public surface: every name is there, nothing else is promised, and importing the package is cheap."""

import inspect
import subprocess
import sys

import pytest

import jointnas
from jointnas import errors


@pytest.mark.parametrize("name", jointnas.__all__)
def test_every_public_name_can_be_imported_and_is_documented(name: str) -> None:
    member = getattr(jointnas, name)
    assert member.__name__ == name
    assert inspect.getdoc(member)


def test_dir_lists_the_public_names_and_the_version() -> None:
    assert set(dir(jointnas)) == {*jointnas.__all__, "__version__"}
    assert jointnas.__all__ == sorted(jointnas.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="serach"):
        _ = jointnas.serach


def test_importing_the_package_does_not_import_pytorch() -> None:
    code = "import sys, jointnas; assert jointnas.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_asking_a_predictor_does_not_import_pytorch() -> None:
    code = """
import sys
from jointnas.cli import app
app(["search", "--from", "resnet9-digits", "--constraint", "macs<1M", "--top", "1", "--json"], standalone_mode=False)
sys.exit(sum(name in sys.modules for name in ("torch", "torchvision")))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_every_error_is_a_jointnas_error() -> None:
    own = [m for _, m in inspect.getmembers(errors, inspect.isclass) if m.__module__ == errors.__name__]
    assert len(own) > 1
    assert all(issubclass(error, jointnas.JointNASError) for error in own)
