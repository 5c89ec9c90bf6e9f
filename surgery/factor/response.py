"""Fit a convolution to its responses: its kernel to r channels, then 1x1.

Zhang et al. (2016), "Accelerating very deep convolutional networks for classification and detection", sections 3.1 to
3.3. Linear: the principal components of the responses that the data give. Where a ReLU follows, what it cuts off need
not be matched: see `surgery.factor.response_relu`. Where the inputs come from a network already cut and the wanted
responses from the original, the fit makes up for the cuts before it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, TypeGuard

import numpy as np

from surgery.errors import PlanError
from surgery.factor.base import Fit, Method, Rank, contiguous, option, stacked
from surgery.factor.metric import Metric
from surgery.factor.refit import relative_error
from surgery.factor.response_relu import relu_aware
from surgery.factor.responses import error_behind_relu
from surgery.factor.solver import stored_dtype
from surgery.factor.statistics import Statistics, centred
from surgery.factor.svd_channel import SvdChannel
from surgery.ops import Chain, Op


class DataMethod(Method, Protocol):
    """A method that needs more of the data than a metric, and cuts nothing without them.

    Laws, besides those of `Method`: `factor` without a metric raises PlanError; the bias of `factor_to` is its own.
    """

    needs_data: ClassVar[bool]

    def blind(self, op: Op, rank: Rank) -> Chain:
        """Return a chain of like form and size that is fitted to the weights alone: enough to tell ridges apart."""
        ...

    def factor_to(self, op: Op, metric: Metric, rank: Rank, statistics: Statistics) -> Fit:
        """Cut `op`, already the best fit to the data in this metric (`target`), at `rank`."""
        ...


@dataclass(frozen=True)
class Response(SvdChannel):
    """W (out, in·kh·kw) ≈ A B as in `SvdChannel`, both from the responses.

    Law, besides those of `Method`: without a ReLU behind the layer no chain of the rank has a smaller error of the
    responses that the metric is of; with one none is taken that has a larger error behind it on held-out samples.
    """

    name: ClassVar[str] = "response"
    summary: ClassVar[str] = "convolution: the same kernel to r channels, then 1x1, fitted to responses (--calibrate)"
    needs_data: ClassVar[bool] = True

    activation: str = option("relu", "linear")

    def blind(self, op: Op, rank: Rank) -> Chain:
        """See `DataMethod.blind`."""
        return SvdChannel().factor(op, rank).chain

    def factor(self, op: Op, rank: Rank, *, metric: Metric | None = None, seed: int = 0) -> Fit:
        """See `Method.factor`; the linear fit, with the layer's own bias."""
        return super().factor(op, rank, metric=required(self, metric))

    def factor_to(self, op: Op, metric: Metric, rank: Rank, statistics: Statistics) -> Fit:
        """See `DataMethod.factor_to`."""
        linear = self.factor(op, rank, metric=metric)
        linear = replace(linear, chain=centred(linear.chain, statistics.moments))
        if self.activation == "linear" or not statistics.relu or not len(statistics.samples):
            return linear
        lefts, rights, biases = zip(
            *(relu_aware(op, group, metric.groups, rank[0], statistics) for group in range(metric.groups)), strict=True
        )
        chain = contiguous(self.fold(op, stacked(lefts), stacked(rights)))
        del lefts, rights
        bias = np.concatenate(biases).astype(stored_dtype(op.weight))
        chain = Chain((chain.first, replace(chain.last, bias=bias)))
        found = Fit(chain, tuple(rank), relative_error(chain, op), "responses, alternating")
        held = statistics.held_out if len(statistics.held_out) else statistics.samples
        return min(linear, found, key=lambda fit: error_behind_relu(fit.chain, held))


def required(method: Method, metric: Metric | None) -> Metric:
    """Return the metric, or raise PlanError where there are no data to have one of."""
    if metric is None:
        raise PlanError(f"{method.name}: fits the responses to data, and there are none; give --calibrate")
    return metric


def needs_data(method: Method) -> TypeGuard[DataMethod]:
    """Whether the method cuts nothing without data."""
    return getattr(method, "needs_data", False)
