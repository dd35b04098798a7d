"""The parts of a report's page: its style, and figures, tables, tabs and details in HTML; every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

LONGEST_NUMBER = 32  # characters, as of 0.9634 ± 0.0070 (12 seeds)

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --line: #d5d5d5; --link: #005b96; --soft: #f3f5f7 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #14171a; --line: #3a4046; --link: #7cc4ff; --soft: #1d2227 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
a { color: var(--link) } h1 { font-size: 1.6rem } h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; list-style: none; padding: 0 }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px }
.lead { font-size: 1.25rem } .grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .5rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
td:first-child { white-space: nowrap } td.number { text-align: right; white-space: nowrap }
tr.best { background: var(--soft); font-weight: 600 }
figure { margin: 1rem 0 } figcaption { font-size: .9rem } svg, img { max-width: 100%; height: auto }
svg text { font-family: system-ui, sans-serif !important } img { image-rendering: pixelated }
pre { overflow-x: auto; background: var(--soft); padding: .75rem } summary { cursor: pointer; padding: .25rem 0 }
.tabs > input { position: absolute; opacity: 0 }
.tabs > label { display: inline-block; padding: .25rem .75rem; border: 1px solid var(--line); cursor: pointer }
.tabs > input:checked + label { background: var(--soft); font-weight: 600 }
.tabs > input:focus-visible + label { outline: 3px solid var(--link) }
.tabs > section { display: none }
@media (max-width: 40rem) { .wide { overflow-x: auto } .wide svg { min-width: 34rem } }
@media print { .tabs > section { display: block } details > * { display: block } }
"""


def html_figure(svg: str, text: str, kind: str = "wide") -> str:
    """Return a picture with its caption. kind: "wide", which a phone scrolls, or "small"."""
    shown = f'<div class="{kind}">{svg}</div><figcaption>{escape(text)}</figcaption>'
    return f'<figure role="group" aria-label="{escape(text)}">{shown}</figure>'


def html_details(title: str, body: str, is_open: bool = False) -> str:
    """Return a part that a reader can open."""
    return f"<details{' open' if is_open else ''}><summary>{escape(title)}</summary>{body}</details>"


def html_tabs(group: str, parts: Sequence[tuple[str, str]]) -> str:
    """Return bodies of which one is shown at a time, chosen by radio buttons."""
    buttons = "".join(
        f'<input type="radio" name="{group}" id="{group}-{i}"{" checked" if i == 0 else ""}><label for="{group}-{i}">{escape(title)}</label>'
        for i, (title, _) in enumerate(parts)
    )
    bodies = "".join(f'<section id="{group}-body-{i}">{body}</section>' for i, (_, body) in enumerate(parts))
    rules = "".join(f"#{group}-{i}:checked ~ #{group}-body-{i} {{ display: block }}" for i in range(len(parts)))
    return f'<style>{rules}</style><div class="tabs">{buttons}{bodies}</div>'


def html_table(columns: Sequence[str], rows: Iterable[Sequence[str]], best: int | None = None) -> str:
    """Return a table that scrolls sideways where it is too wide; a column of numbers stands on the right. best: the row to stress."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    lines, rows = [], [list(row) for row in rows]
    classes = [
        ' class="number"' if all(_is_number(cell) for cell in own if cell) else "" for own in zip(*rows, strict=True)
    ]
    for i, row in enumerate(rows):
        cells = "".join(f"<td{own}>{escape(cell)}</td>" for cell, own in zip(row, classes, strict=True))
        lines.append(f"<tr{' class=best' if i == best else ''}>{cells}</tr>")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Table">{table}</div>'


def _is_number(cell: str) -> bool:
    return (cell[:1].isdigit() or cell[:1] in "+-") and len(cell) <= LONGEST_NUMBER


def html_knobs(candidate: Any) -> str:
    """Return the knobs of a candidate as a table."""
    knobs = [(group, name, value) for group, own in candidate.items() for name, value in own.items()]
    return html_table(["part", "knob", "value"], [[group, name, _value(value)] for group, name, value in knobs])


def count_text(count: int, what: str) -> str:
    """Return a number of things, such as `3 trainings`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
