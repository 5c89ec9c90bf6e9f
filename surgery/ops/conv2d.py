"""The meaning of a two-dimensional convolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surgery.ops.array import Float64Array, FloatArray, Size, check_bias, check_weight, read_only

Pair = tuple[int, int]  # (vertical, horizontal)


@dataclass(frozen=True, eq=False, slots=True)
class Conv2d:
    """A convolution as networks mean it: cross-correlation (the kernel is not flipped) with zero padding.

    The weight may be a view into a file, unaligned and read-only: it is never copied on creation, and
    afterwards `weight` and `bias` are read-only views of what was given.

    Attributes:
        weight: (out, in / groups, kh, kw).
        bias: (out,), or None.
        stride: steps of the window, in pixels of the input.
        padding: rows and columns of zeros added on both sides.
        dilation: distance between neighbouring taps of the kernel, in pixels.
        groups: input and output channels are cut into this many runs; run i of the output sees run i of the input.

    Raises:
        ValueError: the shapes or the numbers do not make a convolution.
    """

    weight: FloatArray
    bias: FloatArray | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        check_weight("convolution", self.weight, "(out, in / groups, kh, kw)")
        check_bias("convolution", self.bias, self.out_channels)
        for name, pair, least in (
            ("stride", self.stride, 1),
            ("padding", self.padding, 0),
            ("dilation", self.dilation, 1),
        ):
            if len(pair) != 2 or min(pair) < least:
                raise ValueError(f"convolution: {name} is {pair}, expected two integers of at least {least}")
        if self.groups < 1 or self.out_channels % self.groups:
            raise ValueError(
                f"convolution: {self.out_channels} outputs in {self.groups} groups, expected a divisor of the outputs"
            )
        object.__setattr__(self, "weight", read_only(self.weight))
        if self.bias is not None:
            object.__setattr__(self, "bias", read_only(self.bias))

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return int(self.weight.shape[0])

    @property
    def in_channels(self) -> int:
        """Number of input channels, over all groups."""
        return int(self.weight.shape[1]) * self.groups

    @property
    def kernel(self) -> Pair:
        """Taps of the kernel, (kh, kw)."""
        return int(self.weight.shape[2]), int(self.weight.shape[3])

    @property
    def weight_params(self) -> int:
        """Count of the weights, bias excluded."""
        return int(self.weight.size)

    @property
    def params(self) -> int:
        """Count of all trained numbers."""
        return self.weight_params + (0 if self.bias is None else int(self.bias.size))

    def output_size(self, size: Size) -> Size:
        """Return the output map for an input map (h, w): the quotient is rounded down, as Caffe does here.

        Raises:
            ValueError: the kernel does not fit into the padded map.
        """
        axes = zip(size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        height, width = ((i + 2 * p - (d * (k - 1) + 1)) // s + 1 for i, k, s, p, d in axes)
        if height < 1 or width < 1:
            raise ValueError(
                f"convolution: kernel {self.kernel} with dilation {self.dilation} does not fit into a map of "
                f"{size} padded by {self.padding}"
            )
        return height, width

    def macs(self, size: Size) -> int:
        """Return the multiply-accumulates for one image whose input map is (h, w); the bias is not counted."""
        height, width = self.output_size(size)
        return height * width * self.weight_params

    def apply(self, x: FloatArray) -> Float64Array:
        """Convolve (n, in, h, w) into (n, out, h', w') in float64.

        One matrix product per tap and group: no patch matrix is built, and of the weight only one tap at a
        time is converted.

        Raises:
            ValueError: `x` is not a batch of maps with this many channels.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"convolution: input has shape {x.shape}, expected (n, {self.in_channels}, h, w)")
        batch, groups, (sh, sw) = x.shape[0], self.groups, self.stride
        height, width = self.output_size((x.shape[2], x.shape[3]))
        (ph, pw), (dh, dw) = self.padding, self.dilation
        padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (ph, ph), (pw, pw)))
        result = np.zeros((batch, groups, self.out_channels // groups, height * width))
        for i, j in np.ndindex(self.kernel):
            top, left = i * dh, j * dw
            seen = padded[:, :, top : top + sh * (height - 1) + 1 : sh, left : left + sw * (width - 1) + 1 : sw]
            tap = self.weight[:, :, i, j].astype(np.float64)
            result += tap.reshape(groups, -1, tap.shape[1]) @ seen.reshape(batch, groups, tap.shape[1], -1)
        result = result.reshape(batch, self.out_channels, height, width)
        return result if self.bias is None else result + self.bias.astype(np.float64)[:, np.newaxis, np.newaxis]
