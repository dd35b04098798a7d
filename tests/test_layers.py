"""The order of the rooms: a module imports only what stands left of it, and no import closes a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import jointnas

PACKAGE = Path(jointnas.__file__).parent
LAYERS: tuple[set[str], ...] = (
    {"errors"},
    {"units", "cores", "resources", "plugins"},
    {"data", "network", "execution"},
    {"training"},
    {"space"},
    {"measurement"},
    {"predictor"},
    {"search"},
    {"campaign"},
    {"efficiency"},
    {"api"},
    {"export", "report", "integrations"},
    {"cli"},
    {"__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def imports(path: Path) -> set[str]:
    """Return the modules of this package that a file imports when it is loaded, and those it imports inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith("jointnas.") and file_of(name)}


def file_of(module: str) -> Path | None:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    files = [path.with_suffix(".py"), path / "__init__.py"]
    return next((file for file in files if file.is_file()), None)


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(("jointnas", *(part for part in parts if part != "__init__")))


def graph() -> dict[str, set[str]]:
    return {
        module_of(path): imports(path)
        for path in PACKAGE.rglob("*.py")
        if path.parent != PACKAGE or path.stem != "__init__"
    }


def test_a_room_imports_only_rooms_left_of_it():
    wrong = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in others
        if LEVEL[other.split(".")[1]] > LEVEL[module.split(".")[1]]
        or (LEVEL[other.split(".")[1]] == LEVEL[module.split(".")[1]] and other.split(".")[1] != module.split(".")[1])
    ]
    assert wrong == []


def test_no_import_closes_a_circle():
    packages = {module for module in graph() if file_of(module) and file_of(module).name == "__init__.py"}
    edges = {
        m: {o for o in others if o != m and o not in packages} for m, others in graph().items() if m not in packages
    }
    assert list(TopologicalSorter(edges).static_order())
