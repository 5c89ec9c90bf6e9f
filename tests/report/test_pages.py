"""The page and the Markdown: both say what report.json says, and nothing from a file becomes markup."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from surgery.page import visible
from surgery.report import render_html, render_markdown
from tests.browser import launched, opened
from tests.report.digits import DATA, MANY, compressed

Facts = dict[str, Any]
EMPTY = {"meta", "br"}
TIMES = {
    "machine": "a | machine",
    "threads": 1,
    "rounds": 30,
    "models": [
        {
            "model": "/home/someone/secret/a/net.prototxt",
            "runtime": "onnxruntime",
            "version": "ONNX Runtime 1.20",
            "milliseconds": {"smallest": 1.25, "p10": 1.5, "median": 1.75, "p90": 2.25},
            "ratio": {"smallest": 1, "p10": 1, "median": 1, "p90": 1},
        }
    ],
    "rewrite": 1.5,
    "layers": {"conv2": {"solve": 0.25}},
}
HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "a | b",
    "`code` **bold** _it_ [link](http://evil.example) <b>",
    "line\nbreak\ttab",
    "# heading",
    "&lt;not a bracket&gt;",
    "turned \u202e round \x1b[31m",
    "back\\slash\\",
    "www.evil.example https://evil.example",
    "12. twelfth",
)


class Page(HTMLParser):
    """The tables, texts and tags of a page; fails where tags are not balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.tables: list[list[list[str]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not any(name.startswith("on") or name in ("src", "style") for name, _ in attrs), attrs
        self.tags.add(tag)
        if tag not in EMPTY:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


def cells(line: str) -> list[str]:
    """The cells of a row of a Markdown table as a reader sees them."""
    found = re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]
    return [re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cell.strip(" ")) for cell in found]


def markdown_tables(text: str) -> Iterator[list[str]]:
    for block in text.split("\n\n"):
        if block.startswith("|"):
            yield block.rstrip("\n").split("\n")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return compressed(tmp_path_factory.mktemp("many") / "out", *MANY)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return compressed(tmp_path_factory.mktemp("fitted") / "out", "--macs", "0.3", *DATA)


def hostile(facts: Facts, name: str) -> Facts:
    """The facts with every name, and what is told of one, replaced."""
    layers = [
        row | {"layer": name, "became": [name, name], "options": {name: name}, "spectra_reason": name}
        for row in facts["layers"]
    ]
    left = [{"layer": name, "reason": name}]
    source = {"files": [name], "digest": name}
    verified = facts["verified"] | {"runtime": name, "reason": name, "worst_blob": name}
    given = {"asked": {name: name}, "notes": [name], "command": f"surgery {name}", "versions": {name: name}}
    return facts | {"layers": layers, "left": left, "source": source, "verified": verified} | given


def test_every_figure_of_the_layers_is_that_of_the_report(many: Facts) -> None:
    table = next(table for table in Page(render_html(many)).tables if table[0][0] == "layer" and "rank" in table[0])
    places = {name: table[0].index(name) for name in ("parameters", "MACs", "rank", "weight error", "became")}
    rows = {row[0]: row for row in table[1:]}
    for layer in many["layers"]:
        row = rows[layer["layer"]]
        assert [int(n) for n in row[places["rank"]].split("x")] == layer["rank"]
        assert float(row[places["weight error"]]) == pytest.approx(layer["weight_error"], rel=5e-4)  # Four digits.
        assert row[places["became"]].split(", ") == layer["became"]
        for name, counts in (("parameters", "params"), ("MACs", "macs")):
            at = places[name]
            assert [int(row[i].replace(",", "")) for i in (at, at + 1)] == layer[counts]
            assert row[at + 2] == f"{layer[counts][1] / layer[counts][0]:.1%}"


def test_the_rows_of_the_layers_add_up_to_the_totals(many: Facts) -> None:
    table = next(table for table in Page(render_html(many)).tables if table[0][0] == "layer" and "rank" in table[0])
    for name, counts in (("parameters", "params"), ("MACs", "macs")):
        for i, when in enumerate(("before", "after")):
            column = [int(row[table[0].index(name) + i].replace(",", "")) for row in table[1:]]
            assert sum(column[:-1]) == column[-1] == many["totals"][when][counts]


def test_what_was_predicted_stands_beside_what_was_measured(fitted: Facts) -> None:
    table = next(table for table in Page(render_html(fitted)).tables if table[0] == ["", "predicted", "measured"])
    row = next(row for row in table if row[0].startswith("KL divergence"))
    assert float(row[1]) == pytest.approx(fitted["predicted"]["error"], rel=5e-4)
    assert float(row[2]) == pytest.approx(fitted["measured"]["divergence"], rel=5e-4)
    assert ["best class as the original's", "–", f"{fitted['measured']['agreement']:.1%}"] in table


def test_each_spectrum_is_drawn_with_its_rank_marked(many: Facts) -> None:
    texts = Page(render_html(many)).texts
    spectra = [spectrum for row in many["layers"] for spectrum in row["spectra"]]
    assert sum(text == "index of the value" for text in texts) == len(spectra) == 4
    for spectrum in spectra:
        assert f"rank {spectrum['rank']}" in texts
        told = f"the first {spectrum['rank']} of {spectrum['size']} hold {spectrum['kept']:.1%} of the squares."
        assert any(text.endswith(told) for text in texts)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_from_files_are_text_in_the_page(name: str, many: Facts) -> None:
    page = Page(render_html(hostile(many, name), {"layers": {name: {name: 1.0}}, "rewrite": 1.0}))
    assert page.tags == Page(render_html(many)).tags
    assert sum(row.count(visible(name)) for table in page.tables for row in table) >= 5


def test_a_browser_asks_for_nothing_and_complains_of_nothing(many: Facts, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_html(hostile(many, " ".join(HOSTILE)), TIMES), encoding="utf-8")
    with launched() as browser:
        for scheme in ("light", "dark"):
            with opened(browser, path, color_scheme=scheme) as view:
                assert view.requests == [path.as_uri()]
                assert view.complaints == []
                assert HOSTILE[0] in view.page.inner_text("main")
                colours = "e => [getComputedStyle(e).color, getComputedStyle(document.documentElement).backgroundColor]"
                text, ground = view.page.eval_on_selector("svg text", colours)
                assert text != ground


@pytest.mark.parametrize("name", HOSTILE)
def test_names_from_files_are_text_in_the_markdown(name: str, many: Facts) -> None:
    text = render_markdown(hostile(many, name), {"layers": {name: {name: 1.0}}, "rewrite": 1.0})
    shown = visible(name).replace("\n", "\\u000a").replace("\t", "\\u0009")
    for lines in markdown_tables(text):
        assert len({len(cells(line)) for line in lines}) == 1
    found = [cell for lines in markdown_tables(text) for line in lines for cell in cells(line)]
    assert found.count(shown) >= 5
    prose = re.sub(
        r"\\[!-/:-@\[-`{-~]", "", "\n".join(line for line in text.split("\n") if not line.startswith("    "))
    )
    assert not re.search(r"[<*`\[\]~]|://|www\.|^\d+[.)] ", prose, re.MULTILINE)


def test_the_markdown_has_the_tables_of_the_page(many: Facts) -> None:
    page = Page(render_html(many, TIMES)).tables
    written = [
        [cells(line) for line in lines if "| ---" not in line]
        for lines in markdown_tables(render_markdown(many, TIMES))
    ]
    same = [[row for row in table if any(row)] for table in written if table[0][:2] != ["layer", "values of"]]
    assert same == [[row for row in table if any(row)] for table in page]


def test_times_are_told_only_where_they_are_given(many: Facts) -> None:
    for render in (render_html, render_markdown):
        assert "Times" not in render(many)
        told = render(many, TIMES)
        assert all(text in told for text in ("Times", "1.75", "1.5 to 2.25", "ONNX Runtime 1.20", "machine: a"))
        assert "a/net.prototxt" in told
        assert "secret" not in told


def test_the_curve_of_a_sweep_is_shown_with_this_plan_marked(many: Facts) -> None:
    point = {"params": 0.9, "of": "divergence", "cuts": 2}
    points = [{"asked": 0.8, "macs": 0.75, "error": 1e-3, **point}, {"asked": 0.5, "macs": 0.5, "error": None, **point}]
    swept = many | {"predicted": {"macs": [200, 150], "of": "divergence", "error": 1e-3, "sweep": points}}
    page = Page(render_html(swept))
    assert {"this plan", "MACs that remain (%)", "predicted error"} <= set(page.texts)
    assert ["80.0%", "75.0%", "90.0%", "0.001", "2"] in [row for table in page.tables for row in table]
    assert "Trade-off" not in render_html(many)
    assert "| 50.0% | 50.0% | 90.0% | – | 2 |" in render_markdown(swept)


def test_equal_facts_give_equal_bytes_and_the_files_are_those(many: Facts, tmp_path: Path) -> None:
    again = compressed(tmp_path / "out", *MANY)
    assert again == many
    for name, render in (("report.html", render_html), ("report.md", render_markdown)):
        assert (tmp_path / "out" / name).read_text(encoding="utf-8") == render(json.loads(json.dumps(many)))
