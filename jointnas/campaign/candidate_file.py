"""Candidate files: TOML or JSON, written by exports and by hand. Reading them executes nothing."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w

from jointnas.campaign.policy_file import with_policy_text
from jointnas.data.spec import DataSpec
from jointnas.errors import ExportError, suggest
from jointnas.network.cost import blueprint_cost, scoring_cost
from jointnas.network.operations.operation import Shape
from jointnas.resources import resource_folder
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.space.toml import GROUPS
from jointnas.training.members import ENSEMBLES, LARGEST_ENSEMBLE, SEEDS
from jointnas.training.recipe import Recipe
from jointnas.training.trained_blueprint import trained_blueprint

FORMAT = 1
FORMATS = ("toml", "json")
PORTFOLIO = ("steps", "image_size")


@dataclass(frozen=True)
class CandidateFile:
    """A candidate with its costs, its results, and how it was or would be trained.

    training: `data` (a `DataSpec` in JSON) and its `fingerprint`, `input_shape` and `classes`, `clock`, `slot`, the `space` as TOML,
    and of an ensemble the number of its `members` and its kind, `ensemble`; empty in a hand-written file.
    portfolio: of a recipe from which searches start, the `steps` that it takes with its network and the `image_size` of its images.
    """

    candidate: Candidate
    results: dict[str, Any] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    portfolio: dict[str, int] = field(default_factory=dict)

    def write(self, path: Path, kind: str) -> None:
        """Write TOML, or JSON with the network's blueprint in it. Raises `ExportError`."""
        if kind not in FORMATS:
            raise ExportError(f"no export format is called {kind!r}: choose {' or '.join(FORMATS)}")
        data = {"format": FORMAT, **without_none(asdict(self)["candidate"]), **without_none(
            {"results": self.results, "costs": self.costs, "training": self.training}
        )}  # fmt: skip
        if kind == "json" and self.training:
            shape, classes = tuple(self.training["input_shape"]), self.training["classes"]
            data["blueprint"] = trained_blueprint(self.candidate, shape, classes).to_json()
        text = tomli_w.dumps(data, multiline_strings=True) if kind == "toml" else json.dumps(data, indent=1)
        write_text(path, text)

    @classmethod
    def read(cls, path: Path) -> CandidateFile:
        """Return the candidate in a TOML or JSON file, its network and recipe checked. Raises `ExportError`."""
        data = read_table(path)
        tables = ("format", *GROUPS, "results", "costs", "training", "portfolio", "blueprint")
        for key in data:
            if key not in tables:
                raise ExportError(f"a candidate file has no table {key!r}, in {path.name}: {suggest(key, tables)}")
        if data.get("format", FORMAT) != FORMAT:
            raise ExportError(
                f"{path.name} has format {data['format']!r}, but this version reads format {FORMAT}: upgrade jointnas"
            )
        for key in (*GROUPS, "results", "costs", "training", "portfolio"):
            if not isinstance(data.setdefault(key, {}), dict):
                raise ExportError(f"{key} must be a table, got {data[key]!r} in {path.name}: write [{key}]")
        for key, value in data["portfolio"].items():
            if key not in PORTFOLIO or type(value) is not int or value < 1:
                raise ExportError(
                    f"[portfolio] has {' and '.join(PORTFOLIO)}, got {key} = {value!r} in {path.name}: correct it"
                )
        recipe = with_policy_text(data["recipe"], path.parent)
        candidate: Candidate = {"architecture": data["architecture"], "recipe": recipe}
        Recipe.from_knobs(candidate["recipe"])
        _check_training(data["training"], candidate, path.name)
        return cls(candidate, data["results"], data["costs"], data["training"], data["portfolio"])

    def with_members(self, members: int | None, ensemble: str | None) -> CandidateFile:
        """Return the candidate trained as an ensemble of so many members, of this kind; None keeps what it has. Raises `ExportError`."""
        if members is not None and not 1 <= members <= LARGEST_ENSEMBLE:
            raise ExportError(f"--members must be between 1 and {LARGEST_ENSEMBLE}, got {members}: change it")
        if ensemble is not None and ensemble not in ENSEMBLES:
            raise ExportError(f"--ensemble is {' or '.join(ENSEMBLES)}, got {ensemble!r}: choose one of them")
        asked = {name: value for name, value in (("members", members), ("ensemble", ensemble)) if value is not None}
        changed = replace(self, training={**self.training, **asked})
        if ensemble is not None and changed.members == 1:
            raise ExportError(
                f"--ensemble goes with several --members, got --ensemble {ensemble} alone: add --members 3"
            )
        return changed

    @property
    def members(self) -> int:
        """How many networks are trained together."""
        return int(self.training.get("members", 1))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of the images that it was trained on, or for which a recipe is known; else 3×32×32."""
        side = self.portfolio.get("image_size", 32)
        channels, height, width = self.training.get("input_shape", (3, side, side))
        return channels, height, width

    @property
    def ensemble(self) -> str:
        """Their kind."""
        return str(self.training.get("ensemble", SEEDS))


def built_in_recipes() -> list[str]:
    """Return the names of the candidates that travel with the package."""
    return sorted(path.stem for path in resource_folder("recipes").glob("*.toml"))


def recipe_path(name: str) -> Path:
    """Return the file of a built-in recipe. Raises `ExportError` that suggests the nearest name."""
    if name not in built_in_recipes():
        raise ExportError(f"no built-in recipe is called {name!r}: {suggest(name, built_in_recipes())}")
    return resource_folder("recipes") / f"{name}.toml"


def find_candidate(name: str | Path) -> CandidateFile:
    """Return the candidate in a file (.toml or .json), or the built-in one of this name. Raises `ExportError`."""
    path = Path(name)
    return CandidateFile.read(path if path.suffix in (".toml", ".json") else recipe_path(str(name)))


def candidate_costs(candidate: Candidate, input_shape: Shape, classes: int, members: int = 1) -> dict[str, float]:
    """Return what it costs to classify an image of shape (C, H, W), by all views that the recipe scores and by so many equal members.

    Raises `BlueprintError`.
    """
    network = trained_blueprint(candidate, input_shape, classes)
    costs = scoring_cost(blueprint_cost(network), Recipe.from_knobs(candidate["recipe"]).views)
    return {name: value * members for name, value in costs.items()}


def _check_training(training: Mapping[str, Any], candidate: Candidate, name: str) -> None:
    """Raise a `JointNASError` unless the candidate is a network for its input, and one of the space it came from."""
    kinds = {
        "data": dict,
        "clock": dict,
        "slot": dict,
        "input_shape": list,
        "classes": int,
        "space": str,
        "fingerprint": str,
        "members": int,
        "ensemble": str,
    }
    for key, value in training.items():
        if key not in kinds or not isinstance(value, kinds[key]):
            raise ExportError(
                f"[training] of a candidate file has {', '.join(kinds)}, got {key} = {value!r} in {name}: export it again"
            )
    if not 1 <= training.get("members", 1) <= LARGEST_ENSEMBLE or training.get("ensemble", SEEDS) not in ENSEMBLES:
        raise ExportError(
            f"training.members is 1 to {LARGEST_ENSEMBLE} and training.ensemble {' or '.join(ENSEMBLES)}, got "
            f"{training.get('members')!r} and {training.get('ensemble')!r} in {name}: correct them"
        )
    shape = training.get("input_shape", [3, 32, 32])
    if len(shape) != 3 or not all(isinstance(d, int) for d in shape):
        raise ExportError(
            f"training.input_shape must be channels, height, width, got {shape!r} in {name}: export it again"
        )
    trained_blueprint(candidate, tuple(shape), training.get("classes", 10))
    if "space" in training:
        Space.from_toml(training["space"], shape, training.get("classes", 10)).validate(candidate)


def read_table(path: Path) -> dict[str, Any]:
    """Return the table in a TOML or JSON file. Raises `ExportError`."""
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"the candidate file {str(path)!r} cannot be read ({error}): check the path") from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ExportError(f"{path.name} is not valid TOML or JSON: {error}") from error
    if not isinstance(data, dict):
        raise ExportError(f"{path.name} must hold a table, got a {type(data).__name__}: export it again")
    return data


def without_none(value: Any) -> Any:
    """Return nested dictionaries without their None values, which TOML cannot express."""
    if isinstance(value, Mapping):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    return value


def make_writable(folder: Path) -> None:
    """Make a folder and see that files can be written to it, before hours go into what it is for. Raises `ExportError`."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("")
        probe.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a file, making its folder. Raises `ExportError`."""
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the system refuses into an `ExportError` that names what was written."""
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"{str(path)!r} cannot be written ({error.strerror}): choose another folder with --to"
        ) from error


def data_spec_of(
    training: Mapping[str, Any],
    data: str | None = None,
    train_images: int | None = None,
    val_images: int | None = None,
    image_size: int | None = None,
    fit: str | None = None,
) -> DataSpec:
    """Return the data of a candidate file's [training] table, with the values replaced that are given. Raises `ExportError`.

    Another source of data takes none of the file's other values.
    """
    given = {
        "source": data,
        "train_images": train_images,
        "val_images": val_images,
        "image_size": image_size,
        "fit": fit,
    }
    own = training.get("data", {}) if data is None else {}
    try:
        asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        spec = DataSpec.from_json({**own, **asked}) if own else DataSpec(**asked)
        numbers = (spec.train_images, spec.val_images, spec.image_size, spec.seed)
        if (
            not isinstance(spec.source, str)
            or not isinstance(spec.fit, str)
            or not all(isinstance(number or 0, int) for number in numbers)
        ):
            raise TypeError("a value of another type")
        return spec
    except TypeError as error:
        raise ExportError(
            f"training.data has source, train_images, val_images, image_size, fit and seed, got {error}: remove it"
        ) from error
