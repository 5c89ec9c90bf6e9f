"""The report as a page of one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from surgery.page import Markup, element, page
from surgery.page.chart import chart
from surgery.report.blocks import Block, Code, Plot, Plots, Section, Table, Text
from surgery.report.drawings import LARGE, SMALL
from surgery.report.sections import sections, summary, title

_STYLE = """
figure { display: inline-block; max-width: 100%; margin: 0 1.5rem 1.2rem 0; vertical-align: bottom; }
figure svg { max-width: 100%; height: auto; }
figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.plots { orphans: 1; widows: 1; }
@media print {
  .scroll { overflow: visible; }
  table { font-size: 7pt; }
  th, td { padding-right: .5rem; }
}
"""
_WIDTHS = f".small {{ width: {SMALL[0]}px; }} .large {{ width: {LARGE[0]}px; }}\n"


def render_html(facts: Mapping[str, Any], timings: Mapping[str, Any] | None = None) -> str:
    """Return the page; equal facts give equal text. Times are in it only where they are given: see `read_timings`."""
    return page_of(title(facts), summary(facts), sections(facts, timings))


def page_of(heading: str, told: str, parts: Iterable[Section]) -> str:
    """Return a page of sections under a heading and what it comes to in a sentence."""
    shown = [element("section", element("h2", part.title), *map(_block, part.blocks)) for part in parts]
    main = element("main", element("h1", heading), element("p", told), *shown)
    return page(heading, main, style=_STYLE + _WIDTHS)


def _block(block: Block) -> Markup:
    match block:
        case Text(text):
            return element("p", text)
        case Code(text):
            return element("pre", text)
        case Plots(plots):
            return element("div", *map(_plot, plots), class_="plots")
        case Table():
            return _table(block)


def _table(table: Table) -> Markup:
    head = element("tr", *(_cell("th", text, i, table) for i, text in enumerate(table.heading)))
    rows = [element("tr", *(_cell("td", text, i, table) for i, text in enumerate(row))) for row in table.rows]
    heading = [element("thead", head)] if any(table.heading) else []
    return element("div", element("table", *heading, element("tbody", *rows)), class_="scroll")


def _cell(tag: str, text: str, column: int, table: Table) -> Markup:
    return element(tag, text, class_="number" if column in table.numbers else None)


def _plot(plot: Plot) -> Markup:
    told = f"{plot.title}. {plot.caption}"
    drawing = chart(plot.series, plot.x, plot.y, title=told, mark=plot.mark, size=plot.size)
    caption = element("figcaption", element("strong", plot.title), element("br"), plot.caption)
    return element("figure", caption, drawing, class_="small" if plot.size == SMALL else "large")
