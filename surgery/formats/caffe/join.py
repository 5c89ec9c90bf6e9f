"""Join a prototxt and its weights as Caffe does (`Net::CopyTrainedLayersFrom`): by name, each blob's shape checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from surgery.errors import ModelError
from surgery.formats.caffe import meaning
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.weights import Weights


def check(
    layers: Sequence[Layer],
    stored: Weights | None,
    expected: Mapping[int, tuple[Shape, ...] | None],
    prototxt: Path | str,
) -> None:
    """Raise ModelError for the first entry of the weights that Caffe would refuse to load into its layer.

    `expected` holds the blob shapes of each layer, by id, where the network's input shapes tell them. Layers without
    an entry and entries without a layer are no error: Caffe ignores them too (see lint).
    """
    if stored is None:
        return
    first = {layer.name: layer for layer in reversed(layers)}
    for index, entry in enumerate(stored.layers):
        layer = first.get(entry.name)
        if layer is None:
            continue
        wanted: Sequence[tuple[int | None, ...]] | None = expected[id(layer)]
        if wanted is None:
            wanted = meaning.stated_shapes(layer, entry.shapes)
        if wanted is not None:
            _check_entry(stored, index, layer, wanted, prototxt)
        check_counts(stored, index)


def _check_entry(
    stored: Weights, index: int, layer: Layer, wanted: Sequence[tuple[int | None, ...]], prototxt: Path | str
) -> None:
    shapes = stored.layers[index].shapes
    if len(shapes) != len(wanted):
        raise ModelError(
            f"{layer.name}: {stored.path} has {len(shapes)} blobs for it, {prototxt} makes {len(wanted)}; "
            "the two files do not belong together"
        )
    legacy = stored.is_legacy(index)
    for i, (have, want) in enumerate(zip(shapes, wanted, strict=True)):
        if not meaning.fits(have, want, legacy=legacy):
            raise ModelError(
                f"{layer.name}: blob {i} has shape {_shown(have)} in {stored.path}, but {prototxt} makes it "
                f"{_shown(want)}; the two files do not belong together"
            )


def check_counts(stored: Weights, index: int) -> None:
    """Raise ModelError for a blob of an entry that holds another count of numbers than its shape says."""
    for i, (blob, count) in enumerate(stored.counts(index)):
        if math.prod(blob) != count or any(n < 0 for n in blob):
            raise ModelError(
                f"{stored.layers[index].name}: blob {i} in {stored.path} says shape {_shown(blob)} but holds "
                f"{count} numbers; the file is damaged"
            )


def _shown(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("?" if n is None else str(n) for n in shape) + ")"
