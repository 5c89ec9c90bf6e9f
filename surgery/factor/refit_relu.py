"""Refits the last stage of a chain for what a ReLU behind it leaves: what it cuts off may be anything below zero.

With t = max(y, 0) the wanted responses and ŷ = A f + b of the features f, the sum of |t - max(ŷ, 0)|² is relaxed to
that of |t - max(z, 0)|² + λ |z - ŷ|² over free z, and solved for z and for A, b in turn (Zhang et al., 2016,
section 3.2, there for a first factor that is free too: `surgery.factor.response_relu`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from surgery.factor.features import Features
from surgery.factor.halves import Half, half_inverse
from surgery.factor.solver import stored_dtype
from surgery.factor.statistics import Statistics, Wanted
from surgery.ops import Chain, Conv2d, Float64Array, FloatArray
from surgery.ops.array import blocks

# As in the second half of the published schedule. The first half, 25 sweeps with λ = 0.01, counts a response below zero
# that should be above it by its whole distance. Little else speaks for either: see how few sweeps are made.
SHARE = 1.0
# As many as published at most. Where nothing is held out to stop by, 2: on VGG-16's conv3_2 and conv4_2, cut to 110 and
# 281 channels, the error on 600 samples held out was the least after one or two sweeps over 4000 others, and after 25
# larger than before any, while on those it went on falling.
SWEEPS = 25
BLIND_SWEEPS = 2
LEAST_GAIN = 1e-3  # Of the squared error on samples held out: a sweep that gains less is not taken, and is the last.
KEPT = 0.8  # Of the layer's numbers: features of samples that are no more are not made anew in each sweep.
BLOCK_ARRAYS = 16  # of the size of some samples' responses, for some more of them than there are at a time


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


def _refitted(chain: Chain, group: int, statistics: Statistics, ridge: float) -> tuple[FloatArray, Float64Array]:
    """Return one group's last weight (outputs, features), float32 as the samples are, and bias (outputs,)."""
    moments, groups = statistics.moments, len(statistics.moments.mean_x)
    features = Features.of(chain, groups, group)
    start = np.split(chain.last.weight, groups)[group].reshape(-1, len(features)).astype(np.float32, copy=False)
    size = len(start)
    outputs = slice(group * size, (group + 1) * size)
    wanted, unseen = (partial(some.wanted, outputs=outputs) for some in (statistics.samples, statistics.held_out))
    about = features.seen(moments.mean_x[group : group + 1])[0]
    mean, covariance = _moments(features, statistics.samples.x[:, group], about)
    # The moments are those of the samples, about their own mean: with others a sweep may lead away from its aim.
    features.add_gram(covariance, ridge * moments.mean_eigenvalue)
    solve = half_inverse(covariance)
    del covariance
    both = (_Seen(features, some.x[:, group], mean, size) for some in (statistics.samples, statistics.held_out))
    seen, held = (some.kept_within(int(KEPT * size * features.inputs)) for some in both)
    weight, centre = start, np.split(moments.mean_y, groups)[group] + start @ (mean - about)
    best, least = (weight, centre), _missed(held, weight, centre, unseen)
    for _ in range(SWEEPS if len(statistics.held_out) else BLIND_SWEEPS):
        missing, centre = _missing(seen, weight, centre, start, wanted)
        weight = start + solve(missing).T.astype(np.float32)
        error = _missed(held, weight, centre, unseen)
        if error > (1 - LEAST_GAIN) * least:
            break
        best, least = (weight, centre), error
    weight, centre = best
    return weight, centre - weight @ mean


@dataclass(frozen=True, eq=False, slots=True)
class _Seen:
    """Features less their mean, float32, of some samples at a time: those of all may be larger than the layer.

    Attributes:
        outputs: of which there are as many as samples at a time, too.
        kept: what `blocks` yields, where it is held.
    """

    features: Features
    x: FloatArray
    mean: Float64Array
    outputs: int
    kept: Sequence[tuple[slice, FloatArray]] = ()

    def kept_within(self, numbers: int) -> _Seen:
        """Return these, held from now on where they are no more than so many numbers."""
        is_small = len(self.x) * len(self.features) <= numbers
        return replace(self, kept=tuple(self.blocks())) if is_small else self

    def blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        """Yield some samples, and theirs (b, f)."""
        if self.kept:
            yield from self.kept
            return
        for few in blocks(len(self.x), 16 * max(len(self.features), self.x.shape[1], self.outputs)):
            part = self.features.seen(self.x[few])
            part -= self.mean
            yield few, part.astype(np.float32)


def _moments(features: Features, x: FloatArray, about: Float64Array) -> tuple[Float64Array, Half]:
    """Return the mean of samples' features (f,) and their covariance, `about` being near the mean."""
    total, squares = np.zeros(len(features)), Half.zeros(len(features))
    for few in blocks(len(x), 16 * max(len(features), x.shape[1])):
        part = features.seen(x[few])
        part -= about
        total += part.sum(axis=0)
        squares.add_squares(part)
    shift = total / len(x)
    for own, block in squares.parts():
        block /= len(x)
        block -= np.outer(shift[own], shift[: own.stop])
    return about + shift, squares


def _missing(
    seen: _Seen, weight: FloatArray, centre: Float64Array, start: FloatArray, wanted: Wanted
) -> tuple[Float64Array, Float64Array]:
    """Return the mean over samples of f (z - mean z - A f)ᵀ, A the `start`, and the mean of z."""
    total, products = np.zeros(len(centre)), np.zeros(start.T.shape)
    for few, part in seen.blocks():
        z = relaxed(_made(part, weight, centre), np.maximum(wanted(few), 0), SHARE)
        total += z.sum(axis=0, dtype=np.float64)
        z -= centre  # Near the mean, whose place it takes: the features' own mean is 0.
        z -= part @ start.T
        products += part.T @ z
    return products / len(seen.x), total / len(seen.x)


def _made(features: FloatArray, weight: FloatArray, bias: Float64Array) -> FloatArray:
    """Return (N, outputs), float32."""
    result: FloatArray = features @ weight.T
    result += bias.astype(np.float32)
    return result


def _missed(seen: _Seen, weight: FloatArray, bias: Float64Array, wanted: Wanted) -> float:
    """Return the squared error behind the ReLU, `wanted` in front of it."""
    total = 0.0
    for few, part in seen.blocks():
        missed = np.maximum(_made(part, weight, bias), 0)
        missed -= np.maximum(wanted(few), 0)
        total += float(np.einsum("ij,ij->", missed, missed, dtype=np.float64))
    return total


def relaxed(made: FloatArray, wanted: FloatArray, share: float) -> FloatArray:
    """Return the z of the least |wanted - max(z, 0)|² + share · |z - made|², number by number.

    It is the best one below zero or the best one above it, whichever is cheaper.
    """
    below = np.minimum(made, 0)
    above = np.maximum((share * made + wanted) / (share + 1), 0)
    cost_below = wanted**2 + share * (below - made) ** 2
    cost_above = (above - wanted) ** 2 + share * (above - made) ** 2
    return np.where(cost_below < cost_above, below, above)
