"""Engines: one contract for all of them, then what is each one's own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from jointnas.errors import SearchError
from jointnas.search.engines import CONTROLLER, ENGINES, Evaluation, Problem, engine_names, evolve_front, find_engine
from jointnas.search.engines.evolution import adaptive
from jointnas.search.engines.ppo import Controller, levels
from jointnas.search.engines.problem import FAILURE, Merit
from jointnas.space.constraint import parse_all
from jointnas.space.knobs import Codes
from jointnas.space.sampling import draw_pool, feasible
from jointnas.space.space import Space
from tests.plugins import install_package
from tests.search.cube import cube, light, truth

TARGET = np.array([7, 1, 5, 9, 3, 0])
VALUES = NDArray[np.float64]
every_engine = pytest.mark.parametrize("engine", sorted(ENGINES))


@pytest.fixture(autouse=True)
def _restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """MADS starts one process a mesh: three that find nothing better are enough here."""
    monkeypatch.setattr("jointnas.search.engines.mads.PATIENCE", 3)


def grid(knobs: int = 6, high: int = 9) -> Space:
    """Return an abstract space of whole numbers whose cost `total` is their sum."""
    lines = "\n".join(f"x{i} = {{ low = 0, high = {high} }}" for i in range(knobs))
    return Space.from_toml(f"format = 1\n[architecture]\n{lines}").with_cost(
        lambda c: {"total": float(sum(float(v) for v in c["architecture"].values()))}
    )


def values(space: Space, codes: Codes) -> VALUES:
    """Return the (n, knobs) numbers behind codes."""
    rows = [list(c["architecture"].values()) for c in space.to_candidates(codes)]
    return np.array(rows, dtype=np.float64).reshape(len(codes), len(space.knobs))


def distance(x: VALUES) -> VALUES:
    """Return (n,) squared distances from the target, a separable objective that is 0 at its best."""
    return np.asarray(((x - TARGET[: x.shape[1]]) ** 2).sum(axis=1), dtype=np.float64)


class Recorder:
    """An evaluation that remembers every batch."""

    def __init__(self, space: Space, failing: Callable[[VALUES], NDArray[np.bool_]] | None = None) -> None:
        self.space, self.failing = space, failing
        self.batches: list[Codes] = []

    def __call__(self, codes: Codes) -> Evaluation:
        self.batches.append(codes)
        x = values(self.space, codes)
        failed = self.failing(x) if self.failing else np.zeros(len(x), dtype=bool)
        return Evaluation(np.where(failed, -1e6, distance(x))[:, None], np.zeros((len(x), 0)), failed)

    @property
    def codes(self) -> Codes:
        return np.concatenate(self.batches)


def problem(
    space: Space, recorder: Callable[[Codes], Evaluation], *constraints: str, budget: int = 3000, start: int = 64
) -> Problem:
    parsed = parse_all(constraints, space.metrics)
    return Problem(space, parsed, recorder, draw_pool(space, start, parsed, 5), budget, seed=0)


@every_engine
def test_an_engine_evaluates_nothing_infeasible_and_nothing_twice(engine: str) -> None:
    space = grid()
    recorder = Recorder(space)
    task = problem(space, recorder, "total<18")
    task.start = np.concatenate([task.start, task.start, space.to_codes(space.sample(64))])  # many do not meet it
    ENGINES[engine](task)
    assert feasible(space, task.constraints, recorder.codes).all()
    identities = space.identities(recorder.codes)
    assert len(identities) == len(set(identities)) > 64


@every_engine
@pytest.mark.parametrize("budget", [1, 50, 130, 777])
def test_an_engine_respects_its_budget(engine: str, budget: int) -> None:
    space = grid()
    recorder = Recorder(space)
    task = problem(space, recorder, budget=budget)
    ENGINES[engine](task)
    assert len(recorder.codes) == task.spent <= budget
    assert task.spent == budget or distance(values(space, recorder.codes)).min() == 0


@every_engine
def test_an_engine_evaluates_in_batches(engine: str) -> None:
    space = grid()
    recorder = Recorder(space)
    ENGINES[engine](problem(space, recorder))
    sizes = [len(batch) for batch in recorder.batches]
    assert sizes[0] == 64
    assert np.mean(sizes) >= 4


@every_engine
@pytest.mark.parametrize("constraint", [None, "total<18"])
def test_an_engine_comes_near_the_optimum_of_a_separable_problem(engine: str, constraint: str | None) -> None:
    space = grid()
    recorder = Recorder(space)
    task = problem(space, recorder, *([constraint] if constraint else []))
    ENGINES[engine](task)
    objectives = task.results()[1][:, 0]
    started = distance(values(space, task.start)).min()
    # The target's sum is 25, so 8 must go from five knobs (the last stands at 0): 2² + 2² + 2² + 1 + 1 = 14 at best.
    optimum = 0 if constraint is None else 14
    assert optimum <= objectives.min() <= optimum + 2 < started


@every_engine
def test_an_engine_keeps_its_results_with_their_objectives_and_no_failed_one(engine: str) -> None:
    space = grid()
    recorder = Recorder(space, failing=lambda x: x[:, 0] == 7)
    task = problem(space, recorder)
    ENGINES[engine](task)
    codes, objectives = task.results()
    x = values(space, codes)
    assert (values(space, recorder.codes)[:, 0] == 7).any()  # failures did occur
    assert not (x[:, 0] == 7).any()
    np.testing.assert_array_equal(objectives[:, 0], distance(x))
    assert objectives.min() <= 3  # 1 is the best without the failing value


@every_engine
def test_an_engine_ends_when_a_small_space_holds_nothing_new(engine: str) -> None:
    space = grid(knobs=2, high=2)
    recorder = Recorder(space)
    ENGINES[engine](problem(space, recorder, start=4))
    assert len(recorder.codes) == 9


@every_engine
def test_an_engine_ends_when_everything_fails(engine: str) -> None:
    space = grid()
    recorder = Recorder(space, failing=lambda x: np.ones(len(x), dtype=bool))
    task = problem(space, recorder)
    ENGINES[engine](task)
    assert len(task.results()[0]) == 0


@every_engine
def test_an_engine_repeats_itself_at_the_same_seed_whatever_the_global_generators_say(engine: str) -> None:
    import random

    space = grid()
    recorders = []
    for global_seed in (1, 2):
        random.seed(global_seed)
        recorders.append(Recorder(space))
        ENGINES[engine](problem(space, recorders[-1], budget=500))
    np.testing.assert_array_equal(recorders[0].codes, recorders[1].codes)


MIXED = """
format = 1
[architecture]
colour = { choices = ["red", "green", "blue"] }
shade = { low = 0.0, high = 1.0, when = { colour = "blue" } }
size = { low = 1, high = 20 }
[recipe]
rate = { low = 1e-4, high = 1.0, log = true }
steps = { values = [1, 2, 5, 10] }
nesterov = { choices = [true, false] }
"""


def mixed() -> Space:
    """Return an abstract space with every kind of knob."""
    return Space.from_toml(MIXED).with_cost(lambda c: {"size": float(c["architecture"]["size"])})


def mixed_objective(space: Space, codes: Codes) -> Evaluation:
    """Return an objective whose best, 0, is blue at shade 0.3, size 13, rate 0.01, 5 steps, without Nesterov."""
    rows = []
    for candidate in space.to_candidates(codes):
        a, r = candidate["architecture"], candidate["recipe"]
        off = 0.0 if a["colour"] == "blue" else 0.5
        off += (float(a.get("shade", 0.3)) - 0.3) ** 2 + ((float(a["size"]) - 13) / 20) ** 2
        off += (np.log10(float(r["rate"])) + 2) ** 2 / 16 + abs(float(r["steps"]) - 5) / 10 + 0.2 * bool(r["nesterov"])
        rows.append(off)
    return Evaluation(np.array(rows).reshape(-1, 1), np.zeros((len(rows), 0)), np.zeros(len(rows), dtype=bool))


@every_engine
def test_an_engine_handles_every_kind_of_knob(engine: str) -> None:
    space = mixed()
    red = space.to_codes([c for c in space.sample(64, seed=3) if c["architecture"]["colour"] == "red"][:4])
    task = Problem(space, (), lambda codes: mixed_objective(space, codes), red, 1500, seed=1)
    ENGINES[engine](task)
    codes, objectives = task.results()
    best = space.to_candidates(codes[objectives[:, 0].argmin()][None, :])[0]
    assert objectives.min() < 0.02
    assert best["architecture"]["colour"] == "blue"
    assert (best["recipe"]["steps"], best["recipe"]["nesterov"]) == (5, False)


@every_engine
@pytest.mark.parametrize("best", [0.0, 1e-3])
def test_an_engine_switches_a_number_off_and_on(engine: str, best: float) -> None:
    space = Space.from_toml(
        "format = 1\n[architecture]\nsize = { low = 1, high = 9 }\n"
        "[recipe]\ndecay = { low = 1e-5, high = 1e-1, log = true, off = 0.0 }"
    )

    def place(decay: float) -> float:
        return np.log10(decay) if decay else -6.0

    def evaluation(codes: Codes) -> Evaluation:
        off = [abs(place(float(c["recipe"]["decay"])) - place(best)) for c in space.to_candidates(codes)]
        return Evaluation(np.array(off).reshape(-1, 1), np.zeros((len(off), 0)), np.zeros(len(off), dtype=bool))

    start = [{"architecture": {"size": 5}, "recipe": {"decay": 1e-2 if best == 0 else 0.0}}]
    task = Problem(space, (), evaluation, space.to_codes(start), 200, seed=1)
    ENGINES[engine](task)
    assert task.results()[1].min() == pytest.approx(0, abs=0.2 if best else 0)


@every_engine
def test_an_engine_respects_bounds_that_only_an_evaluation_tells(engine: str) -> None:
    space = grid()

    def evaluation(codes: Codes) -> Evaluation:
        x = values(space, codes)
        return Evaluation(distance(x)[:, None], np.maximum(0, x[:, :1] - 4), np.zeros(len(x), dtype=bool))

    task = problem(space, evaluation)
    ENGINES[engine](task)
    objectives = task.results()[1]
    assert 9 <= objectives.min() <= 10  # x0 is 3 away from the 7 that it would have, 3² = 9


@every_engine
def test_an_engine_starts_where_nothing_meets_the_bounds(engine: str) -> None:
    space = grid()

    def evaluation(codes: Codes) -> Evaluation:
        x = values(space, codes)
        return Evaluation(distance(x)[:, None], np.maximum(0, 8 - x[:, :1]), np.zeros(len(x), dtype=bool))

    task = problem(space, evaluation)
    task.start = task.start[values(space, task.start)[:, 0] < 5]
    ENGINES[engine](task)
    objectives = task.results()[1]
    assert 1 <= objectives.min() <= 3


@every_engine
def test_an_engine_climbs_to_where_the_bounds_are_met_though_the_objective_falls(engine: str) -> None:
    space = grid()

    def evaluation(codes: Codes) -> Evaluation:
        x = values(space, codes)
        total = x.sum(axis=1)
        return Evaluation(total[:, None], np.maximum(0, 40 - total)[:, None], np.zeros(len(x), dtype=bool))

    task = problem(space, evaluation)
    task.start = space.to_codes([{"architecture": {f"x{i}": 0 for i in range(6)}, "recipe": {}}])
    ENGINES[engine](task)
    assert task.results()[1].min() == 40


@every_engine
def test_an_engine_never_leaves_the_pool_it_is_given(engine: str) -> None:
    space = grid()
    members = draw_pool(space, 400, (), 7)
    recorder = Recorder(space)
    task = Problem(space, (), recorder, members[:16], 200, seed=0, pool=members)
    ENGINES[engine](task)
    pool_identities = set(space.identities(members))
    evaluated = space.identities(recorder.codes)
    assert pool_identities.issuperset(evaluated)
    assert len(evaluated) == len(set(evaluated)) > len(task.start)
    best = distance(values(space, members)).min()
    assert task.results()[1].min() <= np.partition(distance(values(space, members)), 4)[4]
    assert best <= task.results()[1].min()


@every_engine
def test_an_engine_passes_on_what_its_evaluation_raises(engine: str) -> None:
    space = grid()
    calls = []

    def failing(codes: Codes) -> Evaluation:
        calls.append(len(codes))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return Evaluation(
            distance(values(space, codes))[:, None], np.zeros((len(codes), 0)), np.zeros(len(codes), bool)
        )

    with pytest.raises(KeyboardInterrupt):
        ENGINES[engine](problem(space, failing))
    assert len(calls) == 3


@every_engine
def test_an_engine_works_one_candidate_at_a_time_from_one_start(engine: str) -> None:
    space = grid()
    recorder = Recorder(space)
    task = problem(space, recorder, budget=150, start=1)
    task.batch, task.expensive = 1, True
    ENGINES[engine](task)
    assert task.spent <= 150
    assert task.results()[1].min() < distance(values(space, task.start)).min()


def test_a_problem_remembers_what_it_evaluated() -> None:
    space = grid()
    recorder = Recorder(space)
    task = problem(space, recorder, "total<18", budget=5)
    some = draw_pool(space, 4, task.constraints, 1)
    beyond = space.to_codes([{"architecture": {f"x{i}": 9 for i in range(6)}, "recipe": {}}])
    _, first = task.evaluate(np.concatenate([some, beyond, some[:1]]))
    assert len(recorder.batches) == 1
    assert task.spent == 4
    np.testing.assert_array_equal(first.failed, [False] * 4 + [True, False])
    assert first.merit(4) == FAILURE
    assert first.merit(0) == first.merit(5) == Merit(0.0, float(distance(values(space, some[:1]))[0]))
    _, second = task.evaluate(draw_pool(space, 20, task.constraints, 2))
    assert task.spent == 5
    assert (~second.failed).sum() == 1  # the budget had room for one


@pytest.mark.parametrize("expensive", [False, True])
def test_a_poll_of_expensive_candidates_ends_with_the_first_batch_that_is_better(expensive: bool) -> None:
    space = grid(knobs=1, high=29)
    recorder = Recorder(space)
    task = Problem(space, (), recorder, np.zeros((0, 1)), 100, seed=0, batch=4, expensive=expensive)
    around = np.arange(8.0, 28.0)[:, None]
    merit = Merit(0.0, 25.0)  # of 12: better are 8 to 11
    codes, evaluation = task.poll(around, merit, np.random.default_rng(2))
    sizes = [len(batch) for batch in recorder.batches]
    assert len(codes) == len(evaluation.failed) == sum(sizes)
    assert evaluation.objectives.min() < merit.objective
    if not expensive:
        assert sizes == [20]
        return
    assert set(sizes) == {4}
    assert all(distance(values(space, batch)).min() >= merit.objective for batch in recorder.batches[:-1])
    assert distance(values(space, recorder.batches[-1])).min() < merit.objective


def test_the_front_of_two_objectives_is_found_by_nsga2() -> None:
    space = grid(knobs=4)

    def evaluation(codes: Codes) -> Evaluation:
        x = values(space, codes)
        return Evaluation(
            np.stack([((x - 9) ** 2).sum(axis=1), x.sum(axis=1)], axis=1), np.zeros((len(x), 0)), np.zeros(len(x), bool)
        )

    task = Problem(space, (), evaluation, draw_pool(space, 64, (), 5), 2500, seed=0, batch=100)
    evolve_front(task)
    _, objectives = task.results()
    # For a given sum the best is the most even one: 37 sums from 0 to 36, each with one least distance.
    best = {total: sum((9 - (total // 4 + (i < total % 4))) ** 2 for i in range(4)) for total in range(37)}
    met = sum(((objectives[:, 1] == total) & (objectives[:, 0] == least)).any() for total, least in best.items())
    assert met >= 33
    assert task.spent <= 2500


def test_nsga2_prefers_what_meets_the_bounds() -> None:
    space = grid(knobs=2)

    def evaluation(codes: Codes) -> Evaluation:
        x = values(space, codes)
        return Evaluation(x, np.maximum(0, 6 - x.sum(axis=1, keepdims=True)), np.zeros(len(x), bool))

    task = Problem(space, (), evaluation, space.to_codes(space.sample(4)), 100, seed=0, batch=20)
    evolve_front(task)
    codes, _ = task.results()
    assert (values(space, codes).sum(axis=1) == 6).sum() >= 5  # of the seven on the front


def test_nomad_runs_no_longer_than_its_search() -> None:
    space = grid()
    ENGINES["mads"](problem(space, Recorder(space), budget=300))
    processes = subprocess.run(["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True).stdout
    assert "nomad_process" not in processes


def test_the_message_of_a_nomad_that_dies_is_in_the_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from jointnas.search.engines import nomad_process

    broken = tmp_path / "broken.py"
    broken.write_text("import sys; sys.stdin.readline(); raise RuntimeError('no mesh today')")
    monkeypatch.setattr(nomad_process, "__file__", str(broken))
    space = grid()
    with pytest.raises(SearchError, match="no mesh today"):
        ENGINES["mads"](problem(space, Recorder(space)))


def test_ctrl_c_reaches_the_search_and_not_nomad(tmp_path: Path) -> None:
    script = tmp_path / "search.py"
    script.write_text(
        "import sys, time\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from tests.search.test_engines import *\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background inherits that it is ignored
        "space = grid()\n"
        "def slow(codes):\n"
        "    print('evaluating', flush=True)\n"
        "    time.sleep(0.2)\n"
        "    return Recorder(space)(codes)\n"
        "try:\n"
        "    ENGINES['mads'](problem(space, slow))\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        for _ in range(4):
            assert process.stdout.readline() == "evaluating\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.stdout.read().splitlines()[-1] == "interrupted"
    assert process.returncode == 0


def test_mads_says_what_it_needs_where_nomad_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jointnas.search.engines.mads.find_spec", lambda name: None)
    with pytest.raises(SearchError, match="PyNomadBBO"):
        find_engine("mads")


def test_adaptive_probabilities_fall_from_the_mean_to_the_best() -> None:
    population = np.array([0.0, 1.0, 2.0, 5.0])  # mean 2, best 5
    asked = np.array([-3.0, 0.0, 2.0, 3.0, 3.5, 5.0])
    expected = [0.9, 0.9, 0.9, 0.2 + 0.7 * 2 / 3, 0.2 + 0.7 * 0.5, 0.2]
    np.testing.assert_allclose(adaptive(asked, population, (0.2, 0.9)), expected, rtol=1e-12)


def test_adaptive_probabilities_of_equal_individuals_are_the_lowest() -> None:
    np.testing.assert_array_equal(adaptive(np.ones(3), np.ones(3), (0.5, 0.95)), [0.5] * 3)


def test_an_unknown_engine_suggests_the_nearest() -> None:
    with pytest.raises(SearchError, match=r"'evolutoin': did you mean 'evolution'\?"):
        find_engine("evolutoin")


def climb_by_another_package(problem: Problem) -> None:
    ENGINES["hillclimb"](problem)


def test_an_installed_package_adds_an_engine(tmp_path: Path) -> None:
    with install_package(tmp_path, "jointnas.engines", "climber", f"{__name__}:{climb_by_another_package.__name__}"):
        assert engine_names() == [*ENGINES, "climber"]
        assert find_engine("climber") is climb_by_another_package
        search = light(cube())
        batch = search.ask(6)
        search.tell(batch, [truth(c) for c in batch])
        assert [w.candidate for w in search.best(2, "climber")] == [w.candidate for w in search.best(2, "hillclimb")]
        assert {report.engine for report in search.reports} == {"hillclimb"}
        search.best(1, "all")
        assert {report.engine for report in search.reports} == {*ENGINES, "climber"}
    with pytest.raises(SearchError, match="no engine is called 'climber'"):
        find_engine("climber")


# --------------------------------------------------------------------------------------------------------------- ppo


def controlled(budget: int, constraint: str | None = None, seed: int = 0) -> Recorder:
    space = grid(knobs=3, high=3)
    recorder = Recorder(space)
    task = problem(space, recorder, *([constraint] if constraint else []), budget=budget, start=4)
    task.batch, task.seed = 8, seed
    find_engine(CONTROLLER)(task)
    return recorder


def test_the_controller_keeps_budget_bounds_and_batches() -> None:
    recorder = controlled(40, "total<6")
    assert len(recorder.codes) == 40
    assert len(set(recorder.space.identities(recorder.codes))) == 40
    assert (values(recorder.space, recorder.codes).sum(axis=1) < 6).all()
    assert max(len(batch) for batch in recorder.batches) <= 8


def test_the_controller_is_deterministic_in_its_seed() -> None:
    one, same, other = (controlled(24, seed=seed).codes for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_controller_comes_to_prefer_what_is_rewarded() -> None:
    rng, controller = torch.Generator().manual_seed(0), Controller([4, 4])
    optimizer = torch.optim.Adam(controller.parameters(), lr=0.01)
    for _ in range(60):
        actions, log_probabilities, _ = controller(16, rng)
        rewards = (actions[:, 1] == 2).float()
        optimizer.zero_grad()
        (-(log_probabilities * (rewards - rewards.mean())).mean()).backward()
        optimizer.step()
    assert (controller(200, rng)[0][:, 1] == 2).float().mean() > 0.8


def test_the_controller_proposes_better_candidates_with_time() -> None:
    space = grid(knobs=4, high=9)
    recorder = Recorder(space)
    task = problem(space, recorder, budget=2400, start=8)
    task.batch = 24
    find_engine(CONTROLLER)(task)
    distances = distance(values(space, recorder.codes))
    assert distances[-480:].mean() < distances[:480].mean() - 3


def test_a_continuous_knob_has_a_few_levels() -> None:
    space = Space.from_toml("format = 1\n[architecture]\nx = { low = 0.0, high = 1.0 }\ny = { values = [1, 5, 7] }\n")
    assert [len(levels(knob)) for knob in space.knobs] == [11, 3]
    assert levels(space.knobs[0]).min() == pytest.approx(0, abs=1e-3)


def test_all_engines_are_without_the_controller() -> None:
    assert CONTROLLER not in engine_names()
