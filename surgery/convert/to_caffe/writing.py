"""The converted network: its prototxt, its weights, and where ONNX's tensors are in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from surgery.convert.to_caffe.layers import Layer, Param
from surgery.convert.to_caffe.values import Permutation
from surgery.errors import ModelError
from surgery.formats.caffe import binary
from surgery.formats.caffe.schema import quote, spell_float
from surgery.formats.caffe.targets import TARGETS

_BLOCKS = {
    "ArgMax": "argmax_param",
    "BatchNorm": "batch_norm_param",
    "Bias": "bias_param",
    "Concat": "concat_param",
    "Convolution": "convolution_param",
    "Deconvolution": "convolution_param",
    "Dropout": "dropout_param",
    "ELU": "elu_param",
    "Eltwise": "eltwise_param",
    "Embed": "embed_param",
    "Exp": "exp_param",
    "InnerProduct": "inner_product_param",
    "Input": "input_param",
    "LRN": "lrn_param",
    "MVN": "mvn_param",
    "Parameter": "parameter_param",
    "Pooling": "pooling_param",
    "Power": "power_param",
    "ReLU": "relu_param",
    "Reduction": "reduction_param",
    "Reshape": "reshape_param",
    "Scale": "scale_param",
    "Slice": "slice_param",
    "Softmax": "softmax_param",
    "Threshold": "threshold_param",
    "Tile": "tile_param",
}


@dataclass(frozen=True, eq=False)
class ToCaffe:
    """A Caffe network that computes what an ONNX graph computes.

    `tensors` names, for ONNX tensors, the blob that holds the same numbers in the same shape. `inputs` are the orders
    of axes of inputs that Caffe takes transposed: Caffe's input is ONNX's with its axes in that order.
    """

    name: str
    layers: tuple[Layer, ...]
    tensors: Mapping[str, str]
    inputs: Mapping[str, Permutation]

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever feeds the network, and whoever runs it, must know."""
        inputs = (
            f"input '{name}' is fed with its axes in the order {', '.join(map(str, order))}: the transpose of the "
            "exporter is folded away"
            for name, order in self.inputs.items()
        )
        types = {layer.type for layer in self.layers} - TARGETS["caffe-1.0"].types
        foreign = (
            f"layer '{layer.name}' ({layer.type}) is back as it was in the Caffe network; stock Caffe 1.0 has no such "
            f"layer, {_runtimes(layer.type)}"
            for layer in self.layers
            if layer.type in types
        )
        return (*inputs, *foreign)

    def prototxt(self) -> str:
        """Return the network's definition."""
        lines = [f"name: {quote(self.name)}"] if self.name else []
        for layer in self.layers:
            lines += ["layer {", *("  " + line for line in _lines(layer)), "}"]
        return "\n".join(lines) + "\n"

    def save(self, folder: Path, stem: str) -> tuple[Path, ...]:
        """Write `<stem>.prototxt` and `<stem>.caffemodel`, weights streamed; raises ModelError above 2 GiB."""
        definition, weights = folder / f"{stem}.prototxt", folder / f"{stem}.caffemodel"
        size = sum(4 * blob.size for layer in self.layers for blob in layer.blobs)
        if size > binary.MAX_BYTES:
            raise ModelError(
                f"{self.name}: its weights take {size} bytes; one caffemodel holds at most {binary.MAX_BYTES} "
                "(protobuf's limit): cut it smaller first"
            )
        new = [
            binary.NewLayer(
                layer.name, binary.head(layer.name, layer.type, layer.bottoms, layer.tops, 2), 2, layer.blobs
            )
            for layer in self.layers
            if layer.blobs
        ]
        empty = binary.Caffemodel(weights, b"", ())
        binary.write(empty, [binary.Replacement(0, 0, new)], weights)
        definition.write_text(self.prototxt(), encoding="utf-8", errors="surrogateescape", newline="")
        return definition, weights


def _runtimes(kind: str) -> str:
    """Return which runtimes have a type."""
    found = [name for name, target in TARGETS.items() if kind in target.types]
    verb = "has" if len(found) == 1 else "have"
    return f"{' and '.join(found)} {verb} it" if found else "nor has another runtime that is known here"


def _lines(layer: Layer) -> Iterator[str]:
    yield f"name: {quote(layer.name)}"
    yield f"type: {quote(layer.type)}"
    yield from (f"bottom: {quote(bottom)}" for bottom in layer.bottoms)
    yield from (f"top: {quote(top)}" for top in layer.tops)
    if layer.params:
        yield f"{_BLOCKS[layer.type]} {{"
        for key, value in layer.params.items():
            yield from ("  " + line for line in _field(key, value))
        yield "}"
    yield from layer.text


def _field(key: str, value: Param) -> Iterator[str]:
    if isinstance(value, Mapping):
        inner = (line for name, numbers in value.items() for line in _field(name, numbers))
        yield " ".join([f"{key} {{", *inner, "}"])
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield from (f"{key}: {number}" for number in value)
    elif isinstance(value, bool):
        yield f"{key}: {'true' if value else 'false'}"
    elif isinstance(value, float):
        yield f"{key}: {spell_float(value)}"
    else:
        yield f"{key}: {value}"
