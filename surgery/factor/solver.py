"""Truncated singular value decompositions of weight matrices, small or far too large for LAPACK's SVD.

Three solvers give the same factors:

* "exact": LAPACK's divide-and-conquer SVD in float64, for matrices whose smaller side is short.
* "gram": the eigenvectors U of W Wᵀ on the smaller side, then W ≈ U (Uᵀ W). Because the second factor is a
  projection of W, nothing is divided by a small singular value, and at full rank U Uᵀ = 1 whatever accuracy the
  eigenvectors have. Only eigenvalues suffer from the squaring: singular values below about
  sqrt(eps) = 1.5e-8 of the largest are noise. Of large float32 matrices they are found in float32 where that loses
  at most EXCESS.
* "krylov": a few leading left vectors of a large float32 matrix without its Gram matrix, then the same projection;
  the error is within EXCESS of the best by an estimate, see `krylov`.

Eckart and Young (1936): the truncation is the best approximation of its rank, and its squared error is the sum of
the squared singular values cut off.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from surgery.errors import PlanError
from surgery.factor.krylov import leading_left_vectors, suits_float32
from surgery.ops.array import BLOCK_BYTES, Float64Array, FloatArray, blocks, product

# On one thread the exact SVD of 256 x 2304 takes 0.03 s against 0.014 s by the Gram matrix; of 512 x 4608, 0.22 s
# against 0.08 s. Up to here accuracy of every singular value costs nothing worth saving.
EXACT_SIDE = 256
EXACT_SIZE = 2**22  # Numbers in the matrix: the exact solver holds several float64 copies of it.
# From here on, unless the weight is float64 itself, time is saved at the price of an error above the best by a share
# of at most EXCESS.
LARGE_SIDE = 1024
EXCESS = 1e-3
KRYLOV_SHARE = 8  # Ranks up to this part of the smaller side: above, the Gram matrix is the faster.


Real = TypeVar("Real", bound=np.floating)


@dataclass(frozen=True, eq=False, slots=True)
class TruncatedSvd:
    """A matrix W (m, n) as left @ right, each component's norm shared equally by the two.

    Attributes:
        left: (m, r), U sqrt(S), in the precision the factors are to be stored in.
        right: (r, n), sqrt(S) Vᵀ, in the same precision.
        values: (r,) singular values kept, largest first.
        residual: ||W - left @ right||_F, measured on the rounded factors, not inferred from the spectrum.
        norm: ||W||_F.
        solver: "exact", "gram" or "krylov".
    """

    left: FloatArray
    right: FloatArray
    values: Float64Array
    residual: float
    norm: float
    solver: str

    @property
    def relative_error(self) -> float:
        """||W - left @ right||_F / ||W||_F; 0 for a zero matrix."""
        return self.residual / self.norm if self.norm else 0.0


def truncated_svd(matrix: FloatArray, rank: int) -> TruncatedSvd:
    """Return the best approximation of `matrix` (m, n) by one of rank `rank`, 1 to min(m, n).

    `matrix` may be a float32 view into a mapped file, unaligned; it is read in blocks. The factors are float64 for
    a float64 matrix, float32 for any other.

    Raises:
        PlanError: the matrix holds NaN or infinity, or numbers whose squares overflow.
    """
    if _is_small(matrix):
        return _truncate_exactly(matrix, rank)
    if matrix.shape[0] <= matrix.shape[1]:
        return _truncate_wide(matrix, rank)
    # What serves the wide case serves the tall one: (W^T)^T = W.
    svd = _truncate_wide(matrix.T, rank)
    return TruncatedSvd(svd.right.T, svd.left.T, svd.values, svd.residual, svd.norm, svd.solver)


def singular_values(matrix: FloatArray) -> Float64Array:
    """Return all min(m, n) singular values of `matrix` (m, n), largest first.

    Where the "gram" solver is used, values below about 1.5e-8 of the largest are noise, and may be 0.

    Raises:
        PlanError: the matrix holds NaN or infinity.
    """
    import scipy.linalg  # Loading SciPy takes longer than inspecting a network.

    if _is_small(matrix):
        dense = finite(matrix.astype(np.float64))
        values: Float64Array = scipy.linalg.svd(dense, compute_uv=False, overwrite_a=True, check_finite=False)
        return values
    squares: Float64Array = scipy.linalg.eigh(
        gram(matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T),
        eigvals_only=True,
        overwrite_a=True,
        check_finite=False,
    )
    return np.sqrt(np.maximum(squares[::-1], 0.0))


def gram(matrix: FloatArray) -> Float64Array:
    """Return W Wᵀ (m, m) of `matrix` W (m, n), lower triangle only, accumulated in float64 by blocks of columns.

    Its trace is ||W||_F squared.

    Raises:
        PlanError: the matrix holds NaN or infinity, or numbers whose squares overflow.
    """
    return gram_of([matrix], np.float64)


def gram_of(matrices: Iterable[FloatArray], dtype: type[Real]) -> npt.NDArray[Real]:
    """Return the sum of what `gram` returns of some matrices of as many rows, accumulated in float64 or float32."""
    from scipy.linalg.blas import dsyrk, ssyrk

    result, update = None, ssyrk if dtype == np.float32 else dsyrk
    for matrix in matrices:
        rows, columns = matrix.shape
        if result is None:
            result = np.zeros((rows, rows), dtype, order="F")  # The order in which BLAS can add in place.
        for j in blocks(columns, max(8 * rows, 2 * BLOCK_BYTES // columns)):  # No more than half of it at a time.
            block = matrix[:, j].astype(dtype, copy=False)
            if block.flags.c_contiguous:
                result = update(1.0, block.T, beta=1.0, c=result, trans=1, lower=1, overwrite_c=1)
            else:
                result = update(1.0, block, beta=1.0, c=result, trans=0, lower=1, overwrite_c=1)
            del block  # The next one has its place.
        del matrix
    assert result is not None  # There is at least one.
    finite(result.diagonal())
    return result


def leading_eigenvectors(symmetric: npt.NDArray[Real], count: int) -> tuple[npt.NDArray[Real], npt.NDArray[Real]]:
    """Return the `count` largest eigenvalues, largest first, and their eigenvectors (m, count), orthonormal.

    `symmetric` (m, m) is positive semi-definite up to rounding (negative eigenvalues come back as 0), read from
    its lower triangle, and destroyed.
    """
    import scipy.linalg  # Loading SciPy takes longer than inspecting a network.

    size = symmetric.shape[0]
    # Bisection and inverse iteration for up to half of the vectors; divide and conquer is the faster from about a third
    # on, but holds two more matrices.
    few = 2 * count <= size
    values, vectors = scipy.linalg.eigh(
        symmetric,
        lower=True,
        driver="evr" if few else "evd",
        subset_by_index=(size - count, size - 1) if few else None,
        overwrite_a=True,
        check_finite=False,
    )
    return np.maximum(values[: -count - 1 : -1], 0.0), vectors[:, : -count - 1 : -1]


def stored_dtype(weight: FloatArray) -> npt.DTypeLike:
    """Return the precision factors of `weight` are stored in: float64 for float64, else float32."""
    return np.float64 if weight.dtype == np.float64 else np.float32


def float32_loss(largest: float, rank: int) -> float:
    """Return how much less of a matrix's energy its `rank` leading vectors hold for being sought in float32.

    They are those of a Gram matrix off by E with ||E||_2 about 2 eps32 of its `largest` eigenvalue
    (assumed: what LAPACK proves grows with the side), so that they miss at most 2 rank ||E||_2 (Ky Fan, 1949).
    """
    return 4 * rank * float(np.finfo(np.float32).eps) * largest


def finite(numbers: FloatArray) -> FloatArray:
    """Return `numbers`, or raise PlanError if they hold NaN or infinity, their own or that of squares."""
    if not np.isfinite(numbers).all():
        raise PlanError("weights hold NaN or infinity; they cannot be factored: look into how they were trained")
    return numbers


def _is_small(matrix: FloatArray) -> bool:
    return min(matrix.shape) <= EXACT_SIDE and matrix.size <= EXACT_SIZE


def _is_large(matrix: FloatArray) -> bool:
    return min(matrix.shape) >= LARGE_SIDE and matrix.dtype != np.float64


def _truncate_exactly(matrix: FloatArray, rank: int) -> TruncatedSvd:
    u, s, vh = _leading_triples(matrix, rank)
    dtype, root = stored_dtype(matrix), np.sqrt(s[:rank])
    u *= root
    vh *= root[:, np.newaxis]
    left, right = u.astype(dtype), vh.astype(dtype)
    del u, vh
    squared_residual = squared_norm = 0.0
    for few in blocks(len(matrix), 4 * 8 * matrix.shape[1]):
        missing = matrix[few].astype(np.float64)
        squared_norm += float(np.vdot(missing, missing))
        missing -= product(left[few], right)
        squared_residual += float(np.vdot(missing, missing))
    finite(np.asarray(squared_norm))
    norms = float(np.sqrt(squared_residual)), float(np.sqrt(squared_norm))
    return TruncatedSvd(left, right, s[:rank], *norms, solver="exact")


def _leading_triples(matrix: FloatArray, rank: int) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return left vectors (m, rank), all singular values and right vectors (rank, n) of a matrix (m, n).

    Those of one at least twice as high as wide by its triangular factor: half of the time, a third less memory.
    """
    from scipy.linalg import qr, svd  # Loading SciPy takes longer than inspecting a network.

    if matrix.shape[1] > len(matrix):
        right, s, left = _leading_triples(matrix.T, rank)
        return left.T, s, right.T
    # In LAPACK's order, to be overwritten: it would make a copy.
    dense = finite(matrix.astype(np.float64, order="F"))
    if len(dense) < 2 * dense.shape[1]:
        u, s, vh = svd(dense, full_matrices=False, overwrite_a=True, check_finite=False)
        return u[:, :rank], s, vh[:rank]
    basis, triangle = qr(dense, mode="economic", overwrite_a=True, check_finite=False)
    u, s, vh = svd(triangle, full_matrices=False, overwrite_a=True, check_finite=False)
    return basis @ u[:, :rank], s, vh[:rank]


def _truncate_wide(matrix: FloatArray, rank: int) -> TruncatedSvd:
    """Factor a wide or square matrix by the cheapest solver that is good enough."""
    if _is_large(matrix) and KRYLOV_SHARE * rank <= len(matrix):
        found = leading_left_vectors(matrix, rank)
        if found is not None:
            return _projected(matrix, *found, solver="krylov")
    return _projected(matrix, *_by_gram(matrix, rank), solver="gram")


def _by_gram(matrix: FloatArray, rank: int) -> tuple[Float64Array, FloatArray]:
    """Return the squared singular values and left vectors (m, rank), in float32 where that is good enough."""
    moments = gram(matrix)
    if _is_large(matrix) and suits_float32(moments.trace()):
        squares, u = leading_eigenvectors(moments.astype(np.float32), rank)
        if float32_loss(squares[0], rank) <= 2 * EXCESS * (moments.trace() - squares.sum(dtype=np.float64)):
            return squares.astype(np.float64), u
    return leading_eigenvectors(moments, rank)


def _projected(matrix: FloatArray, squares: Float64Array, u: FloatArray, solver: str) -> TruncatedSvd:
    """Return W ≈ U (Uᵀ W) for orthonormal U (m, r), with products in the precision of U, which is used up."""
    dtype = stored_dtype(matrix)
    # sqrt(s) shares each component equally. Any other positive number would be as correct, so eigenvalues that
    # are rounding noise are replaced by the size of that noise, and those of a zero matrix by 1.
    noise = squares[0] * len(u) * np.finfo(np.float64).eps or 1.0
    share = (np.maximum(squares, noise) ** 0.25).astype(u.dtype)
    left = (u * share).astype(dtype, copy=False)
    u /= share
    right: FloatArray = np.empty((len(squares), matrix.shape[1]), dtype=dtype)
    squared_residual = squared_norm = 0.0
    parts = list(blocks(matrix.shape[1], 16 * matrix.shape[0]))  # The block and what is missing of it.
    for j in parts:
        block = np.require(matrix[:, j], u.dtype, "A")
        right[:, j] = u.T @ block
        squared_norm += float(np.einsum("ij,ij->", block, block, dtype=np.float64))
    if u.dtype == np.float32:
        squared_residual = squared_norm - _explained(left, right, share.astype(np.float64))
    else:
        u[...] = left
        for j in parts:
            missing = u @ right[:, j]
            missing -= matrix[:, j]
            squared_residual += float(np.einsum("ij,ij->", missing, missing))
            del missing  # The next one has its place.
    norms = float(np.sqrt(squared_residual)), float(np.sqrt(squared_norm))
    return TruncatedSvd(left, right, np.sqrt(squares), *norms, solver=solver)


def _explained(left: FloatArray, right: FloatArray, share: Float64Array) -> float:
    """Return ||W||_F² - ||W - LR||_F² = 2 <LᵀW, R> - <LᵀL, RRᵀ> for the rounded factors of `_projected`.

    LᵀW is R times the squares of `share`, but for rounding: together about 1e-8 of ||W||², where float32 is used only
    if more than 1e-4 of it is left.
    """
    moments = gram(right)
    overlaps = left.T.astype(np.float64) @ left.astype(np.float64)
    symmetric = moments + np.tril(moments, -1).T
    return float(2 * share**2 @ moments.diagonal() - np.sum(overlaps * symmetric))
