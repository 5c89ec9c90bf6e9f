"""The meaning of a fully connected layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surgery.ops.array import Float64Array, FloatArray, Size, check_bias, check_weight, product, read_only


@dataclass(frozen=True, eq=False, slots=True)
class Linear:
    """A fully connected layer, y = W x + b, on inputs already flattened to vectors.

    The weight may be a view into a file, unaligned and read-only: it is never copied on creation, and
    afterwards `weight` and `bias` are read-only views of what was given.

    Attributes:
        weight: (out, in).
        bias: (out,), or None.

    Raises:
        ValueError: the shapes do not make a layer.
    """

    weight: FloatArray
    bias: FloatArray | None = None

    def __post_init__(self) -> None:
        check_weight("fully connected layer", self.weight, "(out, in)")
        check_bias("fully connected layer", self.bias, self.out_channels)
        object.__setattr__(self, "weight", read_only(self.weight))
        if self.bias is not None:
            object.__setattr__(self, "bias", read_only(self.bias))

    @property
    def out_channels(self) -> int:
        """Length of the output vector."""
        return int(self.weight.shape[0])

    @property
    def in_channels(self) -> int:
        """Length of the input vector."""
        return int(self.weight.shape[1])

    @property
    def weight_params(self) -> int:
        """Count of the weights, bias excluded."""
        return int(self.weight.size)

    @property
    def params(self) -> int:
        """Count of all trained numbers."""
        return self.weight_params + (0 if self.bias is None else int(self.bias.size))

    def output_size(self, size: Size) -> Size:
        """Return (1, 1): a vector has no map, whatever the (h, w) it was flattened from."""
        return 1, 1

    def macs(self, size: Size) -> int:
        """Return the multiply-accumulates for one input vector; `size` is taken to match `Conv2d` and has no effect."""
        return self.weight_params

    def apply(self, x: FloatArray) -> Float64Array:
        """Map (..., in) to (..., out) in float64.

        Raises:
            ValueError: the last axis of `x` is not the length of the input vector.
        """
        if x.ndim < 1 or x.shape[-1] != self.in_channels:
            raise ValueError(f"fully connected layer: input has shape {x.shape}, expected (..., {self.in_channels})")
        y = product(x.reshape(-1, self.in_channels), self.weight.T).astype(np.float64, copy=False)
        y = y.reshape(*x.shape[:-1], self.out_channels)
        return y if self.bias is None else y + self.bias.astype(np.float64)
