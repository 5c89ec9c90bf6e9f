"""Split a fully connected layer into two through r units (Xue et al., 2013; Denton et al., 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from surgery.factor.base import as_linear
from surgery.factor.matrix_method import MatrixMethod
from surgery.ops import Chain, FloatArray, Linear, Op


@dataclass(frozen=True)
class Svd(MatrixMethod):
    """W (out, in) ≈ A B: first B (r, in) without bias, then A (out, r) with the layer's bias."""

    name: ClassVar[str] = "svd"
    summary: ClassVar[str] = "fully connected: two layers through r units, by singular value decomposition"

    def refusal(self, op: Op) -> str | None:
        """Refuse all but fully connected layers."""
        return None if isinstance(op, Linear) else "not a fully connected layer"

    def shape(self, op: Op) -> tuple[int, int, int]:
        """Return (1, out, in)."""
        linear = as_linear(self, op)
        return 1, linear.out_channels, linear.in_channels

    def unfold(self, op: Op, group: int) -> FloatArray:
        """Return the weight itself."""
        return as_linear(self, op).weight

    def fold(self, op: Op, left: FloatArray, right: FloatArray) -> Chain:
        """Return Linear(in, r), Linear(r, out)."""
        return Chain((Linear(right[0]), Linear(left[0], op.bias)))
