"""Fit a convolution to its responses as k x 1, 1 x k and 1x1: its channels cut first, then the kernel of what is left.

Zhang et al. (2016), "Accelerating very deep convolutional networks for classification and detection", section 3.5.
There the filters alone are split in space; here that split starts from the responses too, and all three are refitted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from surgery.factor.base import (
    Fit,
    Rank,
    as_conv2d,
    check_rank,
    check_size,
    contiguous,
    placeholder,
    rank_holding,
)
from surgery.factor.metric import Metric
from surgery.factor.refit import refit, relative_error
from surgery.factor.response import required
from surgery.factor.statistics import Statistics, centred
from surgery.factor.svd_channel import SvdChannel
from surgery.factor.svd_spatial import SvdSpatial
from surgery.ops import Chain, Conv2d, Float64Array, FloatArray, Op

CHANNEL, SPATIAL = SvdChannel(), SvdSpatial()


@dataclass(frozen=True)
class Response3d:
    """W (out, in, kh, kw) ≈ A H V: V (r_1, in, kh, 1), H (r_2, r_1, 1, kw), both without bias, then A (out, r_2, 1, 1).

    A rank is (r_1, r_2), per group. Each axis takes its own half of stride, padding and dilation along.
    """

    name: ClassVar[str] = "response-3d"
    summary: ClassVar[str] = "convolution: kh x 1, 1 x kw and 1x1, fitted to responses (--calibrate)"
    is_exact: ClassVar[bool] = True
    uses_metric: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True

    def blind(self, op: Op, rank: Rank) -> Chain:
        """See `DataMethod.blind`: the channels cut alone."""
        return CHANNEL.factor(op, rank[1:]).chain

    def refusal(self, op: Op) -> str | None:
        """Refuse what has nothing to separate, as svd-spatial does."""
        return SPATIAL.refusal(op)

    def max_rank(self, op: Op) -> Rank:
        """Return (r_1, r_2), the full ranks of svd-spatial and svd-channel."""
        as_conv2d(self, op)
        return SPATIAL.max_rank(op) + CHANNEL.max_rank(op)

    def rank_at(self, op: Op, size: int) -> Rank:
        """See `Method.rank_at`: both widths are `size`, as in the paper's networks, up to the full rank of each."""
        check_size(self, op, size)
        first, second = self.max_rank(op)
        return min(size, first), min(size, second)

    def template(self, op: Op, rank: Rank) -> Chain:
        """See `Method.template`."""
        self._check(op, rank)
        conv, (r_1, r_2) = as_conv2d(self, op), rank
        (kh, kw), groups = conv.kernel, conv.groups
        shapes = (groups * r_1, conv.weight.shape[1], kh, 1), (groups * r_2, r_1, 1, kw), (conv.out_channels, r_2, 1, 1)
        return _chain(conv, *(placeholder(shape, conv.weight) for shape in shapes))

    def spectrum(self, op: Op) -> tuple[Float64Array, ...]:
        """Return the singular values of svd-spatial and of svd-channel."""
        as_conv2d(self, op)
        return SPATIAL.spectrum(op) + CHANNEL.spectrum(op)

    def rank_for_energy(self, op: Op, energy: float, spectrum: tuple[Float64Array, ...] | None = None) -> Rank:
        """See `Method.rank_for_energy`: each cut keeps the share, so together they may lose twice 1 - `energy`."""
        return tuple(rank_holding(values, energy) for values in spectrum or self.spectrum(op))

    def factor(self, op: Op, rank: Rank, *, metric: Metric | None = None, seed: int = 0) -> Fit:
        """See `Method.factor`. Deterministic: `seed` has no effect."""
        self._check(op, rank)
        metric = required(self, metric)
        chain = refit(self._start(as_conv2d(self, op), rank, metric), (0, 1, 2), op, metric)
        return Fit(chain, tuple(rank), relative_error(chain, op), "responses, refitted")

    def _start(self, conv: Conv2d, rank: Rank, metric: Metric) -> Chain:
        """Return the best chain of two, its kernel then split in space."""
        thin, last = _unit_last(CHANNEL.factor(conv, rank[1:], metric=metric).chain)
        first = min(rank[0], *SPATIAL.max_rank(thin))
        split = SPATIAL.start(thin, (first,), metric)
        # A thin kernel may have a smaller full rank than the layer's: the rest of the width is idle.
        idle = rank[0] - first
        vertical = _widened(split.first.weight, 0, idle, conv.groups)
        return contiguous(_chain(conv, vertical, _widened(split.last.weight, 1, idle, 1), last))

    def factor_to(self, op: Op, metric: Metric, rank: Rank, statistics: Statistics) -> Fit:
        """See `DataMethod.factor_to`."""
        found = self.factor(op, rank, metric=metric)
        return replace(found, chain=centred(found.chain, statistics.moments))

    def _check(self, op: Op, rank: Rank) -> None:
        self.max_rank(op)
        _, rows, columns = SPATIAL.shape(op)
        _, outputs, inputs = CHANNEL.shape(op)
        check_rank(self, op, rank, f"(min({rows}, {columns}), min({outputs}, {inputs}))")


def _chain(conv: Conv2d, vertical: FloatArray, horizontal: FloatArray, last: FloatArray) -> Chain:
    (sh, sw), (ph, pw), (dh, dw) = conv.stride, conv.padding, conv.dilation
    return Chain(
        (
            Conv2d(vertical, None, (sh, 1), (ph, 0), (dh, 1), conv.groups),
            Conv2d(horizontal, None, (1, sw), (0, pw), (1, dw), conv.groups),
            Conv2d(last, conv.bias, groups=conv.groups),
        )
    )


def _unit_last(chain: Chain) -> tuple[Conv2d, FloatArray]:
    """Return the first convolution and the last weight (out, r, 1, 1), all of a channel's norm in the former.

    With orthonormal columns in the latter an error of the former costs what it does to the outputs. The former lies in
    the order that `SvdSpatial.unfold` wants: no copy of it is made there.
    """
    first, last = chain.ops
    assert isinstance(first, Conv2d)  # The chain of svd-channel.
    assert isinstance(last, Conv2d)
    per_group = last.weight.reshape(last.groups, -1, last.weight.shape[1])
    norms = np.linalg.norm(per_group, axis=1)
    norms[norms == 0] = 1.0
    columns = (per_group / norms[:, None]).reshape(last.weight.shape)
    thin = np.ascontiguousarray(first.weight.transpose(0, 3, 1, 2))
    thin *= norms.reshape(-1, 1, 1, 1)
    return replace(first, weight=thin.transpose(0, 2, 3, 1)), columns


def _widened(weight: FloatArray, axis: int, idle: int, groups: int) -> FloatArray:
    """Return the weight with `idle` channels of zeros behind those of each group."""
    room = [(0, idle if k == axis else 0) for k in range(weight.ndim)]
    return np.concatenate([np.pad(part, room) for part in np.split(weight, groups)])
