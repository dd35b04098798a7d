"""Data: the contents of each source, its splits, errors, and the cache of decoded packs."""

import errno
import io
import json
import multiprocessing
import os
import pickle
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from jointnas.data.contract import Contents, Source, array_contents
from jointnas.data.dataset import Data, Split, channel_statistics, load_data
from jointnas.data.images import decode_file
from jointnas.data.spec import DataSpec
from jointnas.errors import DataError
from tests.plugins import install_package


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def write_image(path: Path, value: int = 0, mode: str = "L", size: tuple[int, int] = (4, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour: Any = {"RGB": (value, 1, 2), "RGBA": (value, 1, 2, 9)}.get(mode, value)
    Image.new(mode, size, colour).save(path)


def write_tree(root: Path, n: int = 10, mode: str = "L", classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Write n one-coloured images a class; no two of the tree share their colour."""
    for c, label in enumerate(classes):
        for i in range(n):
            write_image(root / label / f"{i:03}.png", 100 * c + i, mode)
    return root


def write_npz(path: Path, n: int = 60, classes: int = 3, shape: tuple[int, ...] = (2, 3), **more: Any) -> Path:
    """Write n images whose first pixel is their index, with alternating classes."""
    images = np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)
    images.reshape(n, -1)[:, 0] = np.arange(n)
    np.savez(path, **{"train_images": images, "train_labels": np.arange(n) % classes, **more})
    return path


def places(split: Split) -> list[int]:
    return split.images.flatten(1)[:, 0].tolist()


def packs(cache: Path) -> list[Path]:
    return [path for path in (cache / "packs").iterdir() if path.is_dir()]


def load(path: Path, cache: Path, **spec: Any) -> Data:
    return load_data(DataSpec(str(path), **spec), cache)


# ------------------------------------------------------------------------------------------------------ named sets


def test_digits_are_grey_images_of_ten_classes() -> None:
    from sklearn.datasets import load_digits

    data = load_data(DataSpec("digits"))
    assert data.input_shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert len(data.train) + len(data.val) + data.test_images == 1797
    assert data.train.images.dtype == torch.uint8
    assert data.train.labels.dtype == torch.int64
    expected = Counter(
        (np.round(image * (255 / 16)).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(*load_digits(return_X_y=True), strict=True)
    )
    loaded: Counter[tuple[bytes, int]] = Counter()
    for split in (data.train, data.val, data.test()):
        pairs = zip(split.images, split.labels, strict=True)
        loaded.update((image.numpy().tobytes(), int(label)) for image, label in pairs)
    assert loaded == expected


def test_a_note_reports_the_test_images_split_off_from_digits() -> None:
    data = load_data(DataSpec("digits"))
    assert data.test_images == 359
    assert data.notes == ("digits has no test images: 359 of its images are held out as the test set",)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(DataError, match=r"'cifar01'.*did you mean 'cifar10'\?"):
        load_data(DataSpec("cifar01"))


def test_a_file_of_another_kind_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "notes.txt").write_text("cats and dogs")
    with pytest.raises(DataError, match=r"notes\.txt.*convert"):
        load(tmp_path / "notes.txt", cache)


# ------------------------------------------------------------------------------------- data sets of installed packages


class Stripes(Source):
    """Sixty images of two classes: dark ones and bright ones."""

    def key(self) -> str:
        return "stripes"

    def open(self) -> AbstractContextManager[Contents]:
        images = np.arange(60, dtype=np.uint8).reshape(60, 1, 1, 1).repeat(4, axis=1).repeat(4, axis=2)
        return array_contents(("dark", "bright"), {"train": (images, np.arange(60) // 30)})


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return an empty folder for installed packages."""
    (tmp_path / "site").mkdir()
    return tmp_path / "site"


def test_an_installed_package_adds_a_named_data_set(site: Path, cache: Path) -> None:
    with install_package(site, "jointnas.data", "stripes", f"{__name__}:Stripes"):
        data = load_data(DataSpec("stripes"), cache)
        assert DataSpec("stripes").to_json()["source"] == "stripes"
        with pytest.raises(DataError, match=r"did you mean 'stripes'\?"):
            load_data(DataSpec("stripe"), cache)
    assert (data.input_shape, data.classes) == ((1, 4, 4), ("dark", "bright"))
    assert [value // 30 for value in places(data.train)] == data.train.labels.tolist()
    assert len(data.train) + len(data.val) + data.test_images == 60


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module:Stripes", r"cannot import .*'stripes' of the package 'jointnas-test-stripes'.*no_such_module"),
        ("builtins:dict", r"'stripes' .* got dict"),
    ],
)
def test_a_broken_package_is_a_data_error(site: Path, cache: Path, target: str, message: str) -> None:
    with install_package(site, "jointnas.data", "stripes", target), pytest.raises(DataError, match=message):
        load_data(DataSpec("stripes"), cache)


# ---------------------------------------------------------------------------------------------------------- splits


def test_the_same_seed_draws_the_same_split_and_another_draws_another(tmp_path: Path, cache: Path) -> None:
    path = write_npz(tmp_path / "a.npz")
    first, again, other = (load(path, cache, seed=seed) for seed in (3, 3, 4))
    assert places(first.train) == places(again.train)
    assert places(first.val) == places(again.val)
    assert first.fingerprint == again.fingerprint
    assert set(places(first.val)) != set(places(other.val))
    assert first.fingerprint != other.fingerprint


def test_the_test_images_are_the_same_at_every_seed_and_size(tmp_path: Path, cache: Path) -> None:
    path = write_npz(tmp_path / "a.npz")
    first = set(places(load(path, cache).test()))
    for spec in ({"seed": 7}, {"train_images": 9}, {"val_images": 20}):
        assert set(places(load(path, cache, **spec).test())) == first


@pytest.mark.parametrize("seed", range(3))
def test_splits_are_disjoint_and_together_everything(tmp_path: Path, cache: Path, seed: int) -> None:
    data = load(write_npz(tmp_path / "a.npz"), cache, seed=seed)
    every = [*places(data.train), *places(data.val), *places(data.test())]
    assert sorted(every) == list(range(60))
    assert (len(data.test()), len(data.val), len(data.train)) == (12, 10, 38)


def test_each_image_keeps_its_label(tmp_path: Path, cache: Path) -> None:
    data = load(write_npz(tmp_path / "a.npz"), cache)
    for split in (data.train, data.val, data.test()):
        assert [place % 3 for place in places(split)] == split.labels.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_every_split_holds_each_class_by_its_share_within_one_image(seed: int) -> None:
    data = load_data(DataSpec("digits", train_images=333, val_images=77, seed=seed))
    whole = load_data(DataSpec("digits"))
    counts = [torch.bincount(s.labels, minlength=10) for s in (whole.train, whole.val, whole.test())]
    everything = sum(counts[1:], counts[0])
    rest = everything - counts[2]  # what the test split leaves
    after = rest - torch.bincount(data.val.labels, minlength=10)
    for split, source in ((data.test(), everything), (data.val, rest), (data.train, after)):
        expected = source * (len(split) / int(source.sum()))
        assert (torch.bincount(split.labels, minlength=10) - expected).abs().max() < 1
    assert (len(data.train), len(data.val)) == (333, 77)


def test_statistics_are_those_of_the_training_pixels(tmp_path: Path, cache: Path) -> None:
    data = load(write_npz(tmp_path / "a.npz", shape=(2, 5, 3)), cache)
    pixels = data.train.images.numpy() / 255.0
    np.testing.assert_allclose(data.mean, pixels.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(data.std, pixels.std(axis=(0, 1, 2)))


def test_a_rare_class_keeps_an_image_in_every_split(tmp_path: Path, cache: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 2, 3), dtype=np.uint8)
    labels = np.repeat([0, 1, 2], [286, 10, 4])
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels)
    data = load_data(DataSpec(str(tmp_path / "a.npz"), train_images=20, val_images=7), cache)
    for split, size in ((data.train, 20), (data.val, 7), (data.test(), 60)):
        assert len(split) == size
        assert set(split.labels.tolist()) == {0, 1, 2}


def test_a_class_without_training_images_is_named(tmp_path: Path, cache: Path) -> None:
    images, labels = np.zeros((42, 2, 3), dtype=np.uint8), np.repeat([0, 1, 2], [20, 20, 2])
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels)
    data = load_data(DataSpec(str(tmp_path / "a.npz")), cache)
    assert 2 not in data.train.labels.tolist()
    assert any("without training images, here 2" in note for note in data.notes)


def test_statistics_of_many_images_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jointnas.data.dataset.COUNTED_IMAGES", 7)
    images = torch.randint(256, (20, 5, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[..., 2] = 9
    mean, deviation = channel_statistics(images)
    pixels = images.numpy() / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(deviation, [*pixels.std(axis=(0, 1, 2))[:2], 1e-3])


def test_many_small_classes_leave_an_image_of_each_for_the_test(tmp_path: Path, cache: Path) -> None:
    data = load(write_npz(tmp_path / "a.npz", n=28, classes=7), cache)  # a fifth is 6: nobody can ask for more
    assert set(data.test().labels.tolist()) == set(range(7))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"train_images": 2000}, r"left for training, 2000 were requested"),
        ({"val_images": 2000}, r"left for validation, 2000 were requested"),
        ({"val_images": 1438}, r"only 0 images are left for training"),
        ({"train_images": 5}, r"each of 10 classes, 5 were requested"),
        ({"train_images": 0}, r"--train-images must be 1 or more, got 0"),
        ({"val_images": -1}, r"--val-images must be 1 or more, got -1"),
        ({"image_size": 0}, r"--image-size must be 1 or more, got 0"),
    ],
)
def test_numbers_of_images_that_cannot_be_are_refused(spec: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(DataSpec("digits", **spec))


# -------------------------------------------------------------------------------------------------- folders and zips


def test_a_folder_without_splits_is_split_with_a_note(tmp_path: Path, cache: Path) -> None:
    data = load(write_tree(tmp_path / "pets"), cache)
    assert data.classes == ("cat", "dog")
    assert data.input_shape == (1, 4, 4)  # grey images have one channel
    assert (len(data.train), len(data.val), data.test_images) == (13, 3, 4)
    assert "no test images: 4" in data.notes[0]
    assert [place // 100 for place in places(data.train)] == data.train.labels.tolist()


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("train", "valid", "test"),
        ("Training", "Validation", "Testing"),
        ("train", "Val", "TEST"),
    ],
)
def test_the_split_folders_of_a_source_are_kept(
    tmp_path: Path, cache: Path, train: str, validation: str, test: str
) -> None:
    root = tmp_path / "pets"
    for start, split in ((0, train), (20, validation), (40, test)):
        for c, label in enumerate(("cat", "dog")):
            for i in range(3):
                write_image(root / split / label / f"{i}.png", start + 100 * c + i)
    data = load(root, cache)
    assert sorted(places(data.train)) == [0, 1, 2, 100, 101, 102]
    assert sorted(places(data.val)) == [20, 21, 22, 120, 121, 122]
    assert sorted(places(data.test())) == [40, 41, 42, 140, 141, 142]
    assert data.notes == ()


def zipped(root: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(p for p in root.rglob("*") if p.is_file()):
            archive.write(file, prefix + file.relative_to(root).as_posix())
    return path


@pytest.mark.parametrize("prefix", ["", "pets/", "download/pets-1.0/"])
def test_a_zip_gives_what_its_folder_gives(tmp_path: Path, cache: Path, prefix: str) -> None:
    root = tmp_path / "pets"
    for split in ("train", "test"):
        write_tree(root / split, 5)
    folder, archive = load(root, cache), load(zipped(root, tmp_path / "pets.zip", prefix), cache)
    assert folder.classes == archive.classes == ("cat", "dog")
    for a, b in ((folder.train, archive.train), (folder.val, archive.val), (folder.test(), archive.test())):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


def test_a_zip_is_split_by_class_and_keeps_its_own_test_images(tmp_path: Path, cache: Path) -> None:
    classes = tuple("abcdefghij")
    for split, n in (("train", 8), ("test", 3)):
        for label in classes:
            for i in range(n):
                write_image(tmp_path / "ten" / split / label / f"{i}.png", i, "RGB")
    data = load(zipped(tmp_path / "ten", tmp_path / "ten.zip"), cache, train_images=50, val_images=20)
    assert (data.input_shape, data.classes) == ((3, 4, 4), classes)
    assert torch.bincount(data.train.labels).tolist() == [5] * 10
    assert torch.bincount(data.val.labels).tolist() == [2] * 10
    assert torch.bincount(data.test().labels).tolist() == [3] * 10
    assert [note.partition(" images are exact copies")[0] for note in data.notes] == [
        "20 of 20 validation",
        "30 of 30 test",
    ]


def test_hidden_files_and_other_files_are_ignored(tmp_path: Path, cache: Path) -> None:
    root = write_tree(tmp_path / "pets")
    (root / "cat" / ".DS_Store").write_bytes(b"finder")
    (root / "cat" / "._000.png").write_bytes(b"not an image")
    (root / "cat" / "labels.csv").write_text("a,b")
    (root / "README.md").write_text("pets")
    write_image(root / ".thumbnails" / "0.png")
    write_image(root / "__MACOSX" / "cat" / "0.png")
    data = load(root, cache)
    assert data.classes == ("cat", "dog")
    assert len(data.train) + len(data.val) + data.test_images == 20


def test_linked_folders_count_and_a_link_to_a_folder_above_ends(tmp_path: Path, cache: Path) -> None:
    root, elsewhere = write_tree(tmp_path / "pets"), write_tree(tmp_path / "elsewhere", classes=("fox",))
    (root / "fox").symlink_to(elsewhere / "fox")
    (root / "cat" / "all").symlink_to(root)
    data = load(root, cache)
    assert data.classes == ("cat", "dog", "fox")
    assert len(data.train) + len(data.val) + data.test_images == 30


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path, cache: Path) -> None:
    root = write_tree(tmp_path / "pets")
    try:
        os.rename(os.fsencode(root / "cat"), os.fsencode(root) + b"/caf\xe9")
    except OSError:
        pytest.skip("this file system holds UTF-8 names alone")
    with pytest.raises(DataError, match=r"UTF-8, got b'caf\\xe9/0"):
        load(root, cache)


def test_16_bit_images_with_a_transparent_level_keep_their_grey(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    image.save(tmp_path / "grey.png", transparency=0)
    assert "transparency" in Image.open(tmp_path / "grey.png").info
    assert abs(int(decode_file(tmp_path / "grey.png", (1, 4, 4)).mean()) - 156) <= 1


@pytest.mark.parametrize(
    ("mode", "value"), [("F", 0.5), ("F", 127.5), ("I", 128), ("I", 128 * 257), ("I;16", 128 * 257)]
)
def test_images_of_more_than_8_bits_keep_their_grey(mode: str, value: float, tmp_path: Path) -> None:
    pixels = np.full((4, 4), value, {"F": np.float32, "I": np.int32, "I;16": np.uint16}[mode])
    image = Image.fromarray(pixels)
    assert image.mode == mode
    image.save(tmp_path / "grey.tif")
    assert abs(int(decode_file(tmp_path / "grey.tif", (1, 4, 4)).mean()) - 128) <= 1


def test_an_image_file_has_one_or_three_channels(tmp_path: Path) -> None:
    write_image(tmp_path / "grey.png")
    with pytest.raises(DataError, match="1 or 3 channels, but 4"):
        decode_file(tmp_path / "grey.png", (4, 4, 4))


def test_images_of_mixed_modes_become_rgb(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "mixed"
    paletted = Image.new("RGB", (4, 4), (30, 60, 90)).convert("P", palette=Image.Palette.ADAPTIVE)
    expected = {
        "l": (Image.new("L", (4, 4), 200), (200, 200, 200)),
        "la": (Image.new("LA", (4, 4), (150, 7)), (252, 252, 252)),  # on white
        "rgb": (Image.new("RGB", (4, 4), (10, 20, 30)), (10, 20, 30)),
        "rgba": (Image.new("RGBA", (4, 4), (40, 50, 60, 128)), (147, 152, 157)),
        "p": (paletted, (30, 60, 90)),
        "deep": (Image.fromarray(np.full((4, 4), 100 * 257, dtype=np.uint16)), (100, 100, 100)),
        "bits": (Image.new("1", (4, 4), 1), (255, 255, 255)),
    }
    for label, (image, _) in expected.items():
        for i in range(10):
            (root / label).mkdir(parents=True, exist_ok=True)
            image.save(root / label / f"{i}.png")
    data = load(root, cache)
    assert data.input_shape == (3, 4, 4)
    for image, label in zip(data.train.images, data.train.labels, strict=True):
        assert image.reshape(-1, 3).unique(dim=0).tolist() == [list(expected[data.classes[label]][1])]
    assert len(data.train.labels.unique()) == len(expected)


def test_images_of_16_bits_alone_stay_grey_and_keep_their_brightness(tmp_path: Path, cache: Path) -> None:
    for label, level in (("dark", 20), ("light", 250)):
        (tmp_path / "deep" / label).mkdir(parents=True)
        for i in range(5):
            image = Image.fromarray(np.full((3, 3), level * 257, dtype=np.uint16))
            image.save(tmp_path / "deep" / label / f"{i}.png")
    data = load(tmp_path / "deep", cache)
    assert data.input_shape == (1, 3, 3)
    assert set(places(data.train)) == {20, 250}


def test_images_of_different_sizes_are_refused_without_an_image_size(tmp_path: Path, cache: Path) -> None:
    root = write_tree(tmp_path / "pets")
    write_image(root / "dog" / "wide.png", 7, size=(6, 5))
    with pytest.raises(DataError, match=r"4×4 for 'cat/000\.png' and 6×5 for 'dog/wide\.png'.*--image-size"):
        load(root, cache)
    assert load(root, cache, image_size=8).input_shape == (1, 8, 8)


def test_images_need_not_be_square(tmp_path: Path, cache: Path) -> None:
    for label in ("cat", "dog"):
        for i in range(5):
            write_image(tmp_path / "wide" / label / f"{i}.png", i, size=(6, 3))
    assert load(tmp_path / "wide", cache).input_shape == (1, 3, 6)


def test_one_class_is_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=r"two classes or more, got cat"):
        load(write_tree(tmp_path / "pets", classes=("cat",)), cache)


def test_a_class_of_another_split_alone_is_refused(tmp_path: Path, cache: Path) -> None:
    write_tree(tmp_path / "pets" / "train")
    write_tree(tmp_path / "pets" / "test", classes=("cat", "dog", "emu"))
    with pytest.raises(DataError, match=r"'emu' has images in test but none in train"):
        load(tmp_path / "pets", cache)


def test_an_empty_folder_and_a_stray_image_are_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no images in .*empty"):
        load(tmp_path / "empty", cache)
    write_image(write_tree(tmp_path / "pets") / "stray.png")
    with pytest.raises(DataError, match=r"stray\.png"):
        load(tmp_path / "pets", cache)


@pytest.mark.parametrize("content", ["text", "truncated", "empty"])
@pytest.mark.parametrize("as_zip", [False, True])
def test_a_broken_image_is_named(tmp_path: Path, cache: Path, content: str, as_zip: bool) -> None:
    root = write_tree(tmp_path / "pets")
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4), dtype=np.uint8)).save(noise, "PNG")
    broken = {"text": b"this is no image", "truncated": noise.getvalue()[:50], "empty": b""}[content]
    (root / "dog" / "003.png").write_bytes(broken)
    path = zipped(root, tmp_path / "pets.zip") if as_zip else root
    with pytest.raises(DataError, match=r"cannot decode the image 'dog/003\.png'"):
        load(path, cache)
    assert packs(cache) == []  # nothing half-decoded stays


# ------------------------------------------------------------------------------------------------------------- .npz


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 4), (1, 5, 4)),
        ((5, 4, 3), (3, 5, 4)),
        ((3, 5, 6), (3, 5, 6)),
        ((1, 5, 6), (1, 5, 6)),
        ((5, 6, 1), (1, 5, 6)),
    ],
)
def test_arrays_come_back_in_every_layout(
    tmp_path: Path, cache: Path, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    images = np.random.default_rng(1).integers(0, 256, (30, *shape), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=np.arange(30) % 2)
    data = load(tmp_path / "a.npz", cache)
    assert data.input_shape == expected
    ours = torch.cat([s.images for s in (data.train, data.val, data.test())])
    as_nchw = (
        {image.tobytes() for image in images.reshape(30, *expected)}
        if len(shape) < 3 or shape == expected
        else {np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes() for image in images}
    )
    assert {image.permute(2, 0, 1).contiguous().numpy().tobytes() for image in ours} == as_nchw


@pytest.mark.parametrize(
    ("x", "y"), [("train_images", "train_labels"), ("x_train", "y_train"), ("images", "labels"), ("X_train", "y_train")]
)
def test_the_usual_names_of_arrays_are_accepted(tmp_path: Path, cache: Path, x: str, y: str) -> None:
    np.savez(tmp_path / "a.npz", **{x: np.zeros((20, 3, 3), np.uint8), y: (np.arange(20) % 2)[:, None]})
    assert load(tmp_path / "a.npz", cache).classes == ("0", "1")


def test_the_splits_of_arrays_are_kept(tmp_path: Path, cache: Path) -> None:
    more = {
        "val_images": np.full((6, 2, 3), 201, np.uint8),
        "val_labels": np.arange(6) % 3,
        "test_images": np.full((3, 2, 3), 202, np.uint8),
        "test_labels": np.arange(3),
    }
    data = load(write_npz(tmp_path / "a.npz", **more), cache)
    assert sorted(places(data.train)) == list(range(60))
    assert places(data.val) == [201] * 6
    assert places(data.test()) == [202] * 3


ZEROS: NDArray[np.uint8] = np.zeros((20, 3, 3), np.uint8)
TURNS = np.arange(20) % 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": ZEROS.astype(np.float32), "labels": TURNS}, r"images must be uint8 from 0 to 255, got float32"),
        ({"images": ZEROS, "labels": TURNS.astype(float)}, r"whole numbers from 0 on, got float64"),
        ({"images": ZEROS, "labels": TURNS - 1}, r"whole numbers from 0 on"),
        ({"images": ZEROS, "labels": TURNS[:7]}, r"20 whole numbers"),
        ({"images": ZEROS[0], "labels": TURNS[:3]}, r"images must have the shape .* got \(3, 3\)"),
        ({"images": ZEROS[..., None, None], "labels": TURNS}, r"images must have the shape"),
        ({"pictures": ZEROS, "labels": TURNS}, r"a\.npz needs the arrays .* got labels, pictures"),
        ({"images": ZEROS, "labels": TURNS * 0}, r"two classes or more, got 1"),
        (
            {"images": ZEROS, "labels": TURNS, "test_images": ZEROS[:, :2], "test_labels": TURNS},
            r"images of different shapes",
        ),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(
    tmp_path: Path, cache: Path, arrays: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "a.npz", cache)


class Evil:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["train_images", "notes"])
def test_objects_in_arrays_are_refused_and_never_unpickled(tmp_path: Path, cache: Path, name: str) -> None:
    trap = tmp_path / "trap"
    write_npz(tmp_path / "a.npz", **{name: np.array([Evil(trap)], dtype=object)})
    with pytest.raises(DataError, match="plain arrays"):
        load(tmp_path / "a.npz", cache)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Evil(trap)))  # noqa: S301 - shows that the trap works
    assert trap.exists()


# ------------------------------------------------------------------------------------------------------- the cache


def test_a_source_is_decoded_once(tmp_path: Path, cache: Path) -> None:
    root = write_tree(tmp_path / "pets")
    first = load(root, cache)
    pack = packs(cache)[0]
    about = json.loads((pack / "pack.json").read_text())
    (pack / "pack.json").write_text(json.dumps({**about, "classes": ["kept", "pack"]}))
    before = (pack / "images.npy").stat()
    second = load(root, cache)
    after = packs(cache)[0] / "images.npy"
    assert second.classes == ("kept", "pack")  # read from the pack, not from the folder
    assert (after.stat().st_ino, after.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert torch.equal(first.train.images, second.train.images)


def test_a_changed_source_is_decoded_again(tmp_path: Path, cache: Path) -> None:
    root = write_tree(tmp_path / "pets")
    first = load(root, cache)
    write_image(root / "cat" / "000.png", 99)
    second = load(root, cache)
    values = [*places(second.train), *places(second.val), *places(second.test())]
    assert 99 in values
    assert 0 not in values
    assert first.fingerprint != second.fingerprint
    write_image(root / "cat" / "new.png", 98)
    third = load(root, cache)
    assert len(third.train) + len(third.val) + third.test_images == 21


def test_the_same_images_at_another_place_have_the_same_fingerprint(tmp_path: Path, cache: Path) -> None:
    first = load(write_tree(tmp_path / "pets"), cache)
    shutil.copytree(tmp_path / "pets", tmp_path / "copy")
    assert load(tmp_path / "copy", cache).fingerprint == first.fingerprint


def test_the_files_of_a_crashed_process_are_removed(tmp_path: Path, cache: Path) -> None:
    root = write_tree(tmp_path / "pets")
    load(root, cache)
    pack = packs(cache)[0]
    shutil.rmtree(pack)
    stale = pack.with_name(f"{pack.name}.partial-12345")
    stale.mkdir()
    (stale / "images.npy").write_bytes(b"half")
    data = load(root, cache)
    assert not stale.exists()
    assert packs(cache) == [pack]
    assert len(data.train) == 13


def load_in_process(source: str, cache: str, barrier: Any, results: Any) -> None:
    torch.set_num_threads(1)
    barrier.wait(60)
    results.put(load_data(DataSpec(source), Path(cache)).fingerprint)


def test_two_new_processes_at_once_make_one_pack_of_an_installed_data_set(site: Path, cache: Path) -> None:
    with install_package(site, "jointnas.data", "stripes", f"{__name__}:Stripes"):
        context = multiprocessing.get_context("spawn")
        barrier, results = context.Barrier(2), context.Queue()
        arguments = ("stripes", str(cache), barrier, results)
        processes = [context.Process(target=load_in_process, args=arguments) for _ in range(2)]
        for process in processes:
            process.start()
        fingerprints = {results.get(timeout=60) for _ in processes}
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
        assert fingerprints == {load_data(DataSpec("stripes"), cache).fingerprint}
    assert len(packs(cache)) == 1


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_a_cache_that_cannot_be_written_is_a_data_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("JOINTNAS_CACHE", str(tmp_path / below))
    with pytest.raises(DataError, match=r"cannot write.*JOINTNAS_CACHE"):
        load_data(DataSpec("digits"))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve disk space")
def test_a_full_disk_is_a_data_error(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"No space left.*JOINTNAS_CACHE"):
        load(write_npz(tmp_path / "a.npz"), cache)
    assert not packs(cache)


@pytest.mark.skipif(
    not Path("/proc/self").is_dir(), reason="needs a file system that refuses new folders in its own way"
)
def test_a_cache_on_a_file_system_that_takes_no_folders_is_a_data_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOINTNAS_CACHE", "/proc/jointnas")
    with pytest.raises(DataError, match=r"cannot write.*JOINTNAS_CACHE"):
        load_data(DataSpec("digits"))
