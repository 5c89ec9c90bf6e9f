"""Leading left singular vectors of a large matrix without its Gram matrix, by a randomised block Lanczos iteration.

Golub and Underwood (1977), "The block Lanczos method for computing eigenvalues", on W Wᵀ from a random start (Musco and
Musco, 2015, "Randomized block Krylov methods for stronger and faster approximate singular value decomposition"). Every
column of the basis costs two products with W, made in float32; whatever decides orthogonality is float64. The basis
ends up two to three times as wide as the rank.

How it is known that the vectors are good enough: what the basis holds of the best rank's energy only rises, by gains
that fall ever faster. Were they to fall only as fast as they did at the slower of the last two steps, a geometric
series says what is yet to come. A block can find no more equal singular values than it has columns, so a second
iteration, from a fresh start outside the basis, must not find more than that either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from surgery.ops.array import Float64Array, FloatArray, blocks

# Narrower blocks need fewer columns in all, but BLAS is the slower the thinner they are.
BLOCK = 48
PROBE, PROBE_STEPS = 16, 2
# What may be yet to come, as a share of the energy outside: 0.05 % of the error, half of what the solver promises.
MISSING = 1e-3
# Products in float32 cost up to 1e-6 of all energy; a tail that is not far above that needs float64.
LEAST_TAIL = 1e-3


def leading_left_vectors(matrix: FloatArray, rank: int) -> tuple[Float64Array, FloatArray] | None:
    """Return the `rank` largest squared singular values of `matrix` (m, n), m <= n, and their left vectors (m, rank).

    None where they cannot be had cheaply: the iteration does not settle in a basis of about four times the rank, or
    the rank holds nearly everything, or numbers are too large or small to be squared in float32. Deterministic.
    """
    total, rows, rng = energy(matrix), len(matrix), np.random.default_rng(0)
    if not suits_float32(total):
        return None
    widest = min(4 * rank + 6 * BLOCK, rows // 2)
    space, block = _Space(np.empty((rows, 0)), np.empty((0, 0))), rng.standard_normal((rows, BLOCK))
    held: list[float] = []
    while not held or _to_come(held) > MISSING * (total - held[-1]):
        space, block = _grown(space, matrix, block)
        if space.width >= rank:
            held.append(space.held(rank))
        if space.width > widest or (held and total - held[-1] < LEAST_TAIL * total):
            return None
    block = rng.standard_normal((rows, PROBE))
    for _ in range(PROBE_STEPS):
        space, block = _grown(space, matrix, block)
    if space.held(rank) - held[-1] > MISSING * (total - held[-1]):
        return None
    squares, vectors = np.linalg.eigh(space.projected)
    leading = slice(None, -rank - 1, -1)
    return squares[leading], (space.basis @ vectors[:, leading]).astype(np.float32)


def energy(matrix: FloatArray) -> float:
    """Return ||W||_F squared, summed in float64."""
    parts = (matrix[:, j] for j in blocks(matrix.shape[1], 4 * len(matrix)))
    return sum(float(np.einsum("ij,ij->", part, part, dtype=np.float64)) for part in parts)


def suits_float32(total: float) -> bool:
    """Return whether numbers with this sum of squares can be squared, and added, in float32."""
    return 1e-24 < total < 1e24


@dataclass(frozen=True, eq=False, slots=True)
class _Space:
    """Orthonormal columns `basis` (m, k) and what they see of W: `projected` (k, k) = basisᵀ W Wᵀ basis."""

    basis: Float64Array
    projected: Float64Array

    @property
    def width(self) -> int:
        """Number of columns k."""
        return len(self.projected)

    def held(self, rank: int) -> float:
        """Return the energy of W that the best `rank` directions of the basis hold."""
        return float(np.linalg.eigvalsh(self.projected)[-rank:].sum())


def _grown(space: _Space, matrix: FloatArray, block: Float64Array) -> tuple[_Space, Float64Array]:
    """Return the space with the columns of `block` (m, b) added, and W Wᵀ times what they added."""
    for _ in range(2):  # Twice is enough (Giraud et al., 2005); a block inside the space becomes noise outside it.
        block = np.linalg.qr(block - space.basis @ (space.basis.T @ block))[0]
    image = _gram_times(matrix, block)
    across, own = space.basis.T @ image, block.T @ image
    projected = np.block([[space.projected, across], [across.T, (own + own.T) / 2]])
    return _Space(np.hstack([space.basis, block]), projected), image


def _gram_times(matrix: FloatArray, block: Float64Array) -> Float64Array:
    """Return W Wᵀ block, reading W once."""
    rows = block.T.astype(np.float32)  # Thin factors to the left: BLAS is a tenth faster.
    result = np.zeros(rows.shape)
    for j in blocks(matrix.shape[1], 4 * len(matrix)):
        part = np.require(matrix[:, j], np.float32, "A")  # A copy only where the weight is not aligned or float16.
        result += (rows @ part) @ part.T
    return result.T


def _to_come(held: Sequence[float]) -> float:
    """Return the sum of all gains after the last, if each is to the one before as the slower of the last two was."""
    if len(held) < 4:
        return np.inf
    gains = np.diff(held[-4:])
    ratio = float(np.max(gains[1:] / np.maximum(gains[:-1], np.finfo(np.float64).tiny)))
    return float(gains[-1]) * ratio / (1 - ratio) if ratio < 1 else np.inf
