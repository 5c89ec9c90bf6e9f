"""Solve with symmetric positive definite matrices in the place that they have: a copy may be larger than all else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from surgery.ops.array import Float64Array, FloatArray

Solver = Callable[[FloatArray], Float64Array]

# Relative to the mean eigenvalue: what is smaller is rounding, and the solution keeps its numbers there.
FLOOR = 1e-12
ROWS = 128  # put back at a time


def inverse(symmetric: Float64Array) -> Solver:
    """Return what solves with a positive semi-definite matrix (n, n), its eigenvalues raised by `FLOOR` of their mean.

    The matrix is used up: its place is the solver's.
    """
    import scipy.linalg  # Loading SciPy takes longer than inspecting a network.

    diagonal = symmetric.diagonal().copy()
    try:
        factor = _factored(symmetric, _floor(diagonal))
    except scipy.linalg.LinAlgError:  # Rounding left an eigenvalue below zero.
        _restore(symmetric, diagonal)
        return by_eigenvectors(symmetric)
    return lambda rows: np.asarray(scipy.linalg.cho_solve(factor, rows, check_finite=False))


def lending(symmetric: Float64Array, ridge: float) -> Solver:
    """Return what solves as `inverse` does, with matrix + `ridge` · 1; the matrix is its own again between calls.

    Each call factors it anew.
    """
    import scipy.linalg  # Loading SciPy takes longer than inspecting a network.

    def solve(rows: FloatArray) -> Float64Array:
        try:
            with lent(symmetric, ridge + _floor(symmetric.diagonal() + ridge)) as factor:
                return np.asarray(scipy.linalg.cho_solve(factor, rows, check_finite=False))
        except scipy.linalg.LinAlgError:
            return by_eigenvectors(symmetric + ridge * np.eye(len(symmetric)))(rows)

    return solve


@contextmanager
def lent(symmetric: Float64Array, ridge: float) -> Iterator[tuple[Float64Array, bool]]:
    """Lend a matrix's place to its Cholesky factor, as `cho_solve` takes it; afterwards it is back, bit by bit.

    Raises numpy.linalg.LinAlgError where matrix + `ridge` · 1 is not positive definite. One that cannot be written, a
    view of a file, is copied.
    """
    own = _writeable(symmetric)
    diagonal = own.diagonal().copy()
    try:
        yield _factored(own, ridge)
    finally:
        _restore(own, diagonal)


@contextmanager
def ridged(symmetric: Float64Array, ridge: float) -> Iterator[Float64Array]:
    """Lend a matrix's place to matrix + `ridge` · 1; afterwards it is back, bit by bit. Copied as by `lent`."""
    own = _writeable(symmetric)
    diagonal = own.diagonal().copy()
    try:
        own.flat[:: len(own) + 1] += ridge
        yield own
    finally:
        own.flat[:: len(own) + 1] = diagonal


def _writeable(symmetric: Float64Array) -> Float64Array:
    return symmetric if symmetric.flags.writeable and symmetric.flags.c_contiguous else symmetric.copy(order="C")


def by_eigenvectors(symmetric: Float64Array) -> Solver:
    """Return what `inverse` does where there is no Cholesky factor: small eigenvalues are raised to rounding's size."""
    values, vectors = np.linalg.eigh(symmetric)
    floor = max(float(values[-1]), 0.0) * len(symmetric) * np.finfo(np.float64).eps or 1.0
    return lambda rows: vectors @ ((vectors.T @ rows) / np.maximum(values, floor)[:, None])


def _floor(diagonal: Float64Array) -> float:
    return FLOOR * (float(diagonal.mean()) or 1.0)


def _factored(symmetric: Float64Array, ridge: float) -> tuple[Float64Array, bool]:
    """Return a Cholesky factor in the upper triangle; the part below the diagonal stays as it is."""
    import scipy.linalg  # Loading SciPy takes longer than inspecting a network.

    symmetric.flat[:: len(symmetric) + 1] += ridge
    # Symmetric, so that in the order of LAPACK it is its own transpose, and overwritten.
    factor: tuple[Float64Array, bool] = scipy.linalg.cho_factor(
        symmetric.T, lower=True, overwrite_a=True, check_finite=False
    )
    return factor


def _restore(matrix: Float64Array, diagonal: Float64Array) -> None:
    """Write the part below the diagonal over the one above it."""
    for start in range(0, len(matrix), ROWS):
        rows = slice(start, start + ROWS)
        lower = np.tril(matrix[rows, rows], -1)
        matrix[rows, rows] = lower + lower.T
        matrix[rows, rows.stop :] = matrix[rows.stop :, rows].T
    matrix.flat[:: len(matrix) + 1] = diagonal
