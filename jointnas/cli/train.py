"""`jointnas train`, `retrain` and `predict`: single candidates, finished winners, and what they say of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jointnas.cli.common import (
    DataOption,
    Device,
    ImageSize,
    Json,
    Measured,
    TrainImages,
    TrainSteps,
    TrainTime,
    ValImages,
    clock_json,
    figure_texts,
    figures_of,
    interruptible,
    messages,
    print_json,
    print_table,
    spread_text,
)


def train(
    candidate: Annotated[str, typer.Argument(help="A candidate file, TOML or JSON, or a built-in recipe's name.")],
    data: DataOption = None,
    train_images: TrainImages = None,
    val_images: ValImages = None,
    image_size: ImageSize = None,
    train_time: TrainTime = None,
    train_steps: TrainSteps = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights and of the order of images.")] = 0,
    device: Device = "auto",
    to: Annotated[Path | None, typer.Option(help="Folder to keep the trained network in.")] = None,
    as_json: Json = False,
) -> None:
    """Train one candidate once and score it on the validation images.

    Data, image counts and budget are those of the file where it was exported from a run and no option says otherwise.

    \b
    Examples:
      jointnas train mine.toml --train-time 30s
      jointnas train resnet9-sam-ip --data cifar10 --train-images 5000
      jointnas train mine.toml --data photos/ --train-time 10m --to trained/
    """
    from jointnas.campaign.campaign import local_executor
    from jointnas.campaign.candidate_file import Member, WinnerFile, find_candidate, make_writable
    from jointnas.data import load_data
    from jointnas.errors import JointNASError
    from jointnas.execution import Job, share_slots
    from jointnas.network.families import make_blueprint
    from jointnas.training.clock import clock_from_json
    from jointnas.training.observation import Observation
    from jointnas.training.recipe import Recipe

    file = find_candidate(candidate)
    spec = _data_spec(file.training, data, train_images, val_images, image_size)
    loaded = load_data(spec)
    clock = clock_json(train_time, train_steps, file.training.get("clock"))
    clock_from_json(clock)
    network = make_blueprint(file.candidate["architecture"], loaded.input_shape, len(loaded.classes))
    payload: dict[str, Any] = {"candidate": file.candidate, "clock": clock, "seed": seed}
    if to is not None:
        make_writable(to)
        payload["weights"] = str(to / f"seed-{seed}.safetensors")
    observation = Observation.failed("nothing was heard of it")
    with (
        interruptible("nothing was kept"),
        local_executor(spec.to_json(), share_slots(1, device), loaded.fingerprint) as executor,
    ):
        for event in executor.results([Job(1, payload)]):
            if event.kind == "failed":
                raise JointNASError(f"the training failed: {event.reason}")
            if event.kind == "done":
                observation = Observation.from_json(event.result["observation"])
    found = {**observation.to_json(), "folder": str(to) if to else None}
    if to is not None:
        flip = Recipe.from_knobs(file.candidate["recipe"]).test_flip
        member = Member(network, f"seed-{seed}.safetensors", loaded.mean, loaded.std, flip)
        WinnerFile((member,), loaded.classes, file.candidate, found).write(to)
    if as_json:
        print_json(found)
        return
    print_table(
        "",
        ("accuracy", "balanced", "steps", "images/s", "seconds"),
        [
            (
                f"{observation.accuracy:.4f}",
                f"{observation.balanced_accuracy:.4f}",
                str(observation.steps),
                f"{observation.images_per_second:.0f}",
                f"{observation.seconds:.2f}",
            )
        ],
    )


def _data_spec(
    training: dict[str, Any],
    data: str | None,
    train_images: int | None,
    val_images: int | None,
    image_size: int | None,
) -> Any:
    """Return the data that options ask for, over the data that a file was exported with."""
    from jointnas.data import DataSpec
    from jointnas.errors import ExportError

    asked = {"source": data, "train_images": train_images, "val_images": val_images, "image_size": image_size}
    own = training.get("data", {}) if data is None else {}
    try:
        spec = DataSpec(**{**own, **{k: v for k, v in asked.items() if v is not None}})
        numbers = (spec.train_images, spec.val_images, spec.image_size, spec.seed)
        if not isinstance(spec.source, str) or not all(isinstance(number or 0, int) for number in numbers):
            raise TypeError("a value of another kind")
        return spec
    except TypeError as error:
        raise ExportError(
            f"training.data has source, train_images, val_images, image_size and seed, got {error}: drop it"
        ) from error


def retrain_winners(
    source: Annotated[str, typer.Argument(help="A run (folder, or name in runs/), or an exported candidate file.")],
    query: Annotated[int | None, typer.Option(help="Whose winners: a query's number (default: the latest).")] = None,
    top: Annotated[int, typer.Option(help="How many winners.")] = 3,
    seeds: Annotated[int, typer.Option(help="Trainings of each winner.")] = 5,
    train_time: TrainTime = None,
    train_steps: TrainSteps = None,
    workers: Annotated[int | None, typer.Option(help="Trainings side by side (default: the run's).")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda (default: the run's).")] = None,
    to: Annotated[Path | None, typer.Option(help="Folder for the networks (default: RUN/retrained).")] = None,
    measure: Measured = None,
    as_json: Json = False,
) -> None:
    """Train winners again with several seeds, in the run's own kind of slot, and score the test images once for each.

    Each training is kept as it ends: after an interruption the same command goes on. The run keeps what they reached, the
    latest of each budget and slot: see `jointnas runs show`.

    \b
    Examples:
      jointnas retrain runs/digits-resnet9-1 --top 3 --seeds 3
      jointnas retrain winner-1.toml --seeds 5 --train-time 10m --to final/
    """
    from jointnas.campaign.campaign import local_executor
    from jointnas.campaign.candidate_file import CandidateFile
    from jointnas.campaign.retrain import retrain_candidates
    from jointnas.campaign.store import Run, find_run
    from jointnas.cli.export import winner_files
    from jointnas.data import load_data
    from jointnas.errors import ExportError
    from jointnas.execution import share_slots
    from jointnas.measurement.meter import Meter
    from jointnas.training.clock import clock_from_json

    if seeds < 1:
        raise ExportError(f"--seeds is 1 or more, got {seeds}: raise it")
    is_file = Path(source).suffix in (".toml", ".json")
    if is_file and query is not None:
        raise ExportError(f"--query names a run's winners, got --query {query} beside the file {source!r}: drop it")
    run, asked = None, 0
    if is_file:
        files = [CandidateFile.read(Path(source))]
    else:
        (asked, files), run = winner_files(source, query, top), find_run(source)
    training = files[0].training
    own = training.get("slot", {})
    if "data" not in training or not isinstance(own.get("workers"), int) or not isinstance(own.get("device"), str):
        raise ExportError(
            f"retrain needs a file that a run exported, got {source!r} without [training.data] and [training.slot]: use jointnas train"
        )
    spec = _data_spec(training, None, None, None, None)
    clock = clock_json(train_time, train_steps, training.get("clock"))
    slot = share_slots(own["workers"] if workers is None else workers, device or own["device"])
    if slot.to_json() != own:
        messages.print(f"this machine's slots are not the run's: {slot.to_json()} instead of {own}")
    data = load_data(spec, fingerprint=training.get("fingerprint"))
    to = to or (Path(source).with_suffix("") if run is None else run / "retrained")

    def watch(event: Any, ended: int, total: int) -> None:
        if event.kind in ("done", "failed"):
            what = (
                f"test accuracy {event.result['test_accuracy']:.4f}"
                if event.kind == "done"
                else f"failed: {event.reason}"
            )
            messages.print(f"training {ended} of {total}  {what}")

    with interruptible("say the command again: what has ended is kept"):
        with Meter(slot, data.input_shape, len(data.classes)) as meter:
            measured = figures_of(meter, [file.candidate for file in files], measure or [])
        with local_executor(spec.to_json(), slot, data.fingerprint) as executor:
            found = retrain_candidates(files, seeds, data, clock_from_json(clock), executor, slot, to, watch)
    if run is not None:
        with Run.open(run) as opened:
            for one in found:
                if one.test_accuracies:
                    outcome = one.val_accuracies, one.test_accuracies
                    opened.add_retrained(asked, one.rank, clock, slot.to_json(), *outcome)
    rows = [{**one.to_json(), **figures} for one, figures in zip(found, measured, strict=True)]
    if as_json:
        print_json({"winners": rows})
    else:
        for one in found:
            for failure in one.failures:
                messages.print(f"winner {one.rank}: {failure}")
        _print_retrained(rows, measure or [], data.test_images, seeds)
    if not any(one.test_accuracies for one in found):
        raise ExportError(
            f"a winner is retrained by one training that succeeds, got {len(found) * seeds} failures: see above"
        )


def _print_retrained(rows: list[dict[str, Any]], measured: list[str], test_images: int, seeds: int) -> None:
    metrics = ["macs", *measured]
    print_table(
        f"{seeds} seeds each, {test_images} test images",
        ("rank", "test accuracy", "validation", "predicted", *metrics, "folder"),
        [
            (
                str(row["rank"]),
                spread_text(row["test_accuracy"]),
                spread_text(row["val_accuracy"]),
                "" if row["predicted_accuracy"] is None else f"{row['predicted_accuracy']:.4f}",
                *figure_texts(row, metrics),
                row["folder"],
            )
            for row in rows
        ],
    )


def predict(
    folder: Annotated[Path, typer.Argument(help="A winner's folder, as `retrain` or `train --to` wrote it.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    as_json: Json = False,
) -> None:
    """Classify images with a trained winner.

    \b
    Examples:
      jointnas predict runs/digits-resnet9-1/retrained/winner-1 seven.png
    """
    import torch

    from jointnas.campaign.candidate_file import load
    from jointnas.data.images import decode_file

    model = load(folder)
    pixels = torch.stack([torch.tensor(decode_file(path, model.input_shape)) for path in images])
    with torch.inference_mode():
        probabilities = model(pixels.permute(0, 3, 1, 2))
    best = probabilities.max(dim=1)
    rows = [
        (str(path), model.classes[int(i)], float(p))
        for path, p, i in zip(images, best.values, best.indices, strict=True)
    ]
    if as_json:
        print_json({"predictions": [{"image": image, "class": label, "probability": p} for image, label, p in rows]})
    else:
        print_table("", ("image", "class", "probability"), [(image, label, f"{p:.4f}") for image, label, p in rows])
