"""What the outputs of a cut network have lost against the original's: sums over images, which add up batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from surgery.choose.tables import Probe
from surgery.errors import PlanError
from surgery.ops import Float64Array

Outputs = Mapping[str, npt.NDArray[np.generic]]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Classes:
    """Sums over images with one row of scores each: of the divergence, and of images that are as they should be."""

    divergence: float
    agreeing: int
    right: int | None
    right_originally: int | None


@dataclass(frozen=True, slots=True)
class Tally:
    """What some images say: for each output its squared error and its squares, and how the classes fare."""

    images: int
    missed: Float64Array
    squares: Float64Array
    classes: Classes | None


def compared(original: Outputs, cut: Outputs, images: int, labels: Labels | None = None) -> Tally:
    """Return the tally of `images` images: the network's outputs before a last Softmax, and the cut network's.

    Classes count where the only output is one row of at least two scores for each image. Raises PlanError for outputs
    that cannot be compared: other shapes, NaN or infinity, labels that the network has no class for.
    """
    for name, wanted in original.items():
        _check(name, wanted, cut[name])
    pairs = [(wanted.astype(np.float64), cut[name].astype(np.float64)) for name, wanted in original.items()]
    missed = np.array([np.vdot(wanted - made, wanted - made) for wanted, made in pairs])
    squares = np.array([np.vdot(wanted, wanted) for wanted, _ in pairs])
    scores = [_scores(both, images) for both in pairs] if len(pairs) == 1 else []
    if not scores or scores[0] is None:
        if labels is not None:
            shown = ", ".join(f"'{name}' {array.shape}" for name, array in original.items())
            raise PlanError(f"labels need one output with one row of scores for each image; the network has {shown}")
        return Tally(images, missed, squares, None)
    return Tally(images, missed, squares, _classes(*scores[0], labels))


def probe(response: float, tallies: Sequence[Tally]) -> Probe:
    """Return what all tallies say together of a cut whose layer loses `response`.

    Each output counts alike, whatever the size of its numbers; one that is 0 throughout counts by its error itself.
    """
    missed, squares = sum(each.missed for each in tallies), sum(each.squares for each in tallies)
    output = float(np.mean(missed / np.where(squares == 0, 1, squares)))
    classes = [each.classes for each in tallies if each.classes is not None]
    if not classes:
        return Probe(response, output)
    images = sum(each.images for each in tallies)
    right, before = [each.right for each in classes], [each.right_originally for each in classes]
    return Probe(
        response,
        output,
        sum(each.divergence for each in classes) / images,
        sum(each.agreeing for each in classes) / images,
        None if None in right else sum(filter(None, right)) / images,
        None if None in before else sum(filter(None, before)) / images,
    )


def _check(name: str, wanted: npt.NDArray[np.generic], made: npt.NDArray[np.generic]) -> None:
    if wanted.shape != made.shape:
        found = f"is {made.shape} where the original's is {wanted.shape}"
        raise PlanError(f"the output '{name}' {found}; take the part of the network that gives maps (surgery extract)")
    for array, whose in ((wanted, "the original"), (made, "the cut")):
        if not np.isfinite(array).all():
            raise PlanError(f"the output '{name}' of {whose} network holds NaN or infinity on these data")


def _scores(pair: tuple[Float64Array, Float64Array], images: int) -> tuple[Float64Array, Float64Array] | None:
    """Return both outputs as rows (images, classes), None where they are something else."""
    shape = pair[0].shape
    count = max(shape[1:], default=0)
    if count < 2 or pair[0].size != shape[0] * count or shape[0] != images:
        return None
    return pair[0].reshape(images, -1), pair[1].reshape(images, -1)


def _classes(wanted: Float64Array, made: Float64Array, labels: Labels | None) -> Classes:
    log_p, log_q = _log_softmax(wanted), _log_softmax(made)
    divergence = float(np.sum(np.exp(log_p) * (log_p - log_q)))
    best, best_made = wanted.argmax(axis=1), made.argmax(axis=1)
    agreeing = int(np.sum(best == best_made))
    if labels is None:
        return Classes(divergence, agreeing, None, None)
    if labels.max() >= wanted.shape[1]:
        raise PlanError(f"a label is {labels.max()}; the network has {wanted.shape[1]} classes, counted from 0")
    return Classes(divergence, agreeing, int(np.sum(best_made == labels)), int(np.sum(best == labels)))


def _log_softmax(scores: Float64Array) -> Float64Array:
    shifted = scores - scores.max(axis=1, keepdims=True)
    result: Float64Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
