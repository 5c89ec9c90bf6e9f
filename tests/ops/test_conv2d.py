"""Conv2d against loops written from the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.ops import Conv2d, FloatArray
from tests.cases import OPS, inputs, normal, unaligned

CONVOLUTIONS = {name: op for name, op in OPS.items() if isinstance(op, Conv2d) and op.weight.size < 2000}


def by_loops(op: Conv2d, x: FloatArray) -> tuple[FloatArray, int]:
    """The definition, one multiplication at a time; also how many there were for one image, padding included."""
    outputs, inputs_per_group, kh, kw = op.weight.shape
    (sh, sw), (ph, pw), (dh, dw) = op.stride, op.padding, op.dilation
    n, _, h, w = x.shape
    height = (h + 2 * ph - dh * (kh - 1) - 1) // sh + 1
    width = (w + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    y, count = np.zeros((n, outputs, height, width)), 0
    for o, i, j, c, u, v in np.ndindex(outputs, height, width, inputs_per_group, kh, kw):
        channel = o // (outputs // op.groups) * inputs_per_group + c
        row, column = i * sh - ph + u * dh, j * sw - pw + v * dw
        count += 1
        if 0 <= row < h and 0 <= column < w:
            y[:, o, i, j] += float(op.weight[o, c, u, v]) * x[:, channel, row, column]
    if op.bias is not None:
        y += op.bias.astype(float)[:, None, None]
    return y, count


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_apply_and_macs_are_those_of_the_definition(name: str) -> None:
    op = CONVOLUTIONS[name]
    x = inputs(op, batch=2)[:, :, :8, :9]
    y, count = by_loops(op, x)
    assert op.macs((8, 9)) == count
    assert op.output_size((8, 9)) == y.shape[2:]
    np.testing.assert_allclose(op.apply(x), y, rtol=0, atol=1e-13)  # Sums of at most 200 terms near 1, in float64.


@given(
    kernel=st.integers(1, 3), stride=st.integers(1, 3), padding=st.integers(0, 2), dilation=st.integers(1, 3),
    groups=st.integers(1, 3), per_group=st.integers(1, 2), seed=st.integers(0, 99),
)  # fmt: skip
def test_apply_is_the_definition_for_any_geometry(
    kernel: int, stride: int, padding: int, dilation: int, groups: int, per_group: int, seed: int
) -> None:
    op = Conv2d(
        normal(seed, 2 * groups, per_group, kernel, 2),
        None,
        (stride, 1 + seed % 2),
        (padding, seed % 3),
        (dilation, 1 + seed % 3),
        groups,
    )
    x = np.random.default_rng(seed).standard_normal((1, groups * per_group, 7, 6))
    np.testing.assert_allclose(op.apply(x), by_loops(op, x)[0], rtol=0, atol=1e-13)


def test_params_count_weights_and_bias() -> None:
    op = Conv2d(normal(0, 6, 2, 3, 5), normal(1, 6), groups=2)
    assert (op.weight_params, op.params, op.in_channels, op.out_channels) == (180, 186, 4, 6)


def test_the_weight_is_not_copied_and_cannot_be_written_through() -> None:
    weight = normal(0, 4, 3, 3, 3)
    op = Conv2d(weight)
    assert np.shares_memory(op.weight, weight)
    assert not op.weight.flags.writeable
    assert weight.flags.writeable


def test_an_unaligned_weight_gives_the_same_result() -> None:
    weight = normal(0, 4, 3, 3, 3)
    view = unaligned(weight)
    assert not view.flags.aligned
    x = inputs(Conv2d(weight))
    np.testing.assert_array_equal(Conv2d(view).apply(x), Conv2d(weight).apply(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": np.zeros((2, 3, 3))}, r"shape \(2, 3, 3\), expected \(out, in / groups, kh, kw\)"),
        ({"weight": np.zeros((2, 3, 0, 3))}, "no empty axis"),
        ({"weight": np.zeros((2, 3, 3, 3), int)}, "holds int64, expected floating point"),
        ({"weight": np.zeros((2, 3, 3, 3)), "bias": np.zeros(3)}, r"shape \(3,\), expected floats of shape \(2,\)"),
        ({"weight": np.zeros((2, 3, 3, 3)), "stride": (0, 1)}, r"stride is \(0, 1\), expected .* at least 1"),
        ({"weight": np.zeros((2, 3, 3, 3)), "padding": (0, -1)}, r"padding is \(0, -1\), expected .* at least 0"),
        ({"weight": np.zeros((2, 3, 3, 3)), "groups": 3}, "2 outputs in 3 groups"),
    ],
)
def test_what_is_no_convolution_is_refused_with_found_and_expected(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Conv2d(**arguments)  # type: ignore[arg-type]


def test_inputs_that_do_not_fit_are_refused() -> None:
    op = Conv2d(normal(0, 4, 3, 5, 5))
    with pytest.raises(ValueError, match=r"expected \(n, 3, h, w\)"):
        op.apply(np.zeros((1, 4, 8, 8)))
    with pytest.raises(ValueError, match="does not fit into a map"):
        op.macs((4, 8))
