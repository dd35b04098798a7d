"""Mesh adaptive direct search on mixed variables: NOMAD on the numeric knobs, a poll of neighbours on the categories.

The mesh poll is NOMAD's (Audet, Le Digabel, Rochon Montplaisir & Tribes, TOMS 2022), in a separate process; the poll of
categories around it follows mixed-variable MADS (Abramson, Audet, Chrissis & Walston, Optimization Letters 2009).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import SearchError
from jointnas.search.engines import nomad_process
from jointnas.search.engines.problem import FAILURE, Evaluation, Merit, Problem
from jointnas.space.continuous import Continuous
from jointnas.space.knobs import Codes, Knob, Ordered

PHASE = 4  # evaluations per numeric knob, between two polls of the categories
SMALLEST_PHASE = 16
EXTENDED = 0.05  # of the objective: neighbours by category that are at most this much worse get a mesh of their own
EXTENSIONS = 3  # such neighbours at most
PATIENCE = 10  # starts in a row without improvement
FINEST_FRAME = 0.01  # of a continuous knob's range: where a mesh has converged
UNIT = 1.0
TRIALS, CHEAP_TRIALS = (
    50,
    200,
)  # points a numeric knob that a mesh may try, repetitions counted: one of integers does not end
CHEAP = ("QUAD_MODEL_SEARCH no", "NM_SEARCH no", "DIRECTION_TYPE ORTHO 2N", "EVAL_QUEUE_SORT DIR_LAST_SUCCESS")
"""NOMAD's options without quadratic models, whose fits take longer than a thousand predictions."""


def run_mads(problem: Problem) -> None:
    """Run mixed-variable MADS from each start, the best first, until the budget or patience is spent.

    Around the best candidate NOMAD polls its mesh over the numeric knobs that are active there: continuous ones in their (logarithmic)
    range ("off" below it), ordered ones by the index of their value with a granularity of 1. After a phase, and when the mesh has
    converged, every other category of every categorical knob is evaluated (`Problem.poll`), with the knobs that it activates in the
    middle of their ranges. A better one becomes the centre of a new mesh; else those within 5 % of the best get a phase of their own (the
    extended poll). Bounds on trained or measured metrics use NOMAD's progressive barrier; a candidate that breaks an exact constraint is
    not evaluated and fails (the extreme barrier). First objective only.
    """
    rng = np.random.default_rng(problem.seed)
    codes, evaluation = problem.evaluate(problem.start)
    best, idle = FAILURE, 0
    for i in evaluation.ranked():
        if problem.exhausted or idle == PATIENCE:
            break
        reached = _search(problem, codes[i], evaluation.merit(i), rng)
        idle = 0 if reached < best else idle + 1
        best = min(best, reached)


def check_nomad() -> None:
    """Raise `SearchError` where PyNomad is not installed."""
    if find_spec("PyNomad") is None:
        raise SearchError(
            "the engine mads needs NOMAD's Python interface, which is not installed: pip install PyNomadBBO, or choose another engine"
        )


def _search(problem: Problem, centre: Codes, merit: Merit, rng: np.random.Generator) -> Merit:
    """Poll mesh and categories in turn around a centre, which moves to better categories; return the best merit."""
    better: tuple[Codes, Merit] | None = (centre, merit)
    while better is not None:
        with Mesh(problem, *better) as mesh:
            better = _poll(problem, mesh, rng)
    return mesh.merit


def _poll(problem: Problem, mesh: Mesh, rng: np.random.Generator) -> tuple[Codes, Merit] | None:
    """Return a candidate of another category that is better than the mesh's best; None when the mesh has converged."""
    while not problem.exhausted:
        mesh.advance()
        codes, evaluation = problem.poll(_other_categories(problem, mesh.best), mesh.merit, rng)
        order = evaluation.ranked()
        if len(order) and evaluation.merit(order[0]) < mesh.merit:
            return codes[order[0]], evaluation.merit(order[0])
        if mesh.converged:
            return _extended_poll(problem, mesh, codes, evaluation)
    return None


def _extended_poll(problem: Problem, mesh: Mesh, codes: Codes, evaluation: Evaluation) -> tuple[Codes, Merit] | None:
    """Return the best of a phase of a mesh around one of the nearly as good neighbours, where it is better."""
    violation, objective = mesh.merit
    close = Merit(violation, objective + EXTENDED * abs(objective))
    for i in evaluation.ranked()[:EXTENSIONS]:
        if not evaluation.merit(i) <= close:
            break
        with Mesh(problem, codes[i], evaluation.merit(i)) as other:
            other.advance()
        if other.merit < mesh.merit:
            return other.best, other.merit
    return None


def _other_categories(problem: Problem, code: Codes) -> Codes:
    """Return the (m, knobs) codes that differ from one candidate in one category and the knobs that it activates."""
    space = problem.space
    numeric = [i for i, knob in enumerate(space.knobs) if _is_numeric(knob)]
    around = space.neighbour_codes(code)
    before, after = code[numeric], around[:, numeric]
    others: Codes = around[((after == before) | np.isnan(after) | np.isnan(before)).all(axis=1)]
    return others


def _is_numeric(knob: Knob) -> bool:
    return isinstance(knob, Continuous | Ordered)


class Mesh:
    """NOMAD over the numeric knobs that are active at a centre; a context manager that ends its process."""

    def __init__(self, problem: Problem, centre: Codes, merit: Merit) -> None:
        self.problem, self.best, self.merit = problem, centre, merit
        self._centre = centre
        self._knobs = [
            i
            for i, knob in enumerate(problem.space.knobs)
            if _is_numeric(knob) and len(knob.extremes) > 1 and not np.isnan(centre[i])
        ]
        self.converged = not self._knobs
        self._process: subprocess.Popen[str] | None = None
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115

    def __enter__(self) -> Mesh:
        try:
            if not self.converged:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(Path(nomad_process.__file__))],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._stderr,
                    text=True,
                    start_new_session=True,  # so that Ctrl-C reaches us alone
                )
                self._send(self._task())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._stderr.close()

    def advance(self) -> None:
        """Run a phase: until its evaluations or the budget are spent, or the mesh has converged."""
        end = self.problem.spent + max(SMALLEST_PHASE, PHASE * len(self._knobs))
        while not self.converged and self.problem.spent < min(end, self.problem.budget):
            points = self._receive()
            if isinstance(points, str):
                self.converged = True
                return
            codes, evaluation = self.problem.evaluate(self._codes(np.array(points)))
            for i in evaluation.ranked()[:1]:
                if evaluation.merit(i) < self.merit:
                    self.best, self.merit = codes[i], evaluation.merit(i)
            self._send(_outputs(evaluation))

    def _task(self) -> dict[str, Any]:
        knobs = [self.problem.space.knobs[i] for i in self._knobs]
        whole = [isinstance(knob, Ordered) for knob in knobs]
        upper = [float(len(k.extremes) - 1) if w else UNIT for k, w in zip(knobs, whole, strict=True)]
        bounds = self.problem.evaluate(self._centre[None, :])[1].violations.shape[1]
        return {
            "start": self._points(self._centre),
            "lower": [0.0] * len(knobs),
            "upper": upper,
            "parameters": [
                f"DIMENSION {len(knobs)}",
                f"BB_INPUT_TYPE ( {' '.join('I' if w else 'R' for w in whole)} )",
                f"BB_OUTPUT_TYPE OBJ {' '.join(['PB'] * bounds)}",
                f"MIN_FRAME_SIZE ( {' '.join('-' if w else str(FINEST_FRAME) for w in whole)} )",
                f"BB_MAX_BLOCK_SIZE {max(2, self.problem.batch)}",
                f"MAX_EVAL {(TRIALS if self.problem.expensive else CHEAP_TRIALS) * len(knobs)}",
                f"SEED {self.problem.seed % 2**31}",
                "DISPLAY_DEGREE 0",
                *(() if self.problem.expensive else CHEAP),
            ],
        }

    def _points(self, code: Codes) -> list[float]:
        knobs = [(i, self.problem.space.knobs[i]) for i in self._knobs]
        return [
            float(knob.to_unit(code[i : i + 1])[0] if isinstance(knob, Continuous) else code[i]) for i, knob in knobs
        ]

    def _codes(self, points: NDArray[np.float64]) -> Codes:
        """Return the (n, knobs) codes of (n, variables) points."""
        space = self.problem.space
        codes = np.repeat(self._centre[None, :], len(points), axis=0)
        for j, i in enumerate(self._knobs):
            knob, x = space.knobs[i], points[:, j]
            codes[:, i] = np.rint(x) if isinstance(knob, Ordered) else knob.from_unit(x.clip(0, UNIT))
        return space.settled(codes)

    def _send(self, message: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._raise_failure()

    def _receive(self) -> list[list[float]] | str:
        """Return the points that NOMAD proposes, or its stop reason."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._raise_failure()
        message: list[list[float]] | str = json.loads(line)
        return message

    def _raise_failure(self) -> None:
        self._stderr.seek(0)
        lines = self._stderr.read().strip().splitlines()
        raise SearchError(f"NOMAD ended without a result ({lines[-1] if lines else 'no message'}): use another engine")


def _outputs(evaluation: Evaluation) -> Sequence[list[float] | None]:
    """Return each row's objective and violations, clipped to finite numbers; None for a failure."""
    rows = np.concatenate([evaluation.objectives[:, :1], evaluation.violations], axis=1)
    bounded = np.clip(rows, -1e20, 1e20)
    return [None if failed else row.tolist() for row, failed in zip(bounded, evaluation.failed, strict=True)]
