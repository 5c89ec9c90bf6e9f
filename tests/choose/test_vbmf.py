"""VBMF against the free energy minimised from its definition, and against what is known to be in the matrix."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from surgery.choose.vbmf import UNFOLDING, ranks_by_vbmf, vbmf_rank
from surgery.errors import PlanError
from surgery.factor import METHODS
from surgery.ops import Conv2d, Float64Array
from tests.cases import OPS


def noisy(seed: int, rows: int, columns: int, rank: int, noise: float) -> Float64Array:
    """Singular values of a product of standard normal factors, its entries of variance 1, plus noise."""
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns)) / max(rank, 1) ** 0.5
    return np.linalg.svd(signal + noise * rng.standard_normal((rows, columns)), compute_uv=False)


def component(value: float, rows: int, columns: int, variance: float) -> float:
    """Return twice the free energy of one component at the best of its parameters, 0 for one that is not there.

    JMLR 14, equation 16: M log(ca/sa) + L log(cb/sb) + (a² + M sa)/ca + (b² + L sb)/cb - (L + M)
    + (-2 a b value + (a² + M sa)(b² + L sb)) / variance; a, b are the norms of the means, sa, sb the variances of the
    factors' entries and ca, cb those of their priors. The best priors are ca = a²/M + sa, cb = b²/L + sb; in p = a²/(a²
    + M sa), q = b²/(b² + L sb) and g = a b the rest is -M log(1 - p) - L log(1 - q) + (-2 g value + g²/(p q))/variance,
    whose best g is value p q. That leaves p and q, searched on a grid: for each p all q.
    """

    def energy(p: float | Float64Array, q: Float64Array) -> Float64Array:
        return -columns * np.log1p(-p) - rows * np.log1p(-q) - value**2 / variance * p * q

    grid = 1 - np.geomspace(1, 1e-9, 200)
    values = energy(grid[:, None], grid)
    row, column = np.unravel_index(values.argmin(), values.shape)
    near = [(max(0.0, grid[max(i - 1, 0)]), grid[min(i + 1, len(grid) - 1)]) for i in (row, column)]
    polished = minimize(
        lambda x: float(energy(x[0], x[1])), [grid[row], grid[column]], bounds=near, method="Nelder-Mead", tol=1e-8
    )
    return min(0.0, float(values.min()), float(polished.fun))


def free_energy(variance: float, spectrum: Float64Array, shape: tuple[int, int]) -> tuple[float, int]:
    """Return twice the free energy, but for a constant, and how many components are there."""
    rows, columns = min(shape), max(shape)
    parts = [component(float(value), rows, columns, variance) for value in spectrum]
    noise = rows * columns * np.log(variance) + float(np.square(spectrum).sum()) / variance
    return noise + sum(parts), sum(part < 0 for part in parts)


def searched_rank(spectrum: Float64Array, shape: tuple[int, int]) -> int:
    """The rank at the global minimum over the variance: on a wide grid, then refined."""
    high = float(np.square(spectrum).sum()) / (shape[0] * shape[1])
    grid = np.geomspace(1e-4 * high, 1.05 * high, 60)
    best = int(np.argmin([free_energy(v, spectrum, shape)[0] for v in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    refined = minimize_scalar(lambda v: free_energy(v, spectrum, shape)[0], bounds=around, method="bounded")
    return free_energy(float(refined.x), spectrum, shape)[1]


@pytest.mark.parametrize(
    ("rows", "columns", "rank"), [(6, 6, 2), (6, 40, 3), (12, 9, 4), (15, 60, 5), (10, 10, 0), (3, 200, 1), (2, 5, 1)]
)
@pytest.mark.parametrize("noise", [0.1, 0.7])
def test_the_rank_is_that_at_the_minimum_of_the_free_energy(rows: int, columns: int, rank: int, noise: float) -> None:
    spectrum = noisy(rows + columns, rows, columns, rank, noise)
    assert vbmf_rank(spectrum, (rows, columns)) == searched_rank(spectrum, (rows, columns))


@pytest.mark.parametrize("value", [1.0, 9.0, 9.6, 12.0])
def test_the_reduced_free_energy_of_a_component_is_that_of_its_definition(value: float) -> None:
    rows, columns, variance = 8, 20, 1.0

    def whole(x: Float64Array) -> float:
        a, b = x[0], x[1]
        sa, sb, ca, cb = np.exp(x[2:])
        first, second = a**2 + columns * sa, b**2 + rows * sb
        priors = columns * np.log(ca / sa) + rows * np.log(cb / sb) + first / ca + second / cb - rows - columns
        return float(priors + (-2 * a * b * value + first * second) / variance)

    starts = np.random.default_rng(0).normal(0, 2, (8, 6))
    found = min(minimize(whole, start, method="L-BFGS-B", bounds=[(-20, 20)] * 6).fun for start in starts)
    # Without the component the infimum 0 is reached only in the limit; inside the bounds it is missed by exp(-40).
    assert component(value, rows, columns, variance) == pytest.approx(min(found, 0.0), abs=1e-4)


@pytest.mark.parametrize(("rows", "columns"), [(40, 40), (40, 200), (120, 60), (20, 1000)])
@pytest.mark.parametrize("noise", [1e-3, 0.1, 0.5])
def test_the_true_rank_is_found_where_its_components_stand_clear_of_the_noise(
    rows: int, columns: int, noise: float
) -> None:
    # JMLR 16, theorem 4: ranks far below the smaller side, squares of the signal's values well above those of noise,
    # here rows * columns / rank against 4.91 * noise² * columns at the most.
    for seed in range(5):
        assert vbmf_rank(noisy(seed, rows, columns, 4, noise), (rows, columns)) == 4


@pytest.mark.parametrize(("rows", "columns"), [(30, 30), (30, 300), (100, 60)])
def test_noise_alone_has_rank_0(rows: int, columns: int) -> None:
    for seed in range(5):
        assert vbmf_rank(noisy(seed, rows, columns, 0, 1.0), (rows, columns)) == 0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scale_and_the_way_round_do_not_matter(scale: float) -> None:
    spectrum = noisy(1, 30, 70, 6, 0.6)
    assert vbmf_rank(scale * spectrum, (30, 70)) == vbmf_rank(spectrum, (70, 30)) == 6


def test_a_matrix_without_noise_has_its_own_rank_up_to_rounding() -> None:
    assert vbmf_rank(noisy(2, 30, 50, 5, 0.0), (30, 50)) == 5


@pytest.mark.parametrize(
    ("spectrum", "shape"), [([0.0], (1, 1)), ([2.0], (1, 9)), ([0.0] * 3, (3, 4)), ([1.0] * 4, (4, 4))]
)
def test_what_cannot_be_told_from_noise_has_rank_0(spectrum: list[float], shape: tuple[int, int]) -> None:
    assert vbmf_rank(np.array(spectrum), shape) == 0


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_ranks_within_its_bounds_or_says_that_it_has_none(name: str, op: Conv2d) -> None:
    method = METHODS[name]
    if name not in UNFOLDING or method.refusal(op):
        with pytest.raises(PlanError):
            ranks_by_vbmf(method, op)
        return
    ranks = ranks_by_vbmf(method, op)
    assert all(1 <= rank <= largest for rank, largest in zip(ranks, method.max_rank(op), strict=True))


@pytest.mark.parametrize("groups", [1, 2])
def test_each_rank_of_a_tucker_decomposition_is_that_of_its_mode(groups: int) -> None:
    rng = np.random.default_rng(3)
    parts = []
    for _ in range(groups):
        core = rng.standard_normal((5, 3, 3, 3))
        out, into = rng.standard_normal((40, 5)), rng.standard_normal((30, 3))
        parts.append(np.einsum("or,rskl,is->oikl", out, core, into))
    weight = np.concatenate(parts)
    op = Conv2d(weight + 0.2 * rng.standard_normal(weight.shape), groups=groups)
    assert ranks_by_vbmf(METHODS["tucker2"], op) == (5, 3)
    assert ranks_by_vbmf(METHODS["svd-channel"], op) == (5,)
