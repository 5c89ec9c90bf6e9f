"""What the last stage of a chain sees of a patch: f = F x, F the stages before it at each offset that it looks at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from surgery.factor.halves import Half
from surgery.factor.kernels import dense, kernels_of, made_of, patch_of, rows_of
from surgery.factor.metric import Metric
from surgery.factor.normal import Problem
from surgery.ops import Chain, Conv2d, Float64Array, FloatArray
from surgery.ops.array import blocks

GRAM_ARRAYS = 6  # of the size of some features' rows, for what is made of some at a time


@dataclass(frozen=True, eq=False, slots=True)
class Features:
    """F (features, n) of one group of a layer, all zeros left out: the stages that make them, and where they stand.

    Attributes:
        before: the stages before the last.
        patch: inputs, height and width of the layer's own patch.
        places: the last stage's kernel: of a channel's features the first stands at offset (0, 0).
    """

    before: tuple[Conv2d, ...]
    patch: tuple[int, int, int]
    places: tuple[int, int]

    @classmethod
    def of(cls, chain: Chain, groups: int, group: int) -> Features:
        """Return those of a chain of two stages or more."""
        *before, last = kernels_of(chain, groups, group)
        patch = patch_of([*before, last])
        if (
            before[-1].out_channels <= last.out_channels
        ):  # Multiplied out they are no larger than the layer, and faster.
            before = [Conv2d(dense(before))]
        return cls(tuple(before), patch, last.kernel)

    def first(self, channels: int) -> Features:
        """Return those of the first channels alone: of all where there are no more, or they are made in groups."""
        before = list(self.before)
        for j in reversed(range(len(before))):
            stage = before[j]
            weight = stage.weight[:channels]
            if stage.groups == 1:
                before[j] = replace(stage, weight=weight)
                return replace(self, before=tuple(before))
            if not stage.groups == stage.in_channels == stage.out_channels:
                break
            before[j] = replace(stage, weight=weight, groups=len(weight))
        return self

    def __len__(self) -> int:
        return self.before[-1].out_channels * self.places[0] * self.places[1]

    @property
    def inputs(self) -> int:
        """Numbers in a patch."""
        return self.patch[0] * self.patch[1] * self.patch[2]

    def seen(self, patches: FloatArray) -> Float64Array:
        """Return patches (N, n) @ Fᵀ (n, features), sums in float64, without a float64 copy of all patches."""
        return made_of(patches, self.before, self.patch)

    def images(self, metric: Metric, group: int) -> Iterator[tuple[slice, Float64Array]]:
        """Yield rows of F C, C the metric's: a few at a time, with which of them they are. See `Problem.images`."""
        problem = Problem(metric, group, self.patch, np.empty((0, metric.size)), self.before)
        step = self.places[0] * self.places[1]
        for (s, t), few, image in problem.images():
            yield slice(step * few.start + s * self.places[1] + t, step * few.stop, step), image

    def add_gram(self, half: Half, share: float) -> None:
        """Add `share` times F Fᵀ."""
        step = self.places[0] * self.places[1]
        for few in blocks(self.before[-1].out_channels, 8 * GRAM_ARRAYS * self.inputs):
            kernel = rows_of(self.before, few)
            for i, (s, t) in enumerate(np.ndindex(*self.places)):
                placed = np.zeros((len(kernel), *self.patch))
                placed[:, :, s : s + kernel.shape[2], t : t + kernel.shape[3]] = kernel
                rows = slice(step * few.start + i, step * few.stop, step)
                half.add(rows, share * self.seen(placed.reshape(len(kernel), -1)))
