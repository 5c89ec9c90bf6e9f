"""A table of times tells what was measured, what lies between, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.choose.latency import FARTHEST, KINDS, LatencyTable, Shape, shapes_at, shapes_of
from surgery.errors import PlanError
from surgery.factor import METHODS
from surgery.model import Facts, Node
from surgery.ops import Chain, Conv2d, Linear, Scale
from surgery.survey import Site

CONV = Conv2d(np.zeros((32, 16, 3, 3), np.float32), np.zeros(32, np.float32), (2, 1), (1, 1), (1, 2))
SIZE = (30, 20)
WIDTHS = st.integers(1, 512)


def table(rows: dict[Shape, float]) -> LatencyTable:
    return LatencyTable("caffe", 1, "a phone", rows)


def conv(inputs: int, outputs: int, **others: object) -> Shape:
    return replace(Shape("convolution", 1, inputs, outputs, (3, 3), padding=(1, 1), input=(14, 14)), **others)


def depthwise(channels: int) -> Shape:
    return conv(channels, channels, groups=channels)


def test_a_layer_has_its_own_shape() -> None:
    assert shapes_of(CONV, 4, SIZE) == (
        Shape("convolution", 4, 16, 32, (3, 3), (2, 1), (1, 1), (1, 2), 1, SIZE, has_bias=True),
    )
    assert shapes_of(Linear(np.zeros((5, 7))), 2, (9, 9)) == (Shape("fully connected", 2, 7, 5),)


@pytest.mark.parametrize("name", ["svd-channel", "svd-spatial", "tucker2", "cp"])
def test_shapes_follow_one_another_and_have_the_cost_of_the_chain(name: str) -> None:
    op = replace(CONV, dilation=(1, 1))
    chain = METHODS[name].template(op, METHODS[name].rank_at(op, 4))
    found = shapes_of(chain, 3, SIZE)
    assert len(found) == len(chain.ops)
    for before, after in pairwise(found):
        assert (before.out_channels, before.output) == (after.in_channels, after.input)
    assert found[0].input == SIZE
    assert found[-1].output == op.output_size(SIZE)
    assert sum(shape.macs for shape in found) == 3 * chain.macs(SIZE)
    assert sum(shape.params for shape in found) == chain.weight_params


def test_a_scale_inside_a_chain_has_a_shape_of_its_own() -> None:
    one, other = (Conv2d(np.ones(shape)) for shape in ((4, 2, 1, 1), (3, 4, 1, 1)))
    found = shapes_of(Chain((one, Scale.of(np.ones(4)), other)), 1, (5, 6))
    assert [shape.kind for shape in found] == [KINDS[0], KINDS[2], KINDS[0]]
    assert found[1] == Shape("scale", 1, 4, 4, input=(5, 6))


def site(macs: int | None) -> Site:
    facts = Facts(((2, 32, 15, 16),), CONV.params, macs, SIZE, 0, None if macs else "input 'data' has no shape")
    return Site(Node("conv", "Convolution", ("x",), ("y",), None), CONV, facts, {}, {})


def test_the_batch_of_a_site_is_what_its_macs_are_for() -> None:
    (shape,) = shapes_at(site(2 * CONV.macs(SIZE)), CONV)
    assert (shape.batch, shape.input) == (2, SIZE)


def test_a_site_without_a_shape_is_named() -> None:
    with pytest.raises(PlanError, match=r"conv: .* input 'data' has no shape"):
        shapes_at(site(None), CONV)


def test_a_measured_shape_has_the_time_that_was_measured() -> None:
    rows = {conv(16, 16): 3.0, conv(16, 32): 1.0, conv(16, 64): 2.0}  # Neighbours may say what they like.
    assert [table(rows).milliseconds(shape) for shape in rows] == [3.0, 1.0, 2.0]


@given(WIDTHS, WIDTHS, WIDTHS, st.floats(0, 1), st.floats(1e-3, 10))
def test_time_that_is_a_line_over_macs_is_told_exactly(
    fixed: int, low: int, high: int, constant: float, per_mac: float
) -> None:
    low, high = sorted((low, high))
    for make in (lambda width: conv(fixed, width), lambda width: conv(width, fixed), depthwise):
        times = {make(width): constant + per_mac * make(width).macs for width in (low, high)}
        middle = make((low + high) // 2)
        found = table(times).milliseconds(middle)
        if make(high).macs <= FARTHEST * make(low).macs:
            assert found == pytest.approx(constant + per_mac * middle.macs, rel=1e-9)


@given(st.lists(st.tuples(WIDTHS, WIDTHS), min_size=1, max_size=12), WIDTHS, WIDTHS)
def test_a_guess_lies_between_what_no_wider_and_what_no_narrower_shapes_take(
    widths: list[tuple[int, int]], inputs: int, outputs: int
) -> None:
    rows = {conv(*pair): float(pair[0] * pair[1]) ** 0.5 for pair in widths}  # Any time that rises with both.
    found = table(rows).milliseconds(conv(inputs, outputs))
    narrower = [time for shape, time in rows.items() if shape.in_channels <= inputs and shape.out_channels <= outputs]
    wider = [time for shape, time in rows.items() if shape.in_channels >= inputs and shape.out_channels >= outputs]
    if not (narrower and wider):
        assert found is None
    elif found is not None:
        assert min(narrower) <= found <= max(wider)


def test_a_neighbour_that_differs_in_one_width_is_better_than_a_nearer_one() -> None:
    rows = {conv(16, 16): 1.0, conv(15, 31): 50.0, conv(16, 64): 4.0}
    assert table(rows).milliseconds(conv(16, 32)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "other",
    [
        {"batch": 2},
        {"kernel": (1, 3)},
        {"stride": (2, 2)},
        {"padding": (0, 0)},
        {"dilation": (2, 2)},
        {"groups": 2},
        {"input": (15, 14)},
        {"has_bias": True},
        {"kind": "scale"},
    ],
)
def test_nothing_is_guessed_from_shapes_that_differ_in_more_than_channels(other: dict[str, object]) -> None:
    rows = {conv(16, 16): 1.0, conv(16, 64): 4.0}
    assert table(rows).milliseconds(conv(16, 32)) is not None
    assert table(rows).milliseconds(conv(16, 32, **other)) is None


def test_nothing_is_guessed_beyond_what_was_measured_or_across_a_gap() -> None:
    rows = {conv(16, 8): 1.0, conv(16, 8 * FARTHEST + 8): 10.0}
    found = table(rows)
    assert found.milliseconds(conv(16, 4)) is None
    assert found.milliseconds(conv(16, 8 * FARTHEST + 16)) is None
    assert found.milliseconds(conv(16, 16)) is None
    assert table(rows | {conv(16, 24): 2.0}).milliseconds(conv(16, 16)) == pytest.approx(1.5)


def test_a_layer_takes_what_its_stages_take_together() -> None:
    method = METHODS["tucker2"]
    chain = method.template(CONV, (4, 8))
    shapes = shapes_of(chain, 1, SIZE)
    found = table({shape: float(i + 1) for i, shape in enumerate(shapes)})
    assert found.of(chain, 1, SIZE) == 6.0
    assert found.total(shapes) == 6.0
    assert found.of(CONV, 1, SIZE) is None
    assert table({shapes[0]: 1.0}).of(chain, 1, SIZE) is None


def test_groups_are_a_width_only_where_each_channel_is_by_itself() -> None:
    rows = {depthwise(16): 1.0, depthwise(48): 3.0, conv(16, 16, groups=2): 1.0, conv(16, 48, groups=4): 3.0}
    assert table(rows).milliseconds(depthwise(32)) == pytest.approx(2.0)
    assert table(rows).milliseconds(conv(16, 32, groups=2)) is None
