"""What a chain costs in multiplications and additions where weights of -1, 0 and 1 need no multiplication."""

from __future__ import annotations

import numpy as np

from surgery.ops.array import FloatArray, Size
from surgery.ops.chain import Chain, Op, Stage
from surgery.ops.linear import Linear
from surgery.ops.scale import Scale


def input_scales(op: Op) -> FloatArray | None:
    """Return what the weights of each input are 0 or plus or minus (in,), 0 where all are 0: 1s for a ternary layer.

    None where the weights of some input have two sizes. Every group counts its own inputs.
    """
    shape = op.weight.shape
    sizes = np.abs(op.weight).reshape(op.in_channels // shape[1], -1, shape[1], op.weight[0, 0].size)
    largest: FloatArray = sizes.max(axis=(1, 3), keepdims=True)
    return largest.reshape(-1) if ((sizes == 0) | (sizes == largest)).all() else None


def multiplications(chain: Chain, size: Size) -> int:
    """Return the multiplications for one image whose input map is (h, w).

    None for a ternary layer; one for each number that a scale passes on; one for each number of an input whose weights
    are 0 and plus or minus one other number, a scale folded in; otherwise one for each weight and position.
    """
    total = 0
    for op in chain.ops:
        total += _multiplications(op, size)
        size = op.output_size(size)
    return total


def additions(chain: Chain, size: Size) -> int:
    """Return the additions and subtractions for one image whose input map is (h, w): one for each non-zero weight.

    They are counted as multiply-accumulates are: at every position, and the first into an output too.
    """
    total = 0
    for op in chain.ops:
        after = op.output_size(size)
        if not isinstance(op, Scale):
            total += after[0] * after[1] * int(np.count_nonzero(op.weight))
        size = after
    return total


def _multiplications(op: Stage, size: Size) -> int:
    height, width = size
    if isinstance(op, Scale):
        return height * width * op.channels
    scales = input_scales(op)
    if scales is None:
        return op.macs(size)
    positions = 1 if isinstance(op, Linear) else height * width
    return positions * int(np.count_nonzero((scales != 0) & (scales != 1)))
