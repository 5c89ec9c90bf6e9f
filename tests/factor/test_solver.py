"""All solvers against NumPy's SVD."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.errors import PlanError
from surgery.factor.solver import EXACT_SIDE, EXCESS, gram, leading_eigenvectors, singular_values, truncated_svd
from surgery.ops import FloatArray
from tests.cases import low_rank, normal, unaligned

SIDE = EXACT_SIDE + 14
MATRICES = {
    "exact, wide": normal(1, 30, 50),
    "exact, tall": normal(2, 50, 30),
    "exact, unaligned": unaligned(normal(3, 30, 50)),
    "exact, float64": normal(4, 30, 50, dtype=np.float64),
    "gram, wide": normal(5, SIDE, SIDE + 40),
    "gram, tall": normal(6, SIDE + 40, SIDE),
    "gram, unaligned": unaligned(normal(7, SIDE, SIDE + 40)),
    "gram, unaligned, tall": unaligned(normal(8, SIDE + 40, SIDE)),
    "gram, columns in order": np.asfortranarray(normal(9, SIDE, SIDE + 40)),
    "gram, float64": normal(10, SIDE, SIDE + 40, dtype=np.float64),
    "gram, decaying": normal(11, SIDE, SIDE) * np.logspace(0, -12, SIDE, dtype=np.float32),
}
GRAM_NOISE = 1e-6  # Eigenvalues carry SIDE * eps64 = 6e-14 of the largest; their roots 2.5e-7, a few times over.


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("share", [0.02, 0.2, 0.6, 1.0])
def test_the_factors_are_the_best_of_their_rank(name: str, share: float) -> None:
    matrix = MATRICES[name].astype(np.float64)
    rank = max(1, round(share * min(matrix.shape)))
    svd = truncated_svd(MATRICES[name], rank)
    values = np.linalg.svd(matrix, compute_uv=False)
    best = np.sqrt(np.sum(values[rank:] ** 2))
    assert svd.solver == name.split(",")[0]
    # Rounding of the stored factors (see cases.rounding), 4 eps32 sqrt(300) = 8e-6, dominates what is lost.
    np.testing.assert_allclose(svd.residual, best, rtol=0, atol=8e-6 * svd.norm)
    np.testing.assert_allclose(svd.norm, np.linalg.norm(matrix), rtol=1e-12)
    np.testing.assert_allclose(svd.values, values[:rank], rtol=0, atol=GRAM_NOISE * values[0])


@pytest.mark.parametrize("name", MATRICES)
def test_the_residual_is_that_of_the_factors_as_stored(name: str) -> None:
    matrix = MATRICES[name]
    svd = truncated_svd(matrix, 5)
    assert svd.left.dtype == svd.right.dtype == matrix.dtype
    product = svd.left.astype(np.float64) @ svd.right.astype(np.float64)
    # The same sum in another order: 1e5 terms of float64.
    np.testing.assert_allclose(svd.residual, np.linalg.norm(matrix - product), rtol=1e-10)


@pytest.mark.parametrize("name", MATRICES)
def test_components_are_shared_equally_by_both_factors(name: str) -> None:
    svd = truncated_svd(MATRICES[name], 20)
    left, right = np.linalg.norm(svd.left, axis=0), np.linalg.norm(svd.right, axis=1)
    above_noise = svd.values > 1e-4 * svd.values[0]
    # Values 1e-4 of the largest are known to 6e-14 / 1e-8 by the Gram matrix; float32 storage costs 1e-7.
    np.testing.assert_allclose(left[above_noise], right[above_noise], rtol=1e-4)


@pytest.mark.parametrize("name", MATRICES)
def test_singular_values_are_all_there_in_descending_order(name: str) -> None:
    matrix = MATRICES[name]
    values = singular_values(matrix)
    assert np.all(np.diff(values) <= 0)
    wanted = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(values, wanted, rtol=0, atol=GRAM_NOISE * wanted[0])


@pytest.mark.parametrize("rank", [1, 20, 21, 100, SIDE])
def test_a_rank_deficient_matrix_is_exact_from_its_rank_on(rank: int) -> None:
    svd = truncated_svd(low_rank(12, SIDE, SIDE + 9, 20), rank)
    assert np.all(np.isfinite(svd.left))
    assert np.all(np.isfinite(svd.right))
    assert (svd.relative_error < 1e-6) == (rank >= 20)  # Float32 storage, of matrix and factors.


@pytest.mark.parametrize("shape", [(5, 8), (SIDE, SIDE + 1), (SIDE + 1, SIDE)])
def test_a_zero_matrix_has_zero_factors_and_no_error(shape: tuple[int, int]) -> None:
    svd = truncated_svd(np.zeros(shape, np.float32), 3)
    assert svd.relative_error == 0
    assert np.all(np.isfinite(svd.left))
    assert not np.any(svd.left @ svd.right)


@pytest.mark.parametrize("shape", [(5, 8), (SIDE, SIDE + 1), (SIDE + 1, SIDE)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(shape: tuple[int, int], value: float) -> None:
    matrix = normal(13, *shape)
    matrix[3, 4] = value
    with pytest.raises(PlanError, match="weights hold NaN or infinity"):
        truncated_svd(matrix, 2)
    with pytest.raises(PlanError, match="weights hold NaN or infinity"):
        singular_values(matrix)


@pytest.mark.parametrize("shape", [(5, 8), (SIDE, SIDE + 1), (SIDE + 1, SIDE)])
def test_numbers_whose_squares_overflow_are_refused(shape: tuple[int, int]) -> None:
    with np.errstate(over="ignore"), pytest.raises(PlanError, match="weights hold NaN or infinity"):
        truncated_svd(normal(13, *shape).astype(np.float64) * 1e155, 2)


@pytest.mark.parametrize("count", [1, 60, 200, SIDE])
def test_leading_eigenvectors_are_orthonormal_even_in_a_null_space(count: int) -> None:
    moments = gram(low_rank(14, SIDE, SIDE, 20))
    values, vectors = leading_eigenvectors(moments, count)
    assert np.all(np.diff(values) <= 0)
    assert np.all(values >= 0)
    # A few hundred rotations in float64.
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(count), rtol=0, atol=1e-12)


def test_the_gram_matrix_adds_up_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix: FloatArray = normal(15, 12, 100)
    wanted = np.tril(matrix.astype(np.float64) @ matrix.T.astype(np.float64))
    monkeypatch.setattr("surgery.ops.array.BLOCK_BYTES", 8 * 12 * 7)  # Seven columns at a time.
    np.testing.assert_allclose(np.tril(gram(matrix)), wanted, rtol=0, atol=1e-14)
    np.testing.assert_allclose(np.tril(gram(np.asfortranarray(matrix))), wanted, rtol=0, atol=1e-14)


def spectrum(values: np.ndarray, columns: int) -> FloatArray:
    """A float32 matrix with these singular values, by reflections of a diagonal one."""
    rng, rows = np.random.default_rng(16), len(values)
    left, right = (np.linalg.qr(rng.standard_normal((size, 64)))[0] for size in (rows, columns))
    matrix = np.zeros((rows, columns))
    matrix[np.arange(rows), np.arange(rows)] = values
    matrix -= 2 * left @ (left.T @ matrix)
    return (matrix - 2 * (matrix @ right) @ right.T).astype(np.float32)


STEPS = np.arange(1.0, 1025)
SPECTRA = {
    "slow": STEPS**-0.3,
    "decaying": STEPS**-0.7,
    "steep": STEPS**-2,
    "steps of 100 equal ones": 2.0 ** -(STEPS // 100),
    "a few far above noise": np.where(STEPS <= 10, 30, 1 - 0.9 * np.sqrt(STEPS / 1024)),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("rank", [16, 100, 256])
def test_a_large_matrix_is_cut_within_a_thousandth_of_the_best(name: str, rank: int) -> None:
    svd = truncated_svd(spectrum(SPECTRA[name], 1100), rank)
    best = np.sqrt(np.sum(SPECTRA[name][rank:] ** 2))
    assert best * (1 - 1e-4) <= svd.residual <= best * (1 + EXCESS)  # The matrix itself is rounded to float32.


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_numbers_whose_squares_float32_cannot_hold_are_cut_all_the_same(scale: float) -> None:
    matrix = spectrum(SPECTRA["decaying"], 1100)
    plain, scaled = (truncated_svd(np.float32(each) * matrix, 300) for each in (1, scale))
    # The one by a Gram matrix in float32, the other in float64.
    assert scaled.relative_error == pytest.approx(plain.relative_error, rel=EXCESS)


def test_a_low_rank_of_a_large_matrix_is_found_without_its_gram_matrix() -> None:
    matrix = spectrum(SPECTRA["decaying"], 1100)
    assert truncated_svd(matrix, 100).solver == truncated_svd(matrix.T, 100).solver == "krylov"
    assert truncated_svd(matrix, 400).solver == truncated_svd(matrix.astype(np.float64), 100).solver == "gram"
