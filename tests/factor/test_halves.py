"""Symmetric matrices held by half against NumPy's whole ones."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.factor.halves import ROWS, Half, half_inverse, lent, root

SIZES = [1, ROWS - 1, ROWS, 2 * ROWS + 3]
EPS = float(np.finfo(np.float64).eps)


def made(size: int) -> tuple[np.ndarray, Half]:
    rows = np.random.default_rng(size).standard_normal((size, size))
    half = Half.zeros(size)
    half.add_squares(rows)
    return rows.T @ rows, half


def columns(size: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((size, 3))


@pytest.mark.parametrize("size", SIZES)
def test_a_half_is_the_matrix_written_into_it_in_any_order(size: int) -> None:
    matrix, half = made(size)
    again = Half.zeros(size)
    for start in range(3):
        again.add(slice(start, size, 3), matrix[start::3])
    np.testing.assert_array_equal(again.whole(), np.tril(matrix) + np.tril(matrix, -1).T)
    scale = size * EPS * float(np.abs(matrix).max())  # Sums of as many products in another order.
    np.testing.assert_allclose(half.whole(), matrix, rtol=0, atol=scale)
    np.testing.assert_allclose(half.plus(again, 0.5).whole(), 1.5 * matrix, rtol=0, atol=2 * scale)
    np.testing.assert_allclose(half.times(columns(size)), matrix @ columns(size), rtol=0, atol=size * 4 * scale)


@pytest.mark.parametrize("size", SIZES)
def test_its_root_multiplies_and_solves(size: int) -> None:
    matrix, half = made(size)
    matrix += np.eye(size)
    found = root(half.plus(identity(size), 1.0))
    atol = size * 4 * size * EPS * float(np.abs(matrix).max())
    np.testing.assert_allclose(matrix @ found.solve(columns(size)), columns(size), rtol=0, atol=atol)
    lower = np.linalg.cholesky(matrix)
    np.testing.assert_allclose(lower @ found.forward(columns(size)), columns(size), rtol=0, atol=atol)


@pytest.mark.parametrize("size", SIZES)
def test_a_half_that_lent_its_place_to_a_root_is_back(size: int) -> None:
    matrix, half = made(size)
    scale = size * 4 * EPS * float(np.abs(matrix).max())
    with lent(half, 2.0) as found:
        solved = found.solve(columns(size))
    scale += 2 * size * EPS
    np.testing.assert_allclose((matrix + 2 * np.eye(size)) @ solved, columns(size), rtol=0, atol=size * scale)
    np.testing.assert_allclose(half.whole(), matrix, rtol=0, atol=scale)
    assert half.trace() == pytest.approx(np.trace(matrix), rel=1e-12)


def test_without_a_root_the_half_is_back_and_solved_with_where_it_says_something() -> None:
    size = 2 * ROWS + 3
    thin = np.random.default_rng(0).standard_normal((size, 5))
    half = Half.zeros(size)
    half.add_squares(thin.T)
    found = thin @ thin.T @ half_inverse(half)(thin)
    np.testing.assert_allclose(found, thin, rtol=0, atol=1e-4 * np.abs(thin).max())
    matrix, negative = made(size)
    negative.blocks[-1][-1, -1] = matrix[-1, -1] = -1.0
    with pytest.raises(np.linalg.LinAlgError):
        root(negative)
    np.testing.assert_allclose(negative.whole(), matrix, rtol=0, atol=size * 4 * EPS * float(np.abs(matrix).max()))


def identity(size: int) -> Half:
    half = Half.zeros(size)
    half.add_squares(np.eye(size))
    return half
