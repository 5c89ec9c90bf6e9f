"""Cuts one layer, to its weights alone or to calibration data, and measures what the data say of the result.

With data the steps are, each in the units of the values that the network goes on with (behind BatchNorm and Scale):

    fold the scale in -> choose the ridge -> factor (in the metric of the data, where the method heeds one) and centre
    the bias -> where asked refit the stages that are free, then the last one for a ReLU behind it -> fold the scale out

Of the results after each step the one with the smallest error on positions that no fit has seen is kept.

All of it is in float32, as the samples are, a float64 layer's weights too: what they hold beyond that is lost in the
rounding of the data. The result has the layer's own precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from surgery.errors import PlanError
from surgery.factor.base import Fit, Method, Rank
from surgery.factor.refit import is_settled, relative_error
from surgery.factor.refit import refit as refit_stages
from surgery.factor.refit_relu import refit_behind_relu
from surgery.factor.response import needs_data
from surgery.factor.responses import error_behind_relu, response_error
from surgery.factor.ridge import best_ridge
from surgery.factor.solver import stored_dtype
from surgery.factor.statistics import Statistics, centred, target
from surgery.ops import Chain, Op, Scale

# Channels that a scale makes smaller than this against its largest are below float32's rounding of their sum.
SMALLEST_FACTOR = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, eq=False, slots=True)
class Fitted:
    """A layer cut, and what is known of it.

    Attributes:
        fit: the chain; its error is that of the weight against the layer's own.
        response_error: ||y - ŷ|| / ||y - mean(y)|| over held-out positions, y what the network wants behind the layer
            and, where they follow, its scale and its ReLU; None without data.
        refitted: whether stages were refitted to the data after the method was done.
        recentred: whether the bias was moved to make up for the mean of what is missed.
        ridge: what the covariance of the inputs was raised by, relative to its mean eigenvalue; None without data.
    """

    fit: Fit
    response_error: float | None = None
    refitted: bool = False
    recentred: bool = False
    ridge: float | None = None


def fit(
    op: Op, method: Method, rank: Rank, statistics: Statistics | None, *, refit: bool = False, seed: int = 0
) -> Fitted:
    """Return `op` cut at `rank`, fitted to the data where there are any; raises PlanError as the method does.

    `refit` refits all stages that the method leaves free and has not fitted so itself, which needs data.
    """
    if statistics is None:
        return Fitted(method.factor(op, rank, seed=seed))
    scale = _invertible(statistics.scale, op.out_channels) if statistics.scale else None
    found = _best(op, scale, method, rank, statistics, refit=refit, seed=seed)
    if found is None:
        scale, statistics = None, replace(statistics, scale=None, relu=False)
        found = _best(op, scale, method, rank, statistics, refit=refit, seed=seed)
    assert found is not None  # Without a scale there always is one.
    chain = _unfolded(found, op, scale)
    return replace(found, fit=replace(found.fit, chain=chain, relative_error=relative_error(chain, op)))


def _best(
    op: Op, scale: Scale | None, method: Method, rank: Rank, statistics: Statistics, *, refit: bool, seed: int
) -> Fitted | None:
    """Return the best of all trials on held-out data, in the units behind the scale.

    None where nothing can be folded out of the last stage again, for it may not take other numbers.
    """
    data = _folded(statistics, scale) if scale else statistics

    def error_of(chain: Chain) -> float | None:
        measure = error_behind_relu if data.relu else response_error
        return measure(chain, data.held_out) if len(data.held_out) else None

    if needs_data(method):
        ridge = best_ridge(method.blind(_in_float32(op, scale), rank), op, data)
        fit = method.factor_to(*target(op, data, ridge), rank, data)
        return Fitted(fit, error_of(fit.chain), recentred=True, ridge=ridge)
    blind: Fit | None = method.factor(_in_float32(op, scale), rank, seed=seed)
    assert blind is not None
    if scale and len(blind.chain.ops) - 1 in blind.bound:
        return None
    ridge, error, best = best_ridge(blind.chain, op, data), error_of(blind.chain), None
    if method.uses_metric or not data.is_symmetric:
        blind = None  # Made again where it is the best, which is rare: held, it takes room.
    for trial in _trials(op, method, rank, data, ridge, blind, refit=refit, seed=seed):
        own_error = error_of(trial.fit.chain)
        if error is None or own_error is None or own_error < error:
            best, error = trial, own_error
        del trial  # What is not the best need not be held.
    if best is None:
        best = Fitted(blind or method.factor(_in_float32(op, scale), rank, seed=seed), ridge=ridge)
    return replace(best, response_error=error)


def _trials(
    op: Op,
    method: Method,
    rank: Rank,
    data: Statistics,
    ridge: float,
    found: Fit | None,
    *,
    refit: bool,
    seed: int,
) -> Iterator[Fitted]:
    """Yield a fit to the data after each step; `found` is the one to the weights, where it is theirs as well."""
    wanted, metric = target(op, data, ridge)
    if found is None:
        found = method.factor(wanted, rank, metric=metric if method.uses_metric else None, seed=seed)
    yield Fitted(replace(found, chain=centred(found.chain, data.moments)), recentred=True, ridge=ridge)
    if not refit:
        return
    free, chain = set(range(len(found.chain.ops))) - found.bound, centred(found.chain, data.moments)
    if not is_settled(method):
        chain = centred(refit_stages(found.chain, free, wanted, metric), data.moments)
        yield Fitted(replace(found, chain=chain), refitted=True, recentred=True, ridge=ridge)
    del wanted, metric
    if data.relu and max(free, default=-1) == len(chain.ops) - 1 and len(data.samples):
        chain = refit_behind_relu(chain, data, ridge)
        yield Fitted(replace(found, chain=chain), refitted=True, recentred=True, ridge=ridge)


def _invertible(scale: Scale, channels: int) -> Scale:
    """Return the scale for that many channels, without those that it all but removes: they stay as they are."""
    factor, shift = (np.broadcast_to(part, channels) for part in (scale.factor, scale.shift))
    kept = np.abs(factor) > SMALLEST_FACTOR * np.abs(factor).max()
    return Scale(np.where(kept, factor, 1.0), np.where(kept, shift, 0.0))


def _folded(statistics: Statistics, scale: Scale) -> Statistics:
    """Return the statistics with the wanted outputs as they are behind the scale."""
    samples, held = (replace(some, scale=scale) for some in (statistics.samples, statistics.held_out))
    return replace(statistics, moments=statistics.moments.scaled(scale), samples=samples, held_out=held, scale=None)


def _in_float32(op: Op, scale: Scale | None) -> Op:
    """Return the layer in float32, with the scale behind it taken in: itself where nothing is to be done."""
    if scale is None and stored_dtype(op.weight) == np.float32:
        return op
    return _behind(op, scale or Scale.of())


def _behind(op: Op, scale: Scale) -> Op:
    try:
        weight, bias = scale.absorbed(op.weight, op.bias, op.out_channels)
    except ValueError as error:
        raise PlanError(f"cannot be fitted to data: {error}") from error
    return replace(op, weight=weight, bias=bias)


def _unfolded(fitted: Fitted, op: Op, scale: Scale | None) -> Chain:
    """Return the chain as it is in front of the scale, in the precision of factors of `op`."""
    dtype, last = stored_dtype(op.weight), fitted.fit.chain.last
    if scale is not None:
        last = _behind(last, Scale(1 / scale.factor, -scale.shift / scale.factor))
    if not fitted.recentred:
        last = replace(last, bias=op.bias)
    ops = (*fitted.fit.chain.ops[:-1], last)
    return Chain(tuple(stage if isinstance(stage, Scale) else _stored(stage, dtype) for stage in ops))


def _stored(op: Op, dtype: npt.DTypeLike) -> Op:
    bias = None if op.bias is None else op.bias.astype(dtype, copy=False)
    return replace(op, weight=op.weight.astype(dtype, copy=False), bias=bias)
