"""What an ONNX file says of Caffe layers that became operators in which nothing could recognise them.

The record of such a layer lets ONNX -> Caffe put it back, as long as its operators are as they were written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from surgery.formats.caffe.edit import flat
from surgery.formats.caffe.network import Layer
from surgery.formats.caffe.schema import quote
from surgery.formats.onnx import encode
from surgery.formats.wire import encode_bytes

KEY = "surgery_layers"  # in the model's metadata
MAX_TEXT = 1 << 22  # characters of all records; ten thousand layers take that

# Types without weights that become several operators which are no layers of stock Caffe one by one, or one such.
_ONE_WAY = frozenset(
    {
        *("Accuracy", "BatchReindex", "ContrastiveLoss", "DetectionOutput", "Filter", "HingeLoss", "InfogainLoss"),
        *("MultinomialLogisticLoss", "PSROIPooling", "ROIPooling", "SigmoidCrossEntropyLoss", "SoftmaxWithLoss"),
    }
)
# Fields of a layer that are links, rules or about weights, and so not what it computes.
_OTHER = frozenset(
    {
        *("name", "type", "bottom", "top", "include", "exclude", "propagate_down"),
        *("param", "blobs", "blobs_lr", "weight_decay", "blob_share_mode"),
    }
)


class Linked(Protocol):
    """A node: the tensors that it reads and those that it makes."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names, "" for an optional one left out."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names, "" for an optional one left out."""


@dataclass(frozen=True)
class Record:
    """A layer in V2's spelling whose bottoms and tops are ONNX tensors, and the nodes it became.

    `shapes` are its bottoms', with symbols where the file has them. The nodes are `nodes` in a row; the last makes the
    last of the tops. `sha256` is the `digest` of them and of their constants.
    """

    layer: str
    shapes: tuple[tuple[encode.Dim, ...], ...]
    nodes: int
    sha256: str


def is_one_way(layer: Layer) -> bool:
    """Return whether a layer is one of those that need a record."""
    # A mask of places, and what un-pools by it, count places as no other layer does.
    with_mask = (layer.type, len(layer.bottoms), len(layer.tops)) in (("Pooling", 1, 2), ("Upsample", 2, 1))
    return layer.type in _ONE_WAY or with_mask


def spelled(layer: Layer, bottoms: Iterable[str], tops: Iterable[str]) -> str:
    """Return a layer in V2's spelling with other links."""
    lines = [f"name: {quote(layer.name)}", f"type: {quote(layer.type)}"]
    lines += [f"bottom: {quote(name)}" for name in bottoms] + [f"top: {quote(name)}" for name in tops]
    return " ".join(["layer {", *lines, *parameters(layer), "}"])


def parameters(layer: Layer) -> tuple[str, ...]:
    """Return what a layer states beside links, rules and weights, a line for each field."""
    return tuple(flat(layer.message.document, field) for field in layer.message.fields if field.name not in _OTHER)


def constants(nodes: Sequence[Linked], bottoms: Collection[str]) -> tuple[str, ...]:
    """Return what nodes read beside the bottoms and what they make, in order of first use."""
    made = {name for node in nodes for name in node.outputs}
    return tuple(
        dict.fromkeys(name for node in nodes for name in node.inputs if name and name not in made | {*bottoms})
    )


def digest(nodes: Iterable[bytes], tensors: Iterable[tuple[str, NDArray[Any]]]) -> str:
    """Return the SHA-256 of NodeProtos and of constants by name, nothing else of the model."""
    found = hashlib.sha256()
    for node in nodes:
        found.update(encode_bytes(1, node))
    for name, array in tensors:
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        head = encode.tensor_head(name, array.shape, encode.DATA_TYPES[array.dtype.name])
        found.update(encode_bytes(5, head))
        found.update(little.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def dump(records: Iterable[Record]) -> str:
    """Return records as the metadata's text."""
    return json.dumps([asdict(record) for record in records])


def load(text: str) -> tuple[Record, ...]:
    """Return the records of a metadata's text; none where it is not what `dump` writes."""
    try:
        found = json.loads(text) if len(text) <= MAX_TEXT else []
        return tuple(map(_record, found)) if isinstance(found, list) else ()
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return ()


def _record(found: dict[str, Any]) -> Record:
    shapes = tuple(tuple(size if isinstance(size, (int, str)) else None for size in shape) for shape in found["shapes"])
    return Record(str(found["layer"]), shapes, int(found["nodes"]), str(found["sha256"]))
