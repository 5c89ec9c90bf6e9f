"""Draw two networks side by side as one SVG: what agrees stands at one height, what differs is marked and joined."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from surgery.diff.difference import Difference, Entry, Layer
from surgery.diff.layout import Layout, lay_out
from surgery.diff.page.alignment import A, Alignment, B, Key, Line, aligned
from surgery.diff.page.wording import SIGNS, limited, shaped, shortened
from surgery.page import Markup, element

BOX_WIDTH, BOX_HEIGHT, ROW = 176, 36, 58
BOX_GAP, LINE_GAP = 194.0, 16.0
GUTTER, MARGIN, HEAD = 90, 24, 48
LETTERS = 22  # Of a name in a box, in a wide font.


@dataclass(frozen=True, slots=True)
class Box:
    """Where a layer is drawn: its left, top and height."""

    x: float
    y: float
    height: float

    @property
    def middle(self) -> float:
        """Where lines enter and leave."""
        return self.x + BOX_WIDTH / 2


@dataclass(frozen=True)
class Drawing:
    """Both networks laid out; everything is in CSS pixels at full size."""

    difference: Difference
    alignment: Alignment
    layout: Layout

    @cached_property
    def extent(self) -> dict[int, tuple[float, float]]:
        """For each network the leftmost and rightmost middle that it takes in the layout."""
        found: dict[int, tuple[float, float]] = {}
        for network in (A, B):
            x = [
                self.layout.x[place]
                for key, span in self.alignment.spans.items()
                if key[0] == network
                for place in span
            ]
            for line in self.alignment.lines:
                if line.network == network:
                    x.extend(self.layout.routes.get(line.places, ()))
            found[network] = (min(x, default=0.0), max(x, default=0.0))
        return found

    @cached_property
    def left(self) -> dict[int, float]:
        """For each network what is added to a middle in the layout to get the left of a box."""
        low, high = self.extent[A]
        first = MARGIN - low
        return {A: first, B: first + high + BOX_WIDTH + GUTTER - self.extent[B][0]}

    @property
    def width(self) -> float:
        """The width of the whole."""
        return self.left[B] + self.extent[B][1] + BOX_WIDTH + MARGIN

    @property
    def row_count(self) -> int:
        """How many rows the taller network has."""
        return max(self.layout.rows, default=0) + 1

    @property
    def height(self) -> float:
        """The height of the whole."""
        return HEAD + self.row_count * ROW + MARGIN

    @cached_property
    def boxes(self) -> dict[Key, Box]:
        """Where each layer and input is drawn."""
        return {key: self._box(key, span) for key, span in self.alignment.spans.items()}

    def _box(self, key: Key, span: tuple[int, int]) -> Box:
        first, last = (self.layout.rows[place] for place in span)
        height = max(last - first, 0) * ROW + BOX_HEIGHT
        return Box(self.layout.x[span[1]] + self.left[key[0]], HEAD + first * ROW, height)


def drawn(difference: Difference) -> Drawing:
    """Return both networks laid out."""
    alignment = aligned(difference)
    return Drawing(difference, alignment, lay_out(alignment.graph, node_gap=BOX_GAP, bend_gap=LINE_GAP))


def graph(drawing: Drawing, titles: tuple[str, str]) -> Markup:
    """Return the drawing as an <svg>; each layer is a <g> of the class "layer" with the number of its entry."""
    boxes, difference = drawing.boxes, drawing.difference
    entry_of: dict[Key, int] = {}
    for i, entry in enumerate(difference.entries):
        entry_of |= {(A, key): i for key in entry.a} | {(B, key): i for key in entry.b}
    inputs = [_input(key, box) for key, box in boxes.items() if key not in entry_of]
    lines = [_line(line, drawing) for line in drawing.alignment.lines]
    layers = [
        _layer(layer, boxes[network, layer.key], (network, i), entry_of[network, layer.key], difference)
        for network, side in ((A, difference.a), (B, difference.b))
        for i, layer in enumerate(side.layers)
        if (network, layer.key) in entry_of
    ]
    ribbons = [_ribbon(entry, boxes) for entry in difference.differing if entry.a and entry.b]
    heads = [_head(titles[i], network, drawing) for i, network in enumerate((A, B))]
    content = element("g", *heads, element("g", *ribbons, class_="ribbons"), *lines, *inputs, *layers, id="world")
    return element(
        "svg",
        _arrow(),
        content,
        id="graph",
        class_="graph",
        viewBox=f"0 0 {drawing.width:.0f} {drawing.height:.0f}",
        width=round(drawing.width),
        height=round(drawing.height),
        role="application",
        tabindex=0,
        aria_label="Both networks. Arrow keys move between layers, Enter opens one.",
    )


def overview(drawing: Drawing) -> Markup:
    """Return a strip as high as the window that marks where along the depth layers differ."""
    marks = []
    for entry in drawing.difference.differing:
        for network, keys in ((A, entry.a), (B, entry.b)):
            for box in (drawing.boxes[network, key] for key in keys):
                marks.append(
                    element("rect", x=0 if network == A else 8, y=box.y, width=7, height=box.height, class_=entry.kind)
                )
    window = element("rect", id="window", x=0, y=0, width=15, height=0)
    viewed = f"0 0 15 {drawing.height:.0f}"
    return element("svg", *marks, window, id="overview", viewBox=viewed, preserveAspectRatio="none", aria_hidden="true")


def _arrow() -> Markup:
    head = element("path", d="M0 0L6 3L0 6z")
    return element(
        "defs",
        element(
            "marker", head, id="arrow", viewBox="0 0 6 6", refX=5, refY=3, markerWidth=6, markerHeight=6, orient="auto"
        ),
    )


def _head(title: str, network: int, drawing: Drawing) -> Markup:
    low, high = (x + drawing.left[network] for x in drawing.extent[network])
    room = int((high - low + BOX_WIDTH) / 8)
    name = element("tspan", "AB"[network - 1] + "  ", class_="side")
    text = shortened(title, max(room, 30))
    return element("text", element("title", title), name, text, class_="head", x=(low + high + BOX_WIDTH) / 2, y=22)


def _input(key: Key, box: Box) -> Markup:
    name = key[1].removeprefix("\0")
    return element(
        "g",
        element("title", f"{limited(name)}\ninput"),
        element("rect", width=BOX_WIDTH, height=BOX_HEIGHT, rx=BOX_HEIGHT / 2),
        element("text", shortened(name, LETTERS), class_="name", x=16, y=16),
        element("text", "input", class_="type", x=16, y=29),
        class_="input",
        transform=f"translate({box.x:.1f} {box.y:.1f})",
    )


def _layer(layer: Layer, box: Box, number: tuple[int, int], entry_number: int, difference: Difference) -> Markup:
    entry = difference.entries[entry_number]
    network, i = number
    sign = SIGNS.get(entry.kind, "")
    down = (box.height - BOX_HEIGHT) / 2
    shape = next((shaped(shape) for shape in layer.shapes if shape), "")
    told = ", ".join(
        text
        for text in (limited(layer.key), limited(layer.type), shape, sign[2:], f"network {'AB'[network - 1]}")
        if text
    )
    return element(
        "g",
        element("title", f"{limited(layer.key)}\n{limited(layer.type)}"),
        element("rect", width=BOX_WIDTH, height=box.height, rx=5),
        element("text", shortened(layer.key, LETTERS), class_="name", x=9, y=down + 15.5),
        element(
            "text", shortened(" ".join(filter(None, (layer.type, shape))), LETTERS + 5), class_="type", x=9, y=down + 29
        ),
        _badge(sign) if sign else Markup(""),
        id=f"{'ab'[network - 1]}{i}",
        class_=f"layer {entry.kind}",
        data_entry=entry_number,
        role="button",
        tabindex=-1,
        aria_label=told,
        transform=f"translate({box.x:.1f} {box.y:.1f})",
    )


def _badge(sign: str) -> Markup:
    width = 5.4 * len(sign) + 10
    return element(
        "g",
        element("rect", width=width, height=14, rx=7),
        element("text", sign, x=width / 2, y=10.2),
        class_="badge",
        transform=f"translate({BOX_WIDTH - width - 6:.1f} -8)",
    )


def _line(line: Line, drawing: Drawing) -> Markup:
    """Return an edge: through the rows that it passes straight down, between them a curve."""
    upper, lower = drawing.boxes[line.network, line.upper], drawing.boxes[line.network, line.lower]
    row = drawing.layout.rows[line.places[0]] + 1
    shift = drawing.left[line.network] + BOX_WIDTH / 2
    x, y = upper.middle, upper.y + upper.height
    path = [f"M{x:.1f} {y:.1f}"]
    for i, bend in enumerate(drawing.layout.routes.get(line.places, ())):
        top = HEAD + (row + i) * ROW
        path.append(_curve(x, y, bend + shift, top))
        x, y = bend + shift, top + BOX_HEIGHT
        path.append(f"V{y}")
    path.append(_curve(x, y, lower.middle, lower.y))
    side = "ab"[line.network - 1]
    return element("path", d=_merged(path), class_=f"line {side}", marker_end="url(#arrow)")


def _curve(x: float, y: float, to_x: float, to_y: float) -> str:
    if abs(to_x - x) < 0.1:
        return f"V{to_y:.0f}"
    half = (y + to_y) / 2
    return f"C{x:.1f} {half:.1f} {to_x:.1f} {half:.1f} {to_x:.1f} {to_y:.1f}"


def _merged(path: list[str]) -> str:
    """Return the path with runs of straight pieces made one."""
    return "".join(
        piece for i, piece in enumerate(path) if not (piece[0] == "V" and path[i + 1 : i + 2] and path[i + 1][0] == "V")
    )


def _ribbon(entry: Entry, boxes: dict[Key, Box]) -> Markup:
    """Return what joins the layers of one entry across the gap between the networks."""
    here, there = [boxes[A, key] for key in entry.a], [boxes[B, key] for key in entry.b]
    x, to_x = max(box.x for box in here) + BOX_WIDTH, min(box.x for box in there)
    top, bottom = min(box.y for box in here), max(box.y + box.height for box in here)
    to_top, to_bottom = min(box.y for box in there), max(box.y + box.height for box in there)
    half = (x + to_x) / 2
    path = f"M{x:.1f} {top:.1f}C{half:.1f} {top:.1f} {half:.1f} {to_top:.1f} {to_x:.1f} {to_top:.1f}V{to_bottom:.1f}"
    path += f"C{half:.1f} {to_bottom:.1f} {half:.1f} {bottom:.1f} {x:.1f} {bottom:.1f}z"
    return element("path", d=path, class_=f"ribbon {entry.kind}")
