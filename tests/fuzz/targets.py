"""What reads the input of strangers: each target makes a hostile input and reads it as a command does.

Reading must end in a result or in one clear sentence (a `JointNASError`), in bounded time and memory, run nothing and write nothing outside
its folder.
"""

from __future__ import annotations

import gc
import io
import json
import random
import shutil
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save

from jointnas.campaign.candidate_file import CandidateFile, candidate_costs, recipe_path
from jointnas.campaign.folders import WINNER_FILE
from jointnas.campaign.options import make_spec, over_config, read_config
from jointnas.campaign.policy_file import read_policy
from jointnas.campaign.store import DATABASE, Context, Run
from jointnas.campaign.trial import Trial
from jointnas.campaign.winner_file import Member, WinnerFile, load
from jointnas.data.image_folder import SPLIT_FOLDERS
from jointnas.data.images import decode_file
from jointnas.data.pack import open_pack
from jointnas.errors import JointNASError
from jointnas.execution.slots import Slot
from jointnas.measurement.store import Store
from jointnas.network.families import find_family, make_blueprint
from jointnas.network.library_networks import LIBRARIES, listed
from jointnas.network.module import Network, build
from jointnas.network.weights_file import load_weights, save_weights
from jointnas.predictor.contract import Predictor
from jointnas.predictor.files import DESCRIPTION, WEIGHTS, digest
from jointnas.predictor.task import Task
from jointnas.resources import resource_folder
from jointnas.search.search import Search
from jointnas.space.constraint import MEASURED, parse_all
from jointnas.space.space import Space
from jointnas.training.observation import CurvePoint, Observation
from jointnas.training.recipe import Recipe, knob_fields
from jointnas.training.trained_blueprint import trained_blueprint
from jointnas.units import parse_count, parse_duration, parse_size
from tests.fuzz.mutations import STRANGE, mutate_bytes, mutate_text

METRICS = ("macs", "params", "activations", "size", "memory", *MEASURED, "accuracy")
KNOBS = (
    *knob_fields(),
    "network",
    "width",
    "depth1",
    "resolution",
    "format",
    "low",
    "high",
    "log",
    "step",
    "values",
    "choices",
    "when",
)
NETWORKS = ("resnet9", "resnet", "senet", "chain", "mobilenet", "classic", "library", "fbnet")
SHAPE, CLASSES = (1, 8, 8), 3

Read = Callable[[random.Random, Path], None]


@dataclass(frozen=True)
class Seeds:
    """Valid inputs that are damaged, made once."""

    folder: Path

    def path(self, name: str) -> Path:
        """Return the folder or file of an input."""
        return self.folder / name


def make_seeds(folder: Path) -> Seeds:
    """Write the valid inputs: a run, a storage, a winner, a predictor, measurements and images."""
    for library in LIBRARIES:
        listed(library)  # imports it before the watch begins, as an import may write files
    candidate = {"architecture": {"network": "resnet9", "width": 4}, "recipe": {"batch_size": 32}}
    spec = make_spec({"train_time": "1s", "constraints": ["macs<1M"]})
    context = Context("abc", SHAPE, ("a", "b", "c"), Slot("cpu", 1, 1), spec.to_json()["space"])
    seen = Observation(0.5, steps=3, curve=(CurvePoint(0.5, 0.5, 2, 0.4, 1.0),))
    with Run.create(folder / "run", spec, context) as run:
        run.add_trials([Trial(n, 1, candidate, n, f"{n}") for n in (1, 2, 3)])
        for number in (1, 2, 3):
            run.end_trial(number, seen)
        run.end_round(1, 3, 0.5)
        run.add_query(["macs<1M"], "evolution", 0, [])
    _flatten(folder / "run" / DATABASE)
    space = Space.load("resnet9-basic", input_shape=SHAPE, classes=CLASSES)
    search = Search(space, storage=folder / "storage.sqlite", pool_size=20)
    search.tell(search.ask(3), [0.1, 0.2, None])
    del search  # and with it its connection
    gc.collect()
    _flatten(folder / "storage.sqlite")
    blueprint = make_blueprint(candidate["architecture"], SHAPE, CLASSES)
    (folder / "winner").mkdir()
    save_weights(build(blueprint), folder / "winner" / "network.safetensors")
    member = Member(blueprint, "network.safetensors", (0.5,), (0.2,), False)
    WinnerFile((member,), ("a", "b", "c"), candidate, {"test_accuracy": 0.5}).write(folder / "winner")
    candidates = space.sample(12, seed=0)
    predictor = Predictor(space, 0, task=Task()).fit(candidates, np.linspace(0.1, 0.9, 12).tolist())
    predictor.save(folder / "predictor")
    Store(folder / "measurements.sqlite").write({"a": 1.0, "b": 2.0})
    _flatten(folder / "measurements.sqlite")
    (folder / "images").mkdir()
    for name, content in _images().items():
        (folder / "images" / name).write_bytes(content)
    return Seeds(folder)


def _flatten(database: Path) -> None:
    """Move what is in the write-ahead log into the database itself."""
    with sqlite3.connect(database) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("PRAGMA journal_mode = DELETE")
    db.close()


def _images() -> dict[str, bytes]:
    """Return small images of every kind that people have, as files: 16 bits, CMYK, palettes, transparency, animations, EXIF."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "a.png": (colour, {}),
        "a.jpg": (colour, {"exif": exif}),
        "cmyk.jpg": (colour.convert("CMYK"), {}),
        "a.gif": (colour, {"save_all": True, "append_images": [colour.rotate(90)] * 3}),
        "a.webp": (colour, {}),
        "a.bmp": (colour, {}),
        "a.tif": (colour, {}),
        "a.ppm": (colour, {}),
        "deep.png": (Image.fromarray(rng.integers(0, 65536, (9, 9), dtype=np.uint16)), {}),
        "palette.png": (colour.convert("P"), {}),
        "alpha.png": (colour.convert("RGBA"), {}),
        "grey.png": (colour.convert("LA"), {}),
        "one.png": (colour.convert("1"), {}),
    }
    found = {}
    for name, (image, options) in kinds.items():
        file = io.BytesIO()
        image.save(
            file,
            format={"jpg": "JPEG", "tif": "TIFF", "ppm": "PPM"}.get(name.split(".")[1], name.split(".")[1]),
            **options,
        )
        found[name] = file.getvalue()
    return found


# ------------------------------------------------------------------------------------------------------------------ texts


def read_constraint(rng: random.Random, folder: Path) -> None:
    """A bound, and the quantities in it."""
    text = mutate_text(
        rng, rng.choice(("macs<40M", "latency<=5ms", "size<4MB", "accuracy>=0.8", "images_per_second>2000")), METRICS
    )
    parse_all([text], METRICS)
    for parse in (parse_count, parse_duration, parse_size):
        try:
            parse(text.partition("<")[2])
        except JointNASError as error:
            check_sentence(error)


def read_space(rng: random.Random, folder: Path) -> None:
    """A space, with a sample of it."""
    path = rng.choice(sorted(resource_folder("spaces").glob("*.toml")))
    text = mutate_text(rng, path.read_text(), (*KNOBS, *NETWORKS))
    space = Space.from_toml(text)
    if not space.is_abstract:
        space = space.bind(SHAPE, CLASSES)
    for candidate in space.sample(2, seed=rng.randrange(9)):
        space.cost(candidate)


def read_candidate(rng: random.Random, folder: Path) -> None:
    """A candidate file, as `show` and `train` read it before any training."""
    name = rng.choice(("resnet9-1m", "resnet9-10m", "nash", "nomad-senet", "fbnetv3-a"))
    text = mutate_text(rng, recipe_path(name).read_text(), (*KNOBS, *NETWORKS))
    target = folder / "candidate.toml"
    target.write_text(text, encoding="utf-8", errors="replace")
    file = CandidateFile.read(target)
    Recipe.from_knobs(file.candidate["recipe"])
    candidate_costs(file.candidate, (3, 16, 16), 4)


def read_architecture(rng: random.Random, folder: Path) -> None:
    """An architecture with one or two extreme knobs."""
    network = rng.choice(NETWORKS)
    knobs = find_family(network).knobs
    own: dict[str, Any] = {"network": network, **({"name": "resnet18"} if network == "library" else {})}
    for name in rng.sample(sorted(knobs), min(len(knobs), rng.randint(1, 2))):
        extreme = rng.choice((0, -1, 1, 2, 7, 300, 10**9, 10**30, 0.5, 1e300, float("nan"), True, "x", None, [1], {}))
        own[name] = rng.choice((extreme, knobs[name]))
    costs = candidate_costs({"architecture": own, "recipe": {}}, (3, 16, 16), 4)
    assert all(np.isfinite(float(value)) for value in costs.values())


def read_slot(rng: random.Random, folder: Path) -> None:
    """The slot in a candidate file, as `retrain` reads it."""
    slot: dict[str, Any] = {"device": rng.choice(("cpu", "cuda", "tpu", 3)), "threads": 1, "workers": 2}
    for name in rng.sample(("device", "threads", "workers", "gpus", "per_gpu", "x"), 2):
        slot[name] = rng.choice((0, -1, 1, 10**9, 0.5, "1", None, [1], [0, "a"], {}, True))
    place = Slot.from_json(slot).place(0)
    assert place.threads >= 1


def read_policies(rng: random.Random, folder: Path) -> None:
    """A policy file."""
    text = 'format = 1\nsub_policies = ["invert 0.1 7, contrast 0.2 6", "rotate 0.7 2, translate_x 0.3 9", "cutout 1 3, invert 0 1"]\n'
    target = folder / "policy.toml"
    words = ("shear_x", "cutout", "sample_pairing", ",")
    target.write_text(mutate_text(rng, text, words), encoding="utf-8", errors="replace")
    read_policy(target)


def read_configuration(rng: random.Random, folder: Path) -> None:
    """A file of settings, as `search --config` reads it."""
    spec = make_spec({"train_time": "1s", "constraints": ["macs<1M"], "rounds": 2, "batch": 3})
    target = folder / "config.toml"
    target.write_text(
        mutate_text(rng, spec.to_toml(), (*KNOBS, "rounds", "seed", "workers")), encoding="utf-8", errors="replace"
    )
    base = read_config(target)
    make_spec(over_config(base, {"seed": 1}), str(base.pop("kind", "search")))


# ------------------------------------------------------------------------------------------------------------------ files


def read_run(seeds: Seeds) -> Read:
    """A run's database."""

    def read(rng: random.Random, folder: Path) -> None:
        path = folder / "run"
        path.mkdir()
        (path / DATABASE).write_bytes(mutate_bytes(rng, (seeds.path("run") / DATABASE).read_bytes()))
        with Run.open(path) as run:
            _ = run.spec, run.context, run.trials(), run.rounds(), run.queries(), run.retrained(), run.created_at

    return read


def read_run_texts(seeds: Seeds) -> Read:
    """A run whose database is whole, but whose texts are damaged."""

    def read(rng: random.Random, folder: Path) -> None:
        path = folder / "run"
        path.mkdir()
        shutil.copy(seeds.path("run") / DATABASE, path / DATABASE)
        table, column, key = rng.choice(
            (("specification", "value", "key"), ("trials", "candidate", "number"), ("trials", "observation", "number"))
        )
        with sqlite3.connect(path / DATABASE) as db:
            rows = db.execute(f"SELECT {key}, {column} FROM {table}").fetchall()
            name, text = rng.choice(rows)
            db.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (mutate_text(rng, str(text), KNOBS), name))
        db.close()
        with Run.open(path) as run:
            _ = run.spec, run.context, run.trials(), run.space

    return read


def read_storage(seeds: Seeds) -> Read:
    """The storage of an ask-and-tell search."""

    def read(rng: random.Random, folder: Path) -> None:
        path = folder / "storage.sqlite"
        path.write_bytes(mutate_bytes(rng, seeds.path("storage.sqlite").read_bytes()))
        space = Space.load("resnet9-basic", input_shape=SHAPE, classes=CLASSES)
        _ = Search(space, storage=path, pool_size=20).trained

    return read


def read_measurements(seeds: Seeds) -> Read:
    """The store of measurements."""

    def read(rng: random.Random, folder: Path) -> None:
        path = folder / "measurements.sqlite"
        path.write_bytes(mutate_bytes(rng, seeds.path("measurements.sqlite").read_bytes()))
        Store(path).read(["a", "b"])

    return read


def read_winner(seeds: Seeds) -> Read:
    """A trained network's folder."""

    def read(rng: random.Random, folder: Path) -> None:
        path = folder / "winner"
        shutil.copytree(seeds.path("winner"), path)
        if rng.random() < 0.6:
            text = (path / WINNER_FILE).read_text()
            (path / WINNER_FILE).write_text(mutate_text(rng, text, KNOBS), encoding="utf-8", errors="replace")
        else:
            weights = path / "network.safetensors"
            weights.write_bytes(mutate_bytes(rng, weights.read_bytes()))
        load(path)

    return read


def read_predictor(seeds: Seeds) -> Read:
    """A predictor's folder, whose hash is made right again where the damage would end there."""

    def read(rng: random.Random, folder: Path) -> None:
        path = folder / "predictor"
        shutil.copytree(seeds.path("predictor"), path)
        description, weights = path / DESCRIPTION, path / WEIGHTS
        if rng.random() < 0.6:
            description.write_text(mutate_text(rng, description.read_text(), KNOBS), encoding="utf-8", errors="replace")
        else:
            weights.write_bytes(mutate_bytes(rng, weights.read_bytes()))
        try:
            about = json.loads(description.read_text())
            about["digest"] = digest(about, weights.read_bytes())
            description.write_text(json.dumps(about))
        except (ValueError, TypeError, RecursionError):
            pass  # it is not even JSON
        predictor = Predictor.load(path)
        predictor.predict(predictor.space.sample(2, seed=0))

    return read


# ----------------------------------------------------------------------------------------------------------------- images


def read_image(seeds: Seeds) -> Read:
    """An image file, as `predict` reads it."""

    def read(rng: random.Random, folder: Path) -> None:
        source = rng.choice(sorted(seeds.path("images").iterdir()))
        path = folder / f"{rng.choice(('x', *STRANGE[3:6]))}{source.suffix}"
        path.write_bytes(mutate_bytes(rng, source.read_bytes()))
        image = decode_file(path, rng.choice(((1, 8, 8), (3, 16, 12))))
        assert image.dtype == np.uint8

    return read


def read_giant_image(rng: random.Random, folder: Path) -> None:
    """An image whose header promises more pixels than any memory holds."""
    header = struct.pack(
        ">IIBBBBB", rng.choice((30_000, 10**6, 2**31 - 1)), rng.choice((30_000, 10**6, 2**31 - 1)), 8, 2, 0, 0, 0
    )
    chunk = b"IHDR" + header
    data = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + b"\x00\x00\x00\x00IDAT"
    )
    path = folder / "giant.png"
    path.write_bytes(data)
    decode_file(path, (3, 8, 8))


def read_zip(seeds: Seeds) -> Read:
    """A zip of images with hostile names, or damaged, or one that unpacks to far more than it holds."""
    names = ("../../evil/a.png", "/etc/a.png", "train/../../x/a.png", "train/a/b.png", "C:\\x\\a.png")
    names += ("train/\x1b[31m/a.png", "test/[bold]/a.png")

    def read(rng: random.Random, folder: Path) -> None:
        path, images = folder / "images.zip", [p.read_bytes() for p in sorted(seeds.path("images").iterdir())]
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for kind in ("train", *rng.sample(sorted(SPLIT_FOLDERS), 2)):
                for label in ("a", rng.choice(("b", *STRANGE[1:5]))):
                    archive.writestr(f"{kind}/{label}/{rng.randrange(9)}.png", rng.choice(images))
            for name in rng.sample(names, rng.randint(0, 3)):
                archive.writestr(name, rng.choice(images))
            if rng.random() < 0.05:
                archive.writestr("train/a/bomb.png", bytes(200_000_000))
        if rng.random() < 0.6:
            path.write_bytes(mutate_bytes(rng, path.read_bytes()))
        open_pack(str(path), rng.choice((None, 8)), folder / "cache")

    return read


def read_folder(seeds: Seeds) -> Read:
    """A folder of images with links, pipes and strange names."""

    def read(rng: random.Random, folder: Path) -> None:
        images = sorted(seeds.path("images").iterdir())
        for label in ("a", rng.choice(("b", "b\x1b[2J", "[red]b", "b\u202e"))):
            (folder / "images" / label).mkdir(parents=True)
            for i in range(2):
                content = rng.choice(images).read_bytes()
                damaged = mutate_bytes(rng, content) if rng.random() < 0.3 else content
                (folder / "images" / label / f"{i}.png").write_bytes(damaged)
        inner = folder / "images" / "a"
        match rng.randrange(4):
            case 0:
                (inner / "link.png").symlink_to("/etc/passwd")
            case 1:
                (inner / "loop").symlink_to(folder / "images")
            case 2:
                (inner / "gone.png").symlink_to(folder / "nowhere.png")
            case _:
                (inner / "empty.png").touch()
        open_pack(str(folder / "images"), rng.choice((None, 8)), folder / "cache")

    return read


def read_arrays(seeds: Seeds) -> Read:
    """An .npz of arrays, with hostile headers."""

    def read(rng: random.Random, folder: Path) -> None:
        path, file = folder / "data.npz", io.BytesIO()
        images = np.zeros((6, 4, 4), dtype=rng.choice((np.uint8, np.float64, np.int16)))
        np.savez(file, train_images=images, train_labels=np.arange(6) % rng.choice((1, 2, 3)), extra=np.array([1]))
        path.write_bytes(mutate_bytes(rng, file.getvalue()))
        open_pack(str(path), None, folder / "cache")

    return read


def read_cache(seeds: Seeds) -> Read:
    """A damaged cache of decoded images."""

    def read(rng: random.Random, folder: Path) -> None:
        cache = folder / "cache"
        open_pack("digits", None, cache)
        victim = rng.choice(sorted((cache / "packs").glob("*/*")))
        victim.write_bytes(mutate_bytes(rng, victim.read_bytes()))
        assert len(open_pack("digits", None, cache).images) == 1797

    return read


def read_tensors(rng: random.Random, folder: Path) -> None:
    """A file of weights that declares more than it holds."""
    content = bytearray(save({"a": np.zeros(4, np.float32)}))
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [rng.choice((4, 10**12, -1))], "data_offsets": [0, rng.choice((16, 10**13))]}}
    ).encode()
    content = struct.pack("<Q", rng.choice((len(header), 2**40))) + header + bytes(16)
    path = folder / "network.safetensors"
    path.write_bytes(bytes(content))
    load_weights(Network(make_blueprint({"network": "resnet9", "width": 4}, SHAPE, CLASSES)), path)


def read_packed(rng: random.Random, folder: Path) -> None:
    """Packed weights whose description was damaged."""
    candidate = {
        "architecture": {"network": "resnet9", "width": 4},
        "recipe": {"quantiser": "binaryconnect", "weight_bits": 2},
    }
    network, path = build(trained_blueprint(candidate, SHAPE, CLASSES)), folder / "packed.safetensors"
    save_weights(network, path)
    with safe_open(path, "np") as file:
        about, tensors = json.loads(file.metadata()["packed"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    victim = about[rng.choice(list(about))]
    victim[rng.choice(list(victim))] = rng.choice((*STRANGE, 9, 2**40, [10**12], [-1, 4], "channel", "powers-of-two"))
    text = json.dumps(about) if rng.random() < 0.8 else mutate_text(rng, json.dumps(about))
    path.write_bytes(save(tensors, {"packed": text}))
    load_weights(Network(network.blueprint), path)


def targets(seeds: Seeds) -> dict[str, tuple[Read, int]]:
    """Return every target by name, with its share of the inputs."""
    return {
        "constraint": (read_constraint, 40),
        "space": (read_space, 10),
        "candidate": (read_candidate, 15),
        "architecture": (read_architecture, 20),
        "policy": (read_policies, 20),
        "configuration": (read_configuration, 8),
        "run database": (read_run(seeds), 10),
        "run texts": (read_run_texts(seeds), 10),
        "storage": (read_storage(seeds), 6),
        "measurements": (read_measurements(seeds), 8),
        "trained network": (read_winner(seeds), 10),
        "weights": (read_tensors, 6),
        "packed weights": (read_packed, 4),
        "predictor": (read_predictor(seeds), 4),
        "image": (read_image(seeds), 40),
        "giant image": (read_giant_image, 1),
        "zip of images": (read_zip(seeds), 6),
        "folder of images": (read_folder(seeds), 4),
        "arrays": (read_arrays(seeds), 8),
        "image cache": (read_cache(seeds), 1),
        "slot": (read_slot, 4),
    }


def check_sentence(error: BaseException) -> None:
    """Raise `AssertionError` unless an error is one clear sentence that a terminal can show."""
    text = str(error)
    assert isinstance(error, JointNASError), f"{type(error).__name__}: {text[:300]}"
    assert text, "no message"
    assert "\n" not in text.strip(), f"more than one line: {text[:300]!r}"
    assert all(c.isprintable() for c in text), f"control characters: {text[:300]!r}"
    assert len(text) < 2000, f"{len(text)} characters: {text[:200]!r}"
