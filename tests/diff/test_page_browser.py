from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from surgery.diff.page import write
from tests.browser import Opened, launched, opened
from tests.diff.drawn_nets import HOSTILE, cut, every_kind, inception, residual, same

pytestmark = pytest.mark.xdist_group("browser")
SHOWN = HOSTILE.replace("\u202e", "\\u202e").replace("\u2028", "\\u2028")  # What cannot be seen is spelled out.
DIFFERENCES = {
    "every kind": every_kind(),
    "cut": cut(inception(), lambda one: one.key in ("stem", "three")),
    "same": same(inception()),
    "deep": cut(residual(50), lambda one: one.key.endswith("convolution1")),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    paths = {name: folder / f"{name}.html" for name in DIFFERENCES}
    for name, path in paths.items():
        write(DIFFERENCES[name], path)
    return paths


@pytest.fixture
def view(browser: Any, pages: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[Opened]:
    """The page that the test asks for, by default the cut one; whatever is done to it, it stays closed and quiet."""
    name = getattr(request, "param", "cut")
    with opened(browser, pages[name]) as found:
        yield found
        assert found.requests == [pages[name].as_uri()]
        assert found.complaints == []


def scale(view: Opened) -> float:
    return float(re.findall(r"scale\(([^)]+)\)", view.page.locator("#world").get_attribute("transform"))[0])


def place(view: Opened) -> tuple[float, float]:
    x, y = re.findall(r"translate\(([^ ]+) ([^)]+)\)", view.page.locator("#world").get_attribute("transform"))[0]
    return float(x), float(y)


def wait_for_change(view: Opened, before: str) -> None:
    """Wait until the drawing has moved: a browser handles a wheel when it is ready to."""
    moved = "(before) => document.getElementById('world').getAttribute('transform') !== before"
    view.page.wait_for_function(moved, arg=before)


def focused(view: Opened) -> str:
    told = view.page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.id")
    assert isinstance(told, str)
    return told


@pytest.mark.parametrize("view", DIFFERENCES, indirect=True)
def test_every_layer_of_both_networks_is_there(view: Opened, request: pytest.FixtureRequest) -> None:
    difference = DIFFERENCES[request.node.callspec.params["view"]]
    assert view.page.locator(".layer").count() == len(difference.a.layers) + len(difference.b.layers)
    assert view.page.locator("#summary li").count() == len(difference.differing)
    assert view.page.locator("article:visible").count() == 0


def test_no_layer_lies_over_another_and_all_names_are_inside_their_boxes(view: Opened) -> None:
    boxes = [box.bounding_box() for box in view.page.locator(".layer > rect").all()]
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            apart_x = abs(one["x"] + one["width"] / 2 - other["x"] - other["width"] / 2) >= one["width"]
            top, bottom = sorted((one, other), key=lambda box: box["y"])
            assert apart_x or top["y"] + top["height"] <= bottom["y"]
    overflowing = view.page.evaluate(
        "[...document.querySelectorAll('.layer')].filter((g) => g.querySelector('.name').getBBox().width > 160).length"
    )
    assert overflowing == 0


def test_a_click_opens_what_became_of_a_layer_and_escape_closes_it(view: Opened) -> None:
    view.page.locator("#a0").click()
    article = view.page.locator("article:visible")
    assert article.count() == 1
    told = article.inner_text()
    assert told.startswith("stem\n")
    assert "into stem_1, stem_2" in told
    assert "svd-spatial" in told
    assert "0.0834" in told
    assert "rank 12" in told
    assert "−66.7 %" in told  # 3,000 of 9,000 parameters are left.
    assert article.locator("svg").count() == 1
    assert not view.page.locator("#summary").is_visible()
    assert view.page.locator(".layer.open").count() == 3
    view.page.keyboard.press("Escape")
    assert view.page.locator("article:visible").count() == 0
    assert view.page.locator("#summary").is_visible()


def test_the_list_of_differences_leads_to_each_and_the_steps_go_round(view: Opened) -> None:
    view.page.locator("#summary li a").nth(1).click()
    assert "into three_1, three_2" in view.page.locator("article:visible").inner_text()
    view.page.click("#next")
    assert "into stem_1, stem_2" in view.page.locator("article:visible").inner_text()
    view.page.click("#previous")
    assert "into three_1, three_2" in view.page.locator("article:visible").inner_text()
    view.page.click("#back")
    assert view.page.locator("#summary").is_visible()


@pytest.mark.parametrize("view", ["deep"], indirect=True)
def test_search_finds_by_name_and_type_and_brings_hits_into_view(view: Opened) -> None:
    page = view.page
    page.keyboard.press("/")
    page.keyboard.type("block49/sum")
    assert page.locator("#hits").inner_text() == "1 of 2"
    assert page.locator(".layer.found").evaluate("(group) => group.querySelector('title').textContent") == (
        "block49/sum\nEltwise"
    )
    box, stage = page.locator(".layer.found > rect").bounding_box(), page.locator("#stage").bounding_box()
    assert stage["x"] <= box["x"]
    assert box["x"] + box["width"] <= stage["x"] + stage["width"]
    assert stage["y"] <= box["y"]
    assert box["y"] + box["height"] <= stage["y"] + stage["height"]
    page.keyboard.press("Enter")
    assert page.locator("#hits").inner_text() == "2 of 2"
    page.keyboard.press("Shift+Enter")
    assert page.locator("#hits").inner_text() == "1 of 2"
    page.fill("#search", "ELTWISE")
    assert page.locator("#hits").inner_text() == "1 of 100"
    page.fill("#search", "no such layer")
    assert page.locator("#hits").inner_text() == "none"
    page.fill("#search", "")
    assert page.locator("#hits").inner_text() == ""
    assert page.locator(".hit, .found").count() == 0


def test_wheel_drag_and_buttons_move_and_zoom(view: Opened) -> None:
    page = view.page
    before = scale(view)
    page.click("#zoom-in")
    assert scale(view) == pytest.approx(1.25 * before)
    page.click("#zoom-out")
    assert scale(view) == pytest.approx(before)
    page.mouse.move(300, 400)
    x, y = place(view)
    unmoved = page.locator("#world").get_attribute("transform")
    page.mouse.wheel(0, 100)
    wait_for_change(view, unmoved)
    assert place(view)[1] == pytest.approx(y - 100)
    x, y = place(view)
    page.mouse.down()
    page.mouse.move(340, 430, steps=3)
    page.mouse.up()
    assert place(view) == pytest.approx((x + 40, y + 30))
    assert page.locator("article:visible").count() == 0
    page.click("#zoom-all")
    top, bottom = page.locator("#world").bounding_box(), page.locator("#stage").bounding_box()
    assert top["height"] <= bottom["height"] + 1


def test_zooming_by_wheel_keeps_the_point_under_the_mouse(view: Opened) -> None:
    page = view.page
    stage = page.locator("#stage").bounding_box()
    page.mouse.move(250, 300)  # Whole numbers: a wheel's event has no others.
    x, y = 250 - stage["x"], 300 - stage["y"]
    unmoved = page.locator("#world").get_attribute("transform")
    before, (left, top) = scale(view), place(view)
    point = ((x - left) / before, (y - top) / before)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -120)
    page.keyboard.up("Control")
    wait_for_change(view, unmoved)
    after, (left, top) = scale(view), place(view)
    assert after > before
    assert ((x - left) / after, (y - top) / after) == pytest.approx(point)


def test_two_fingers_zoom(view: Opened) -> None:
    before = scale(view)
    view.page.evaluate(
        """() => {
          const graph = document.getElementById("graph");
          const touch = (type, id, x) => graph.dispatchEvent(new PointerEvent(type,
            { pointerId: id, clientX: x, clientY: 300, bubbles: true, pointerType: "touch" }));
          touch("pointerdown", 1, 200);
          touch("pointerdown", 2, 300);
          touch("pointermove", 2, 400);
          touch("pointerup", 1, 200);
          touch("pointerup", 2, 400);
        }"""
    )
    assert scale(view) == pytest.approx(2 * before)


def test_everything_can_be_done_with_the_keyboard(view: Opened) -> None:
    page = view.page
    stops = []
    for _ in range(12):
        page.keyboard.press("Tab")
        stops.append(focused(view))
        if stops[-1].startswith("Both networks"):
            break
    assert stops[0] == "Search layers"
    assert stops[-1].startswith("Both networks")
    page.keyboard.press("ArrowDown")
    assert focused(view).startswith("stem, Convolution")
    page.keyboard.press("ArrowRight")
    assert focused(view).endswith("network B")
    page.keyboard.press("ArrowLeft")
    assert focused(view).endswith("network A")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert not focused(view).startswith("stem")
    page.keyboard.press("Enter")
    assert page.locator("article:visible").count() == 1
    assert page.evaluate("document.activeElement.tagName") == "H2"
    page.keyboard.press("Escape")
    assert ", network A" in focused(view)
    before = scale(view)
    page.keyboard.press("+")
    assert scale(view) > before
    x, y = place(view)
    page.keyboard.press("Shift+ArrowDown")
    assert place(view) == pytest.approx((x, y - 60))
    page.keyboard.press("n")
    assert page.locator("article:visible").count() == 1


def test_the_focus_can_be_seen(view: Opened) -> None:
    view.page.locator("#search").focus()
    for _ in range(7):
        width = view.page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert width == "2px"
        view.page.keyboard.press("Tab")


@pytest.mark.parametrize("view", ["every kind"], indirect=True)
def test_names_from_the_files_are_shown_as_text(view: Opened) -> None:
    page = view.page
    assert page.locator("img").count() == 0
    assert page.evaluate("document.scripts.length") == 1
    page.locator(".layer.reordered").first.click()
    article = page.locator("article:visible")
    assert article.locator("h2").inner_text() == SHOWN
    assert article.locator("tr", has_text="type").locator("td").first.inner_text() == SHOWN
    page.keyboard.press("Escape")
    page.fill("#search", "<img onerror")
    assert page.locator("#hits").inner_text() == "1 of 2"
    assert SHOWN in page.locator("#summary").inner_text()


@pytest.mark.parametrize("view", ["every kind"], indirect=True)
def test_each_kind_is_told_by_a_word_and_not_by_colour_alone(view: Opened) -> None:
    difference = DIFFERENCES["every kind"]
    for entry in difference.differing:
        word = {"reordered": "moved"}.get(entry.kind, entry.kind)
        badges = view.page.locator(f".layer.{entry.kind} .badge text").all_text_contents()
        assert len(badges) == len(entry.a) + len(entry.b)
        assert all(badge.endswith(word) for badge in badges)


@pytest.mark.parametrize("view", ["every kind"], indirect=True)
def test_fields_are_told_from_and_to_and_errors_along_depth_are_plotted(view: Opened) -> None:
    view.page.locator(".layer.changed").first.click()
    told = view.page.locator("article:visible").inner_text()
    assert re.search(r"kernel_size\s+3\s+5", told)
    assert re.search(r"weight\s+16 × 3 × 3 × 3\s+16 × 3 × 5 × 5", told)
    assert re.search(r"bias\s+16\s+16\s+0\.5", told)
    view.page.keyboard.press("Escape")
    assert "They part at alter: 0.1." in view.page.locator("#summary").inner_text()
    assert view.page.locator("#summary figure svg").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground_in_light_and_in_dark(
    browser: Any, pages: dict[str, Path], scheme: str
) -> None:
    with opened(browser, pages["every kind"], color_scheme=scheme) as view:
        ground, *inks = view.page.evaluate(
            """() => {
              const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
              const seen = (colour) => {
                canvas.fillStyle = colour;
                canvas.fillRect(0, 0, 1, 1);
                return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
              };
              const style = getComputedStyle(document.documentElement);
              const names = ["page", "text", "muted", "accent", "split", "merged", "changed", "renamed", "reordered",
                "added", "removed"];
              return names.map((name) => seen(style.getPropertyValue("--" + name)));
            }"""
        )
    for ink in inks:
        assert contrast(ground, ink) >= 4.5  # WCAG 2.2, level AA, for text of any size


def contrast(one: list[int], other: list[int]) -> float:
    """The ratio of two colours' luminance as WCAG defines it, 1 to 21."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: list[int]) -> float:
    shares = [c / 255 for c in colour]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_on_paper_all_that_differs_is_told_and_drawn(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["cut"]) as view:
        view.page.emulate_media(media="print")
        view.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert view.page.locator("article:visible").count() == 2
        assert view.page.locator("#prints svg").count() >= 1
        assert view.page.locator("#prints .layer.split").count() == 6
        assert not view.page.locator("#search").is_visible()
        view.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert view.page.locator("#prints").count() == 0
        assert view.page.pdf().startswith(b"%PDF")


def test_without_scripts_the_drawing_and_what_differs_are_there(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["cut"], java_script_enabled=False) as view:
        assert view.page.locator(".layer").first.is_visible()
        assert view.page.locator("article.split:visible").count() == 2
        assert view.page.locator("article.same:visible").count() == 0


def test_on_a_narrow_screen_the_panel_stands_below_the_drawing(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["cut"], viewport={"width": 420, "height": 800}, has_touch=True) as view:
        stage, panel = (view.page.locator(name).bounding_box() for name in ("#stage", "#panel"))
        assert panel["y"] >= stage["y"] + stage["height"] - 1
        assert view.page.evaluate("document.documentElement.scrollWidth") <= 420
        view.page.locator("#a0").tap()
        assert view.page.locator("article:visible").count() == 1
