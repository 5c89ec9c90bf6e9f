"""Alternating least squares for sums of rank-one terms, with bounded terms and extrapolated sweeps.

Unbounded, terms may grow without limit while they cancel each other (de Silva and Lim, 2008, "Tensor rank and the
ill-posedness of the best low-rank approximation problem"), and little is left of them in float32. The
error-preserving correction of Phan et al. (2020), "Stable low-rank tensor decomposition for compression of
convolutional neural network", minimises sum lambda^2 under a bound on the error. Here the same secular equation
minimises the error under a bound on sum lambda^2, in every update: so no sweep leaves the bound, and none raises
the error.

A sweep begins ahead of the last fit, by a step that grows until a sweep fails to lower the error and is taken back
(Mitchell, Ye and De Sterck, 2020, "Nesterov acceleration of alternating least squares for canonical tensor
decomposition").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np

from surgery.factor.cp_power import power_terms
from surgery.factor.cp_start import orthogonal_terms
from surgery.factor.cp_tensor import (
    Axes,
    Components,
    over_inputs,
    over_other_axes,
    over_outputs,
    spread,
    squared_residual,
    thinned,
    unit,
)
from surgery.factor.halves import Half, lent
from surgery.factor.solver import gram_of, leading_eigenvectors, stored_dtype
from surgery.ops import Float64Array, FloatArray
from surgery.ops.array import blocks

# Of sum lambda^2, relative to ||T||^2. On kernels of VGG-16, sweeps without a bound reach 70 to 450, and an error
# lower by 0.002 at most.
NORM_BOUND = 10.0
# A sweep that lowers the squared error by less than this share of it is the last. Small kernels are given the time to
# leave the plateaus on their way; large ones end after as many sweeps as this number of multiplications buys.
SWEEP_GAIN = 1e-5
SWEEP_WORK = 2e10
FEWEST_SWEEPS, MOST_SWEEPS = 24, 200
POLISH_GAIN = 1e-3  # The same share for a fit that was found on the thinned kernel, and is all but done.
FIRST_STEP, STEP_GROWTH, LONGEST_STEP = 0.5, 1.1, 1.5
SPARE_DIRECTIONS = 32  # With none, one term would have nowhere to go from its start.
# Beyond, either start wins about as often, and the power method takes longer than the sweeps.
MOST_POWER_TERMS = 16
# Added to normal matrices of ones on the diagonal, so that they have a Cholesky factor when terms are alike.
RIDGE = 1e-12
ON_BOUND = 1e-9  # A squared norm that is above the bound by no more than this share is scaled down to it.
PRODUCT_ARRAYS = 4  # of the size of some rows, for those that are weighed at a time
NOTHING = 1e-14  # Of ||T||^2: below it a squared error is rounding.


def fitted_terms(slices: FloatArray, axes: Axes, rank: int, squared_norm: float, seed: int = 0) -> Components:
    """Return `rank` terms fitted to the kernel (K, O, I), where `squared_norm` is ||T||^2.

    Channels of a kernel too large for all its sweeps are first thinned to a few more directions than there are terms
    (Bro and Andersson, 1998, "Improving the speed of multiway algorithms, part II: compression"): most sweeps run
    there, at a fraction of the cost, and only the last few on the kernel itself.
    """
    width = rank + SPARE_DIRECTIONS
    if _sweeps(slices.size, rank) == MOST_SWEEPS or width >= max(slices.shape[1:]):
        return _best_fit(slices, axes, rank, squared_norm, seed)
    u_out, u_in = (leading_eigenvectors(moments, min(width, len(moments)))[1] for moments in _moments(slices))
    thin = _best_fit(_core(slices, u_out, u_in), axes, rank, squared_norm, seed)

    def terms() -> Components:
        return Components(u_out @ thin.outputs, u_in @ thin.inputs, thin.taps)

    return _refined(slices, terms, squared_norm, POLISH_GAIN)[0]


def _best_fit(slices: FloatArray, axes: Axes, rank: int, squared_norm: float, seed: int) -> Components:
    """Return the better of the fits that begin with orthogonal terms and, where they are few, with the power method's.

    With one or two terms the largest singular triplet often leads to the lesser of two local optima.
    """
    orthogonal = partial(orthogonal_terms, slices, axes, rank)
    best, error = _refined(slices, orthogonal, squared_norm, SWEEP_GAIN)
    if rank > MOST_POWER_TERMS or error <= NOTHING * squared_norm:
        return best
    strongest = partial(power_terms, slices, axes, rank, np.random.default_rng(seed))
    other, other_error = _refined(slices, strongest, squared_norm, SWEEP_GAIN)
    return other if other_error < error else best


def _core(slices: FloatArray, u_out: Float64Array, u_in: Float64Array) -> Float64Array:
    """Return the kernel (K, R, R) in these directions of outputs (O, R) and inputs (I, R)."""
    result: Float64Array = np.matmul(u_out.T, over_inputs(slices, u_in))
    return result


def _moments(slices: FloatArray) -> tuple[Float64Array, Float64Array]:
    """Return the Gram matrices, lower triangles, of the kernel unfolded over outputs and over inputs."""
    return gram_of(slices, np.float64), gram_of(slices.transpose(0, 2, 1), np.float64)


def _refined(
    slices: FloatArray, start: Callable[[], Components], squared_norm: float, least_gain: float
) -> tuple[Components, float]:
    """Return the terms after sweeps from those that `start` makes, within the bound, and their squared error.

    They are made here, so that no one else holds them while sweeps replace them. Where they leave nothing they stay.
    """
    at = _stored(start(), slices)
    left = squared_residual(slices, at.outputs, at.inputs, at.taps)
    if left <= NOTHING * squared_norm:
        return at, left
    ahead, is_ahead = _ahead(at, at, 0.0), False
    error, step = np.inf, FIRST_STEP
    for _ in range(_sweeps(slices.size, at.outputs.shape[1])):
        found, found_error = _swept(slices, *ahead, squared_norm)
        if found_error < error:
            gain = error - found_error
            before, at, error, step = at, found, found_error, min(STEP_GROWTH * step, LONGEST_STEP)
            ahead, is_ahead = _ahead(at, before, step), True
            del before, found
            if gain <= least_gain * error:
                break
        elif not is_ahead:
            break
        else:
            del found  # The next sweep has its place.
            step, ahead, is_ahead = step / 2, _ahead(at, at, 0.0), False
    return at, error


def _stored(terms: Components, slices: FloatArray) -> Components:
    """Return terms in the precision that they end in: the next sweep only starts from them."""
    dtype = stored_dtype(slices)
    outputs, inputs = (part.astype(dtype, copy=False) for part in (terms.outputs, terms.inputs))
    return Components(outputs, inputs, terms.taps)


def _sweeps(size: int, rank: int) -> int:
    """Return how many sweeps a kernel of this many numbers is worth at this rank."""
    work = 2 * size * rank + 10 * rank**3  # Two products with the kernel, three eigenproblems.
    return min(max(FEWEST_SWEEPS, int(SWEEP_WORK / work)), MOST_SWEEPS)


def _ahead(at: Components, before: Components, step: float) -> tuple[list[Float64Array], tuple[Float64Array, ...]]:
    """Return [outputs] and taps for the next sweep, columns of length 1, further along the way of the last one."""
    pairs = ((at.outputs, before.outputs), *zip(at.taps, before.taps, strict=True))
    outputs, *taps = (unit(now + step * (now - then)) for now, then in pairs)
    return [outputs], tuple(taps)


def _swept(
    slices: FloatArray, start: list[Float64Array], axes: Sequence[Float64Array], squared_norm: float
) -> tuple[Components, float]:
    """Return inputs, outputs and taps, each in turn the best for the others within the bound, and the squared error.

    In each update the other factors have columns of length 1: then the squared norm of the factor is sum lambda^2.
    `start` holds the outputs, and is emptied as soon as they are of no more use.
    """
    limit, taps, tap = NORM_BOUND * squared_norm, list(axes), spread(axes)
    inputs = unit(_best(over_outputs(slices, start[0], tap), _normal(start.pop(), *taps), limit))
    thin = thinned(slices, inputs)
    outputs = unit(_best(_over_taps(thin, tap), _normal(inputs, *taps), limit))
    on_taps = np.array([np.einsum("or,or->r", part, outputs) for part in thin])
    del thin
    for axis in range(len(taps)):
        best, squared = _best_tap(on_taps, inputs, outputs, taps, axis, limit)
        taps[axis] = unit(best)
    outputs *= np.linalg.norm(best, axis=0)
    return _stored(Components(outputs, inputs, tuple(taps)), slices), squared_norm + squared


def _best_tap(
    on_taps: Float64Array,
    inputs: Float64Array,
    outputs: Float64Array,
    taps: Sequence[Float64Array],
    axis: int,
    limit: float,
) -> tuple[Float64Array, float]:
    """Return the best factor (k, R) of an axis within the bound, and the squared error less ||T||^2.

    `on_taps` (K, R) is the kernel multiplied by inputs and outputs.
    """
    products = over_other_axes(on_taps, taps, axis)
    normal = _normal(inputs, outputs, *taps[:axis], *taps[axis + 1 :])
    best = _best(products, normal, limit)
    return best, float(np.vdot(normal.times(best.T).T, best) - 2 * np.vdot(products, best))


def _over_taps(thin: Iterable[Float64Array], tap: Float64Array) -> Float64Array:
    """Return (O, R): products (O, R) of each tap multiplied by `tap` (K, R), term by term."""
    result: Float64Array | None = None
    for part, weights in zip(thin, tap, strict=True):
        result = np.zeros_like(part) if result is None else result
        for few in blocks(len(part), 8 * PRODUCT_ARRAYS * part.shape[1]):
            result[few] += part[few] * weights
    assert result is not None  # There is at least one tap.
    return result


def _normal(first: Float64Array, *others: Float64Array) -> Half:
    """Return the (R, R) inner products of the terms that these factors (n, R) make together."""
    result = Half.zeros(first.shape[1])
    result.add_squares(first)
    for factor in others:
        for rows, block in result.parts():
            block *= factor[:, rows].T @ factor[:, : rows.stop]
    return result


def _best(products: Float64Array, normal: Half, limit: float) -> Float64Array:
    """Return the X (n, R) of squared norm at most `limit` with the least tr(X N Xᵀ) - 2 tr(X Pᵀ).

    It is P (N + mu)^-1, where the norm falls as mu rises. Newton's method for its inverse, which is nearly linear in
    mu, comes from below and needs no eigenvectors (Moré and Sorensen, 1983, "Computing a trust region step").
    N is lent to its Cholesky factors.
    """
    mu = RIDGE
    while True:
        try:
            with lent(normal, mu) as root:
                best = root.solve(products.T)
                excess = float(np.linalg.norm(best)) ** 2 / limit
                if excess <= 1 + ON_BOUND:
                    break
                mu += excess * limit / float(np.linalg.norm(root.forward(best))) ** 2 * (np.sqrt(excess) - 1)
                del best
        except np.linalg.LinAlgError:  # More terms alike than the ridge can part.
            mu *= 10
    result = np.asarray(best.T, np.float64)
    return result if excess <= 1 else result / np.sqrt(excess)
