"""Split a layer into three by matrix tri-factorisation, W ≈ F S Gᵀ, with pruning of components and of entries.

Semi-non-negative form and start: Zitnik and Zupan (2015), "Data fusion by matrix factorization", one relation for each
tap of the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import numpy as np

from surgery.errors import PlanError
from surgery.factor.base import (
    Fit,
    Rank,
    check_rank,
    check_size,
    contiguous,
    joint_spectrum,
    option,
    placeholder,
    rank_holding,
    share,
)
from surgery.factor.metric import Metric
from surgery.factor.pruning import rotated, shrink, sparsify
from surgery.factor.solver import singular_values, stored_dtype, truncated_svd
from surgery.factor.trifactor import (
    Factors,
    by_columns,
    fit_core,
    fit_left,
    improve,
    masked_least_squares,
    multiplicative,
)
from surgery.factor.tucker2 import _balanced, _contract_inputs, _iterate, _row_blocks, _squared_residual
from surgery.ops import Chain, Conv2d, Float64Array, FloatArray, Linear, Op

MAX_SWEEPS = 200
# Rows of a shifted basis touch zero, and multiplicative steps cannot leave zero: lift all a little, as far as the
# literature lifts the indicators of clusters (Ding, Li and Jordan, 2010).
LIFT = 0.2
SAMPLED = 0.2  # Share of the columns in the mean that starts a component.


@dataclass(frozen=True)
class Nmtf:
    """W (out, in, taps) ≈ F (out, r_out) times a core S (r_out, taps, r_in) times G (in, r_in), in three layers.

    A rank is (r_out, r_in). A kernel is cut in one of two forms: "tucker" is 1x1 by G, the core with the kernel and
    the geometry, 1x1 by F; "flat" takes channel and kernel together as inputs: the kernel by G, 1x1 by S, 1x1 by F.
    For fully connected layers and 1x1 kernels they are the same, and the first layer has the stride.

    For one matrix (all but "tucker" on kernels) with neither pruning nor constraint, this is never better than the SVD
    of rank min(r_out, r_in): it has the same error, and S is r_out · r_in more weights. It pays where the core carries
    the kernel, or where zeros and signs are wanted for their own sake.

    Attributes:
        form: see above.
        algorithm: "free" is the best by SVD or orthogonal iteration (Tucker2). The others have F, G >= 0 and S free:
            "semi" moves one column at a time; "multiplicative" is the rule of the literature, which ends with a little
            more error from the closed-form start, in less time, and with more from the random one.
        start: of these two: "closed-form" is the free factors of a rank one less, shifted until non-negative without
            changing the product, so that its error is at most theirs (Gillis and Kumar, 2015, "Exact and heuristic
            algorithms for semi-nonnegative matrix factorization"); "random" is means of random columns.
        keep: share of the components that pruning leaves: below 1 the factors start at rank / keep. By itself
            it was never seen to end with less error than starting at the rank.
        density: share of the entries of each factor that pruning leaves; all others are exactly 0.
    """

    form: str = option("tucker", "flat")
    algorithm: str = option("free", "semi", "multiplicative")
    start: str = option("closed-form", "random")
    keep: float = share(1.0)
    density: float = share(1.0)

    name: ClassVar[str] = "nmtf"
    summary: ClassVar[str] = "three layers by matrix tri-factorisation, non-negative and pruned if asked"
    uses_metric: ClassVar[bool] = True

    @property
    def is_exact(self) -> bool:
        """Whether nothing is constrained or pruned away."""
        return self.algorithm == "free" and self.density == 1

    def refusal(self, op: Op) -> str | None:
        """Refuse kernels on a single input channel in the tucker form: there is nothing to compress on that side."""
        if isinstance(op, Conv2d) and self._has_core(op) and op.in_channels == op.groups:
            return "one input channel per group: nothing to compress on the input side; form=flat can"
        return None

    def max_rank(self, op: Op) -> Rank:
        """Return (r_out, r_in), each at most the rank that its unfolding can have."""
        return _largest_rank(*self._shape(op))

    def rank_at(self, op: Op, size: int) -> Rank:
        """Return the rank whose larger number is `size`; r_out : r_in stays that of the full ranks, each at least 1."""
        check_size(self, op, size)
        largest = self.max_rank(op)
        longer = max(largest)
        r_out, r_in = (max(1, (2 * size * limit + longer) // (2 * longer)) for limit in largest)
        return r_out, r_in

    def template(self, op: Op, rank: Rank) -> Chain:
        """See `Method.template`."""
        outputs, inputs, taps = self._checked(op, rank)
        (r_out, r_in), groups = rank, op.groups if isinstance(op, Conv2d) else 1
        shapes = (groups, outputs, r_out), (groups, r_out, taps, r_in), (groups, inputs, r_in)
        return self._chain(op, *(placeholder(shape, op.weight) for shape in shapes))

    def spectrum(self, op: Op) -> tuple[Float64Array, ...]:
        """Return the singular values of the output mode and of the input mode; see `Method.spectrum`."""
        _, _, taps = self._shape(op)
        weights = self._groups(op)
        over_outputs = joint_spectrum([singular_values(w.reshape(len(w), -1)) for w in weights])
        if taps == 1:
            return over_outputs, over_outputs
        over_inputs = [singular_values(w.swapaxes(0, 1).reshape(w.shape[1], -1)) for w in weights]
        return over_outputs, joint_spectrum(over_inputs)

    def rank_for_energy(self, op: Op, energy: float, spectrum: tuple[Float64Array, ...] | None = None) -> Rank:
        """See `Method.rank_for_energy`: each mode keeps the share, so together they may lose twice 1 - `energy`."""
        return tuple(rank_holding(values, energy) for values in spectrum or self.spectrum(op))

    def factor(self, op: Op, rank: Rank, *, metric: Metric | None = None, seed: int = 0) -> Fit:
        """See `Method.factor`. `seed` matters to the random start alone, `metric` to the last step, which fits F."""
        self._checked(op, rank)
        dtype, rng = stored_dtype(op.weight), np.random.default_rng(seed)
        parts, squared_residual, squared_norm = [], 0.0, 0.0
        for group, weight in enumerate(self._groups(op)):
            total = _squared_norm(weight)
            factors = self._factors(weight, rank, total, rng)
            if metric is not None:
                kept = (factors.left != 0).astype(np.float64) if self.density < 1 else factors.all_kept.left
                factors = fit_left(weight, factors, kept, STEPS[self.algorithm], metric, group)
            part = [x.astype(dtype) for x in _shared_norms(factors)]
            squared_residual += _squared_residual(weight, *part)
            squared_norm += total
            parts.append(part)
        chain = self._chain(op, *(np.stack(factor) for factor in zip(*parts, strict=True)))
        error = float(np.sqrt(squared_residual / squared_norm)) if squared_norm else 0.0
        return Fit(contiguous(chain), tuple(rank), error, self.algorithm, self._bound())

    def _factors(self, weight: FloatArray, rank: Rank, total: float, rng: np.random.Generator) -> Factors:
        step = STEPS[self.algorithm]
        wide = tuple(
            min(limit, ceil(r / self.keep)) for limit, r in zip(_largest_rank(*weight.shape), rank, strict=True)
        )
        start = best if self.algorithm == "free" else STARTS[self.start]
        factors = start(weight, wide, rng)
        if self.algorithm != "free":
            factors, _ = improve(weight, factors, factors.all_kept, step, MAX_SWEEPS, total)
        if wide != tuple(rank):
            factors = shrink(weight, factors, rank, step, total)
        if self.density < 1:
            ready = rotated(factors) if self.algorithm == "free" else factors
            factors = sparsify(weight, ready, self.density, step, total)
        return factors

    def _bound(self) -> frozenset[int]:
        if self.density < 1:
            return frozenset({0, 1, 2})
        return frozenset() if self.algorithm == "free" else frozenset({0, 2})

    def _has_core(self, op: Op) -> bool:
        return isinstance(op, Conv2d) and self.form == "tucker" and op.kernel != (1, 1)

    def _shape(self, op: Op) -> tuple[int, int, int]:
        """Return outputs, inputs and taps of each group's weight as this form sees it."""
        reason = self.refusal(op)
        if reason is not None:
            raise PlanError(f"{self.name}: {reason}")
        groups = op.groups if isinstance(op, Conv2d) else 1
        size = op.weight[0].size
        inputs = op.weight.shape[1] if self._has_core(op) else size
        return len(op.weight) // groups, inputs, size // inputs

    def _groups(self, op: Op) -> list[FloatArray]:
        """Return the weight of each group as (outputs, inputs, taps), views where that is possible."""
        shape = self._shape(op)
        return [op.weight[i : i + shape[0]].reshape(shape) for i in range(0, len(op.weight), shape[0])]

    def _checked(self, op: Op, rank: Rank) -> tuple[int, int, int]:
        o, i, k = self._shape(op)
        check_rank(self, op, rank, f"(min({o}, {i * k}), min({i}, {o * k}))")
        return o, i, k

    def _chain(self, op: Op, left: FloatArray, core: FloatArray, right: FloatArray) -> Chain:
        """Return the layers of F (groups, p, a), S (groups, a, taps, b) and G (groups, n, b)."""
        _, a, taps, b = core.shape
        first = right.swapaxes(1, 2).reshape(-1, right.shape[1])
        middle, last = core.swapaxes(2, 3).reshape(-1, b, taps), left.reshape(-1, a)
        if isinstance(op, Linear):
            return Chain((Linear(first), Linear(middle[:, :, 0]), Linear(last, op.bias)))
        spatial = op.stride, op.padding, op.dilation, op.groups
        still = (1, 1), (0, 0), (1, 1), op.groups
        on_core = self._has_core(op)
        return Chain(
            (
                Conv2d(_as_kernels(first, (1, 1) if on_core else op.kernel), None, *(still if on_core else spatial)),
                Conv2d(_as_kernels(middle, op.kernel if on_core else (1, 1)), None, *(spatial if on_core else still)),
                Conv2d(_as_kernels(last, (1, 1)), op.bias, *still),
            )
        )


def best(weight: FloatArray, rank: Rank, rng: np.random.Generator) -> Factors:
    """Return the factors of `rank` with the least error that SVD (one tap) or orthogonal iteration finds."""
    if weight.shape[2] > 1:
        return Factors(*_iterate(weight, *rank))
    svd, width = truncated_svd(weight[:, :, 0], min(rank)), min(rank)
    left, right = (np.zeros((size, r)) for size, r in zip(weight.shape[:2], rank, strict=True))
    left[:, :width], right[:, :width] = svd.left, svd.right.T  # Components past the smaller width can hold nothing.
    del svd
    return _with_core(weight, left, right)


def shifted(weight: FloatArray, rank: Rank, rng: np.random.Generator) -> Factors:
    """Return factors with F, G >= 0 and at most the error of `best` at a rank one less on both sides.

    A side as wide as the weight has the unit matrix, one of width 1 the moduli of its best component, which may be far
    from it.
    """
    a, b = rank
    free = best(weight, (max(1, a - 1), max(1, b - 1)), rng)
    return _with_core(weight, _lifted(free.left, a), _lifted(free.right, b))


def random_columns(weight: FloatArray, rank: Rank, rng: np.random.Generator) -> Factors:
    """Return factors whose columns are the moduli of means of a fifth of the weight's columns (`random_vcol`)."""
    return _with_core(weight, _means(weight, rank[0], rng), _means(weight.swapaxes(0, 1), rank[1], rng))


STEPS = {"free": masked_least_squares, "semi": by_columns, "multiplicative": multiplicative}
STARTS = {"closed-form": shifted, "random": random_columns}


def _with_core(weight: FloatArray, left: Float64Array, right: Float64Array) -> Factors:
    return fit_core(weight, Factors(left, np.zeros((left.shape[1], weight.shape[2], right.shape[1])), right))


def _lifted(basis: Float64Array, width: int) -> Float64Array:
    """Return (m, width) >= 0 whose span holds the `width` - 1 columns of `basis`."""
    if width == len(basis):
        return np.eye(width)
    if width == 1:
        return np.abs(basis)
    unit = _unit(basis)[0]
    # Of either sign the one that needs less of a shift: what all columns have in common costs digits.
    unit = np.where(unit.max(axis=0) < -unit.min(axis=0), -unit, unit)
    shift = np.maximum(0, -unit.min(axis=1, keepdims=True)) + LIFT / np.sqrt(len(unit))
    return np.hstack([unit + shift, shift])


def _means(weight: FloatArray, count: int, rng: np.random.Generator) -> Float64Array:
    """Return (p, count): moduli of means over random inputs and all taps of `weight` (p, n, taps), none zero."""
    inputs = weight.shape[1]
    size = max(1, round(SAMPLED * inputs))
    chosen = np.zeros((inputs, count))
    for column in range(count):
        chosen[rng.choice(inputs, size, replace=False), column] = 1 / size
    means = np.abs(_contract_inputs(weight, chosen).mean(axis=1))
    lifted: Float64Array = means + 1e-5 * means.max()
    return lifted


def _unit(factor: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return the factor with columns of norm 1, and the norms; columns of zeros stay, with norm 1."""
    norms = np.linalg.norm(factor, axis=0)
    norms[norms == 0] = 1.0
    return factor / norms, norms


def _shared_norms(factors: Factors) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return F, S and G of the same product, each component's norm shared equally by the three."""
    (left, over_left), (right, over_right) = _unit(factors.left), _unit(factors.right)
    core = factors.core * over_left[:, np.newaxis, np.newaxis]
    core *= over_right
    return _balanced(left, core, right)


def _as_kernels(matrix: FloatArray, kernel: tuple[int, int]) -> FloatArray:
    return matrix.reshape(len(matrix), -1, *kernel)


def _largest_rank(outputs: int, inputs: int, taps: int) -> Rank:
    return min(outputs, inputs * taps), min(inputs, outputs * taps)


def _squared_norm(weight: FloatArray) -> float:
    """Return ||W||²; raises PlanError where it is not a number."""
    total = sum(float(np.einsum("oki,oki->", block, block)) for _, block in _row_blocks(weight))
    if not np.isfinite(total):
        raise PlanError("weights hold NaN or infinity; they cannot be factored: look into how they were trained")
    return total
