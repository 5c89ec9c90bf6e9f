"""A layer beside the chain that stands in its place: the chain's look and ranks, and its product against the layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from surgery.diff import forms
from surgery.diff.difference import Factored, Reweighed
from surgery.diff.weights import blocks, equal, relative_error, release
from surgery.factor import METHODS
from surgery.ops import Chain, Conv2d, FloatArray, Op, Scale, Stage, collapse

BLOCK = 1 << 22  # weights of the product that are multiplied out at a time

# What a chain looks like -> the method whose spectrum tells about its ranks.
_SPECTRA = {
    "svd": "svd",
    "svd-spatial": "svd-spatial",
    "svd-channel": "svd-channel",
    "response-3d": "response-3d",
    "three factors": "nmtf",
    "tucker2": "tucker2",
    "cp": "cp",
    "cp4": "cp4",
}


@dataclass(frozen=True, eq=False)
class Product:
    """A chain multiplied out: how far its weight is from the layer's, or why that cannot be said, and its bias."""

    relative_error: float | None
    reason: str | None = None
    bias: FloatArray | None = None


def factored(stages: Sequence[Stage], keys: Sequence[str], shared: Sequence[str], product: Product | None) -> Factored:
    """Return what a chain is, whose layers have these keys; without a product no file holds the weights."""
    ternary = [] if product is None else [k for k, stage in zip(keys, stages, strict=True) if _is_ternary(stage)]
    return Factored(
        shape=forms.name(stages),
        ranks=forms.ranks(stages),
        relative_error=product.relative_error if product else None,
        reason=product.reason if product else "no file holds the weights",
        ternary=tuple(ternary),
        shared=tuple(shared),
    )


def multiplied(op: Op, stages: Sequence[Stage]) -> Product:
    """Return ||W_chain - W|| / ||W|| in float64; no more than BLOCK weights of the product are held at a time."""
    gap = norm = 0.0
    biases = []
    try:
        with np.errstate(invalid="ignore", over="ignore"):  # Such a sum is not finite, which is told.
            for part, rows in _parts(stages):
                whole, own = collapse(part), op.weight[rows].astype(np.float64)
                norm += float(np.square(own).sum())
                gap += float(np.square(np.subtract(own, whole.weight, out=own)).sum())
                release(op.weight)
                biases += [] if whole.bias is None else [whole.bias]
    except ValueError as error:
        return Product(None, str(error))
    bias = np.concatenate(biases) if biases else None
    if not (norm and math.isfinite(norm) and math.isfinite(gap)):
        return Product(None, "a weight is not finite" if norm else "the layer is zero", bias)
    return Product(math.sqrt(gap / norm), None, bias)


def bias_change(op: Op, product: Product) -> tuple[Reweighed, ...]:
    """Return how the bias of a chain is another than the layer's, if it is; one that is not there is zero."""
    old, new = op.bias, product.bias
    if product.reason or all(bias is None or not bias.any() for bias in (old, new)):
        return ()
    if old is None or new is None:
        return (Reweighed("bias", None if old is None else old.shape, None if new is None else new.shape, None),)
    return () if equal(old, new) else (Reweighed("bias", old.shape, new.shape, relative_error(old, new)),)


def spectra(op: Op, look: str) -> tuple[tuple[float, ...], ...]:
    """Return for each rank of a look the singular values of the layer along it; none where no method tells."""
    method = METHODS.get(_SPECTRA.get(look, ""))
    if method is None or method.refusal(op) or not np.isfinite(op.weight).all():
        return ()
    return tuple(tuple(map(float, values)) for values in method.spectrum(op))


def _parts(stages: Sequence[Stage]) -> Iterator[tuple[Chain, slice]]:
    """Yield chains that give some outputs of the whole each, and which."""
    *inner, last = stages
    assert not isinstance(last, Scale)
    if isinstance(last, Conv2d) and last.groups > 1:
        yield Chain(tuple(stages)), slice(None)
        return
    # What all parts begin with is multiplied once, but for a scale at its end, which no chain may have there.
    stem = tuple(inner) if isinstance(inner[-1], Scale) else (collapse(Chain(tuple(inner)), np.float32),)
    form = forms.composed(stages)
    row = stages[0].in_channels * math.prod(form.kernel if form else ())
    rows = max(1, BLOCK // row)
    for start in range(0, last.out_channels, rows):
        some = slice(start, start + rows)
        bias = None if last.bias is None else last.bias[some]
        yield Chain((*stem, replace(last, weight=last.weight[some], bias=bias))), some


def _is_ternary(stage: Stage) -> bool:
    """Return whether a layer holds -1, 0 and 1 alone."""
    if isinstance(stage, Scale):
        return False
    return all(bool(((block == 0) | (np.abs(block) == 1)).all()) for block in blocks(stage.weight))
