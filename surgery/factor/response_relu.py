"""Fit a layer that a ReLU follows: what the ReLU cuts off may be anything below zero.

As in `surgery.factor.refit_relu`, with the first factor free too: ŷ = M v + b, M of rank r, v what the layer itself
makes of its inputs. Given z, M is a regression of reduced rank (Zhang et al., 2016, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from surgery.factor.cholesky import lending
from surgery.factor.matrix_method import leading_responses
from surgery.factor.refit_relu import BLOCK_ARRAYS, relaxed
from surgery.factor.responses import projected
from surgery.factor.solver import stored_dtype
from surgery.factor.statistics import Statistics, Wanted
from surgery.ops import Float64Array, FloatArray, Op
from surgery.ops.array import blocks, product

SCHEDULE = (*[0.01] * 25, *[1.0] * 25)  # λ, sweep by sweep, as published.
RIDGE = 1e-3  # By this share of v's mean variance the regression of z is drawn to z = v.


def relu_aware(
    op: Op, group: int, groups: int, rank: int, statistics: Statistics
) -> tuple[FloatArray, FloatArray, Float64Array]:
    """Return left (out / groups, r), right (r, n) and bias (out / groups,) of one group, stored, fitted to the samples.

    `op` is the best linear fit to the data: v is what it makes of them.
    """
    size = op.out_channels // groups
    outputs = slice(group * size, (group + 1) * size)
    weight = op.weight[outputs].reshape(size, -1)
    made = projected(statistics.samples.x[:, group], weight, np.float32)
    left, right, bias = _alternated(made, partial(statistics.samples.wanted, outputs=outputs), rank)
    dtype = stored_dtype(op.weight)
    return left.astype(dtype), product(right, weight, dtype), bias


def _alternated(v: FloatArray, wanted: Wanted, rank: int) -> tuple[FloatArray, FloatArray, Float64Array]:
    """Return left (size, r), right (r, size) and bias (size,): wanted ≈ left right v + bias, as a ReLU sees them.

    `v` (N, size) is used up.
    """
    parts = list(blocks(len(v), BLOCK_ARRAYS * 8 * v.shape[1]))
    mean = v.mean(axis=0, dtype=np.float64)
    v -= mean.astype(v.dtype)
    covariance = np.zeros((len(mean), len(mean)))
    for few in parts:
        some = v[few].astype(np.float64)
        covariance += some.T @ some
    covariance /= len(v)
    spread = float(covariance.trace()) / len(covariance) or 1.0
    solve = lending(covariance, RIDGE * spread)

    def regressed(z: Iterator[tuple[slice, FloatArray]]) -> tuple[FloatArray, FloatArray, Float64Array]:
        total, products = np.zeros(len(mean)), np.zeros((len(mean), len(mean)))
        for few, some in z:
            total += some.sum(axis=0)
            products += v[few].T @ (some - v[few])  # The mean of z adds nothing: that of v is 0.
        products /= len(v)
        whole = solve(products).T.astype(v.dtype)
        del products  # As large as the layer, where that has no more inputs than outputs.
        whole.flat[:: len(whole) + 1] += 1
        return *leading_responses(whole, iter([lambda rows: rows @ covariance]), rank), total / len(v)

    left, right, centre = regressed((few, wanted(few).astype(np.float64)) for few in parts)
    for share in SCHEDULE:
        made = ((few, v[few] @ (left @ right).T + centre) for few in parts)
        relaxed_ones = ((few, relaxed(some, np.maximum(wanted(few), 0), share)) for few, some in made)
        left, right, centre = regressed(relaxed_ones)
    return left, right, centre - left @ (right @ mean)
