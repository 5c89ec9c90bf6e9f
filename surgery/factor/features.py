"""What the last stage of a chain sees of a patch: f = F x, F the stages before it at each offset that it looks at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from surgery.factor.halves import Half
from surgery.factor.kernels import dense, kernels_of
from surgery.factor.metric import Metric
from surgery.factor.normal import Problem
from surgery.ops import Chain, Float64Array, FloatArray
from surgery.ops.array import blocks


@dataclass(frozen=True, eq=False, slots=True)
class Features:
    """F (features, n) of one group of a layer, all zeros left out: one kernel, and where it stands.

    Attributes:
        kernel: (channels, in / groups, kh, kw), the product of the stages before the last.
        patch: the layer's own kernel.
        places: the last stage's kernel: of a channel's features the first has the kernel at offset (0, 0).
    """

    kernel: Float64Array
    patch: tuple[int, int]
    places: tuple[int, int]

    @classmethod
    def of(cls, chain: Chain, groups: int, group: int) -> Features:
        """Return those of a chain of two stages or more."""
        *before, last = kernels_of(chain, groups, group)
        kernel, (kh, kw) = dense(before), last.kernel
        return cls(kernel, (kernel.shape[2] + kh - 1, kernel.shape[3] + kw - 1), (kh, kw))

    def __len__(self) -> int:
        return len(self.kernel) * self.places[0] * self.places[1]

    @property
    def inputs(self) -> int:
        """Numbers in a patch."""
        return int(self.kernel.shape[1]) * self.patch[0] * self.patch[1]

    def seen(self, patches: FloatArray, dtype: npt.DTypeLike = np.float64) -> FloatArray:
        """Return patches (N, n) @ Fᵀ (n, features), sums in float64, without a float64 copy of all patches."""
        channels, inputs, p, q = self.kernel.shape
        flat = self.kernel.reshape(channels, -1).T
        result: FloatArray = np.empty((len(patches), channels, *self.places), dtype)
        for few in blocks(len(patches), 16 * patches.shape[1]):
            images = patches[few].reshape(-1, inputs, *self.patch)
            for s, t in np.ndindex(*self.places):
                window = images[:, :, s : s + p, t : t + q].astype(np.float64).reshape(len(images), -1)
                result[few, :, s, t] = window @ flat
        return result.reshape(len(patches), -1)

    def images(self, metric: Metric, group: int) -> Iterator[tuple[slice, Float64Array]]:
        """Yield rows of F C, C the metric's: a few at a time, with which of them they are. See `Problem.images`."""
        problem = Problem(metric, group, self.kernel.shape[1], self.patch, np.empty((0, metric.size)))
        step = self.places[0] * self.places[1]
        for i, rows, image in problem.images(self.kernel):
            yield slice(step * rows.start + i, step * rows.stop, step), image

    def gram(self) -> Half:
        """Return F Fᵀ."""
        result = Half.zeros(len(self))
        step = self.places[0] * self.places[1]
        for i, (s, t) in enumerate(np.ndindex(*self.places)):
            for few in blocks(len(self.kernel), 16 * self.kernel[0].size):
                kernel = self.kernel[few]
                placed = np.zeros((*kernel.shape[:2], *self.patch))
                placed[:, :, s : s + kernel.shape[2], t : t + kernel.shape[3]] = kernel
                rows = slice(step * few.start + i, step * few.stop, step)
                result.put(rows, self.seen(placed.reshape(len(kernel), -1)))
        return result
