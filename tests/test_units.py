"""Numbers as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jointnas.errors import UnitError
from jointnas.units import format_count, format_duration, format_size, parse_count, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("10m", 600),
        ("10min", 600),
        ("3h", 10_800),
        ("1.5h", 5400),
        ("90", 90),
        (" 10 m ", 600),
        ("5ms", 5e-3),
    ],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("600K", 6e5),
        ("40M", 4e7),
        ("1.2G", 1.2e9),
        ("2T", 2e12),
        ("1_000", 1000),
        ("1e6", 1e6),
        (".5k", 500),
        ("40m", 4e7),
    ],
)
def test_a_count_is_read_with_decimal_units_in_either_case(text: str, count: float) -> None:
    assert parse_count(text) == pytest.approx(count)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4MB", 4e6), ("4mb", 4e6), ("64MiB", 64 * 2**20), ("2KiB", 2048), ("1GB", 1e9), ("12B", 12), ("12", 12)],
)
def test_a_size_is_read_in_bytes_and_mib_is_not_mb(text: str, size: float) -> None:
    assert parse_size(text) == pytest.approx(size)


@pytest.mark.parametrize("text", ["", "fast", "M", "4 0M", "1e400", "-3", "nan", "inf", "40M!", "--1", "1.2.3"])
def test_what_is_no_finite_positive_number_is_refused_with_an_example(text: str) -> None:
    for parse, example in ((parse_duration, "10m"), (parse_count, "40M"), (parse_size, "4MB")):
        with pytest.raises(UnitError, match=example):
            parse(text)


def test_an_unknown_unit_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnitError, match=r"units us, ms, s, m, min, h, got 'd' in '3d'"):
        parse_duration("3d")
    with pytest.raises(UnitError, match=r"units K, M, G, T, got 'MB'"):
        parse_count("4MB")
    with pytest.raises(UnitError, match=r"KB, MB, GB, KiB, MiB, GiB, got 'M'"):
        parse_size("4M")


def test_numbers_are_written_with_four_digits_and_a_unit() -> None:
    assert [format_count(n) for n in (0, 7, 1500, 40_000_000, 555_512_345)] == ["0", "7", "1.5K", "40M", "555.5M"]
    assert [format_size(n) for n in (12, 4_000_000, 2**20)] == ["12B", "4MB", "1.049MB"]


@given(st.integers(min_value=0, max_value=10**15))
def test_what_is_written_reads_back_to_four_digits(n: int) -> None:
    assert parse_count(format_count(n)) == pytest.approx(n, rel=5e-4)
    assert parse_size(format_size(n)) == pytest.approx(n, rel=5e-4)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.25s"), (8, "8s"), (59, "59s"), (60, "1m"), (90, "1m 30s"), (3600, "1h 00m"), (7500, "2h 05m")],
)
def test_a_duration_is_written_for_reading(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(59.7, "1m"), (119.6, "2m"), (3599.6, "1h 00m")])
def test_a_duration_just_below_a_whole_minute_is_rounded_to_it(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
