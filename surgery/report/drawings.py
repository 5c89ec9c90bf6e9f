"""What a report shows: the spectra of the cut layers, and the curve that a plan is a point of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from surgery.page.chart import Axis, Mark, Point, Series
from surgery.report.blocks import Block, Plot, Plots, Table, Text
from surgery.report.numbers import NONE, count, figure, share

SMALL, LARGE = (330, 210), (620, 340)
LEAST = 1e-4  # What lies below would take the room of what ranks are chosen among.


def drawn_spectra(layers: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Return a drawing of each spectrum, with the rank that was chosen, and why one is not whole or not there."""
    found = [(row, spectrum) for row in layers for spectrum in row["spectra"]]
    rows = tuple(
        (row["layer"], each["of"], count(each["rank"]), count(each["size"]), share(each["kept"])) for row, each in found
    )
    heading = ("layer", "values of", "rank", "of", "squares kept")
    blocks: list[Block] = []
    if found:
        told = "Of each cut weight, relative to the largest and from a ten-thousandth of it on; the rank is marked."
        blocks.append(Text(told))
        blocks.append(Plots(tuple(_spectrum(*each) for each in found), Table(heading, rows, frozenset({2, 3, 4}))))
    return blocks + [Text(f"{row['layer']}: {row['spectra_reason']}.") for row in layers if row["spectra_reason"]]


def _spectrum(row: Mapping[str, Any], spectrum: Mapping[str, Any]) -> Plot:
    rank, size, kept = spectrum["rank"], spectrum["size"], share(spectrum["kept"])
    points = tuple(Point(i, value) for i, value in spectrum["points"] if value >= LEAST)
    return Plot(
        row["layer"],
        f"{row['method']}, {spectrum['of']}: the first {count(rank)} of {count(size)} hold {kept} of the squares.",
        (Series("", points, dots=False),),
        Axis("index of the value", include=(0, size)),
        Axis("value / largest", log=True, include=(1,)),
        SMALL,
        Mark(rank, f"rank {count(rank)}"),
    )


def trade_off(predicted: Mapping[str, Any], units: Mapping[str, str]) -> list[Block]:
    """Return the curve of the sweep that a plan comes from, its own point marked; nothing where none was run.

    `units` says in words what the errors are.
    """
    points = predicted.get("sweep")
    if not points:
        return []
    before, after = predicted.get("macs", (0, 0))
    heading = ("MACs asked", "MACs", "parameters", "predicted error", "layers cut")
    rows = tuple(
        (share(p["asked"]), share(p["macs"]), share(p["params"]), figure(p["error"]), count(p["cuts"])) for p in points
    )
    line = tuple(
        Point(100 * p["macs"], p["error"], f"{share(p['macs'])} of the MACs: {figure(p['error'])}")
        for p in points
        if p["error"] is not None
    )
    unit = units.get(predicted.get("of", ""), NONE)
    plot = Plot(
        "What remains against what is lost",
        f"Each point is a plan; the one carried out is marked. The error is the {unit}.",
        (Series("", line),),
        Axis("MACs that remain (%)"),
        Axis("predicted error", include=(0,)),
        LARGE,
        Mark(100 * after / before, "this plan") if before else None,
    )
    table = Table(heading, rows, frozenset(range(5)))
    return [Plots((plot,)), table]
