"""Fit a layer that a ReLU follows: what the ReLU cuts off may be anything below zero.

As in `surgery.factor.refit_relu`, with the first factor free too: ŷ = M v + b, M of rank r, v what the layer itself
makes of its inputs. Given z, M is a regression of reduced rank (Zhang et al., 2016, section 3.2).
"""

from __future__ import annotations

import numpy as np

from surgery.factor.matrix_method import leading_responses
from surgery.factor.refit import inverse
from surgery.factor.refit_relu import relaxed
from surgery.factor.statistics import Statistics
from surgery.ops import Float64Array, FloatArray, Op

SCHEDULE = (*[0.01] * 25, *[1.0] * 25)  # λ, sweep by sweep, as published.
RIDGE = 1e-3  # By this share of v's mean variance the regression of z is drawn to z = v.


def relu_aware(
    op: Op, group: int, groups: int, rank: int, statistics: Statistics
) -> tuple[FloatArray, FloatArray, Float64Array]:
    """Return left (out / groups, r), right (r, n) and bias (out / groups,) of one group, fitted to the samples.

    `op` is the best linear fit to the data: v is what it makes of them.
    """
    size = op.out_channels // groups
    outputs = slice(group * size, (group + 1) * size)
    weight = op.weight[outputs].reshape(size, -1).astype(np.float64)
    made = statistics.samples.x[:, group] @ weight.T
    wanted = statistics.samples.y[:, outputs].astype(np.float64)
    left, right, bias = _alternated(made, wanted, rank)
    return left, (right @ weight).astype(left.dtype), bias


def _alternated(made: Float64Array, wanted: Float64Array, rank: int) -> tuple[FloatArray, FloatArray, Float64Array]:
    """Return left (size, r), right (r, size) and bias (size,): wanted ≈ left right made + bias, as a ReLU sees them."""
    mean, clipped = made.mean(axis=0), np.maximum(wanted, 0)
    v = made - mean
    covariance = v.T @ v / len(v)
    spread = float(covariance.trace()) / len(covariance) or 1.0
    solve = inverse(covariance + RIDGE * spread * np.eye(len(covariance)))

    def regressed(z: FloatArray) -> tuple[FloatArray, FloatArray, Float64Array]:
        whole = np.eye(len(mean)) + solve(v.T @ (z - z.mean(axis=0) - v) / len(v)).T
        return *leading_responses(whole, lambda rows: rows @ covariance, rank), z.mean(axis=0)

    left, right, centre = regressed(wanted)
    for share in SCHEDULE:
        left, right, centre = regressed(relaxed(v @ (left @ right).T + centre, clipped, share))
    return left, right, centre - left @ (right @ mean)
