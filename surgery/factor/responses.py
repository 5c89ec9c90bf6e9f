"""What a layer makes of sampled patches, and how far that is from what the network wants of it."""

from __future__ import annotations

import numpy as np

from surgery.factor.statistics import Samples
from surgery.ops import Chain, Float64Array, FloatArray, Op, collapse
from surgery.ops.array import blocks


def responses(layer: Chain | Op, patches: FloatArray) -> Float64Array:
    """Return what the layer makes of patches (N, groups, n): (N, out)."""
    op = collapse(layer) if isinstance(layer, Chain) else layer
    rows = np.split(op.weight.reshape(len(op.weight), -1).astype(np.float64, copy=False), patches.shape[1])
    made = np.concatenate([projected(patches[:, g], part) for g, part in enumerate(rows)], axis=1)
    return made if op.bias is None else made + op.bias


def projected(patches: FloatArray, rows: Float64Array) -> Float64Array:
    """Return patches (N, n) @ rowsᵀ (n, m), without a float64 copy of all patches."""
    result = np.empty((len(patches), len(rows)))
    for few in blocks(len(patches), 8 * patches.shape[1]):
        result[few] = patches[few].astype(np.float64) @ rows.T
    return result


def response_error(layer: Chain | Op, samples: Samples) -> float:
    """Return ||y - ŷ|| / ||y - mean(y)|| over the samples, ŷ what the layer makes of x; ||y - ŷ|| where y is still."""
    return _relative(samples.y, responses(layer, samples.x))


def error_behind_relu(layer: Chain | Op, samples: Samples) -> float:
    """Return `response_error` of what a ReLU leaves of both."""
    return _relative(np.maximum(samples.y, 0), np.maximum(responses(layer, samples.x), 0))


def _relative(wanted: FloatArray, made: Float64Array) -> float:
    varies = float(np.linalg.norm(wanted - wanted.mean(axis=0, dtype=np.float64)))
    return float(np.linalg.norm(wanted - made)) / (varies or 1.0)
