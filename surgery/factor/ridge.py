"""Chooses the ridge: how strongly a fit to data is drawn to the layer's own weight where the samples say little.

A ridge is a share of the mean eigenvalue of the inputs' covariance. Each is tried on what costs least and still tells:
the last stage of a chain, fitted to its features f = F x (F the stages before it, at every offset that it looks at),

    A = (Cyx Fᵀ + r W Fᵀ) (F Cxx Fᵀ + r F Fᵀ)⁻¹,

and measured on samples that no fit has seen.
"""

from __future__ import annotations

import numpy as np

from surgery.factor.refit import feature_images, features, inverse
from surgery.factor.responses import projected
from surgery.factor.statistics import Statistics
from surgery.ops import Chain, Op

RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
DEFAULT_RIDGE = 1e-2  # Where no samples are held out to choose by.


def best_ridge(chain: Chain, op: Op, statistics: Statistics) -> float:
    """Return the ridge with the smallest error on held-out samples, where the chain's last stage is fitted to the data.

    `op` is the layer whose weight W the ridge draws to.
    """
    if not len(statistics.held_out):
        return DEFAULT_RIDGE
    groups = len(statistics.moments.mean_x)
    errors = np.sum([_errors(chain, op, statistics, g) for g in range(groups)], axis=0)
    return RIDGES[int(np.argmin(errors))]


def _errors(chain: Chain, op: Op, statistics: Statistics, group: int) -> list[float]:
    """Return the squared error of one group of outputs for each ridge."""
    moments, held, groups = statistics.moments, statistics.held_out, len(statistics.moments.mean_x)
    size = op.out_channels // groups
    outputs = slice(group * size, (group + 1) * size)
    weight = op.weight[outputs].reshape(size, -1).astype(np.float64)
    forward = features(chain, groups, group)
    cross, covariance = moments.yx[outputs] @ forward.T, np.empty((len(forward), len(forward)))
    for rows, image in feature_images(chain, groups, group, moments.metric(0)):
        covariance[rows] = image @ forward.T
        if statistics.is_symmetric:
            cross[:, rows] = weight @ image.T
    norms, drawn = forward @ forward.T, weight @ forward.T
    seen = projected(held.x[:, group], forward) - forward @ moments.mean_x[group]
    wanted = held.y[:, outputs] - moments.mean_y[outputs]
    errors = []
    for ridge in RIDGES:
        added = ridge * moments.mean_eigenvalue
        last = inverse(covariance + added * norms)((cross + added * drawn).T)
        missed = wanted - seen @ last
        errors.append(float(np.vdot(missed, missed)))
    return errors
