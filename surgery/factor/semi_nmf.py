"""Split a fully connected layer or a 1x1 convolution into two layers, one with no negative weight (semi-NMF).

Ding, Li and Jordan (2010), "Convex and semi-nonnegative matrix factorizations": X (p, q) ≈ F (p, r) H (r, q), H >= 0,
by multiplicative updates of H that never raise the error. Gillis and Kumar (2015), "Exact and heuristic algorithms for
semi-nonnegative matrix factorization": any product A B through r - 1 components is one through r with H >= 0,
[A, -A 1] ([B; 0] + 1 c) with c the negative part of the column minima of B, so that the constraint costs at most one
component: tail(r) <= error² <= tail(r - 1). Here the corners of a regular simplex take the place of [1, -1].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from surgery.errors import PlanError
from surgery.factor.base import (
    Fit,
    Rank,
    check_rank,
    check_size,
    contiguous,
    joint_spectrum,
    option,
    placeholder,
    rank_holding,
)
from surgery.factor.cholesky import lent, ridged
from surgery.factor.metric import DenseMetric, Metric
from surgery.factor.semi_nmf_updates import solved, updated
from surgery.factor.solver import singular_values, stored_dtype, truncated_svd
from surgery.ops import Chain, Conv2d, Float64Array, FloatArray, Linear, Op
from surgery.ops.array import blocks, product

# From the closed form updates can gain one component at most, and mainly make the factors smaller.
UPDATES = {"closed-form": 30, "kmeans": 200}
ASSIGNMENTS = 20  # Rounds of k-means; updates do the rest.
# Inputs up to which updates heed the metric: each one costs a product of its n x n matrix with H, twice.
UPDATED_SIDE = 1024


@dataclass(frozen=True)
class SemiNmf:
    """W (out, in) ≈ A B, and either B or A has no negative number; groups are cut apart.

    `side` says which layer is non-negative. After a ReLU the inputs are, so that with "first" the thin layer's output
    is too. `start` is where updates begin, and what is returned if they end no better: "closed-form" is never worse
    than the SVD of one rank less (to the accuracy of `truncated_svd`), "kmeans" is that of Ding et al. and can be.

    The largest rank is one above the smaller side, unless the non-negative factor can be the identity before that:
    min(q, p + 1) for X (p, q) = W with "first", Wᵀ with "last". `spectrum` has a 0 at the end where it is p + 1.
    """

    side: str = option("first", "last")
    start: str = option("closed-form", "kmeans")

    name: ClassVar[str] = "semi-nmf"
    summary: ClassVar[str] = "fully connected or 1x1: two layers, one of them non-negative, by semi-NMF"
    is_exact: ClassVar[bool] = True
    uses_metric: ClassVar[bool] = True

    def refusal(self, op: Op) -> str | None:
        """Refuse convolutions larger than 1x1."""
        if isinstance(op, Linear) or op.kernel == (1, 1):
            return None
        return f"kernel is {op.kernel[0]}x{op.kernel[1]}: neither fully connected nor 1x1"

    def max_rank(self, op: Op) -> Rank:
        """Return the rank from which any layer of this shape is reproduced."""
        _, m, n = self._shape(op)
        p, q = (m, n) if self.side == "first" else (n, m)
        return (min(q, p + 1),)

    def rank_at(self, op: Op, size: int) -> Rank:
        """See `Method.rank_at`: a single number is its own path."""
        check_size(self, op, size)
        return (size,)

    def template(self, op: Op, rank: Rank) -> Chain:
        """See `Method.template`."""
        groups, m, n = self._checked(op, rank)
        left, right = (groups * m, rank[0]), (groups * rank[0], n)
        return _chain(op, placeholder(left, op.weight), placeholder(right, op.weight))

    def spectrum(self, op: Op) -> tuple[Float64Array, ...]:
        """Return the singular values, and a 0 where the largest rank is above their number."""
        values = joint_spectrum([singular_values(matrix) for matrix in self._matrices(op)])
        return (np.pad(values, (0, self.max_rank(op)[0] - len(values))),)

    def rank_for_energy(self, op: Op, energy: float, spectrum: tuple[Float64Array, ...] | None = None) -> Rank:
        """See `Method.rank_for_energy`: what is kept may be that of one rank less."""
        return tuple(rank_holding(values, energy) for values in spectrum or self.spectrum(op))

    def factor(self, op: Op, rank: Rank, *, metric: Metric | None = None, seed: int = 0) -> Fit:
        """See `Method.factor`. `seed` has an effect on "kmeans" alone."""
        self._checked(op, rank)
        dtype, rng = stored_dtype(op.weight), np.random.default_rng(seed)
        parts, squared_residual, squared_norm = [], 0.0, 0.0
        for group, matrix in enumerate(self._matrices(op)):
            # Mapped: a loop would hold each pair while the next one is made.
            pairs = list(map(partial(_stored, dtype=dtype), self._factors(matrix, rank[0], metric, group, rng)))
            # Updates heed the reduced problem before rounding; what they did to the whole one after it is measured.
            left, right = min(pairs, key=partial(_squared_error, matrix, metric, group)) if pairs[1:] else pairs[0]
            residual, norm = _squares(matrix, left, right)
            squared_residual, squared_norm = squared_residual + residual, squared_norm + norm
            parts.append((left, right))
        lefts, rights = (np.concatenate(factors) for factors in zip(*parts, strict=True))
        error = float(np.sqrt(squared_residual / squared_norm)) if squared_norm else 0.0
        bound = frozenset({0 if self.side == "first" else 1})
        return Fit(contiguous(_chain(op, lefts, rights)), tuple(rank), error, self.start, bound)

    def _factors(
        self, matrix: FloatArray, rank: int, metric: Metric | None, group: int, rng: np.random.Generator
    ) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Yield left (m, r) and right (r, n), unbalanced, of the start and after updates, if there are any."""
        # Distances in a metric C = L Lᵀ are plain ones between matrices times L.
        dense = metric if isinstance(metric, DenseMetric) else None
        svd = truncated_svd(matrix if dense is None else _seen(matrix, dense, group), min(rank, *matrix.shape))
        left, right, values = svd.left, svd.right, svd.values
        del svd
        if self.side == "last":
            # The free factor stands on the metric's side and takes it all: none is left for the other.
            candidates = _non_negative(left.T, values, rank, self.start, rng)
            while candidates:
                yield candidates[0].T, _least_squares(matrix.T, candidates.pop(0)).T
            return
        del left  # What the data are fitted by needs room.
        if dense is None:
            right = right.astype(np.float64, copy=False)
            candidates = _non_negative(right, values, rank, self.start, rng)
        else:
            right = _divided(right, dense, group)
            with ridged(dense.moments[group], dense.ridge) as moments:
                candidates = _non_negative(right, values, rank, self.start, rng, moments)
        del right
        while candidates:
            yield _least_squares(matrix, candidates[0], metric, group), candidates.pop(0)

    def _shape(self, op: Op) -> tuple[int, int, int]:
        """Return (groups, m, n) of the matrices."""
        reason = self.refusal(op)
        if reason is not None:
            raise PlanError(f"{self.name}: {reason}")
        groups = op.groups if isinstance(op, Conv2d) else 1
        return groups, op.out_channels // groups, op.in_channels // groups

    def _matrices(self, op: Op) -> list[FloatArray]:
        """Return the weight (m, n) of each group, views."""
        groups, m, n = self._shape(op)
        return [op.weight[g * m : (g + 1) * m].reshape(m, n) for g in range(groups)]

    def _checked(self, op: Op, rank: Rank) -> tuple[int, int, int]:
        groups, m, n = self._shape(op)
        p, q = (m, n) if self.side == "first" else (n, m)
        check_rank(self, op, rank, f"min({q}, {p} + 1)")
        return groups, m, n


def _chain(op: Op, left: FloatArray, right: FloatArray) -> Chain:
    """Return the chain of left (out, r) and right (groups · r, in / groups); the first takes the geometry."""
    if isinstance(op, Linear):
        return Chain((Linear(right), Linear(left, op.bias)))
    first = Conv2d(right[:, :, None, None], None, op.stride, op.padding, op.dilation, op.groups)
    return Chain((first, Conv2d(left[:, :, None, None], op.bias, groups=op.groups)))


def _stored(pair: tuple[FloatArray, FloatArray], dtype: npt.DTypeLike) -> tuple[FloatArray, FloatArray]:
    left, right = _balanced(*pair)
    return left.astype(dtype, copy=False), right.astype(dtype, copy=False)


def _non_negative(
    right: FloatArray,
    values: Float64Array,
    rank: int,
    start: str,
    rng: np.random.Generator,
    metric: Float64Array | None = None,
) -> list[Float64Array]:
    """Return H (r, q) >= 0 for X with the best approximation U sqrt(S) `right` (k, q), S = `values`, in the metric.

    First that of the start, then, if there are any, that after updates. `right` is used up where it is float64.

    For U (p, k) orthonormal, ||X - U F H||² = ||X - U Uᵀ X||² + ||Uᵀ X - F H||²: what lowers the error of the reduced
    Uᵀ X = sqrt(S) `right` lowers that of X by as much, for F within the span of U; the last least squares leave it.
    """
    columns = right.shape[1]
    if rank == columns:
        return [np.eye(columns)]
    balanced = right.astype(np.float64, copy=False)
    if rank > len(balanced):
        return [_closed_form(balanced, rank)]  # Above the rank of any X it is exact: nothing is left to update.
    closed = _closed_form(balanced, rank) if start == "closed-form" else None
    reduced = np.multiply(balanced, np.sqrt(values)[:, np.newaxis], out=balanced)
    held = _clusters(reduced, rank, rng) if closed is None else closed
    # Updates that did not heed the metric could raise the error in it.
    is_updated = metric is None or columns <= UPDATED_SIDE
    return [held, updated(reduced, held, UPDATES[start], metric)] if is_updated else [held]


def _closed_form(right: Float64Array, rank: int) -> Float64Array:
    """Return H of the same row space as the first r - 1 rows of `right` and a vector of ones added (Gillis, Kumar).

    Instead of [1, -1 1], whose last corner is sqrt(r - 1) times as far out as the others, a regular simplex P carries
    the shift: B = P (Pᵀ B + 1 c) for any c, as P Pᵀ = 1 and P 1 = 0. It then enlarges all components alike, and the
    more evenly for rows of norm 1.
    """
    if rank == 1:
        positive, negative = np.maximum(right, 0), np.maximum(-right, 0)
        return positive if np.linalg.norm(positive) >= np.linalg.norm(negative) else negative
    norms = np.linalg.norm(right[: rank - 1], axis=1, keepdims=True)
    rows = np.zeros((rank, right.shape[1]))
    np.divide(right[: rank - 1], norms, out=rows[:-1], where=norms > 0)
    along = rows.sum(axis=0) / np.sqrt(rank)
    rows[:-1] -= along * (1 + np.sqrt(rank)) / (rank - 1)
    rows[-1] = along
    rows -= rows.min(axis=0)
    return rows


def _clusters(reduced: Float64Array, rank: int, rng: np.random.Generator) -> Float64Array:
    """Return the indicator (r, q) of a k-means clustering of columns, plus 0.2 (Ding et al., section 3.1)."""
    points = reduced.T
    centres = points[rng.choice(len(points), rank, replace=False)]
    for _ in range(ASSIGNMENTS):
        distance = np.einsum("ij,ij->i", centres, centres) - 2 * points @ centres.T
        member = np.eye(rank)[:, distance.argmin(axis=1)]
        centres = member @ points / np.maximum(member.sum(axis=1, keepdims=True), 1)
    return member + 0.2


def _least_squares(
    matrix: FloatArray, held: Float64Array, metric: Metric | None = None, group: int = 0
) -> Float64Array:
    """Return the F (p, r) for which F `held` (r, q) is closest to `matrix` (p, q) in the metric."""
    if metric is not None:
        image = metric.times(group, held)
        gram, wanted = image @ held.T, product(matrix, image.T).T
        del image
        return solved((gram + gram.T) / 2, wanted).T
    import scipy.linalg  # Loading SciPy takes longer than inspecting a network.

    # By QR, so that a full rank is exact in float64 too; a ridge of rounding size for rows that depend on others.
    rank, columns = held.shape
    ridge = np.finfo(stored_dtype(matrix)).eps * float(np.linalg.norm(held)) or 1.0
    both = np.zeros((columns + rank, rank), order="F")  # In LAPACK's order, to be overwritten.
    both[:columns], both[columns:] = held.T, ridge * np.eye(rank)
    q, r = scipy.linalg.qr(both, mode="economic", overwrite_a=True, check_finite=False)
    wanted = product(matrix, q[:columns]).T
    del both, q
    result: Float64Array = scipy.linalg.solve_triangular(r, wanted, overwrite_b=True, check_finite=False).T
    return result


def _seen(rows: FloatArray, metric: DenseMetric, group: int) -> FloatArray:
    """Return rows (m, n) @ L for the lower triangular L with L Lᵀ = C, as factors are stored."""
    from scipy.linalg.blas import dtrmm  # Loading SciPy takes longer than inspecting a network.

    result: FloatArray = np.empty(rows.shape, stored_dtype(rows))
    with lent(metric.moments[group], metric.ridge) as (root, _):
        for few in blocks(len(rows), 16 * rows.shape[1]):
            turned = rows[few].astype(np.float64, order="C").T
            result[few] = dtrmm(1.0, root, turned, lower=1, trans_a=1, overwrite_b=1).T
    return result


def _divided(rows: FloatArray, metric: DenseMetric, group: int) -> Float64Array:
    """Return rows (r, n) @ L⁻¹ for the same L."""
    import scipy.linalg  # Loading SciPy takes longer than inspecting a network.

    wanted = rows.astype(np.float64, order="C").T
    with lent(metric.moments[group], metric.ridge) as (root, _):
        result: Float64Array = scipy.linalg.solve_triangular(
            root, wanted, lower=True, trans=1, overwrite_b=True, check_finite=False
        ).T
    return result


def _balanced(left: FloatArray, right: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the same product with each component's norm shared equally; one that adds nothing stays as it is."""
    over = np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)
    share = np.sqrt(np.divide(over[1], over[0], out=np.ones(len(right)), where=(over[0] > 0) & (over[1] > 0)))
    return left * share, right / share[:, np.newaxis]


def _squared_error(matrix: FloatArray, metric: Metric | None, group: int, pair: tuple[FloatArray, FloatArray]) -> float:
    """Return the squared error of left @ right, a `pair` as stored, in one group of the metric, if there is one."""
    if metric is None:
        return _squares(matrix, *pair)[0]
    left, right = pair
    parts = blocks(len(matrix), 32 * matrix.shape[1])
    return sum(metric.square(group, matrix[rows] - product(left[rows], right)) for rows in parts)


def _squares(matrix: FloatArray, left: FloatArray, right: FloatArray) -> tuple[float, float]:
    """Return ||W - left right||_F² and ||W||_F², in float64, for factors as stored."""
    expand, residual, norm = right.astype(np.float64), 0.0, 0.0
    for rows in blocks(len(matrix), 16 * matrix.shape[1]):
        block = matrix[rows].astype(np.float64)
        norm += float(np.einsum("ij,ij->", block, block))
        block -= left[rows].astype(np.float64) @ expand
        residual += float(np.einsum("ij,ij->", block, block))
    return residual, norm
