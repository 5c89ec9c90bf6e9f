"""Methods that lay a layer's weight out as one matrix for each group and cut each by its best low rank."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import ClassVar

import numpy as np

from surgery.factor.base import (
    Fit,
    Rank,
    check_rank,
    check_size,
    contiguous,
    joint_spectrum,
    placeholder,
    rank_holding,
    stacked,
)
from surgery.factor.metric import Metric
from surgery.factor.refit import relative_error
from surgery.factor.solver import finite, leading_eigenvectors, singular_values, stored_dtype, truncated_svd
from surgery.ops import Chain, Float64Array, FloatArray, Op
from surgery.ops.array import BLOCK_BYTES, blocks, product

ROW_ARRAYS = 24  # of the size of some rows of a weight, for what is made of some rows at a time, but at least
ROWS = 32  # of them: enough for BLAS


Times = Callable[[FloatArray], Float64Array]


class MatrixMethod(ABC):
    """A `Method` whose rank is one number: the rank of the weight seen as one matrix M (m, n) per group.

    Law, besides those of `Method`: without a metric the squared error is exactly the tail energy of `spectrum` at the
    rank, and no chain of this form has a smaller one (Eckart and Young, 1936), but that of large float32 layers may be
    above it by a share of 2 `solver.EXCESS`; with a metric that is so for the error in it, where a row of M is one of
    the weight. Members say only how the weight is unfolded and how left (m, r) and right (r, n) factors fold back into
    layers: the right one runs first.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    is_exact: ClassVar[bool] = True
    uses_metric: ClassVar[bool] = True
    is_settled: ClassVar[bool] = True  # See `refit.is_settled`.

    @abstractmethod
    def refusal(self, op: Op) -> str | None:
        """See `Method.refusal`."""

    @abstractmethod
    def shape(self, op: Op) -> tuple[int, int, int]:
        """Return (groups, m, n) of the matrices, or raise PlanError if the layer is refused."""

    @abstractmethod
    def unfold(self, op: Op, group: int) -> FloatArray:
        """Return the matrix (m, n) of one group: a view of the weight where that is possible."""

    @abstractmethod
    def fold(self, op: Op, left: FloatArray, right: FloatArray) -> Chain:
        """Return the chain whose weights are left (groups, m, r) and right (groups, r, n)."""

    def max_rank(self, op: Op) -> Rank:
        """See `Method.max_rank`: the smaller side of the matrix."""
        return (min(self.shape(op)[1:]),)

    def rank_at(self, op: Op, size: int) -> Rank:
        """See `Method.rank_at`: a single number is its own path."""
        check_size(self, op, size)
        return (size,)

    def template(self, op: Op, rank: Rank) -> Chain:
        """See `Method.template`."""
        groups, m, n = self._checked(op, rank)
        left, right = (groups, m, rank[0]), (groups, rank[0], n)
        return self.fold(op, placeholder(left, op.weight), placeholder(right, op.weight))

    def spectrum(self, op: Op) -> tuple[Float64Array, ...]:
        """See `Method.spectrum`."""
        return (joint_spectrum([singular_values(self.unfold(op, g)) for g in range(self.shape(op)[0])]),)

    def rank_for_energy(self, op: Op, energy: float, spectrum: tuple[Float64Array, ...] | None = None) -> Rank:
        """See `Method.rank_for_energy`."""
        return tuple(rank_holding(values, energy) for values in spectrum or self.spectrum(op))

    def factor(self, op: Op, rank: Rank, *, metric: Metric | None = None, seed: int = 0) -> Fit:
        """See `Method.factor`. Deterministic: `seed` has no effect."""
        groups, _, _ = self._checked(op, rank)
        if metric is not None:
            return self.in_metric(op, rank, metric)
        svds = [truncated_svd(self.unfold(op, g), rank[0]) for g in range(groups)]
        norm = np.linalg.norm([svd.norm for svd in svds])
        error = float(np.linalg.norm([svd.residual for svd in svds]) / norm) if norm else 0.0
        chain = self.fold(op, stacked([svd.left for svd in svds]), stacked([svd.right for svd in svds]))
        return Fit(contiguous(chain), tuple(rank), error, svds[0].solver)

    def in_metric(self, op: Op, rank: Rank, metric: Metric) -> Fit:
        """Return the chain that is best in the metric: its rank is within bounds."""
        chain = self.best(op, rank, (partial(metric.times, g) for g in range(metric.groups)))
        return Fit(chain, tuple(rank), relative_error(chain, op), "responses")

    def best(self, op: Op, rank: Rank, times: Iterable[Times]) -> Chain:
        """Return the chain of the best left and right factors, for what multiplies each group's rows by a metric."""
        parts = iter(times)  # Each is let go with its group's covariance.
        pairs = [leading_responses(self.unfold(op, g), parts, rank[0]) for g in range(self.shape(op)[0])]
        lefts, rights = zip(*pairs, strict=True)
        return contiguous(self.fold(op, stacked(lefts), stacked(rights)))

    def _checked(self, op: Op, rank: Rank) -> tuple[int, int, int]:
        groups, m, n = self.shape(op)
        check_rank(self, op, rank, f"min({m}, {n})")
        return groups, m, n


def leading_responses(matrix: FloatArray, times: Iterator[Times], rank: int) -> tuple[FloatArray, FloatArray]:
    """Return left (m, r) and right (r, n), stored, whose product is the best for M = `matrix` (m, n) in a metric.

    The next of `times` returns rows (..., n) times C. With U the leading eigenvectors of M C Mᵀ, the covariance of the
    responses, U Uᵀ M is the minimum of tr((M - V) C (M - V)ᵀ) over all V of that rank (Zhang et al., 2016, section
    3.1): what whitening the inputs gives too, without an inverse. Each component's norm is shared equally by the two.

    Raises:
        PlanError: the matrix holds NaN or infinity.
    """
    dtype, is_tall = stored_dtype(matrix), len(matrix) > matrix.shape[1]
    # A tall one has the responses of the few rows of its triangular factor, turned by a basis, which is made when it is
    # needed: it is larger than all else.
    wide = _triangular(matrix)[0] if is_tall else finite(matrix)
    covariance = _covariance(wide, next(times))
    _, u = leading_eigenvectors(covariance, rank)
    del covariance
    right = product(u.T, wide)
    del wide
    share = np.sqrt(np.linalg.norm(right, axis=1))
    share[share == 0] = 1.0
    right /= share[:, None]
    right = right.astype(dtype, copy=False)
    left = (_triangular(matrix)[1] @ u if is_tall else u) * share
    return left.astype(dtype), right


def _triangular(matrix: FloatArray) -> tuple[Float64Array, Float64Array]:
    """Return R (n, n) and Q (m, n) of matrix = Q R, m >= n; raises PlanError for NaN or infinity."""
    import scipy.linalg  # Loading SciPy takes longer than inspecting a network.

    wide = finite(matrix).astype(np.float64, order="F")  # In LAPACK's order, to be overwritten.
    basis, triangle = scipy.linalg.qr(wide, mode="economic", overwrite_a=True, check_finite=False)
    return triangle, basis


def _covariance(wide: FloatArray, times: Times) -> Float64Array:
    """Return that of the responses, M C Mᵀ for M = `wide` (m, n)."""
    covariance = np.empty((len(wide), len(wide)), order="F")  # As LAPACK wants it, to be overwritten.
    parts = list(blocks(len(wide), min(ROW_ARRAYS * 8 * wide.shape[1], BLOCK_BYTES // ROWS)))
    for rows in parts:
        responses = times(wide[rows])
        for columns in parts:
            covariance[rows, columns] = responses @ wide[columns].T.astype(np.float64, copy=False)
        del responses  # The next ones have their place.
    return covariance
