"""Pack an image data set that a public git repository holds into a zip with `train/CLASS/FILE` and `test/CLASS/FILE`.

python -m benchmarks.tables.images NAME --clone PATH_TO_CLONE_OR_GIT_DIR --to NAME.zip
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import subprocess
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

SIDE = 64  # pixels; an image whose shorter side is longer becomes a centred square of this side


class Rule(NamedTuple):
    """Where a set's images are, and which of them are for testing."""

    repository: str
    commit: str
    pattern: str  # of an image's path; names `label` and perhaps `split`, or `source`: its images share a split
    cap: int = 10**9  # images of a class (of its training split, where the pattern names `split`), evenly spaced
    least: int = 1  # classes with fewer images are left out
    test_share: float = 0.2  # of each class, where the pattern does not name `split`
    archives: tuple[str, ...] = ()  # zips in the repository that hold the images


RULES = {
    "blood-cells": Rule("dhruvp/wbc-classification", "0b22eb2084b1004d464fb5ab87adc85ab94b2079",
        r"images/(?P<split>TRAIN|TEST)/(?P<label>[A-Z]+)/[^/]+\.jpeg", cap=1500),
    "flowers": Rule("martinwestin/flower_classification", "c169e7e4038bc0e0e2fe80090b6dc8919539816f",
        r"flowers/(?P<label>[a-z]+)/[^/]+\.jpg"),
    "font-letters": Rule("dnth/car_plate_localization", "f70c0c29d3e194fa49b66c96f33a963c4e42efd5",
        r"English/Fnt/Sample(?P<label>01[1-9]|0[23]\d)/img\d+-(?P<source>\d+)\.png", cap=300, test_share=0.3),
    "landscapes": Rule("afroozsheikh/Intel-Image-Classifier", "268f8fc38fb3f7307c1861d619ee99ff4158a3f5",
        r"(?P<split>train|test)/(?P<label>[a-z]+)/[^/]+\.jpg"),
    "omniglot-alphabets": Rule("brendenlake/omniglot", "057f034baf2ecb8530bc5710e5a23584d2a519cc",
        r"images_background_small\d/(?P<label>[^/]+)/character\d+/\d+_(?P<source>\d+)\.png",
        archives=("python/images_background_small1.zip", "python/images_background_small2.zip")),
    "satellite-scenes": Rule("palewithout/RSSCN7", "6d77849df87d242b323184ab096e44dd63730c7e",
        r"[a-g](?P<label>[A-Z][A-Za-z]+)/[^/]+\.jpg"),
    "sign-digits": Rule("ardamavi/Sign-Language-Digits-Dataset", "4b09433ef9d5c60602e8805bb54b8aa2428527f8",
        r"Dataset/(?P<label>\d)/[^/]+\.JPG"),
    "textures": Rule("pan8915/DeepTexture", "522f46f683af11e93673bff29f81df14f49edfb2",
        r"images/(?P<label>[a-z]+)/[^/]+\.jpg"),
    "traffic-signs": Rule("jovanzac/Traffic", "4218b162fecd7ae1b1fa5aa9c33140c8d3dd9fc0",
        r"gtsrb/(?P<label>\d+)/(?P<source>\d{5})_\d{5}\.ppm", cap=300, least=230, test_share=0.25),
    "trash": Rule("congduytran12/Trash-Classification-", "00212f2c18dcdb9045c74481eaae5baaf72537df",
        r"dataset-resized/(?P<label>[a-z]+)/[^/]+\.jpg"),
}  # fmt: skip


def read_files(clone: Path, rule: Rule) -> Iterator[tuple[str, bytes]]:
    """Yield the path and content of each image of the rule's commit."""
    git = ["git", "-C", str(clone)]
    listing = subprocess.run([*git, "ls-tree", "-rz", rule.commit], check=True, stdout=subprocess.PIPE).stdout.decode()
    blobs = {path: entry.split()[2] for entry, path in (line.split("\t") for line in listing.split("\0") if line)}
    wanted = rule.archives or [path for path in blobs if re.fullmatch(rule.pattern, path)]
    names = "\n".join(blobs[path] for path in wanted).encode()
    batch = [*git, "cat-file", "--batch"]
    printed = io.BytesIO(subprocess.run(batch, check=True, input=names, stdout=subprocess.PIPE).stdout)
    for path in wanted:
        content = printed.read(int(printed.readline().split()[2]) + 1)[:-1]
        if rule.archives:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                yield from ((p, archive.read(p)) for p in archive.namelist() if re.fullmatch(rule.pattern, p))
        else:
            yield path, content


def choose(files: dict[str, bytes], rule: Rule) -> dict[str, str]:
    """Return the path of each image to write, by the name that it gets, without a suffix."""
    first = {content: path for path, content in sorted(files.items(), reverse=True) if content}  # drops copies
    classes: dict[str, dict[str, re.Match[str]]] = defaultdict(dict)  # by label and stem
    for match in filter(None, (re.fullmatch(rule.pattern, path) for path in first.values())):
        classes[match["label"]][Path(match.string).stem] = match
    chosen: dict[str, str] = {}
    for label, images in ((label, images) for label, images in classes.items() if len(images) >= rule.least):
        test = {stem for stem, match in images.items() if match.groupdict().get("split", "").lower() == "test"}
        rest = sorted(images.keys() - test)
        kept = rest if len(rest) <= rule.cap else [rest[i * len(rest) // rule.cap] for i in range(rule.cap)]
        if not test:
            sources: dict[str, list[str]] = defaultdict(list)
            for stem in kept:
                sources[images[stem].groupdict().get("source", stem)].append(stem)
            for source in sorted(sources, key=lambda source: hashlib.sha256(source.encode()).digest()):
                if len(test) < round(rule.test_share * len(kept)):
                    test.update(sources[source])
        for stem in test.union(kept):
            chosen[f"{'test' if stem in test else 'train'}/{label}/{stem}"] = images[stem].string
    return chosen


def shrink(content: bytes) -> tuple[str, bytes]:
    """Return a suffix and content: a JPEG square of SIDE pixels, or a PNG in the image's own size if that is small."""
    image, written = Image.open(io.BytesIO(content)), io.BytesIO()
    plain = image.convert("L" if image.mode in ("1", "L") else "RGB")
    if min(plain.size) <= SIDE:
        plain.save(written, "PNG")
        return ".png", written.getvalue()
    ImageOps.fit(plain, (SIDE, SIDE)).save(written, "JPEG", quality=92)  # the centred square, shrunk
    return ".jpg", written.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(RULES))
    parser.add_argument("--clone", type=Path, required=True, help="a clone of the set's repository, or its git dir")
    parser.add_argument("--to", type=Path, required=True, help="the zip to write")
    arguments = parser.parse_args()
    rule = RULES[arguments.name]
    files = dict(read_files(arguments.clone, rule))
    with zipfile.ZipFile(arguments.to, "w", zipfile.ZIP_STORED) as packed:
        for target, path in sorted(choose(files, rule).items()):
            suffix, content = shrink(files[path])
            packed.writestr(zipfile.ZipInfo(target + suffix), content)
