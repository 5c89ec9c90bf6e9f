"""Refit one stage of a chain with all others held: directly where that is possible, else by conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from surgery.factor.cholesky import inverse
from surgery.factor.conjugate import Map, solved_by_steps
from surgery.factor.halves import Half, Near, half_inverse, near_inverse
from surgery.factor.kernels import dense, grouped
from surgery.factor.nearby import Nearby
from surgery.factor.normal import Normal, Problem
from surgery.ops import Conv2d, Float64Array, FloatArray
from surgery.ops.array import BLOCK_BYTES, blocks, product

# Of the weight's numbers: half of a matrix with no more than that is held and solved with; larger ones never are. So
# are those of a quarter of a block.
HELD = 1 / 3
SEARCHED = 16  # rows at a time: conjugate gradients hold several arrays of them, and in float64 they are few
COLUMN_ARRAYS = 8  # of the size of some columns or rows of a stage, for what is made of some at a time


@dataclass(eq=False, slots=True)
class Search:
    """Where conjugate gradients for one stage of a problem stand: changed by each step, as two would not find room.

    Attributes:
        inputs: solves with the mean of C' over the stage's offsets.
        last: the last step's direction, the gradient there and that one's square in the norm of the preconditioner.
            The two only steer: they are made in float32.
    """

    inputs: Near
    last: tuple[FloatArray, FloatArray, float] | None = None

    @classmethod
    def of(cls, problem: Problem, window: tuple[int, int]) -> Search:
        """Return a search for a stage of that kernel, at its start."""
        return cls(near_inverse(problem.moments(window)))

    def direction(self, missing: FloatArray, scaled: FloatArray) -> FloatArray:
        """Return where to go next, `scaled` being the preconditioned gradient, whose place it takes; `last` is gone."""
        last, self.last = self.last, None
        if last is None:
            return scaled
        direction, before, size = last
        share = max(0.0, (_dot(missing, scaled) - _dot(before, scaled)) / size)
        if _dot(scaled, missing) + share * _dot(direction, missing) > 0:
            for few in range(len(scaled)):  # All at once would be another stage.
                scaled[few] += share * direction[few]
        return scaled


def _dot(numbers: FloatArray, others: FloatArray) -> float:
    """Return the inner product of two stages, summed in float64, without a copy of either."""
    return float(np.einsum("oipq,oipq->", numbers, others, dtype=np.float64))


def solved(
    stage: Conv2d,
    suffix: Sequence[Conv2d],
    problem: Problem,
    search: Search | None,
    *,
    keep_zeros: bool,
) -> tuple[Conv2d, float, Search | None]:
    """Return the stage that is better between what the problem has taken in and the suffix, its gain and its search.

    It is the best there is where there is no search, to the last digits or to `conjugate.REST` of what is gained.
    """
    is_dense = problem.is_dense or not problem.is_whole
    if not keep_zeros:
        if suffix and problem.is_whole and stage.groups == 1 and all(after.kernel == (1, 1) for after in suffix):
            return *_solved_before_pointwise(stage, dense(suffix)[:, :, 0, 0], problem), None
        if suffix and is_dense and stage.groups == stage.in_channels == stage.out_channels:
            return *_solved_by_channel(stage, *_mixed(suffix, problem)), None
        if not problem.is_whole and stage.groups == 1 and stage.kernel == problem.kernel:
            return *_solved_by_output(stage, dense(suffix)[:, :, 0, 0] if suffix else None, problem), None
    if not is_dense:
        return stage, 0.0, None
    search = search or Search.of(problem, stage.kernel)
    suffix, problem = _mixed(suffix, problem)
    if keep_zeros or stage.groups > 1:
        return *_solved_within(stage, suffix, problem, search.inputs, keep_zeros=keep_zeros), search
    return _stepped(stage, suffix, problem, search)


def _mixed(suffix: Sequence[Conv2d], problem: Problem) -> tuple[Sequence[Conv2d], Problem]:
    """Return the same for as many outputs as the suffix has to give: the rest of what is wanted is out of its reach."""
    if not suffix or suffix[-1].groups > 1 or len(suffix[-1].weight) <= suffix[-1].weight[0].size:
        return suffix, problem
    last = suffix[-1]
    y, few = np.linalg.qr(last.weight.reshape(len(last.weight), -1))
    return (*suffix[:-1], Conv2d(few.reshape(-1, *last.weight.shape[1:]))), replace(problem, mixed=y)


def _solved_before_pointwise(stage: Conv2d, suffix: Float64Array, problem: Problem) -> tuple[Conv2d, float]:
    """Solve K T C = Sᵀ W C, K = SᵀS: the metric drops out, however large or short of samples it is."""
    rows = stage.weight.reshape(len(stage.weight), -1)
    outputs = suffix.T @ suffix
    missing: Float64Array = product(suffix.T, problem.wanted).astype(np.float64, copy=False)
    columns = list(blocks(missing.shape[1], 8 * COLUMN_ARRAYS * len(missing)))
    for few in columns:
        missing[:, few] -= outputs @ rows[:, few]
    solve = inverse(outputs.copy())
    for few in columns:
        missing[:, few] = solve(missing[:, few])
    gain = sum(
        float(np.vdot(outputs[few] @ missing, problem.metric.times(problem.group, missing[few])))
        for few in blocks(len(missing), 8 * COLUMN_ARRAYS * missing.shape[1])
    )
    missing += rows
    return _of(stage, missing), gain


def _solved_by_output(stage: Conv2d, suffix: Float64Array | None, problem: Problem) -> tuple[Conv2d, float]:
    """Solve T C' = S⁻ W C Bᵀ, S⁻ the inverse of the suffix (out, outputs) in its span: rows of T in the turned outputs.

    With S = Y D Qᵀ, Y and Q orthonormal, the rows of D Qᵀ T are those of a regression of Yᵀ W on B, each by itself.
    """
    # Before the rows are there in float64: what is held to make it is as large.
    solve = None if _is_held(problem.size, problem) else Nearby.of(problem).inverse()
    rows, gain, back = stage.weight.reshape(len(stage.weight), -1).astype(np.float64), 0.0, None
    turned = rows
    if suffix is not None:
        y, values, q = np.linalg.svd(suffix, full_matrices=False)
        problem, back = replace(problem, mixed=y), q.T * _inverted(values)
        turned = _turned(rows, values[:, None] * q)
        del suffix, q  # No smaller than the layer, where it has one tap.
    steps = _searched_steps(turned, problem, solve) if solve else _held_steps(turned, problem)
    for few, step, gained in steps:
        turned[few] += step
        gain += gained
    if back is not None:
        _turned(rows, back)
    return _of(stage, rows), gain


def _turned(rows: Float64Array, matrix: Float64Array) -> Float64Array:
    """Return matrix (k, m) @ the first m of rows, k of them, in their own place."""
    k, m = matrix.shape
    for few in blocks(rows.shape[1], 8 * COLUMN_ARRAYS * max(k, m)):
        rows[:k, few] = matrix @ rows[:m, few]
    return rows[:k]


def _of(stage: Conv2d, numbers: FloatArray) -> Conv2d:
    """Return the stage with other numbers, in the precision that it has."""
    return replace(stage, weight=numbers.reshape(stage.weight.shape).astype(stage.weight.dtype, copy=False))


def _inverted(values: Float64Array) -> Float64Array:
    """Return 1 / values, 0 where they are of rounding's size."""
    floor = max(float(values[0]) * len(values) * np.finfo(np.float64).eps, np.finfo(np.float64).tiny)
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > floor)


def _is_held(size: int, problem: Problem) -> bool:
    return size * size // 2 <= max(HELD * problem.wanted.size, BLOCK_BYTES // 32)


Steps = Iterator[tuple[slice, Float64Array, float]]


def _held_steps(rows: Float64Array, problem: Problem) -> Steps:
    """Yield some of rows (outputs, channels · taps), the step to the best ones and its gain, by half of C'."""
    moments, taps = Half.zeros(problem.size), problem.kernel[0] * problem.kernel[1]
    missing = np.empty((len(problem), problem.size))
    for (s, t), few, image in problem.images(SEARCHED):
        own = slice(s * problem.kernel[1] + t + taps * few.start, taps * few.stop, taps)
        moments.add(own, problem.seen(image).reshape(len(image), -1))
        for some in problem.blocks(len(problem), SEARCHED):  # In float64 they are as large as all of the image.
            missing[some, own] = problem.target(some) @ image.T
    del image
    for some in problem.blocks(len(problem)):
        missing[some] -= moments.times(rows[some].T).T
    gains, solve = [], half_inverse(moments)
    for some in problem.blocks(len(problem)):
        step = solve(missing[some].T).T
        gains.append(float(np.vdot(step, missing[some])))
        missing[some] = step
    del moments, solve
    for some, gain in zip(problem.blocks(len(problem)), gains, strict=True):
        yield some, missing[some], gain


def _searched_steps(rows: Float64Array, problem: Problem, solve: Map) -> Steps:
    """Yield what `_held_steps` does, C' never made: `solve` does what an inverse near its own does."""
    shape = (-1, problem.channels, *problem.kernel)
    for few in problem.blocks(len(problem), SEARCHED):
        missing = problem.missing(few, rows[few].reshape(shape))
        step, gain = solved_by_steps(problem.times, missing, solve)
        del missing
        yield few, step.reshape(len(step), -1), gain


def _stepped(stage: Conv2d, suffix: Sequence[Conv2d], problem: Problem, search: Search) -> tuple[Conv2d, float, Search]:
    """Go a step of conjugate gradients on what is missing of T, preconditioned by the mean over offsets."""
    normal = Normal(problem, suffix, stage.weight.shape)
    missing = normal.missing(stage.weight, np.float32)
    scaled = _preconditioner(normal, search.inputs)(missing)
    size = _dot(missing, scaled)
    direction = search.direction(missing, scaled)
    slope, curvature = _dot(direction, missing), normal.square(direction)
    if slope <= 0 or curvature <= 0:  # Only of rounding, where nothing is left to gain.
        return stage, 0.0, search
    share = slope / curvature
    search.last = direction, missing, size
    return _of(stage, stage.weight + np.asarray(share, stage.weight.dtype) * direction), slope * share, search


def _solved_within(
    stage: Conv2d, suffix: Sequence[Conv2d], problem: Problem, inputs: Near, *, keep_zeros: bool
) -> tuple[Conv2d, float]:
    """Solve for a stage with numbers that stay zero: those between its groups, and its own where they are kept."""
    theta = dense([stage])
    allowed = (theta if keep_zeros else dense([replace(stage, weight=np.ones_like(stage.weight))])) != 0
    normal = Normal(problem, suffix, theta.shape)
    near = _preconditioner(normal, inputs)
    missing = normal.missing(theta, np.float64) * allowed
    step, gain = solved_by_steps(
        _of_one(lambda numbers: normal.times(numbers) * allowed),
        missing[None],
        _of_one(lambda rest: near(rest) * allowed),
    )
    return _of(stage, grouped(theta + step[0], stage.groups)), gain


def _preconditioner(normal: Normal, inputs: Near) -> Callable[[FloatArray], FloatArray]:
    """Return what solves with SᵀS, summed over its offsets, and C' as `inputs` does."""
    outputs = normal.outputs()
    solve = None if outputs is None else near_inverse(outputs)
    del outputs

    def precondition(numbers: FloatArray) -> FloatArray:
        rows = numbers.reshape(len(numbers), -1)
        result = np.empty_like(rows)
        for few in normal.problem.blocks(len(rows)):
            result[few] = inputs(rows[few].T).T
        if solve is not None:
            for few in normal.problem.blocks(len(result.T)):
                result[:, few] = solve(result[:, few])
        return result.reshape(numbers.shape)

    return precondition


def _solved_by_channel(stage: Conv2d, suffix: Sequence[Conv2d], problem: Problem) -> tuple[Conv2d, float]:
    """Solve for a stage with one kernel per channel: its normal matrix is SᵀS and C' number by number."""
    normal = Normal(problem, suffix, stage.weight.shape)
    missing = normal.missing(stage.weight, np.float64)
    if _is_held(stage.weight.size, problem):
        solve = half_inverse(_by_channel(dense(suffix), problem, stage.kernel))
        step = solve(missing.reshape(-1, 1)).reshape(missing.shape)
        gain = float(np.vdot(step, missing))
    else:
        solve_nearby = Nearby.of(problem).by_channel(suffix, stage.kernel)
        found, gain = solved_by_steps(_of_one(normal.times), missing[None], _of_one(solve_nearby))
        step = found[0]
    return _of(stage, stage.weight + step), gain


def _of_one(change: Callable[[Float64Array], Float64Array]) -> Callable[[Float64Array], Float64Array]:
    return lambda rows: change(rows[0])[None]


def _by_channel(suffix: Float64Array, problem: Problem, window: tuple[int, int]) -> Half:
    """Return the normal matrix of a stage with one kernel of that size per channel, channel by channel."""
    (p, q), offsets = window, problem.offsets(window)
    result = Half.zeros(problem.channels * p * q)
    for (s, t), few, image in problem.images():
        rows = problem.seen(image)
        for u, v in offsets:
            if 0 <= s - u < p and 0 <= t - v < q:
                own, part = suffix[:, few, u, v].T, np.zeros((len(rows), problem.channels, p, q))
                for k, m in offsets:
                    part += (own @ suffix[:, :, k, m])[:, :, None, None] * rows[:, :, k : k + p, m : m + q]
                result.add(
                    slice((s - u) * q + t - v + p * q * few.start, p * q * few.stop, p * q), part.reshape(len(rows), -1)
                )
    return result
