"""A symmetric matrix held by its half: each row up to its diagonal, in blocks of rows. Solved with in its own place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from surgery.factor.cholesky import FLOOR, Solver, by_eigenvectors
from surgery.ops.array import Float64Array, FloatArray

Near = Callable[[FloatArray], FloatArray]

ROWS = 128  # of a block


@dataclass(frozen=True, eq=False, slots=True)
class Half:
    """Symmetric (n, n) by blocks (rows, end of rows): row and column up to the last row; its own square is whole."""

    blocks: list[FloatArray]

    @classmethod
    def zeros(cls, size: int, dtype: npt.DTypeLike = np.float64) -> Half:
        """Return zeros (size, size)."""
        ends = [*range(ROWS, size, ROWS), size]
        return cls([np.zeros((end - start, end), dtype) for start, end in zip([0, *ends], ends, strict=False)])

    def __len__(self) -> int:
        return int(self.blocks[-1].shape[1])

    def parts(self) -> Iterator[tuple[slice, FloatArray]]:
        """Yield the rows of each block, and the block."""
        return ((slice(block.shape[1] - len(block), block.shape[1]), block) for block in self.blocks)

    def add(self, rows: slice, numbers: FloatArray) -> None:
        """Add whole rows (m, n) of a matrix, `rows` with any step above 0: what is above the squares is not read."""
        wanted = np.arange(len(self))[rows]
        for own, block in self.parts():
            first, last = np.searchsorted(wanted, (own.start, own.stop))
            if first < last:
                mine = slice(wanted[first] - own.start, wanted[last - 1] - own.start + 1, rows.step)
                block[mine] += numbers[first:last, : own.stop]

    def add_squares(self, rows: FloatArray) -> None:
        """Add rowsᵀ rows, for rows (m, n)."""
        for own, block in self.parts():
            block += rows[:, own].T @ rows[:, : own.stop]

    def plus(self, other: Half, share: float) -> Half:
        """Return this matrix + `share` times the other, in float64."""
        result = [np.multiply(share, block, dtype=np.float64) for block in other.blocks]
        for block, own in zip(result, self.blocks, strict=True):
            block += own
        return Half(result)

    def times(self, columns: Float64Array) -> Float64Array:
        """Return the matrix @ columns (n, m)."""
        result = np.zeros(columns.shape)
        for own, block in self.parts():
            result[own] += block @ columns[: own.stop]
            result[: own.start] += block[:, : own.start].T @ columns[own]
        return result

    def trace(self) -> float:
        """Return the sum of the diagonal."""
        return sum(float(block[:, own].trace()) for own, block in self.parts())

    def whole(self) -> Float64Array:
        """Return the matrix as an array."""
        result = np.empty((len(self), len(self)))
        for own, block in self.parts():
            result[own, : own.stop] = block
            result[: own.stop, own] = block.T
        return result


@dataclass(frozen=True, eq=False, slots=True)
class Root:
    """The Cholesky factor L of a symmetric matrix L Lᵀ, in the blocks of its half."""

    blocks: list[FloatArray]

    def solve(self, columns: FloatArray) -> FloatArray:
        """Return the inverse of the matrix @ columns (n, m), in the precision that L is held in."""
        result = self.forward(columns)
        parts = list(Half(self.blocks).parts())
        for i, (own, block) in reversed(list(enumerate(parts))):
            for below, left in parts[i + 1 :]:
                result[own] -= left[:, own].T @ result[below]
            result[own] = _lower(block[:, own], result[own], turned=True)
        return result

    def forward(self, columns: FloatArray) -> FloatArray:
        """Return the inverse of L @ columns (n, m), as `solve` does."""
        result = columns.astype(self.blocks[0].dtype)
        for own, block in Half(self.blocks).parts():
            result[own] -= block[:, : own.start] @ result[: own.start]
            result[own] = _lower(block[:, own], result[own])
        return result


def root(half: Half, ridge: float = 0.0) -> Root:
    """Return the Cholesky factor of the matrix + `ridge` · 1. The half is used up: its place is L's.

    Raises numpy.linalg.LinAlgError where there is none; then the half is what it was, up to rounding.
    """
    done: list[tuple[slice, FloatArray]] = []
    for own, block in half.parts():
        for before, left in done:
            block[:, before] -= block[:, : before.start] @ left[:, : before.start].T
            block[:, before] = _lower(left[:, before], block[:, before].T).T
        square = block[:, own] - block[:, : own.start] @ block[:, : own.start].T
        square.flat[:: len(square) + 1] += ridge
        try:
            factor = np.linalg.cholesky(square)
        except np.linalg.LinAlgError:
            _put_back(block[:, : own.start], done)
            _restore(done, ridge)
            raise
        block[:, own] = factor
        done.append((own, block))
    return Root(half.blocks)


@contextmanager
def lent(half: Half, ridge: float) -> Iterator[Root]:
    """Lend a half's place to the Cholesky factor of it + `ridge` · 1; afterwards it is back, up to rounding.

    Raises numpy.linalg.LinAlgError as `root` does.
    """
    found = root(half, ridge)
    try:
        yield found
    finally:
        _restore(list(half.parts()), ridge)


def half_inverse(half: Half) -> Solver:
    """Return what solves with the matrix as `cholesky.inverse` does. It is used up."""
    try:
        found = _raised(half)
    except np.linalg.LinAlgError:  # Rounding left an eigenvalue below zero.
        return by_eigenvectors(half.whole())
    return lambda columns: np.asarray(found.solve(columns), np.float64)


def near_inverse(half: Half) -> Near:
    """Return what solves with a matrix near it, in float32: to lead a search, in half of the room. It is used up."""
    try:
        found = _raised(half)
    except np.linalg.LinAlgError:
        return by_eigenvectors(half.whole())
    for i, block in enumerate(found.blocks):  # One by one, so that each gives its place back.
        found.blocks[i] = block.astype(np.float32)
    return found.solve


def _raised(half: Half) -> Root:
    return root(half, FLOOR * (half.trace() / len(half) or 1.0))


def _restore(done: list[tuple[slice, FloatArray]], ridge: float) -> None:
    """Make the blocks of L those of the matrix again, from the last on."""
    for i in reversed(range(len(done))):
        own, block = done[i]
        square = block @ block.T
        square.flat[:: len(square) + 1] -= ridge
        block[:, own] = square
        _put_back(block[:, : own.start], done[:i])


def _put_back(rows: FloatArray, done: list[tuple[slice, FloatArray]]) -> None:
    """Make rows of L, up to their square, those of the matrix again, from the last column on."""
    for before, left in reversed(done):
        rows[:, before] = rows[:, : before.stop] @ left.T


def _lower(square: FloatArray, columns: FloatArray, *, turned: bool = False) -> FloatArray:
    import scipy.linalg  # Loading SciPy takes longer than inspecting a network.

    return np.asarray(scipy.linalg.solve_triangular(square, columns, lower=True, trans=int(turned), check_finite=False))
