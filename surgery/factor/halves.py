"""A symmetric matrix held by its half: each row up to its diagonal, in blocks of rows. Solved with in its own place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from surgery.factor.cholesky import FLOOR, Solver, by_eigenvectors
from surgery.ops.array import Float64Array, FloatArray

ROWS = 128  # of a block


@dataclass(frozen=True, eq=False, slots=True)
class Half:
    """Symmetric (n, n) by blocks (rows, end of rows): row and column up to the last row; its own square is whole."""

    blocks: Sequence[FloatArray]

    @classmethod
    def zeros(cls, size: int) -> Half:
        """Return zeros (size, size)."""
        ends = [*range(ROWS, size, ROWS), size]
        return cls([np.zeros((end - start, end)) for start, end in zip([0, *ends], ends, strict=False)])

    @classmethod
    def of(cls, matrix: Float64Array) -> Half:
        """Return that of a symmetric array."""
        result = cls.zeros(len(matrix))
        result.add(slice(None), matrix)
        return result

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
        """Return this matrix + `share` times the other."""
        result = [share * block for block in other.blocks]
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

    blocks: Sequence[FloatArray]

    def solve(self, columns: FloatArray) -> Float64Array:
        """Return the inverse of the matrix @ columns (n, m)."""
        result = columns.astype(np.float64)
        for own, block in Half(self.blocks).parts():
            result[own] -= block[:, : own.start] @ result[: own.start]
            result[own] = _lower(block[:, own], result[own])
        for own, block in reversed(list(Half(self.blocks).parts())):
            result[own] = _lower(block[:, own], result[own], turned=True)
            result[: own.start] -= block[:, : own.start].T @ result[own]
        return result

    def times(self, rows: Float64Array) -> Float64Array:
        """Return rows (m, n) @ the matrix."""
        turned, result = np.empty(rows.shape), np.zeros(rows.shape)
        for own, block in Half(self.blocks).parts():  # rows @ L: columns `own` of L stand in this block and below it.
            turned[:, own] = 0.0
            turned[:, : own.stop] += rows[:, own] @ block
        for own, block in Half(self.blocks).parts():
            result[:, own] = turned[:, : own.stop] @ block.T
        return result

    def whole(self) -> Float64Array:
        """Return the matrix as an array."""
        size = self.blocks[-1].shape[1]
        result, parts = np.empty((size, size)), list(Half(self.blocks).parts())
        for i, (own, block) in enumerate(parts):
            for other, left in parts[: i + 1]:
                result[own, other] = block[:, : other.stop] @ left.T
                result[other, own] = result[own, other].T
        return result


def root(half: Half, floor: float = 0.0) -> Root:
    """Return the Cholesky factor, eigenvalues raised by `floor` of their mean. The half is used up: its place is L's.

    Raises numpy.linalg.LinAlgError where there is none; then the half is what it was, up to rounding.
    """
    raised = floor * (sum(float(block[:, own].trace()) for own, block in half.parts()) / len(half) or 1.0)
    done: list[tuple[slice, FloatArray]] = []
    for own, block in half.parts():
        for before, left in done:
            block[:, before] -= block[:, : before.start] @ left[:, : before.start].T
            block[:, before] = _lower(left[:, before], block[:, before].T).T
        square = block[:, own] - block[:, : own.start] @ block[:, : own.start].T
        square.flat[:: len(square) + 1] += raised
        try:
            factor = np.linalg.cholesky(square)
        except np.linalg.LinAlgError:
            _put_back(block[:, : own.start], done)
            for i in reversed(range(len(done))):
                rows, left = done[i]
                left[:, rows] = left @ left.T
                _put_back(left[:, : rows.start], done[:i])
            raise
        block[:, own] = factor
        done.append((own, block))
    return Root(half.blocks)


def half_inverse(half: Half, held: npt.DTypeLike = np.float64) -> Solver:
    """Return what solves with the matrix as `cholesky.inverse` does, with its root in the precision `held`.

    It is used up.
    """
    try:
        found = root(half, FLOOR)
    except np.linalg.LinAlgError:  # Rounding left an eigenvalue below zero.
        return by_eigenvectors(half.whole())
    return Root([block.astype(held, copy=False) for block in found.blocks]).solve


def _put_back(rows: FloatArray, done: list[tuple[slice, FloatArray]]) -> None:
    """Make rows of L, up to their square, those of the matrix again, from the last column on."""
    for before, left in reversed(done):
        rows[:, before] = rows[:, : before.stop] @ left.T


def _lower(square: FloatArray, columns: FloatArray, *, turned: bool = False) -> Float64Array:
    import scipy.linalg  # Loading SciPy takes longer than inspecting a network.

    return np.asarray(scipy.linalg.solve_triangular(square, columns, lower=True, trans=int(turned), check_finite=False))
