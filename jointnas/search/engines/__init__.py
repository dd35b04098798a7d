"""Stage-two engines: optimisers over one problem, whose evaluation is the predictor or a real training."""

from __future__ import annotations

from collections.abc import Mapping

from jointnas.errors import SearchError
from jointnas.plugins import load_plugin, plugin_names
from jointnas.search.engines.evolution import evolve, evolve_front
from jointnas.search.engines.hillclimb import climb
from jointnas.search.engines.mads import check_nomad, run_mads
from jointnas.search.engines.problem import Engine, Evaluation, Problem

ENGINES: Mapping[str, Engine] = {"evolution": evolve, "mads": run_mads, "hillclimb": climb}
CONTROLLER = "ppo"
"""AutoAugment's controller, an engine for real trainings: it needs thousands of them, so `--engine all` leaves it out."""

ENGINE_GROUP = "jointnas.engines"


def engine_names() -> list[str]:
    """Return the names of all engines: the built-in ones, then those of installed packages."""
    return [*ENGINES, *plugin_names(ENGINE_GROUP)]


def find_engine(name: str) -> Engine:
    """Return the engine called `name`: a built-in one, or one of an installed package (entry points `jointnas.engines`).

    Raises `SearchError` for an unknown name, for a package that cannot be imported, and for what an engine needs and lacks.
    """
    if name == "mads":
        check_nomad()
    if name in ENGINES:
        return ENGINES[name]
    if name == CONTROLLER:
        from jointnas.search.engines.ppo import control  # it imports PyTorch, which other engines do without

        return control
    engine: Engine = load_plugin(ENGINE_GROUP, name, ENGINES, SearchError)
    return engine


__all__ = ["CONTROLLER", "ENGINES", "Engine", "Evaluation", "Problem", "engine_names", "evolve_front", "find_engine"]
