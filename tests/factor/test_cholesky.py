"""Solves in a matrix's own place against NumPy's, and the matrix afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.factor.cholesky import FLOOR, ROWS, inverse, lending, lent

SIZE = 2 * ROWS + 3  # Several blocks of rows are put back, the last one shorter.
ROOT = np.random.default_rng(0).standard_normal((SIZE, SIZE))
MATRIX = ROOT @ ROOT.T + np.eye(SIZE)
WANTED = np.random.default_rng(1).standard_normal((SIZE, 3))


def raised(found: np.ndarray) -> float:
    """What eigenvalues raised by `FLOOR` move of the wanted numbers, twice for rounding."""
    return 2 * FLOOR * float(MATRIX.trace()) / SIZE * float(np.abs(found).max())


def test_a_lent_matrix_is_solved_with_and_comes_back_bit_by_bit() -> None:
    symmetric = (MATRIX + MATRIX.T) / 2
    before = symmetric.tobytes()
    found = lending(symmetric, 0.5)(WANTED)
    assert symmetric.tobytes() == before
    np.testing.assert_allclose((symmetric + 0.5 * np.eye(SIZE)) @ found, WANTED, rtol=0, atol=raised(found))


def test_it_comes_back_too_where_it_has_no_factor() -> None:
    symmetric = np.diag(np.linspace(1, -1, SIZE))
    before = symmetric.tobytes()
    with pytest.raises(np.linalg.LinAlgError), lent(symmetric, 0.0):
        pytest.fail("a matrix that is not positive definite has no Cholesky factor")
    assert symmetric.tobytes() == before


def test_one_that_cannot_be_written_is_not() -> None:
    symmetric = MATRIX.copy()
    symmetric.flags.writeable = False
    found = lending(symmetric, 0.5)(WANTED)
    np.testing.assert_allclose((symmetric + 0.5 * np.eye(SIZE)) @ found, WANTED, rtol=0, atol=raised(found))


def test_a_singular_matrix_is_solved_with_where_it_says_something() -> None:
    thin = ROOT[:, :5]
    for solve in (inverse(thin @ thin.T), lending(thin @ thin.T, 0.0)):
        found = thin @ thin.T @ solve(thin)
        np.testing.assert_allclose(found, thin, rtol=0, atol=1e-4 * np.abs(thin).max())
