"""Rank-one terms one after the other, each the strongest of what the ones before it left: tensor power method.

Astrid and Lee (2017), "CP-decomposition with tensor power method for convolutional neural networks compression";
Allen (2012), "Sparse higher-order principal components analysis", for the deflation.
"""

from __future__ import annotations

import numpy as np

from surgery.factor.cp_tensor import Axes, Components, over_inputs, over_other_axes, over_outputs, spread, unit
from surgery.ops import Float64Array, FloatArray

STARTS = 10  # TensorLy's number, and its number of iterations before the best start is chosen.
FIRST_ITERATIONS = 10
MAX_ITERATIONS = 50
CONVERGED = 1e-6  # Change of lambda, relative.


def power_terms(slices: FloatArray, axes: Axes, rank: int, rng: np.random.Generator) -> Components:
    """Return `rank` terms, each found on the residual of those before.

    Each takes lambda^2 from the squared residual, so that sum lambda^2 = ||T||^2 - ||E||^2: terms never grow past
    the kernel. The price is that none is improved once it is found.
    """
    rest = slices.astype(np.float64, order="C")  # Products of strided matrices are many times slower.
    terms = []
    for _ in range(rank):
        term = _strongest(rest, axes, rng)
        for matrix, weight in zip(rest, spread(term.taps), strict=True):
            matrix -= (term.outputs * weight) @ term.inputs.T
        terms.append(term)
    return Components(
        np.hstack([term.outputs for term in terms]),
        np.hstack([term.inputs for term in terms]),
        tuple(np.hstack(axis) for axis in zip(*(term.taps for term in terms), strict=True)),
    )


def _strongest(rest: Float64Array, axes: Axes, rng: np.random.Generator) -> Components:
    """Return the strongest rank-one term found from `STARTS` normal starts; all of them are iterated at once."""
    inputs, *taps = (unit(rng.standard_normal((length, STARTS))) for length in (rest.shape[2], *axes))
    at = Components(np.zeros((rest.shape[1], STARTS)), inputs, tuple(taps))
    for _ in range(FIRST_ITERATIONS):
        at = _iterated(rest, at)
    best = slice(found := int(np.argmax(at.norms)), found + 1)
    at = Components(at.outputs[:, best], at.inputs[:, best], tuple(tap[:, best] for tap in at.taps))
    for _ in range(MAX_ITERATIONS - FIRST_ITERATIONS):
        before, at = at.norms[0], _iterated(rest, at)
        if abs(at.norms[0] - before) <= CONVERGED * before:
            break
    return at


def _iterated(rest: Float64Array, at: Components) -> Components:
    """Return every term with each of its factors in turn the best for the others."""
    tap = spread(at.taps)
    thin = over_inputs(rest, at.inputs)
    outputs = unit(np.einsum("kor,kr->or", thin, tap))
    on_taps, taps = np.einsum("kor,or->kr", thin, outputs), list(at.taps)
    for axis in range(len(taps)):
        taps[axis] = unit(over_other_axes(on_taps, taps, axis))
    inputs = over_outputs(rest, outputs, spread(taps))
    return Components(outputs * np.linalg.norm(inputs, axis=0), unit(inputs), tuple(taps))
