"""Stage-two engines: optimisers over one problem, whose evaluation is the predictor or a real training."""

from __future__ import annotations

from collections.abc import Mapping

from jointnas.errors import SearchError, suggest
from jointnas.search.engines.evolution import evolve, evolve_front
from jointnas.search.engines.hillclimb import climb
from jointnas.search.engines.mads import check_nomad, run_mads
from jointnas.search.engines.problem import Engine, Evaluation, Problem

ENGINES: Mapping[str, Engine] = {"evolution": evolve, "mads": run_mads, "hillclimb": climb}


def find_engine(name: str) -> Engine:
    """Return the engine called `name`. Raises `SearchError` that names the nearest, or what an engine needs."""
    if name not in ENGINES:
        raise SearchError(f"no engine is called {name!r}: {suggest(name, ENGINES)}")
    if name == "mads":
        check_nomad()
    return ENGINES[name]


__all__ = ["ENGINES", "Engine", "Evaluation", "Problem", "evolve_front", "find_engine"]
