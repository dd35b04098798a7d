"""`jointnas autotrain`: recipes searched for networks that stay as they are, and the table of what that brought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jointnas.cli.common import (
    DataOption,
    Device,
    ImageSize,
    Json,
    TrainImages,
    TrainSteps,
    TrainTime,
    ValImages,
    Workers,
    check_seed,
    clock_json,
    interruptible,
    knob_text,
    messages,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from jointnas.campaign.autotrain import AutoTrained
    from jointnas.campaign.candidate_file import CandidateFile
    from jointnas.data import Data
    from jointnas.execution import Event


def autotrain(
    candidates: Annotated[list[str], typer.Argument(help="Candidate files, or built-in recipes' names.")],
    space: Annotated[
        str, typer.Option(help="Whose recipes: a built-in space (see `jointnas spaces`) or a TOML file.")
    ] = "autotrain",
    data: DataOption = None,
    train_images: TrainImages = None,
    val_images: ValImages = None,
    image_size: ImageSize = None,
    train_time: TrainTime = None,
    train_steps: TrainSteps = None,
    rounds: Annotated[int, typer.Option(help="Batches that are trained for each network.")] = 4,
    batch: Annotated[int, typer.Option(help="Recipes in a batch.")] = 8,
    seeds: Annotated[int, typer.Option(help="Trainings of the default and of the searched recipe.")] = 3,
    workers: Workers = 1,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the data's split, the pool, the trainings and the predictor.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder with a run for each network (default: a new one in runs/).")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in --out; --seeds and the candidates may differ from before.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Search the recipe alone for networks that stay as they are, and compare it with each candidate's own recipe.

    Both recipes are trained again with seeds that no trial of the search had, and score the test images once each.

    \b
    Examples:
      jointnas autotrain resnet9-1m --train-time 5s --rounds 3 --batch 6
      jointnas autotrain mine.toml nomad-senet --data photos/ --workers 2 --out runs/recipes
    """
    from jointnas.campaign.registry import find_prior
    from jointnas.data import DataSpec, load_data
    from jointnas.errors import RunError, SearchError
    from jointnas.execution import share_slots
    from jointnas.space.space import Space

    for name, value in (("--rounds", rounds), ("--batch", batch), ("--seeds", seeds)):
        if value < 1:
            raise SearchError(f"{name} is 1 or more, got {value}: raise it")
    check_seed(seed)
    folder = _folder(out, data or "digits", resume)
    files = _by_name(candidates)
    clock, slot = clock_json(train_time, train_steps), share_slots(workers, device)
    recipes = Space.load(space)  # before the data: a wrong name costs no decoding
    spaces = {name: recipes.with_architecture(file.candidate["architecture"]) for name, file in files.items()}
    data_spec = DataSpec(data or "digits", train_images, val_images, image_size, seed)
    loaded = load_data(data_spec)
    for note in loaded.notes:
        messages.print(note)
    common = {
        "data": data_spec.to_json(),
        "fingerprint": loaded.fingerprint,
        "input_shape": list(loaded.input_shape),
        "classes": list(loaded.classes),
        "clock": clock,
        "slot": slot.to_json(),
        "seed": seed,
        "rounds": rounds,
        "batch": batch,
        "top": 1,
        "engine": "evolution",
        "early_stop": None,
        "constraints": [],
    }
    specifications = {}
    for name, file in files.items():
        bound = spaces[name].bind(loaded.input_shape, len(loaded.classes))
        prior = find_prior(None, bound)
        specifications[name] = {
            **common,
            "space": bound.to_toml(),
            "prior": prior and prior.digest,
            "default": file.candidate,
        }
    found = _conduct(folder, specifications, seeds, loaded, resume)
    if as_json:
        print_json({"networks": [one.to_json() for one in found]})
    else:
        _print_found(found, f"{seeds} seeds each, {loaded.test_images} test images")
        messages.print(f"next: jointnas export {folder / found[0].name}")
    if all(one.gain_points is None for one in found):
        raise RunError("a recipe is compared by one training that succeeds with each, got none: see the failures")


def _by_name(candidates: Sequence[str]) -> dict[str, CandidateFile]:
    """Return the candidates by the names of their run folders: their files' names without the ending."""
    from jointnas.campaign.candidate_file import find_candidate
    from jointnas.errors import RunError

    found: dict[str, CandidateFile] = {}
    for text in candidates:
        name = Path(text).stem
        if name in found:
            raise RunError(f"each network has a name of its own, got {name!r} twice: rename a file")
        found[name] = find_candidate(text)
    return found


def _folder(out: Path | None, source: str, resume: bool) -> Path:
    """Return the folder of the networks' runs: the one named, there if it is resumed and only then; or a new one in runs/."""
    from jointnas.cli.folders import new_folder
    from jointnas.errors import RunError

    if out is None:
        if resume:
            raise RunError("--resume goes on in a folder, got no --out: name the one that the first command wrote to")
        return new_folder(source, "autotrain")
    if resume and not out.is_dir():
        raise RunError(f"--resume goes on in a folder, got {str(out)!r}, which is none: check --out")
    if out.exists() and not resume:
        raise RunError(f"new runs make their own folder, got {str(out)!r}, which exists: say --resume or another --out")
    return out


def _conduct(
    folder: Path, specifications: Mapping[str, dict[str, Any]], seeds: int, data: Data, resume: bool
) -> list[AutoTrained]:
    """Search the recipe of one network after another and compare; all runs are opened before anything is trained."""
    from jointnas.campaign.autotrain import compare, search_recipe
    from jointnas.campaign.campaign import local_executor
    from jointnas.cli.display import Display
    from jointnas.cli.folders import open_run
    from jointnas.execution import Slot

    found: list[AutoTrained] = []
    common = next(iter(specifications.values()))
    slot = Slot(**common["slot"])
    with interruptible(f"go on with the same command, --resume and --out {folder}"), ExitStack() as stack:
        runs = [
            stack.enter_context(open_run(path, spec, name, resume and path.exists(), changeable=()))
            for name, spec in specifications.items()
            for path in [folder / name]
        ]
        executor = stack.enter_context(local_executor(common["data"], slot, data.fingerprint))
        for number, run in enumerate(runs, 1):
            messages.print(f"network {number} of {len(runs)}  {run.path.name}")
            with Display(common["batch"], slot.workers, common["clock"]) as display:
                winner = search_recipe(run, executor, display)
            found.append(compare(run, winner, seeds, data, executor, _tell))
    return found


def _tell(event: Event, ended: int, total: int) -> None:
    """Say on stderr that a training of the comparison has ended; the first half has the default recipe."""
    if event.kind not in ("done", "failed"):
        return
    which = "default" if event.number <= total // 2 else "searched"
    what = f"test accuracy {event.result['test_accuracy']:.4f}" if event.kind == "done" else f"failed: {event.reason}"
    messages.print(f"training {ended} of {total}  {which} recipe  {what}")


def _print_found(found: Sequence[AutoTrained], title: str) -> None:
    from jointnas.space.constraint import format_metric

    rows = []
    for one in found:
        row, gain = one.to_json(), one.gain_points
        default, searched = row["default"], row["searched"]
        rows.append(
            (
                one.name,
                format_metric("macs", row["macs"]),
                _percent(default["test_accuracy"]),
                _percent(searched["test_accuracy"]),
                "" if gain is None else f"{gain:+.2f}",
                knob_text(one.changed),
            )
        )
        for which, side in (("default", default), ("searched", searched)):
            for failure in side["failures"]:
                messages.print(f"{one.name}, {which} recipe, {failure}")
        if gain is not None and gain <= 0:
            messages.print(f"{one.name}: the search found no better recipe than the default one: keep that")
    columns = ("network", "macs", "default recipe, test %", "searched recipe, test %", "Δ points", "changed knobs")
    print_table(title, columns, rows)


def _percent(values: Mapping[str, Any]) -> str:
    if values["mean"] is None:
        return "failed"
    spread = "(one seed)" if values["std"] is None else f"± {100 * values['std']:.2f}"
    return f"{100 * values['mean']:.2f} {spread}"
