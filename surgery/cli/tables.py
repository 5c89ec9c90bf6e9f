"""Aligned tables and numbers for a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

import click


def table(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> str:
    """Return rows as aligned columns, the first row as heading; columns in `right` are set to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([styled(lines[0], bold=True), *lines[1:]])


def styled(text: str, **style: object) -> str:
    """Return text in a style where the output is a terminal that wants colours (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return text
    return click.style(text, **style)  # type: ignore[arg-type]


def count(number: int | None) -> str:
    """Return a count with thin groups, "?" where it is not known."""
    return "?" if number is None else f"{number:,}"


def short(number: int | None) -> str:
    """Return a count in three digits, "?" where it is not known: 18.5 k, 1.85 G."""
    if number is None:
        return "?"
    for unit, scale in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= 0.9995 * scale:
            digits = 2 - sum(number >= limit * scale for limit in (9.995, 99.95))
            return f"{number / scale:.{digits}f} {unit}"
    return str(number)


def size(number: int | None) -> str:
    """Return bytes in decimal units: 1 MB is 10^6 bytes."""
    if number is None:
        return "?"
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= scale:
            return f"{number / scale:.1f} {unit}"
    return f"{number} B"


def shape(dims: Sequence[int] | None) -> str:
    """Return a shape like 1x3x224x224, "?" where it is not known, "scalar" without axes."""
    if dims is None:
        return "?"
    return "x".join(map(str, dims)) or "scalar"


def change(before: int | None, after: int | None) -> str:
    """Return what share of `before` remains."""
    return f"{after / before:.1%}" if before and after is not None else ""


def printable(text: str, width: int = 300) -> str:
    """Return text from a file without what could move a terminal's cursor, its middle left out beyond `width`."""
    if len(text) > width:
        text = f"{text[: width // 2]}...{text[-width // 2 :]}"
    return "".join(c if c.isprintable() else "?" for c in text)


def as_json(value: object) -> str:
    r"""Return JSON that any terminal takes; bytes that are not UTF-8 come out as \udcNN, JSON's own spelling."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()
