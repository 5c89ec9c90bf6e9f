"""Chains, and the one operation they collapse into."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.ops import Chain, Conv2d, Linear, collapse
from surgery.ops.array import BLOCK_BYTES, blocks, product
from tests.cases import MAP, inputs, normal, unaligned

CHAINS = {
    "1x1 then 3x3": Chain(
        (
            Conv2d(normal(1, 4, 6, 1, 1)),
            Conv2d(normal(2, 5, 4, 3, 3), normal(3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        )
    ),
    "3x3 then 1x1": Chain(
        (
            Conv2d(normal(4, 4, 6, 3, 3), None, stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
            Conv2d(normal(5, 5, 4, 1, 1), normal(6, 5)),
        )
    ),
    "3x3 stride 2 then 1x1 stride 3": Chain(
        (Conv2d(normal(7, 4, 6, 3, 3), stride=(2, 1)), Conv2d(normal(8, 5, 4, 1, 1), stride=(3, 2)))
    ),
    "3x1 then 1x5": Chain(
        (
            Conv2d(normal(9, 4, 6, 3, 1), None, (2, 1), (1, 0), (2, 1)),
            Conv2d(normal(10, 5, 4, 1, 5), normal(11, 5), (1, 3), (0, 2), (1, 2)),
        )
    ),
    "1x5 then 3x1": Chain(
        (Conv2d(normal(12, 4, 6, 1, 5), padding=(0, 2)), Conv2d(normal(13, 5, 4, 3, 1), padding=(1, 0)))
    ),
    "biases without padding": Chain(
        (Conv2d(normal(14, 4, 6, 1, 1), normal(15, 4)), Conv2d(normal(16, 6, 2, 3, 3), normal(17, 6), groups=2))
    ),
    "inner bias only": Chain((Conv2d(normal(18, 4, 6, 1, 1), normal(19, 4)), Conv2d(normal(20, 6, 4, 3, 3)))),
    "2 groups then 2": Chain(
        (Conv2d(normal(21, 4, 3, 1, 1), groups=2), Conv2d(normal(22, 6, 2, 3, 3), groups=2, padding=(1, 1)))
    ),
    "1 group then 4": Chain((Conv2d(normal(23, 8, 6, 1, 1)), Conv2d(normal(24, 8, 2, 3, 3), groups=4))),
    "4 groups then 1": Chain((Conv2d(normal(25, 8, 2, 3, 3), groups=4), Conv2d(normal(26, 6, 8, 1, 1)))),
    "4 groups then 2": Chain(
        (Conv2d(normal(27, 8, 2, 3, 3), groups=4), Conv2d(normal(28, 6, 4, 1, 1), normal(29, 6), groups=2))
    ),
    "2 groups then 4": Chain((Conv2d(normal(30, 8, 3, 1, 1), groups=2), Conv2d(normal(31, 8, 2, 3, 3), groups=4))),
    "1x1, depthwise, 1x1": Chain(
        (
            Conv2d(normal(32, 7, 6, 1, 1)),
            Conv2d(normal(33, 7, 1, 3, 3), groups=7, padding=(1, 1), stride=(2, 2)),
            Conv2d(normal(34, 5, 7, 1, 1), normal(35, 5)),
        )
    ),
    "1x1, 3x1, 1x3, 1x1": Chain(
        (
            Conv2d(normal(36, 7, 6, 1, 1)),
            Conv2d(normal(37, 7, 1, 3, 1), groups=7, padding=(1, 0), stride=(2, 1)),
            Conv2d(normal(38, 7, 1, 1, 3), groups=7, padding=(0, 1), stride=(1, 2)),
            Conv2d(normal(39, 5, 7, 1, 1), normal(40, 5)),
        )
    ),
    "alone": Chain((Conv2d(normal(41, 4, 2, 3, 3), normal(42, 4), (2, 1), (1, 0), (1, 2), 2),)),
    "linear": Chain((Linear(normal(43, 4, 9)), Linear(unaligned(normal(44, 6, 4)), normal(45, 6)))),
    "linear with biases": Chain((Linear(normal(46, 4, 9), normal(47, 4)), Linear(normal(48, 6, 4), normal(49, 6)))),
    "linear alone": Chain((Linear(normal(50, 4, 9), normal(51, 4)),)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_collapses_into_one_operation_that_computes_the_same(name: str) -> None:
    chain = CHAINS[name]
    op, x = collapse(chain), inputs(chain)
    assert op.weight.dtype == np.float64
    # At most 4 sums of about 50 terms below 1, in float64.
    np.testing.assert_allclose(op.apply(x), chain.apply(x), rtol=0, atol=1e-13)
    assert op.output_size(MAP) == chain.output_size(MAP)


def test_a_chain_collapses_in_the_precision_asked_for() -> None:
    chain = CHAINS["1x1, depthwise, 1x1"]
    single, double = collapse(chain, np.float32), collapse(chain)
    assert single.weight.dtype == np.float32
    np.testing.assert_array_equal(single.weight, double.weight.astype(np.float32))  # Rounded once, at the end.


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ((Conv2d(normal(1, 4, 6, 3, 3)), Conv2d(normal(2, 5, 4, 3, 3))), "both act on axis h"),
        ((Conv2d(normal(1, 4, 6, 1, 1), stride=(2, 2)), Conv2d(normal(2, 5, 4, 3, 3))), "both act on axis h"),
        ((Conv2d(normal(1, 4, 6, 1, 3)), Conv2d(normal(2, 5, 4, 1, 1), padding=(0, 1))), "both act on axis w"),
        (
            (Conv2d(normal(1, 4, 6, 1, 1), normal(3, 4)), Conv2d(normal(2, 5, 4, 3, 3), padding=(1, 1))),
            "followed by padding",
        ),
        ((Conv2d(normal(1, 6, 6, 1, 1), groups=2), Conv2d(normal(2, 6, 2, 3, 3), groups=3)), "one to divide"),
    ],
)
def test_what_is_no_single_operation_is_refused(ops: tuple[Conv2d, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collapse(Chain(ops))


def test_costs_add_up_with_sizes_threaded_through() -> None:
    chain = CHAINS["3x1 then 1x5"]
    vertical, horizontal = chain.ops
    assert chain.output_size((13, 11)) == (6, 3)
    assert chain.macs((13, 11)) == 6 * 11 * 4 * 6 * 3 + 6 * 3 * 5 * 4 * 5
    assert chain.params == vertical.params + horizontal.params == 4 * 6 * 3 + 5 * 4 * 5 + 5
    assert chain.weight_params == chain.params - 5


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ((), "no operations"),
        ((Linear(normal(1, 4, 9)), Conv2d(normal(2, 4, 4, 1, 1))), "Conv2d after Linear, expected one kind"),
        ((Linear(normal(1, 4, 9)), Linear(normal(2, 4, 5))), "4 outputs feed an operation with 5 inputs"),
    ],
)
def test_operations_that_do_not_fit_make_no_chain(ops: tuple[Linear, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Chain(ops)


def test_blocks_cover_a_range_once_and_in_order() -> None:
    for length, item in ((0, 8), (1, BLOCK_BYTES * 2), (10, BLOCK_BYTES // 3), (1000, 8)):
        assert [i for block in blocks(length, item) for i in range(length)[block]] == list(range(length))


def test_a_product_of_many_blocks_is_the_product() -> None:
    # 5e6 columns of 1 row: several blocks on both sides, integers, hence exact.
    left, right = np.ones((3, 1), np.float32), np.arange(5_000_000, dtype=np.float32)[np.newaxis]
    np.testing.assert_array_equal(product(left, right)[2], right[0])
    np.testing.assert_array_equal(product(right.T, left[:1])[:, 0], right[0])
