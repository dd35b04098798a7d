"""The run store: what is written comes back, one writer at a time, and what is not committed leaves no trace."""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from jointnas.campaign.folders import find_run, list_runs
from jointnas.campaign.migrations import MIGRATIONS
from jointnas.campaign.options import make_spec
from jointnas.campaign.spec import BaselinesSpec, DirectSpec, SearchSpec
from jointnas.campaign.store import DATABASE, Context, Run
from jointnas.campaign.trial import Trial
from jointnas.errors import RunError
from jointnas.execution.slots import Slot
from jointnas.search.winners import Winner
from jointnas.training.observation import CurvePoint, Observation

SPEC = make_spec({"data": "digits", "rounds": 2, "constraints": ["macs<1M"], "train_steps": 9})
CONTEXT = Context("abc", (1, 8, 8), ("cat", "Öl"), Slot("cpu", 1, 2), "format = 1", "def")
SPECIFICATION = {  # of format 3, before specifications had a kind
    "data": {"source": "digits", "train_images": None, "val_images": None, "image_size": None, "seed": 4},
    "clock": {"train_steps": 9}, "seed": 4, "rounds": 2, "batch": 3, "top": 5, "engine": "mads", "early_stop": None,
    "confirm": 0, "objective": "max accuracy", "measure": [], "real": False, "repeats": 1, "prior": "def",
    "fingerprint": "abc", "input_shape": [1, 8, 8], "classes": ["cat", "Öl"], "space": "format = 1",
    "constraints": ["macs<1M"], "start": [], "slot": {"device": "cpu", "threads": 1, "workers": 2},
}  # fmt: skip
CANDIDATE = {"architecture": {"network": "resnet9", "width": 4}, "recipe": {"optimizer": "sgd", "flip": True}}
TRIALS = [
    Trial(1, 1, CANDIDATE, 10_001, "a"),
    Trial(
        2, 1, {"architecture": {"width": 6}, "recipe": {"learning_rate": 0.1}}, 10_002, "b", predicted=0.75, std=0.125
    ),
]
SEEN = Observation(
    accuracy=0.5,
    balanced_accuracy=0.4375,
    log_loss=1.5,
    smoothed_accuracy=0.46875,
    fraction=0.875,
    seconds=1.25,
    steps=20,
    step_seconds=0.0625,
    images_per_second=512.5,
    cpu_share=0.75,
    curve=(CurvePoint(0.25, 0.5, 5, 0.125, 2.25), CurvePoint(0.5, 0.75, 10, 0.25)),
)
WINNERS = [
    Winner(CANDIDATE, 0.9, 0.05, None, {"macs": 1000, "size": 4096}),
    Winner({}, 0.8, 0.1, 0.75, {}, ("mads", "hillclimb")),
]


@pytest.fixture
def run(tmp_path):
    with Run.create(tmp_path / "runs" / "first", SPEC, CONTEXT) as created:
        yield created


def version_of(path):
    with sqlite3.connect(path / DATABASE) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


def set_version(path, version):
    with sqlite3.connect(path / DATABASE) as db:
        db.execute(f"PRAGMA user_version = {version}")


def test_the_spec_and_the_context_come_back_as_they_were_written(run):
    assert run.spec.to_json() == SPEC.to_json()
    assert run.context == CONTEXT


def test_trials_come_back_in_order_with_their_observations_and_curves(run):
    run.add_trials(TRIALS)
    assert run.trials() == TRIALS
    run.end_trial(2, SEEN)
    assert run.trials() == [TRIALS[0], replace(TRIALS[1], observation=SEEN)]
    run.end_trial(1, Observation.failed("it diverged"))
    run.close()
    with Run.open(run.path) as again:
        assert again.trials()[0].observation == Observation.failed("it diverged")
        assert again.trials()[1].observation == SEEN


def test_ending_a_trial_twice_keeps_one_curve(run):
    run.add_trials(TRIALS)
    run.end_trial(1, replace(SEEN, curve=(*SEEN.curve, CurvePoint(0.75, 1.0, 15, 0.375))))
    run.end_trial(1, SEEN)
    assert run.trials()[0].observation == SEEN


def test_rounds_come_back_and_a_repeated_round_replaces_the_first(run):
    run.end_round(1, 3, None)
    run.end_round(2, 6, 0.5)
    run.end_round(2, 7, 0.625)
    found = [(r["number"], r["trials"], r["rank_correlation"]) for r in run.rounds()]
    assert found == [(1, 3, None), (2, 7, 0.625)]


def test_queries_and_their_winners_come_back_and_the_latest_is_the_default(run):
    assert run.add_query(["macs<1M"], "evolution", 3, WINNERS) == 1
    assert run.add_query([], "evolution", 0, WINNERS[1:]) == 2
    found = [(q["number"], q["constraints"], q["engine"], q["seed"]) for q in run.queries()]
    assert found == [(1, ["macs<1M"], "evolution", 3), (2, [], "evolution", 0)]
    assert run.winners(1) == WINNERS
    assert run.winners() == WINNERS[1:]


def test_retrained_winners_come_back_and_the_latest_of_a_budget_and_a_slot_stands(run):
    number = run.add_query([], "evolution", 0, WINNERS)
    short, long, alone, shared = {"train_steps": 5}, {"train_steps": 9}, {"workers": 1}, {"workers": 2}
    run.add_retrained(number, 2, short, alone, [0.5, 0.7], [0.4, 0.6])
    run.add_retrained(number, 1, short, alone, [0.1], [0.2])
    run.add_retrained(number, 1, long, alone, [0.2], [0.3])
    run.add_retrained(number, 1, short, shared, [0.6], [0.7])
    run.add_retrained(number, 1, short, alone, [0.3, 0.5], [0.4, 0.8])
    columns = ("rank", "candidate", "predicted", "std", "clock", "slot", "val_accuracies", "test_accuracies")
    assert [tuple(row[name] for name in columns) for row in run.retrained()] == [
        (1, CANDIDATE, 0.9, 0.05, long, alone, [0.2], [0.3]),
        (1, CANDIDATE, 0.9, 0.05, short, shared, [0.6], [0.7]),
        (1, CANDIDATE, 0.9, 0.05, short, alone, [0.3, 0.5], [0.4, 0.8]),
        (2, {}, 0.8, 0.1, short, alone, [0.5, 0.7], [0.4, 0.6]),
    ]


@pytest.mark.parametrize(
    ("query", "rank", "accuracies", "reason"),
    [
        (7, 1, [0.5], "no query 7: choose one of 1"),
        (1, 3, [0.5], "query 1 has 2 winners, got rank 3"),
        (1, 1, [], "no training of winner 1 succeeded"),
    ],
)
def test_what_no_winner_reached_is_not_recorded(run, query, rank, accuracies, reason):
    run.add_query([], "evolution", 0, WINNERS)
    with pytest.raises(RunError, match=reason):
        run.add_retrained(query, rank, {}, {}, accuracies, accuracies)
    assert run.retrained() == []


def make_old(path, version, specification=SPECIFICATION):
    """Make the database of a run as the first so many formats have it, with both trials asked for."""
    path.mkdir()
    with sqlite3.connect(path / DATABASE) as db:
        for script in MIGRATIONS[: min(version, 2)]:
            db.executescript(script)
        db.row_factory = sqlite3.Row
        for migrate in MIGRATIONS[2:version]:
            migrate(db)
        rows = specification.items()
        db.executemany("INSERT INTO specification VALUES (?, ?)", [(key, json.dumps(value)) for key, value in rows])
        db.executemany(
            "INSERT INTO trials (number, round, identity, candidate, seed, predicted, std, asked_at) VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
            [(t.number, t.round, t.identity, json.dumps(t.candidate), t.seed, t.predicted, t.std) for t in TRIALS],
        )
    set_version(path, version)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_run_of_an_older_format_gains_what_it_lacks_and_keeps_what_it_has(tmp_path, version):
    make_old(tmp_path / "old", version)
    with Run.open(tmp_path / "old", write=True) as run:
        assert run.trials() == TRIALS
        assert run.retrained() == []
        run.end_trial(1, SEEN)
        assert run.trials() == [replace(TRIALS[0], observation=SEEN), TRIALS[1]]
    assert version_of(tmp_path / "old") == len(MIGRATIONS)


def test_the_columns_and_curves_of_format_2_become_observations_to_the_bit(tmp_path):
    third = 1 / 3  # a number that fifteen decimal digits do not hold
    make_old(tmp_path / "old", 2)
    with sqlite3.connect(tmp_path / "old" / DATABASE) as db:
        db.execute(
            "UPDATE trials SET ended_at = 9, accuracy = ?, balanced_accuracy = ?, fraction = 1, seconds = ?, steps = 7, "
            "images_per_second = ? WHERE number = 1",
            (third, third / 2, 10 * third, 100 * third),
        )
        db.execute("UPDATE trials SET ended_at = 9, fraction = 1, failure = 'it diverged' WHERE number = 2")
        db.executemany("INSERT INTO curves VALUES (1, ?, ?, ?, ?)", [(0.5, 2.0, 4, third), (0.25, third, 2, 0.125)])
    curve = (CurvePoint(0.25, third, 2, 0.125), CurvePoint(0.5, 2.0, 4, third))
    ended = Observation(
        third, third / 2, seconds=10 * third, steps=7, images_per_second=100 * third, curve=curve, log_loss=None
    )
    with Run.open(tmp_path / "old") as run:
        assert [t.observation for t in run.trials()] == [ended, Observation.failed("it diverged")]
    with sqlite3.connect(tmp_path / "old" / DATABASE) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert names.isdisjoint({"curves", "converted"})


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, SearchSpec),
        ({"real": True, "repeats": 3}, DirectSpec),
        ({"baselines": ["lenet"], "space": None}, BaselinesSpec),
    ],
)
def test_a_run_of_format_3_gains_a_kind_and_parts_what_it_was_asked_from_what_it_met(tmp_path, changes, kind):
    make_old(tmp_path / "old", 3, {**SPECIFICATION, **changes})
    with Run.open(tmp_path / "old") as run:
        spec, context = run.spec, run.context
    assert type(spec) is kind
    assert (spec.workers, spec.device, spec.seed, spec.clock) == (2, "cpu", 4, {"train_steps": 9})
    assert (context.fingerprint, context.classes, context.slot, context.prior) == (
        "abc",
        ("cat", "Öl"),
        CONTEXT.slot,
        "def",
    )
    if isinstance(spec, SearchSpec):
        assert (spec.constraints, spec.rounds, spec.batch, spec.engine, spec.prior) == (
            ("macs<1M",),
            2,
            3,
            "mads",
            None,
        )
        assert getattr(spec, "repeats", 3) == 3
    else:
        assert spec.repeats == 2


def test_words_behind_identities_become_kinds_and_repeats(tmp_path):
    make_old(tmp_path / "old", 3)
    rows = [(3, 0, "a confirmed"), (4, 2, "c"), (5, 2, "c 2"), (6, 2, "c 3")]
    with sqlite3.connect(tmp_path / "old" / DATABASE) as db:
        db.executemany(
            "INSERT INTO trials (number, round, identity, candidate, seed, asked_at) VALUES (?, ?, ?, '{}', 0, 0)", rows
        )
    with Run.open(tmp_path / "old") as run:
        assert [(t.identity, t.round, t.kind, t.repeat) for t in run.trials()] == [
            ("a", 1, "trial", 0),
            ("b", 1, "trial", 0),
            ("a", 2, "confirmation", 0),
            ("c", 2, "trial", 0),
            ("c", 2, "repeat", 1),
            ("c", 2, "repeat", 2),
        ]


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS) + 1))
def test_a_kept_database_of_every_format_is_read_whole(version, tmp_path):
    (tmp_path / "old").mkdir()
    with sqlite3.connect(tmp_path / "old" / DATABASE) as db:
        db.executescript((Path(__file__).parent / "formats" / f"{version}.sql").read_text())
    with Run.open(tmp_path / "old") as run:
        assert (run.spec.clock, run.context.classes, run.created_at) == ({"train_steps": 9}, ("cat", "Öl"), 8.0)
        first, second = run.trials()
        assert (first.candidate, second.candidate) == (TRIALS[0].candidate, TRIALS[1].candidate)
        assert (first.observation.accuracy, first.observation.curve) == (0.5, (CurvePoint(0.25, 0.5, 5, 0.125),))
        assert (second.observation, second.predicted, first.disturbed, first.parent) == (None, 0.75, None, None)
        assert [(r["number"], r["rank_correlation"]) for r in run.rounds()] == [(1, 0.25)]
        assert run.winners() == [Winner(CANDIDATE, 0.9, 0.05, None, {"macs": 1000})]
        assert [r["test_accuracies"] for r in run.retrained()] == ([[0.4]] if version > 1 else [])
    assert version_of(tmp_path / "old") == len(MIGRATIONS)


def test_several_that_open_an_older_run_at_once_all_get_it(tmp_path):
    path, together = tmp_path / "old", Barrier(4)
    make_old(path, 1)

    def read(_):
        together.wait()
        with Run.open(path) as run:
            return run.trials()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(read, range(4))) == [TRIALS] * 4
    assert version_of(path) == len(MIGRATIONS)


def test_a_query_that_was_never_asked_is_refused_with_those_that_were(run):
    with pytest.raises(RunError, match="--resume"):
        run.winners()
    run.add_query([], "evolution", 0, WINNERS)
    with pytest.raises(RunError, match=r"no query 7: choose one of 1"):
        run.winners(7)


def test_a_batch_with_a_candidate_that_was_asked_before_is_refused_whole(run):
    run.add_trials(TRIALS[:1])
    with pytest.raises(sqlite3.IntegrityError):
        run.add_trials([TRIALS[1], replace(TRIALS[1], number=3, identity="a")])
    assert run.trials() == TRIALS[:1]
    run.add_trials(TRIALS[1:])  # the failed transaction is over, the next one works
    assert run.trials() == TRIALS


def test_an_observation_that_cannot_be_stored_leaves_the_trial_as_it_was(run):
    run.add_trials(TRIALS)
    with pytest.raises(TypeError):
        run.end_trial(1, replace(SEEN, failure=ValueError("no JSON")))
    assert run.trials() == TRIALS


def test_a_second_writer_is_refused_while_the_first_is_at_work_and_readers_are_not(run):
    with pytest.raises(RunError, match="in use"):
        Run.open(run.path, write=True)
    with Run.open(run.path) as reader:
        assert reader.context == CONTEXT
    run.close()
    with Run.open(run.path, write=True) as writer:
        assert writer.context == CONTEXT


def test_a_reader_sees_each_trial_as_soon_as_it_is_recorded(run):
    with Run.open(run.path) as reader:
        run.add_trials(TRIALS)
        assert reader.trials() == TRIALS
        run.end_trial(1, SEEN)
        assert reader.trials()[0].observation == SEEN


def test_a_new_run_does_not_go_into_a_folder_that_exists(run, tmp_path):
    with pytest.raises(RunError, match=r"exists.*--resume"):
        Run.create(run.path, SPEC, CONTEXT)
    assert run.context == CONTEXT
    with pytest.raises(RunError, match="exists"):
        Run.create(tmp_path, SPEC, CONTEXT)
    assert not (tmp_path / DATABASE).exists()


def test_a_missing_run_is_told_with_the_nearest_there_is(run):
    with pytest.raises(RunError, match="did you mean 'first'"):
        find_run(run.path.with_name("frist"))


def test_a_run_cannot_be_made_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be made.*--out"):
        Run.create(tmp_path / "file" / "run", SPEC, CONTEXT)


def test_a_new_run_has_seen_every_migration_and_opening_it_changes_nothing(run):
    run.add_trials(TRIALS)
    run.close()
    assert version_of(run.path) == len(MIGRATIONS)
    with Run.open(run.path, write=True) as again:
        assert again.trials() == TRIALS
    assert version_of(run.path) == len(MIGRATIONS)


def test_a_run_of_a_newer_version_is_refused_with_both_formats(run):
    run.close()
    set_version(run.path, len(MIGRATIONS) + 4)
    for write in (False, True, True):  # twice: a refused writer does not stay locked in
        with pytest.raises(
            RunError, match=f"has format {len(MIGRATIONS) + 4}, but this version reads up to {len(MIGRATIONS)}"
        ):
            Run.open(run.path, write=write)


def test_a_database_without_a_format_is_refused(tmp_path):
    sqlite3.connect(tmp_path / DATABASE).close()
    (tmp_path / DATABASE).touch()
    with pytest.raises(RunError, match="is empty"):
        Run.open(tmp_path)


def test_a_file_that_is_no_database_is_refused_every_time_it_is_opened(tmp_path):
    (tmp_path / DATABASE).write_bytes(b"no database at all" * 100)
    with pytest.raises(RunError, match="cannot be used") as first:
        Run.open(tmp_path, write=True)
    with pytest.raises(RunError, match="cannot be used"):
        Run.open(tmp_path, write=True)
    assert first.value is not None


def test_runs_are_listed_and_found_by_their_names(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "no-run").mkdir()
    assert [p.name for p in list_runs()] == ["first"]
    assert find_run("first").resolve() == run.path.resolve()
    assert find_run(str(run.path)) == run.path
