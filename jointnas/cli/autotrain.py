"""`jointnas autotrain`: recipes searched for networks that stay as they are, and the table of what that gained."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jointnas.cli.common import (
    Alone,
    DataOption,
    DataSeed,
    Device,
    Fit,
    ImageSize,
    Json,
    MixMachines,
    Quiet,
    Ray,
    Threads,
    TrainImages,
    TrainSteps,
    TrainTime,
    ValImages,
    Workers,
    WorkersPerDevice,
    given_options,
    interruptible,
    knob_text,
    messages,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from jointnas.campaign.autotrain import AutoTrained
    from jointnas.campaign.candidate_file import CandidateFile
    from jointnas.campaign.retrain import RetrainingEnded
    from jointnas.campaign.spec import AutotrainSpec


def autotrain_command(
    context: typer.Context,
    candidates: Annotated[list[str], typer.Argument(help="Candidate files, or built-in recipes' names.")],
    space: Annotated[
        str, typer.Option(help="Whose recipes: a built-in space (see `jointnas spaces`) or a TOML file.")
    ] = "autotrain",
    data: DataOption = None,
    train_images: TrainImages = None,
    val_images: ValImages = None,
    image_size: ImageSize = None,
    fit: Fit = None,
    data_seed: DataSeed = None,
    train_time: TrainTime = None,
    train_steps: TrainSteps = None,
    rounds: Annotated[int, typer.Option(help="Batches that are trained for each network.")] = 4,
    batch: Annotated[int, typer.Option(help="Recipes in a batch.")] = 8,
    seeds: Annotated[int, typer.Option(help="Trainings of the default and of the searched recipe.")] = 3,
    workers: Workers = 1,
    device: Device = "auto",
    workers_per_device: WorkersPerDevice = None,
    alone: Alone = False,
    ray: Ray = None,
    threads: Threads = None,
    mix_machines: MixMachines = False,
    seed: Annotated[int, typer.Option(help="Seed of the data's split, the pool, the trainings and the predictor.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder with a run for each network (default: a new one in runs/).")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in --out; --seeds and the candidates may differ from before.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search the recipe alone for networks that stay as they are, and compare it with each candidate's own recipe.

    Both recipes are trained again with seeds that no trial of the search had, and score the test images once each.

    \b
    Examples:
      jointnas autotrain resnet9-1m --train-time 5s --rounds 3 --batch 6
      jointnas autotrain mine.toml nomad-senet --data photos/ --workers 2 --out runs/recipes
    """
    from jointnas.campaign.spec import check_positive
    from jointnas.errors import RunError

    check_positive("seeds", seeds)
    folder = _folder(out, data or "digits", resume)
    no_setting = ("candidates", "seeds", "out", "resume", "as_json", "quiet", "space")
    settings = {name: value for name, value in given_options(context).items() if name not in no_setting}
    specs = _specs(_by_name(candidates), space, settings)
    compared = _run(folder, specs, seeds, resume)
    if as_json:
        print_json({"networks": [one.to_json() for one in compared]})
    else:
        _print_compared(compared, f"{seeds} seeds each")
        messages.print(f"next: jointnas export {shlex.quote(str(folder / compared[0].name))}")
    if all(one.gain_points is None for one in compared):
        raise RunError("all trainings with the default recipe or with the searched one failed: see the failures above")


def _specs(files: Mapping[str, CandidateFile], space: str, settings: dict[str, Any]) -> dict[str, AutotrainSpec]:
    """Return the spec of each network's run."""
    from jointnas.campaign.options import make_spec
    from jointnas.campaign.spec import AutotrainSpec
    from jointnas.space.space import Space

    recipes = Space.load(space)
    specs = {}
    for name, file in files.items():
        held = recipes.with_architecture(file.candidate["architecture"])
        spec = make_spec({**settings, "space": held, "top": 1, "default": file.candidate}, "autotrain")
        assert isinstance(spec, AutotrainSpec)
        specs[name] = spec
    return specs


def _by_name(candidates: Sequence[str]) -> dict[str, CandidateFile]:
    """Return the candidates by the names of their run folders: their files' names without the ending."""
    from jointnas.campaign.candidate_file import find_candidate
    from jointnas.errors import RunError

    files: dict[str, CandidateFile] = {}
    for text in candidates:
        name = Path(text).stem
        if name in files:
            raise RunError(f"two candidates are called {name!r}, but each network needs its own name: rename a file")
        files[name] = find_candidate(text)
    return files


def _folder(out: Path | None, source: str, resume: bool) -> Path:
    """Return the folder of the networks' runs: `out`, which must exist exactly when runs are resumed, or a new one in runs/."""
    from jointnas.campaign.folders import new_folder
    from jointnas.errors import RunError

    if out is None:
        if resume:
            raise RunError("--resume needs the folder of the first command: name it with --out")
        return new_folder(source, "autotrain")
    if resume and not out.is_dir():
        raise RunError(f"--resume needs the folder of the first command, but {str(out)!r} is no folder: check --out")
    if out.exists() and not resume:
        raise RunError(
            f"new runs need a new folder, got {str(out)!r}, which exists: continue with --resume or choose another --out"
        )
    return out


def _run(folder: Path, specs: Mapping[str, AutotrainSpec], seeds: int, resume: bool) -> list[AutoTrained]:
    """Search the recipe of one network after another, each compared with the default before the next begins."""
    from jointnas.campaign.autotrain import compare_recipes
    from jointnas.campaign.campaign import prepare, run
    from jointnas.campaign.folders import open_run
    from jointnas.cli.display import Display
    from jointnas.data.dataset import load_data
    from jointnas.training.job import trial_executor

    compared: list[AutoTrained] = []
    common = next(iter(specs.values()))
    assert common.data is not None
    data, slot = load_data(common.data), common.slot
    for name, spec in specs.items():  # what is wrong with any network is reported before the first is trained
        setup = prepare(spec, lambda event: None)
        if resume and (folder / name).exists():
            open_run(folder / name, spec, setup.context, resume).close()
    with (
        interruptible(lambda: f"continue with the same command, --resume and --out {shlex.quote(str(folder))}"),
        trial_executor(common.data, slot, data.fingerprint, kind=common.executor) as executor,
    ):
        for number, (name, spec) in enumerate(specs.items(), 1):
            messages.print(f"network {number} of {len(specs)}  {name}")
            path = folder / name
            with Display(spec) as display:
                campaign = run(spec, [display], out=path, resume=resume and path.exists(), executor=executor)
            compared.append(compare_recipes(campaign, seeds, data, executor, _print_training))
    return compared


def _print_training(news: RetrainingEnded) -> None:
    """Print on stderr that a training of the comparison has ended."""
    which = "default" if news.rank == 1 else "searched"
    accuracy = news.result.test_accuracy
    outcome = f"failed: {news.result.observation.failure}" if accuracy is None else f"test accuracy {accuracy:.4f}"
    messages.print(f"training {news.ended} of {news.total}  {which} recipe  {outcome}")


def _print_compared(compared: Sequence[AutoTrained], title: str) -> None:
    from jointnas.space.constraint import format_metric

    rows = []
    for one in compared:
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
            messages.print(f"{one.name}: the searched recipe is no better than the default one: keep the default")
    columns = ("network", "macs", "default recipe, test %", "searched recipe, test %", "Δ points", "changed knobs")
    print_table(title, columns, rows)


def _percent(values: Mapping[str, Any]) -> str:
    if values["mean"] is None:
        return "failed"
    spread = "(one seed)" if values["std"] is None else f"± {100 * values['std']:.2f}"
    return f"{100 * values['mean']:.2f} {spread}"
