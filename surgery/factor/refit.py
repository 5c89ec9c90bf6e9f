"""Refits the stages of a chain to the data by alternating least squares, whatever method the chain comes from.

The weight V that a chain multiplies out to is linear in each of its stages, so that with all others held the best stage
solves the normal equations of

    min over V of tr((V - W) C (V - W)ᵀ)    (see `surgery.factor.metric`).

Stages are taken in running order. Those before the one in question thin the inputs: what they make of the patch has the
second moment C' = F C Fᵀ and the cross moment R' = W C Fᵀ, F their weights at every offset, and the same problem is
left for a shorter chain on fewer channels. Those after it, multiplied out to S, mix its outputs: with K = SᵀS the
normal operator of a stage T is K T C', summed over the offsets that S has. Where S is 1x1 this is a Kronecker product,
solved directly; elsewhere its average over the offsets preconditions conjugate gradients; for a stage that works on
each channel by itself it is the product of K and C' number by number, solved directly.

Alternating least squares are Kroonenberg and De Leeuw's (1980); with the first stages held this is the reconstruction
of responses in Zhang et al. (2016), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from surgery.factor.metric import DenseMetric, Metric
from surgery.factor.solver import stored_dtype
from surgery.ops import Chain, Conv2d, Float64Array, FloatArray, Linear, Op, Scale, Stage, collapse

SWEEPS = 6
# A sweep that takes less than this share off the squared error is the last.
SWEEP_GAIN = 1e-3
# Conjugate gradients need not converge, for the next sweep goes on from where they stopped: on the halves of VGG-16's
# conv3_1 four sweeps of 4 steps lead as far as four of 30, in half the time.
STEPS = 4
RESIDUAL = 1e-3
# Relative to the mean eigenvalue: what is smaller is rounding, and the stage keeps its numbers there.
FLOOR = 1e-12
# Thinned inputs up to which their second moment is made: 0.5 GB. A stage that would need a larger one is left as it is.
MAX_SIDE = 8192

Offset = tuple[int, int]


def refit(
    chain: Chain,
    free: Collection[int],
    wanted: Op,
    metric: Metric,
    sweeps: int = SWEEPS,
    *,
    masked: Collection[int] = (),
) -> Chain:
    """Return the chain with the stages `free` refitted, so that its product comes closer to `wanted` in the metric.

    Zeros of the stages `masked` stay zero, and all biases as they are. Never farther than before, as measured on the
    factors as stored: at worst the chain itself comes back. A stage stays as it is where the moments of its inputs
    would be larger than `MAX_SIDE`, or the metric holds samples only and the stages behind it have more than one tap.
    """
    weight = wanted.weight.reshape(len(wanted.weight), -1)
    rows = np.split(weight, metric.groups)
    parts = [
        _refit_group(_kernels(chain, metric.groups, group), free, masked, rows[group], metric, group, sweeps)
        for group in range(metric.groups)
    ]
    new = [_stored(stage, [part[j].weight for part in parts]) for j, stage in enumerate(chain.ops)]
    result = Chain(tuple(new[j] if j in free else stage for j, stage in enumerate(chain.ops)))
    return result if distance(result, wanted, metric) < distance(chain, wanted, metric) else chain


def distance(chain: Chain, wanted: Op, metric: Metric | None = None) -> float:
    """Return tr((V - W) C (V - W)ᵀ), the squared error of the chain's product V; without a metric ||V - W||²."""
    missing = collapse(chain).weight.reshape(wanted.weight.shape) - wanted.weight
    return metric.squared(missing) if metric else float(np.vdot(missing, missing))


def relative_error(chain: Chain, wanted: Op) -> float:
    """Return ||V - W|| / ||W|| for the chain's product V; 0 for a zero weight."""
    norm = float(np.linalg.norm(wanted.weight.astype(np.float64)))
    return float(np.sqrt(distance(chain, wanted))) / norm if norm else 0.0


def features(chain: Chain, groups: int, group: int) -> Float64Array:
    """Return F (features, n): what the last stage of one group of the layer sees of a patch (n,)."""
    *before, last = _kernels(chain, groups, group)
    prefix = _dense(before)
    placed = np.zeros((len(prefix), *last.kernel, *_dense([*before, last]).shape[1:]))
    for s, t in np.ndindex(last.kernel):
        placed[:, s, t, :, s : s + prefix.shape[2], t : t + prefix.shape[3]] = prefix
    return placed.reshape(len(prefix) * last.kernel[0] * last.kernel[1], -1)


def inverse(symmetric: Float64Array) -> Callable[[Float64Array], Float64Array]:
    """Return what solves with a positive semi-definite matrix, its eigenvalues raised by `FLOOR` of their mean."""
    import scipy.linalg  # Loading SciPy takes longer than inspecting a network.

    size, raised = len(symmetric), symmetric.copy(order="F")  # As LAPACK wants it, to be overwritten.
    raised[np.diag_indices(size)] += FLOOR * (float(symmetric.trace()) / size or 1.0)
    try:
        factor = scipy.linalg.cho_factor(raised, lower=True, overwrite_a=True, check_finite=False)
    except scipy.linalg.LinAlgError:  # Rounding left an eigenvalue below zero.
        values, vectors = np.linalg.eigh(symmetric)
        floor = max(float(values[-1]), 0.0) * size * np.finfo(np.float64).eps or 1.0
        return lambda rows: vectors @ ((vectors.T @ rows) / np.maximum(values, floor)[:, None])
    return lambda rows: np.asarray(scipy.linalg.cho_solve(factor, rows, check_finite=False))


@dataclass(frozen=True, eq=False, slots=True)
class _Problem:
    """min over V (out, channels, *kernel) of tr(V C Vᵀ) - 2 tr(V Rᵀ): C is the metric's group, R `cross` (out, n).

    `wanted` is W (out, n) with W C = R, where that is known.
    """

    metric: Metric
    group: int
    cross: Float64Array
    channels: int
    kernel: tuple[int, int]
    wanted: FloatArray | None = None

    @property
    def is_dense(self) -> bool:
        """Whether C is held as it is."""
        return isinstance(self.metric, DenseMetric)

    def offsets(self, kernel: tuple[int, int]) -> list[Offset]:
        """Return where a window of that kernel can stand in this one's."""
        return list(np.ndindex(*(whole - part + 1 for whole, part in zip(self.kernel, kernel, strict=True))))

    def seen(self, rows: Float64Array, at: Offset, kernel: tuple[int, int]) -> Float64Array:
        """Return (m, channels · kernel): of rows (m, n) what a window of that kernel sees at an offset."""
        (s, t), (p, q) = at, kernel
        images = rows.reshape(len(rows), self.channels, *self.kernel)
        return images[:, :, s : s + p, t : t + q].reshape(len(rows), -1)

    def times(self, kernel: Float64Array, at: Offset) -> Float64Array:
        """Return (m, n): a kernel (m, channels, p, q), standing at an offset, times C."""
        (s, t), (p, q) = at, kernel.shape[2:]
        if self.is_dense:
            moments = self.metric.dense(self.group).reshape(self.channels, *self.kernel, -1)
            block = moments[:, s : s + p, t : t + q].reshape(kernel[0].size, -1)
            result: Float64Array = kernel.reshape(len(kernel), -1) @ block
            return result
        placed = np.zeros((len(kernel), self.channels, *self.kernel))
        placed[:, :, s : s + p, t : t + q] = kernel
        return self.metric.times(self.group, placed.reshape(len(kernel), -1))

    def between(self, one: Offset, other: Offset, kernel: tuple[int, int]) -> Float64Array:
        """Return the part of C between what windows of that kernel see at two offsets."""
        (s, t), (u, v), (p, q) = one, other, kernel
        moments = self.metric.dense(self.group).reshape(2 * (self.channels, *self.kernel))
        block = moments[:, s : s + p, t : t + q, :, u : u + p, v : v + q]
        return block.reshape(self.channels * p * q, -1)

    def thinned(self, kernel: Float64Array) -> _Problem:
        """Return the problem left for what comes after a stage of that kernel."""
        window, flat = kernel.shape[2:], kernel.reshape(len(kernel), -1)
        offsets = self.offsets(window)
        gram = np.empty((len(kernel), len(offsets), len(kernel), len(offsets)))
        cross = np.empty((len(self.cross), len(kernel), len(offsets)))
        for i, at in enumerate(offsets):
            cross[:, :, i] = self.seen(self.cross, at, window) @ flat.T
            moments = self.times(kernel, at)
            for j, other in enumerate(offsets):
                gram[:, i, :, j] = self.seen(moments, other, window) @ flat.T
        size = len(kernel) * len(offsets)
        left = tuple(whole - part + 1 for whole, part in zip(self.kernel, window, strict=True))
        metric = DenseMetric(gram.reshape(1, size, size))
        return _Problem(metric, 0, cross.reshape(-1, size), len(kernel), (left[0], left[1]))


def _refit_group(
    kernels: list[Conv2d],
    free: Collection[int],
    masked: Collection[int],
    rows: FloatArray,
    metric: Metric,
    group: int,
    sweeps: int,
) -> list[Conv2d]:
    """Return the stages of one group of the layer after so many sweeps, or fewer where they gain nothing any more."""
    whole = collapse(Chain(tuple(kernels)))
    assert isinstance(whole, Conv2d)  # All of `_kernels` are.
    start = _Problem(metric, group, metric.times(group, rows), kernels[0].in_channels, whole.kernel, rows)
    missing = rows - whole.weight.reshape(len(rows), -1)
    error = float(np.einsum("ij,ij->", metric.times(group, missing), missing))
    del missing, whole  # As large as the layer each, in float64.
    for _ in range(sweeps):
        kernels, gain = _sweep(kernels, free, masked, start)
        error -= gain
        if gain <= SWEEP_GAIN * max(error, 0.0):
            break
    return kernels


def _sweep(
    kernels: list[Conv2d], free: Collection[int], masked: Collection[int], start: _Problem
) -> tuple[list[Conv2d], float]:
    """Return the stages, each free one refitted in turn, and what that took off the squared error."""
    kernels, problem, gain = list(kernels), start, 0.0
    behind = 0  # Stages before this one are in the problem.
    for j in sorted(free):
        if behind < j:
            prefix = _dense(kernels[behind:j])
            offsets = problem.offsets(prefix.shape[2:])
            if len(prefix) * len(offsets) > MAX_SIDE:
                continue
            problem, behind = problem.thinned(prefix), j
        suffix = _dense(kernels[j + 1 :]) if j + 1 < len(kernels) else None
        kernels[j], gained = _solved(kernels[j], suffix, problem, keep_zeros=j in masked)
        gain += gained
    return kernels, gain


def _solved(stage: Conv2d, suffix: Float64Array | None, problem: _Problem, *, keep_zeros: bool) -> tuple[Conv2d, float]:
    """Return the stage that is best between what the problem has taken in and the suffix, and its gain."""
    if suffix is not None and not keep_zeros:
        if problem.wanted is not None and suffix.shape[2:] == (1, 1) and stage.groups == 1:
            return _solved_before_pointwise(stage, suffix[:, :, 0, 0], problem, problem.wanted)
        if problem.is_dense and stage.groups == stage.in_channels == stage.out_channels:
            return _solved_by_channel(stage, suffix, problem)
    if not problem.is_dense:
        return stage, 0.0
    return _solved_by_gradients(stage, suffix, problem, keep_zeros=keep_zeros)


def _solved_before_pointwise(
    stage: Conv2d, suffix: Float64Array, problem: _Problem, wanted: FloatArray
) -> tuple[Conv2d, float]:
    """Solve K T C = Sᵀ W C: the metric drops out, however large or short of samples it is."""
    rows = stage.weight.reshape(len(stage.weight), -1)
    mixing = suffix.T @ suffix
    step = inverse(mixing)(suffix.T @ wanted - mixing @ rows)
    gain = float(np.vdot(mixing, problem.metric.gram(problem.group, step)))
    return replace(stage, weight=(rows + step).reshape(stage.weight.shape)), gain


def _solved_by_gradients(
    stage: Conv2d, suffix: Float64Array | None, problem: _Problem, *, keep_zeros: bool
) -> tuple[Conv2d, float]:
    """Solve K T C' = SᵀR' by conjugate gradients on what is missing of T, preconditioned by the mean over offsets.

    Where there is one offset the preconditioner is the inverse, and the first step the last.
    """
    theta, window = _dense([stage]), stage.kernel
    offsets = problem.offsets(window)
    allowed = (theta if keep_zeros else _dense([replace(stage, weight=np.ones_like(stage.weight))])) != 0
    mixing = None if suffix is None else _mixing(suffix)
    inputs = inverse(np.asarray(sum(problem.between(at, at, window) for at in offsets) / len(offsets)))
    outputs = None if mixing is None else inverse(np.einsum("iaib->ab", mixing))

    def normal(t: Float64Array) -> Float64Array:
        result = np.zeros((len(t), t[0].size))
        for i, at in enumerate(offsets):
            thin = problem.times(t, at)
            for j, other in enumerate(offsets):
                seen = problem.seen(thin, other, window)
                result += seen if mixing is None else mixing[j, :, i] @ seen
        return np.where(allowed, result.reshape(t.shape), 0.0)

    def preconditioned(r: Float64Array) -> Float64Array:
        solved = inputs(r.reshape(len(r), -1).T).T
        return np.where(allowed, (solved if outputs is None else outputs(solved)).reshape(r.shape), 0.0)

    missing = np.where(allowed, _wanted(suffix, problem, window).reshape(theta.shape), 0.0) - normal(theta)
    step = _conjugate_gradients(normal, missing, preconditioned)
    return replace(stage, weight=_grouped(theta + step, stage.groups)), float(np.vdot(step, missing))


def _solved_by_channel(stage: Conv2d, suffix: Float64Array, problem: _Problem) -> tuple[Conv2d, float]:
    """Solve for a stage with one kernel per channel: its normal matrix, channel and tap by channel and tap."""
    window, channels, taps = stage.kernel, stage.out_channels, stage.weight[0].size
    offsets, mixing = problem.offsets(window), _mixing(suffix)
    normal: Float64Array = np.zeros((channels, taps, channels, taps))
    for i, at in enumerate(offsets):
        for j, other in enumerate(offsets):
            normal += mixing[i, :, j][:, None, :, None] * problem.between(at, other, window).reshape(normal.shape)
    matrix, theta = normal.reshape(stage.weight.size, -1), stage.weight.reshape(-1)
    wanted = _wanted(suffix, problem, window).reshape(channels, channels, taps)
    missing = np.einsum("aap->ap", wanted).reshape(-1) - matrix @ theta
    step = inverse(matrix)(missing[:, None])[:, 0]
    return replace(stage, weight=(theta + step).reshape(stage.weight.shape)), float(step @ missing)


def _mixing(suffix: Float64Array) -> Float64Array:
    """Return K (offsets, channels, offsets, channels): the inner products of a suffix's taps over its outputs."""
    outputs, channels, *kernel = suffix.shape
    flat = suffix.transpose(2, 3, 1, 0).reshape(-1, outputs)
    result: Float64Array = (flat @ flat.T).reshape(2 * (kernel[0] * kernel[1], channels))
    return result


def _wanted(suffix: Float64Array | None, problem: _Problem, window: tuple[int, int]) -> Float64Array:
    """Return SᵀR' (outputs of the stage, channels · window)."""
    if suffix is None:
        return problem.cross
    parts = (suffix[:, :, s, t].T @ problem.seen(problem.cross, (s, t), window) for s, t in problem.offsets(window))
    return np.asarray(sum(parts))


def _conjugate_gradients(
    normal: Callable[[Float64Array], Float64Array],
    missing: Float64Array,
    preconditioned: Callable[[Float64Array], Float64Array],
) -> Float64Array:
    """Return an approximate solution x of normal(x) = missing: every step brings it nearer in the problem's norm."""
    x: Float64Array = np.zeros_like(missing)
    residual, direction = missing, preconditioned(missing)
    size = first = float(np.vdot(residual, direction))
    for _ in range(STEPS):
        if size <= RESIDUAL**2 * first or size <= 0:
            break
        image = normal(direction)
        curvature = float(np.vdot(direction, image))
        if curvature <= 0:  # Only of rounding, where nothing is left to gain.
            break
        x = x + size / curvature * direction
        residual = residual - size / curvature * image
        scaled = preconditioned(residual)
        before, size = size, float(np.vdot(residual, scaled))
        direction = scaled + size / before * direction
    return x


def _kernels(chain: Chain, groups: int, group: int) -> list[Conv2d]:
    """Return one group's share of each stage as a plain convolution in float64: what matters to the weight alone."""
    return [_kernel(stage, groups, group) for stage in chain.ops]


def _kernel(stage: Stage, groups: int, group: int) -> Conv2d:
    if isinstance(stage, Scale):
        weight: FloatArray = stage.factor[:, None, None, None]
        own = stage.channels
    elif isinstance(stage, Linear):
        weight, own = stage.weight[:, :, None, None], 1
    else:
        weight, own = stage.weight, stage.groups
    if own % groups:
        raise ValueError(f"refit: a stage in {own} groups of a layer in {groups}; expected a multiple")
    return Conv2d(np.split(weight, groups)[group].astype(np.float64), groups=own // groups)


def _stored(stage: Stage, parts: Sequence[FloatArray]) -> Stage:
    """Return the stage with the groups' weights in place of its own, in the precision that it has."""
    if isinstance(stage, Scale):
        return Scale.of(np.concatenate(parts).reshape(-1))
    weight = np.concatenate(parts).reshape(stage.weight.shape)
    return replace(stage, weight=np.ascontiguousarray(weight, dtype=stored_dtype(stage.weight)))


def _dense(kernels: Sequence[Conv2d]) -> Float64Array:
    """Return the product of the stages as (out, in, kh, kw), zeros where its groups do not meet."""
    op = collapse(Chain(tuple(kernels)))
    assert isinstance(op, Conv2d)  # All of `_kernels` are.
    result = np.zeros((op.out_channels, op.in_channels, *op.kernel))
    for outputs, inputs in _meeting(op.out_channels, op.in_channels, op.groups):
        result[outputs, inputs] = op.weight[outputs]
    return result


def _grouped(dense: Float64Array, groups: int) -> Float64Array:
    """Return (out, in / groups, kh, kw): the inverse of `_dense` for one stage."""
    return np.concatenate([dense[where] for where in _meeting(len(dense), dense.shape[1], groups)])


def _meeting(outputs: int, inputs: int, groups: int) -> Iterator[tuple[slice, slice]]:
    o, i = outputs // groups, inputs // groups
    return ((slice(g * o, (g + 1) * o), slice(g * i, (g + 1) * i)) for g in range(groups))
