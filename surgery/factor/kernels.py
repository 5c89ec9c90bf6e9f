"""Stages of a chain as plain convolutions, group by group of the layer: products of them are made in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from surgery.factor.solver import stored_dtype
from surgery.ops import Chain, Conv2d, Float64Array, FloatArray, Linear, Scale, Stage, collapse
from surgery.ops.array import BLOCK_BYTES, blocks, product

IMAGES = 8  # at a time, for the products that are summed up to what a kernel of each channel makes of them
COPIED = BLOCK_BYTES // 128  # Numbers in a weight up to which it is converted whole: no faster in tiles.
PATCH_ARRAYS = 4  # of the size of some patches, or of what a stage makes of them, for what is made of them at a time


def kernels_of(chain: Chain, groups: int, group: int) -> list[Conv2d]:
    """Return one group's share of each stage as a plain convolution, not copied: what matters to the weight alone.

    Raises ValueError for a stage that works in fewer groups than the layer.
    """
    return [_kernel(stage, groups, group) for stage in chain.ops]


def stored(stage: Stage, parts: Sequence[FloatArray]) -> Stage:
    """Return the stage with the groups' weights in place of its own, in the precision that it has."""
    if isinstance(stage, Scale):
        return Scale.of(np.concatenate(parts).reshape(-1))
    weight = np.concatenate(parts).reshape(stage.weight.shape)
    return replace(stage, weight=np.ascontiguousarray(weight, dtype=stored_dtype(stage.weight)))


def dense(stages: Sequence[Conv2d]) -> Float64Array:
    """Return the product of the stages as (out, in, kh, kw), zeros where its groups do not meet."""
    op = collapse(Chain(tuple(stages)))
    assert isinstance(op, Conv2d)  # All of `kernels_of` are.
    if op.groups == 1:
        return op.weight.astype(np.float64, copy=False)
    result = np.zeros((op.out_channels, op.in_channels, *op.kernel))
    for outputs, inputs in _meeting(op.out_channels, op.in_channels, op.groups):
        result[outputs, inputs] = op.weight[outputs]
    return result


def rows_of(stages: Sequence[Conv2d], few: slice) -> Float64Array:
    """Return some rows (b, in, kh, kw) of the product of the stages, from the last one on."""
    *before, last = stages
    if before and last.groups == last.in_channels == last.out_channels:
        return _each_through(last.weight[few, 0], rows_of(before, few))
    rows = last.weight[few].astype(np.float64, copy=False) if last.groups == 1 else dense([last])[few]
    for stage in reversed(before):
        rows = through(rows, stage)
    return rows


def _each_through(kernels: FloatArray, rows: Float64Array) -> Float64Array:
    """Return what one kernel for each (b, p, q) makes of rows (b, in, kh, kw): `through` for the rows by themselves."""
    (p, q), (a, b) = kernels.shape[1:], rows.shape[2:]
    result = np.zeros((*rows.shape[:2], a + p - 1, b + q - 1))
    for s, t in np.ndindex(p, q):
        result[:, :, s : s + a, t : t + b] += kernels[:, s, t, None, None, None] * rows
    return result


def through(rows: Float64Array, stage: Conv2d) -> Float64Array:
    """Return what rows (b, channels, kh, kw) of a product make of the stage before them: (b, in, kernels added up)."""
    (a, b), (p, q) = rows.shape[2:], stage.kernel
    is_depthwise = stage.groups == stage.in_channels == stage.out_channels
    weight = stage.weight if stage.groups == 1 or is_depthwise else dense([stage])
    result = np.zeros((len(rows), stage.in_channels, a + p - 1, b + q - 1))
    for s, t in np.ndindex(a, b):
        part = result[:, :, s : s + p, t : t + q]
        if is_depthwise:
            part += rows[:, :, s, t, None, None] * weight[:, 0]
        else:
            part += _times(rows[:, :, s, t], weight.reshape(len(weight), -1)).reshape(part.shape)
    return result


def _times(rows: Float64Array, weight: FloatArray) -> Float64Array:
    """Return rows @ weight, in float64, without a float64 copy of all of a large weight."""
    if weight.dtype == np.float64 or weight.size <= COPIED:
        return rows @ weight.astype(np.float64, copy=False)
    return np.asarray(product(rows, weight), np.float64)


def ran(images: Float64Array, stage: Conv2d) -> Float64Array:
    """Return what the stage makes of images (b, channels, h, w), at every place in them that its kernel can stand.

    What `through` does, turned: where the stage is a matrix B, that is rows @ B and this is images @ Bᵀ.
    """
    (p, q), (h, w) = stage.kernel, images.shape[2:]
    if stage.groups == 1 and (p, q) == (1, 1):
        rows = _times(images.transpose(0, 2, 3, 1).reshape(-1, images.shape[1]), stage.weight[:, :, 0, 0].T)
        return rows.reshape(len(images), h, w, -1).transpose(0, 3, 1, 2)
    result = np.zeros((len(images), stage.out_channels, h - p + 1, w - q + 1))
    if stage.groups == stage.in_channels == stage.out_channels:
        for start in range(0, len(images), IMAGES):
            few, made = images[start : start + IMAGES], result[start : start + IMAGES]
            for s, t in np.ndindex(p, q):
                made += few[:, :, s : s + made.shape[2], t : t + made.shape[3]] * stage.weight[:, :, s, t, None]
        return result
    flat = (stage.weight if stage.groups == 1 else dense([stage])).reshape(stage.out_channels, -1).T
    for s, t in np.ndindex(result.shape[2:]):
        result[:, :, s, t] = _times(images[:, :, s : s + p, t : t + q].reshape(len(images), -1), flat)
    return result


def made_of(patches: FloatArray, kernels: Sequence[Conv2d], patch: tuple[int, int, int] | None = None) -> Float64Array:
    """Return what stages make of patches (N, n): (N, outputs · places).

    They are as large as the stages look at, or as `patch` says, inputs, height and width of one: there is one output at
    each place in it.
    """
    inputs, height, width = patch or patch_of(kernels)
    result: Float64Array | None = None
    widest = max(inputs, *(stage.out_channels for stage in kernels))
    for few in blocks(len(patches), PATCH_ARRAYS * 8 * widest * height * width):
        images = patches[few].reshape(-1, inputs, height, width).astype(np.float64)
        for stage in kernels:
            images = ran(images, stage)
        result = np.empty((len(patches), images[0].size)) if result is None else result
        result[few] = images.reshape(len(images), -1)
    return np.empty((0, 0)) if result is None else result


def patch_of(kernels: Sequence[Conv2d]) -> tuple[int, int, int]:
    """Return inputs, height and width of what the stages together look at."""
    height, width = (1 + sum(stage.kernel[axis] - 1 for stage in kernels) for axis in (0, 1))
    return kernels[0].in_channels, height, width


def grouped(weight: Float64Array, groups: int) -> Float64Array:
    """Return (out, in / groups, kh, kw): the inverse of `dense` for one stage."""
    return np.concatenate([weight[where] for where in _meeting(len(weight), weight.shape[1], groups)])


def _kernel(stage: Stage, groups: int, group: int) -> Conv2d:
    if isinstance(stage, Scale):
        weight: FloatArray = stage.factor[:, None, None, None]
        own = stage.channels
    elif isinstance(stage, Linear):
        weight, own = stage.weight[:, :, None, None], 1
    else:
        weight, own = stage.weight, stage.groups
    if own % groups:
        raise ValueError(f"refit: a stage in {own} groups of a layer in {groups}; expected a multiple")
    return Conv2d(np.split(weight, groups)[group], groups=own // groups)


def _meeting(outputs: int, inputs: int, groups: int) -> Iterator[tuple[slice, slice]]:
    o, i = outputs // groups, inputs // groups
    return ((slice(g * o, (g + 1) * o), slice(g * i, (g + 1) * i)) for g in range(groups))
