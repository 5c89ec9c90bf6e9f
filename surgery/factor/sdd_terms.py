"""Sums of outer products of ternary vectors: W ≈ X diag(d) Yᵀ with X and Y of -1, 0, 1 and d ≥ 0.

Kolda and O'Leary (1998), "A semidiscrete matrix decomposition for latent semantic indexing", add one term after the
other, each solved by turns for x and y. Wang and Cheng (2017), "Fixed-point factorized networks", go on to put each
term back and solve it again. Here either is done for one term at a time or for a block of terms: then all products with
the residual are of matrices, not of vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from surgery.factor.metric import DenseMetric, Metric
from surgery.ops.array import BLOCK_BYTES, Float64Array, FloatArray, blocks, product

MAX_TURNS = 1000  # As the authors' code; a block takes 5 to 30.
WIDE = 16  # A block that is wider against a small matrix starts as random terms do, and ends worse than one by one.
POWER_STEPS = 2  # Of RᵀR on random signs, to start from. None costs 1 % more error, four gain nothing.


@dataclass(frozen=True, slots=True)
class Schedule:
    """How terms are found.

    Attributes:
        width: how many are solved together, where both sides of the matrix are WIDE times as long.
        turn_gain: a turn of both sides that adds less than this share to the energy the block holds is its last.
        sweeps: how often at most all terms are solved in turn: the first from nothing, later ones again.
        sweep_gain: a sweep that lowers the squared error by less than this share of it is the last.
    """

    width: int
    turn_gain: float
    sweeps: int
    sweep_gain: float


@dataclass(frozen=True, eq=False, slots=True)
class Terms:
    """x (m, k) and y (n, k) of -1, 0, 1, and the numbers d (k,) between them, none negative."""

    x: FloatArray
    d: Float64Array
    y: FloatArray

    def part(self, columns: slice) -> Block:
        """Return copies of some terms."""
        return self.x[:, columns].astype(np.float64), self.d[columns].copy(), self.y[:, columns].astype(np.float64)


Block = tuple[Float64Array, Float64Array, Float64Array]  # x, d and y of a few terms


class Space:
    """The Frobenius norm as a space for the columns of one side: their entries do not depend on each other."""

    def times(self, columns: Float64Array) -> Float64Array:
        """Return C @ columns (n, b), C being the metric of the space: here 1."""
        return columns

    def solve(
        self, column: Float64Array, image: Float64Array, wanted: Float64Array, d: float
    ) -> tuple[Float64Array, Float64Array]:
        """Return a ternary v (n,) and C v, no worse than `column` at min over d of d² vᵀCv - 2 d vᵀ`wanted`.

        `image` is C @ `column`, and `d` what it was multiplied by until now.
        """
        best = nearest_ternary(wanted)
        return best, best


@dataclass(frozen=True, eq=False)
class MetricSpace(Space):
    """One group of a metric: entries depend on each other, and are changed one by one where it is held densely."""

    metric: Metric
    group: int

    def times(self, columns: Float64Array) -> Float64Array:
        """See `Space.times`."""
        return self.metric.times(self.group, columns.T).T

    def solve(
        self, column: Float64Array, image: Float64Array, wanted: Float64Array, d: float
    ) -> tuple[Float64Array, Float64Array]:
        """Coordinate descent as in FFN's authors' code, but always by the one entry that lowers the cost the most."""
        assert isinstance(self.metric, DenseMetric)  # Of others only `times` is asked for.
        moments, ridge = self.metric.moments[self.group], self.metric.ridge
        if d == 0:
            column = nearest_ternary(wanted)
            image = self.times(column[:, np.newaxis])[:, 0]
            d = float(column @ wanted) / (float(column @ image) or 1.0)
        column, image, curve = column.copy(), image.copy(), moments.diagonal() + ridge
        for _ in range(10 * len(column)):  # Every change lowers the cost, so that rounding alone could reach this.
            steps = TERNARY - column
            costs = d * steps * (d * curve * steps + 2 * (d * image - wanted))
            value, entry = divmod(int(np.argmin(costs)), len(column))
            if costs[value, entry] >= -CHANGE * d * d * curve[entry]:
                break
            image += steps[value, entry] * moments[entry]
            image[entry] += steps[value, entry] * ridge
            column[entry] += steps[value, entry]
        return column, image


TERNARY = np.array([[-1.0], [0.0], [1.0]])
CHANGE = 1e-9  # Changes that gain less than this share of what one entry costs are rounding.


def nearest_ternary(wanted: Float64Array) -> Float64Array:
    """Return the ternary vector (n,) with the smallest angle to `wanted` (Kolda and O'Leary, 1998).

    The J largest entries keep their sign, J being where (the sum of their sizes)² / J is largest.
    """
    sizes = np.abs(wanted)
    sorted_sizes = np.sort(sizes)[::-1]
    held = np.square(np.cumsum(sorted_sizes)) / np.arange(1, len(sizes) + 1)
    return np.where(sizes >= sorted_sizes[np.argmax(held)], np.sign(wanted), 0.0)


def no_terms(m: int, n: int, rank: int) -> Terms:
    """Return terms of zero; those that a sweep finds so get a fresh start."""
    # Y in column order: its transpose is the weight of a layer, in the order that files hold.
    return Terms(np.zeros((m, rank), np.float32), np.zeros(rank), np.zeros((rank, n), np.float32).T)


def solved(
    matrix: FloatArray, given: Terms, schedule: Schedule, rng: np.random.Generator, space: Space | None = None
) -> Terms:
    """Return terms whose sum is nearer to `matrix` (m, n) in `space`, the Frobenius norm unless another is given.

    No step raises the error. Of memory it takes the residual in float64, the terms, and blocks.
    """
    space = space or Space()
    residual: Float64Array = matrix.astype(np.float64)
    terms = Terms(given.x.copy(), given.d.copy(), given.y.copy("K"))
    del given  # Where no one else holds them, they need not be held.
    width = max(1, min(schedule.width, min(residual.shape) // WIDE))
    columns = [slice(start, start + width) for start in range(0, len(terms.d), width)]
    for block in columns:
        _subtract(residual, terms.part(block))
    energy = _energy(residual, space)
    for _ in range(schedule.sweeps):
        for block in columns:
            _solve_block(residual, terms, block, schedule.turn_gain, rng, space)
        before, energy = energy, _energy(residual, space)
        if before - energy <= schedule.sweep_gain * before:
            break
    return terms


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yield blocks of rows in order, each small beside the whole matrix as well."""
    return blocks(rows, max(8 * columns, 8 * BLOCK_BYTES // rows))


def _energy(residual: Float64Array, space: Space) -> float:
    return sum(
        float(np.einsum("ij,ij->", residual[rows], space.times(residual[rows].T).T))
        for rows in row_blocks(*residual.shape)
    )


def _solve_block(
    residual: Float64Array, terms: Terms, columns: slice, gain: float, rng: np.random.Generator, space: Space
) -> None:
    """Put some terms back into `residual`, solve them again and take them out, all in place."""
    x, d, y = terms.part(columns)
    _subtract(residual, (x, -d, y))
    dead = d == 0
    if dead.any():
        y[:, dead] = _guess(residual, int(dead.sum()), rng)
    block = _by_turns(residual, (x, d, y), gain, space)
    _subtract(residual, block)
    terms.x[:, columns], terms.d[columns], terms.y[:, columns] = block


def _subtract(residual: Float64Array, block: Block) -> None:
    x, d, y = block
    for rows in row_blocks(*residual.shape):
        residual[rows] -= (x[rows] * d) @ y.T


def _guess(residual: Float64Array, count: int, rng: np.random.Generator) -> Float64Array:
    """Return columns (n, count) to start from: ones for a single one, as in the paper, else random and improved."""
    n = residual.shape[1]
    if count > 1:
        signs: Float64Array = rng.choice(np.array([-1.0, 1.0]), (n, count))
        for _ in range(POWER_STEPS):
            signs = np.sign(residual.T @ (residual @ signs))
        return signs
    ones = np.ones((n, 1))
    if (residual @ ones).any():
        return ones
    # A row's own signs are never orthogonal to it.
    longest = int(np.argmax(np.einsum("ij,ij->i", residual, residual)))
    own: Float64Array = np.sign(residual[longest : longest + 1].T)
    return own


def _by_turns(residual: Float64Array, block: Block, gain: float, space: Space) -> Block:
    """Return the block's terms solved for x and y in turn, until a turn gains next to nothing."""
    x, d, y = block
    rows, images, held = Space(), space.times(y), 0.0
    for _ in range(MAX_TURNS):
        x, d, _ = _columns(residual @ images, y.T @ images, x, x, d, rows)
        wanted, gram = space.times(residual.T @ x), x.T @ x
        y, d, images = _columns(wanted, gram, y, images, d, space)
        before, held = held, float(d @ (2 * np.einsum("ij,ij->j", y, wanted) - (gram * (y.T @ images)) @ d))
        if held - before <= gain * before:
            break
    return x, d, y


def _columns(
    wanted: Float64Array, gram: Float64Array, factor: Float64Array, images: Float64Array, d: Float64Array, space: Space
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return one side's columns, what they are multiplied by, and their images, each solved with the others fixed.

    `wanted` (n, b) is C Rᵀ X for the columns of the other side, X, and `gram` (b, b) is Xᵀ X in its own metric.
    """
    factor, images, d = factor.copy(), images.copy(), d.copy()
    for i, own in enumerate(gram.diagonal()):
        others = np.where(np.arange(len(d)) == i, 0.0, d * gram[i])
        alone = (wanted[:, i] - images @ others) / (own or 1.0)
        column, image = space.solve(factor[:, i], images[:, i], alone, float(d[i]))
        square, along = float(column @ image), float(column @ alone)
        d[i] = abs(along) / square if own and square > 0 else 0.0
        sign = np.sign(along) if d[i] else 0.0
        factor[:, i], images[:, i] = sign * column, sign * image
    return factor, d, images


def refitted(matrix: FloatArray, terms: Terms, space: Space | None = None) -> Terms:
    """Return the terms with the best d for their x and y: ((XᵀC X) ∘ (YᵀC Y)) d = diag(Xᵀ W C Y), by least squares.

    Solved by conjugate gradients from the d there is, so that the error does not rise and no (k, k) matrix is made.
    A negative d gives its sign to x.
    """
    import scipy.sparse.linalg  # Loading SciPy takes longer than inspecting a network.

    space = space or Space()
    x, d, y = terms.x, terms.d, terms.y
    parts = list(row_blocks(len(x), max(len(y), len(d))))

    def along(rows: slice, values: Float64Array) -> Float64Array:
        on_terms = product(space.times(values.T).T, y)
        result: Float64Array = np.einsum("ij,ij->j", on_terms, x[rows], dtype=np.float64)
        return result

    def made(rows: slice, by: Float64Array) -> Float64Array:
        return product(x[rows] * by.reshape(-1), y.T).astype(np.float64, copy=False)

    def normal(by: Float64Array) -> Float64Array:
        result: Float64Array = np.sum([along(rows, made(rows, by)) for rows in parts], axis=0)
        return result

    missing = np.sum([along(rows, matrix[rows] - made(rows, d)) for rows in parts], axis=0)
    operator = scipy.sparse.linalg.LinearOperator((len(d), len(d)), normal, dtype=np.float64)
    change, _ = scipy.sparse.linalg.cg(operator, missing, rtol=REFIT, maxiter=50)
    best = d + change
    return Terms(x * np.where(best < 0, -1, 1).astype(x.dtype), np.abs(best), y)


REFIT = 1e-6  # Of the first residual: 10 to 20 steps, far less than a sweep.
