"""Multiplicative updates of semi-NMF: H >= 0 for X (p, q) ≈ F (p, r) H (r, q) (Ding, Li and Jordan, 2010)."""

from __future__ import annotations

import numpy as np

from surgery.ops import Float64Array, FloatArray
from surgery.ops.array import blocks

STALLED = 1e-5  # Updates end when ten of them lower the error by less than this share.
COLUMN_ARRAYS = 5  # of the size of some columns of H, for what an update makes of some at a time


def updated(reduced: Float64Array, held: Float64Array, count: int, metric: Float64Array | None) -> Float64Array:
    """Return `held` (r, q) after at most `count` updates for `reduced` (k, q), each after its best free factor F.

    In a metric C the bound that the update rests on needs its positive and negative parts apart, as those of FᵀF.
    """
    weighed = reduced if metric is None else reduced @ metric
    before, held, columns = np.inf, held.copy(), held.shape[1]
    for step in range(count):
        free = solved(held @ (held if metric is None else held @ metric).T, held @ weighed.T).T
        error = float(np.einsum("ij,ij->", weighed, reduced) - np.einsum("ij,ij->", free, weighed @ held.T))
        if step % 10 == 0:
            if before * (1 - STALLED) <= error:
                break
            before = error
        inner = free.T @ free
        parts = None if metric is None else _by_sign(inner, held, metric)
        for few in blocks(columns, COLUMN_ARRAYS * 8 * len(held)):
            over, under = _by_part(inner, held[:, few]) if parts is None else (part[:, few] for part in parts)
            wanted = free.T @ weighed[:, few]
            under += np.maximum(wanted, 0)
            over += np.maximum(-wanted, 0)
            ratio = np.divide(under, over, out=np.zeros_like(over), where=over > np.finfo(np.float64).tiny)
            held[:, few] *= np.sqrt(ratio, out=ratio)
        del parts, over, under, free, inner  # Those of the next update have their place.
    return held


def _by_part(inner: Float64Array, held: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return A⁺ H and A⁻ H for the positive and negative parts of A = A⁺ - A⁻ (r, r)."""
    return np.maximum(inner, 0) @ held, np.maximum(-inner, 0) @ held


def _by_sign(inner: Float64Array, held: Float64Array, metric: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return A⁺ H C⁺ + A⁻ H C⁻ and A⁻ H C⁺ + A⁺ H C⁻, C = C⁺ - C⁻ (n, n) as A in `_by_part`."""
    result = np.empty((2, *held.shape))
    for rows in blocks(len(held), 2 * 8 * len(metric)):
        over, under = _by_part(inner[rows], held)
        for few in blocks(len(metric), COLUMN_ARRAYS * 8 * len(metric)):
            plus, minus = np.maximum(metric[:, few], 0), np.maximum(-metric[:, few], 0)
            result[0, rows, few] = over @ plus + under @ minus
            result[1, rows, few] = under @ plus + over @ minus
    return result[0], result[1]


def solved(symmetric: Float64Array, wanted: FloatArray) -> Float64Array:
    """Return S⁻¹ `wanted`, which is used up, for positive semi-definite S, with a ridge where S does not decide."""
    import scipy.linalg  # Loading SciPy takes longer than inspecting a network.

    ridge = 1e-12 * float(symmetric.trace()) / len(symmetric) or 1.0
    ridged = symmetric + ridge * np.eye(len(symmetric))
    result: Float64Array = scipy.linalg.cho_solve(
        scipy.linalg.cho_factor(ridged), wanted, overwrite_b=True, check_finite=False
    )
    return result
