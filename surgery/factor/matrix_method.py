"""Methods that lay a layer's weight out as one matrix for each group and cut each by its best low rank."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from surgery.factor.base import (
    Fit,
    Rank,
    check_rank,
    check_size,
    contiguous,
    joint_spectrum,
    placeholder,
    rank_holding,
)
from surgery.factor.solver import singular_values, truncated_svd
from surgery.ops import Chain, Float64Array, FloatArray, Op


class MatrixMethod(ABC):
    """A `Method` whose rank is one number: the rank of the weight seen as one matrix M (m, n) per group.

    Law, besides those of `Method`: the squared error is exactly the tail energy of `spectrum` at the rank, and no
    chain of this form has a smaller one (Eckart and Young, 1936). Members say only how the weight is unfolded and
    how left (m, r) and right (r, n) factors fold back into layers: the right one runs first.
    """

    name: str
    summary: str

    @abstractmethod
    def refusal(self, op: Op) -> str | None:
        """See `Method.refusal`."""

    @abstractmethod
    def shape(self, op: Op) -> tuple[int, int, int]:
        """Return (groups, m, n) of the matrices, or raise PlanError if the layer is refused."""

    @abstractmethod
    def unfold(self, op: Op, group: int) -> FloatArray:
        """Return the matrix (m, n) of one group: a view of the weight where that is possible."""

    @abstractmethod
    def fold(self, op: Op, left: FloatArray, right: FloatArray) -> Chain:
        """Return the chain whose weights are left (groups, m, r) and right (groups, r, n)."""

    def max_rank(self, op: Op) -> Rank:
        """See `Method.max_rank`: the smaller side of the matrix."""
        return (min(self.shape(op)[1:]),)

    def rank_at(self, op: Op, size: int) -> Rank:
        """See `Method.rank_at`: a single number is its own path."""
        check_size(self, op, size)
        return (size,)

    def template(self, op: Op, rank: Rank) -> Chain:
        """See `Method.template`."""
        groups, m, n = self._checked(op, rank)
        left, right = (groups, m, rank[0]), (groups, rank[0], n)
        return self.fold(op, placeholder(left, op.weight), placeholder(right, op.weight))

    def spectrum(self, op: Op) -> tuple[Float64Array, ...]:
        """See `Method.spectrum`."""
        return (joint_spectrum([singular_values(self.unfold(op, g)) for g in range(self.shape(op)[0])]),)

    def rank_for_energy(self, op: Op, energy: float, spectrum: tuple[Float64Array, ...] | None = None) -> Rank:
        """See `Method.rank_for_energy`."""
        return tuple(rank_holding(values, energy) for values in spectrum or self.spectrum(op))

    def factor(self, op: Op, rank: Rank, *, seed: int = 0) -> Fit:
        """See `Method.factor`. Deterministic: `seed` has no effect."""
        groups, _, _ = self._checked(op, rank)
        svds = [truncated_svd(self.unfold(op, g), rank[0]) for g in range(groups)]
        norm = np.linalg.norm([svd.norm for svd in svds])
        error = float(np.linalg.norm([svd.residual for svd in svds]) / norm) if norm else 0.0
        chain = self.fold(op, _stacked([svd.left for svd in svds]), _stacked([svd.right for svd in svds]))
        return Fit(contiguous(chain), tuple(rank), error, svds[0].solver)

    def _checked(self, op: Op, rank: Rank) -> tuple[int, int, int]:
        groups, m, n = self.shape(op)
        check_rank(self, op, rank, f"min({m}, {n})")
        return groups, m, n


def _stacked(parts: list[FloatArray]) -> FloatArray:
    # Layers large enough for a copy to matter have one group.
    return parts[0][np.newaxis] if len(parts) == 1 else np.stack(parts)
