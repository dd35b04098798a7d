"""Check an install away from the clone: it carries its spaces, recipes and predictors, and one importable package."""

import sys
from importlib.metadata import files
from pathlib import Path

import jointnas
from jointnas.resources import resource_folder
from jointnas.space.space import built_in_spaces

clone = Path(sys.argv[1])
assert clone not in Path(jointnas.__file__).parents, jointnas.__file__
spaces = sorted(path.stem for path in (clone / "spaces").glob("*.toml"))
assert built_in_spaces() == spaces, built_in_spaces()
assert "resnet9" in spaces, spaces
for kind, name in (("predictors", "resnet9-digits/predictor.json"), ("recipes", "nomad-senet.toml")):
    assert (resource_folder(kind) / name).is_file(), name
folders = {file.parts[0] for file in files("jointnas") or () if file.parts[0] != ".."}
assert {name for name in folders if not name.endswith(".dist-info")} == {"jointnas"}, folders
