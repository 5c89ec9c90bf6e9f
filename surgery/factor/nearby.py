"""A matrix near the second moments that stages leave to the next one, which are too large to be held.

What two places of a map have in common depends on how far apart they are, and little on where: turned into the modes
of a patch, from smooth to rough, C' is near one matrix over channels for each mode. The modes are the eigenvectors of
the moments of places, all inputs alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from surgery.factor.cholesky import inverse
from surgery.factor.conjugate import Map
from surgery.factor.halves import Half, near_inverse
from surgery.factor.kernels import dense, patch_of, ran, rows_of
from surgery.factor.normal import Problem
from surgery.ops import Conv2d, Float64Array
from surgery.ops.array import BLOCK_BYTES

SMALLEST = 1e-6  # Of the largest, for the moments of a mode: what is smaller is rounding.
WIDTH = 128  # channels at a time, for what is read of them
ROWS = 4  # of moments at a time: as many are made of each as there are places


@dataclass(frozen=True, eq=False, slots=True)
class Nearby:
    """What is held of moments C' over (channels, *kernel).

    Attributes:
        places: (h, w, h, w), moments of places, their mean square 1.
        modes: orthonormal columns (h · w, modes).
        channels: halves (channels, channels), one of each mode; one alone where all would have more numbers than the
            layer's weight.
        shares: of each mode, what that is to be multiplied by (modes,).
    """

    places: Float64Array
    modes: Float64Array
    channels: list[Half]
    shares: Float64Array

    @classmethod
    def of(cls, problem: Problem) -> Nearby:
        """Return what is near the second moments of a problem behind some stages."""
        layer, window = replace(problem, before=(), mixed=None), patch_of(problem.before)[1:]
        places = _places(layer, window, problem.kernel)
        values, modes = np.linalg.eigh(places.reshape(problem.kernel[0] * problem.kernel[1], -1))
        if problem.channels**2 * len(values) <= max(problem.wanted.size, BLOCK_BYTES // 8):
            return cls(places, modes, _channels(problem, layer, window, modes), np.ones(len(values)))
        (mean,) = _channels(problem, layer, window, modes, is_one=True)
        for _, block in mean.parts():
            block /= len(values)
        return cls(places, modes, [mean], np.maximum(values, SMALLEST * values[-1]))

    def inverse(self) -> Map:
        """Return what solves for rows (m, channels, *kernel), held in float32: it only has to be near.

        The matrices over channels are used up.
        """
        solvers = [near_inverse(matrix) for matrix in self.channels]
        modes, shares = self.modes, self.shares

        def solve(rows: Float64Array) -> Float64Array:
            turned = np.moveaxis(rows.reshape(*rows.shape[:2], -1) @ modes, 0, 2)  # (channels, modes, m)
            for i, share in enumerate(shares):
                turned[:, i] = solvers[i if solvers[1:] else 0](turned[:, i]) / share
            result = np.moveaxis(turned, 2, 0) @ modes.T
            return np.ascontiguousarray(result).reshape(rows.shape)

        return solve

    def by_channel(self, suffix: Sequence[Conv2d], window: tuple[int, int]) -> Map:
        """Return what solves for a stage (channels, 1, *window) with one kernel per channel in front of `suffix`.

        The matrices over channels are used up.
        """
        offsets, (p, q) = list(np.ndindex(*patch_of(suffix)[1:])), window
        if len(offsets) == 1:
            last = dense(suffix)[:, :, 0, 0]
            for matrix in self.channels:
                for rows, block in matrix.parts():
                    block *= last[:, rows].T @ last[:, : rows.stop]
            weighed = self.inverse()
            return lambda numbers: weighed(numbers.swapaxes(0, 1)).swapaxes(0, 1)
        places = [self.places[s : s + p, t : t + q] for s, t in offsets]
        alike = [[np.einsum("abab->", seen[..., u : u + p, v : v + q]) for u, v in offsets] for seen in places]
        for i, (rows, block) in enumerate(self.channels[0].parts()):
            for more in self.channels[1:]:
                block += more.blocks[i]
            block *= _weighed(suffix, rows, np.array(alike) / (p * q * len(self.channels)))
        solve = near_inverse(self.channels[0])
        own = [seen[..., s : s + p, t : t + q] for seen, (s, t) in zip(places, offsets, strict=True)]
        over_places = inverse(np.mean(own, axis=0).reshape(p * q, -1))(np.eye(p * q))
        return lambda numbers: (solve(numbers.reshape(-1, p * q)) @ over_places).reshape(numbers.shape)


def _weighed(suffix: Sequence[Conv2d], rows: slice, alike: Float64Array) -> Float64Array:
    """Return rows (m, end of rows) of SᵀS between any two offsets of S (out, channels, h, w), each weighed as given."""
    left, result = np.tensordot(alike, _reading(suffix, rows), (0, 0)), np.empty((rows.stop - rows.start, rows.stop))
    for start in range(0, rows.stop, WIDTH):
        few = slice(start, min(start + WIDTH, rows.stop))
        result[:, few] = sum(a.T @ b for a, b in zip(left, _reading(suffix, few), strict=True))
    return result


def _reading(suffix: Sequence[Conv2d], few: slice) -> Float64Array:
    """Return what S makes of some channels, (offsets, out, channels): of all it may be larger than the layer."""
    alone = [stage.groups == stage.in_channels == stage.out_channels for stage in suffix]
    mixing = alone.index(False) if False in alone else -1
    if suffix[mixing].groups > 1:
        made = dense(suffix)[:, few]
    else:
        kernels = [stage.weight[few] for stage in suffix[:mixing]]
        first = replace(suffix[mixing], weight=suffix[mixing].weight[:, few])
        made = dense([*(Conv2d(each, groups=len(each)) for each in kernels), first, *suffix[mixing + 1 :]])
    return np.moveaxis(made.reshape(*made.shape[:2], -1), 2, 0)


def _places(layer: Problem, window: tuple[int, int], kernel: tuple[int, int]) -> Float64Array:
    """Return the mean over the layer's inputs, and over a window's taps, of the moments of two places in a kernel."""
    (_, height, width), (a, b) = layer.patch, kernel
    taps, result = np.zeros((height, width, height, width)), np.zeros((a, b, a, b))
    for (s, t), few, image in layer.images():
        maps = image.reshape(len(image), *layer.patch)[np.arange(len(image)), np.arange(few.start, few.stop)]
        taps[s, t] += maps.sum(axis=0)
    for u, v in np.ndindex(window):
        result += taps[u : u + a, v : v + b, u : u + a, v : v + b]
    result /= np.einsum("stst->", result) / (a * b) or 1.0
    return result


def _channels(
    problem: Problem, layer: Problem, window: tuple[int, int], modes: Float64Array, *, is_one: bool = False
) -> list[Half]:
    """Return the moments (channels, channels) of each mode over the channels, or their sum as the only one."""
    (p, q), (a, b) = window, problem.kernel
    first, *rest = problem.before
    first, count = first if first.groups == 1 else Conv2d(dense([first])), modes.shape[1]
    shapes = modes.reshape(a, b, count)
    result = [Half.zeros(problem.channels) for _ in range(1 if is_one else count)]
    rows = np.zeros((p, q, count, 0, layer.size))
    for (s, t), few, image in layer.images(ROWS):
        if (s, t) == (0, 0):
            rows = np.zeros((p, q, count, len(image), layer.size))
        for u, v in np.ndindex(p, q):
            if 0 <= s - u < a and 0 <= t - v < b:
                rows[u, v] += shapes[s - u, t - v, :, None, None] * image
        if (s, t) == (layer.patch[1] - 1, layer.patch[2] - 1):
            made = rows_of([Conv2d(first.weight[:, few]), *rest], slice(0, problem.channels))  # These inputs alone.
            for u, v in np.ndindex(p, q):
                for i, seen in enumerate(_seen(rows[u, v], problem, shapes, window)):
                    for own, block in result[0 if is_one else i].parts():
                        block += made[own, :, u, v] @ seen[:, : own.stop]
    return result


def _seen(rows: Float64Array, problem: Problem, shapes: Float64Array, window: tuple[int, int]) -> Float64Array:
    """Return (modes, m, channels): what the stages before make of rows (modes, m, n), each seen in its own mode."""
    (p, q), (a, b, count) = window, shapes.shape
    images = rows.reshape(*rows.shape[:2], *problem.patch)
    seen = np.zeros((*images.shape[:3], p, q))
    for s, t in np.ndindex(a, b):
        seen += shapes[s, t, :, None, None, None, None] * images[..., s : s + p, t : t + q]
    seen = seen.reshape(-1, *seen.shape[2:])
    for stage in problem.before:
        seen = ran(seen, stage)
    return seen.reshape(count, rows.shape[1], -1)
