"""Ranks by variational Bayesian matrix factorisation: of a matrix, what is not noise.

Nakajima, Sugiyama, Babacan and Tomioka (2013), "Global analytic solution of fully-observed variational Bayesian matrix
factorization", JMLR 14; the form of the solution used here is that of Nakajima, Tomioka, Sugiyama and Babacan (2015),
"Condition for perfect dimensionality recovery by variational Bayesian PCA", JMLR 16. Chosen for the ranks of Tucker
decompositions by Kim et al. (2016).
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, log, log1p

import numpy as np

from surgery.errors import PlanError
from surgery.factor import Method, Rank
from surgery.ops import Conv2d, Float64Array, Op

# Those whose spectra are the singular values of whole unfoldings; a rank of any other is no rank of a matrix.
UNFOLDING = ("svd", "svd-channel", "svd-spatial", "tucker2", "response", "response-3d")
NOISE = 1.5e-8  # Share of the largest singular value below which values are rounding (`Method.spectrum`).
GRID = 400  # Points in the search for the variance, evenly by logarithm; breaks of its objective are added.


def vbmf_rank(spectrum: Float64Array, shape: tuple[int, int]) -> int:
    """Return how many components of a matrix are not noise: 0 where noise explains it all.

    Empirical variational Bayes with the variance of the noise unknown, solved for its global minimum: a search in one
    variable, the rest in closed form.

    Args:
        spectrum: all min(shape) singular values, largest first.
        shape: of the matrix, either way round.
    """
    rows, columns = min(shape), max(shape)
    if not spectrum[0] > 0:
        return 0
    ratio = rows / columns
    threshold = _threshold(ratio)
    # In units in which the mean square of an entry is 1: the variance of the noise is at most that.
    squares = np.square(spectrum / np.linalg.norm(spectrum)) * rows
    variance = _variance(squares, ratio, threshold)
    return int(np.count_nonzero(squares > variance * threshold))


def ranks_by_vbmf(method: Method, op: Op) -> Rank:
    """Return, for each number of a rank, that of the unfolding it is the rank of; each from 1 to its largest.

    Groups count as one matrix: their spectra are joined, and a factor common to all values changes no rank.

    Raises:
        PlanError: the method does not cut at the rank of a matrix, or refuses the layer.
    """
    if method.name not in UNFOLDING:
        raise PlanError(f"{method.name}: VBMF finds ranks of matrices; choose one of {', '.join(UNFOLDING)}")
    entries = op.weight.size // (op.groups if isinstance(op, Conv2d) else 1)
    found = [vbmf_rank(values, (len(values), entries // len(values))) for values in method.spectrum(op)]
    return tuple(min(max(rank, 1), largest) for rank, largest in zip(found, method.max_rank(op), strict=True))


@lru_cache
def _threshold(ratio: float) -> float:
    """Return the square of a singular value, over that of the noise and the columns, from which on it is kept.

    (1 + t) (1 + ratio / t) with t the zero of phi(t) + phi(t / ratio), phi(z) = log(z + 1) / z - 1/2 (JMLR 16, theorem
    2); about 2.5129 sqrt(ratio).
    """
    from scipy.optimize import brentq  # Loading SciPy takes longer than inspecting a network.

    def balance(t: float) -> float:
        return log1p(t) / t + log1p(t / ratio) * ratio / t - 1

    # Positive at ratio (1 < 2 log 2), negative at 2.6: the zero at ratio 1 is 2.5129, and it rises with the ratio.
    zero = float(brentq(balance, ratio, 2.6, xtol=1e-15))
    return (1 + zero) * (1 + ratio / zero)


def _variance(squares: Float64Array, ratio: float, threshold: float) -> float:
    """Return the variance of the noise at the global minimum of the free energy.

    `squares` are singular values squared over the columns. The bounds are those of JMLR 16, theorem 3; between two
    breaks, where a component begins to count, the objective is smooth.
    """
    from scipy.optimize import minimize_scalar

    rows = len(squares)
    most = min(ceil(rows / (1 + ratio)) - 1, rows - 1)
    high = float(squares.mean())
    low = max(squares[most] / threshold, float(squares[most:].mean()), squares[0] * NOISE**2 / threshold)
    if low >= high:
        return high
    breaks = squares[(squares > low * threshold) & (squares < high * threshold)] / threshold
    points = np.unique(np.concatenate([np.geomspace(low, high, GRID), breaks]))
    best = int(np.argmin([_free_energy(float(point), squares, ratio, threshold) for point in points]))
    around = float(points[max(best - 1, 0)]), float(points[min(best + 1, len(points) - 1)])
    refined = minimize_scalar(
        _free_energy, bounds=around, args=(squares, ratio, threshold), method="bounded", options={"xatol": 1e-12 * high}
    )
    at_best = _free_energy(float(points[best]), squares, ratio, threshold)
    return float(refined.x) if refined.fun < at_best else float(points[best])


def _free_energy(variance: float, squares: Float64Array, ratio: float, threshold: float) -> float:
    """Return the free energy over the columns, but for a constant, at the best of all other parameters (JMLR 16)."""
    scaled = squares / variance
    kept = scaled[scaled > threshold]
    centred = kept - (1 + ratio)
    tau = (centred + np.sqrt(np.square(centred) - 4 * ratio)) / 2
    gained = np.log1p(tau) + ratio * np.log1p(tau / ratio) - tau
    return float(scaled.sum() + gained.sum()) + len(squares) * log(variance)
