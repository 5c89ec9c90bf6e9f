"""Refits the last stage of a chain for what a ReLU behind it leaves: what it cuts off may be anything below zero.

With t = max(y, 0) the wanted responses and ŷ = A f + b of the features f, the sum of |t - max(ŷ, 0)|² is relaxed to
that of |t - max(z, 0)|² + λ |z - ŷ|² over free z, and solved for z and for A, b in turn (Zhang et al., 2016,
section 3.2, there for a first factor that is free too: `surgery.factor.response_relu`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from surgery.factor.refit import features, inverse
from surgery.factor.solver import stored_dtype
from surgery.factor.statistics import Statistics
from surgery.ops import Chain, Conv2d, Float64Array

# As in the second half of the published schedule; in the first are 25 sweeps with λ = 0.01, which count a response
# below zero that should be above it by its whole distance. After a linear fit they lead astray: on VGG-16's conv1_2 at
# a fifth of its MACs from an error of 0.057 behind the ReLU to 0.060; 25 sweeps with λ = 1 behind them led to 0.050.
SHARE = 1.0
SWEEPS = 25


def refit_behind_relu(chain: Chain, statistics: Statistics, ridge: float) -> Chain:
    """Return the chain with its last weight and bias fitted to the samples, drawn to what they are by the ridge.

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
    moments, samples, groups = statistics.moments, statistics.samples, len(statistics.moments.mean_x)
    forward = features(chain, groups, group)
    solve = inverse(moments.times(group, forward) @ forward.T + ridge * moments.mean_eigenvalue * (forward @ forward.T))
    seen = (samples.x[:, group] - moments.mean_x[group]) @ forward.T
    wanted = np.maximum(np.split(samples.y, groups, axis=1)[group].astype(np.float64), 0)
    start = np.split(chain.last.weight, groups)[group].reshape(wanted.shape[1], -1).astype(np.float64)
    linear = seen @ start.T
    weight, centre = start, np.split(moments.mean_y, groups)[group]
    for _ in range(SWEEPS):
        z = relaxed(seen @ weight.T + centre, wanted, SHARE)
        centre = z.mean(axis=0)
        weight = start + solve(seen.T @ (z - centre - linear) / len(seen)).T
    return weight, centre - weight @ (forward @ moments.mean_x[group])


def relaxed(made: Float64Array, wanted: Float64Array, share: float) -> Float64Array:
    """Return the z of the least |wanted - max(z, 0)|² + share · |z - made|², number by number.

    It is the best one below zero or the best one above it, whichever is cheaper.
    """
    below = np.minimum(made, 0)
    above = np.maximum((share * made + wanted) / (share + 1), 0)
    cost_below = wanted**2 + share * (below - made) ** 2
    cost_above = (above - wanted) ** 2 + share * (above - made) ** 2
    return np.where(cost_below < cost_above, below, above)
