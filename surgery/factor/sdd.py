"""Split a layer into two whose weights are -1, 0, 1 with a scale between: fixed-point factorized networks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from surgery.errors import PlanError
from surgery.factor.base import (
    Fit,
    Rank,
    check_rank,
    check_size,
    joint_spectrum,
    option,
    placeholder,
    rank_holding,
    stacked,
)
from surgery.factor.metric import DenseMetric, Metric
from surgery.factor.sdd_terms import MetricSpace, Schedule, Terms, no_terms, refitted, row_blocks, solved
from surgery.factor.solver import singular_values, stored_dtype
from surgery.ops import Chain, Conv2d, Float64Array, FloatArray, Linear, Op, Scale
from surgery.ops.array import product

# Terms for each row or column, whichever are fewer. Here the factors take 4 to 8 bits for each weight, and integers of
# as many bits are as near to it.
MOST_TERMS = 2

# Errors of a 500 x 800 layer at rank 500: 0.293, 0.292 in six times the time, and 0.311.
SCHEDULES = {
    "improved": Schedule(width=16, turn_gain=1e-3, sweeps=21, sweep_gain=2e-3),
    "authors": Schedule(width=1, turn_gain=1e-6, sweeps=21, sweep_gain=2e-3),
    "greedy": Schedule(width=1, turn_gain=1e-6, sweeps=1, sweep_gain=0.0),
}


@dataclass(frozen=True)
class Sdd:
    """W (out, in·kh·kw) ≈ X D Yᵀ with X and Y of -1, 0, 1 and D diagonal, not negative (Wang and Cheng, 2017).

    The layers are the kernel (or matrix) Yᵀ to r channels, a scale D, and 1x1 (or a matrix) X with the layer's bias.
    Of all multiplications r are left for each position of the output: see `surgery.ops.arithmetic`. As float32 the
    factors are larger than the layer from r = m n / (m + n) on; `surgery.ternary` holds them in 2 bits each.

    Attributes:
        form: "scale", or "folded": D multiplied into X, two layers with the same output.
        start: "improved", blocks of terms solved again in sweeps; "authors", the same for single terms, as published;
            "greedy", single terms without sweeps (Kolda and O'Leary, 1998).

    Law, besides those of `Method`: every non-zero of a ternary layer is exactly -1 or 1, and of a folded one, exactly
    -d or d in each column. With a metric the terms are improved and D refitted in it.
    """

    form: str = option("scale", "folded")
    start: str = option("improved", "authors", "greedy")

    name: ClassVar[str] = "sdd"
    summary: ClassVar[str] = (
        "two layers of weights -1, 0, 1 through r channels, a scale between: almost no multiplications"
    )
    is_exact: ClassVar[bool] = False
    uses_metric: ClassVar[bool] = True

    def refusal(self, op: Op) -> str | None:
        """Refuse nothing."""
        return None

    def max_rank(self, op: Op) -> Rank:
        """Return a multiple of the smaller side: each term holds less than one of a singular value decomposition."""
        return (MOST_TERMS * min(_shape(op)[1:]),)

    def rank_at(self, op: Op, size: int) -> Rank:
        """See `Method.rank_at`: a single number is its own path."""
        check_size(self, op, size)
        return (size,)

    def template(self, op: Op, rank: Rank) -> Chain:
        """See `Method.template`."""
        groups, m, n = self._checked(op, rank)
        x, d, y = (groups, m, rank[0]), (groups * rank[0],), (groups, rank[0], n)
        return self._chain(op, *(placeholder(shape, op.weight) for shape in (x, d, y)))

    def spectrum(self, op: Op) -> tuple[Float64Array, ...]:
        """Return the singular values: a bound, for no sum of r terms holds more than the r largest of them."""
        groups = _shape(op)[0]
        matrices = np.split(op.weight.reshape(len(op.weight), -1), groups)
        return (joint_spectrum([singular_values(matrix) for matrix in matrices]),)

    def rank_for_energy(self, op: Op, energy: float, spectrum: tuple[Float64Array, ...] | None = None) -> Rank:
        """See `Method.rank_for_energy`."""
        return tuple(rank_holding(values, energy) for values in spectrum or self.spectrum(op))

    def factor(self, op: Op, rank: Rank, *, metric: Metric | None = None, seed: int = 0) -> Fit:
        """See `Method.factor`; `seed` is for the signs that "improved" starts from."""
        groups, m, _ = self._checked(op, rank)
        norm = _norm(op.weight)
        rng, dtype = np.random.default_rng(seed), stored_dtype(op.weight)
        found, missed = [], 0.0
        for group, matrix in enumerate(np.split(op.weight.reshape(groups * m, -1), groups)):
            terms = self._terms(matrix, rank[0], metric, group, rng)
            terms = Terms(*(part.astype(dtype, copy=False) for part in (terms.x, terms.d, terms.y)))
            missed += _squared_error(matrix, terms)
            found.append(replace(terms, x=terms.x * terms.d) if self.form == "folded" else terms)
        left, scale = stacked([terms.x for terms in found]), np.concatenate([terms.d for terms in found])
        chain = self._chain(op, left, scale, stacked([terms.y.T for terms in found]))
        error = float(np.sqrt(missed)) / norm if norm else 0.0
        bound = frozenset({0, len(chain.ops) - 1})
        return Fit(chain, tuple(rank), error, self.start if metric is None else f"{self.start}, metric", bound)

    def _terms(
        self, matrix: FloatArray, rank: int, metric: Metric | None, group: int, rng: np.random.Generator
    ) -> Terms:
        schedule, size = SCHEDULES[self.start], (len(matrix), matrix.shape[1], rank)
        if metric is None:
            return refitted(matrix, solved(matrix, no_terms(*size), schedule, rng))
        space = MetricSpace(metric, group)
        if not isinstance(metric, DenseMetric):
            # The entries of a column depend on all of C, which is too large to be held: only D follows the data.
            return refitted(matrix, solved(matrix, no_terms(*size), schedule, rng), space)
        blind = replace(schedule, sweeps=1)
        return refitted(
            matrix, solved(matrix, solved(matrix, no_terms(*size), blind, rng), schedule, rng, space), space
        )

    def _chain(self, op: Op, left: FloatArray, scale: FloatArray, right: FloatArray) -> Chain:
        """Return the layers of X (groups, m, r), folded X D, then of D (groups · r,) and Yᵀ (groups, r, n)."""
        groups, m, rank = left.shape
        first, last = _layers(op, left.reshape(groups * m, rank), right.reshape(groups * rank, -1))
        return Chain((first, last) if self.form == "folded" else (first, Scale.of(scale), last))

    def _checked(self, op: Op, rank: Rank) -> tuple[int, int, int]:
        groups, m, n = _shape(op)
        check_rank(self, op, rank, f"{MOST_TERMS} min({m}, {n})")
        return groups, m, n


def _shape(op: Op) -> tuple[int, int, int]:
    """Return (groups, m, n) of the matrices."""
    groups = op.groups if isinstance(op, Conv2d) else 1
    return groups, op.out_channels // groups, op.weight.size // op.out_channels


def _layers(op: Op, left: FloatArray, right: FloatArray) -> tuple[Op, Op]:
    if isinstance(op, Linear):
        return Linear(right), Linear(left, op.bias)
    first = right.reshape(-1, *op.weight.shape[1:])
    return (
        Conv2d(first, None, op.stride, op.padding, op.dilation, op.groups),
        Conv2d(left[:, :, np.newaxis, np.newaxis], op.bias, groups=op.groups),
    )


def _norm(weight: FloatArray) -> float:
    rows = weight.reshape(len(weight), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        squared = float(np.einsum("ij,ij->", rows, rows, dtype=np.float64))
    if not np.isfinite(squared):
        raise PlanError("weights hold NaN or infinity; they cannot be factored: look into how they were trained")
    return float(np.sqrt(squared))


def _squared_error(matrix: FloatArray, terms: Terms) -> float:
    total = 0.0
    for rows in row_blocks(*matrix.shape):
        missed = matrix[rows].astype(np.float64) - product(terms.x[rows].astype(np.float64) * terms.d, terms.y.T)
        total += float(np.einsum("ij,ij->", missed, missed))
    return total
