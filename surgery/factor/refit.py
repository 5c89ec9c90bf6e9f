"""Refits the stages of a chain to the data by alternating least squares, whatever method the chain comes from.

The weight V that a chain multiplies out to is linear in each of its stages, so that with all others held the best stage
solves the normal equations of

    min over V of tr((V - W) C (V - W)ᵀ)    (see `surgery.factor.metric`).

Stages are taken in running order. Those before the one in question thin the inputs: what they make of the patch has the
second moment C' = F C Fᵀ and the cross moment R' = W C Fᵀ, F their weights at every offset, and the same problem is
left for a shorter chain on fewer channels. Those after it, multiplied out to S, mix its outputs: with K = SᵀS the
normal operator of a stage T is K T C', summed over the offsets that S has. Where S is 1x1 this is a Kronecker product,
solved directly; for a stage that works on each channel by itself it is the product of K and C' number by number, solved
directly; elsewhere its average over the offsets preconditions one step of conjugate gradients. As all stages behind are
solved for anew after each step, those of the first free stage are nonlinear conjugate gradients (Polak and Ribiere,
1969) on what is left of the error once the others are at their best (Golub and Pereyra, 1973): one product with C each.

Alternating least squares are Kroonenberg and De Leeuw's (1980); with the first stages held this is the reconstruction
of responses in Zhang et al. (2016), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from surgery.factor.metric import DenseMetric, Metric
from surgery.factor.solver import stored_dtype
from surgery.ops import Chain, Conv2d, Float64Array, FloatArray, Linear, Op, Scale, Stage, collapse

# On VGG-16's conv3_2, split in space at 110 channels, the last four of these take 0.4 % off the error in the metric,
# and 0.1 % off that on data held out.
SWEEPS = 12
# A sweep that takes less than this share off the squared error is the last.
SWEEP_GAIN = 1e-3
# A stage's products with C are kept from sweep to sweep where they, and those of a step, have up to this many times the
# numbers of the layer each; larger ones are made again each time, three times a sweep in place of once.
KEPT = 2
# Relative to the mean eigenvalue: what is smaller is rounding, and the stage keeps its numbers there.
FLOOR = 1e-12
# Thinned inputs up to which their second moment is made: 0.5 GB. A stage that would need a larger one is left as it is.
MAX_SIDE = 8192

Offset = tuple[int, int]
Solver = Callable[[Float64Array], Float64Array]


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
    before = metric.squares(_missing(chain, wanted))
    parts = [
        _refit_group(_kernels(chain, metric.groups, g), free, masked, rows[g], metric, g, sweeps, before[g])
        for g in range(metric.groups)
    ]
    new = [_stored(stage, [part[j].weight for part in parts]) for j, stage in enumerate(chain.ops)]
    result = Chain(tuple(new[j] if j in free else stage for j, stage in enumerate(chain.ops)))
    return result if distance(result, wanted, metric) < sum(before) else chain


def is_settled(method: object) -> bool:
    """Whether `factor` in a metric leaves nothing to `refit` in it: a best chain or one that comes from there."""
    return getattr(method, "is_settled", False)


def distance(chain: Chain, wanted: Op, metric: Metric | None = None) -> float:
    """Return tr((V - W) C (V - W)ᵀ), the squared error of the chain's product V; without a metric ||V - W||²."""
    missing = _missing(chain, wanted)
    return metric.squared(missing) if metric else float(np.vdot(missing, missing))


def relative_error(chain: Chain, wanted: Op) -> float:
    """Return ||V - W|| / ||W|| for the chain's product V; 0 for a zero weight."""
    norm = float(np.linalg.norm(wanted.weight.astype(np.float64)))
    return float(np.sqrt(distance(chain, wanted))) / norm if norm else 0.0


def _missing(chain: Chain, wanted: Op) -> Float64Array:
    return collapse(chain).weight.reshape(wanted.weight.shape) - wanted.weight


def features(chain: Chain, groups: int, group: int) -> Float64Array:
    """Return F (features, n): what the last stage of one group of the layer sees of a patch (n,)."""
    *before, last = _kernels(chain, groups, group)
    prefix = _dense(before)
    placed = np.zeros((len(prefix), *last.kernel, *_dense([*before, last]).shape[1:]))
    for s, t in np.ndindex(last.kernel):
        placed[:, s, t, :, s : s + prefix.shape[2], t : t + prefix.shape[3]] = prefix
    return placed.reshape(len(prefix) * last.kernel[0] * last.kernel[1], -1)


def feature_images(chain: Chain, groups: int, group: int, metric: Metric) -> Iterator[tuple[slice, Float64Array]]:
    """Yield the rows of F C, F as in `features` and C the metric's: a few at a time, with which of them they are.

    Products leave out what is zero in F, the whole of it but for the window of one offset.
    """
    kernels = _kernels(chain, groups, group)
    kernel, offsets = _dense(kernels).shape, kernels[-1].kernel
    problem = _Problem(metric, group, np.empty((0, metric.size)), kernel[1], (kernel[2], kernel[3]))
    for i, image in enumerate(problem.images(_dense(kernels[:-1]))):
        yield slice(i, None, offsets[0] * offsets[1]), image


def inverse(symmetric: Float64Array) -> Solver:
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

    def images(self, kernel: Float64Array) -> Iterator[Float64Array]:
        """Yield for each offset (m, n): a kernel (m, channels, p, q), standing there, times C."""
        return (self._image(kernel, at) for at in self.offsets((kernel.shape[2], kernel.shape[3])))

    def _image(self, kernel: Float64Array, at: Offset) -> Float64Array:
        (s, t), (p, q) = at, kernel.shape[2:]
        if isinstance(self.metric, DenseMetric):
            moments = self.metric.moments[self.group].reshape(self.channels, *self.kernel, -1)
            block = moments[:, s : s + p, t : t + q].reshape(kernel[0].size, -1)
            result: Float64Array = kernel.reshape(len(kernel), -1) @ block
            result.reshape(-1, self.channels, *self.kernel)[:, :, s : s + p, t : t + q] += self.metric.ridge * kernel
            return result
        placed = np.zeros((len(kernel), self.channels, *self.kernel))
        placed[:, :, s : s + p, t : t + q] = kernel
        return self.metric.times(self.group, placed.reshape(len(kernel), -1))

    def between(self, one: Offset, other: Offset, kernel: tuple[int, int]) -> Float64Array:
        """Return the part of C between what windows of that kernel see at two offsets."""
        (s, t), (u, v), (p, q) = one, other, kernel
        assert isinstance(self.metric, DenseMetric)
        moments = self.metric.moments[self.group].reshape(2 * (self.channels, *self.kernel))
        block = moments[:, s : s + p, t : t + q, :, u : u + p, v : v + q].reshape(self.channels * p * q, -1)
        if one == other and self.metric.ridge:
            block = block + self.metric.ridge * np.eye(len(block))
        result: Float64Array = block
        return result

    def thinned(self, kernel: Float64Array, images: Iterable[Float64Array] | None = None) -> _Problem:
        """Return the problem left for what comes after a stage of that kernel; `images` are its own, where known."""
        window, flat = kernel.shape[2:], kernel.reshape(len(kernel), -1)
        offsets = self.offsets(window)
        gram = np.empty((len(kernel), len(offsets), len(kernel), len(offsets)))
        cross = np.empty((len(self.cross), len(kernel), len(offsets)))
        for i, image in enumerate(images or self.images(kernel)):
            cross[:, :, i] = self.seen(self.cross, offsets[i], window) @ flat.T
            for j, other in enumerate(offsets):
                gram[:, i, :, j] = self.seen(image, other, window) @ flat.T
        size = len(kernel) * len(offsets)
        left = tuple(whole - part + 1 for whole, part in zip(self.kernel, window, strict=True))
        metric = DenseMetric(gram.reshape(1, size, size))
        return _Problem(metric, 0, cross.reshape(-1, size), len(kernel), (left[0], left[1]))

    def behind(self, stages: Sequence[Conv2d], images: Iterable[Float64Array] | None = None) -> _Problem | None:
        """Return the problem left behind some stages, None where its moments would be too large."""
        if not stages:
            return self
        prefix = _dense(stages)
        is_small = len(prefix) * len(self.offsets(prefix.shape[2:])) <= MAX_SIDE
        return self.thinned(prefix, images) if is_small else None


@dataclass(frozen=True, eq=False, slots=True)
class _Search:
    """Where conjugate gradients for one stage of a problem stand.

    Attributes:
        problem: what they are for.
        inputs: solves with the mean of C over the stage's offsets.
        images: those of the stage, where they are kept.
        last: the last step's direction, the gradient there and that one's square in the norm of the preconditioner.
    """

    problem: _Problem
    inputs: Solver
    images: list[Float64Array] | None = None
    last: tuple[Float64Array, Float64Array, float] | None = None

    @classmethod
    def of(cls, problem: _Problem, window: tuple[int, int]) -> _Search:
        """Return a search for a stage of that kernel, at its start."""
        offsets = problem.offsets(window)
        mean = problem.between(offsets[0], offsets[0], window)
        for at in offsets[1:]:
            mean = mean + problem.between(at, at, window)
        return cls(problem, inverse(mean / len(offsets) if len(offsets) > 1 else mean))

    def direction(self, missing: Float64Array, scaled: Float64Array) -> Float64Array:
        """Return where to go next, `scaled` being the preconditioned gradient."""
        if self.last is None:
            return scaled
        direction, before, size = self.last
        turned: Float64Array = scaled + max(0.0, float(np.vdot(missing - before, scaled)) / size) * direction
        return turned if np.vdot(turned, missing) > 0 else scaled


def _refit_group(
    kernels: list[Conv2d],
    free: Collection[int],
    masked: Collection[int],
    rows: FloatArray,
    metric: Metric,
    group: int,
    sweeps: int,
    error: float,
) -> list[Conv2d]:
    """Return the stages of one group of the layer after so many sweeps, or fewer where they gain nothing any more.

    `error` is the squared error that they have.
    """
    kernel = _dense(kernels).shape[2:]
    whole = _Problem(metric, group, metric.times(group, rows), kernels[0].in_channels, (kernel[0], kernel[1]), rows)
    order, start, search = sorted(free), None, None
    while order and (start := whole.behind(kernels[: order[0]])) is None:
        order = order[1:]
    if start is None:
        return kernels
    for _ in range(sweeps):
        kernels, gain, search = _sweep(kernels, order, masked, start, search)
        error -= gain
        if gain <= SWEEP_GAIN * max(error, 0.0):
            break
    return kernels


def _sweep(
    kernels: list[Conv2d], order: Sequence[int], masked: Collection[int], start: _Problem, search: _Search | None
) -> tuple[list[Conv2d], float, _Search | None]:
    """Return the stages, each in `order` refitted in turn, and what that took off the squared error.

    `start` is the problem behind the stages before the first one in the order, whose search goes from sweep to sweep:
    the problems of all others are new in each.
    """
    kernels, problem, gain, images = list(kernels), start, 0.0, None
    taken = order[0]  # Stages before this one are in the problem.
    for j in order:
        left = problem.behind(kernels[taken:j], images if j == taken + 1 else None)
        if left is None:
            continue
        problem, taken = left, j
        suffix = _dense(kernels[j + 1 :]) if j + 1 < len(kernels) else None
        known = search if problem is start else None
        kernels[j], gained, found = _solved(kernels[j], suffix, problem, known, keep_zeros=j in masked)
        gain += gained
        search = found if problem is start else search
        images = found.images if found else None
    return kernels, gain, search


def _solved(
    stage: Conv2d,
    suffix: Float64Array | None,
    problem: _Problem,
    search: _Search | None,
    *,
    keep_zeros: bool,
) -> tuple[Conv2d, float, _Search | None]:
    """Return the stage that is better between what the problem has taken in and the suffix, its gain and its search.

    It is the best there is where there is no search, or no more than one offset.
    """
    if suffix is not None and not keep_zeros:
        if problem.wanted is not None and suffix.shape[2:] == (1, 1) and stage.groups == 1:
            return *_solved_before_pointwise(stage, suffix[:, :, 0, 0], problem, problem.wanted), None
        if problem.is_dense and stage.groups == stage.in_channels == stage.out_channels:
            return *_solved_by_channel(stage, suffix, problem), None
    if not problem.is_dense:
        return stage, 0.0, None
    return _stepped(stage, suffix, search or _Search.of(problem, stage.kernel), keep_zeros=keep_zeros)


def _solved_before_pointwise(
    stage: Conv2d, suffix: Float64Array, problem: _Problem, wanted: FloatArray
) -> tuple[Conv2d, float]:
    """Solve K T C = Sᵀ W C: the metric drops out, however large or short of samples it is."""
    rows = stage.weight.reshape(len(stage.weight), -1)
    mixing = suffix.T @ suffix
    step = inverse(mixing)(suffix.T @ wanted - mixing @ rows)
    gain = float(np.vdot(mixing, problem.metric.gram(problem.group, step)))
    return replace(stage, weight=(rows + step).reshape(stage.weight.shape)), gain


@dataclass(frozen=True, eq=False, slots=True)
class _Normal:
    """The normal equations K T C = SᵀR of a stage T (outputs, channels, *window); S (`suffix`) is 1 where it is None.

    Numbers of T that are not `allowed` are zero.
    """

    problem: _Problem
    suffix: Float64Array | None
    window: tuple[int, int]
    allowed: npt.NDArray[np.bool_]

    def wanted(self) -> Float64Array:
        """Return the right side."""
        return np.where(self.allowed, self._shaped(_wanted(self.suffix, self.problem, self.window)), 0.0)

    def mixed(self, images: Iterable[Float64Array], mixing: Float64Array | None) -> Float64Array:
        """Return the left side for a stage with these images; `mixing` is K, None for 1."""
        result = np.zeros((len(self.allowed), self.allowed[0].size))
        offsets = self.problem.offsets(self.window)
        for i, image in enumerate(images):
            for j, other in enumerate(offsets):
                seen = self.problem.seen(image, other, self.window)
                result += seen if mixing is None else mixing[j, :, i] @ seen
        return np.where(self.allowed, self._shaped(result), 0.0)

    def preconditioned(self, rows: Float64Array, inputs: Solver, outputs: Solver | None) -> Float64Array:
        """Return the solution for K and C at their means over the offsets."""
        solved = inputs(rows.reshape(len(rows), -1).T).T
        return np.where(self.allowed, self._shaped(solved if outputs is None else outputs(solved)), 0.0)

    def _shaped(self, rows: Float64Array) -> Float64Array:
        return rows.reshape(self.allowed.shape)


def _stepped(
    stage: Conv2d, suffix: Float64Array | None, search: _Search, *, keep_zeros: bool
) -> tuple[Conv2d, float, _Search]:
    """Go a step of conjugate gradients on what is missing of T, preconditioned by the mean over offsets.

    Where there is one offset and nothing else is held at zero the preconditioner is the inverse, and one step leads
    all the way.
    """
    theta, problem = _dense([stage]), search.problem
    allowed = (theta if keep_zeros else _dense([replace(stage, weight=np.ones_like(stage.weight))])) != 0
    normal = _Normal(problem, suffix, stage.kernel, allowed)
    mixing = None if suffix is None else _mixing(suffix)
    outputs = None if mixing is None else inverse(np.einsum("iaib->ab", mixing))
    is_kept = len(theta) * len(problem.offsets(stage.kernel)) <= KEPT * len(problem.cross)
    kept = search.images or (list(problem.images(theta)) if is_kept else None)
    missing = normal.wanted() - normal.mixed(kept or problem.images(theta), mixing)
    scaled = normal.preconditioned(missing, search.inputs, outputs)
    direction = search.direction(missing, scaled)
    turned = list(problem.images(direction)) if kept else None
    curvature = float(np.vdot(direction, normal.mixed(turned or problem.images(direction), mixing)))
    slope = float(np.vdot(direction, missing))
    if slope <= 0 or curvature <= 0:  # Only of rounding, where nothing is left to gain.
        return stage, 0.0, replace(search, images=kept)
    share = slope / curvature
    for before, image in zip(kept or (), turned or (), strict=True):
        image *= share
        image += before
    new = _Search(problem, search.inputs, turned, (direction, missing, float(np.vdot(missing, scaled))))
    return replace(stage, weight=_grouped(theta + share * direction, stage.groups)), slope * share, new


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
