"""Refits the last stage of a chain for what a ReLU behind it leaves: what it cuts off may be anything below zero.

With t = max(y, 0) the wanted responses and ŷ = A f + b of the features f, the sum of |t - max(ŷ, 0)|² is relaxed to
that of |t - max(z, 0)|² + λ |z - ŷ|² over free z, and solved for z and for A, b in turn (Zhang et al., 2016,
section 3.2, there for a first factor that is free too: `surgery.factor.response_relu`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from surgery.factor.refit import features, inverse
from surgery.factor.responses import projected
from surgery.factor.solver import stored_dtype
from surgery.factor.statistics import Statistics
from surgery.ops import Chain, Conv2d, Float64Array, FloatArray

# As in the second half of the published schedule. The first half, 25 sweeps with λ = 0.01, counts a response below zero
# that should be above it by its whole distance. Little else speaks for either: see how few sweeps are made.
SHARE = 1.0
# As many as published at most. Where nothing is held out to stop by, 2: on VGG-16's conv3_2 and conv4_2, cut to 110 and
# 281 channels, the error on 600 samples held out was the least after one or two sweeps over 4000 others, and after 25
# larger than before any, while on those it went on falling.
SWEEPS = 25
BLIND_SWEEPS = 2
LEAST_GAIN = 1e-3  # Of the squared error on samples held out: a sweep that gains less is not taken, and is the last.


def refit_behind_relu(chain: Chain, statistics: Statistics, ridge: float) -> Chain:
    """Return the chain with its last weight and bias fitted to the samples, drawn to what they are by the ridge.

    Each group of outputs stops before the sweep that no longer lowers its error on held-out samples.
    The chain itself where its last stage works in more groups than the layer does.
    """
    groups = len(statistics.moments.mean_x)
    if isinstance(chain.last, Conv2d) and chain.last.groups != groups:
        return chain
    parts = [_refitted(chain, group, statistics, ridge) for group in range(groups)]
    weight, bias = (np.concatenate(some) for some in zip(*parts, strict=True))
    dtype = stored_dtype(chain.last.weight)
    last = replace(chain.last, weight=weight.reshape(chain.last.weight.shape).astype(dtype), bias=bias.astype(dtype))
    return Chain((*chain.ops[:-1], last))


def _refitted(chain: Chain, group: int, statistics: Statistics, ridge: float) -> tuple[Float64Array, Float64Array]:
    """Return one group's last weight (outputs, features) and bias (outputs,)."""
    moments, groups = statistics.moments, len(statistics.moments.mean_x)
    forward = features(chain, groups, group)
    start = np.split(chain.last.weight, groups)[group].reshape(-1, len(forward)).astype(np.float64)
    (seen, wanted), (held, unseen) = (
        (projected(some.x[:, group], forward), np.maximum(np.split(some.y, groups, axis=1)[group], 0))
        for some in (statistics.samples, statistics.held_out)
    )
    mean = seen.mean(axis=0)
    seen -= mean
    # The moments are those of the samples, about their own mean: with others a sweep may lead away from its aim.
    solve = inverse(seen.T @ seen / len(seen) + ridge * moments.mean_eigenvalue * (forward @ forward.T))
    # The samples are float32, and so are sums over them from here on; all that is solved for is not.
    seen, held = seen.astype(np.float32), (held - mean).astype(np.float32)
    linear = seen @ start.T.astype(np.float32)
    weight, centre = start, np.split(moments.mean_y, groups)[group] + start @ (mean - forward @ moments.mean_x[group])
    best, least = (weight, centre), _missed(held, weight, centre, unseen)
    for _ in range(SWEEPS if len(held) else BLIND_SWEEPS):
        z = relaxed(_made(seen, weight, centre), wanted, SHARE)
        centre = z.mean(axis=0, dtype=np.float64)
        z -= centre
        z -= linear
        weight = start + solve(seen.T @ z / len(seen)).T
        error = _missed(held, weight, centre, unseen)
        if error > (1 - LEAST_GAIN) * least:
            break
        best, least = (weight, centre), error
    weight, centre = best
    return weight, centre - weight @ mean


def _made(features: FloatArray, weight: Float64Array, bias: Float64Array) -> FloatArray:
    """Return (N, outputs), float32."""
    result: FloatArray = features @ weight.T.astype(np.float32) + bias.astype(np.float32)
    return result


def _missed(features: FloatArray, weight: Float64Array, bias: Float64Array, wanted: FloatArray) -> float:
    """Return the squared error behind the ReLU."""
    return float(np.sum(np.square(np.maximum(_made(features, weight, bias), 0) - wanted), dtype=np.float64))


def relaxed(made: FloatArray, wanted: FloatArray, share: float) -> FloatArray:
    """Return the z of the least |wanted - max(z, 0)|² + share · |z - made|², number by number.

    It is the best one below zero or the best one above it, whichever is cheaper.
    """
    below = np.minimum(made, 0)
    above = np.maximum((share * made + wanted) / (share + 1), 0)
    cost_below = wanted**2 + share * (below - made) ** 2
    cost_above = (above - wanted) ** 2 + share * (above - made) ** 2
    return np.where(cost_below < cost_above, below, above)
