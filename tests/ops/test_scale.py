"""Scales per channel: composed, and taken in by the layer before."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.ops import Conv2d, Linear
from surgery.ops.scale import Scale

RNG = np.random.default_rng(0)
FLOAT32 = 1e-5  # sums of 27 products of standard normals, rounded once more on the way


def some_scale(channels: int) -> Scale:
    return Scale.of(RNG.standard_normal(channels), RNG.standard_normal(channels))


def test_a_scale_then_another_is_both_in_turn() -> None:
    x = RNG.standard_normal((2, 5, 3, 4))
    first, second = some_scale(5), some_scale(5)
    np.testing.assert_allclose(first.then(second).apply(x), second.apply(first.apply(x)), rtol=1e-12)
    np.testing.assert_allclose(Scale.of(2.0, 1.0).then(second).apply(x), second.apply(2 * x + 1), rtol=1e-12)


def test_normalising_takes_mean_and_spread_away() -> None:
    x = 3 + 2 * RNG.standard_normal((50, 4, 6, 6))
    mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    y = Scale.normalising(mean, variance, 0.0).apply(x)
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=(0, 2, 3)), 1, rtol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_that_took_a_scale_in_computes_both(bias: bool) -> None:
    weight = RNG.standard_normal((6, 3, 3, 3)).astype(np.float32)
    offset = RNG.standard_normal(6).astype(np.float32) if bias else None
    x = RNG.standard_normal((2, 3, 5, 5))
    scale = some_scale(6)
    made, shifted = scale.absorbed(weight, offset, 6)
    assert made.dtype == np.float32
    wanted = scale.apply(Conv2d(weight, offset).apply(x))
    np.testing.assert_allclose(Conv2d(made, shifted).apply(x), wanted, rtol=FLOAT32, atol=FLOAT32)


def test_one_number_scales_every_row() -> None:
    weight = RNG.standard_normal((4, 7)).astype(np.float32)
    made, shifted = Scale.of(3.0, 0.5).absorbed(weight, None, 4)
    x = RNG.standard_normal((2, 7))
    wanted = 3 * Linear(weight).apply(x) + 0.5
    np.testing.assert_allclose(Linear(made, shifted).apply(x), wanted, rtol=FLOAT32, atol=FLOAT32)


def test_there_is_a_bias_only_where_something_is_added() -> None:
    weight = np.ones((2, 3), np.float32)
    assert Scale.of([2.0, 3.0]).absorbed(weight, None, 2)[1] is None
    assert Scale.of([2.0, 3.0]).absorbed(weight, np.ones(2, np.float32), 2)[1] is not None
    assert Scale.of(1.0, [0.0, 1.0]).absorbed(weight, None, 2)[1] is not None


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="no root"):
        Scale.normalising(np.zeros(2), np.array([1.0, -1.0]), 1e-5)
    with pytest.raises(ValueError, match="not finite"):
        Scale.of([np.nan, 1.0])
    with pytest.raises(ValueError, match=r"expected \(channels,\) or \(1,\)"):
        Scale.of([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="3 channels behind a layer of 2"):
        Scale.of([1.0, 2.0, 3.0]).absorbed(np.ones((2, 1), np.float32), None, 2)
    with pytest.raises(ValueError, match="float32's range"):
        Scale.of(1e30).absorbed(np.full((1, 1), 1e30, np.float32), None, 1)
