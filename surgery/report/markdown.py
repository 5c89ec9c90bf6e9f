"""The report as Markdown: the same facts, spectra and curves as tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from surgery.page import visible
from surgery.report.blocks import Block, Code, Plots, Section, Table, Text
from surgery.report.sections import sections, summary, title

# What Markdown, or HTML within it, reads as its own: anywhere, in an address, and at the start of a line.
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>|~#&!$@]|:(?=//)|(?<=www)\.")
_LEADING = re.compile(r"^(\d*)([-+=.)])")


def render_markdown(facts: Mapping[str, Any], timings: Mapping[str, Any] | None = None) -> str:
    """Return the text; equal facts give equal text. Times are in it only where they are given: see `read_timings`."""
    return text_of(title(facts), summary(facts), sections(facts, timings))


def text_of(heading: str, told: str, parts: Iterable[Section]) -> str:
    """Return sections under a heading and what it comes to in a sentence."""
    texts = [f"# {_safe(heading)}", _line(told)]
    for part in parts:
        texts += [f"## {_safe(part.title)}", *filter(None, map(_block, part.blocks))]
    return "\n\n".join(texts) + "\n"


def _block(block: Block) -> str:
    match block:
        case Text(text):
            return _line(text)
        case Code(text):
            return "\n".join(f"    {visible(line)}" for line in text.splitlines())
        case Plots(_, instead):
            return "" if instead is None else _table(instead)
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    rule = ["---:" if i in table.numbers else "---" for i in range(len(table.heading))]
    return "\n".join(_row(cells) for cells in (map(_safe, table.heading), rule, *(map(_safe, x) for x in table.rows)))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _line(text: str) -> str:
    """Return a text that starts a line."""
    return _LEADING.sub(r"\1\\\2", _safe(text.strip()))


def _safe(text: str) -> str:
    """Return a text, in one line, that Markdown takes as it is."""
    line = visible(text).replace("\n", "\\u000a").replace("\t", "\\u0009")
    return _SPECIAL.sub(r"\\\g<0>", line)
