"""What a report consists of, before it is a page or Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from surgery.page.chart import Axis, Mark, Series


@dataclass(frozen=True)
class Table:
    """Rows of text below a heading; columns in `numbers` are set to the right."""

    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines to be typed as they are."""

    text: str


@dataclass(frozen=True)
class Plot:
    """A drawing over two axes, its name above it and what it says below it; `size` in CSS pixels."""

    title: str
    caption: str
    series: tuple[Series, ...]
    x: Axis
    y: Axis
    size: tuple[int, int]
    mark: Mark | None = None


@dataclass(frozen=True)
class Plots:
    """Drawings side by side; where nothing can be drawn `instead` says the same, None where something else does."""

    plots: tuple[Plot, ...]
    instead: Table | None = None


Block = Table | Text | Code | Plots


@dataclass(frozen=True)
class Section:
    """A part of a report under a heading."""

    title: str
    blocks: tuple[Block, ...]
