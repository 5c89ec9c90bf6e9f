"""Split a convolution into 1x1, a thin core and 1x1: Tucker decomposition of its two channel modes.

Kim et al. (2016), "Compression of deep convolutional neural networks for fast and low power mobile applications".
Factors start from a truncated higher-order SVD and are improved by orthogonal iteration (De Lathauwer et al., 2000,
"On the best rank-1 and rank-(R1, ..., RN) approximation of higher-order tensors"). In the metric of the data all three
are then refitted in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import numpy as np

from surgery.factor.base import (
    Fit,
    Rank,
    as_conv2d,
    check_rank,
    check_size,
    contiguous,
    joint_spectrum,
    placeholder,
    rank_holding,
)
from surgery.factor.krylov import energy, suits_float32
from surgery.factor.metric import Metric
from surgery.factor.refit import refit, relative_error
from surgery.factor.solver import (
    EXCESS,
    finite,
    float32_loss,
    gram_of,
    leading_eigenvectors,
    singular_values,
    stored_dtype,
)
from surgery.ops import Chain, Conv2d, Float64Array, FloatArray, Op
from surgery.ops.array import blocks

# A sweep that moves less than this share of ||W||^2 from error to core is the last.
SWEEP_GAIN = 1e-6
MAX_SWEEPS = 100
WIDER = 1.5  # Directions of each mode that sweeps choose among, as a multiple of the rank.
# Numbers in a weight from which on, unless it is float64 itself, subspaces are sought in float32, and a sweep that
# takes less than half EXCESS off the squared error is the last. The relative error of VGG-16's conv4_2 at (128, 128)
# ends 2e-4 of itself above the one of a search to the end, in a tenth of the time.
LARGE_SIZE = 2**19


@dataclass(frozen=True)
class Tucker2:
    """W (out, in, kh, kw) ≈ core (r_out, r_in, kh, kw) times U_out (out, r_out) and U_in (in, r_in).

    The layers are 1x1 to r_in channels and the core to r_out channels, both without bias, then 1x1 with the
    layer's bias. A rank is (r_out, r_in). The core keeps stride, padding and dilation of the layer.

    Law, besides those of `Method`: the squared error is at least the larger, and at most the sum, of the two
    modes' tail energies (De Lathauwer et al., 2000, "A multilinear singular value decomposition", property 10).
    It is a local optimum: between neighbouring ranks it may, rarely, fail to fall.
    """

    name: ClassVar[str] = "tucker2"
    summary: ClassVar[str] = "convolution: 1x1 to r_in channels, a core to r_out channels, 1x1, by Tucker decomposition"
    is_exact: ClassVar[bool] = True
    uses_metric: ClassVar[bool] = True
    is_settled: ClassVar[bool] = True  # See `refit.is_settled`.

    def refusal(self, op: Op) -> str | None:
        """Refuse 1x1 kernels and single input channels: there svd-channel has the same error for less."""
        if not isinstance(op, Conv2d):
            return "not a convolution"
        if op.kernel == (1, 1):
            return "kernel is 1x1: three 1x1 layers are never better than the two of svd-channel"
        if op.in_channels == op.groups:
            return "one input channel per group: nothing to compress on the input side"
        return None

    def max_rank(self, op: Op) -> Rank:
        """Return (r_out, r_in), each at most the rank that its unfolding can have."""
        outputs, inputs, taps = self._shape(op)
        return min(outputs, inputs * taps), min(inputs, outputs * taps)

    def rank_at(self, op: Op, size: int) -> Rank:
        """Return the rank whose larger number is `size`; r_out : r_in stays that of the full ranks, each at least 1."""
        check_size(self, op, size)
        largest = self.max_rank(op)
        longer = max(largest)
        r_out, r_in = (max(1, (2 * size * limit + longer) // (2 * longer)) for limit in largest)
        return r_out, r_in

    def template(self, op: Op, rank: Rank) -> Chain:
        """See `Method.template`."""
        outputs, inputs, _ = self._checked(op, rank)
        conv = as_conv2d(self, op)
        (r_out, r_in), groups, weight = rank, conv.groups, conv.weight
        return _chain(
            conv,
            placeholder((groups * r_in, inputs, 1, 1), weight),
            placeholder((groups * r_out, r_in, *conv.kernel), weight),
            placeholder((groups * outputs, r_out, 1, 1), weight),
        )

    def spectrum(self, op: Op) -> tuple[Float64Array, ...]:
        """Return the singular values of the output mode and of the input mode; see `Method.spectrum`."""
        groups = _groups(as_conv2d(self, op))
        over_outputs = [singular_values(w.reshape(len(w), -1)) for w in groups]
        over_inputs = [singular_values(w.swapaxes(0, 1).reshape(w.shape[1], -1)) for w in groups]
        return joint_spectrum(over_outputs), joint_spectrum(over_inputs)

    def rank_for_energy(self, op: Op, energy: float, spectrum: tuple[Float64Array, ...] | None = None) -> Rank:
        """See `Method.rank_for_energy`: each mode keeps the share, so together they may lose twice 1 - `energy`."""
        return tuple(rank_holding(values, energy) for values in spectrum or self.spectrum(op))

    def factor(self, op: Op, rank: Rank, *, metric: Metric | None = None, seed: int = 0) -> Fit:
        """See `Method.factor`. Deterministic: `seed` has no effect."""
        self._checked(op, rank)
        conv = as_conv2d(self, op)
        chain, error = self._blind(conv, rank)
        if metric is None:
            return Fit(chain, tuple(rank), error, "hooi")
        chain = refit(chain, (0, 1, 2), op, metric)
        return Fit(chain, tuple(rank), relative_error(chain, op), "hooi, refitted")

    def _blind(self, conv: Conv2d, rank: Rank) -> tuple[Chain, float]:
        """Return the chain that orthogonal iteration finds, and its relative error."""
        dtype = stored_dtype(conv.weight)
        parts, squared_residual, squared_norm = [], 0.0, 0.0
        for weight in _groups(conv):
            u_out, core, u_in = (part.astype(dtype, copy=False) for part in _balanced(*_iterate(weight, *rank)))
            squared_residual += _squared_residual(weight, u_out, core, u_in)
            squared_norm += sum(float(np.einsum("oki,oki->", b, b)) for _, b in _row_blocks(weight))
            first = u_in.T[:, :, None, None]
            middle = core.transpose(0, 2, 1).reshape(*rank, *conv.kernel)
            parts.append((first, middle, u_out[:, :, None, None]))
        chain = contiguous(_chain(conv, *(np.concatenate(weights) for weights in zip(*parts, strict=True))))
        return chain, float(np.sqrt(squared_residual / squared_norm)) if squared_norm else 0.0

    def _shape(self, op: Op) -> tuple[int, int, int]:
        """Return outputs and inputs per group, and taps of the kernel."""
        conv = as_conv2d(self, op)
        kh, kw = conv.kernel
        return conv.out_channels // conv.groups, conv.in_channels // conv.groups, kh * kw

    def _checked(self, op: Op, rank: Rank) -> tuple[int, int, int]:
        o, i, k = self._shape(op)
        check_rank(self, op, rank, f"(min({o}, {i * k}), min({i}, {o * k}))")
        return o, i, k


def _chain(conv: Conv2d, first: FloatArray, core: FloatArray, last: FloatArray) -> Chain:
    return Chain(
        (
            Conv2d(first, groups=conv.groups),
            Conv2d(core, None, conv.stride, conv.padding, conv.dilation, conv.groups),
            Conv2d(last, conv.bias, groups=conv.groups),
        )
    )


def _groups(conv: Conv2d) -> list[FloatArray]:
    """Return the weight of each group as (outputs, inputs, taps), views where that is possible."""
    outputs, inputs = conv.out_channels // conv.groups, conv.in_channels // conv.groups
    starts = range(0, conv.out_channels, outputs)
    return [conv.weight[start : start + outputs].reshape(outputs, inputs, -1) for start in starts]


def _row_blocks(weight: FloatArray) -> Iterator[tuple[slice, Float64Array]]:
    """Yield float64 blocks (b, taps, inputs) of (outputs, inputs, taps): inputs last, for one large product."""
    for rows in blocks(len(weight), 32 * weight[0].size):  # The block, what is taken from it, and the next.
        yield rows, weight[rows].swapaxes(1, 2).astype(np.float64, order="C")


def _iterate(weight: FloatArray, r_out: int, r_in: int) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return U_out (outputs, r_out), the core (r_out, taps, r_in) and U_in (inputs, r_in), both U orthonormal.

    Only the search for the two subspaces of a large weight is made in float32, unless that is too coarse for the
    error at hand; they are made orthonormal, and the core is taken from the weight, in float64.
    """
    total = float(finite(np.asarray(energy(weight.reshape(len(weight), -1)))))
    is_large = weight.size >= LARGE_SIZE and weight.dtype != np.float64 and suits_float32(total)
    for dtype in (np.float32, np.float64) if is_large else (np.float64,):
        u_out, u_in, is_found = _subspaces(weight.swapaxes(1, 2).astype(dtype, order="C"), r_out, r_in, total)
        if is_found:
            break
    left, right = (np.linalg.qr(part.astype(np.float64))[0] for part in (u_out, u_in))
    thin = _contract_inputs(weight, right).reshape(len(weight), -1)
    return left, (left.T @ thin).reshape(r_out, -1, r_in), right


def _subspaces(weight: FloatArray, r_out: int, r_in: int, total: float) -> tuple[FloatArray, FloatArray, bool]:
    """Return U_out and U_in of a `weight` (outputs, taps, inputs), and whether its precision was enough for them.

    Each round cuts the weight down to the `WIDER` times r leading directions of either mode, as seen through the other
    side's factor (through none at first), and sweeps what is left, where a sweep costs little. The r leading ones among
    them alone hold what the last round did, so that the energy in the core never falls; already the first are within
    the bound of the truncated HOSVD (Vannieuwenhoven et al., 2012). `total` is ||W||².
    """
    outputs, taps, inputs = weight.shape
    flat, tall = weight.reshape(outputs, -1), weight.reshape(-1, inputs)
    wide_out, wide_in = min(outputs, ceil(WIDER * r_out)), min(inputs, ceil(WIDER * r_in))
    kept, precision = 0.0, weight.dtype.type
    moments = gram_of([tall.T], precision)
    rounds_left = MAX_SWEEPS
    while True:
        squares, q_in = leading_eigenvectors(moments, wide_in)
        thin = (tall @ q_in).reshape(outputs, taps, wide_in)
        _, q_out = leading_eigenvectors(gram_of(thin[:, :, :r_in].swapaxes(0, 1), precision), wide_out)
        for tap in range(taps):  # In its own place: as large as the weight, where the rank is.
            thin[:wide_out, tap] = q_out.T @ thin[:, tap]
        core = thin[:wide_out].astype(np.float64, copy=False)
        del thin
        before, (a, b, kept) = kept, _swept(core, r_out, r_in, _least_gain(total - kept, total, precision))
        del core
        u_out, u_in, tail = q_out @ a, q_in @ b, total - kept
        del a, b  # Views of all eigenvectors there are.
        if precision is np.float32 and float32_loss(squares[0], r_in) > 2 * EXCESS * tail:
            return u_out, u_in, False
        if not rounds_left or kept - before <= _least_gain(tail, total, precision):
            return u_out, u_in, True
        rounds_left -= 1
        moments = gram_of([(u_out.T.astype(weight.dtype) @ flat).reshape(-1, inputs).T], precision)
        del u_out, u_in  # The next ones have their place.


def _least_gain(tail: float, total: float, precision: type[np.floating]) -> float:
    return EXCESS / 2 * tail if precision is np.float32 else SWEEP_GAIN * total


def _swept(core: Float64Array, r_out: int, r_in: int, least: float) -> tuple[Float64Array, Float64Array, float]:
    """Return the U_out, U_in of a `core` (outputs, taps, inputs) and the energy they keep, from the leading channels.

    Each half-sweep is optimal for the other side's factor. A sweep that gains no more than `least` is the last.
    """
    outputs, _, inputs = core.shape
    u_out, u_in = np.eye(outputs, r_out), np.eye(inputs, r_in)
    kept = sum(float(np.sum(np.square(tap))) for tap in core[:r_out, :, :r_in].swapaxes(0, 1))
    for _ in range(MAX_SWEEPS):
        before = kept
        # Tap by tap: all of either product would be as large as the weight, where the rank is.
        _, u_in = leading_eigenvectors(gram_of(((u_out.T @ tap).T for tap in core.swapaxes(0, 1)), np.float64), r_in)
        squares, u_out = leading_eigenvectors(gram_of((tap @ u_in for tap in core.swapaxes(0, 1)), np.float64), r_out)
        kept = float(squares.sum())
        if kept - before <= least:
            break
    return u_out, u_in, kept


def _contract_inputs(weight: FloatArray, u_in: Float64Array) -> Float64Array:
    """Return (outputs, taps, r_in): the weight with its inputs projected on the columns of `u_in`."""
    outputs, inputs, taps = weight.shape
    result = np.empty((outputs, taps, u_in.shape[1]))
    for rows, block in _row_blocks(weight):
        result[rows] = (block.reshape(-1, inputs) @ u_in).reshape(-1, taps, u_in.shape[1])
    return result


def _balanced(
    u_out: Float64Array, core: Float64Array, u_in: Float64Array
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return the same product with each channel's norm shared equally by the three factors (as CP shares it).

    The core is used up.
    """
    over_out, over_in = (np.cbrt(np.sqrt(np.einsum(f"oki,oki->{axis}", core, core))) for axis in "oi")
    over_out[over_out == 0], over_in[over_in == 0] = 1.0, 1.0
    core /= over_out[:, None, None]
    core /= over_in
    return u_out * over_out, core, u_in * over_in


def _squared_residual(weight: FloatArray, u_out: FloatArray, core: FloatArray, u_in: FloatArray) -> float:
    """Return ||W - core x U_out x U_in||_F^2 for the factors as stored."""
    taps, r_in = core.shape[1:]
    flat_core, right, total = core.reshape(len(core), -1).astype(np.float64), u_in.T.astype(np.float64), 0.0
    for rows, block in _row_blocks(weight):
        thin = (u_out[rows].astype(np.float64) @ flat_core).reshape(-1, r_in)
        block -= (thin @ right).reshape(-1, taps, right.shape[1])
        total += float(np.einsum("oki,oki->", block, block))
    return total
