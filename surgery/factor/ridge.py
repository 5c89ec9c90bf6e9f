"""Chooses the ridge: how strongly a fit to data is drawn to the layer's own weight where the samples say little.

A ridge is a share of the mean eigenvalue of the inputs' covariance. Each is tried on what costs least and still tells:
the last stage of a chain, fitted to its features f = F x (F the stages before it, at every offset that it looks at),

    A = (Cyx Fᵀ + r W Fᵀ) (F Cxx Fᵀ + r F Fᵀ)⁻¹,

and measured on samples that no fit has seen. Where the features are so many that their moments would take more than the
layer, those of the first channels stand for all.
"""

from __future__ import annotations

import math

import numpy as np

from surgery.factor.features import Features
from surgery.factor.halves import Half, half_inverse
from surgery.factor.statistics import Statistics
from surgery.ops import Chain, Float64Array, FloatArray, Op
from surgery.ops.array import BLOCK_BYTES, blocks, product

RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
OUTPUT_ARRAYS = 16  # of the size of some outputs' last weights, for what is made of some at a time
MOMENTS = 2.0  # sizes of the layer at most, for all that is held of features together: in float32 what only measures
DEFAULT_RIDGE = 1e-2  # Where no samples are held out to choose by.


def best_ridge(chain: Chain, op: Op, statistics: Statistics) -> float:
    """Return the ridge with the smallest error on held-out samples, where the chain's last stage is fitted to the data.

    `op` is the layer whose weight W, scaled as the wanted outputs are, the ridge draws to.
    """
    if not len(statistics.held_out):
        return DEFAULT_RIDGE
    groups = len(statistics.moments.mean_x)
    errors = np.sum([_errors(chain, op, statistics, g) for g in range(groups)], axis=0)
    return RIDGES[int(np.argmin(errors))]


def _errors(chain: Chain, op: Op, statistics: Statistics, group: int) -> list[float]:
    """Return the squared error of one group of outputs for each ridge."""
    moments, groups = statistics.moments, len(statistics.moments.mean_x)
    size = op.out_channels // groups
    outputs = slice(group * size, (group + 1) * size)
    weight = op.weight[outputs].reshape(size, -1)
    features = _few(Features.of(chain, groups, group), weight)
    cross, covariance = features.seen(moments.yx[outputs]).astype(np.float32), Half.zeros(len(features))
    for rows, image in features.images(moments.metric(0), group):
        covariance.add(rows, features.seen(image))
        if statistics.is_symmetric:
            cross[:, rows] = product(weight, image.T)
    del image
    norms, drawn = Half.zeros(len(features), np.float32), features.seen(weight).astype(np.float32)
    features.add_gram(norms, 1.0)
    cross *= moments.factor[outputs, np.newaxis]
    drawn *= moments.factor[outputs, np.newaxis]
    held_squares, held_cross, rest = _held_out(features, statistics, group, outputs)
    errors = []
    for ridge in RIDGES:
        added, error = ridge * moments.mean_eigenvalue, rest
        solve = half_inverse(covariance.plus(norms, added))
        for few in blocks(size, OUTPUT_ARRAYS * 8 * len(features)):
            last = solve((np.multiply(added, drawn[few], dtype=np.float64) + cross[few]).T)
            error += float(np.vdot(held_squares.times(last), last) - 2 * np.vdot(held_cross[:, few], last))
        errors.append(error)
        del solve
    return errors


def _few(features: Features, weight: FloatArray) -> Features:
    """Return as many of the features as there is room for, for four halves of a matrix and three of `cross`."""
    outputs, room = len(weight), max(MOMENTS * weight.size, BLOCK_BYTES // 8)
    most = (math.sqrt(outputs**2 + 8 / 3 * room) - outputs) / 2  # 3/2 (f² + f outputs) = room
    return features.first(max(1, int(most) // (features.places[0] * features.places[1])))


def _held_out(
    features: Features, statistics: Statistics, group: int, outputs: slice
) -> tuple[Half, Float64Array, float]:
    """Return sums over held-out samples: fᵀf, fᵀy and |y|², all about the moments' means."""
    moments, held = statistics.moments, statistics.held_out
    centre = features.seen(moments.mean_x[group : group + 1])
    squares = Half.zeros(len(features), np.float32)
    cross, rest = np.zeros((len(features), outputs.stop - outputs.start), np.float32), 0.0
    for few in blocks(len(held), OUTPUT_ARRAYS * 8 * max(len(features), features.inputs)):
        seen = features.seen(held.x[few, group])
        seen -= centre
        wanted = held.wanted(few, outputs) - moments.mean_y[outputs]
        squares.add_squares(seen)
        cross += seen.T @ wanted
        rest += float(np.vdot(wanted, wanted))
    return squares, cross, rest
