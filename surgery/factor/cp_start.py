"""The best sum of orthogonal rank-one terms that few rotations can find: where alternating least squares begins."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from surgery.factor.cp_tensor import Axes, Components
from surgery.factor.solver import gram, leading_eigenvectors, singular_values
from surgery.ops import Float64Array, FloatArray


def orthogonal_terms(slices: FloatArray, axes: Axes, rank: int) -> Components:
    """Return the `rank` largest singular triplets of the tap matrices, after rotating the taps.

    Each spatial axis is rotated to the eigenvectors of its Gram matrix (De Lathauwer et al., 2000, "A multilinear
    singular value decomposition"), which gathers the energy in few of the K matrices (O, I). A singular triplet of
    one of them is a rank-one term of the kernel, and all these terms are orthogonal: the squared error is
    ||T||^2 - sum lambda^2, no term is larger than the kernel, and K min(O, I) terms are the kernel.
    """
    import scipy.linalg  # Loading SciPy takes longer than inspecting a network.

    rotations = _rotations(slices, axes)
    _, outs, ins = slices.shape
    # The largest so far, so that what all matrices have is never held at once.
    outputs, inputs, values, places = np.empty((outs, 0)), np.empty((0, ins)), np.empty(0), np.empty(0, int)
    for place, matrix in enumerate(_rotated(slices, rotations)):
        u, s, vh = scipy.linalg.svd(matrix, full_matrices=False, check_finite=False)
        values, places = np.concatenate([values, s]), np.concatenate([places, np.full(len(s), place)])
        largest = np.argsort(-values, kind="stable")[:rank]
        outputs, inputs = np.hstack([outputs, u])[:, largest], np.vstack([inputs, vh])[largest]
        values, places = values[largest], places[largest]
    taps = zip(rotations, np.unravel_index(places, axes), strict=True)
    return Components(outputs * values, inputs.T, tuple(rotation[:, index] for rotation, index in taps))


def orthogonal_norms(slices: FloatArray, axes: Axes) -> Float64Array:
    """Return the norms of all K min(O, I) terms that `orthogonal_terms` chooses from, largest first.

    Their squares add up to ||T||_F^2.
    """
    values = [singular_values(matrix) for matrix in _rotated(slices, _rotations(slices, axes))]
    return np.sort(np.concatenate(values))[::-1]


def _rotations(slices: FloatArray, axes: Axes) -> list[Float64Array]:
    """Return an orthogonal matrix (k, k) for each spatial axis, directions of most energy first."""
    tensor = slices.reshape(*axes, -1)
    unfolded = (np.moveaxis(tensor, axis, 0).reshape(length, -1) for axis, length in enumerate(axes))
    return [leading_eigenvectors(gram(matrix), len(matrix))[1] for matrix in unfolded]


def _rotated(slices: FloatArray, rotations: list[Float64Array]) -> Iterator[Float64Array]:
    """Yield the tap matrices (O, I) in the rotated directions, one at a time."""
    shares_of_all: FloatArray = np.ones((1, 1))
    for rotation in rotations:
        shares_of_all = np.kron(shares_of_all, rotation)
    for shares in shares_of_all.T:
        result = np.zeros(slices.shape[1:])
        for share, matrix in zip(shares, slices, strict=True):
            result += share * matrix
        yield result
