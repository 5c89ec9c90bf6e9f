from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from time import process_time

import pytest

from surgery.diff.difference import Difference
from surgery.diff.page import rendered, write
from surgery.diff.page.panel import _thinned
from surgery.errors import PlanError
from tests.diff.drawn_nets import cut, every_kind, inception, layer, residual, same, side

ENDLESS = {"meta", "input", "br", "hr", "img", "col"}


class Tree(HTMLParser):
    """Checks that every element ends where it must, and keeps the ids and the links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name == "href"]
        if tag not in ENDLESS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    "difference",
    [every_kind(), same(inception()), cut(inception(), lambda one: True), Difference(side("a", []), side("b", []), ())],
    ids=["every kind", "same", "cut", "empty"],
)
def test_a_page_is_well_formed_with_ids_of_its_own_and_links_into_itself(difference: Difference) -> None:
    tree = Tree(rendered(difference))
    assert len(tree.ids) == len(set(tree.ids))
    assert {link.removeprefix("#") for link in tree.links} <= set(tree.ids)
    assert "img" not in tree.tags


def test_the_same_difference_gives_the_same_page() -> None:
    assert rendered(every_kind()) == rendered(every_kind())


def test_a_page_of_152_layers_with_every_middle_one_cut_stays_below_3_mb() -> None:
    difference = cut(residual(50), lambda one: one.key.endswith("convolution1"))
    assert len(difference.differing) == 50
    assert len(rendered(difference).encode()) < 3_000_000


def test_a_thousand_layers_are_drawn_in_seconds() -> None:
    difference = cut(residual(80), lambda one: one.key.endswith("convolution1"))
    assert len(difference.a.layers) > 1000
    start = process_time()
    rendered(difference)
    assert process_time() - start < 10  # A second on a machine at rest; the rest is for one that is not.


def test_the_page_replaces_only_what_can_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write(every_kind(), path)
    assert path.read_text(encoding="utf-8") == rendered(every_kind())
    with pytest.raises(PlanError, match="is a folder"):
        write(every_kind(), tmp_path)
    with pytest.raises(PlanError, match="does not exist"):
        write(every_kind(), tmp_path / "absent" / "page.html")
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_a_page_never_takes_the_place_of_a_model(tmp_path: Path) -> None:
    model = tmp_path / "a.prototxt"
    model.write_text("name: 'a'")
    difference = Difference(side(str(model), inception()), side("b.prototxt", inception()), ())
    with pytest.raises(PlanError, match="is an input"):
        write(difference, model)
    assert model.read_text() == "name: 'a'"


def test_networks_of_one_file_name_are_told_apart_by_their_folders() -> None:
    layers = inception()
    difference = Difference(side("/models/first/net.prototxt", layers), side("/models/cut/net.prototxt", layers), ())
    assert "<title>first/net.prototxt → cut/net.prototxt</title>" in rendered(difference)
    assert "<title>a.prototxt → other-a.prototxt</title>" in rendered(same(layers))


def test_a_name_or_a_field_of_a_megabyte_does_not_swell_the_page() -> None:
    megabyte = "x" * 1_000_000
    long = replace(layer(megabyte, "", kind=megabyte), fields=((megabyte, megabyte),))
    text = rendered(same([long]))
    assert len(text) < 100_000
    assert "… (1,000,000 letters)" in text


def test_a_field_that_is_called_as_a_fact_hides_none() -> None:
    told = replace(layer("one", ""), fields=(("type", "elsewhere"),))
    assert all(f"<td>{value}</td>" in rendered(same([told])) for value in ("Convolution", "elsewhere"))


def test_a_long_spectrum_is_drawn_by_a_few_of_its_values_those_at_the_rank_among_them() -> None:
    kept = _thinned(5000, 321)
    assert len(kept) < 100
    assert {0, 320, 321, 4999} <= set(kept)
    assert _thinned(3, 7) == [0, 1, 2]
