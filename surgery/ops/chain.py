"""Operations run one after the other with nothing in between, and the single operation they amount to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from surgery.ops.array import Float64Array, FloatArray, Size, blocks, product
from surgery.ops.conv2d import Conv2d
from surgery.ops.linear import Linear
from surgery.ops.scale import Scale

SHARES = 8  # A product is turned in parts of a block by as much: they and what they are made of are one.

Op = Conv2d | Linear
Stage = Conv2d | Linear | Scale


@dataclass(frozen=True, eq=False, slots=True)
class Chain:
    """Operations of one kind in running order, each fed by the one before; scales may stand between two of them.

    Raises:
        ValueError: there is none, kinds are mixed, a scale is first or last or shifts, or neighbours disagree on the
            number of channels.
    """

    ops: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.ops:
            raise ValueError("chain: no operations, expected at least one")
        if Scale in (type(self.ops[0]), type(self.ops[-1])):
            raise ValueError("chain: a scale is first or last; fold it into the operation beside it")
        if any(isinstance(op, Scale) and op.shift.any() for op in self.ops):
            raise ValueError("chain: a scale inside it shifts, but only the last operation may have a bias")
        linear = [op for op in self.ops if not isinstance(op, Scale)]
        for one, other in pairwise(linear):
            if type(one) is not type(other):
                raise ValueError(f"chain: {type(other).__name__} after {type(one).__name__}, expected one kind")
        for before, after in pairwise(self.ops):
            if before.out_channels != after.in_channels:
                raise ValueError(
                    f"chain: {before.out_channels} outputs feed an operation with {after.in_channels} inputs"
                )

    @property
    def first(self) -> Op:
        """The operation that reads the chain's input."""
        op = self.ops[0]
        assert not isinstance(op, Scale)  # No chain begins with one.
        return op

    @property
    def last(self) -> Op:
        """The operation that makes the chain's output, and alone may have a bias."""
        op = self.ops[-1]
        assert not isinstance(op, Scale)
        return op

    @property
    def weight_params(self) -> int:
        """Count of the weights, biases excluded."""
        return sum(op.weight_params for op in self.ops)

    @property
    def params(self) -> int:
        """Count of all trained numbers."""
        return sum(op.params for op in self.ops)

    def output_size(self, size: Size) -> Size:
        """Return the output map of the last operation for an input map (h, w) of the first."""
        return reduce(lambda at, op: op.output_size(at), self.ops, size)

    def macs(self, size: Size) -> int:
        """Return the multiply-accumulates for one image whose input map is (h, w), sizes threaded through."""
        total = 0
        for op in self.ops:
            total += op.macs(size)
            size = op.output_size(size)
        return total

    def apply(self, x: FloatArray) -> Float64Array:
        """Run the operations in order, in float64."""
        first, *rest = self.ops
        return reduce(lambda y, op: op.apply(y), rest, first.apply(x))


def collapse(chain: Chain, dtype: npt.DTypeLike = np.float64) -> Op:
    """Multiply the weights of `chain` back into the one operation that computes the same.

    Products are summed in float64; `dtype` is what the result is stored in, so that a large layer can be had in
    float32 without ever being held in float64.

    Two convolutions make one where, on each axis, the first has one tap, stride 1 and no padding (then the axis
    is the second's), or the second has one tap and no padding (then the strides multiply): 1x1 then k x k,
    k x k then 1x1, k x 1 then 1 x k, grouped or not.

    Raises:
        ValueError: no single operation computes the same, with the reason.
    """
    if len(chain.ops) == 1:
        return _stored_as(chain.first, dtype)
    *inner, last = range(1, len(chain.ops))
    op = chain.first
    for index in inner:
        op = _compose(op, chain.ops[index], np.float64)
    return _compose(op, chain.ops[last], dtype)


def _stored_as(op: Op, dtype: npt.DTypeLike) -> Op:
    bias = None if op.bias is None else op.bias.astype(dtype)
    if isinstance(op, Linear):
        return Linear(op.weight.astype(dtype), bias)
    return Conv2d(op.weight.astype(dtype), bias, op.stride, op.padding, op.dilation, op.groups)


def _compose(first: Op, second: Stage, dtype: npt.DTypeLike) -> Op:
    if isinstance(second, Scale):
        weight, bias = second.absorbed(first.weight, first.bias, first.out_channels, dtype)
        return replace(first, weight=weight, bias=bias)
    if isinstance(first, Linear) and isinstance(second, Linear):
        return Linear(product(second.weight, first.weight, dtype), _bias_after(first, second, dtype))
    assert isinstance(first, Conv2d)  # `Chain` admits one kind only.
    assert isinstance(second, Conv2d)
    return _compose_convolutions(first, second, dtype)


def _compose_convolutions(first: Conv2d, second: Conv2d, dtype: npt.DTypeLike) -> Conv2d:
    if first.bias is not None and np.any(first.bias) and any(second.padding):
        # The second pads with zeros where the first, run on a larger map, would have given its bias.
        raise ValueError("collapse: a bias inside the chain is followed by padding; the border is no convolution")
    axes = [_compose_axis(first, second, axis) for axis in (0, 1)]
    (sh, ph, dh), (sw, pw, dw) = axes
    weight, bias = _compose_weights(first, second, dtype), _bias_after(first, second, dtype)
    return Conv2d(weight, bias, (sh, sw), (ph, pw), (dh, dw), min(first.groups, second.groups))


def _compose_axis(first: Conv2d, second: Conv2d, axis: int) -> tuple[int, int, int]:
    """Return the stride, padding and dilation of the composition on one axis."""
    if (first.kernel[axis], first.stride[axis], first.padding[axis]) == (1, 1, 0):
        return second.stride[axis], second.padding[axis], second.dilation[axis]
    if (second.kernel[axis], second.padding[axis]) == (1, 0):
        return first.stride[axis] * second.stride[axis], first.padding[axis], first.dilation[axis]
    raise ValueError(
        f"collapse: kernels {first.kernel} then {second.kernel} both act on axis {'hw'[axis]}; "
        "expected one of them to have a single tap there, without padding"
    )


def _compose_weights(first: Conv2d, second: Conv2d, dtype: npt.DTypeLike) -> FloatArray:
    """Return (out, in / groups, kh, kw) with groups the smaller of the two, which must divide the larger.

    The channels between the two are cut as finely as the finer grouping does. Each run of them sees one run of
    inputs and feeds one run of outputs, and no two runs touch the same weight of the result.
    """
    runs, groups = max(first.groups, second.groups), min(first.groups, second.groups)
    if runs % groups:
        raise ValueError(f"collapse: {first.groups} groups then {second.groups}; expected one to divide the other")
    (a, b), (c, d) = first.kernel, second.kernel
    inputs, outputs = first.weight.shape[1], second.out_channels // second.groups
    middle = first.out_channels // runs
    per_group = first.in_channels // groups
    weight: FloatArray = np.zeros((second.out_channels, per_group, a, c, b, d), dtype=dtype)
    for run in range(runs):
        group_before, group_after = run * first.groups // runs, run * second.groups // runs
        within = (run % (runs // second.groups)) * middle
        i = slice(group_before * inputs % per_group, group_before * inputs % per_group + inputs)
        before = first.weight[run * middle : (run + 1) * middle].reshape(middle, -1)
        for few in blocks(outputs, 8 * SHARES * c * d * before.shape[1]):
            o = slice(group_after * outputs + few.start, group_after * outputs + few.stop)
            after = second.weight[o, within : within + middle].transpose(0, 2, 3, 1).reshape(-1, middle)
            taps = product(after, before, dtype).reshape(-1, c, d, inputs, a, b)
            weight[o, i] = taps.transpose(0, 3, 4, 1, 5, 2)
    return weight.reshape(second.out_channels, per_group, a * c, b * d)


def _bias_after(first: Op, second: Op, dtype: npt.DTypeLike) -> FloatArray | None:
    """Return the bias of the composition: what the second makes of the first's bias, plus its own."""
    if first.bias is None:
        return None if second.bias is None else second.bias.astype(dtype)
    groups = second.groups if isinstance(second, Conv2d) else 1
    outputs, inputs = second.weight.shape[:2]
    on_constants = second.weight.astype(np.float64).reshape(outputs, inputs, -1).sum(axis=2)
    constants = first.bias.astype(np.float64).reshape(groups, inputs, 1)
    bias: FloatArray = (on_constants.reshape(groups, -1, inputs) @ constants).reshape(-1)
    bias = bias if second.bias is None else bias + second.bias
    return bias.astype(dtype)
