"""Stacked operations give the outputs of each one behind the other, and a chain for them parts again."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from surgery.ops import Chain, Conv2d, Linear, Op, Scale
from surgery.ops.stack import stack, unstack
from tests.cases import inputs, normal

ALIKE: dict[str, tuple[Op, ...]] = {
    "dense": (Linear(normal(1, 5, 7), normal(2, 5)), Linear(normal(3, 3, 7)), Linear(normal(4, 1, 7), normal(5, 1))),
    "dense, no bias": (Linear(normal(1, 5, 7)), Linear(normal(3, 3, 7))),
    "convolutions": tuple(
        Conv2d(normal(i, n, 6, 3, 2), normal(9, n), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        for i, n in enumerate((4, 8, 2))
    ),
    "alone": (Linear(normal(1, 5, 7)),),
}


@pytest.mark.parametrize("name", ALIKE)
def test_the_stack_gives_every_output_in_order(name: str) -> None:
    ops = ALIKE[name]
    whole, x = stack(ops), inputs(ops[0])
    # Equal products, but BLAS may sum those of more rows in another order.
    assert_allclose(whole.apply(x), np.concatenate([op.apply(x) for op in ops], axis=1), rtol=1e-12, atol=1e-13)
    assert (whole.bias is None) == all(op.bias is None for op in ops)


def chain(op: Op) -> Chain:
    """Return a chain of two stages, the second random, that has the operation's outputs and bias."""
    thin = normal(20, 3, *op.weight.shape[1:])
    last = normal(21, op.out_channels, 3)
    if isinstance(op, Linear):
        return Chain((Linear(thin), Linear(last, op.bias)))
    first = Conv2d(thin, None, op.stride, op.padding, op.dilation)
    return Chain((first, Conv2d(last[:, :, None, None], op.bias)))


@pytest.mark.parametrize("name", ALIKE)
def test_stem_and_heads_give_what_the_chain_gives(name: str) -> None:
    ops = ALIKE[name]
    whole, x = chain(stack(ops)), inputs(ops[0])
    stem, heads = unstack(whole, ops)
    between = stem.apply(x)
    assert_allclose(np.concatenate([head.apply(between) for head in heads], axis=1), whole.apply(x), rtol=1e-12,
                    atol=1e-13)  # fmt: skip
    assert [head.last.bias is None for head in heads] == [op.bias is None for op in ops]


def test_a_head_gets_the_bias_that_the_chain_gives_it() -> None:
    ops = ALIKE["dense, no bias"]
    whole = chain(stack(ops))
    bias = np.array([1, 2, 3, 4, 5, 0, 0, 0], np.float32)
    _, heads = unstack(Chain((whole.ops[0], Linear(whole.last.weight, bias))), ops)
    assert heads[0].last.bias is not None
    assert_array_equal(heads[0].last.bias, bias[:5])
    assert heads[1].last.bias is None


conv = Conv2d(normal(1, 4, 6, 3, 3))
UNLIKE: dict[str, tuple[Op, Op]] = {
    "kind Linear beside Conv2d": (conv, Linear(normal(2, 4, 6))),
    "inputs 5 beside 6": (conv, Conv2d(normal(2, 4, 5, 3, 3))),
    "kernel .1, 3. beside .3, 3.": (conv, Conv2d(normal(2, 4, 6, 1, 3))),
    "stride .2, 1. beside .1, 1.": (conv, Conv2d(normal(2, 4, 6, 3, 3), stride=(2, 1))),
    "padding .1, 1. beside .0, 0.": (conv, Conv2d(normal(2, 4, 6, 3, 3), padding=(1, 1))),
    "dilation .2, 2. beside .1, 1.": (conv, Conv2d(normal(2, 4, 6, 3, 3), dilation=(2, 2))),
    "a convolution of 2 groups": (conv, Conv2d(normal(2, 4, 3, 3, 3), groups=2)),
}


@pytest.mark.parametrize("reason", UNLIKE)
def test_operations_that_differ_are_refused_with_what_differs(reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        stack(UNLIKE[reason])


def test_a_chain_that_does_not_part_is_refused_with_the_reason() -> None:
    one, other = ALIKE["dense, no bias"]
    whole = chain(stack((one, other)))
    with pytest.raises(ValueError, match="1 stages for 8 outputs, expected at least 2 for 8"):
        unstack(Chain((stack((one, other)),)), (one, other))
    with pytest.raises(ValueError, match="2 stages for 8 outputs, expected at least 2 for 5"):
        unstack(whole, (one,))
    scaled = Chain((whole.ops[0], Scale.of(np.ones(3)), whole.ops[1]))
    with pytest.raises(ValueError, match="a scale is first or last"):
        unstack(scaled, (one, other))
    grouped = Chain((Conv2d(normal(1, 4, 6, 1, 1)), Conv2d(normal(2, 8, 2, 3, 3), groups=2)))
    with pytest.raises(ValueError, match="works in 2 groups"):
        unstack(grouped, (Conv2d(normal(3, 4, 6, 3, 3)), Conv2d(normal(4, 4, 6, 3, 3))))
