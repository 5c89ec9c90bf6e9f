"""The least squares problem of a chain in a metric, and what is left of it for a stage between others.

    min over V (out, channels, *kernel) of tr(V C Vᵀ) - 2 tr(V Rᵀ)

Stages before the one in question thin the inputs: see `Problem.thinned`. Those behind it, multiplied out to S, mix its
outputs: with V = S T the gradient of a stage T is Sᵀ (R - V C), see `Normal`. All of these are made of some outputs of
the layer at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from surgery.factor.cholesky import Solver
from surgery.factor.halves import Half, root
from surgery.factor.kernels import dense, rows_of, through
from surgery.factor.metric import DenseMetric, Metric, RootMetric
from surgery.ops import Conv2d, Float64Array, FloatArray

# Thinned inputs up to which their second moment is made: 0.5 GB. A stage that would need a larger one is left as it is.
MAX_SIDE = 8192
ROWS = 64  # Of products with C at a time: enough for BLAS, few against the outputs of a layer worth cutting.

Offset = tuple[int, int]


@dataclass(frozen=True, eq=False, slots=True)
class Problem:
    """The problem of the module: C (n, n) is the metric's group, R (out, n) is `wanted`, or W C for `wanted` W.

    `is_whole` says that it is W: so it is of the layer itself.
    """

    metric: Metric
    group: int
    channels: int
    kernel: tuple[int, int]
    wanted: FloatArray
    is_whole: bool = True

    @property
    def is_dense(self) -> bool:
        """Whether C is held as it is."""
        return isinstance(self.metric, DenseMetric | RootMetric)

    def offsets(self, kernel: tuple[int, int]) -> list[Offset]:
        """Return where a window of that kernel can stand in this one's."""
        return list(np.ndindex(*(whole - part + 1 for whole, part in zip(self.kernel, kernel, strict=True))))

    def seen(self, rows: FloatArray, at: Offset, kernel: tuple[int, int]) -> FloatArray:
        """Return (m, channels · kernel): of rows (m, n) what a window of that kernel sees at an offset."""
        (s, t), (p, q) = at, kernel
        images = rows.reshape(len(rows), self.channels, *self.kernel)
        return images[:, :, s : s + p, t : t + q].reshape(len(rows), -1)

    def cross(self) -> FloatArray:
        """Return R."""
        return self.metric.times(self.group, self.wanted) if self.is_whole else self.wanted

    def missing(self, few: slice, made: Float64Array) -> Float64Array:
        """Return R - V C (m, n) for some rows V = `made` (m, channels, *kernel), which are used up."""
        rows = made.reshape(len(made), -1)
        if self.is_whole:
            return self.metric.times(self.group, np.subtract(self.wanted[few], rows, out=rows))
        return np.asarray(self.wanted[few] - self.metric.times(self.group, rows))

    def images(self, kernel: Float64Array) -> Iterator[tuple[int, slice, Float64Array]]:
        """Yield (offset's number, rows, (rows, n)): some rows of a kernel (m, channels, p, q), standing there, times C.

        The arrays are one, filled anew each time.
        """
        room = np.empty((2, min(ROWS, len(kernel)), self.metric.size))
        for i, at in enumerate(self.offsets((kernel.shape[2], kernel.shape[3]))):
            for start in range(0, len(kernel), ROWS):
                part = kernel[start : start + ROWS]
                yield i, slice(start, start + len(part)), self._image(part, at, room[:, : len(part)])

    def _image(self, kernel: Float64Array, at: Offset, room: Float64Array) -> Float64Array:
        (s, t), (p, q) = at, kernel.shape[2:]
        if (p, q) == self.kernel and isinstance(self.metric, DenseMetric):
            return self.metric.times(self.group, kernel.reshape(len(kernel), -1))
        if not isinstance(self.metric, DenseMetric):
            placed = np.zeros((len(kernel), self.channels, *self.kernel))
            placed[:, :, s : s + p, t : t + q] = kernel
            return self.metric.times(self.group, placed.reshape(len(kernel), -1))
        image, part = room
        moments = self.metric.moments[self.group].reshape(self.channels, *self.kernel, -1)
        image[...] = 0.0
        for u, v in np.ndindex(p, q):  # Tap by tap: the rows of C of all would have to be copied.
            image += np.matmul(np.ascontiguousarray(kernel[:, :, u, v]), moments[:, s + u, t + v], out=part)
        image.reshape(-1, self.channels, *self.kernel)[:, :, s : s + p, t : t + q] += self.metric.ridge * kernel
        return np.asarray(image)

    def moments(self) -> tuple[Float64Array, float]:
        """Return (M, r) with C = M + r · 1; M (channels, *kernel, channels, *kernel)."""
        held = self.metric if isinstance(self.metric, DenseMetric) else None
        whole, ridge = (held.moments[self.group], held.ridge) if held else (self.metric.dense(self.group), 0.0)
        return whole.reshape(2 * (self.channels, *self.kernel)), ridge

    def mean(self, kernel: tuple[int, int]) -> Half:
        """Return the mean over offsets of the part of C that a window of that kernel sees."""
        (p, q), (moments, ridge) = kernel, self.moments()
        offsets, result = self.offsets(kernel), Half.zeros(self.channels * p * q)
        for own, block in result.parts():
            some = slice(own.start // (p * q), -(-own.stop // (p * q)))
            skipped = own.start - some.start * p * q
            for s, t in offsets:
                seen = moments[some, s : s + p, t : t + q, : some.stop, s : s + p, t : t + q]
                block += seen.reshape((some.stop - some.start) * p * q, -1)[skipped:, : own.stop][: len(block)]
            block /= len(offsets)
            square = block[:, own]
            square[np.diag_indices(len(square))] += ridge
        return result

    def thinned(self, kernel: Float64Array) -> Problem:
        """Return the problem left for what comes after a stage of that kernel."""
        window, flat = (kernel.shape[2], kernel.shape[3]), kernel.reshape(len(kernel), -1)
        offsets = self.offsets(window)
        size, step = len(kernel) * len(offsets), len(offsets)
        gram, row = Half.zeros(size), np.empty((min(ROWS, len(kernel)), len(kernel), step))
        cross = np.empty((len(self.wanted), len(kernel), len(offsets)))
        for i, rows, image in self.images(kernel):
            for j, other in enumerate(offsets):
                row[: len(image), :, j] = self.seen(image, other, window) @ flat.T
            gram.put(slice(step * rows.start + i, step * rows.stop, step), row[: len(image)].reshape(-1, size))
            if self.is_whole:
                for start in range(0, len(cross), ROWS):
                    few = slice(start, start + ROWS)
                    cross[few, rows, i] = self.wanted[few].astype(np.float64) @ image.T
        for i, at in enumerate(offsets if not self.is_whole else ()):
            cross[:, :, i] = self.seen(self.wanted, at, window) @ flat.T
        left = tuple(whole - part + 1 for whole, part in zip(self.kernel, window, strict=True))
        return Problem(_metric(gram), 0, len(kernel), (left[0], left[1]), cross.reshape(-1, size), is_whole=False)

    def behind(self, stages: Sequence[Conv2d]) -> Problem | None:
        """Return the problem left behind some stages, None where its moments would be too large."""
        if not stages:
            return self
        prefix = dense(stages)
        is_small = len(prefix) * len(self.offsets(prefix.shape[2:])) <= MAX_SIDE
        return self.thinned(prefix) if is_small else None


def _metric(half: Half) -> Metric:
    try:
        return RootMetric(root(half))
    except np.linalg.LinAlgError:  # Fewer directions than numbers: it has no factor.
        return DenseMetric(half.whole()[np.newaxis])


@dataclass(frozen=True, eq=False, slots=True)
class Normal:
    """The normal equations Sᵀ S T C = SᵀR of a stage T (outputs, channels, *window), S the product of `suffix` or 1.

    Numbers of T that are not `allowed` are zero.
    """

    problem: Problem
    suffix: Sequence[Conv2d]
    window: tuple[int, int]
    allowed: npt.NDArray[np.bool_]

    def missing(self, kernel: Float64Array) -> Float64Array:
        """Return the right side less the left one for a stage of that kernel."""
        result = np.zeros((len(self.allowed), self.allowed[0].size))
        for few, tail in self._tails():
            left = self.problem.missing(few, kernel[few].copy() if tail is None else through(tail, Conv2d(kernel)))
            if tail is None:
                result[few] = left
                continue
            for s, t in self.problem.offsets(self.window):
                result += tail[:, :, s, t].T @ self.problem.seen(left, (s, t), self.window)
        return self._masked(result)

    def square(self, kernel: Float64Array) -> float:
        """Return tr(V C Vᵀ) for the product V of a stage of that kernel and the suffix."""
        made = (kernel[few] if tail is None else through(tail, Conv2d(kernel)) for few, tail in self._tails())
        return sum(self.problem.metric.square(self.problem.group, rows.reshape(len(rows), -1)) for rows in made)

    def outputs(self) -> Float64Array | None:
        """Return SᵀS summed over S's offsets."""
        tails = (tail for _, tail in self._tails() if tail is not None)
        parts = (flat.T @ flat for tail in tails for flat in [tail.swapaxes(1, 3).reshape(-1, tail.shape[1])])
        return np.asarray(sum(parts)) if self.suffix else None

    def preconditioned(self, rows: Float64Array, inputs: Solver, outputs: Solver | None) -> Float64Array:
        """Return the solution for SᵀS and C at their means over the offsets."""
        solved = inputs(rows.reshape(len(rows), -1).T).T
        return self._masked(solved if outputs is None else outputs(solved))

    def _tails(self) -> Iterator[tuple[slice, Float64Array | None]]:
        """Yield some rows of S at a time, with which they are."""
        for start in range(0, len(self.problem.wanted), ROWS):
            few = slice(start, min(start + ROWS, len(self.problem.wanted)))
            yield few, rows_of(self.suffix, few) if self.suffix else None

    def _masked(self, rows: Float64Array) -> Float64Array:
        result = rows.reshape(self.allowed.shape)
        result[~self.allowed] = 0.0
        return result
