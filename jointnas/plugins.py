"""What an installed package adds: objects that it names in an entry-point group, imported when they are first used.

A package declares them in its `pyproject.toml`, for example `[project.entry-points."jointnas.engines"]` with
`annealing = "my_package.annealing:anneal"`. Worker processes find them by the same names.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any

from jointnas.errors import JointNASError, suggest


def plugin_names(group: str) -> list[str]:
    """Return the names that installed packages declare in an entry-point group."""
    return sorted(entry_points(group=group).names)


def load_plugin(group: str, name: str, built_in: Iterable[str], error: type[JointNASError]) -> Any:
    """Return the object that an installed package declares as `name` in an entry-point group.

    built_in: names that need no package, to suggest from. Raises `error` for an unknown name, and for a package that cannot be imported.
    """
    noun = group.removeprefix("jointnas.").removesuffix("s")
    for entry in entry_points(group=group, name=name):
        try:
            return entry.load()
        except Exception as failure:  # whatever another package does when it is imported
            package = entry.dist.name if entry.dist else entry.module
            raise error(
                f"cannot import the {noun} {name!r} of the package {package!r} ({failure}): update or uninstall the package"
            ) from failure
    raise error(f"no {noun} is called {name!r}: {suggest(name, [*built_in, *plugin_names(group)])}")
