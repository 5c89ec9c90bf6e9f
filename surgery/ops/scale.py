"""The meaning of a layer that scales and shifts every channel, and how a linear layer beside it takes that in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from surgery.ops.array import Float64Array, FloatArray, Size


@dataclass(frozen=True, eq=False, slots=True)
class Scale:
    """y[c] = factor[c] * x[c] + shift[c], in float64; vectors of one number stand for every channel.

    Raises ValueError where a number is not finite or the two do not fit.
    """

    factor: Float64Array
    shift: Float64Array

    def __post_init__(self) -> None:
        if self.factor.ndim != 1 or self.shift.ndim != 1 or {len(self.factor), len(self.shift)} - {self.channels, 1}:
            raise ValueError(f"scale: shapes {self.factor.shape} and {self.shift.shape}, expected (channels,) or (1,)")
        if not (np.isfinite(self.factor).all() and np.isfinite(self.shift).all()):
            raise ValueError("scale: holds numbers that are not finite")

    @property
    def channels(self) -> int:
        """Number of channels; 1 where it fits any number."""
        return max(len(self.factor), len(self.shift))

    @property
    def in_channels(self) -> int:
        """Number of channels, as of any operation."""
        return self.channels

    @property
    def out_channels(self) -> int:
        """Number of channels, as of any operation."""
        return self.channels

    @property
    def weight_params(self) -> int:
        """Count of the factors."""
        return int(self.factor.size)

    @property
    def params(self) -> int:
        """Count of the factors: inside a chain nothing shifts."""
        return self.weight_params

    def output_size(self, size: Size) -> Size:
        """Return `size`: maps stay as they are."""
        return size

    def macs(self, size: Size) -> int:
        """Return 0: a scale multiplies once per number and accumulates nothing, so no MAC count has it."""
        return 0

    @classmethod
    def of(cls, factor: FloatArray | float = 1.0, shift: FloatArray | float = 0.0) -> Self:
        """Return the scale of two arrays or numbers; arrays are flattened."""
        return cls(*(np.asarray(part, np.float64).reshape(-1) for part in (factor, shift)))

    @classmethod
    def normalising(cls, mean: FloatArray, variance: FloatArray, epsilon: float) -> Self:
        """Return (x - mean) / sqrt(variance + epsilon); ValueError where that root is not of a positive number."""
        spread = np.asarray(variance, np.float64).reshape(-1) + epsilon
        if not (spread > 0).all():
            raise ValueError(f"a variance of {float(np.min(spread)) - epsilon:g} with epsilon {epsilon:g} has no root")
        factor = 1 / np.sqrt(spread)
        return cls.of(factor, -np.asarray(mean, np.float64).reshape(-1) * factor)

    def then(self, after: Scale) -> Scale:
        """Return this scale followed by another."""
        return Scale(after.factor * self.factor, after.factor * self.shift + after.shift)

    def apply(self, x: FloatArray) -> Float64Array:
        """Return the output for x of shape (batch, channels, ...)."""
        shape = (1, -1, *(1,) * (x.ndim - 2))
        result: Float64Array = x * self.factor.reshape(shape) + self.shift.reshape(shape)
        return result

    def absorbed(
        self, weight: FloatArray, bias: FloatArray | None, rows: int, kind: npt.DTypeLike = np.float32
    ) -> tuple[FloatArray, FloatArray | None]:
        """Return weight and bias of a linear layer that computes what it did and then this scale, rounded to `kind`.

        `weight` holds the layer's output channels along its first axis once viewed as (rows, ...): as they are for a
        convolution or a matrix (out, in). There is no bias where there was none and nothing shifts. Raises ValueError
        where the channels are others, or a result is beyond the range of `kind`.
        """
        if self.channels not in (1, rows):
            raise ValueError(f"{self.channels} channels behind a layer of {rows}")
        matrix = weight.reshape(rows, -1).astype(np.float64) * self.factor[:, None]
        old = np.zeros(rows) if bias is None else bias.reshape(-1).astype(np.float64)
        shifted = old * self.factor + self.shift
        has_bias = bias is not None or bool(self.shift.any())
        return _rounded(matrix, kind).reshape(weight.shape), _rounded(shifted, kind) if has_bias else None


def _rounded(values: Float64Array, kind: npt.DTypeLike) -> FloatArray:
    with np.errstate(over="ignore"):
        result: FloatArray = values.astype(kind)
    if not np.isfinite(result).all():
        raise ValueError(f"a weight would be beyond {result.dtype}'s range")
    return result
