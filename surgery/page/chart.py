"""Draw lines over two axes as inline SVG: text stays text, colours are the page's in light, in dark and in print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from surgery.page.html import Markup, element, fragment

# The page's colours, with what stands in for them where the drawing is taken out of it. Dashes and the shapes of points
# tell the series apart without colour.
COLOURS = ("#0072b2", "#c24e00", "#007a5a", "#a8467e", "#8a6100", "#2b7fae", "#333333")
DASHES = (None, "6 3", "8 3 2 3", "2 3", "10 4", "4 2", "1 2")
SHAPES = ("circle", "square", "diamond", "triangle")
RULE, MUTED, GROUND = "var(--rule, #d5dae0)", "var(--muted, #59636e)", "var(--page, #ffffff)"
FONT = 11
GLYPH = 0.58 * FONT  # How wide a letter is, about.
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
ROUND = (1, 2, 5)
NARROW = 1e-6  # Ticks have twelve digits.


@dataclass(frozen=True, slots=True)
class Point:
    """A point in the units of the axes; `told` is shown when it is pointed at, and read to who cannot see it."""

    x: float
    y: float
    told: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """Points that a line runs through, in their order; `dots` draws them too."""

    name: str
    points: tuple[Point, ...]
    dots: bool = True


@dataclass(frozen=True, slots=True)
class Axis:
    """A direction: its label with the unit, whether it is logarithmic, and values that must lie on it.

    `whole` is for counts: only whole numbers stand beside it.
    """

    label: str
    log: bool = False
    include: tuple[float, ...] = ()
    whole: bool = False

    def holds(self, value: float) -> bool:
        """Return whether a value has a place here: infinities and NaN have none, 0 none on a logarithmic axis.

        Nor do numbers so large or small that what is reckoned with them is none.
        """
        return 1e-100 <= value <= 1e100 if self.log else -1e300 <= value <= 1e300


@dataclass(frozen=True, slots=True)
class Mark:
    """A place on the x axis, and what it is."""

    x: float
    label: str


@dataclass(frozen=True, slots=True)
class _Scale:
    """Places of an axis's values in the drawing, and of its ticks."""

    axis: Axis
    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        low, high, value = (
            (log10(v) for v in (self.low, self.high, value)) if self.axis.log else (self.low, self.high, value)
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def chart(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    title: str,
    mark: Mark | None = None,
    size: tuple[int, int] = (560, 300),
) -> Markup:
    """Return the lines as an <svg> of `size` (width, height) in CSS pixels; `title` says what it shows, for a reader.

    Points that an axis has no place for are left out, and the line with them; equal arguments give equal text.
    """
    kept = [point for one in series for point in one.points if x.holds(point.x) and y.holds(point.y)]
    named = series if len(series) > 1 else ()
    width, height = size
    rows = _legend_rows(named, width)
    top = (8 if mark is None else 2 * FONT) + rows * 1.5 * FONT
    xs, ys = [p.x for p in kept] + ([mark.x] if mark else []), [p.y for p in kept]
    down = _scale(y, ys, height - 4 * FONT, top, count=max(3, height // 55))
    left = 2 * FONT + max(GLYPH * len(label(tick, y)) for tick in down.ticks) + 6
    across = _scale(x, xs, left, width - 2 * FONT, count=max(4, width // 70), rounded=False)
    return element(
        "svg",
        element("title", title),
        _grid(across, down, size),
        *(_line(one, i, across, down) for i, one in enumerate(series)),
        _marked(mark, across, down),
        _legend(named, width),
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        font_size=FONT,
        fill="currentColor",
    )


def ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return at most about `count` multiples of 1, 2 or 5 times a power of ten, the outer ones not inside of the range.

    Raises ValueError unless `low` is below `high`.
    """
    if not low < high:
        raise ValueError(f"ticks from {low} to {high}: expected a range")
    step = _round_step((high - low) / count)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return tuple(float(f"{i * step:.12g}") for i in range(first, last + 1))


def decades(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return ticks of a logarithmic axis: powers of ten, and 2 and 5 times them where few would be left."""
    first, last = floor(log10(low)), ceil(log10(high))
    if last - first <= max(1, count // 3):
        every = [digit * 10.0**power for power in range(first - 1, last + 1) for digit in ROUND]
    else:
        step = ceil((last - first) / count)
        every = [10.0**power for power in range(first, last + step, step)]
    start = max(i for i, tick in enumerate(every) if tick <= low * (1 + 1e-9) or i == 0)
    return tuple(tick for tick in every[start:] if tick < high) + tuple(tick for tick in every if tick >= high)[:1]


def label(value: float, axis: Axis) -> str:
    """Return a tick's number as it is written beside it: 0.25, 1,000, 10⁻⁶."""
    if axis.log and value != 0 and not 1e-3 <= value < 1e5:
        power = floor(log10(value) + 1e-9)
        digit = round(value / 10.0**power)
        return ("" if digit == 1 else f"{digit}·") + "10" + str(power).translate(SUPERSCRIPT)
    return f"{value:,.10g}"


def _round_step(least: float) -> float:
    power = 10.0 ** floor(log10(least))
    return next(digit * power for digit in (*ROUND, 10) if digit * power >= least * (1 - 1e-9))


def _scale(
    axis: Axis, values: Sequence[float], start: float, end: float, *, count: int, rounded: bool = True
) -> _Scale:
    """Return the scale of an axis that holds the values; where it is `rounded` it ends in ticks."""
    found = [value for value in (*values, *axis.include) if axis.holds(value)] or [1.0]
    low, high = min(found), max(found)
    largest = max(abs(low), abs(high))
    if high - low <= NARROW * max(largest, 1e-200):  # A single value stands in the middle.
        around = largest / 2 if largest > 1e-200 else 0.5
        low, high = (low / 2, high * 2) if axis.log else (low - around, high + around)
    marks = decades(low, high, count) if axis.log else ticks(low, high, count)
    if rounded:
        low, high = min(low, marks[0]), max(high, marks[-1])
    shown = (tick for tick in marks if low <= tick <= high and not (axis.whole and tick % 1))
    return _Scale(axis, low, high, start, end, tuple(shown))


def _grid(x: _Scale, y: _Scale, size: tuple[int, int]) -> Markup:
    lines: list[Markup] = []
    for tick in y.ticks:
        lines.append(element("line", x1=x.start, x2=x.end, y1=y(tick), y2=y(tick), stroke=RULE))
        lines.append(_text(label(tick, y.axis), x.start - 6, y(tick) + FONT / 3, anchor="end"))
    for tick in x.ticks:
        lines.append(element("line", x1=x(tick), x2=x(tick), y1=y.start, y2=y.start + 4, stroke=MUTED))
        lines.append(_text(label(tick, x.axis), x(tick), y.start + 4 + FONT, anchor="middle"))
    middle = (y.start + y.end) / 2
    turned = _text(y.axis.label, FONT, middle, anchor="middle", transform=f"rotate(-90 {FONT} {middle:.2f})")
    base = element("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, stroke=MUTED)
    return fragment(*lines, base, turned, _text(x.axis.label, (x.start + x.end) / 2, size[1] - 6, anchor="middle"))


def _line(series: Series, index: int, x: _Scale, y: _Scale) -> Markup:
    colour, runs = _colour(index), list(_runs(series, x, y))
    drawn = [
        element(
            "polyline",
            points=" ".join(f"{x(p.x):.1f},{y(p.y):.1f}" for p in run),
            fill="none",
            stroke=colour,
            stroke_width=1.6,
            stroke_dasharray=DASHES[index % len(DASHES)],
        )
        for run in runs
        if len(run) > 1
    ]
    dots = [_dot(index, x(p.x), y(p.y), p.told) for run in runs for p in run if series.dots or len(run) == 1]
    return fragment(*drawn, *dots)


def _runs(series: Series, x: _Scale, y: _Scale) -> list[list[Point]]:
    """Return the points in pieces, parted where one has no place."""
    runs: list[list[Point]] = [[]]
    for point in series.points:
        if x.axis.holds(point.x) and y.axis.holds(point.y):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return runs


def _dot(index: int, x: float, y: float, told: str) -> Markup:
    title, look = ([element("title", told)] if told else []), {"fill": _colour(index), "stroke": GROUND}
    match SHAPES[index % len(SHAPES)]:
        case "circle":
            return element("circle", *title, cx=x, cy=y, r=3.2, **look)
        case "square":
            return element("rect", *title, x=x - 3, y=y - 3, width=6, height=6, **look)
        case "diamond":
            corners = [(0, -4), (4, 0), (0, 4), (-4, 0)]
        case _:
            corners = [(0, -4), (4, 3), (-4, 3)]
    return element("polygon", *title, points=" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners), **look)


def _marked(mark: Mark | None, x: _Scale, y: _Scale) -> Markup:
    if mark is None or not x.axis.holds(mark.x):
        return fragment()
    place = x(mark.x)
    anchor = "end" if place > (x.start + x.end) / 2 else "start"
    return fragment(
        element("line", x1=place, x2=place, y1=y.start, y2=y.end - 2, stroke="currentColor", stroke_dasharray="3 3"),
        _text(mark.label, place, y.end - 6, anchor=anchor),
    )


def _legend_rows(series: Sequence[Series], width: int) -> int:
    return max((row for row, _ in _places(series, width)), default=-1) + 1


def _places(series: Sequence[Series], width: int) -> list[tuple[int, float]]:
    """Return the row of each name in the legend, and where in it the name begins."""
    places, row, place = [], 0, 2.0 * FONT
    for one in series:
        wide = GLYPH * len(one.name) + 44
        if place + wide > width and place > 2 * FONT:
            row, place = row + 1, 2.0 * FONT
        places.append((row, place))
        place += wide
    return places


def _legend(series: Sequence[Series], width: int) -> Markup:
    drawn = []
    for i, (one, (row, place)) in enumerate(zip(series, _places(series, width), strict=True)):
        y = FONT + row * 1.5 * FONT
        ends = {"x1": place, "x2": place + 22, "y1": y - 4, "y2": y - 4}
        drawn.append(element("line", stroke=_colour(i), stroke_width=1.6, stroke_dasharray=DASHES[i % 7], **ends))
        drawn += [_dot(i, place + 11, y - 4, "")] if one.dots else []
        drawn.append(_text(one.name, place + 28, y))
    return fragment(*drawn)


def _text(text: str, x: float, y: float, *, anchor: str = "start", transform: str | None = None) -> Markup:
    return element("text", text, x=x, y=y, text_anchor=anchor, transform=transform)


def _colour(index: int) -> str:
    place = index % len(COLOURS)
    return f"var(--series-{place + 1}, {COLOURS[place]})"
