"""Three factors of a weight, W[:, :, k] ≈ F S_k Gᵀ at every tap k, improved one factor at a time.

With two of the three held, the squared error is a quadratic in the third, tr(xᵀ L x R) - 2 tr(xᵀ T) + ||W||², whose
normal equations are L x R = T. Sums over the taps are sums over relations that share F and G (Zitnik and Zupan, 2015,
"Data fusion by matrix factorization", with one relation for each tap). Every step below lowers that quadratic or leaves
it, so no sequence of steps raises the error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from surgery.factor.metric import Metric
from surgery.factor.tucker2 import _contract_inputs
from surgery.ops import Float64Array, FloatArray
from surgery.ops.array import blocks

# A sweep that lowers the squared error by less than this share of ||W||^2 ends the iteration.
SWEEP_GAIN = 1e-6
GRADIENT_STEPS = 10
COLUMN_SWEEPS = 3
METRIC_STEPS = 30
LEFT_ARRAYS = 2  # of the size of some rows of F, for several more than there are at a time
ROW_ARRAYS = 8  # of the size of some rows of a weight, for what is made of some at a time
SINGULAR = 1e-10  # Eigenvalues of a Gram matrix that count as zero, as a share of the largest.
# A gradient is noise of 1e-16 of the target, 1e-32 when squared, which inverse Gram matrices enlarge by 1e10.
CONVERGED = 1e-20


@dataclass(frozen=True, eq=False, slots=True)
class Factors:
    """F (p, a), S (a, taps, b) and G (n, b) of a weight (p, n, taps); or, of the same shapes, a 1 for each entry kept.

    Attributes:
        left: F.
        core: S.
        right: G.
    """

    left: Float64Array
    core: Float64Array
    right: Float64Array

    @property
    def transposed(self) -> Factors:
        """The factors of the weight with its outputs and inputs exchanged."""
        return Factors(self.right, self.core.transpose(2, 1, 0), self.left)

    @property
    def all_kept(self) -> Factors:
        """A 1 for every entry, without memory."""
        return Factors(*(np.broadcast_to(1.0, part.shape) for part in (self.left, self.core, self.right)))

    @property
    def left_gram(self) -> Float64Array:
        """Z Zᵀ (a, a) of Z = [S_1 Gᵀ, S_2 Gᵀ, ...]: what F multiplies."""
        flat = self.core.reshape(len(self.core), -1)
        result: Float64Array = (self.core @ (self.right.T @ self.right)).reshape(flat.shape) @ flat.T
        return result


@dataclass(frozen=True, eq=False, slots=True)
class Normal:
    """Normal equations L x R = T of several matrices x (count, m, n) that have L and R in common.

    Attributes:
        left: L (m, m), positive semi-definite.
        right: R (n, n), positive semi-definite.
        target: T (count, m, n).
    """

    left: Float64Array
    right: Float64Array
    target: Float64Array

    def times(self, x: Float64Array) -> Float64Array:
        """Return L x R."""
        return _two_sided(self.left, x, self.right)

    def squared(self, x: Float64Array) -> float:
        """Return the squared error less ||W||²."""
        return float(np.vdot(x, self.times(x) - 2 * self.target))


Step = Callable[[Float64Array, Float64Array, Normal], Float64Array]


def masked_least_squares(x: Float64Array, kept: Float64Array, normal: Normal) -> Float64Array:
    """Return `x` moved towards the least squares solution on the entries `kept`; all others become 0.

    Conjugate gradients, preconditioned by L⁻¹ and R⁻¹ cut down to those entries: where all are kept, the first step
    arrives. Each step lowers the error of each of the matrices, whether or not the last one arrives.
    """
    inverse_left, inverse_right = generalised_inverse(normal.left), generalised_inverse(normal.right)
    x, target = x * kept, normal.target
    floor = CONVERGED * _inner(target, _two_sided(inverse_left, target, inverse_right))
    gradient = normal.times(x)
    np.subtract(target, gradient, out=gradient)
    gradient *= kept
    direction, before = np.zeros_like(x), np.ones_like(floor)
    for _ in range(GRADIENT_STEPS):
        step = _two_sided(inverse_left, gradient, inverse_right)
        step *= kept
        slope = _inner(gradient, step)
        moving = slope > floor
        if not moving.any():
            break
        direction *= _quotient(slope, before, moving)
        direction += step
        del step
        image = normal.times(direction)
        curvature = _inner(direction, image)
        length = _quotient(slope, curvature, moving & (curvature > 0))
        x += length * direction
        image *= kept
        image *= length
        gradient -= image
        del image
        before = slope
    return x


def multiplicative(x: Float64Array, kept: Float64Array, normal: Normal) -> Float64Array:
    """Return `x` >= 0 after one multiplicative step: it stays >= 0, zeros stay zero, and the error does not rise.

    x ← x ∘ √((T⁺ + x R⁻) / (T⁻ + x R⁺)), for L = 1 (Ding, Li and Jordan, 2010, "Convex and semi-nonnegative matrix
    factorizations", equation 9). T is the sum over the taps: splitting each tap's share, as is done for relations of
    different sources, would bound the same quadratic less tightly and make shorter steps.
    """
    x = x * kept
    up = np.maximum(normal.target, 0) + x @ np.maximum(-normal.right, 0)
    down = np.maximum(-normal.target, 0) + x @ np.maximum(normal.right, 0)
    # Entries with nothing to divide by stay as they are.
    safe = down > np.finfo(np.float64).eps * up
    return x * np.sqrt(np.divide(up, down, out=np.ones_like(x), where=safe))


def by_columns(x: Float64Array, kept: Float64Array, normal: Normal) -> Float64Array:
    """Return `x` >= 0 after each column in turn, a few times, took its best values >= 0 for the others as they are.

    For L = 1 (Cichocki and Phan, 2009, "Fast local algorithms for large scale nonnegative matrix and tensor
    factorizations"). Unlike multiplicative steps it can leave zero again.
    """
    squares = normal.right.diagonal()
    x, kept, target = (x * kept)[:, 0], kept[:, 0], normal.target[:, 0]
    for column in np.tile(np.flatnonzero(squares > 0), COLUMN_SWEEPS):
        gradient = target[:, column] - x @ normal.right[:, column]
        x[:, column] = kept[:, column] * np.maximum(0, x[:, column] + gradient / squares[column])
    return x[:, np.newaxis]


def improve(
    weight: FloatArray, factors: Factors, kept: Factors, step: Step, sweeps: int, total: float
) -> tuple[Factors, list[float]]:
    """Return the factors after at most `sweeps` sweeps, and the squared error after each of these.

    `step` moves F and G; S takes the least squares solution after either. `total` is ||W||².
    """
    errors: list[float] = []
    for _ in range(sweeps):
        factors, _ = _improve_left(weight, factors, kept, step)
        other, squared = _improve_left(weight.swapaxes(0, 1), factors.transposed, kept.transposed, step)
        factors = other.transposed
        errors.append(squared + total)
        if len(errors) > 1 and errors[-2] - errors[-1] <= SWEEP_GAIN * total:
            break
    return factors, errors


def fit_core(weight: FloatArray, factors: Factors) -> Factors:
    """Return the factors with the least squares S for their F and G."""
    thin = _contract_inputs(weight, factors.right)
    return _fit_core(thin, factors, np.broadcast_to(1.0, factors.core.shape))[0]


def fit_left(
    weight: FloatArray, factors: Factors, kept: Float64Array, step: Step, metric: Metric, group: int
) -> Factors:
    """Return the factors with F moved by `step` towards its least error in one group of `metric`; S and G stay."""
    core, flat = factors.core, factors.core.reshape(len(factors.core), -1)
    rows = weight.reshape(len(weight), -1)
    gram, target = np.empty((len(core), len(core))), np.empty((len(rows), len(core)))
    for few in blocks(len(core), ROW_ARRAYS * 8 * rows.shape[1]):
        z = np.tensordot(core[few], factors.right, (2, 1)).swapaxes(1, 2)
        image = metric.times(group, z.reshape(len(z), -1))
        gram[few] = np.tensordot(image.reshape(z.shape), factors.right, (1, 0)).reshape(len(z), -1) @ flat.T
        for some in blocks(len(rows), ROW_ARRAYS * 8 * rows.shape[1]):
            target[some, few] = rows[some].astype(np.float64) @ image.T
    gram, left = (gram + gram.T) / 2, target  # Whose place it takes.
    # Row by row of F the problems have nothing but their gram matrix in common: some at a time take less room.
    for some in blocks(len(left), LEFT_ARRAYS * 8 * left.shape[1]):
        normal, part = Normal(np.ones((1, 1)), gram, target[some, np.newaxis]), factors.left[some, np.newaxis]
        for _ in range(METRIC_STEPS):
            part = step(part, kept[some, np.newaxis], normal)
        left[some] = part[:, 0]
    return Factors(left, factors.core, factors.right)


def generalised_inverse(gram: Float64Array) -> Float64Array:
    """Return P with gram P gram = gram, up to eigenvalues that are noise, for a positive semi-definite matrix.

    Taken at unit diagonal, so that it does not matter how components are scaled.
    """
    size = np.sqrt(gram.diagonal())
    scale = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
    both = scale * scale[:, np.newaxis]
    result: Float64Array = both * np.linalg.pinv(gram * both, rcond=SINGULAR, hermitian=True).astype(np.float64)
    return result


def _improve_left(weight: FloatArray, factors: Factors, kept: Factors, step: Step) -> tuple[Factors, float]:
    """Return the factors with F moved and S fitted, and the squared error less ||W||²."""
    thin = _contract_inputs(weight, factors.right)  # (p, taps, b)
    flat = factors.core.reshape(len(factors.core), -1)
    target = thin.reshape(len(thin), -1) @ flat.T
    normal = Normal(np.ones((1, 1)), factors.left_gram, target[:, np.newaxis])
    left = step(factors.left[:, np.newaxis], kept.left[:, np.newaxis], normal)[:, 0]
    return _fit_core(thin, Factors(left, factors.core, factors.right), kept.core)


def _fit_core(thin: Float64Array, factors: Factors, kept: Float64Array) -> tuple[Factors, float]:
    left, right = factors.left, factors.right
    target = (left.T @ thin.reshape(len(thin), -1)).reshape(factors.core.shape)
    normal = Normal(left.T @ left, right.T @ right, target.swapaxes(0, 1))
    core = masked_least_squares(factors.core.swapaxes(0, 1), kept.swapaxes(0, 1), normal)
    return Factors(left, core.swapaxes(0, 1), right), normal.squared(core)


def _two_sided(left: Float64Array, x: Float64Array, right: Float64Array) -> Float64Array:
    # One large product on the right, where the many rows of F are single-row matrices.
    result: Float64Array = (x.reshape(-1, x.shape[2]) @ right).reshape(x.shape)
    if len(left) == 1:
        result *= left
        return result
    return left @ result


def _inner(x: Float64Array, y: Float64Array) -> Float64Array:
    """Return the inner product of each matrix of `x` with that of `y`, (count, 1, 1)."""
    result: Float64Array = np.einsum("kij,kij->k", x, y)[:, np.newaxis, np.newaxis]
    return result


def _quotient(above: Float64Array, below: Float64Array, where: npt.NDArray[np.bool_]) -> Float64Array:
    result: Float64Array = np.divide(above, below, out=np.zeros_like(above), where=where)
    return result
