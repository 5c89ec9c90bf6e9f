"""Conjugate gradients for symmetric systems too large to be held: one for each row, all with the same matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from surgery.ops import Float64Array

STEPS = 4
REST = 1e-2  # Of what all steps gained, as the preconditioner sees it: with no more than that left to gain they end.

Map = Callable[[Float64Array], Float64Array]


def solved_by_steps(times: Map, missing: Float64Array, precondition: Map) -> tuple[Float64Array, float]:
    """Return x near the solution of x A = `missing`, row by row, and what it takes off Σ x A xᵀ - 2 x missingᵀ.

    `times` is what A does to rows (m, ...), `precondition` what an inverse near its own does. No step raises the sum.
    """
    shape, rest = (len(missing), *[1] * (missing.ndim - 1)), missing.copy()
    result, direction = np.zeros_like(missing), precondition(rest)
    size, gain = _inner(rest, direction), 0.0
    for _ in range(STEPS):
        image = times(direction)
        share = _quotient(size, _inner(direction, image))
        gain += float(share @ size)
        result += share.reshape(shape) * direction
        image *= share.reshape(shape)
        rest -= image
        scaled = precondition(rest)
        before, size = size, _inner(rest, scaled)
        if size.sum() <= REST * gain:
            break
        direction *= _quotient(size, before).reshape(shape)
        direction += scaled
    return result, gain


def _inner(rows: Float64Array, others: Float64Array) -> Float64Array:
    result: Float64Array = np.einsum("ij,ij->i", rows.reshape(len(rows), -1), others.reshape(len(others), -1))
    return result


def _quotient(above: Float64Array, below: Float64Array) -> Float64Array:
    """Return above / below, 0 where either is only rounding's."""
    return np.divide(above, below, out=np.zeros_like(above), where=(above > 0) & (below > 0))
