"""Split a convolution into one with r output channels and a 1x1 (Denton et al., 2014; Zhang et al., 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from surgery.factor.base import as_conv2d
from surgery.factor.matrix_method import MatrixMethod
from surgery.ops import Chain, Conv2d, FloatArray, Op


@dataclass(frozen=True)
class SvdChannel(MatrixMethod):
    """W (out, in·kh·kw) ≈ A B: the layer's kernel to r channels without bias, then 1x1 with the layer's bias."""

    name: ClassVar[str] = "svd-channel"
    summary: ClassVar[str] = "convolution: the same kernel to r channels, then 1x1, by singular value decomposition"

    def refusal(self, op: Op) -> str | None:
        """Refuse all but convolutions."""
        return None if isinstance(op, Conv2d) else "not a convolution"

    def shape(self, op: Op) -> tuple[int, int, int]:
        """Return (groups, out / groups, in / groups · kh · kw)."""
        conv = as_conv2d(self, op)
        kh, kw = conv.kernel
        return conv.groups, conv.out_channels // conv.groups, conv.in_channels // conv.groups * kh * kw

    def unfold(self, op: Op, group: int) -> FloatArray:
        """Return one row per output channel of the group."""
        _, m, n = self.shape(op)
        return op.weight[group * m : (group + 1) * m].reshape(m, n)

    def fold(self, op: Op, left: FloatArray, right: FloatArray) -> Chain:
        """Return the kernel with stride, padding and dilation of the layer, then 1x1; both in its groups."""
        conv = as_conv2d(self, op)
        first = right.reshape(-1, *conv.weight.shape[1:])
        last = left.reshape(conv.out_channels, -1, 1, 1)
        return Chain(
            (
                Conv2d(first, None, conv.stride, conv.padding, conv.dilation, conv.groups),
                Conv2d(last, conv.bias, groups=conv.groups),
            )
        )
