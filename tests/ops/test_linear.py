"""Linear against the matrix product."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.ops import Linear
from tests.cases import normal, unaligned


@pytest.mark.parametrize("shape", [(20,), (3, 20), (2, 3, 20)])
def test_apply_is_the_matrix_product_for_any_leading_axes(shape: tuple[int, ...]) -> None:
    weight, bias, x = normal(0, 7, 20), normal(1, 7), normal(2, *shape, dtype=np.float64)
    wanted = x @ weight.astype(np.float64).T + bias
    # 20 terms in float64, summed in another order.
    np.testing.assert_allclose(Linear(weight, bias).apply(x), wanted, rtol=0, atol=1e-14)
    np.testing.assert_allclose(Linear(unaligned(weight), bias).apply(x), wanted, rtol=0, atol=1e-14)


def test_costs_are_the_count_of_weights() -> None:
    op = Linear(normal(0, 7, 20), normal(1, 7))
    assert (op.weight_params, op.params, op.macs((1, 1)), op.macs((6, 6))) == (140, 147, 140, 140)


def test_what_is_no_layer_is_refused_with_found_and_expected() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(out, in\)"):
        Linear(np.zeros(3))
    with pytest.raises(ValueError, match=r"bias is float64 of shape \(3,\), expected floats of shape \(2,\)"):
        Linear(np.zeros((2, 3)), np.zeros(3))
    with pytest.raises(ValueError, match=r"input has shape \(2, 4\), expected \(..., 3\)"):
        Linear(np.zeros((2, 3))).apply(np.zeros((2, 4)))
