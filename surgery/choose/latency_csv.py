"""A table of times as a CSV file, which people at a device fill in and spreadsheets open."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.choose.latency import KINDS, LatencyTable, Shape
from surgery.errors import ParseError

_HEAD = """\
# How long single layers take: milliseconds of one forward pass, one row for each shape.
# runtime: {runtime}
# threads: {threads}
# machine: {machine}
# To do: fill in the column "milliseconds", by hand or by the script that came with this file. Rows where it is empty
# count as not measured. Sizes are height x width. Change nothing else but the machine's name above.
"""


@dataclass(frozen=True)
class _Column:
    """A column: its name, that of the shape's field, how a cell is read (ValueError) and written, what it may be."""

    name: str
    field: str
    read: Callable[[str], Any]
    write: Callable[[Any], str]
    expected: str


def _number(least: int) -> Callable[[str], int]:
    def read(cell: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", cell) or int(cell) < least:
            raise ValueError(cell)
        return int(cell)

    return read


def _pair(least: int) -> Callable[[str], tuple[int, int]]:
    def read(cell: str) -> tuple[int, int]:
        height, width = map(_number(least), cell.split("x"))
        return height, width

    return read


def _milliseconds(cell: str) -> float:
    value = float(cell)
    if not 0 <= value < float("inf"):
        raise ValueError(cell)
    return value


def _crossed(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"


_COUNT = _number(1), str, "a whole number above 0"
_BIAS = ("no", "yes")
_CROSSED = _pair(1), _crossed, "like 3x3"
_COLUMNS = (
    _Column("kind", "kind", lambda cell: KINDS[KINDS.index(cell)], str, " or ".join(f"'{kind}'" for kind in KINDS)),
    *(_Column(name, name, *_COUNT) for name in ("batch", "in_channels", "out_channels")),
    *(_Column(name, name, *_CROSSED) for name in ("kernel", "stride")),
    _Column("padding", "padding", _pair(0), _crossed, "like 1x1"),
    _Column("dilation", "dilation", *_CROSSED),
    _Column("groups", "groups", *_COUNT),
    _Column("input", "input", *_CROSSED),
    _Column("bias", "has_bias", lambda cell: _BIAS.index(cell) == 1, lambda has: _BIAS[has], "yes or no"),
)
_TIME = _Column("milliseconds", "", _milliseconds, lambda time: f"{time:.6g}", "a number like 1.25, or nothing")
HEADING = ",".join([*(column.name for column in _COLUMNS), _TIME.name, "file"])


def to_csv(table: LatencyTable, files: Mapping[Shape, str] | None = None) -> str:
    """Return the table as text. `files` names, for shapes that are yet to be measured too, the file to run."""
    files = files or {}
    lines = [HEADING]
    for shape in dict.fromkeys([*files, *table.rows]):
        cells = [column.write(getattr(shape, column.field)) for column in _COLUMNS]
        time = table.rows.get(shape)
        lines.append(",".join([*cells, "" if time is None else _TIME.write(time), files.get(shape, "")]))
    head = _HEAD.format(runtime=table.runtime, threads=table.threads, machine=table.machine)
    return head + "\n".join(lines) + "\n"


def from_csv(text: str, path: Path) -> LatencyTable:
    """Return the table that a text holds; rows without a time are left out.

    Raises ParseError, with the line and the place in it, for what neither `to_csv` wrote nor people fill in.
    """
    facts = {"runtime": "", "threads": "1", "machine": ""}
    rows: dict[Shape, float] = {}
    seen: dict[Shape, int] = {}
    heading: int | None = None
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if line.startswith("#"):
            # Spreadsheets fill every line with commas up to the number of columns.
            name, _, value = line.strip("#, ").partition(":")
            facts |= {name: value.strip()} if name in facts else {}
        elif heading is None and line.strip(", "):
            heading = number
            if line.strip() != HEADING:
                raise ParseError(path, f"found '{line[:80]}', expected the heading '{HEADING}'", number, 1)
        elif line.strip(", "):
            shape, time = _row(line, path, number)
            if shape in seen:
                raise ParseError(path, f"the same shape as in line {seen[shape]}; take one of the two out", number, 1)
            seen[shape] = number
            if time is not None:
                rows[shape] = time
    if heading is None:
        raise ParseError(path, f"there is no table; expected the heading '{HEADING}'", 1, 1)
    return _table(facts, rows, path)


def _row(line: str, path: Path, number: int) -> tuple[Shape, float | None]:
    """Return a row's shape and its time, None where it has none."""
    cells = line.split(",")
    names = [column.name for column in (*_COLUMNS, _TIME)]
    if len(cells) not in (len(names), len(names) + 1):  # The file's name may have gone.
        raise ParseError(path, f"found {len(cells)} cells, expected {len(names) + 1}: {HEADING}", number, 1)
    values: list[Any] = []
    for i, column in enumerate((*_COLUMNS, _TIME)):
        cell = cells[i].strip()
        try:
            values.append(None if column is _TIME and not cell else column.read(cell))
        except ValueError as error:
            place = sum(len(before) + 1 for before in cells[:i]) + 1
            message = f"column {column.name}: found '{cell[:40]}', expected {column.expected}"
            raise ParseError(path, message, number, place) from error
    *own, time = values
    return Shape(**{column.field: value for column, value in zip(_COLUMNS, own, strict=True)}), time


def _table(facts: Mapping[str, str], rows: Mapping[Shape, float], path: Path) -> LatencyTable:
    if not facts["runtime"]:
        raise ParseError(path, "does not say which runtime was timed; expected a line like '# runtime: caffe'", 1, 1)
    try:
        threads = _number(1)(facts["threads"])
    except ValueError as error:
        message = f"found '# threads: {facts['threads'][:40]}', expected a whole number above 0"
        raise ParseError(path, message, 1, 1) from error
    return LatencyTable(facts["runtime"], threads, facts["machine"], rows)
