"""Refit one stage of a chain with all others held: directly where that is possible, else by conjugate gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from surgery.factor.cholesky import Solver, inverse, lending
from surgery.factor.halves import half_inverse
from surgery.factor.kernels import dense, grouped
from surgery.factor.metric import DenseMetric
from surgery.factor.normal import Normal, Problem
from surgery.ops import Conv2d, Float64Array
from surgery.ops.array import product


@dataclass(frozen=True, eq=False, slots=True)
class Search:
    """Where conjugate gradients for one stage of a problem stand.

    Attributes:
        problem: what they are for.
        inputs: solves with the mean of C over the stage's offsets.
        last: the last step's direction, the gradient there and that one's square in the norm of the preconditioner.
    """

    problem: Problem
    inputs: Solver
    last: tuple[Float64Array, Float64Array, float] | None = None

    @classmethod
    def of(cls, problem: Problem, window: tuple[int, int]) -> Search:
        """Return a search for a stage of that kernel, at its start."""
        return cls(problem, half_inverse(problem.mean(window)))

    @classmethod
    def direct(cls, problem: Problem) -> Search:
        """Return a search of one step, for a stage that has one offset and may take any numbers."""
        metric, group = problem.metric, problem.group
        if isinstance(metric, DenseMetric):
            return cls(problem, lending(metric.moments[group], metric.ridge))
        return cls(problem, lambda columns: metric.solve(group, columns.T).T)

    def direction(self, missing: Float64Array, scaled: Float64Array) -> Float64Array:
        """Return where to go next, `scaled` being the preconditioned gradient."""
        if self.last is None:
            return scaled
        direction, before, size = self.last
        turned: Float64Array = scaled + max(0.0, float(np.vdot(missing - before, scaled)) / size) * direction
        return turned if np.vdot(turned, missing) > 0 else scaled


def solved(
    stage: Conv2d,
    suffix: Sequence[Conv2d],
    problem: Problem,
    search: Search | None,
    *,
    keep_zeros: bool,
) -> tuple[Conv2d, float, Search | None]:
    """Return the stage that is better between what the problem has taken in and the suffix, its gain and its search.

    It is the best there is where there is no search, or no more than one offset.
    """
    if suffix and not keep_zeros:
        if problem.is_whole and stage.groups == 1 and all(after.kernel == (1, 1) for after in suffix):
            return *_solved_before_pointwise(stage, dense(suffix)[:, :, 0, 0], problem), None
        if problem.is_dense and stage.groups == stage.in_channels == stage.out_channels:
            return *_solved_by_channel(stage, dense(suffix), problem), None
    if not problem.is_dense:
        return stage, 0.0, None
    if stage.kernel == problem.kernel and stage.groups == 1 and not keep_zeros:
        return *_stepped(stage, suffix, Search.direct(problem), keep_zeros=False)[:2], None
    return _stepped(stage, suffix, search or Search.of(problem, stage.kernel), keep_zeros=keep_zeros)


def _solved_before_pointwise(stage: Conv2d, suffix: Float64Array, problem: Problem) -> tuple[Conv2d, float]:
    """Solve K T C = Sᵀ W C, K = SᵀS: the metric drops out, however large or short of samples it is."""
    rows = stage.weight.reshape(len(stage.weight), -1)
    outputs = suffix.T @ suffix
    missing = np.asarray(product(suffix.T, problem.wanted), np.float64)
    missing -= outputs @ rows
    step = inverse(outputs.copy())(missing)
    gain = float(np.vdot(outputs, problem.metric.gram(problem.group, step)))
    return replace(stage, weight=(rows + step).reshape(stage.weight.shape)), gain


def _stepped(
    stage: Conv2d, suffix: Sequence[Conv2d], search: Search, *, keep_zeros: bool
) -> tuple[Conv2d, float, Search]:
    """Go a step of conjugate gradients on what is missing of T, preconditioned by the mean over offsets.

    Where there is one offset and nothing else is held at zero the preconditioner is the inverse, and one step leads
    all the way.
    """
    theta = dense([stage])
    allowed = (theta if keep_zeros else dense([replace(stage, weight=np.ones_like(stage.weight))])) != 0
    normal = Normal(search.problem, suffix, stage.kernel, allowed)
    missing, outputs = normal.missing(theta), normal.outputs()
    scaled = normal.preconditioned(missing, search.inputs, None if outputs is None else inverse(outputs))
    size = float(np.vdot(missing, scaled))
    direction = search.direction(missing, scaled)
    curvature, slope = normal.square(direction), float(np.vdot(direction, missing))
    if slope <= 0 or curvature <= 0:  # Only of rounding, where nothing is left to gain.
        return stage, 0.0, search
    share = slope / curvature
    new = replace(search, last=(direction, missing, size))
    return replace(stage, weight=grouped(theta + share * direction, stage.groups)), slope * share, new


def _solved_by_channel(stage: Conv2d, suffix: Float64Array, problem: Problem) -> tuple[Conv2d, float]:
    """Solve for a stage with one kernel per channel: its normal matrix, channel and tap by channel and tap."""
    window, channels, taps = stage.kernel, stage.out_channels, stage.weight[0].size
    (moments, ridge), (p, q) = problem.moments(), window
    offsets, cross = problem.offsets(window), np.asarray(problem.cross(), np.float64)
    matrix = np.zeros((stage.weight.size, stage.weight.size))
    normal, missing = matrix.reshape(channels, taps, channels, taps), np.zeros((channels, taps))
    for at in offsets:
        tail = suffix[:, :, at[0], at[1]]
        seen = problem.seen(cross, at, window).reshape(-1, channels, taps)
        missing += np.einsum("oa,oap->ap", tail, seen)
        for other in offsets:
            (s, t), (u, v) = at, other
            part = moments[:, s : s + p, t : t + q, :, u : u + p, v : v + q].copy().reshape(matrix.shape)
            if at == other:
                part.flat[:: len(part) + 1] += ridge
            part = part.reshape(normal.shape)
            part *= (tail.T @ suffix[:, :, other[0], other[1]])[:, None, :, None]
            normal += part
    theta, wanted = stage.weight.reshape(-1), missing.reshape(-1)
    wanted -= matrix @ theta
    step = inverse(matrix)(wanted[:, None])[:, 0]
    return replace(stage, weight=(theta + step).reshape(stage.weight.shape)), float(step @ wanted)
