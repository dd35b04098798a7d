"""What `jointnas search` does with a space, data and a budget: conduct the campaign, or say what it would be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jointnas.cli.answers import Answer, print_forecast
from jointnas.cli.common import interruptible, messages, print_failures, print_json, print_table

if TYPE_CHECKING:
    from jointnas.campaign.store import Trial
    from jointnas.search.winners import Winner
    from jointnas.space.knob_space import Candidate
    from jointnas.space.space import Space


def conduct(
    spec: dict[str, Any],
    unbound: Space,
    constraints: list[str],
    starts: dict[str, Candidate],
    workers: int,
    device: str,
    out: Path | None,
    resume: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Search, with rounds of trainings or an engine over real ones, and print the winners; with `dry_run` say what it would do."""
    from jointnas.campaign.campaign import Campaign, local_executor
    from jointnas.campaign.direct import RealSearch, best_trained
    from jointnas.campaign.registry import CONTEXT, find_prior
    from jointnas.campaign.store import CONFIRMING
    from jointnas.cli.display import Display
    from jointnas.cli.folders import open_run
    from jointnas.data import DataSpec, load_data
    from jointnas.errors import SpaceError
    from jointnas.execution import share_slots
    from jointnas.measurement.meter import Meter
    from jointnas.search.search import Search
    from jointnas.training.clock import clock_from_json

    slot = share_slots(workers, device)
    data_spec = DataSpec(**spec["data"], seed=spec["seed"])
    if unbound.is_abstract:
        raise SpaceError(
            f'a space to train in has a network, got none in {unbound.name!r}: add network = "resnet9", or use jointnas.Search'
        )
    data = load_data(data_spec)
    for note in data.notes:
        messages.print(note)
    space = unbound.bind(data.input_shape, len(data.classes))
    start = [_brought_in(name, candidate, space) for name, candidate in starts.items()]
    prior = find_prior(spec["prior"], space)
    meter = Meter(slot, data.input_shape, len(data.classes))
    with meter:  # its worker ends before any training begins
        search = Search(
            space,
            constraints,
            seed=spec["seed"],
            objective=spec["objective"],
            meter=meter,
            reported=spec["measure"],
            start=start,
            prior=prior,
        )
        print_forecast(search)
    specification = {
        **spec,
        "data": data_spec.to_json(),
        "fingerprint": data.fingerprint,
        "input_shape": list(data.input_shape),
        "classes": list(data.classes),
        "space": space.to_toml(),
        "constraints": [str(c) for c in search.constraints],
        "start": start,
        "slot": slot.to_json(),
        "prior": prior and prior.digest,
    }
    if dry_run:
        _describe(specification, search, data, as_json)
        return
    run = open_run(out, specification, space.name, resume)
    if prior is not None:
        source = prior.context.get("data", {}).get("source", "an earlier campaign")
        messages.print(f"starts from what {len(prior.candidates)} trials on {source} tell: --prior none for nothing")
    with run, interruptible(f"go on with the same command, --resume and --out {run.path}"):
        with (
            local_executor(specification["data"], slot, data.fingerprint) as executor,
            Display(spec["batch"], workers, spec["clock"]) as display,
        ):
            clock = clock_from_json(spec["clock"])
            campaign = None
            if spec["real"]:
                RealSearch(
                    search,
                    run,
                    executor,
                    clock,
                    spec["engine"],
                    spec["rounds"] * spec["batch"],
                    spec["batch"],
                    spec["repeats"],
                    spec["top"],
                    spec["seed"],
                    display,
                ).conduct()
            else:
                campaign = Campaign(
                    search,
                    run,
                    executor,
                    clock,
                    spec["rounds"],
                    spec["batch"],
                    spec["seed"],
                    display,
                    early_stop=spec["early_stop"],
                )
                campaign.conduct()
            predictor = search.fitted()
            predictor.context = {key: specification[key] for key in CONTEXT}
            # Before winners are named: other bounds may be asked where there is none.
            predictor.save(run.path / "predictor")
            with meter:
                winners = (
                    best_trained(search, spec["top"]) if spec["real"] else search.best(spec["top"], spec["engine"])
                )
            if campaign is not None and spec["confirm"]:
                winners = campaign.confirm(winners[: spec["confirm"]]) + winners[spec["confirm"] :]
        print_failures(meter)
        run.add_query(specification["constraints"], spec["engine"], spec["seed"], winners)
        trials = [trial for trial in run.trials() if trial.round != CONFIRMING]
        failed = sum(t.observation is not None and t.observation.accuracy is None for t in trials)
        Answer(
            str(run.path),
            True,
            specification["constraints"],
            winners,
            search.rank_correlation,
            search.reports,
            len(trials),
            failed,
        ).print(as_json)
        bounds = search.query.trained or search.query.measured  # which a trial may break
        if not (
            as_json or spec["real"] or spec["early_stop"] or bounds
        ):  # all ran the whole budget, as predictions are of
            point_to_the_best_trial(trials, winners, run.path)


def point_to_the_best_trial(trials: Sequence[Trial], winners: Sequence[Winner], run: Path) -> None:
    """Say how to export the trial that reached most, where it is no winner and reached more than is predicted of each."""
    found = [(t.observation.accuracy, t) for t in trials if t.observation and t.observation.accuracy is not None]
    accuracy, best = max(found, key=lambda pair: pair[0])
    if accuracy > max(w.mean for w in winners) and best.candidate not in [w.candidate for w in winners]:
        messages.print(
            f"trial {best.number} reached {accuracy:.4f}, more than is predicted of a winner, by luck or by right: "
            f"jointnas export {run} --trial {best.number}"
        )


def _describe(specification: dict[str, Any], search: Any, data: Any, as_json: bool) -> None:
    """Print what a search would train and how long it would take."""
    from jointnas.training.clock import clock_from_json
    from jointnas.units import format_duration

    clock, rounds, batch = specification["clock"], specification["rounds"], specification["batch"]
    workers = specification["slot"]["workers"]
    confirm = specification["confirm"]
    waves = rounds * math.ceil(batch / workers) + math.ceil(confirm / workers)
    seconds = waves * clock["train_seconds"] if "train_seconds" in clock else None
    plan = {
        "trainings": rounds * batch + confirm,
        "rounds": rounds,
        "batch": batch,
        "workers": workers,
        "threads_each": specification["slot"]["threads"],
        "device": specification["slot"]["device"],
        "train_images": len(data.train),
        "val_images": len(data.val),
        "test_images": data.test_images,
        "pool": search.pool_size,
        "constraints": specification["constraints"],
        "train_seconds": seconds,
    }
    if as_json:
        print_json(plan)
        return
    time = "" if seconds is None else f", {format_duration(seconds)} in all"
    budget = clock_from_json(clock)
    asked = f"{rounds} rounds of {batch}" + (f", {confirm} to confirm winners" if confirm else "")
    if specification["real"]:
        asked = f"{rounds * batch} candidates at most, as {specification['engine']} proposes them"
        asked += f", the best {specification['repeats']} times" if specification["repeats"] > 1 else ""
    print_table(
        "",
        ("what", "value"),
        [
            ("trainings", f"{asked}, {budget} each, {workers} at a time{time}"),
            ("slot", f"{plan['device']}, {plan['threads_each']} threads each"),
            ("images", f"{plan['train_images']} training, {plan['val_images']} validation, {plan['test_images']} test"),
            ("pool", f"{plan['pool']} candidates meet {', '.join(plan['constraints']) or 'no constraint'}"),
        ],
    )


def _brought_in(name: str, candidate: Candidate, space: Space) -> Candidate:
    """Return the space's candidate nearest to one to start from, and say on stderr where they differ."""
    from jointnas.space.transfer import nearest_candidate

    nearest, changes = nearest_candidate(space, candidate)
    if changes:
        messages.print(f"{name} starts in the space {space.name} with {', '.join(changes)}")
    return nearest
