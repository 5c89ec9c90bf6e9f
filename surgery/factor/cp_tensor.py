"""Sums of rank-one terms that stand for a kernel, and the products of the two that every CP algorithm needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from surgery.ops import Float64Array, FloatArray

HELD = 1.25  # Products with the kernel are held where they are no more than so many times its numbers.

Axes = tuple[int, ...]  # Lengths of the spatial axes: (K,) where they are merged, (kh, kw) where each is cut.


@dataclass(frozen=True, eq=False, slots=True)
class Components:
    """R rank-one terms: T[k, o, i] ≈ sum over r of tap[k, r] outputs[o, r] inputs[i, r], tap as `spread` makes it.

    Attributes:
        outputs: (O, R); the length of column r is lambda_r, the norm of the term.
        inputs: (I, R), columns of length 1, or 0 where the term is zero.
        taps: one (k, R) for each spatial axis, columns as those of `inputs`.
    """

    outputs: FloatArray
    inputs: FloatArray
    taps: tuple[Float64Array, ...]

    @property
    def norms(self) -> Float64Array:
        """The norm of each term, (R,)."""
        norms: Float64Array = np.sqrt(np.einsum("or,or->r", self.outputs, self.outputs, dtype=np.float64))
        return norms

    def balanced(self) -> tuple[Float64Array, ...]:
        """Return outputs, inputs and taps with each term's norm shared equally by all of them."""
        share = self.norms ** (1 / (2 + len(self.taps)))
        return unit(self.outputs) * share, *(factor * share for factor in (self.inputs, *self.taps))


def slices_of(weight: FloatArray) -> FloatArray:
    """Return a view of a weight (O, I, kh, kw) as one matrix for each tap, (K, O, I) with K = kh kw.

    Each is converted to float64 only for the product it is needed in.
    """
    return weight.reshape(*weight.shape[:2], -1).transpose(2, 0, 1)


def unit(columns: FloatArray) -> Float64Array:
    """Return columns of length 1; those that are zero stay so."""
    norms = np.sqrt(np.einsum("nr,nr->r", columns, columns, dtype=np.float64))
    scaled: Float64Array = columns / np.where(norms > 0, norms, 1.0)
    return scaled


def spread(taps: Sequence[FloatArray]) -> Float64Array:
    """Return the factors (k, R) of the spatial axes multiplied out, (K, R): their Khatri-Rao product."""
    factors = (tap.astype(np.float64, copy=False) for tap in taps)
    return reduce(lambda a, b: (a[:, np.newaxis] * b).reshape(-1, b.shape[1]), factors)


def over_outputs(slices: FloatArray, outputs: Float64Array, tap: Float64Array) -> Float64Array:
    """Return (I, R): the kernel multiplied by `outputs` (O, R) and `tap` (K, R), term by term."""
    result = np.zeros((slices.shape[2], outputs.shape[1]))
    part, weighed = np.empty_like(result), np.empty_like(outputs)
    for matrix, weights in zip(slices, tap, strict=True):
        np.multiply(outputs, weights, out=weighed)
        result += np.matmul(matrix.T.astype(np.float64, copy=False), weighed, out=part)
    return result


def over_inputs(slices: FloatArray, inputs: FloatArray) -> Float64Array:
    """Return (K, O, R): the kernel multiplied by `inputs` (I, R), which is all that the other factors need of it."""
    result = np.empty((*slices.shape[:2], inputs.shape[1]))
    for matrix, products in zip(slices, result, strict=True):
        np.matmul(matrix.astype(np.float64, copy=False), inputs, out=products)
    return result


@dataclass(frozen=True, eq=False, slots=True)
class Thinned:
    """What `over_inputs` returns, tap by tap, made anew each time it is gone through."""

    slices: FloatArray
    inputs: Float64Array

    def __iter__(self) -> Iterator[Float64Array]:
        """Yield (O, R) for each tap. The array is one, filled anew each time."""
        part = np.empty((self.slices.shape[1], self.inputs.shape[1]))
        for matrix in self.slices:
            yield np.matmul(matrix.astype(np.float64, copy=False), self.inputs, out=part)


def thinned(slices: FloatArray, inputs: Float64Array) -> Iterable[Float64Array]:
    """Return the products (O, R) of each tap and `inputs` (I, R), held where they are few beside the kernel."""
    few = inputs.shape[1] <= HELD * slices.shape[2]
    return over_inputs(slices, inputs) if few else Thinned(slices, inputs)


def over_other_axes(products: Float64Array, taps: Sequence[Float64Array], axis: int) -> Float64Array:
    """Return (k, R) for one spatial axis: `products` (K, R) multiplied by the factors of all the other axes."""
    rest = np.moveaxis(products.reshape(*map(len, taps), -1), axis, 0)
    for other in (*taps[:axis], *taps[axis + 1 :]):
        rest = np.einsum("kl...r,lr->k...r", rest, other)
    return rest


def squared_residual(slices: FloatArray, outputs: FloatArray, inputs: FloatArray, taps: Sequence[FloatArray]) -> float:
    """Return ||T - sum of terms||_F^2 for any such factors, balanced or not, rounded or not; measured in float64."""
    total, right = 0.0, inputs.T.astype(np.float64)
    for matrix, weights in zip(slices, spread(taps), strict=True):
        rest = matrix - (outputs * weights) @ right
        total += float(np.vdot(rest, rest))
    return total
