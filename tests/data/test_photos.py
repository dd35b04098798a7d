"""Photos as people have them: turned, transparent, of many sizes, named by tables, saved by other libraries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jointnas.data.dataset import Data, labelled_images, load_data
from jointnas.data.image_folder import suggested_size
from jointnas.data.images import decode_file
from jointnas.data.spec import DataSpec
from jointnas.errors import DataError

RED, BLUE = (250, 10, 20), (10, 20, 250)


def two_halves(width: int, height: int) -> Image.Image:
    """Return an image whose upper half is red and whose lower half is blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (0, height // 2, width, height))
    return image


def save_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), n: int = 10) -> Path:
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(n):
            Image.new("RGB", (40 + i, 30), (100 * c + i, i, 0)).save(root / name / f"{i}.png")
    return root


def load(source: Path, tmp_path: Path, **spec: object) -> Data:
    return load_data(DataSpec(str(source), **spec), tmp_path / "cache")  # type: ignore[arg-type]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_camera_says(orientation: int, tmp_path: Path) -> None:
    upright = two_halves(60, 40)
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    stored, exif = upright if turn is None else upright.transpose(turn), Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    pixels = decode_file(tmp_path / "photo.png", (3, 40, 60))
    np.testing.assert_array_equal(pixels, np.asarray(upright))


def test_a_folder_of_photos_on_their_side_keeps_its_upright_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            stored = Image.new("RGB", (8, 6), (i, 0, 0))
            stored.save(tmp_path / "photos" / name / f"{i}.jpg", exif=exif)
    assert load(tmp_path / "photos", tmp_path).input_shape == (3, 8, 6)


def test_damaged_exif_data_are_ignored(tmp_path: Path) -> None:
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff broken"
    two_halves(8, 8).save(tmp_path / "photo.jpg", exif=exif)
    assert decode_file(tmp_path / "photo.jpg", (3, 8, 8)).shape == (8, 8, 3)


def test_what_becomes_of_another_shape_is_a_choice(tmp_path: Path) -> None:
    wide = Image.new("RGB", (80, 40), RED)
    wide.paste(BLUE, (20, 0, 60, 40))  # the middle square
    wide.save(tmp_path / "wide.png")
    crop, pad, stretch = (decode_file(tmp_path / "wide.png", (3, 40, 40), fit) for fit in ("crop", "pad", "stretch"))
    assert {tuple(p) for p in crop.reshape(-1, 3)} == {BLUE}
    assert (tuple(pad[0, 0]), tuple(pad[20, 20]), tuple(pad[20, 2])) == ((0, 0, 0), BLUE, RED)
    assert (tuple(stretch[0, 0]), tuple(stretch[0, 20])) == (RED, BLUE)


def test_fit_is_part_of_the_data(tmp_path: Path) -> None:
    photos = save_folder(tmp_path / "photos")
    for name in ("cat", "dog"):
        noise = np.random.default_rng(0).integers(0, 256, (90, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photos / name / "tall.png")
    with pytest.raises(DataError, match="--fit is crop, pad, stretch, got 'zoom'"):
        load(photos, tmp_path, image_size=16, fit="zoom")
    fingerprints = {load(photos, tmp_path, image_size=16, fit=fit).fingerprint for fit in ("crop", "pad", "stretch")}
    assert len(fingerprints) == 3


def test_a_size_is_suggested_for_images_of_mixed_sizes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"choose one with --image-size; 32 keeps most"):
        load(save_folder(tmp_path / "photos"), tmp_path)
    assert suggested_size([(640, 480)] * 8 + [(100, 90)]) == 224
    assert suggested_size([(100, 90), (70, 80), (60, 66)]) == 48
    assert suggested_size([(20, 20)]) == 32


def test_test_images_that_are_copies_of_training_images_are_reported(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    save_folder(photos / "train")
    save_folder(photos / "test", n=2)
    notes = load(photos, tmp_path, image_size=32).notes
    assert notes == (
        "4 of 4 test images are exact copies of images in another split, which raises the accuracy: remove copies",
    )


# --------------------------------------------------------------------------------------------------------------- tables


def table(path: Path, rows: list[str], header: str = "path,label") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_a_table_names_images_and_their_classes(tmp_path: Path) -> None:
    save_folder(tmp_path / "photos")
    rows = [
        f"photos/{name}/{i}.png,{'train' if i < 8 else 'test'},{name}s" for name in ("cat", "dog") for i in range(10)
    ]
    data = load(table(tmp_path / "labels.csv", rows, "File_Name,Split,Class"), tmp_path, image_size=16)
    assert data.classes == ("cats", "dogs")
    assert (len(data.train) + len(data.val), data.test_images) == (16, 4)


@pytest.mark.parametrize(
    ("header", "row", "words"),
    [
        ("path,label", None, "has no rows"),
        ("picture,label", "a.png,cat", "a table of images has a column path or file"),
        ("path,label", ",cat", "got line 2 of .* without one"),
        ("path,label,split", "a.png,cat,dev", "a split is train, val or test, got 'dev' in line 2"),
        ("path,label", "missing.png,cat", "got 'missing.png', which is no file"),
    ],
)
def test_mistakes_in_a_table(header: str, row: str | None, words: str, tmp_path: Path) -> None:
    rows = [] if row is None else [row, "other.png,dog"]
    with pytest.raises(DataError, match=words):
        load(table(tmp_path / "labels.csv", rows, header), tmp_path)


def test_a_table_that_changes_is_read_again(tmp_path: Path) -> None:
    save_folder(tmp_path / "photos")
    rows = [f"photos/{name}/{i}.png,{name}" for name in ("cat", "dog") for i in range(10)]
    first = load(table(tmp_path / "labels.csv", rows), tmp_path, image_size=16)
    swapped = [row.replace(",cat", ",x").replace(",dog", ",cat").replace(",x", ",dog") for row in rows]
    again = load(table(tmp_path / "labels.csv", swapped), tmp_path, image_size=16)
    assert first.fingerprint != again.fingerprint


# ------------------------------------------------------------------------------------------------------- other sources


def test_a_data_set_that_hugging_face_saved_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="Hugging Face's datasets are not installed")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [Image.new("RGB", (12, 8), (i, 0, 0)) for i in range(40)], "label": [i % 2 for i in range(40)]}
    whole = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(whole.train_test_split(test_size=10, seed=0)).save_to_disk(str(tmp_path / "saved"))
    data = load(tmp_path / "saved", tmp_path, image_size=8)
    assert (data.classes, data.input_shape, data.test_images) == (("cat", "dog"), (3, 8, 8), 10)
    for image, label in zip(data.train.images, data.train.labels, strict=True):
        assert int(image[0, 0, 0]) % 2 == int(label)


def test_labelled_images_need_no_training_images(tmp_path: Path) -> None:
    photos = save_folder(tmp_path / "photos")
    split, name, classes = labelled_images(str(photos), (3, 16, 16), "crop")
    assert (len(split), name, classes) == (20, "all", ("cat", "dog"))
    with pytest.raises(DataError, match="has the splits train, got --split test"):
        labelled_images(str(photos), (3, 16, 16), "crop", "test")
    save_folder(tmp_path / "one", ("dog",))
    split, _, classes = labelled_images(str(tmp_path / "one"), (1, 8, 8), "crop")
    assert (tuple(split.images.shape), classes) == ((10, 8, 8, 1), ("dog",))
    rows = [f"photos/cat/{i}.png,test,cat" for i in range(4)]
    assert labelled_images(str(table(tmp_path / "t.csv", rows, "path,split,label")), (3, 8, 8), "pad")[1] == "test"


def test_a_class_of_a_table_may_be_called_train(tmp_path: Path) -> None:
    save_folder(tmp_path / "photos", ("bus", "train"))
    rows = [f"photos/{name}/{i}.png,{name}" for name in ("bus", "train") for i in range(10)]
    assert load(table(tmp_path / "labels.csv", rows), tmp_path, image_size=16).classes == ("bus", "train")
