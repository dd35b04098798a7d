"""The meter: what a figure is, what it depends on, and that it is measured once."""

import json
import multiprocessing
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import accumulate
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from jointnas.errors import ConstraintError, DataError
from jointnas.execution import Slot
from jointnas.measurement.features import PHASES
from jointnas.measurement.inference import (
    BATCH,
    Call,
    EnergyCounter,
    energy_counters,
    forward,
    measure_energy,
    measure_inference,
    timed,
    warm_up,
)
from jointnas.measurement.meter import Meter, measure
from jointnas.measurement.store import Store, key, surroundings
from jointnas.measurement.training import (
    as_measured,
    kept_bytes,
    make_trainer,
    measure_training,
    peak_bytes,
    random_data,
    step_memory,
)
from jointnas.network.blueprint import BlockBuilder, Blueprint
from jointnas.network.families import make_blueprint
from jointnas.network.module import Network
from jointnas.space.constraint import MEASURED, TRAINING_METRICS
from jointnas.training.clock import StepClock
from jointnas.training.recipe import EACH_VALUE, NEVER, SWITCH, Recipe, knob, knob_fields, knobs_by_speed
from jointnas.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)
SLOT = Slot("cpu", 1, 1)
TINY = {"network": "resnet9", "width": 4, "depth1": 0, "depth3": 0, "whitening": False}


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time a fifth as long, for tests that read no speeds."""
    monkeypatch.setattr("jointnas.measurement.inference.WARM_UP_SECONDS", 0.1)
    monkeypatch.setattr("jointnas.measurement.training.TIMED_SECONDS", 0.15)


def tiny(width: int = 4, shape: tuple[int, int, int] = SHAPE) -> Blueprint:
    return make_blueprint({**TINY, "width": width}, shape, 10)


def candidate(**recipe: Any) -> dict[str, Any]:
    return {"architecture": TINY, "recipe": {"batch_size": 128, **recipe}}


# -------------------------------------------------------------------------------------------------------------- time


class Work:
    """Calls that take these seconds in turn, the last one for ever, on a clock that they alone move."""

    def __init__(self, *seconds: float) -> None:
        self.seconds, self.time, self.calls = seconds, 0.0, 0

    def __call__(self) -> None:
        self.time += self.seconds[min(self.calls, len(self.seconds) - 1)]
        self.calls += 1

    def now(self) -> float:
        return self.time


@pytest.mark.parametrize(("side", "batch", "batches"), [(8, 128, 8), (32, 128, 4), (32, 16, 8), (64, 256, 2)])
def test_few_batches_are_timed_at_once_also_of_tiny_images(side: int, batch: int, batches: int) -> None:
    network = make_blueprint({"network": "resnet9", "width": 4}, (1, side, side), 10)
    trainer = make_trainer(network, Recipe(batch_size=batch), 10, StepClock(2), torch.device("cpu"))
    assert trainer.batches.n == batches * batch


def test_a_warm_up_goes_on_while_calls_become_faster_and_a_tenth_of_a_second_longer() -> None:
    work = Work(0.03125, 0.03, 0.025, 0.0125)
    warm_up(work, work.now)
    assert work.calls == 4 + 8  # eight calls of an eightieth of a second that are no faster


def test_a_warm_up_ends_though_calls_become_faster_for_ever() -> None:
    work = Work(*[0.1 * 0.9**i for i in range(100)])
    warm_up(work, work.now)
    assert 0.5 <= work.time < 0.6


def test_a_slow_call_is_warmed_up_twice_and_timed_three_times() -> None:
    work = Work(5.0)
    warm_up(work, work.now)
    assert work.calls == 2
    assert timed(work, work.now) == [5.0] * 3


def test_fast_calls_are_timed_for_three_quarters_of_a_second() -> None:
    work = Work(0.125)
    assert timed(work, work.now) == [0.125] * 6


def test_a_timing_is_the_median_and_the_95th_percentile_of_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jointnas.measurement.inference.warm_up", lambda call: call())
    monkeypatch.setattr("jointnas.measurement.inference.timed", lambda call: [float(n) for n in range(1, 102)])
    assert measure_inference(tiny(), CPU, 1) == (51.0, 96.0)


def test_every_scored_view_is_timed() -> None:
    passes = []
    handle = register_module_forward_pre_hook(lambda module, inputs: passes.append(module))
    try:
        seen = []
        for flip in (False, True):
            forward(tiny(), CPU, 5, flip)()
            seen.append(sum(isinstance(module, Network) for module in passes))
            passes.clear()
    finally:
        handle.remove()
    assert seen == [1, 2]


def test_a_figure_of_two_views_is_not_that_of_one() -> None:
    place = surroundings(SLOT)
    for metric in MEASURED:
        names = {key(metric, tiny(), Recipe(test_flip=flip), place) for flip in (False, True)}
        assert len(names) == (1 if metric in TRAINING_METRICS else 2)


def test_a_forward_pass_is_that_of_scoring_and_leaves_nothing_to_differentiate() -> None:
    seen: list[torch.Tensor] = []
    handle = register_module_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        forward(tiny(shape=(3, 8, 8)), CPU, 5)()
    finally:
        handle.remove()
    images = seen[0]
    assert images.shape == (5, 3, 8, 8)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.is_inference() or not images.requires_grad


# ------------------------------------------------------------------------------------------------------------ energy


def powercap(folder: Path, **microjoules: int) -> Path:
    """Write the files in which Linux tells what its counters stand at."""
    for i, (name, value) in enumerate(microjoules.items()):
        domain = folder / f"intel-rapl:{i}"
        domain.mkdir()
        (domain / "name").write_text(name.replace("_", "-") + "\n")
        (domain / "energy_uj").write_text(f"{value}\n")
        (domain / "max_energy_range_uj").write_text("262143328850\n")
    return folder


def test_a_cpus_joules_are_those_of_its_packages(tmp_path: Path) -> None:
    counters = energy_counters(CPU, powercap(tmp_path, package_0=3_000_000, psys=9_000_000, package_1=500_000))
    assert [counter.read() for counter in counters] == [3.0, 0.5]
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("4250000")
    assert counters[0].since(3.0) == 1.25


def test_a_counter_that_began_again_counts_on() -> None:
    assert EnergyCounter(lambda: 2.0, limit=100.0).since(95.0) == 7.0


def test_an_images_energy_is_that_of_a_batch_over_its_images() -> None:
    joules = 0.0

    def draw(module: torch.nn.Module, inputs: object) -> None:
        nonlocal joules
        joules += 128.0 * isinstance(module, Network)

    handle = register_module_forward_pre_hook(draw)
    try:
        assert measure_energy(tiny(), CPU, [EnergyCounter(lambda: joules)] * 2) == 2 * 128 / BATCH
    finally:
        handle.remove()


def test_energy_without_a_counter_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ConstraintError, match=r"measured on this cpu device: .* has no counters"):
        energy_counters(CPU, tmp_path)
    folder = powercap(tmp_path, package_0=1)
    (folder / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(ConstraintError, match=r"make .*intel-rapl:0/energy_uj readable, or leave energy out"):
        energy_counters(CPU, folder)


# ------------------------------------------------------------------------------------------------------------ memory


def test_the_peak_is_the_most_that_is_alive_at_once() -> None:
    weights = torch.zeros(7000)

    def work() -> None:
        first = torch.empty(1000)
        second = torch.empty(2000)  # 12,000 bytes
        del first
        third = second[:500].view(5, 100)  # no bytes of its own
        fourth = third + 1  # 10,000 bytes
        weights.add_(1)
        del second, third, fourth
        torch.empty(2500)  # 10,000 bytes

    assert peak_bytes(work, CPU) == 12_000


def test_the_peak_of_a_step_is_a_little_below_what_the_profiler_sees_allocated() -> None:
    trainer = make_trainer(tiny(16), Recipe(batch_size=64, gradient="sam", ema=0.9), 10, StepClock(1), CPU)
    trainer.step(iter(trainer.batches))
    trainer.optimizer.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer.step(iter(trainer.batches))
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    allocated = max(accumulate(event.nbytes() for event in changes))
    trainer.optimizer.zero_grad(set_to_none=True)
    assert 0.9 * allocated < peak_bytes(lambda: trainer.step(iter(trainer.batches)), CPU) <= allocated


def linear(features: int = 10) -> Blueprint:
    block = BlockBuilder("head")
    block.add("flatten")
    block.add("linear", features=features, bias=True)
    return Blueprint.chain((1, 4, 4), [block.build()])


@pytest.mark.parametrize(
    ("knobs", "copies"),
    [
        ({}, 2),
        ({"momentum": 0.0}, 1),
        ({"optimizer": "rmsprop"}, 2),
        ({"ema": 0.9}, 3),
        ({"lookahead": 5}, 3),
        ({"ema": 0.99, "lookahead": 1}, 4),
    ],
)
def test_a_training_keeps_its_weights_the_optimizers_state_and_the_averages(knobs: dict[str, Any], copies: int) -> None:
    trainer = make_trainer(linear(), Recipe(batch_size=8, **knobs), 10, StepClock(1), CPU)
    step_memory(trainer)
    steps = 2 * 4 if knobs.get("optimizer") == "rmsprop" else 0  # a counter for each of two parameters
    assert kept_bytes(trainer) == copies * 4 * (16 * 10 + 10) + steps


def test_a_step_holds_the_activations_and_the_gradients_of_its_batch() -> None:
    block = BlockBuilder("body")
    for _ in range(6):
        block.conv(channels=16, kernel=1)
        block.add("relu")
    block.add("global_avg_pool")
    block.add("flatten")
    block.add("linear", features=10, bias=False)
    network = Blueprint.chain((1, 16, 16), [block.build()])

    def peak(batch: int) -> int:
        trainer = make_trainer(network, Recipe(batch_size=batch), 10, StepClock(1), CPU)
        return step_memory(trainer) - kept_bytes(trainer)

    saved = 4 * 16 * 16 * (1 + 6 * 16)  # bytes an image: itself, and six maps of 16 channels for the way back
    assert saved * 64 < peak(64) < 2.5 * saved * 64
    assert peak(128) == pytest.approx(2 * peak(64), rel=0.05)


def test_averages_a_second_gradient_and_a_larger_batch_take_memory() -> None:
    def of(**knobs: Any) -> int:
        return step_memory(make_trainer(tiny(128), Recipe(**{"batch_size": 8, **knobs}), 10, StepClock(1), CPU))

    weights = kept_bytes(make_trainer(tiny(128), Recipe(batch_size=8), 10, StepClock(1), CPU))
    plain = of()
    assert of(ema=0.9) == pytest.approx(plain + weights, rel=0.05)
    assert of(gradient="sam") > plain
    assert of(batch_size=16) > plain


# ---------------------------------------------------------------------------------------------------------- training


@pytest.fixture
def convolved_pixels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a timed call take as many seconds as its convolutions read pixels, whatever else the machine does."""
    pixels = []

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, torch.nn.Conv2d):
            pixels.append(len(inputs[0]) * inputs[0].shape[-2:].numel())

    def timed_pixels(call: Call, **limits: float) -> list[float]:
        pixels.clear()
        call()
        return [float(sum(pixels))]

    monkeypatch.setattr("jointnas.measurement.training.warm_up", lambda call: call())
    monkeypatch.setattr("jointnas.measurement.training.timed", timed_pixels)
    handle = register_module_forward_pre_hook(count)
    yield
    handle.remove()


@pytest.mark.usefixtures("convolved_pixels")
def test_sams_second_pass_takes_its_time_in_the_steps_that_take_it() -> None:
    plain, sam, half = (
        measure_training(tiny(), Recipe(batch_size=128, **knobs), 10, CPU)
        for knobs in ({}, {"gradient": "sam"}, {"gradient": "sam", "sam_every": 2})
    )
    assert plain.images_per_second / sam.images_per_second == pytest.approx(2)
    assert plain.images_per_second / half.images_per_second == pytest.approx(1.5)
    assert half.train_memory == pytest.approx(sam.train_memory, rel=0.01)


@pytest.mark.usefixtures("convolved_pixels")
def test_images_that_grow_are_trained_faster_and_held_at_full_size() -> None:
    network = tiny(4, (3, 32, 32))
    full = measure_training(network, Recipe(batch_size=32), 10, CPU)
    grow = measure_training(network, Recipe(batch_size=32, start_resolution=0.5, resize_until=1.0), 10, CPU)
    sides = [0.5 + 0.5 * (phase + 0.5) / PHASES for phase in range(PHASES)]
    expected = sum(1 / side**2 for side in sides) / PHASES
    assert grow.images_per_second / full.images_per_second == pytest.approx(expected, rel=0.1)  # sides are whole pixels
    assert grow.train_memory == pytest.approx(full.train_memory, rel=0.05)


@pytest.mark.usefixtures("brief")
def test_measuring_a_training_leaves_the_random_state_as_it_was() -> None:
    before = torch.get_rng_state()
    measure_training(tiny(), Recipe(batch_size=128, dropout=0.1), 10, CPU)
    assert torch.equal(torch.get_rng_state(), before)


# ----------------------------------------------------------------------------------------- knobs that a figure is of


def test_every_knob_is_costly_or_a_switch_or_free() -> None:
    assert sorted(n for speed in (EACH_VALUE, SWITCH, NEVER) for n in knobs_by_speed(speed)) == sorted(knob_fields())


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what torch is asked to do."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def operations_of_a_step(recipe: Recipe) -> list[str]:
    """Return the operations of a training's second step, in which averages are due."""
    data = random_data((3, 8, 8), 10, 16)
    network = make_blueprint({**TINY, "depth1": 1}, (3, 8, 8), 10)
    torch.manual_seed(0)
    trainer = Trainer(network, recipe, data, StepClock(1), 0, CPU)
    batches = iter(trainer.batches)
    trainer.step(batches)
    with Operations() as operations:
        trainer.step(batches)
    seen: list[str] = operations.seen
    return seen


BESIDE: dict[str, dict[str, Any]] = {
    "sam_rho": {"gradient": "sam"},
    "mltp_rate": {"gradient": "mltp"},
    "lookahead_rate": {"lookahead": 1},
    "cycles": {"schedule": "sgdr"},
    "cycle_growth": {"schedule": "sgdr"},
    "mix_probability": {"mixup": 1.0},
    "policy_magnitude": {"policy": "randaugment"},
}
"""What switches a free knob on."""


def extremes(name: str) -> tuple[Any, ...]:
    about = knob(name).metadata
    return tuple(about.get("choices") or (about["low"], about["high"]))


@pytest.mark.parametrize("name", [n for n in knobs_by_speed(NEVER) if n != "class_weights"])  # it is of a few numbers
def test_a_free_knob_leaves_a_step_the_operations_it_has(name: str) -> None:
    recipes = [Recipe(**{"batch_size": 8, **BESIDE.get(name, {}), name: value}) for value in extremes(name)]
    assert all(operations_of_a_step(recipe) == operations_of_a_step(recipes[0]) for recipe in recipes[1:])
    assert all(as_measured(recipe) == as_measured(recipes[0]) for recipe in recipes[1:])


@pytest.mark.parametrize("name", knobs_by_speed(SWITCH))
def test_a_switch_changes_a_steps_operations_from_zero_on_and_no_further(name: str) -> None:
    off, low, high = (Recipe.from_knobs({"batch_size": 8, name: value}) for value in (0.0, 0.25, 0.75))
    assert operations_of_a_step(off) != operations_of_a_step(low)
    assert operations_of_a_step(low) == operations_of_a_step(high)
    assert as_measured(off) != as_measured(low) == as_measured(high)


@pytest.mark.parametrize("name", knobs_by_speed(EACH_VALUE))
def test_a_costly_knob_is_measured_as_it_is(name: str) -> None:
    for value in extremes(name):
        assert getattr(as_measured(Recipe(**{name: value})), name) == value


# ------------------------------------------------------------------------------------------------------------- store


def test_a_store_gives_back_what_it_knows_and_the_latest_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "figures.sqlite")
    store.write({"a": 1.5, "b": 2e-5})
    store.write({"b": 3e-5})
    assert Store(store.path).read(["b", "c", "a"]) == {"a": 1.5, "b": 3e-5}


def write_thirty(path: Path, name: str) -> None:
    for i in range(30):
        Store(path).write({f"{name} {i}": float(i)})


def test_two_processes_write_one_store(tmp_path: Path) -> None:
    path = tmp_path / "figures.sqlite"
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write_thirty, args=(path, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(Store(path).read(f"{name} {i}" for name in "ab" for i in range(30))) == 60


def test_a_store_without_a_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be stored in .*set JOINTNAS_CACHE"):
        Store(tmp_path / "file" / "figures.sqlite").read(["a"])
    (tmp_path / "figures.sqlite").write_text("this is no database, whatever its name says")
    with pytest.raises(DataError, match="delete the file"):
        Store(tmp_path / "figures.sqlite").write({"a": 1.0})


def test_a_figure_is_kept_under_all_that_it_depends_on() -> None:
    place = surroundings(SLOT)
    assert place["torch"] == torch.__version__
    assert place["name"]
    recipe = Recipe()
    others = [
        key("train_memory", tiny(), recipe, place),
        key("images_per_second", tiny(8), recipe, place),
        *(key("images_per_second", tiny(), recipe, surroundings(Slot("cpu", t, w))) for t, w in ((2, 1), (1, 2))),
        *(key("images_per_second", tiny(), recipe, {**place, name: "another"}) for name in ("name", "torch")),
        *(
            key("images_per_second", tiny(), replace(recipe, **knobs), place)
            for knobs in ({"batch_size": 64}, {"ema": 0.9})
        ),
    ]
    keys = [key("images_per_second", tiny(), recipe, place), *others]
    assert len(set(keys)) == len(keys)
    assert key("images_per_second", tiny(), replace(recipe, learning_rate=1.0, sam_every=3), place) == keys[0]


def test_an_inference_figure_is_the_same_for_every_recipe() -> None:
    place = surroundings(SLOT)
    for metric in MEASURED:
        keys = {key(metric, tiny(), recipe, place) for recipe in (Recipe(), Recipe(batch_size=7, optimizer="adam"))}
        assert len(keys) == (2 if metric in TRAINING_METRICS else 1)
        assert json.loads(keys.pop())["metric"] == metric


# ------------------------------------------------------------------------------------------------------------- meter


def test_a_metric_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConstraintError, match="no measured metric is called 'latencies': did you mean 'latency'"):
        measure(candidate(), SHAPE, 10, ["latencies"], CPU)


@pytest.mark.usefixtures("brief")
def test_a_candidates_metrics_are_those_asked_for() -> None:
    found = measure(candidate(), SHAPE, 10, ["batch_latency", "train_memory", "latency_p95"], CPU)
    assert list(found) == ["batch_latency", "train_memory", "latency_p95"]
    assert 0 < found["latency_p95"] < 1
    assert found["train_memory"] > 1000


def unbuildable() -> Blueprint:
    """Return a network whose weights take a petabyte."""
    block = BlockBuilder("head")
    block.add("flatten")
    block.add("linear", features=65536, bias=False)
    return Blueprint.chain((65536, 256, 256), [block.build()])


def test_a_meter_measures_each_figure_once_and_a_failure_is_not_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jointnas.measurement.meter.QUIET_CPU_SHARE", 0.0)  # whatever else this machine does
    store = Store(tmp_path / "figures.sqlite")
    metrics = ["latency", "train_memory"]
    asked = [candidate(), candidate(learning_rate=1.0), candidate(ema=0.9)]
    with Meter(SLOT, SHAPE, 10, store) as meter:
        first, same, other = meter.measure(asked, metrics)
        assert first == same
        assert other["latency"] == first["latency"]  # of the same network
        assert other["train_memory"] > first["train_memory"]
        broken, after = meter.measure_workloads([(unbuildable(), Recipe()), (tiny(8), Recipe())], ["latency"])
        assert isnan(broken["latency"])
        assert "out of memory" in meter.failures[0]
        assert after["latency"] > 0
    with Meter(SLOT, SHAPE, 10, store) as again:
        assert again.measure(asked, metrics) == [first, same, other]
        assert again.failures == ()


def test_what_is_measured_beside_a_busy_program_is_returned_but_not_kept_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jointnas.measurement.meter.QUIET_CPU_SHARE", 1.1)  # as if it were never quiet
    store = Store(tmp_path / "figures.sqlite")
    with Meter(SLOT, SHAPE, 10, store) as meter:
        (first,) = meter.measure([candidate()], ["latency"])
        assert first["latency"] > 0
        assert meter.measure([candidate()], ["latency"]) == [first]
    assert store.read([key("latency", tiny(), Recipe(), surroundings(SLOT))]) == {}


def test_a_metric_that_cannot_be_measured_leaves_the_others(tmp_path: Path) -> None:
    head = BlockBuilder("head")
    for operation in ("global_avg_pool", "flatten"):
        head.add(operation)
    head.add("linear", features=10, bias=False)
    whole = Blueprint.chain((3, 1024, 1024), [head.build()])
    recipe = Recipe(batch_size=65536)  # whose images alone are 800 gigabytes
    with Meter(SLOT, SHAPE, 10, Store(tmp_path / "figures.sqlite")) as meter:
        (found,) = meter.measure_workloads([(whole, recipe)], ["latency", "train_memory"])
        assert found["latency"] > 0
        assert isnan(found["train_memory"])
        assert "out of memory" in meter.failures[0]


def test_a_store_that_breaks_while_it_is_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "figures.sqlite"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE figures (something TEXT)")
    with pytest.raises(DataError, match="delete the file or set JOINTNAS_CACHE"):
        Store(path).read(["any"])


def test_a_librarys_network_is_measured_again_with_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_blueprint({"network": "library", "name": "resnet18"}, (3, 32, 32), 10)
    before = key("latency", network, Recipe(), surroundings(SLOT))
    monkeypatch.setattr("jointnas.measurement.store.version", lambda name: "999")
    assert key("latency", network, Recipe(), surroundings(SLOT)) != before


def test_a_meter_without_a_worker_answers_from_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "figures.sqlite")
    store.write({key("latency", tiny(), Recipe(), surroundings(SLOT)): 0.25})
    with Meter(SLOT, SHAPE, 10, store) as meter:
        assert meter.measure([candidate()], ["latency"]) == [{"latency": 0.25}]
