from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from surgery.diff.difference import Difference, Entry
from surgery.diff.page.alignment import A, B
from surgery.diff.page.drawing import BOX_HEIGHT, ROW, Drawing, drawn
from tests.diff.drawn_nets import cut, every_kind, inception, layer, residual, same, side


def test_what_agrees_stands_at_the_same_place_on_both_sides() -> None:
    drawing = drawn(same(inception()))
    for key in (one.key for one in inception()):
        a, b = drawing.boxes[A, key], drawing.boxes[B, key]
        assert (a.x - drawing.left[A], a.y) == (b.x - drawing.left[B], b.y)


def test_a_cut_layer_is_as_high_as_the_chain_that_it_faces() -> None:
    drawing = drawn(cut(inception(), lambda one: one.key in ("stem", "three", "project")))
    for key in ("stem", "three", "project"):
        whole, first, last = drawing.boxes[A, key], drawing.boxes[B, f"{key}_1"], drawing.boxes[B, f"{key}_2"]
        assert (whole.y, whole.y + whole.height) == (first.y, last.y + last.height)
        assert whole.height == ROW + BOX_HEIGHT
        assert first.x == last.x
        assert whole.x - drawing.left[A] == last.x - drawing.left[B]


def test_layers_behind_a_cut_agree_again() -> None:
    drawing = drawn(cut(inception(), lambda one: one.key == "three"))
    for key in ("stem", "one", "join", "out"):
        assert drawing.boxes[A, key].y == drawing.boxes[B, key].y


def test_a_stem_stands_above_the_heads_and_each_head_faces_its_layer() -> None:
    drawing = drawn(every_kind())
    assert drawing.boxes[B, "stem"].y < drawing.boxes[B, "head1"].y
    for key in ("head1", "head2"):
        assert drawing.boxes[A, key].y == drawing.boxes[B, key].y
        assert drawing.boxes[A, key].height == BOX_HEIGHT


def test_a_merged_chain_faces_one_layer_of_its_height() -> None:
    drawing = drawn(every_kind())
    assert drawing.boxes[B, "x"].y == drawing.boxes[A, "x_1"].y
    assert drawing.boxes[B, "x"].height == ROW + BOX_HEIGHT


def test_what_is_gone_faces_what_came_in_its_place() -> None:
    drawing = drawn(every_kind())
    assert drawing.boxes[A, "gone"].y == drawing.boxes[B, "come"].y


def test_layers_in_another_order_are_drawn_each_in_its_own() -> None:
    a = [layer("one", ""), layer("two", "one"), layer("three", "two")]
    b = [layer("one", ""), layer("three", "one"), layer("two", "three")]
    entries = tuple(Entry("reordered", (key,), (key,)) for key in ("one", "two", "three"))
    boxes = drawn(Difference(side("a", a), side("b", b), entries)).boxes
    assert boxes[A, "one"].y < boxes[A, "two"].y < boxes[A, "three"].y
    assert boxes[B, "one"].y < boxes[B, "three"].y < boxes[B, "two"].y
    assert boxes[A, "one"].y == boxes[B, "one"].y


@given(st.data())
def test_every_layer_is_drawn_below_its_sources_and_over_no_other(
    data: st.DataObject,
) -> None:
    drawing = drawn(data.draw(differences()))
    for line in drawing.alignment.lines:
        upper, lower = drawing.boxes[line.network, line.upper], drawing.boxes[line.network, line.lower]
        assert upper.y + upper.height < lower.y
    _assert_apart(drawing)


@st.composite
def differences(draw: st.DrawFn) -> Difference:
    """Two networks of random wiring, and any matching of their layers."""
    sides = []
    for name in "ab":
        layers = []
        for i in range(draw(st.integers(1, 8))):
            sources = draw(st.lists(st.sampled_from(["", *(one.key for one in layers)]), min_size=1, max_size=3))
            layers.append(layer(f"{name}{i}", *sources))
        sides.append(side(name, layers))
    a, b = sides
    order = draw(st.permutations([one.key for one in b.layers]))
    count = draw(st.integers(0, min(len(a.layers), len(b.layers))))
    pairs = list(zip(draw(st.permutations([one.key for one in a.layers])), order, strict=False))[:count]
    matched = {key for pair in pairs for key in pair}
    entries = [Entry("renamed", (one,), (other,)) for one, other in pairs]
    entries += [Entry("removed", (one.key,), ()) for one in a.layers if one.key not in matched]
    entries += [Entry("added", (), (one.key,)) for one in b.layers if one.key not in matched]
    return Difference(a, b, tuple(entries))


def _assert_apart(drawing: Drawing) -> None:
    for network in (A, B):
        boxes = sorted((box.y, box.x) for key, box in drawing.boxes.items() if key[0] == network)
        for (y, x), (other_y, other_x) in pairwise(boxes):
            assert y != other_y or other_x - x > 176


def test_the_networks_do_not_reach_into_each_other() -> None:
    drawing = drawn(cut(residual(3), lambda one: one.type == "Convolution"))
    right = max(box.x for (network, _), box in drawing.boxes.items() if network == A)
    assert right + 176 < min(box.x for (network, _), box in drawing.boxes.items() if network == B)
