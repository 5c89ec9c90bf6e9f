"""Nodes that scale and shift each channel by constants: BatchNormalization, and arithmetic with one constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.formats.onnx.constants import FLOATS, constant, integers
from surgery.formats.onnx.graph import Graph, OnnxNode
from surgery.formats.onnx.net import OnnxNet
from surgery.formats.onnx.parameters import real
from surgery.model import PerChannel
from surgery.ops.scale import Scale

if TYPE_CHECKING:
    from numpy.typing import NDArray

_VIEWS = ("Identity", "Reshape", "Squeeze", "Unsqueeze")
MAX_CHANNELS = 2**24  # Several times what the largest known networks have.
BROADCAST = 7  # Below this opset, arithmetic lines up axes by attributes.
# What a constant c does to x: (factor, shift); second where it is the first input.
_WITH: dict[str, tuple[Callable[[Any], Scale], Callable[[Any], Scale] | None]] = {
    "Add": (lambda c: Scale.of(shift=c), lambda c: Scale.of(shift=c)),
    "Div": (lambda c: Scale.of(1 / c), None),
    "Mul": (lambda c: Scale.of(c), lambda c: Scale.of(c)),
    "Sub": (lambda c: Scale.of(shift=-c), lambda c: Scale.of(-1.0, c)),
}


def known(graph: Graph, name: str) -> NDArray[Any] | None:
    """Return a float tensor that is known before the network runs, views of one included, as float64; else None."""
    views = list[OnnxNode]()
    while (maker := graph.makers.get(name)) is not None and maker.op_type in _VIEWS and not maker.domain:
        if not maker.inputs:
            return None
        views.append(maker)
        name = maker.inputs[0]
    found = constant(graph, name)
    if found is None or found.data_type not in FLOATS or found.size > MAX_CHANNELS:
        return None
    array: NDArray[Any] | None = found.array().astype(np.float64)
    for view in reversed(views):
        array = None if array is None else _viewed(graph, view, array)
    return array


def _viewed(graph: Graph, node: OnnxNode, inner: NDArray[Any]) -> NDArray[Any] | None:
    """Return a view of a tensor, None where it is not known which; raises ValueError where there is none."""
    if node.op_type == "Identity":
        return inner
    listed = node.attributes.get("axes", node.attributes.get("shape"))
    sizes = listed if isinstance(listed, tuple) else integers(graph, node.inputs[1]) if len(node.inputs) > 1 else None
    if sizes is None:
        return None
    numbers = tuple(size for size in sizes if isinstance(size, int))
    if node.op_type == "Reshape":
        return None if 0 in numbers else inner.reshape(numbers)
    return np.expand_dims(inner, numbers) if node.op_type == "Unsqueeze" else np.squeeze(inner, numbers)


def scale(net: OnnxNet, node: OnnxNode) -> PerChannel | str | None:
    """Return how a node scales each channel, why it does not, or None for one that is no candidate."""
    is_candidate = node.op_type == "BatchNormalization" or node.op_type in _WITH
    if node.domain or not is_candidate or not (node.outputs and node.outputs[0]):
        return None
    try:
        found = _normalization(net, node) if node.op_type == "BatchNormalization" else _arithmetic(net, node)
    except ValueError as error:  # Of NumPy, for views and shapes that do not fit, too: a runtime would refuse them.
        return str(error)
    if isinstance(found, PerChannel):
        name = node.inputs[found.input]
        hidden = next((user for user in net.graph.users.get(name, ()) if name not in user.inputs), None)
        return f"its input '{name}' is read inside {hidden.label}" if hidden else found
    return found


def _normalization(net: OnnxNet, node: OnnxNode) -> PerChannel | str:
    if len(node.inputs) != 5:
        return f"has {len(node.inputs)} inputs; expected 5"
    if node.attributes.get("training_mode", 0) or sum(map(bool, node.outputs)) > 1:
        return "normalises by each batch's own statistics"
    if net.graph.opset < BROADCAST and not node.attributes.get("is_test", 0):
        return "does not say is_test, and so normalises by each batch's own statistics"
    if not node.attributes.get("spatial", 1):
        return "has statistics for every pixel (spatial 0)"
    arrays = [known(net.graph, name) for name in node.inputs[1:]]
    if any(array is None for array in arrays):
        return "its statistics or factors are not known before the network runs"
    factor, shift, mean, variance = (array for array in arrays if array is not None)
    normal = Scale.normalising(mean, variance, real(node, "epsilon", 1e-5))
    return PerChannel(normal.then(Scale.of(factor, shift)))


def _arithmetic(net: OnnxNet, node: OnnxNode) -> PerChannel | str | None:
    if len(node.inputs) != 2:
        return None
    arrays = [known(net.graph, name) for name in node.inputs]
    slots = [slot for slot, array in enumerate(arrays) if array is None]
    if len(slots) != 1:
        return None  # Of two tensors, or of two constants.
    (slot,) = slots
    array, meaning = arrays[1 - slot], _WITH[node.op_type][slot]
    if meaning is None or array is None:
        return "divides by its input"
    if net.graph.opset < BROADCAST and array.size > 1:
        return _by_attributes(node, slot, array, meaning)
    shape = net.file.inferred[0].get(node.inputs[slot])
    numbers = _per_channel(array, None if shape is None else len(shape))
    if numbers is None:
        return f"its constant of shape {array.shape} is not one number per channel, or its input's shape is not known"
    with np.errstate(divide="ignore"):
        return PerChannel(meaning(numbers), slot)


def _by_attributes(node: OnnxNode, slot: int, array: NDArray[Any], meaning: Callable[[Any], Scale]) -> PerChannel | str:
    """Read the arithmetic of opset 6 and below, whose `axis` says where the constant's axes lie."""
    if slot == 0 and node.attributes.get("broadcast", 0) and node.attributes.get("axis") == 1 and array.ndim == 1:
        return PerChannel(meaning(array), slot)
    return "its constant is not said to lie along axis 1 (broadcast, axis)"


def _per_channel(array: NDArray[Any], axes: int | None) -> NDArray[Any] | None:
    """Return a constant as one number for each channel or for all, None where it is neither or adds an axis."""
    if array.size == 1 and (array.ndim <= 1 or (axes is not None and array.ndim <= axes)):
        return array.reshape(1)
    if axes is None or array.ndim > axes or axes < 2:
        return None
    shape = (1,) * (axes - array.ndim) + array.shape
    return array.reshape(-1) if array.size == shape[1] else None
