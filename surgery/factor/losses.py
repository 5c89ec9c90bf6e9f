"""What a cut loses of a layer's responses at every rank, on samples held out, without making the cuts.

A chain whose first stage is given and whose last is the best for inputs x of second moment C (least squares) makes
a projection of the responses W x: with F what the first stage makes of a patch, at each place where the last one looks,
and F C Fᵀ = L Lᵀ,

    (L⁻¹ F C Wᵀ)ᵀ (L⁻¹ F x).

With the rows of F in the order of the first stage's channels, the most important first, one Cholesky factor L serves
all ranks: each channel adds terms to the sum.

* `svd`, `svd-channel`, `response`: the best first stage is W itself behind the projection on the leading eigenvectors
  of W C Wᵀ (Zhang et al., 2016, section 3.1).
* `svd-spatial`: the first stage is that of the best split in the mean moments of the columns of x. The fit goes on from
  there and leaves about two thirds of the loss (`REFITTED`).
* `tucker2`: the first stage is that of the input mode in the mean moments of single taps; the responses that are made
  with r_in channels are projected on their own leading r_out directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from surgery.factor.base import Method, Rank, options_of
from surgery.factor.metric import DenseMetric, Metric
from surgery.factor.responses import projected
from surgery.factor.statistics import Statistics
from surgery.factor.svd_spatial import SvdSpatial
from surgery.ops import Chain, Conv2d, Float64Array, FloatArray, Op, collapse

# What refitting both stages of `svd-spatial` in turn leaves: 0.62 to 0.72 on conv2_2, conv3_2 and conv4_2 of VGG-16 at
# an eighth of the largest rank that pays, 0.46 to 0.66 at half of it.
REFITTED = 2 / 3

_FLOOR = 1e-10  # Relative to the mean: channels that depend on others add nothing.


def energy_lost(
    method: Method, op: Op, statistics: Statistics, ridge: float, ranks: Sequence[Rank]
) -> list[float] | None:
    """Return the share of the energy of the responses, about their mean, that a cut at each rank loses.

    The cuts are those that are best for the moments with this ridge, what they lose is that of the samples held out.
    None for methods, and options of them, for which there is no such short way, and for moments that are not dense
    where the whole of them is needed.
    """
    curve = _CURVES.get(method.name)
    metric = statistics.moments.metric(ridge)
    if curve is None or options_of(method) or not (isinstance(metric, DenseMetric) or curve is _of_outputs):
        return None
    total, missed = 0.0, np.zeros(len(ranks))
    for g in range(metric.groups):
        group = _Group.of(op, statistics, metric, g)
        total += float(np.vdot(group.made, group.made))
        missed += curve(group, ranks)
    return [float(each) / total if total else 0.0 for each in missed]


def energy_missed(chain: Chain, op: Op, statistics: Statistics) -> float:
    """Return the same share for a cut that was made."""
    total = missed = 0.0
    parts = np.split(collapse(chain).weight.reshape(len(op.weight), -1), len(statistics.moments.mean_x))
    for g, part in enumerate(parts):
        group = _Group.of(op, statistics, statistics.moments.metric(0.0), g)
        total += float(np.vdot(group.made, group.made))
        missed += float(np.square(group.made - projected(group.seen, part)).sum())
    return missed / total if total else 0.0


@dataclass(frozen=True, eq=False, slots=True)
class _Group:
    """One group of a layer: its weight W (out, n), and inputs x (N, n) about their mean with W x (N, out)."""

    op: Op
    metric: Metric
    number: int
    weight: Float64Array
    seen: FloatArray
    made: Float64Array

    @classmethod
    def of(cls, op: Op, statistics: Statistics, metric: Metric, number: int) -> _Group:
        """Return a group of a layer with the samples held out."""
        weight = np.split(op.weight.reshape(len(op.weight), -1), metric.groups)[number].astype(np.float64)
        mean = statistics.moments.mean_x[number].astype(np.float32)
        seen = statistics.held_out.x[:, number] - mean
        return cls(op, metric, number, weight, seen, seen @ weight.T)


def _of_outputs(group: _Group, ranks: Sequence[Rank]) -> Float64Array:
    vectors = np.linalg.eigh(group.metric.gram(group.number, group.weight))[1][:, ::-1]
    energies = np.square(group.made @ vectors).sum(axis=0)
    return np.array([energies[rank:].sum() for (rank,) in ranks])


def _of_columns(group: _Group, ranks: Sequence[Rank]) -> Float64Array:
    most = max(rank for (rank,) in ranks)
    first = SvdSpatial().start(group.op, (most,), group.metric).first.weight
    parts = _Parts.of(group, np.split(first, group.metric.groups)[group.number])
    return REFITTED * np.array([np.square(group.made - made).sum() for made in parts.sums([r for (r,) in ranks])])


def _of_channels(group: _Group, ranks: Sequence[Rank]) -> Float64Array:
    parts = _Parts.of(group, _input_mode(group, max(rank for _, rank in ranks)))
    missed = []
    for (r_out, r_in), made in zip(ranks, parts.sums([r for _, r in ranks]), strict=True):
        own = parts.cross[:r_in].reshape(-1, len(group.weight))
        vectors = np.linalg.eigh(own.T @ own)[1][:, ::-1][:, :r_out]
        missed.append(np.square(group.made - made @ vectors @ vectors.T).sum())
    return np.array(missed)


def _input_mode(group: _Group, rank: int) -> Float64Array:
    """Return (rank, in / groups, 1, 1): what the first stage of the best split of the input mode makes."""
    inputs = group.op.weight.shape[1]
    weight = group.weight.reshape(len(group.weight), inputs, -1)
    moments, ridge = _moments(group)
    mean = np.einsum("itjt->ij", moments.reshape(inputs, weight.shape[2], inputs, -1)) / weight.shape[2]
    mean.flat[:: inputs + 1] += ridge
    lower = np.linalg.cholesky(mean)
    squares = np.einsum("oit,ojt->ij", weight, weight, optimize=True)
    rows = np.linalg.eigh(lower.T @ squares @ lower)[1][:, ::-1][:, :rank].T @ lower.T @ squares
    # The most important first, and none of them smaller than the others' rounding.
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    result: Float64Array = rows[:, :, None, None]
    return result


@dataclass(frozen=True, eq=False, slots=True)
class _Parts:
    """What each channel of a first stage adds to the responses: the product of its rows.

    Attributes:
        cross: L⁻¹ F C Wᵀ (channels, places, out).
        seen: L⁻¹ F x (channels, places, N).
    """

    cross: Float64Array
    seen: Float64Array

    @classmethod
    def of(cls, group: _Group, first: FloatArray) -> _Parts:
        """Return the parts of `first` (channels, in / groups, p, q), at every place of the kernel in which it fits."""
        import scipy.linalg  # Loading SciPy takes longer than inspecting a network.

        assert isinstance(group.op, Conv2d)
        (kh, kw), (channels, inputs, p, q) = group.op.kernel, first.shape
        moments, ridge = _moments(group)
        first, grid = first.astype(np.float64), moments.reshape(inputs, kh, kw, -1)
        patches = group.seen.reshape(len(group.seen), inputs, kh, kw)
        places = list(np.ndindex(kh - p + 1, kw - q + 1))
        rows = first.reshape(channels, -1)
        inner = np.empty((channels, len(places), channels, len(places)))
        cross = np.empty((channels, len(places), len(group.weight)))
        seen = np.empty((channels, len(places), len(patches)))
        for i, (s, t) in enumerate(places):
            window = (slice(None), slice(s, s + p), slice(t, t + q))
            image = (rows @ grid[window].reshape(inputs * p * q, -1)).reshape(channels, inputs, kh, kw)
            seen[:, i] = rows @ patches[:, *window].reshape(len(patches), -1).T
            image[:, *window] += ridge * first
            cross[:, i] = image.reshape(channels, -1) @ group.weight.T
            for j, (u, v) in enumerate(places):
                inner[:, i, :, j] = image[:, :, u : u + p, v : v + q].reshape(channels, -1) @ rows.T
        square = inner.reshape(channels * len(places), -1)
        square.flat[:: len(square) + 1] += _FLOOR * square.trace() / len(square)
        lower = scipy.linalg.cholesky(square.T, lower=True, overwrite_a=True, check_finite=False)
        cross, seen = (
            scipy.linalg.solve_triangular(lower, each.reshape(len(square), -1), lower=True, check_finite=False).reshape(
                each.shape
            )
            for each in (cross, seen)
        )
        return cls(cross, seen)

    def sums(self, ranks: Sequence[int]) -> list[Float64Array]:
        """Return (N, out) for each rank: what its first channels make."""
        found, made = {}, np.zeros((self.seen.shape[2], self.cross.shape[2]))
        for low, high in pairwise([0, *sorted(set(ranks))]):
            cross, seen = (each[low:high].reshape(-1, each.shape[2]) for each in (self.cross, self.seen))
            made = made + seen.T @ cross
            found[high] = made
        return [found[rank] for rank in ranks]


def _moments(group: _Group) -> tuple[Float64Array, float]:
    """Return C without its ridge, and the ridge."""
    assert isinstance(group.metric, DenseMetric)
    return group.metric.moments[group.number], group.metric.ridge


_CURVES: Mapping[str, Callable[[_Group, Sequence[Rank]], Float64Array]] = {
    "svd": _of_outputs,
    "svd-channel": _of_outputs,
    "response": _of_outputs,
    "svd-spatial": _of_columns,
    "tucker2": _of_channels,
}
