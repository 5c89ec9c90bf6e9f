"""The least squares problem of a chain in a metric, and what is left of it for a stage between others.

    min over V (out, n) of tr((V - W) C (V - W)ᵀ)

With B what the stages before the one in question make of a patch, at every place that it looks at, and S the product of
those behind it, V = S T B, and the gradient of a stage T is Sᵀ (W - V) C Bᵀ: see `Normal`. Neither W C Bᵀ nor the
second moments C' = B C Bᵀ, which may be larger than the layer, are held: rows go through B, C and Bᵀ a few at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from surgery.factor.halves import Half
from surgery.factor.kernels import patch_of, ran, rows_of, through
from surgery.factor.metric import DenseMetric, Metric
from surgery.ops import Conv2d, Float64Array, FloatArray

ROWS = 64  # Of products with C at a time: enough for BLAS, and
SHARE = 8  # no more than this part of a layer, or
SMALL = 2**16  # numbers, but at least
FEWEST = 8  # of them.

Offset = tuple[int, int]
Real = TypeVar("Real", bound=np.floating)


@dataclass(frozen=True, eq=False, slots=True)
class Problem:
    """The problem of the module for what comes after some stages: C (n, n) is the metric's group, W (out, n) `wanted`.

    Attributes:
        patch: inputs, height and width of the layer's own patch.
        before: the stages that B is the product of.
        mixed: Y (out, m) with orthonormal columns: the problem is that of Yᵀ W. None for 1.
    """

    metric: Metric
    group: int
    patch: tuple[int, int, int]
    wanted: FloatArray
    before: tuple[Conv2d, ...] = ()
    mixed: Float64Array | None = None

    def __len__(self) -> int:
        return len(self.wanted) if self.mixed is None else int(self.mixed.shape[1])

    @property
    def is_whole(self) -> bool:
        """Whether B is 1."""
        return not self.before

    @property
    def is_dense(self) -> bool:
        """Whether C is held as it is."""
        return isinstance(self.metric, DenseMetric)

    @property
    def channels(self) -> int:
        """Channels that the stage in question reads."""
        return self.before[-1].out_channels if self.before else self.patch[0]

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width that are left of the patch."""
        taken = patch_of(self.before)[1:] if self.before else (1, 1)
        return self.patch[1] - taken[0] + 1, self.patch[2] - taken[1] + 1

    @property
    def size(self) -> int:
        """Side of C'."""
        return self.channels * self.kernel[0] * self.kernel[1]

    def behind(self, stages: Sequence[Conv2d]) -> Problem:
        """Return the problem left behind some more stages."""
        return replace(self, before=(*self.before, *stages))

    def offsets(self, window: tuple[int, int]) -> list[Offset]:
        """Return where a kernel of that size can stand in this one's."""
        return list(np.ndindex(*(whole - part + 1 for whole, part in zip(self.kernel, window, strict=True))))

    def blocks(self, length: int, count: int | None = None, widest: int = 0) -> Iterator[slice]:
        """Yield slices that cover `range(length)`, in order, of `count`, or so many rows as are few.

        Rows of n, or of C', or of `widest` numbers where those are more.
        """
        widest = max(self.metric.size, self.size, widest)
        step = count or max(FEWEST, min(ROWS, max(self.wanted.size // SHARE, SMALL) // widest))
        return (slice(start, min(start + step, length)) for start in range(0, length, step))

    def target(self, few: slice) -> FloatArray:
        """Return some rows (m, n) of what is wanted."""
        if self.mixed is None:
            return self.wanted[few]
        return np.asarray(self.mixed[:, few].T.astype(self.wanted.dtype) @ self.wanted)

    def expanded(self, rows: Float64Array) -> Float64Array:
        """Return rows (m, channels, *kernel) @ B (m, n)."""
        for stage in reversed(self.before):
            rows = through(rows, stage)
        return rows.reshape(len(rows), -1)

    def seen(self, rows: Float64Array) -> Float64Array:
        """Return rows (m, n) @ Bᵀ (m, channels, *kernel)."""
        images = rows.reshape(len(rows), *self.patch)
        for stage in self.before:
            images = ran(images, stage)
        return images

    def times(self, rows: Float64Array) -> Float64Array:
        """Return rows (m, channels, *kernel) @ C', of the same shape."""
        return self.seen(self.metric.times(self.group, self.expanded(rows)))

    def missing(self, few: slice, made: Float64Array) -> Float64Array:
        """Return (W - V B) C Bᵀ for some rows V = `made` (m, channels, *kernel)."""
        missed = np.subtract(self.target(few), self.expanded(made))
        return self.seen(self.metric.times(self.group, missed))

    def square(self, rows: Float64Array) -> float:
        """Return tr(V C' Vᵀ) for rows V (m, channels, *kernel)."""
        return self.metric.square(self.group, self.expanded(rows))

    def images(self, count: int | None = None) -> Iterator[tuple[Offset, slice, Float64Array]]:
        """Yield (offset, channels, rows of B C (m, n)): those of `count` channels, or some, at one place of the kernel.

        Place by place in order. The arrays are one, filled anew each time.
        """
        parts = list(self.blocks(self.channels, count))
        room = np.empty((2, parts[0].stop, self.metric.size))
        for few in parts:
            rows = rows_of(self.before, few) if self.before else _unit_rows(few, self.channels)
            for s, t in np.ndindex(*self.kernel):
                yield (s, t), few, self._image(few, rows, (s, t), room[:, : len(rows)])

    def _image(self, few: slice, rows: Float64Array, at: Offset, room: Float64Array) -> Float64Array:
        (s, t), (p, q) = at, rows.shape[2:]
        image, part = room
        image[...] = 0.0
        placed = image.reshape(-1, *self.patch)[:, :, s : s + p, t : t + q]
        if not isinstance(self.metric, DenseMetric):
            placed += rows
            return self.metric.times(self.group, image)
        moments = self.metric.moments[self.group].reshape(*self.patch, -1)
        if not self.before:
            image[...] = moments[few, s, t]
        elif (p, q) == self.patch[1:]:  # `placed` is all of it.
            np.matmul(rows.reshape(len(rows), -1), self.metric.moments[self.group], out=image)
        else:
            for u, v in np.ndindex(p, q):  # Tap by tap: the rows of C of all would have to be copied.
                image += np.matmul(np.ascontiguousarray(rows[:, :, u, v]), moments[:, s + u, t + v], out=part)
        placed += self.metric.ridge * rows
        return np.asarray(image)

    def moments(self, window: tuple[int, int]) -> Half:
        """Return the mean over its offsets of what a kernel of that size sees of C'."""
        p, q = window
        offsets, result = self.offsets(window), Half.zeros(self.channels * p * q)
        for (s, t), few, image in self.images():
            rows = self.seen(image)
            for u, v in offsets:
                if 0 <= s - u < p and 0 <= t - v < q:
                    own = slice((s - u) * q + t - v + p * q * few.start, p * q * few.stop, p * q)
                    result.add(own, rows[:, :, u : u + p, v : v + q].reshape(len(rows), -1) / len(offsets))
        return result


def _unit_rows(few: slice, channels: int) -> Float64Array:
    """Return some rows (m, channels, 1, 1) of a unit matrix."""
    rows: Float64Array = np.eye(few.stop - few.start, channels, few.start)[:, :, None, None]
    return rows


@dataclass(frozen=True, eq=False, slots=True)
class Normal:
    """The normal equations Sᵀ S T C' = Sᵀ W C Bᵀ of a stage T (outputs, channels or 1, *window), S that of `suffix`.

    With one kernel for each channel T has a 1 in place of the channels.
    """

    problem: Problem
    suffix: Sequence[Conv2d]
    shape: tuple[int, int, int, int]

    def missing(self, numbers: FloatArray, dtype: type[Real]) -> npt.NDArray[Real]:
        """Return the right side less the left one for a stage of those numbers, held in that precision."""
        return self._gathered(numbers, self.problem.missing, np.zeros(self.shape, dtype))

    def times(self, numbers: FloatArray) -> Float64Array:
        """Return the left side."""
        return self._gathered(numbers, lambda _, made: self.problem.times(made), np.zeros(self.shape))

    def square(self, numbers: FloatArray) -> float:
        """Return tr(V C' Vᵀ) for V = S T."""
        return sum(self.problem.square(self._made(numbers, few, tail)) for few, tail in self._tails())

    def outputs(self) -> Half | None:
        """Return SᵀS summed over S's offsets, None for 1."""
        if not self.suffix:
            return None
        result = Half.zeros(self.shape[0])
        for _, tail in self._tails():
            assert tail is not None  # There is a suffix.
            for s, t in np.ndindex(*tail.shape[2:]):
                result.add_squares(tail[:, :, s, t])
            del tail
        return result

    def _gathered(
        self, numbers: FloatArray, image: Callable[[slice, Float64Array], Float64Array], result: npt.NDArray[Real]
    ) -> npt.NDArray[Real]:
        """Add Sᵀ R summed over the offsets to zeros `result`, R the image of what S makes of a stage.

        Of R there are some rows (m, channels, *kernel) at a time.
        """
        p, q = self.shape[2:]
        for few, tail in self._tails():
            rows = image(few, self._made(numbers, few, tail))
            if tail is None:
                result[few] = rows
                continue
            for s, t in self.problem.offsets((p, q)):
                seen, own = rows[:, :, s : s + p, t : t + q], tail[:, :, s, t]
                if self.shape[1] == 1 < rows.shape[1]:
                    result[:, 0] += np.einsum("oa,oapq->apq", own, seen)
                    continue
                seen = seen.reshape(len(rows), -1)
                for some in self.problem.blocks(len(result), ROWS):  # In float64 all may be as large as the layer.
                    result[some] += (own[:, some].T @ seen).reshape(-1, *self.shape[1:])
            del tail, rows, seen, own  # The next ones have their place.
        return result

    def _made(self, numbers: FloatArray, few: slice, tail: Float64Array | None) -> Float64Array:
        """Return what some rows of S, None for 1, make of the stage."""
        if tail is None:
            return numbers[few].astype(np.float64, copy=False)
        groups = len(numbers) if self.shape[1] == 1 < self.problem.channels else 1
        return through(tail, Conv2d(numbers, groups=groups))

    def _tails(self) -> Iterator[tuple[slice, Float64Array | None]]:
        """Yield some outputs, and their rows of S."""
        widest = self.shape[0] * prod(patch_of(self.suffix)[1:]) if self.suffix else 0
        for few in self.problem.blocks(len(self.problem), widest=widest):
            yield few, rows_of(self.suffix, few) if self.suffix else None
