"""What is known of a layer's inputs and wanted outputs from calibration data: all that any linear fit needs.

A chain of factors is a linear map of the layer's input patch plus a bias, so its mean squared error follows from first
and second moments of patch x and wanted output y alone. Least squares with a ridge towards the layer's own weight W:

    W* = (Cyx + r W) (Cxx + r)⁻¹,    E|y - V x - b|² = tr((V - W*) Cxx (V - W*)ᵀ) + what no V can reach,

so a fit of V to the data is a fit to W* in the metric Cxx + r, whatever form V has. Where x comes from the original
network, Cyx = W Cxx and W* = W; where it comes from a network already cut before this layer (Zhang et al., 2016,
section 3.3, asymmetric reconstruction), W* also makes up for the cuts before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from surgery.factor.kernels import kernels_of, made_of
from surgery.factor.metric import DenseMetric, Metric, SampledMetric
from surgery.factor.solver import stored_dtype
from surgery.ops import Chain, Float64Array, FloatArray, Op, Scale
from surgery.ops.array import blocks

EVERY = slice(None)
Wanted = Callable[[slice], FloatArray]  # The wanted outputs of some positions, as `Samples.wanted` gives them.

MAX_SIDE = 8192  # Inputs of a patch up to which Cxx is held: 0.5 GB in float64. Longer ones keep samples instead.


@dataclass(frozen=True, eq=False, slots=True)
class Samples:
    """N positions: the layer's input patches `x` (N, groups, n) and its outputs `y` (N, out), float32.

    Where there is a `scale`, what it makes of `y` is wanted. It is made some positions at a time: all of them may be
    larger than the layer.
    """

    x: FloatArray
    y: FloatArray
    scale: Scale | None = None

    def __len__(self) -> int:
        return len(self.x)

    def wanted(self, few: slice, outputs: slice = EVERY) -> FloatArray:
        """Return the wanted outputs of some positions, float32."""
        if self.scale is None:
            return self.y[few, outputs]
        scaled: FloatArray = self.scale.apply(self.y[few])[:, outputs].astype(np.float32)
        return scaled


@dataclass(frozen=True, eq=False, slots=True)
class Moments:
    """First and second central moments over `count` positions, in float64.

    Attributes:
        count: positions.
        mean_x: (groups, n).
        xx: Cxx (groups, n, n); of patches longer than MAX_SIDE (groups, N, n), rows whose Gram matrix is Cxx.
        mean_y: (out,).
        yx: Cyx (out, n): each output with the inputs of its own group.
        factor: (out,) what rows of `yx`, and of the layer's weight beside it, are multiplied by where they are used.
    """

    count: int
    mean_x: Float64Array
    xx: FloatArray
    mean_y: Float64Array
    yx: Float64Array
    factor: Float64Array

    @property
    def is_dense(self) -> bool:
        """Whether Cxx is held as it is."""
        return bool(self.mean_x.shape[1] <= MAX_SIDE)

    @property
    def mean_eigenvalue(self) -> float:
        """Mean eigenvalue of Cxx over all groups, the unit of a ridge; 1 where nothing varies."""
        trace = sum(float(c.trace() if self.is_dense else np.vdot(c, c)) for c in self.xx)
        return trace / self.mean_x.size or 1.0

    def metric(self, ridge: float) -> Metric:
        """Return Cxx + ridge · mean eigenvalue · 1; `ridge` above 0."""
        added = ridge * self.mean_eigenvalue
        if not self.is_dense:
            return SampledMetric(self.xx, added)
        return DenseMetric(self.xx.astype(np.float64, copy=False), added)

    def times(self, group: int, rows: FloatArray) -> Float64Array:
        """Return rows (m, n) @ Cxx of one group."""
        xx, left = self.xx[group], rows.astype(np.float64, copy=False)
        result: Float64Array = left @ xx if self.is_dense else (left @ xx.T) @ xx
        return result

    def scaled(self, scale: Scale) -> Moments:
        """Return the moments for wanted outputs that `scale` is applied to."""
        factor, shift = np.broadcast_arrays(scale.factor, scale.shift, np.empty(len(self.mean_y)))[:2]
        return replace(self, mean_y=factor * self.mean_y + shift, factor=factor * self.factor)


@dataclass(frozen=True, eq=False, slots=True)
class Statistics:
    """Calibration data of one layer.

    Attributes:
        moments: over all calibration positions.
        samples: some of those positions, for fits that are not linear.
        held_out: positions of images that no fit has seen, to measure on.
        scale: what the network does to each channel of the layer's output before anything else (BatchNorm, Scale).
        relu: whether a ReLU follows, behind `scale`.
        is_symmetric: whether the inputs are the original network's, so that y = W x + b exactly.
    """

    moments: Moments
    samples: Samples
    held_out: Samples
    scale: Scale | None = None
    relu: bool = False
    is_symmetric: bool = True


def moments_of(chunks: Iterable[Samples]) -> Moments:
    """Return the moments of all chunks together, in float64, one chunk in memory at a time; raises ValueError for none.

    Sums are about the first chunk's mean, so that large means cost no digits. For patches longer than MAX_SIDE the
    centred rows are kept, float32: the caller bounds how many.
    """
    sums: _Sums | None = None
    for chunk in chunks:
        sums = sums or _Sums(chunk)
        sums.add(chunk)
    if sums is None:
        raise ValueError("moments of no samples")
    return sums.moments()


def target(op: Op, statistics: Statistics, ridge: float) -> tuple[Op, Metric]:
    """Return the layer that fits the data best, and the metric in which distances from it count; see the module.

    `op` is the layer in front of what scales its outputs. Where the inputs are the original network's the weight is its
    own, scaled. It is float32, as the data are.
    """
    moments = statistics.moments
    metric = moments.metric(ridge)
    if statistics.is_symmetric and (moments.factor == 1).all() and op.weight.dtype == np.float32:
        return op, metric
    best = np.empty((len(op.weight), metric.size), np.float32)
    weight, added = op.weight.reshape(best.shape), ridge * moments.mean_eigenvalue
    if statistics.is_symmetric:
        for few in blocks(len(best), 8 * metric.size):
            best[few] = weight[few] * moments.factor[few, np.newaxis]
        return replace(op, weight=best.reshape(op.weight.shape)), metric
    size = len(best) // metric.groups

    def drawn(few: slice, first: int) -> Float64Array:
        few = slice(first + few.start, first + few.stop)
        rows = added * weight[few].astype(np.float64)
        rows += moments.yx[few]
        rows *= moments.factor[few, np.newaxis]
        return rows

    for g, out in enumerate(np.split(best, metric.groups)):
        metric.solve(g, partial(drawn, first=g * size), out)
    return replace(op, weight=best.reshape(op.weight.shape)), metric


def centred_bias(chain: Chain, moments: Moments) -> Float64Array:
    """Return the last bias with which the chain's mean output is the wanted one."""
    groups = len(moments.mean_x)
    kernels = (kernels_of(chain, groups, g) for g in range(groups))
    made = np.concatenate([made_of(x[np.newaxis], own)[0] for x, own in zip(moments.mean_x, kernels, strict=True)])
    result: Float64Array = moments.mean_y - made
    return result


def centred(chain: Chain, moments: Moments) -> Chain:
    """Return the chain with that bias, in the precision of its last weight."""
    bias = centred_bias(chain, moments).astype(stored_dtype(chain.last.weight))
    return Chain((*chain.ops[:-1], replace(chain.last, bias=bias)))


class _Sums:
    """Sums of products about one point, added up in place: no chunk makes a second matrix of Cxx's size."""

    def __init__(self, first: Samples) -> None:
        _, self.groups, self.size = first.x.shape
        self.count = 0
        self.origin_x = first.x.mean(axis=0, dtype=np.float64)
        self.origin_y = first.y.mean(axis=0, dtype=np.float64)
        self.x, self.y = np.zeros_like(self.origin_x), np.zeros_like(self.origin_y)
        self.yx = np.zeros((len(self.y), self.size))
        sides = self.groups if self.size <= MAX_SIDE else 0
        self.xx: list[Float64Array] = [np.zeros((self.size, self.size), order="F") for _ in range(sides)]
        self.rows: list[FloatArray] = []

    def add(self, chunk: Samples) -> None:
        """Add a chunk."""
        from scipy.linalg.blas import dsyrk

        y = chunk.y - self.origin_y
        self.count += len(y)
        self.y += y.sum(axis=0)
        outputs = len(self.y) // self.groups
        kept = np.empty(chunk.x.shape if not self.xx else (0,), np.float32)
        for g in range(self.groups):
            x = chunk.x[:, g] - self.origin_x[g]
            own = slice(g * outputs, (g + 1) * outputs)
            self.x[g] += x.sum(axis=0)
            self.yx[own] += y[:, own].T @ x
            if self.xx:
                self.xx[g] = dsyrk(1.0, x.T, beta=1.0, c=self.xx[g], trans=0, lower=1, overwrite_c=1)
            else:
                kept[:, g] = x
        self.rows += [] if self.xx else [kept]

    def moments(self) -> Moments:
        """Return the central moments; the sums are used up."""
        x, y = self.x / self.count, self.y / self.count
        yx = self.yx / self.count - y[:, None] * np.repeat(x, len(y) // self.groups, axis=0)
        if self.xx:
            xx: FloatArray = np.stack(
                [_whole(moment, self.count, mean) for moment, mean in zip(self.xx, x, strict=True)]
            )
        else:
            xx = np.concatenate(self.rows).swapaxes(0, 1)
            xx -= x[:, None, :].astype(np.float32)
            xx /= np.float32(np.sqrt(self.count))
        return Moments(self.count, self.origin_x + x, xx, self.origin_y + y, yx, np.ones(len(y)))


def _whole(lower: Float64Array, count: int, mean: Float64Array) -> Float64Array:
    """Return the central second moment for a sum's lower triangle, made in its place."""
    for rows in blocks(len(lower), 8 * len(lower)):
        own = lower[rows, : rows.stop]
        own /= count
        own -= mean[rows, None] * mean[: rows.stop]
    for rows in blocks(len(lower), 8 * len(lower)):
        square = lower[rows, rows]
        square[...] = np.tril(square) + np.tril(square, -1).T
        lower[: rows.start, rows] = lower[rows, : rows.start].T
    return lower.T  # Symmetric, and in C order so.
