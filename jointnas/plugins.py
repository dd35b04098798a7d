"""What other installed packages add to jointnas: objects behind entry points, found by their names."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from jointnas.errors import JointNASError


def plugin_names(group: str) -> list[str]:
    """Return the names that installed packages registered in an entry point group such as `jointnas.executors`."""
    return sorted({point.name for point in entry_points(group=group)})


def load_plugin(group: str, name: str) -> Any:
    """Import what an installed package registered under `name`. Raises `JointNASError` when its import fails.

    Raises `KeyError` where nothing is registered under this name.
    """
    for point in entry_points(group=group, name=name):
        try:
            return point.load()
        except Exception as error:  # whatever that package raises
            package = point.dist.name if point.dist else "an installed package"
            raise JointNASError(
                f"{name!r} of {package} cannot be imported ({type(error).__name__}: {error}): repair or remove that package"
            ) from error
    raise KeyError(name)
