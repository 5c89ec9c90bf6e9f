"""Make the page of a difference: both graphs, what differs, and all that is known of every layer, in one file."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from surgery.diff.difference import KINDS, Change, Difference, Numeric
from surgery.diff.page import panel
from surgery.diff.page.drawing import drawn, graph, overview
from surgery.diff.page.wording import SIGNS, WORDS, count, limited, share
from surgery.output import check_file, write_file
from surgery.page import Markup, element, fragment, page
from surgery.page.chart import Axis, Mark, Point, Series, chart

MOST_DOTS = 60  # More would hide the line.
# In this order: what comes later uses what comes before.
SCRIPTS = ("view", "entries", "search", "keys", "pointer", "paper", "start")
KEYS = (
    ("drag, wheel, Shift + wheel", "move the drawing"),
    ("Ctrl + wheel, pinch, + and −", "zoom"),
    ("0, 1", "see all, see it at full size"),
    ("arrow keys", "go from layer to layer"),
    ("Shift + arrow keys", "move the drawing"),
    ("Enter", "open a layer"),
    ("n, p", "next, previous difference"),
    ("/", "search"),
    ("Esc", "back to this list"),
)


def write(difference: Difference, path: Path) -> None:
    """Write the page to a file, whole or not at all; raises PlanError where `path` can be no file, or is a model's."""
    check_file(path, [Path(file) for side in (difference.a, difference.b) for file in side.files])
    write_file(path, rendered(difference))


def rendered(difference: Difference) -> str:
    """Return the page; the same difference gives the same text."""
    own = resources.files("surgery.diff.page")
    drawing = drawn(difference)
    names = _names(difference)
    return page(
        f"{names[0]} → {names[1]}",
        _bar(names),
        element(
            "div",
            element("section", graph(drawing, names), id="stage", aria_label="Drawing of both networks"),
            overview(drawing),
            _aside(difference),
            id="desk",
        ),
        style=own.joinpath("page.css").read_text("utf-8"),
        script=_script(own),
    )


def _script(own: Traversable) -> str:
    parts = "\n".join(own.joinpath(f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def _names(difference: Difference) -> tuple[str, str]:
    """Return what the networks are called: their first file, with as many folders as tell the two apart."""
    a, b = (Path(next(iter(side.files), "")).parts for side in (difference.a, difference.b))
    depths = range(1, max(len(a), len(b)) + 1)
    depth = next((depth for depth in depths if a[-depth:] != b[-depth:]), 1)
    return "/".join(a[-depth:]), "/".join(b[-depth:])


def _bar(names: tuple[str, str]) -> Markup:
    search = element(
        "input",
        id="search",
        type="search",
        placeholder="Search name or type",
        aria_label="Search layers",
        spellcheck="false",
    )
    steps = [_button("previous-hit", "↑", "Previous hit"), _button("next-hit", "↓", "Next hit")]
    zoom = [
        _button("zoom-out", "−", "Zoom out"),
        _button("zoom-in", "+", "Zoom in"),
        _button("zoom-width", "Width", "Fit the width"),
        _button("zoom-all", "All", "See all"),
    ]
    found = element("output", id="hits", aria_live="polite")
    title = element("h1", names[0], element("span", " → ", class_="muted"), names[1])
    tools = element(
        "div",
        element("div", search, *steps, found, role="search", class_="tools"),
        element("div", *zoom, role="group", aria_label="Zoom", class_="tools"),
        class_="screen toolbar",
    )
    return element("header", title, tools)


def _button(name: str, text: str, told: str) -> Markup:
    return element("button", text, id=name, type="button", title=told, aria_label=told)


def _aside(difference: Difference) -> Markup:
    articles = [panel.article(difference, i) for i in range(len(difference.entries))]
    steps = element(
        "nav",
        _button("back", "‹ All differences", "Back to all differences"),
        _button("previous", "Previous", "Previous difference"),
        _button("next", "Next", "Next difference"),
        id="steps",
        class_="screen",
        aria_label="Differences",
        hidden=True,
    )
    return element("aside", steps, _summary(difference), *articles, id="panel", aria_label="What differs")


def _summary(difference: Difference) -> Markup:
    entries = [(i, entry) for i, entry in enumerate(difference.entries) if entry.kind != "same"]
    items = [
        element(
            "li",
            element(
                "a",
                element("span", SIGNS[entry.kind], class_=f"kind {entry.kind}"),
                element("span", panel.name(entry), element("span", panel.gist(entry)), class_="what"),
                href=f"#entry-{i}",
                data_entry=i,
            ),
        )
        for i, entry in entries
    ]
    keys = element("dl", *(element("div", element("dt", key), element("dd", what)) for key, what in KEYS))
    return element(
        "section",
        element("p", _verdict(difference), class_="verdict"),
        _totals(difference),
        *(_network(difference.network) if difference.network else []),
        *(element("p", limited(note), class_="note") for note in _notes(difference)),
        *(_depth(difference.numeric) if difference.numeric else []),
        *(
            [
                element(
                    "h2",
                    "Differences",
                ),
                element("ol", *items, class_="list"),
            ]
            if items
            else []
        ),
        element("details", element("summary", "Keys"), keys, class_="screen"),
        id="summary",
        aria_label="Summary",
    )


def _verdict(difference: Difference) -> str:
    if difference.is_identical:
        return "The files are identical."
    if difference.is_same:
        return "Both are the same network."
    counts = [(kind, difference.count(kind)) for kind in KINDS if kind != "same" and difference.count(kind)]
    told = ", ".join(f"{number} {WORDS[kind]}" for kind, number in counts)
    return f"{told}; {difference.count('same')} the same." if told else "All layers are the same."


def _totals(difference: Difference) -> Markup:
    a, b = difference.a, difference.b
    more = len(b.layers) - len(a.layers)
    counts = (
        ("Layers", len(a.layers), len(b.layers), f"{more:+}".replace("-", "−") if more else ""),
        ("Parameters", a.params, b.params, share(a.params, b.params)),
        ("MACs", a.macs, b.macs, share(a.macs, b.macs)),
    )
    head = element("tr", element("td"), *(element("th", x, scope="col", class_="number") for x in ("A", "B", "Change")))
    rows = [
        element(
            "tr",
            element("th", name, scope="row"),
            *(element("td", text, class_="number") for text in (count(x), count(y), change)),
        )
        for name, x, y, change in counts
    ]
    return element("table", element("thead", head), element("tbody", *rows), class_="totals")


def _network(changes: tuple[Change, ...]) -> list[Markup]:
    told = ((change.field, limited(change.before or "none"), limited(change.after or "none")) for change in changes)
    rows = [element("div", element("dt", limited(name)), element("dd", f"{a} → {b}")) for name, a, b in told]
    return [element("h2", "Inputs and outputs"), element("dl", *rows)]


def _notes(difference: Difference) -> list[str]:
    sides = [f"{name}: {note}" for name, side in (("A", difference.a), ("B", difference.b)) for note in side.notes]
    return [*difference.notes, *sides]


def _depth(numeric: Numeric) -> list[Markup]:
    """Return the plot of errors along depth, and where the networks part."""
    points = tuple(
        Point(i + 1, blob.relative_error, f"{limited(blob.blob)}: {blob.relative_error:.3g}")
        for i, blob in enumerate(numeric.blobs)
    )
    parting = numeric.parting
    number = numeric.blobs.index(parting) + 1 if parting else None
    equal = sum(blob.relative_error == 0 for blob in numeric.blobs)
    samples = "1 sample" if numeric.samples == 1 else f"{numeric.samples} samples"
    told = f"Relative error of each common blob on {samples}, by {numeric.runtime}"
    told += f"; {equal} without error are not shown" if equal else ""
    drawn = chart(
        [Series("relative error", points, dots=len(points) <= MOST_DOTS)],
        Axis("blob, in running order", include=(1.0, float(len(points)))),
        Axis("relative error", log=True),
        title=told,
        mark=Mark(number, "part here") if number is not None else None,
        size=panel.CHART_SIZE,
    )
    where = (
        fragment("They part at ", element("code", limited(parting.blob)), f": {parting.relative_error:.3g}.")
        if parting
        else f"All stay within {numeric.tolerance:.3g}."
    )
    notes = [element("p", note, class_="note") for note in numeric.notes]
    return [
        element("h2", "Errors along depth"),
        element("p", where),
        element("figure", drawn, element("figcaption", told)),
        *notes,
    ]
