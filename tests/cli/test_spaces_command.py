"""`jointnas spaces`: files to copy with what they hold above them, and every mistake in a file with its line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from jointnas.cli import main
from jointnas.network.cost import METRICS
from jointnas.resources import resource_folder
from jointnas.space.constraint import format_metric
from jointnas.space.lint import line_of, problems
from jointnas.space.space import Space, built_in_spaces
from jointnas.space.summary import summarise

SHOWN = ["resnet9", "resnet9-basic", "senet"]
ABSTRACT = "format = 1\n[architecture]\nlayers = { low = 1, high = 8 }\n"


class Said(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def spaces(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Return a function that runs `jointnas spaces …` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["jointnas", "spaces", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            main()
        return Said(int(end.value.code or 0), *capsys.readouterr())

    return run


def split(text: str) -> tuple[list[list[str]], str]:
    """Return what stands above a shown file, in words, and the file."""
    lines = text.splitlines(keepends=True)
    above = [line.removeprefix("#: ").split() for line in lines if line.startswith("#: ")]
    return above, "".join(lines[len(above) :])


# --------------------------------------------------------------------------------------------------------------- list


def test_every_built_in_space_is_listed_with_its_number_of_knobs(spaces: Command) -> None:
    listed = json.loads(spaces("list", "--json").out)["spaces"]
    assert {row["name"] for row in listed} == {path.stem for path in resource_folder("spaces").glob("*.toml")}
    assert all(row["knobs"] == len(Space.load(row["name"]).knobs) and row["description"] for row in listed)
    assert [line.split("\t")[0] for line in spaces().out.splitlines()] == ["space", *built_in_spaces()]


# --------------------------------------------------------------------------------------------------------------- show


@pytest.mark.parametrize("name", SHOWN)
def test_a_shown_space_is_its_file_to_the_letter_below_comments(name: str, spaces: Command) -> None:
    said = spaces("show", name)
    assert (said.code, said.err) == (0, "")
    assert split(said.out)[1] == (resource_folder("spaces") / f"{name}.toml").read_text(encoding="utf-8")
    assert Space.from_toml(said.out) == Space.load(name)


def test_above_it_stand_its_size_and_a_line_for_each_cost(spaces: Command) -> None:
    found = summarise(Space.load("resnet9", input_shape=(3, 32, 32), classes=10))
    above, _ = split(spaces("show", "resnet9").out)
    assert " ".join(above[0]) == found.size
    assert " ".join(above[1]) == "3x32x32, 10 classes smallest median largest middle of every knob"
    assert [row[0] for row in above[2:]] == list(METRICS)
    for metric, *numbers in above[2:]:
        reach = found.costs[metric]
        exact = (reach.smallest, reach.median, reach.largest, found.example_costs[metric])
        assert numbers == [format_metric(metric, number) for number in exact]


def test_the_numbers_above_are_aligned_to_the_right(spaces: Command) -> None:
    table = [line for line in spaces("show", "senet").out.splitlines() if line.startswith("#: ")][1:]
    assert len({len(line) for line in table}) == 1
    assert {line[: len("#: 3x32x32, 10 classes")].rstrip() for line in table[1:]} == {f"#: {m}" for m in METRICS}


def test_costs_are_those_for_the_shape_and_classes_asked_for(spaces: Command) -> None:
    data = json.loads(spaces("show", "senet", "--input-shape", "1x28x28", "--classes", "7", "--json").out)
    assert (data["name"], data["input_shape"], data["classes"]) == ("senet", [1, 28, 28], 7)
    space = Space.load("senet", input_shape=(1, 28, 28), classes=7)
    assert data["example_costs"] == space.cost(data["example"])
    assert (
        data["costs"]["macs"]["largest"] < json.loads(spaces("show", "senet", "--json").out)["costs"]["macs"]["largest"]
    )


def test_a_copy_that_was_edited_is_shown_with_its_own_survey_alone(spaces: Command) -> None:
    shown = spaces("show", "senet").out
    Path("mine.toml").write_text(shown.replace("values = [0.5, 1.0, 1.5]", "values = [0.5, 1.0]"), encoding="utf-8")
    again = spaces("show", "mine.toml").out
    assert split(again)[0][0] != split(shown)[0][0]
    assert len(split(again)[0]) == len(split(shown)[0])
    assert again.count("median") == 1
    Path("again.toml").write_text(again, encoding="utf-8")
    assert spaces("show", "again.toml").out == again


def test_an_abstract_space_has_only_a_size(spaces: Command) -> None:
    Path("mine.toml").write_text(ABSTRACT)
    assert spaces("show", "mine.toml").out == f"#: 8 candidates\n{ABSTRACT}"
    assert json.loads(spaces("show", "mine.toml", "--json").out)["costs"] == {}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["resnet99"], "did you mean 'resnet9'"),
        (["none.toml"], "cannot read the space file 'none.toml'"),
        (["resnet9", "--input-shape", "28x28"], "got '28x28': write it like 3x32x32"),
        (["resnet9", "--classes", "1"], "at least two classes"),
    ],
)
def test_a_space_that_cannot_be_shown_is_refused_in_one_line(args: list[str], message: str, spaces: Command) -> None:
    said = spaces("show", *args)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("jointnas: ")
    assert said.err.count("\n") == 1
    assert message in said.err


# -------------------------------------------------------------------------------------------------------------- check

HEAD = 'format = 1\n\n[architecture]\nnetwork = "resnet9" # the family\n'


def found_in(text: str, tmp_path: Path, shape: tuple[int, ...] = (3, 32, 32)) -> list[tuple[int | None, str]]:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return [tuple(problem) for problem in problems(path, shape, 10)]


@pytest.mark.parametrize("name", built_in_spaces())
def test_nothing_is_wrong_with_a_built_in_space(name: str) -> None:
    assert problems(resource_folder("spaces") / f"{name}.toml", (3, 32, 32), 10) == []


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("format = 1\n[architecture\n", 2, "valid TOML"),
        ("format = 1\n[architecture]\na = [\n  1,\n\n  2,\n", 3, "valid TOML"),
        ("format = 1\n[architecture]\na = 1\nb = 2\na = 3\n", 5, "valid TOML"),
        ("[architecture]\na = 1\n", None, "format = None: begin it with format = 1"),
        ("# mine\nformat = 2\n[architecture]\na = 1\n", 2, "format = 2: begin it with format = 1"),
        ("format = 1\nrecipe = 3\n[architecture]\na = 1\n", 2, "recipe must be a table of knobs, got 3"),
        (f"{HEAD}\n[recipies]\nflip = true\n", 6, "did you mean 'recipe'"),
        ("format = 1\n", None, "has no knobs"),
        ('format = 1\n[architecture]\nwidth = 4\nnetwork = "resnet99"\n', 4, "did you mean 'resnet9'"),
        (
            "format = 1\n[architecture]\nwidth = 4\nnetwork = { value = 'resnet9', when = { width = 4 } }\n",
            4,
            "without a condition",
        ),
        (f"{HEAD}depth1 = 1\nwidht = 4\n", 6, "did you mean 'width'"),
        (f"{HEAD}width = {{ low = 9, high = 4 }}\n", 5, "swap them"),
        (f"{HEAD}width = {{ low = 4, hihg = 9 }}\n", 5, "did you mean 'high'"),
        (f"{HEAD}width = {{ low = 4.0, high = 9.0 }}\n", 5, "add step = 1"),
        (
            f"{HEAD}depth1 = 1\n[architecture.width]\n# of the stem\nlow = 4\nhigh = 'wide'\n",
            6,
            "a finite number, got 'wide'",
        ),
        (
            f"{HEAD}width = {{ low = 4, high = 9, when = {{ dept = 1 }} }}\ndepth1 = 1\n",
            5,
            "condition of width names the unknown knob 'dept'",
        ),
        (
            f"{HEAD}depth1 = {{ low = 0, high = 2 }}\nwidth = {{ values = [4, 8], when = {{ depth1 = 3 }} }}\n",
            6,
            "depth1 = 3",
        ),
        (f"{HEAD}[recipe]\nflip = true\ncycles = 2\nmomentun = 0.9\n", 8, "did you mean 'momentum'"),
        (f"{HEAD}[recipe]\nwarmup = {{ values = [0.1, 1.5] }}\nflip = true\n", 6, "warmup must be between"),
        (f"{HEAD}flip = true\n[recipe]\nflip = true\n", 5, "'flip' is in [architecture] and in [recipe]"),
        (
            "format = 1\n[architecture]\na = {values = [1], when = {b = 1}}\nb = {values = [1], when = {a = 1}}\n",
            3,
            "circle",
        ),
        (f"{HEAD}width = 4\nresolution = {{ values = [0.01, 1.0] }}\n", 6, "leaves no pixel"),
        (f"{HEAD}width = {{ values = [0, 4] }}\nresolution = 1.0\n", 5, "width = 0"),
        (f'{HEAD}activation = {{ choices = [\n  "relu",\n  "rleu",\n] }}\nwidth = 4\n', 5, "did you mean 'relu'"),
    ],
)
def test_a_mistake_is_found_with_its_line(text: str, line: int | None, message: str, tmp_path: Path) -> None:
    ((found, said),) = found_in(text, tmp_path)
    assert found == line
    assert message in said


def test_every_wrong_knob_of_a_file_is_found_and_what_rests_on_one_is_no_second_mistake(tmp_path: Path) -> None:
    text = (
        f"{HEAD}width = {{ low = 9, high = 4 }}\ndepth1 = {{ low = 0, high = 2 }}\nresolution = 9999999\n[recipe]\n"
        "gradient = { choices = ['plain', 'smart'] }\nsam_rho = { value = 0.05, when = { gradient = 'smart' } }\n"
        "warmup = 2\n"
    )
    found = found_in(text, tmp_path)
    assert [line for line, _ in found] == [5, 7, 9, 11]
    assert "width" in found[0][1]
    assert "got 'smart'" in found[2][1]


def test_networks_that_do_not_exist_for_an_input_shape_are_found(tmp_path: Path) -> None:
    text = f"{HEAD}resolution = {{ values = [0.1, 1.0] }}\n"
    assert found_in(text, tmp_path) == []
    ((line, message),) = found_in(text, tmp_path, shape=(1, 8, 8))
    assert line == 5
    assert "leaves no pixel of an image of 8×8" in message


def test_all_files_are_checked_and_one_wrong_file_is_exit_1(spaces: Command) -> None:
    files = {
        "right.toml": f"{HEAD}width = 4\n",
        "wrong.toml": f"{HEAD}widht = 4\n",
        "own.toml": ABSTRACT,
        "worse.toml": "format = \n",
    }
    for name, text in files.items():
        Path(name).write_text(text)
    said = spaces("check", *files, "none.toml")
    assert said.code == 1
    assert said.out == "right.toml: 2 knobs, no faults\nown.toml: 1 knobs, no faults\n"
    starts = ("jointnas: wrong.toml:5: ", "jointnas: worse.toml:1: ", "jointnas: none.toml: ")
    assert len(said.err.splitlines()) == len(starts)
    assert all(line.startswith(start) for line, start in zip(said.err.splitlines(), starts, strict=True))


def test_right_files_are_exit_0_for_the_shape_asked_for(spaces: Command) -> None:
    Path("mine.toml").write_text(f"{HEAD}resolution = {{ values = [0.1, 1.0] }}\n")
    assert spaces("check", "mine.toml") == (0, "mine.toml: 2 knobs, no faults\n", "")
    assert spaces("check", "mine.toml", "--input-shape", "1x8x8").code == 1


# -------------------------------------------------------------------------------------------------------------- lines

TEXT = '''# a comment
format = 1
description = """
width = 3
"""

[architecture]
width = [
  1,

  2,
]
"quoted key" = 1
inner = { low = 1 }

[recipe.flip]
value = true
'''


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("format",), 2),
        (("description",), 3),
        (("architecture",), 7),
        (("architecture", "width"), 8),
        (("architecture", "quoted key"), 13),
        (("architecture", "inner", "low"), 14),
        (("recipe",), 16),
        (("recipe", "flip"), 16),
        (("recipe", "flip", "value"), 17),
        (("width",), None),
    ],
)
def test_the_line_of_a_key_is_that_of_its_statement(key: tuple[str, ...], line: int | None) -> None:
    assert line_of(TEXT, key) == line


@pytest.mark.parametrize(("text", "line"), [("a = 1\nb =\nc = 3\n", 2), ("a = 1\n\nb = '''\nc\n", 3), ("= 1", 1)])
def test_without_a_key_it_is_the_statement_that_cannot_be_read(text: str, line: int) -> None:
    assert line_of(text, None) == line
