"""What a layer makes of sampled patches, and how far that is from what the network wants of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from surgery.factor.kernels import kernels_of, made_of
from surgery.factor.statistics import Samples
from surgery.ops import Chain, FloatArray, Op
from surgery.ops.array import blocks

ARRAYS = 4  # of the size of some samples' responses, for some more of them than there are at a time


def responses(layer: Chain | Op, patches: FloatArray) -> FloatArray:
    """Return what the layer makes of patches (N, groups, n): (N, out)."""
    groups = patches.shape[1]
    if isinstance(layer, Chain):
        made = np.concatenate([made_of(patches[:, g], kernels_of(layer, groups, g)) for g in range(groups)], axis=1)
        bias = layer.last.bias
    else:
        rows = np.split(layer.weight.reshape(len(layer.weight), -1), groups)
        made = np.concatenate([projected(patches[:, g], part) for g, part in enumerate(rows)], axis=1)
        bias = layer.bias
    return made if bias is None else made + bias


def projected(patches: FloatArray, rows: FloatArray, dtype: npt.DTypeLike = np.float64) -> FloatArray:
    """Return patches (N, n) @ rowsᵀ (n, m), summed in float64, without a float64 copy of all patches."""
    result: FloatArray = np.empty((len(patches), len(rows)), dtype)
    for few in blocks(len(patches), 32 * patches.shape[1]):
        some = patches[few].astype(np.float64)
        for part in blocks(len(rows), 32 * rows.shape[1]):
            result[few, part] = some @ rows[part].astype(np.float64, copy=False).T
    return result


def response_error(layer: Chain | Op, samples: Samples) -> float:
    """Return ||y - ŷ|| / ||y - mean(y)|| over the samples, ŷ what the layer makes of x; ||y - ŷ|| where y is still."""
    return _relative(layer, samples, lambda some: some)


def error_behind_relu(layer: Chain | Op, samples: Samples) -> float:
    """Return `response_error` of what a ReLU leaves of both."""
    return _relative(layer, samples, lambda some: np.maximum(some, 0))


def _relative(layer: Chain | Op, samples: Samples, behind: Callable[[FloatArray], FloatArray]) -> float:
    outputs = samples.y.shape[1]
    parts = list(blocks(len(samples), ARRAYS * 8 * outputs))
    total = sum((behind(samples.wanted(few)).sum(axis=0, dtype=np.float64) for few in parts), np.zeros(outputs))
    mean, varies, missed = total / max(len(samples), 1), 0.0, 0.0
    for few in parts:
        wanted = behind(samples.wanted(few))
        varies += float(np.sum(np.square(wanted - mean)))
        missed += float(np.sum(np.square(wanted - behind(responses(layer, samples.x[few])))))
    return float(np.sqrt(missed)) / (float(np.sqrt(varies)) or 1.0)
