"""`jointnas show`: a network as a table whose figures are those of its blueprint."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jointnas.cli import main
from jointnas.cli.show import _block_rows, _layer_rows
from jointnas.network.blueprint import Block, BlockBuilder, Blueprint
from jointnas.network.cost import blueprint_cost
from jointnas.network.families import make_blueprint
from jointnas.space.constraint import format_metric

Table = list[list[str]]
CANDIDATE = '[architecture]\nnetwork = "{}"\n{}\n'


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Table]:
    """Return a function that shows a network off a terminal: the cells of each line of the first table."""

    def run(network: str, knobs: str, *args: str) -> Table:
        file = tmp_path / "mine.toml"
        file.write_text(CANDIDATE.format(network, knobs))
        monkeypatch.setattr(sys, "argv", ["jointnas", "show", str(file), *args])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert (end.value.code or 0, said.err) == (0, "")
        return [line.split("\t") for line in said.out.partition("\n\n")[0].splitlines()]

    return run


def residual(channels: int) -> Block:
    block = BlockBuilder("residual")
    block.conv(channels=channels)
    block.add("relu")
    block.add("add", 0, 2)
    return block.build()


def test_off_a_terminal_every_line_has_the_columns_of_the_first(show: Callable[..., Table]) -> None:
    blocks, layers = show("senet", "width = 0.1"), show("senet", "width = 0.1", "--layers")
    assert blocks[0] == ["number", "block", "operations", "output", "macs", "params"]
    assert layers[0] == ["layer", "block", "operation", "reads", "output", "macs", "params"]
    assert {len(row) for row in blocks} == {6}
    assert {len(row) for row in layers} == {7}


def test_equal_blocks_in_a_row_are_one_row_with_the_sum_of_their_costs(show: Callable[..., Table]) -> None:
    deep, single = (show("resnet9", f"width = 8\ndepth3 = {depth}") for depth in (4, 1))
    names = [row[1] for row in deep[1:]]
    assert names == ["input", "stem", "pooled", "residual", "pooled", "pooled", "4 × residual", "head", "total"]
    (folded,) = (row for row in deep if row[1] == "4 × residual")
    assert folded[0] == "6–9"
    one = single[7]
    assert (one[1], one[2], one[3]) == ("residual", folded[2], folded[3])
    convolutions = 2 * 64 * 64 * 9
    assert folded[4] == format_metric("macs", 4 * convolutions * 4 * 4)
    assert folded[5] == format_metric("params", 4 * (convolutions + 2 * 64))


def test_blocks_that_read_differently_sized_images_are_not_folded() -> None:
    pool = BlockBuilder("pool")
    pool.add("max_pool", kernel=2, stride=2)
    rows = _block_rows(Blueprint.chain((3, 8, 8), [pool.build()] * 2 + [residual(3)] * 2))
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("0", "input", "3×8×8"),
        ("1", "pool", "3×4×4"),
        ("2", "pool", "3×2×2"),
        ("3–4", "2 × residual", "3×2×2"),
        ("", "total", ""),
    ]


def test_a_block_that_reads_others_than_the_one_before_says_which() -> None:
    join = BlockBuilder("join", n_inputs=2)
    join.add("concat", 0, 1)
    network = Blueprint((3, 8, 8), (residual(3), residual(3), join.build()), ((0,), (0,), (1, 2)))
    rows = _block_rows(network)
    assert rows[2][2].startswith("reads 0: conv")
    assert rows[3][2] == "reads 1, 2: concat"
    assert [row[3] for row in _layer_rows(network)[-2:]] == ["3, 6", ""]


@pytest.mark.parametrize(
    ("network", "knobs"), [("resnet9", "width = 8\ndepth1 = 3"), ("senet", "width = 0.1\ndepth = 1.5")]
)
@pytest.mark.parametrize("args", [(), ("--layers",)])
def test_the_last_line_is_what_the_network_costs(
    network: str, knobs: str, args: tuple[str, ...], show: Callable[..., Table]
) -> None:
    values = {key: float(value) for key, value in (line.split(" = ") for line in knobs.splitlines())}
    total = blueprint_cost(make_blueprint({"network": network, **values}, (3, 32, 32), 10))
    last = show(network, knobs, *args)[-1]
    assert last[1] == "total"
    assert (
        last[2]
        == f"size {format_metric('size', total['size'])}, peak memory {format_metric('memory', total['memory'])}"
    )
    assert last[-2:] == [format_metric(metric, total[metric]) for metric in ("macs", "params")]


@pytest.mark.parametrize("args", [(), ("--layers",)])
def test_the_last_line_is_of_all_scored_views(args: tuple[str, ...], show: Callable[..., Table]) -> None:
    one, two = (show("resnet9", f"width = 8\n[recipe]\ntest_flip = {flip}", *args) for flip in ("false", "true"))
    assert one[:-1] == two[:-1]
    total = blueprint_cost(make_blueprint({"network": "resnet9", "width": 8}, (3, 32, 32), 10))
    assert two[-1][1] == "total of 2 views"
    assert two[-1][-2:] == [format_metric("macs", 2 * total["macs"]), format_metric("params", total["params"])]


def test_layers_are_all_nodes_in_order_with_what_they_read(show: Callable[..., Table]) -> None:
    rows = show("resnet9", "width = 8\nwhitening = false", "--layers", "--input-shape", "1x8x8")[1:]
    assert [row[0] for row in rows] == [*map(str, range(len(rows) - 1)), ""]
    assert rows[0] == ["0", "input", "", "", "1×8×8", "", ""]
    assert rows[1] == ["1", "stem", "conv3×3-8", "0", "8×8×8", format_metric("macs", 8 * 8 * 8 * 9), "72"]
    assert rows[2] == ["2", "stem", "batch_norm", "1", "8×8×8", "0", "8"]
    adds = [row for row in rows if row[2] == "add"]
    assert [row[3] for row in adds] == ["7, 13", "22, 28"]
    assert rows[-2][2:4] == ["scale", str(len(rows) - 3)]


def test_an_operation_is_told_with_what_distinguishes_it() -> None:
    block = BlockBuilder("all")
    block.add("resize", height=12, width=10)
    block.add("whiten", kernel=3)
    block.conv(channels=8, kernel=1)
    block.conv(channels=8, stride=2)
    block.add("conv", channels=8, kernel=5, stride=1, padding=2, groups=8, bias=False)
    block.add("conv", channels=16, kernel=3, stride=2, padding=1, groups=4, bias=False)
    block.add("max_pool", kernel=2, stride=2)
    block.add("global_avg_pool")
    block.add("flatten")
    block.add("linear", features=7, bias=True)
    rows = _layer_rows(Blueprint.chain((3, 8, 8), [block.build()]))
    assert [row[2] for row in rows[1:-1]] == [
        "resize-12×10",
        "whiten3×3",
        "conv1×1-8",
        "conv3×3-8/2",
        "depthwise5×5-8",
        "conv-in-4-groups-3×3-16/2",
        "max_pool2×2/2",
        "global_avg_pool",
        "flatten",
        "linear-7",
    ]
