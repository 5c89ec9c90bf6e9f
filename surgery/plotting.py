"""Plot what cutting costs against what remains, for print and for the screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from surgery.errors import PlanError

FORMATS = (".svg", ".png")
# Okabe and Ito's colours, told apart by the colour-blind; shapes and dashes tell the series apart without colour.
SERIES = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#CC79A7", "D", ":"),
    ("#E69F00", "v", "-"),
    ("#56B4E9", "P", "--"),
    ("#000000", "X", "-."),
)
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # Comes with matplotlib: a plot has the same bytes wherever it is made.
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "svg.fonttype": "none",  # Text stays text: it can be searched, and edited.
    "svg.hashsalt": "surgery",
}
SIZE_INCHES = (5.6, 3.6)
DPI = 200


@dataclass(frozen=True, slots=True)
class Point:
    """One network of a series: what remains of the whole, and what it lost; in the units of the axes' labels."""

    series: str
    x: float
    y: float


def check_format(path: Path) -> None:
    """Raise PlanError unless the name ends in one of `FORMATS`, and matplotlib is installed."""
    if path.suffix.lower() not in FORMATS:
        raise PlanError(f"{path}: cannot plot to '{path.suffix}'; name the file .svg or .png")
    _matplotlib()


def trade_off(points: Sequence[Point], path: Path, *, title: str, x_label: str, y_label: str) -> None:
    """Write a plot of one line for each series, in the order of first appearance, in the format of the path's name.

    Labels hold their units. The same points give the same bytes, by one version of matplotlib.

    Raises:
        PlanError: the name ends otherwise, or matplotlib is not installed.
    """
    check_format(path)
    with _matplotlib().style.context(["default", STYLE]):  # Whatever the user's own settings are.
        figure = _drawn(points, title, x_label, y_label)
        written = BytesIO()
        kind = path.suffix.lower()[1:]
        figure.savefig(written, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else {"Software": None})
    path.write_bytes(written.getvalue())


def _matplotlib() -> Any:
    try:
        import matplotlib.style
    except ImportError as error:
        raise PlanError("plots need matplotlib; install it with: pip install 'surgery[plot]'") from error
    return matplotlib


def _drawn(points: Sequence[Point], title: str, x_label: str, y_label: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    names = list(dict.fromkeys(point.series for point in points))
    for i, name in enumerate(names):
        line = sorted((point.x, point.y) for point in points if point.series == name)
        colour, marker, dashes = SERIES[i % len(SERIES)]
        axes.plot(*zip(*line, strict=True), color=colour, marker=marker, linestyle=dashes, label=name, clip_on=False)
    # A scale that starts at 0 shows a drop in its true proportion.
    axes.set_ylim(bottom=min([0.0, *(point.y for point in points)]))
    axes.set_title(title, loc="left")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if len(names) > 1:
        axes.legend(frameon=False)
    return figure
