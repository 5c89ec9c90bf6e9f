"""Plots: the same bytes from the same points, text that stays text, and one line where they cannot be made."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from surgery.errors import PlanError
from surgery.plotting import Point, trade_off

POINTS = tuple(
    Point(series, x, y)
    for series, ys in (("knapsack", (0.4, 0.1, 0.0)), ("uniform & <all>", (0.7, 0.3, 0.0)))
    for x, y in zip((0.25, 0.5, 1.0), ys, strict=True)
)
LABELS = {"title": "VGG-16 & <others>", "x_label": "MACs that remain (share)", "y_label": "top-1 lost (points)"}


def drawn(path: Path) -> bytes:
    pytest.importorskip("matplotlib")
    trade_off(POINTS, path, **LABELS)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.svg", "a.PNG"])
def test_the_same_points_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    first = drawn(tmp_path / name)
    assert drawn(tmp_path / f"again-{name}") == first


@pytest.mark.parametrize("name", ["a.svg", "a.png"])
def test_a_users_own_settings_change_nothing(tmp_path: Path, name: str) -> None:
    plain = drawn(tmp_path / name)
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context({"axes.facecolor": "red", "savefig.transparent": True, "font.size": 20}):
        assert drawn(tmp_path / f"own-{name}") == plain


def test_a_vector_plot_holds_its_labels_as_text_and_no_date(tmp_path: Path) -> None:
    root = ElementTree.fromstring(drawn(tmp_path / "a.svg"))
    texts = {"".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {*LABELS.values(), "knapsack", "uniform & <all>"} <= texts
    assert not [node.tag for node in root.iter() if node.tag.endswith("}date")]


def test_the_order_of_points_does_not_matter_within_a_series(tmp_path: Path) -> None:
    plain = drawn(tmp_path / "a.svg")
    trade_off((*POINTS[2::-1], *POINTS[:2:-1]), tmp_path / "b.svg", **LABELS)
    assert (tmp_path / "b.svg").read_bytes() == plain


def test_one_series_needs_no_legend(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trade_off(POINTS[:3], tmp_path / "a.svg", **LABELS)
    assert b"knapsack" not in (tmp_path / "a.svg").read_bytes()


def test_a_plot_without_the_library_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PlanError) as caught:
        trade_off(POINTS, tmp_path / "a.svg", **LABELS)
    assert str(caught.value) == "plots need matplotlib; install it with: pip install 'surgery[plot]'"
    assert not (tmp_path / "a.svg").exists()


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"cannot plot to '\.pdf'; name the file \.svg or \.png"):
        trade_off(POINTS, tmp_path / "a.pdf", **LABELS)
