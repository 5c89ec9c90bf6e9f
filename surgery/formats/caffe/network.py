"""The layers of a prototxt as Caffe lists them: one view for the V0, V1 and V2 spellings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from surgery.errors import ModelError
from surgery.formats.caffe.schema_table import ENUMS
from surgery.formats.caffe.text import Document, Field, Message

Shape = tuple[int, ...]

MAX_LAYERS = 20_000  # ten times the largest known network; keeps what is made of each bounded

# V1 enum value -> V2 type name (BVLC upgrade_proto.cpp, UpgradeV1LayerType).
V1_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DECONVOLUTION": "Deconvolution",
    "DATA": "Data",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "ELTWISE": "Eltwise",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "SLICE": "Slice",
    "TANH": "TanH",
    "WINDOW_DATA": "WindowData",
    "THRESHOLD": "Threshold",
}
V1_NUMBERS = {number: name for name, number in ENUMS["V1LayerParameter.LayerType"].items()}

# V0 type string -> V2 type name (BVLC upgrade_proto.cpp, UpgradeV0LayerType); "padding" is no layer of its own.
V0_TYPES = {
    "accuracy": "Accuracy",
    "bnll": "BNLL",
    "concat": "Concat",
    "conv": "Convolution",
    "data": "Data",
    "dropout": "Dropout",
    "euclidean_loss": "EuclideanLoss",
    "flatten": "Flatten",
    "hdf5_data": "HDF5Data",
    "hdf5_output": "HDF5Output",
    "im2col": "Im2col",
    "images": "ImageData",
    "infogain_loss": "InfogainLoss",
    "innerproduct": "InnerProduct",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MultinomialLogisticLoss",
    "pool": "Pooling",
    "relu": "ReLU",
    "sigmoid": "Sigmoid",
    "softmax": "Softmax",
    "softmax_loss": "SoftmaxWithLoss",
    "split": "Split",
    "tanh": "TanH",
    "window_data": "WindowData",
}


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a prototxt.

    `type` is always V2's spelling; a V1 enum nobody knows is `V1:<as written>`. `generation` is 0
    (`layers { layer {} }`), 1 (`layers {}`) or 2 (`layer {}`). `message` holds the layer's own fields, for V0 those
    of the inner `layer {}`.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    generation: int
    field: Field
    message: Message

    @cached_property
    def param_names(self) -> tuple[str, ...]:
        """Names under which the layer's blobs are shared, "" where a blob is its own (V2 `param.name`, V1 `param`)."""
        if self.generation == 2:
            return tuple(param.str("name") for param in self.message.messages("param"))
        return tuple(self.message.strs("param")) if self.generation == 1 else ()


def layers(document: Document) -> tuple[Layer, ...]:
    """Return all layers of the file in order, whatever their phase.

    Raises ModelError when the file is no network: no layer and no input. A file with both `layer` and `layers`, which
    Caffe refuses, gives the V2 layers first (see `is_mixed`).
    """
    net = document.message("NetParameter")
    if len(net.named("layer")) + len(net.named("layers")) > MAX_LAYERS:
        raise ModelError(f"{document.path}: more than {MAX_LAYERS} layers; no network has that many")
    found = [_v2(m, f) for m, f in zip(net.messages("layer"), net.named("layer"), strict=True)]
    found += [_v1(m, f) for m, f in zip(net.messages("layers"), net.named("layers"), strict=True)]
    check_network(document)
    return tuple(found)


def check_network(document: Document) -> None:
    """Raise ModelError for a text that is no network: it has no layer and no input."""
    if not any(field.name in ("layer", "layers", "input") for field in document.fields):
        raise ModelError(f"{document.path}: is not a network: no layer, no input")


def is_mixed(document: Document) -> bool:
    """Return whether the file has both `layer` and `layers`; Caffe refuses to upgrade such a file."""
    net = document.message("NetParameter")
    return net.has("layer") and net.has("layers")


def _v2(message: Message, field: Field) -> Layer:
    return Layer(
        name=message.str("name"),
        type=message.str("type"),
        bottoms=tuple(message.strs("bottom")),
        tops=tuple(message.strs("top")),
        generation=2,
        field=field,
        message=message,
    )


def _v1(message: Message, field: Field) -> Layer:
    bottoms, tops = tuple(message.strs("bottom")), tuple(message.strs("top"))
    if message.has("layer"):
        inner = message.message("layer")
        kind = inner.str("type")
        return Layer(inner.str("name"), V0_TYPES.get(kind, kind), bottoms, tops, 0, field, inner)
    kind = message.str("type")
    return Layer(message.str("name"), V1_TYPES.get(kind, f"V1:{kind}"), bottoms, tops, 1, field, message)


def inputs(document: Document) -> dict[str, Shape | None]:
    """Return the network's `input:` blobs with their shapes, None where the file states none.

    Raises ModelError when the number of dimensions does not fit the number of inputs (Caffe reads past the array).
    """
    net = document.message("NetParameter")
    names = net.strs("input")
    if not names:
        return {}  # Caffe ignores stray shapes.
    shapes = [tuple(shape.ints("dim")) for shape in net.messages("input_shape")]
    dims = net.ints("input_dim")
    if shapes:
        if len(shapes) != len(names):
            raise ModelError(f"{document.path}: {len(names)} `input` but {len(shapes)} `input_shape`; give one each")
        return dict(zip(names, shapes, strict=True))
    if dims:
        if len(dims) != 4 * len(names):
            raise ModelError(
                f"{document.path}: {len(names)} `input` need {4 * len(names)} `input_dim`, found {len(dims)}"
            )
        return {name: tuple(dims[4 * i : 4 * i + 4]) for i, name in enumerate(names)}
    return dict.fromkeys(names)


def input_names(document: Document) -> list[str]:
    """Return the names of the `input:` blobs."""
    return document.message("NetParameter").strs("input")
