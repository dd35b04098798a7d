"""Joint architecture–recipe search for image classifiers under a training budget and hard cost constraints."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jointnas.api import build, train
    from jointnas.campaign.candidate_file import load
    from jointnas.errors import JointNASError
    from jointnas.network.families import register
    from jointnas.predictor.contract import Predictor
    from jointnas.search.search import Search
    from jointnas.search.winners import Winner
    from jointnas.space.space import Space
    from jointnas.training.observation import Observation

_HOMES = {
    "JointNASError": "errors",
    "Observation": "training.observation",
    "Predictor": "predictor.contract",
    "Search": "search.search",
    "Space": "space.space",
    "Winner": "search.winners",
    "build": "api",
    "load": "campaign.candidate_file",
    "register": "network.families",
    "train": "api",
}
__all__ = [
    "JointNASError",
    "Observation",
    "Predictor",
    "Search",
    "Space",
    "Winner",
    "build",
    "load",
    "register",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `jointnas --help` does not wait for PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'jointnas' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jointnas.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
