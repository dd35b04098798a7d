"""Files that leave a run: candidates to train again, and winners with their weights. Reading them executes nothing."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor, nn

from jointnas.errors import ExportError, suggest
from jointnas.network.blueprint import Blueprint
from jointnas.network.cost import blueprint_cost, scoring_cost
from jointnas.network.families import make_blueprint
from jointnas.network.module import Network, load_weights
from jointnas.resources import resource_folder
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.space.toml import GROUPS
from jointnas.training.batches import Normalise
from jointnas.training.recipe import Recipe, views_of
from jointnas.training.scoring import logits_of

FORMAT = 1
WINNER_FILE = "winner.json"
FORMATS = ("toml", "json")


@dataclass(frozen=True)
class CandidateFile:
    """A candidate with what is known about it: its costs, its results, and how it was or would be trained.

    training: `data` (a `DataSpec` in JSON) and its `fingerprint`, `input_shape` and `classes`, `clock`, `slot`, and the
    `space` as TOML; empty in a hand-written file.
    """

    candidate: Candidate
    results: dict[str, Any] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path, kind: str) -> None:
        """Write TOML, or JSON with the network's blueprint in it. Raises `ExportError`."""
        if kind not in FORMATS:
            raise ExportError(f"an export is {' or '.join(FORMATS)}, got {kind!r}: choose one")
        data = {"format": FORMAT, **_without_none(asdict(self)["candidate"]), **_without_none(
            {"results": self.results, "costs": self.costs, "training": self.training}
        )}  # fmt: skip
        if kind == "json" and self.training:
            shape, classes = tuple(self.training["input_shape"]), self.training["classes"]
            data["blueprint"] = make_blueprint(self.candidate["architecture"], shape, classes).to_json()
        text = tomli_w.dumps(data, multiline_strings=True) if kind == "toml" else json.dumps(data, indent=1)
        _write(path, text)

    @classmethod
    def read(cls, path: Path) -> CandidateFile:
        """Return the candidate in a TOML or JSON file, its network and recipe checked. Raises `ExportError`."""
        data = _read_data(path)
        known = ("format", *GROUPS, "results", "costs", "training", "blueprint")
        for key in data:
            if key not in known:
                raise ExportError(f"a candidate file has no table {key!r}, in {path.name}: {suggest(key, known)}")
        if data.get("format", FORMAT) != FORMAT:
            raise ExportError(
                f"a candidate file has format {FORMAT}, got {data['format']!r} in {path.name}: upgrade jointnas"
            )
        for key in (*GROUPS, "results", "costs", "training"):
            if not isinstance(data.setdefault(key, {}), dict):
                raise ExportError(f"{key} is a table, got {data[key]!r} in {path.name}: write [{key}]")
        candidate: Candidate = {"architecture": data["architecture"], "recipe": data["recipe"]}
        Recipe.from_knobs(candidate["recipe"])
        _check_training(data["training"], candidate, path.name)
        return cls(candidate, data["results"], data["costs"], data["training"])


def built_in_recipes() -> list[str]:
    """Return the names of the candidates that travel with the package."""
    return sorted(path.stem for path in resource_folder("recipes").glob("*.toml"))


def recipe_path(name: str) -> Path:
    """Return the file of a built-in recipe. Raises `ExportError` that names the nearest known one."""
    if name not in built_in_recipes():
        raise ExportError(f"no built-in recipe is called {name!r}: {suggest(name, built_in_recipes())}")
    return resource_folder("recipes") / f"{name}.toml"


def find_candidate(name: str | Path) -> CandidateFile:
    """Return the candidate in a file (.toml or .json), or the built-in one of this name. Raises `ExportError`."""
    path = Path(name)
    return CandidateFile.read(path if path.suffix in (".toml", ".json") else recipe_path(str(name)))


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
    }
    for key, value in training.items():
        if key not in kinds or not isinstance(value, kinds[key]):
            raise ExportError(
                f"[training] of a candidate file has {', '.join(kinds)}, got {key} = {value!r} in {name}: export it again"
            )
    shape = training.get("input_shape", [3, 32, 32])
    if len(shape) != 3 or not all(isinstance(d, int) for d in shape):
        raise ExportError(f"training.input_shape is channels, height, width, got {shape!r} in {name}: export it again")
    make_blueprint(candidate["architecture"], tuple(shape), training.get("classes", 10))
    if "space" in training:
        Space.from_toml(training["space"], shape, training.get("classes", 10)).validate(candidate)


def _read_data(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(
            f"a candidate is a readable TOML or JSON file, got {str(path)!r} ({error}): check the path"
        ) from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ExportError(f"a candidate file is valid TOML or JSON, got an error in {path.name}: {error}") from error
    if not isinstance(data, dict):
        raise ExportError(f"a candidate file is a table, got {type(data).__name__} in {path.name}: export it again")
    return data


def _without_none(value: Any) -> Any:
    """Return nested dictionaries without their None values, which TOML cannot say."""
    if isinstance(value, Mapping):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return value


def make_writable(folder: Path) -> None:
    """Make a folder and see that files can be written to it, before hours go into what it is for. Raises `ExportError`."""
    _write(folder / ".writable", "")
    (folder / ".writable").unlink()


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ExportError(
            f"an export goes to a writable folder, got {str(path)!r} ({error.strerror}): choose another --to"
        ) from error


# ---------------------------------------------------------------------------------------------------------- winners


@dataclass(frozen=True)
class Member:
    """One trained network: its blueprint, the file of its weights, and what its input is normalised by."""

    blueprint: Blueprint
    weights: str  # a safetensors file beside winner.json
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool  # whether it answers with the mean over an image and its mirror

    @property
    def views(self) -> int:
        """How many views of an image it scores."""
        return int(views_of(self.flip))

    @property
    def costs(self) -> dict[str, int]:
        """What it costs to classify an image, by all its views."""
        return scoring_cost(blueprint_cost(self.blueprint), self.views)


@dataclass(frozen=True)
class WinnerFile:
    """A folder with `winner.json`: the members to use, the candidate they came from, its results by seed."""

    members: tuple[Member, ...]
    classes: tuple[str, ...]
    candidate: Candidate
    results: dict[str, Any]

    @property
    def costs(self) -> dict[str, int]:
        """The members' costs added up."""
        parts = [member.costs for member in self.members]
        return {metric: sum(part[metric] for part in parts) for metric in parts[0]}

    def write(self, folder: Path) -> None:
        """Write `winner.json` beside the weights. Raises `ExportError`."""
        data = {
            "format": FORMAT,
            "classes": list(self.classes),
            "members": [
                {
                    "weights": m.weights,
                    "mean": m.mean,
                    "std": m.std,
                    "flip": m.flip,
                    "blueprint": m.blueprint.to_json(),
                }
                for m in self.members
            ],
            "candidate": self.candidate,
            "results": self.results,
        }
        _write(folder / WINNER_FILE, json.dumps(data, indent=1))

    @classmethod
    def read(cls, folder: Path) -> WinnerFile:
        """Return what `write` wrote; the weights stay on the disk. Raises `ExportError` or `BlueprintError`."""
        path = folder / WINNER_FILE
        if not path.is_file():
            inner = sorted(p.parent.name for p in folder.glob(f"*/{WINNER_FILE}"))
            remedy = f"say {str(folder / inner[0])!r}" if inner else "retrain a winner first"
            raise ExportError(f"a winner is a folder with {WINNER_FILE}, got {str(folder)!r}: {remedy}")
        data = _read_data(path)
        try:
            if data["format"] != FORMAT:
                raise ExportError(
                    f"a winner has format {FORMAT}, got {data['format']!r} in {str(folder)!r}: upgrade jointnas"
                )
            members = tuple(
                Member(
                    Blueprint.from_json(m["blueprint"]),
                    Path(str(m["weights"])).name,  # never a path out of the folder
                    tuple(float(x) for x in m["mean"]),
                    tuple(float(x) for x in m["std"]),
                    bool(m.get("flip", False)),  # the first winners did not say
                )
                for m in data["members"]
            )
            if not members:
                raise ExportError(f"a winner has one member or more, got none in {str(folder)!r}: retrain it")
            return cls(members, tuple(str(c) for c in data["classes"]), data["candidate"], data["results"])
        except (KeyError, TypeError, ValueError) as error:
            raise ExportError(
                f"{WINNER_FILE} has members, classes and results, got {error!r} in {str(folder)!r}: retrain it"
            ) from error


class Model(nn.Module):
    """One or more trained networks with their normalisation: uint8 images in, class probabilities out."""

    def __init__(self, networks: Sequence[Network], members: Sequence[Member], classes: Sequence[str]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.classes = tuple(classes)
        self.input_shape = members[0].blueprint.input_shape
        self._members = tuple(members)

    def forward(self, images: Tensor) -> Tensor:
        """Return (n, classes) probabilities, the members' mean, of (n, C, H, W) uint8 images."""
        if images.ndim != 4 or tuple(images.shape[1:]) != self.input_shape or images.dtype != torch.uint8:
            shape = "×".join(map(str, self.input_shape))
            raise ExportError(
                f"images are uint8 of shape (n, {shape}), got {images.dtype} of {tuple(images.shape)}: convert them"
            )
        pixels = images.permute(0, 2, 3, 1)
        votes = []
        for network, member in zip(self.networks, self._members, strict=True):
            normalised = Normalise(member.mean, member.std, images.device)(pixels)
            votes.append(logits_of(network, normalised, member.flip).softmax(dim=1))
        return torch.stack(votes).mean(dim=0)


def load(folder: Path | str) -> Model:
    """Return the trained model in a winner's folder, in evaluation mode. Raises `ExportError`; executes nothing."""
    folder = Path(folder)
    winner = WinnerFile.read(folder)
    networks = [load_weights(Network(member.blueprint), folder / member.weights) for member in winner.members]
    return Model(networks, winner.members, winner.classes).eval()
