"""A model as a list of ONNX operators, and which of their constants are which blobs of its files."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from surgery.convert.to_onnx import Conversion, to_onnx
from surgery.errors import ConversionError, ModelError
from surgery.formats.caffe.net import CaffeNet
from surgery.formats.onnx.constants import constant, integers
from surgery.formats.onnx.graph import Graph, OnnxNode
from surgery.formats.onnx.net import OnnxNet
from surgery.formats.onnx.overwrite import blobs
from surgery.formats.onnx.tensor import Tensor
from surgery.model import Model, Refusal, Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

# Inputs that hold what training changes. Constants elsewhere, as the limits of a Clip, say what the operator does.
WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "Add": (0, 1),
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Div": (0, 1),
    "Gather": (0,),
    "Gemm": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "Mul": (0, 1),
    "PRelu": (1,),
    "Sub": (0, 1),
}
STATISTICS: Mapping[str, tuple[int, ...]] = {"BatchNormalization": (3, 4)}
_OVER_FACTOR = "over factor"  # the only layout that a conversion gives a blob; its shape aside, any other is as it lies
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm")  # whose second input holds weights
_ARITHMETIC = ("Add", "Div", "Mul", "Sub")


@dataclass(frozen=True, eq=False)
class Step:
    """An operator; "" in `inputs` is an optional one left out. Tensors among the attributes are arrays."""

    type: str
    layer: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Blob number `blob` of the layer `key`."""

    key: str
    blob: int

    def __str__(self) -> str:
        return f"{self.key}/{self.blob}"


@dataclass(frozen=True, eq=False)
class Program:
    """The operators in running order.

    Attributes:
        constants: every tensor that is known before it runs, weights included; views of the file where they can be.
        places: constants that training may change -> the blob that they hold. Two may hold one, in different shapes.
        statistics: those of `places` that are the means and variances of BatchNorms.
        scaled: layers whose statistics the file holds times a factor, its blob 2.
        tensors: blob -> the tensor that holds its final value.
        batch: the size of batch that the operators are written for, None where it is any.
        shapes: of the inputs, None where they are not known.
        refused: the layers whose weights may not be changed, and why.
    """

    steps: Sequence[Step]
    constants: Mapping[str, Array]
    places: Mapping[str, Place]
    statistics: frozenset[str]
    scaled: frozenset[str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: Mapping[str, str]
    opset: int
    batch: int | None
    shapes: Mapping[str, Shape | None]
    refused: tuple[Refusal, ...]


def program(model: Model) -> Program:
    """Return a model's program; raises ModelError for unsaved edits, ConversionError where it has no ONNX form."""
    return _of_caffe(model) if isinstance(model.native, CaffeNet) else _of_onnx(model)


def _of_caffe(model: Model) -> Program:
    conversion, batch = _converted(model)
    steps = [Step(op.type, op.layer, op.inputs, op.outputs, op.attributes) for op in conversion.operators]
    held = {name: Place(origin.key, origin.blob) for name, origin in conversion.weights.items()}
    reasons = dict(_caffe_reasons(model.native, steps, held))
    places = {name: place for name, place in held.items() if place.key not in reasons}
    return Program(
        steps=steps,
        constants=conversion.initializers,
        places=places,
        statistics=_read_as(steps, STATISTICS) & places.keys(),
        scaled=frozenset(origin.key for origin in conversion.weights.values() if origin.layout == _OVER_FACTOR),
        inputs=tuple(each.name for each in conversion.inputs),
        outputs=tuple(_blob_of(conversion, each.name) for each in conversion.outputs),
        tensors=conversion.tensors,
        opset=conversion.opset,
        batch=batch,
        shapes={each.name: _whole(each.shape) for each in conversion.inputs},
        refused=_refusals(model, reasons),
    )


def _converted(model: Model) -> tuple[Conversion, int | None]:
    """Return the conversion for any batch, or, where the layers fix it, for the model's own, and then its size."""
    try:
        return to_onnx(model, batch="dynamic"), None
    except ConversionError:
        conversion = to_onnx(model)
    shape = next((each.shape for each in conversion.inputs if each.shape), (1,))
    return conversion, shape[0] if isinstance(shape[0], int) else 1


def _blob_of(conversion: Conversion, tensor: str) -> str:
    return next((blob for blob, name in conversion.tensors.items() if name == tensor), tensor)


def _caffe_reasons(net: CaffeNet, steps: Sequence[Step], held: Mapping[str, Place]) -> Iterator[tuple[str, str]]:
    """Yield the layers, by key, whose blobs training may not change, each with the reason."""
    users: dict[Place, dict[str, None]] = {}
    for step in steps:
        for name in step.inputs:
            if name in held:
                users.setdefault(held[name], {})[step.layer] = None
    for place, layers in users.items():
        for layer in {*layers, place.key}:
            others = [other for other in (*layers, place.key) if other != layer]
            if others:
                yield layer, f"its weights are shared with '{others[0]}'"
        entries = net.entries(place.key)
        if not entries or net.weights is None or len(net.weights.layers[entries[-1]].shapes) <= place.blob:
            yield place.key, "no file of weights holds its blobs"


def _of_onnx(model: Model) -> Program:
    net: OnnxNet = model.native
    if net.cuts or net.reweighed:
        raise ModelError("the model has edits that are not saved; save it and train the files")
    graph = net.graph
    keys = {node: key for key, node in net.file.keys.items()}
    sizes = graph.inputs[0].shape if graph.inputs else None
    batch = sizes[0] if sizes and isinstance(sizes[0], int) else None
    constants = {name: tensor.array() for name, tensor in graph.initializers.items()}
    steps = []
    for node in graph.nodes:
        attributes = {name: _plain(value) for name, value in node.attributes.items()}
        if node.op_type == "Constant" and not node.domain:
            constants[node.outputs[0]] = _constant(graph, node, attributes)
            continue
        kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        step = Step(kind, keys[node], node.inputs, node.outputs, attributes)
        steps.append(_for_any_batch(net, node, step, batch) if kind == "Reshape" and batch is not None else step)
    found, reasons = _onnx_places(graph, keys)
    names = {*graph.makers, *(info.name for info in graph.inputs)}
    return Program(
        steps=steps,
        constants=constants,
        places=found,
        statistics=_roots_read_as(graph, STATISTICS) & found.keys(),
        scaled=frozenset(),
        inputs=tuple(info.name for info in graph.inputs),
        outputs=tuple(info.name for info in graph.outputs),
        tensors={name: name for name in names},
        opset=graph.opset,
        batch=batch,
        shapes={info.name: _whole(info.shape) for info in graph.inputs},
        refused=_refusals(model, reasons),
    )


def _for_any_batch(net: OnnxNet, node: OnnxNode, step: Step, batch: int) -> Step:
    """Return a Reshape that keeps the first axis where, for the batch stated, that axis stays as it is."""
    listed = node.attributes.get("shape")
    sizes = integers(net.graph, node.inputs[1]) if len(node.inputs) > 1 else listed
    if not isinstance(sizes, tuple) or sizes[:1] != (batch,) or node.attributes.get("allowzero", 0):
        return step
    old = net.file.inferred[0].get(node.inputs[0])
    if not old or old[0] != batch or constant(net.graph, node.inputs[0]) is not None:
        return step
    return replace(step, inputs=step.inputs[:1], attributes={"shape": (0, *sizes[1:])})


def _whole(shape: Sequence[int | str | None] | None) -> Shape | None:
    known = tuple(size for size in shape or () if isinstance(size, int))
    return known if shape is not None and len(known) == len(shape) else None


def _onnx_places(graph: Graph, keys: Mapping[OnnxNode, str]) -> tuple[dict[str, Place], dict[str, str]]:
    """Return the weights with their blobs, and the nodes whose weights may not change with the reason."""
    readers: dict[str, list[Place]] = {}
    reasons: dict[str, str] = {}
    roles = {kind: (*inputs, *STATISTICS.get(kind, ())) for kind, inputs in WEIGHTS.items()}
    for node in graph.nodes:
        found = list(blobs(graph, node))
        if node.op_type in _PRODUCTS and not node.domain and all(index != 1 for index, _ in found):
            reasons[keys[node]] = "its weights are computed in the network"
        for blob, (index, held) in enumerate(found):
            if node.domain or index not in roles.get(node.op_type, ()):
                continue
            if node.op_type in _ARITHMETIC and held.size == 1:
                continue  # A factor such as 0.5 is arithmetic.
            if held.tensor is None:
                reasons[keys[node]] = "its weights are one number repeated, which the file does not hold one by one"
            else:
                readers.setdefault(held.root, []).append(Place(keys[node], blob))
    for places in readers.values():
        for place in places:
            others = [other.key for other in places if other != place]
            if others:
                reasons[place.key] = f"its weights are shared with '{others[0]}'"
    return {root: places[0] for root, places in readers.items() if places[0].key not in reasons}, reasons


def _constant(graph: Graph, node: OnnxNode, attributes: Mapping[str, Any]) -> Array:
    import numpy as np

    kinds = {"value_float": "float32", "value_floats": "float32", "value_int": "int64", "value_ints": "int64"}
    for name, value in attributes.items():
        if name == "value":
            return np.asarray(value)
        if name in kinds:
            return np.asarray(value, kinds[name])
    raise ModelError(f"{graph.path}: {node.label} holds no tensor of numbers")


def _plain(value: Any) -> Any:
    return value.array() if isinstance(value, Tensor) else value


def _read_as(steps: Iterable[Step], roles: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """Return the tensors that are read as one of these inputs."""
    return frozenset(step.inputs[i] for step in steps for i in roles.get(step.type, ()) if i < len(step.inputs))


def _roots_read_as(graph: Graph, roles: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """Return what holds the tensors that are read as one of these inputs, through whatever only views them."""
    found = ((node, index, held) for node in graph.nodes for index, held in blobs(graph, node))
    return frozenset(held.root for node, index, held in found if index in roles.get(node.op_type, ()))


def _refusals(model: Model, reasons: Mapping[str, str]) -> tuple[Refusal, ...]:
    return tuple(Refusal(node.key, node.type, reasons[node.key]) for node in model.nodes if node.key in reasons)


def unknown(steps: Iterable[Step], known: Container[str]) -> list[str]:
    """Return the operators that are not known, each with the layers that have it."""
    layers: dict[str, dict[str, None]] = {}
    for step in steps:
        if step.type not in known:
            layers.setdefault(step.type, {})[step.layer] = None
    return [f"{kind} ({', '.join(repr(name) for name in names)})" for kind, names in layers.items()]
