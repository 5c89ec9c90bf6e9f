"""Split a convolution into 1x1, depthwise and 1x1: canonical polyadic (CP) decomposition of its kernel.

Lebedev et al. (2015), "Speeding-up convolutional neural networks using fine-tuned CP-decomposition", with each
spatial axis cut; Astrid and Lee (2017), "CP-decomposition with tensor power method for convolutional neural networks
compression", with both merged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from surgery.errors import PlanError
from surgery.factor.base import (
    Fit,
    Rank,
    as_conv2d,
    check_rank,
    check_size,
    contiguous,
    joint_spectrum,
    option,
    placeholder,
    rank_holding,
)
from surgery.factor.cp_als import fitted_terms
from surgery.factor.cp_power import power_terms
from surgery.factor.cp_start import orthogonal_norms
from surgery.factor.cp_tensor import Axes, Components, slices_of, squared_residual
from surgery.factor.metric import Metric
from surgery.factor.solver import gram, stored_dtype
from surgery.ops import Chain, Conv2d, Float64Array, FloatArray, Op

# Products with nearly singular normal matrices are much larger, and must not overflow. No float32 comes near.
MOST_SQUARED_NORM = 1e250


@dataclass(frozen=True)
class Cp:
    """W (out, in, kh, kw) ≈ sum over r of U (out, r) times S (r, kh, kw) times V (in, r).

    The layers are 1x1 to r channels and kh x kw on each of them alone, both without bias, then 1x1 with the layer's
    bias. The kh x kw keeps stride, padding and dilation of the layer.

    Law, besides those of `Method`: sum lambda^2, over the norms of the terms, is at most ten times ||W||^2 by "als",
    and ||W||^2 less the squared error by "tpm".

    Attributes:
        algorithm: "als" fits all terms together and is exact at the largest rank; "tpm" finds one after the other,
            as published, and is not.
    """

    algorithm: str = option("als", "tpm")

    name: ClassVar[str] = "cp"
    summary: ClassVar[str] = "convolution: 1x1 to r channels, kh x kw depthwise, 1x1, by CP decomposition"
    uses_metric: ClassVar[bool] = False

    @property
    def is_exact(self) -> bool:
        """See `Method.is_exact`."""
        return self.algorithm == "als"

    def refusal(self, op: Op) -> str | None:
        """Refuse 1x1 kernels and single input channels: there svd-channel has the same error for less."""
        if not isinstance(op, Conv2d):
            return "not a convolution"
        if op.kernel == (1, 1):
            return "kernel is 1x1: three layers are never better than the two of svd-channel"
        if op.in_channels == op.groups:
            return "one input channel per group: nothing to compress on the input side"
        return None

    def max_rank(self, op: Op) -> Rank:
        """Return (kh * kw * min(out, in),): so many terms write down any kernel, one matrix per tap."""
        outputs, inputs, taps = self._shape(op)
        return (taps * min(outputs, inputs),)

    def rank_at(self, op: Op, size: int) -> Rank:
        """See `Method.rank_at`: a single number is its own path."""
        check_size(self, op, size)
        return (size,)

    def template(self, op: Op, rank: Rank) -> Chain:
        """See `Method.template`."""
        outputs, inputs, _ = self._checked(op, rank)
        conv = as_conv2d(self, op)
        width = conv.groups * rank[0]
        first, last = (width, inputs), (conv.groups * outputs, rank[0])
        taps = [(width, length) for length in self._axes(conv)]
        return self._chain(conv, *(placeholder(shape, conv.weight) for shape in (first, last, *taps)))

    def spectrum(self, op: Op) -> tuple[Float64Array, ...]:
        """Return the norms of the orthogonal terms that "als" starts from: see `orthogonal_norms`.

        Unlike singular values their tail is what is cut off at most: sweeps only lower it.
        """
        conv = as_conv2d(self, op)
        return (joint_spectrum([orthogonal_norms(slices, self._axes(conv)) for slices in _groups(conv)]),)

    def rank_for_energy(self, op: Op, energy: float, spectrum: tuple[Float64Array, ...] | None = None) -> Rank:
        """See `Method.rank_for_energy`: "als" at this rank keeps more than the share, "tpm" about as much."""
        return tuple(rank_holding(values, energy) for values in spectrum or self.spectrum(op))

    def factor(self, op: Op, rank: Rank, *, metric: Metric | None = None, seed: int = 0) -> Fit:
        """See `Method.factor`. "tpm" starts from random numbers, and so does one of two fits of few terms by "als"."""
        self._checked(op, rank)
        conv = as_conv2d(self, op)
        dtype, axes = stored_dtype(conv.weight), self._axes(conv)
        parts, residual, norm = [], 0.0, 0.0
        for slices in _groups(conv):
            squared_norm = float(gram(slices.reshape(len(slices), -1)).trace())
            if squared_norm > MOST_SQUARED_NORM:
                raise PlanError("weights are too large: their squares overflow; scale the layer down")
            terms = self._terms(slices, axes, rank[0], squared_norm, seed)
            outputs, inputs, *taps = (factor.astype(dtype) for factor in terms.balanced())
            residual += squared_residual(slices, outputs, inputs, taps)
            norm += squared_norm
            parts.append((inputs.T, outputs, *(tap.T for tap in taps)))
        chain = self._chain(conv, *(np.concatenate(weights) for weights in zip(*parts, strict=True)))
        error = float(np.sqrt(residual / norm)) if norm else 0.0
        return Fit(contiguous(chain), tuple(rank), error, self.algorithm)

    def _terms(self, slices: FloatArray, axes: Axes, rank: int, squared_norm: float, seed: int) -> Components:
        if self.algorithm == "tpm":
            return power_terms(slices, axes, rank, np.random.default_rng(seed))
        return fitted_terms(slices, axes, rank, squared_norm, seed)

    def _axes(self, conv: Conv2d) -> Axes:
        """Return the lengths of the spatial axes that have a factor of their own."""
        return (prod(conv.kernel),)

    def _depthwise(self, conv: Conv2d, *taps: FloatArray) -> tuple[Conv2d, ...]:
        """Return the layers that see one channel each, for taps (channels, k) of each spatial axis."""
        (both,) = taps
        weight = both.reshape(-1, 1, *conv.kernel)
        return (Conv2d(weight, None, conv.stride, conv.padding, conv.dilation, groups=len(both)),)

    def _chain(self, conv: Conv2d, first: FloatArray, last: FloatArray, *taps: FloatArray) -> Chain:
        """Return the layers of first (groups r, in), last (out, r) and taps (groups r, k) of each spatial axis."""
        return Chain(
            (
                Conv2d(first[:, :, np.newaxis, np.newaxis], groups=conv.groups),
                *self._depthwise(conv, *taps),
                Conv2d(last[:, :, np.newaxis, np.newaxis], conv.bias, groups=conv.groups),
            )
        )

    def _shape(self, op: Op) -> tuple[int, int, int]:
        """Return outputs and inputs per group, and taps of the kernel."""
        conv = as_conv2d(self, op)
        return conv.out_channels // conv.groups, conv.in_channels // conv.groups, prod(conv.kernel)

    def _checked(self, op: Op, rank: Rank) -> tuple[int, int, int]:
        outputs, inputs, taps = self._shape(op)
        check_rank(self, op, rank, f"{taps} * min({outputs}, {inputs})")
        return outputs, inputs, taps


@dataclass(frozen=True)
class Cp4(Cp):
    """W (out, in, kh, kw) ≈ sum over r of U (out, r) times A (kh, r) times B (kw, r) times V (in, r).

    As `Cp`, with kh x 1 and 1 x kw on each channel alone in place of kh x kw; each keeps its axis's geometry.
    """

    name: ClassVar[str] = "cp4"
    summary: ClassVar[str] = "convolution: 1x1 to r channels, kh x 1 and 1 x kw depthwise, 1x1, by CP decomposition"

    def refusal(self, op: Op) -> str | None:
        """Refuse, besides what `Cp` refuses, kernels with one axis only."""
        if isinstance(op, Conv2d) and 1 in op.kernel and op.kernel != (1, 1):
            return f"kernel is {op.kernel[0]}x{op.kernel[1]}: already separated, cp has the same error for less"
        return super().refusal(op)

    def _axes(self, conv: Conv2d) -> Axes:
        return conv.kernel

    def _depthwise(self, conv: Conv2d, *taps: FloatArray) -> tuple[Conv2d, ...]:
        vertical, horizontal = taps
        (sh, sw), (ph, pw), (dh, dw) = conv.stride, conv.padding, conv.dilation
        return (
            Conv2d(vertical[:, np.newaxis, :, np.newaxis], None, (sh, 1), (ph, 0), (dh, 1), len(vertical)),
            Conv2d(horizontal[:, np.newaxis, np.newaxis, :], None, (1, sw), (0, pw), (1, dw), len(horizontal)),
        )


def _groups(conv: Conv2d) -> Iterator[FloatArray]:
    """Yield the weight of each group as (taps, outputs, inputs)."""
    outputs = conv.out_channels // conv.groups
    for start in range(0, conv.out_channels, outputs):
        yield slices_of(conv.weight[start : start + outputs])
