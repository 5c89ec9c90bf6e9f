"""Ternary factors as training begins with them: real numbers that round to them, nearer to the layer that was cut.

Wang and Cheng (2017), "Fixed-point factorized networks": training starts not from X and Y themselves but from real
matrices that round to them and whose product is nearer to the original weight; and each factor's steps are scaled so
that the gradients of X, D and Y are comparable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from surgery.errors import PlanError
from surgery.model import Model, PerChannel, Refusal
from surgery.ops import Conv2d, Float64Array, Op
from surgery.ops.arithmetic import input_scales
from surgery.tune.parts import TERNARY, Part, Placed
from surgery.tune.schedules import operation

ROUNDS = 20
MARGIN = 0.49  # from the ternary number, so that rounding gives that one
_OTHER = "does not hold the ternary weight that its cut made; give the plan that made it"
WORK = 2**36  # multiply-adds of all rounds, a minute; larger layers get fewer rounds, the largest none


@dataclass(frozen=True, eq=False)
class Latent:
    """How one factor begins.

    Attributes:
        weight: what rounds to it, in the layer's own shape; None for the scale between two factors.
        scale: of each input of all groups (groups · r,), where it is multiplied into the factor.
        groups: as of a convolution.
        pace: what its steps are multiplied by, `scale_pace` those of the scale; see `balance`.
    """

    weight: Float64Array | None
    scale: Float64Array | None = None
    groups: int = 1
    pace: float = 1.0
    scale_pace: float = 1.0


def latents(placement: Placed, cut: Model, original: Model) -> Mapping[str, Latent]:
    """Return how the factors of a ternary cut begin, by layer of the model `cut`; nothing for other cuts.

    `original` is the model that the cut was made in. Raises PlanError where the weights are not ternary.
    """
    chains = list(placement.chains.values())
    if TERNARY not in chains[0][0].kinds:
        return {}
    first, lasts = _lifted(cut, chains[0][0]), [_lifted(cut, chain[-1]) for chain in chains]
    groups = first.groups if isinstance(first, Conv2d) else 1
    middle = chains[0][1:-1]
    left = np.concatenate([last.weight.reshape(len(last.weight), -1) for last in lasts]).astype(np.float64)
    scale = _scale(cut, middle[0], first) if middle else _folded(lasts[0], chains[0][-1])
    x = left if middle else np.sign(left)
    y = first.weight.reshape(len(first.weight), -1).astype(np.float64)
    for part, values in ((chains[0][0], y), (chains[0][-1], x)):
        if not np.isin(values, (-1, 0, 1)).all():
            raise PlanError(_OTHER, part.key)
    weight = operation(original, placement.cut).weight.reshape(len(x), -1).astype(np.float64)
    x_real, y_real = _by_group(weight, x, scale, y, groups)
    paces = balance([(_rms(y_real), y.shape[1]), (_rms(scale), 1), (_rms(x_real), x.shape[1])])
    found = {chains[0][0].key: Latent(y_real.reshape(first.weight.shape), pace=paces[0])}
    found |= {part.key: Latent(None, pace=paces[1]) for part in middle}
    row = 0
    for chain, last in zip(chains, lasts, strict=True):
        own = x_real[row : row + len(last.weight)].reshape(last.weight.shape)
        row += len(last.weight)
        found[chain[-1].key] = Latent(own, None if middle else scale, groups, paces[2], paces[1])
    return found


def recovered(
    weight: Float64Array, left: Float64Array, scale: Float64Array, right: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Return X (m, r) and Y (r, n) that round to `left` and `right`, with X D Y no farther from `weight` (m, n).

    Projected gradient steps on one factor after the other, each of a length that cannot raise the error.
    """
    x, y = left.copy(), right.copy()
    work = 3 * len(weight) * weight.shape[1] * len(scale)
    for _ in range(min(ROUNDS, WORK // max(1, work))):
        x = np.clip(_stepped(x, scale[:, np.newaxis] * y, weight), left - MARGIN, left + MARGIN)
        y = np.clip(_stepped(y.T, (x * scale).T, weight.T).T, right - MARGIN, right + MARGIN)
    return x, y


def balance(sizes: Sequence[tuple[float, int]]) -> list[float]:
    """Return, for each factor of a product, what its steps are to be multiplied by.

    `sizes` holds the root of the mean square of each factor's numbers, and how many inputs each of its outputs has.
    Scaled to 1 over the root of the inputs, as layers begin whose outputs are as large as their inputs, and all by
    what keeps the product, factors have comparable gradients, and one rate does for all. A factor that stays as it is
    moves as that one would by steps λ⁻² times as long, λ what it would be multiplied by.
    """
    wanted = [1 / (max(rms, 1e-12) * inputs**0.5) for rms, inputs in sizes]
    mean = prod(wanted) ** (1 / len(wanted))
    return [(mean / each) ** 2 for each in wanted]


def _by_group(
    weight: Float64Array, x: Float64Array, scale: Float64Array, y: Float64Array, groups: int
) -> tuple[Float64Array, Float64Array]:
    parts = [np.split(array, groups) for array in (weight, x, scale, y)]
    pairs = [recovered(*each) for each in zip(*parts, strict=True)]
    return np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])


def _stepped(factor: Float64Array, other: Float64Array, weight: Float64Array) -> Float64Array:
    """Return a factor after a gradient step of ||weight - factor other||² as long as 1 over its curvature."""
    gram = other @ other.T
    curvature = np.abs(gram).sum(axis=1).max()  # The largest row sum bounds the largest eigenvalue.
    if not curvature:
        return factor
    result: Float64Array = factor + (weight @ other.T - factor @ gram) / curvature
    return result


def _lifted(model: Model, part: Part) -> Op:
    op = model.format.lift(model, model.node(part.key))
    if isinstance(op, Refusal):
        raise PlanError(f"is not what its cut made: {op.reason}", part.key)
    return op


def _scale(model: Model, part: Part, before: Op) -> Float64Array:
    """Return the scale behind a factor (groups · r,)."""
    meaning = model.format.scale(model, model.node(part.key))
    if not isinstance(meaning, PerChannel):
        raise PlanError(_OTHER, part.key)
    return np.broadcast_to(meaning.scale.factor, (before.out_channels,)).astype(np.float64)


def _folded(op: Op, part: Part) -> Float64Array:
    """Return the scale that is multiplied into the last factor (groups · r,)."""
    scale = input_scales(op)
    if scale is None:
        raise PlanError(_OTHER, part.key)
    return scale.astype(np.float64)


def _rms(array: Float64Array) -> float:
    return float(np.sqrt(np.mean(np.square(array))))
