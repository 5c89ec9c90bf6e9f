"""Split a kh x kw convolution into kh x 1 and 1 x kw through r channels (Jaderberg et al., 2014, scheme 2).

Filter reconstruction under this form is one SVD, hence globally optimal (Tai et al., 2015). In the metric of the data
it is no longer: the vertical convolution starts from the responses to the columns of the inputs, all columns of the
kernel alike, and both are then refitted in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from surgery.factor.base import Fit, Rank, as_conv2d, placeholder
from surgery.factor.halves import Half
from surgery.factor.matrix_method import MatrixMethod, Times
from surgery.factor.metric import Metric
from surgery.factor.normal import Problem
from surgery.factor.refit import refit, relative_error
from surgery.ops import Chain, Conv2d, Float64Array, FloatArray, Op


@dataclass(frozen=True)
class SvdSpatial(MatrixMethod):
    """W (out·kw, in·kh) ≈ H V: kh x 1 to r channels without bias, then 1 x kw with the layer's bias.

    Each axis takes its own half of stride, padding and dilation along.
    """

    name: ClassVar[str] = "svd-spatial"
    summary: ClassVar[str] = "convolution: kh x 1 to r channels, then 1 x kw, by singular value decomposition"

    def refusal(self, op: Op) -> str | None:
        """Refuse all but convolutions with at least two taps on both axes."""
        if not isinstance(op, Conv2d):
            return "not a convolution"
        kh, kw = op.kernel
        if min(kh, kw) > 1:
            return None
        return f"kernel is {kh}x{kw}: " + ("nothing to separate" if max(kh, kw) == 1 else "already separated")

    def shape(self, op: Op) -> tuple[int, int, int]:
        """Return (groups, out / groups · kw, in / groups · kh)."""
        conv = as_conv2d(self, op)
        kh, kw = conv.kernel
        return conv.groups, conv.out_channels // conv.groups * kw, conv.in_channels // conv.groups * kh

    def unfold(self, op: Op, group: int) -> FloatArray:
        """Return rows (output, column of the kernel) and columns (input, row of the kernel): a copy, as weights lie."""
        groups, m, n = self.shape(op)
        outputs = op.weight.shape[0] // groups
        return op.weight[group * outputs : (group + 1) * outputs].transpose(0, 3, 1, 2).reshape(m, n)

    def fold(self, op: Op, left: FloatArray, right: FloatArray) -> Chain:
        """Return the vertical convolution, then the horizontal one; both in the layer's groups."""
        conv = as_conv2d(self, op)
        kh, kw = conv.kernel
        (sh, sw), (ph, pw), (dh, dw) = conv.stride, conv.padding, conv.dilation
        rank = right.shape[1]
        vertical = right.reshape(conv.groups * rank, -1, kh, 1)
        horizontal = left.reshape(conv.out_channels, kw, rank).transpose(0, 2, 1)[:, :, None, :]
        return Chain(
            (
                Conv2d(vertical, None, (sh, 1), (ph, 0), (dh, 1), conv.groups),
                Conv2d(horizontal, conv.bias, (1, sw), (0, pw), (1, dw), conv.groups),
            )
        )

    def in_metric(self, op: Op, rank: Rank, metric: Metric) -> Fit:
        """Return the start, refitted: a local optimum of the metric itself."""
        chain = refit(self.start(op, rank, metric), (0, 1), op, metric)
        return Fit(chain, tuple(rank), relative_error(chain, op), "responses, refitted")

    def start(self, op: Op, rank: Rank, metric: Metric) -> Chain:
        """Return the chain that is best in the mean metric of the inputs' columns."""
        return self.best(op, rank, _over_columns(as_conv2d(self, op), metric))


def _over_columns(conv: Conv2d, metric: Metric) -> Iterator[Times]:
    """Yield for each group what multiplies rows (m, in / groups · kh) by the mean second moment of columns."""
    size = conv.weight[0].size
    wanted = placeholder((len(conv.weight) // metric.groups, size), conv.weight)  # Of no meaning to the moments.
    for group in range(metric.groups):
        # Not held here, too: they are let go as soon as they were used.
        yield partial(_times, Problem(metric, group, conv.weight.shape[1:], wanted).moments((conv.kernel[0], 1)))


def _times(moments: Half, rows: FloatArray) -> Float64Array:
    return moments.times(rows.T.astype(np.float64)).T
