"""Charts: values stand where the axes say, and equal values give equal drawings."""

from __future__ import annotations

from itertools import pairwise
from math import inf, nan
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.page.chart import COLOURS, DASHES, NARROW, Axis, Mark, Point, Series, chart, decades, label, ticks

X, Y, LOG = Axis("depth (layer)"), Axis("error"), Axis("error", log=True)
HOSTILE = '</svg><script>alert("1")</script>&amp;'


def line(*pairs: tuple[float, float], name: str = "a", dots: bool = False) -> Series:
    return Series(name, tuple(Point(x, y) for x, y in pairs), dots)


def drawn(*series: Series, x: Axis = X, y: Axis = Y, mark: Mark | None = None) -> ElementTree.Element:
    return ElementTree.fromstring(chart(series, x, y, title="errors", mark=mark).text)


def corners(svg: ElementTree.Element) -> list[list[tuple[float, float]]]:
    """The places of each line's points."""
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in found.attrib["points"].split())]
        for found in svg.iter("polyline")
    ]


def texts(svg: ElementTree.Element) -> list[str]:
    return [found.text or "" for found in svg.iter("text")]


def is_round(number: float) -> bool:
    """Whether a number is 1, 2 or 5 times a power of ten."""
    return f"{number:.9e}".split("e")[0].rstrip("0").rstrip(".") in ("1", "2", "5")


ranges = st.tuples(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9)).filter(lambda x: x[1] > NARROW * abs(x[0]))


@given(ranges, st.integers(2, 12))
def test_ticks_are_evenly_spaced_round_and_hold_the_range(span: tuple[float, float], count: int) -> None:
    low, high = span[0], span[0] + span[1]
    found = ticks(low, high, count)
    step = (found[-1] - found[0]) / (len(found) - 1)
    slack = 1e-4 * step  # Ticks have twelve digits, and a step is 1e-6 / 14 of the largest at the least.
    assert 2 <= len(found) <= count + 2
    assert is_round(float(f"{step:.3g}"))
    assert all(abs(b - a - step) <= slack for a, b in pairwise(found))
    assert found[0] <= low + slack
    assert found[-1] >= high - slack


@given(st.floats(-100, 99), st.floats(0.01, 200), st.integers(2, 12))
def test_ticks_of_a_logarithmic_axis_rise_are_round_and_hold_the_range(start: float, width: float, count: int) -> None:
    low, high = 10.0**start, 10.0 ** min(start + width, 100)
    found = decades(low, high, count)
    assert list(found) == sorted(set(found))
    assert 2 <= len(found) <= max(count, 5) + 2
    assert all(is_round(tick) for tick in found)
    assert found[0] <= low * (1 + 1e-6)
    assert found[-1] >= high * (1 - 1e-6)


def test_equal_steps_of_the_values_are_equal_steps_of_the_drawing() -> None:
    (places,) = corners(drawn(line((0, 0.0), (1, 0.5), (2, 1.0))))
    assert places[2][0] - places[1][0] == pytest.approx(places[1][0] - places[0][0], abs=0.11)  # One decimal is kept.
    assert places[0][1] - places[1][1] == pytest.approx(places[1][1] - places[2][1], abs=0.11)
    assert places[0][1] > places[2][1]  # Upwards.


def test_on_a_logarithmic_axis_equal_ratios_are_equal_steps() -> None:
    (places,) = corners(drawn(line((0, 1e-6), (1, 1e-4), (2, 1e-2)), y=LOG))
    assert places[0][1] - places[1][1] == pytest.approx(places[1][1] - places[2][1], abs=0.11)


values = st.one_of(st.floats(), st.floats(0, 1))


@given(st.lists(st.tuples(values, values), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_whatever_the_values_all_is_drawn_within_the_frame(
    pairs: list[tuple[float, float]], x_log: bool, y_log: bool
) -> None:
    svg = drawn(line(*pairs, dots=True), x=Axis("x", x_log), y=Axis("y", y_log))
    places = [place for one in corners(svg) for place in one]
    places += [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in svg.iter("circle")]
    assert all(0 <= x <= 560 and 0 <= y <= 300 for x, y in places)
    kept = [p for p in pairs if X.holds(p[0]) and Y.holds(p[1])]
    if not x_log and not y_log:
        assert len(list(svg.iter("circle"))) == len(kept)


@pytest.mark.parametrize(("missing", "axis"), [(nan, Y), (inf, Y), (0.0, LOG), (-1.0, LOG)])
def test_a_value_without_a_place_parts_the_line(missing: float, axis: Axis) -> None:
    svg = drawn(line((0, 1.0), (1, 2.0), (2, missing), (3, 1.0), (4, 2.0)), y=axis)
    assert [len(one) for one in corners(svg)] == [2, 2]


def test_names_from_files_are_text() -> None:
    svg = drawn(
        Series(HOSTILE, (Point(0, 1.0, HOSTILE), Point(1, 2.0, HOSTILE))),
        line((0, 1.0), (1, 1.0)),
        x=Axis(HOSTILE),
        mark=Mark(0.5, HOSTILE),
    )
    assert not list(svg.iter("script"))
    assert texts(svg).count(HOSTILE) == 3  # The axis, the mark and the legend.
    assert [found.findtext("title") for found in svg.iter("circle")][:2] == [HOSTILE, HOSTILE]


def test_the_axes_tell_their_units_and_several_series_their_names() -> None:
    one, two = line((0, 1.0), (1, 2.0), name="first"), line((0, 2.0), (1, 1.0), name="second")
    assert {"depth (layer)", "error"} <= set(texts(drawn(one)))
    assert "first" not in texts(drawn(one))
    assert {"first", "second"} <= set(texts(drawn(one, two)))


def test_counts_have_whole_numbers_beside_them() -> None:
    at = [number for number in texts(drawn(line((0, 100), (1, 200)), x=Axis("epoch", whole=True))) if len(number) < 3]
    assert at == ["0", "1"]
    assert "0.2" in texts(drawn(line((0, 100), (1, 200))))


def test_series_are_told_apart_without_colour() -> None:
    svg = drawn(*(line((0, i), (1, i), name=str(i)) for i in range(len(COLOURS))))
    dashes = [found.attrib.get("stroke-dasharray") for found in svg.iter("polyline")]
    assert len(set(dashes)) == len(DASHES) == len(COLOURS)


def test_a_mark_stands_at_its_place_and_widens_the_axis() -> None:
    svg = drawn(line((0, 1.0), (10, 2.0)), mark=Mark(20, "rank 20"))
    marked = next(found for found in svg.iter("line") if found.attrib.get("stroke-dasharray") == "3 3")
    (places,) = corners(svg)
    assert float(marked.attrib["x1"]) - places[1][0] == pytest.approx(places[1][0] - places[0][0], abs=0.2)
    assert "rank 20" in texts(svg)


def test_equal_values_give_equal_text() -> None:
    given_twice = [chart([line((0, 0.1), (3, 0.7))], X, LOG, title="t", mark=Mark(1, "m")) for _ in range(2)]
    assert given_twice[0] == given_twice[1]


@pytest.mark.parametrize(
    ("value", "axis", "said"),
    [
        (0.25, Y, "0.25"),
        (1000, Y, "1,000"),
        (1e-6, LOG, "10⁻⁶"),
        (5e-6, LOG, "5·10⁻⁶"),
        (0.01, LOG, "0.01"),
        (0, Y, "0"),
    ],
)
def test_ticks_are_written_as_people_write_them(value: float, axis: Axis, said: str) -> None:
    assert label(value, axis) == said
