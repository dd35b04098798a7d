"""Damaged and hostile versions of texts and files, drawn by a generator."""

from __future__ import annotations

import random
import re

EXTREMES = (
    *("0", "-1", "1e309", "-1e309", "nan", "inf", "1e-320", "0.1", "true", '""', "[]", "{}", "null"),
    *("9" * 30, "9" * 400, "-" + "9" * 30, "0x10", "1_000", "2147483648", "9223372036854775808", "1000000000"),
)
STRANGE = ("\x00", "\x1b[31m", "\n", "\r", "\u202e", "[bold]", "\U0001f600", "é", "'", '"', "\\")
NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
WORD = re.compile(r"[A-Za-z_][\w-]*|[<>=]+|[\[\]{}(),:]")


def mutate_text(rng: random.Random, text: str, dictionary: tuple[str, ...] = ()) -> str:
    """Return a text with up to four changes, mostly one: numbers made extreme, words exchanged, parts repeated, removed or made strange."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        text = rng.choice((_extreme, _word, _strange, _cut, _repeat_line, _drop_line, _swap_lines))(
            rng, text, dictionary
        )
    return text


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """Return bytes with some of them changed, inserted, removed or repeated, or with the end cut off."""
    own = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(own) + 1)
        match rng.randrange(6):
            case 0 | 1 if own:
                own[min(at, len(own) - 1)] = rng.randrange(256)
            case 2:
                own[at:at] = rng.randbytes(rng.randint(1, 8))
            case 3:
                del own[at : at + rng.randint(1, 64)]
            case 4:
                own[at : at + 4] = rng.choice(
                    (b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f")
                )
            case _:
                del own[at if rng.random() < 0.3 else len(own) :]
    return bytes(own)


def _span(rng: random.Random, pattern: re.Pattern[str], text: str) -> tuple[int, int] | None:
    spans = [m.span() for m in pattern.finditer(text)]
    return rng.choice(spans) if spans else None


def _extreme(rng: random.Random, text: str, dictionary: tuple[str, ...]) -> str:
    span = _span(rng, NUMBER, text)
    return text if span is None else text[: span[0]] + rng.choice(EXTREMES) + text[span[1] :]


def _word(rng: random.Random, text: str, dictionary: tuple[str, ...]) -> str:
    span = _span(rng, WORD, text)
    if span is None:
        return text
    words = [*dictionary, *(m.group() for m in WORD.finditer(text)), *EXTREMES]
    return text[: span[0]] + rng.choice(words) + text[span[1] :]


def _strange(rng: random.Random, text: str, dictionary: tuple[str, ...]) -> str:
    at = rng.randint(0, len(text))
    return text[:at] + rng.choice(STRANGE) * rng.choice((1, 1, 1, 200)) + text[at:]


def _cut(rng: random.Random, text: str, dictionary: tuple[str, ...]) -> str:
    first, last = sorted(rng.randint(0, len(text)) for _ in range(2))
    return text[:first] + text[last:] if rng.random() < 0.7 else text[first:last]


def _repeat_line(rng: random.Random, text: str, dictionary: tuple[str, ...]) -> str:
    lines = text.splitlines(keepends=True) or [""]
    at = rng.randrange(len(lines))
    return "".join([*lines[: at + 1], lines[at] * rng.choice((1, 1, 50)), *lines[at + 1 :]])


def _drop_line(rng: random.Random, text: str, dictionary: tuple[str, ...]) -> str:
    lines = text.splitlines(keepends=True) or [""]
    del lines[rng.randrange(len(lines))]
    return "".join(lines)


def _swap_lines(rng: random.Random, text: str, dictionary: tuple[str, ...]) -> str:
    lines = text.splitlines(keepends=True) or [""]
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[i], lines[j] = lines[j], lines[i]
    return "".join(lines)
