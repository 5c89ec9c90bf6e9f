"""Split a convolution into 1x1, a thin core and 1x1: Tucker decomposition of its two channel modes.

Kim et al. (2016), "Compression of deep convolutional neural networks for fast and low power mobile applications".
Factors start from a truncated higher-order SVD and are improved by orthogonal iteration (De Lathauwer et al., 2000,
"On the best rank-1 and rank-(R1, ..., RN) approximation of higher-order tensors").
"""

from __future__ import annotations

from collections.abc import Iterator

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
from surgery.factor.solver import gram, leading_eigenvectors, singular_values, stored_dtype
from surgery.ops import Chain, Conv2d, Float64Array, FloatArray, Op
from surgery.ops.array import BLOCK_BYTES, blocks

# A sweep that moves less than this share of ||W||^2 from error to core ends the iteration. Run until nothing moves,
# the relative error of a 256 x 256 x 3 x 3 kernel would fall by 2e-6 if its channels are correlated and by 6e-5 if
# it is pure noise, in three to ten times the time.
SWEEP_GAIN = 1e-6
MAX_SWEEPS = 100


class Tucker2:
    """W (out, in, kh, kw) ≈ core (r_out, r_in, kh, kw) times U_out (out, r_out) and U_in (in, r_in).

    The layers are 1x1 to r_in channels and the core to r_out channels, both without bias, then 1x1 with the
    layer's bias. A rank is (r_out, r_in). The core keeps stride, padding and dilation of the layer.

    Law, besides those of `Method`: the squared error is at least the larger, and at most the sum, of the two
    modes' tail energies (De Lathauwer et al., 2000, "A multilinear singular value decomposition", property 10).
    It is a local optimum: between neighbouring ranks it may, rarely, fail to fall.
    """

    name = "tucker2"
    summary = "convolution: 1x1 to r_in channels, a core to r_out channels, 1x1, by Tucker decomposition"

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

    def factor(self, op: Op, rank: Rank, *, seed: int = 0) -> Fit:
        """See `Method.factor`. Deterministic: `seed` has no effect."""
        self._checked(op, rank)
        conv = as_conv2d(self, op)
        dtype = stored_dtype(conv.weight)
        parts, squared_residual, squared_norm = [], 0.0, 0.0
        for weight in _groups(conv):
            u_out, core, u_in = (part.astype(dtype) for part in _balanced(*_iterate(weight, *rank)))
            squared_residual += _squared_residual(weight, u_out, core, u_in)
            squared_norm += sum(float(np.einsum("oki,oki->", b, b)) for _, b in _row_blocks(weight))
            first = u_in.T[:, :, None, None]
            middle = core.transpose(0, 2, 1).reshape(*rank, *conv.kernel)
            parts.append((first, middle, u_out[:, :, None, None]))
        chain = _chain(conv, *(np.concatenate(weights) for weights in zip(*parts, strict=True)))
        error = float(np.sqrt(squared_residual / squared_norm)) if squared_norm else 0.0
        return Fit(contiguous(chain), tuple(rank), error, "hooi")

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
    for rows in blocks(len(weight), 8 * weight[0].size):
        yield rows, weight[rows].swapaxes(1, 2).astype(np.float64, order="C")


def _iterate(weight: FloatArray, r_out: int, r_in: int) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return U_out (outputs, r_out), the core (r_out, taps, r_in) and U_in (inputs, r_in), both U orthonormal.

    Each half-sweep is optimal for the other side's factor, so the energy in the core never falls; already the
    first pair is within the bound of the truncated HOSVD (Vannieuwenhoven et al., 2012).
    """
    if 8 * weight.size <= BLOCK_BYTES:
        weight = weight.astype(np.float64)  # Once, instead of in every sweep.
    inputs = weight.shape[1]
    moments = gram(weight.swapaxes(0, 1).reshape(inputs, -1))
    total = float(moments.trace())
    _, u_in = leading_eigenvectors(moments, r_in)
    u_out, thin, kept = _best_outputs(weight, u_in, r_out)
    for _ in range(MAX_SWEEPS):
        thin_out = _contract_outputs(weight, u_out).swapaxes(0, 1).reshape(inputs, -1)
        _, u_in = leading_eigenvectors(gram(thin_out), r_in)
        before = kept
        u_out, thin, kept = _best_outputs(weight, u_in, r_out)
        if kept - before <= SWEEP_GAIN * total:
            break
    return u_out, (u_out.T @ thin).reshape(r_out, -1, r_in), u_in


def _best_outputs(weight: FloatArray, u_in: Float64Array, r_out: int) -> tuple[Float64Array, Float64Array, float]:
    """Return the best U_out for a given U_in, the weight thinned by U_in, and the energy the core then has."""
    thin = _contract_inputs(weight, u_in).reshape(len(weight), -1)
    squares, u_out = leading_eigenvectors(gram(thin), r_out)
    return u_out, thin, float(squares.sum())


def _contract_inputs(weight: FloatArray, u_in: Float64Array) -> Float64Array:
    """Return (outputs, taps, r_in): the weight with its inputs projected on the columns of `u_in`."""
    outputs, inputs, taps = weight.shape
    result = np.empty((outputs, taps, u_in.shape[1]))
    for rows, block in _row_blocks(weight):
        result[rows] = (block.reshape(-1, inputs) @ u_in).reshape(-1, taps, u_in.shape[1])
    return result


def _contract_outputs(weight: FloatArray, u_out: Float64Array) -> Float64Array:
    """Return (r_out, inputs, taps): the weight with its outputs projected on the columns of `u_out`."""
    outputs, inputs, taps = weight.shape
    result = np.zeros((u_out.shape[1], inputs * taps))
    for rows in blocks(outputs, 8 * inputs * taps):
        result += u_out[rows].T @ weight[rows].reshape(-1, inputs * taps).astype(np.float64, copy=False)
    return result.reshape(-1, inputs, taps)


def _balanced(
    u_out: Float64Array, core: Float64Array, u_in: Float64Array
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return the same product with each channel's norm shared equally by the three factors (as CP shares it)."""
    over_out, over_in = (np.cbrt(np.sqrt(np.sum(np.square(core), axis=axes))) for axes in ((1, 2), (0, 1)))
    over_out[over_out == 0], over_in[over_in == 0] = 1.0, 1.0
    return u_out * over_out, core / over_out[:, None, None] / over_in, u_in * over_in


def _squared_residual(weight: FloatArray, u_out: FloatArray, core: FloatArray, u_in: FloatArray) -> float:
    """Return ||W - core x U_out x U_in||_F^2 for the factors as stored."""
    taps, r_in = core.shape[1:]
    flat_core, right, total = core.reshape(len(core), -1).astype(np.float64), u_in.T.astype(np.float64), 0.0
    for rows, block in _row_blocks(weight):
        thin = (u_out[rows].astype(np.float64) @ flat_core).reshape(-1, r_in)
        block -= (thin @ right).reshape(-1, taps, right.shape[1])
        total += float(np.einsum("oki,oki->", block, block))
    return total
