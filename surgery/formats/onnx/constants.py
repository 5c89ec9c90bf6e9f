"""Tensors that are known before the network runs: initializers, Constant, ConstantOfShape, and other views of these."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.errors import ModelError
from surgery.formats.onnx.attribute import Attribute
from surgery.formats.onnx.graph import Graph, OnnxNode, Tensor
from surgery.model import Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOAT = 1
FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
MAX_VIEWS = 64  # behind one another, each of which is followed from every one behind it
MAX_SIZES = 64  # numbers in a shape, or axes


@dataclass(frozen=True, eq=False)
class View:
    """A node that only sees a tensor in another shape; `perm` is that of a Transpose."""

    node: OnnxNode
    shape: Shape
    perm: Shape | None


@dataclass(frozen=True, eq=False)
class Constant:
    """A known tensor: `root` is what holds it, and `views`, in running order, lead from there to the tensor `name`.

    The root is an initializer where `node` is None, else what that node makes. `tensor` holds the numbers; where it is
    None they are one number repeated, of a ConstantOfShape: that of `fill`, or 0 where that is None.
    """

    name: str
    shape: Shape
    data_type: int
    root: str
    root_shape: Shape
    node: OnnxNode | None
    tensor: Tensor | None
    fill: Tensor | None = None
    views: tuple[View, ...] = ()

    @property
    def size(self) -> int:
        """Count of its numbers."""
        return math.prod(self.shape)

    def array(self) -> NDArray[Any]:
        """Return the numbers, read-only; without a copy where `Tensor.array` makes none and no Transpose was undone."""
        import numpy as np

        if self.tensor is not None:
            array = self.tensor.array()
        else:
            one = np.zeros((), np.float32) if self.fill is None else self.fill.array().reshape(())
            array = np.broadcast_to(one, self.root_shape)
        for view in self.views:
            array = array.reshape(view.shape) if view.perm is None else array.transpose(view.perm)
        return array


def constant(graph: Graph, name: str) -> Constant | None:
    """Return the tensor of that name if it is known before the network runs, else None; no weight of it is read.

    Raises ModelError for a shape that no tensor can have.
    """
    makers = []
    root = name
    while (node := graph.makers.get(root)) is not None and node.op_type in _VIEWS and not node.domain and node.inputs:
        makers.append(node)
        root = node.inputs[0]
        if len(makers) > MAX_VIEWS:
            return None
    found = _root(graph, root)
    if found is None:
        return None
    shape, views = found.shape, []
    for node in reversed(makers):
        sizes = _VIEWS[node.op_type](graph, node, shape)
        if sizes is None or math.prod(sizes) != found.size:
            return None
        perm = _permutation(node, shape) if node.op_type == "Transpose" else None
        views.append(View(node, sizes, perm))
        shape = sizes
    return Constant(name, shape, found.data_type, root, found.shape, found.node, found.tensor, found.fill, tuple(views))


def is_constant(graph: Graph, node: OnnxNode) -> bool:
    """Return whether a node only holds or views known numbers."""
    if node.op_type == "Constant" and not node.domain:
        return True
    return any(constant(graph, output) is not None for output in node.outputs)


def integers(graph: Graph, name: str) -> tuple[int, ...] | None:
    """Return the whole numbers of a small root, such as a shape or axes; None where they are not known."""
    tensor = graph.initializers.get(name)
    if tensor is None:
        maker = graph.makers.get(name)
        value = maker.attributes.get("value") if maker and maker.op_type == "Constant" and not maker.domain else None
        tensor = value if isinstance(value, Tensor) else None
    if tensor is None or tensor.size > MAX_SIZES:
        return None
    array = tensor.array()
    return tuple(int(value) for value in array.reshape(-1)) if array.dtype.kind in "iu" else None


def _root(graph: Graph, name: str) -> Constant | None:
    tensor = graph.initializers.get(name)
    if tensor is not None:
        return Constant(name, tensor.shape, tensor.data_type, name, tensor.shape, None, tensor)
    node = graph.makers.get(name)
    if node is None or node.domain:
        return None
    value = node.attributes.get("value")
    if node.op_type == "Constant" and isinstance(value, Tensor):
        return Constant(name, value.shape, value.data_type, name, value.shape, node, value)
    if node.op_type == "ConstantOfShape":
        return _of_shape(graph, node, name)
    return None


def _of_shape(graph: Graph, node: OnnxNode, name: str) -> Constant | None:
    shape = integers(graph, node.inputs[0]) if node.inputs else None
    if shape is None:
        return None
    if any(size < 0 for size in shape):
        raise ModelError(f"{graph.path}: {node.label} is to make a tensor of shape {shape}; expected sizes from 0")
    fill = node.attributes.get("value")
    if fill is not None and not (isinstance(fill, Tensor) and fill.size == 1):
        raise ModelError(f"{graph.path}: {node.label} has a value that is not one number; the file is damaged")
    return Constant(name, shape, fill.data_type if fill else FLOAT, name, shape, node, None, fill)


def _listed(graph: Graph, node: OnnxNode, name: str, index: int) -> tuple[int, ...] | None:
    """Return whole numbers that are an attribute in old opsets and an input in new ones; None where not known."""
    if name in node.attributes:
        return _whole(node.attributes[name])
    return integers(graph, node.inputs[index]) if len(node.inputs) > index else None


def _reshaped(graph: Graph, node: OnnxNode, shape: Shape) -> Shape | None:
    wanted = _listed(graph, node, "shape", 1)
    if wanted is None or wanted.count(-1) > 1 or any(size < -1 for size in wanted):
        return None
    if not node.attributes.get("allowzero", 0):
        if any(size == 0 and i >= len(shape) for i, size in enumerate(wanted)):
            return None
        wanted = tuple(shape[i] if size == 0 else size for i, size in enumerate(wanted))
    known = math.prod(size for size in wanted if size != -1)
    rest = math.prod(shape) // known if known else 0
    return tuple(rest if size == -1 else size for size in wanted)


def _squeezed(graph: Graph, node: OnnxNode, shape: Shape) -> Shape | None:
    has_axes = "axes" in node.attributes or len(node.inputs) > 1
    axes = _listed(graph, node, "axes", 1) if has_axes else tuple(i for i, size in enumerate(shape) if size == 1)
    if axes is None or any(not -len(shape) <= axis < len(shape) for axis in axes):
        return None
    gone = {axis % len(shape) for axis in axes}
    return tuple(size for i, size in enumerate(shape) if i not in gone)


def _unsqueezed(graph: Graph, node: OnnxNode, shape: Shape) -> Shape | None:
    axes = _listed(graph, node, "axes", 1)
    rank = len(shape) + len(axes or ())
    if axes is None or any(not -rank <= axis < rank for axis in axes):
        return None
    new = {axis % rank for axis in axes}
    if len(new) != len(axes):
        return None
    rest = iter(shape)
    return tuple(1 if i in new else next(rest) for i in range(rank))


def _flattened(graph: Graph, node: OnnxNode, shape: Shape) -> Shape | None:
    axis = node.attributes.get("axis", 1)
    if not isinstance(axis, int) or not -len(shape) <= axis <= len(shape):
        return None
    front = axis % len(shape) if axis < 0 else axis
    return math.prod(shape[:front]), math.prod(shape[front:])


def _transposed(graph: Graph, node: OnnxNode, shape: Shape) -> Shape | None:
    perm = _permutation(node, shape)
    return None if perm is None else tuple(shape[axis] for axis in perm)


def _permutation(node: OnnxNode, shape: Shape) -> Shape | None:
    if "perm" not in node.attributes:
        return tuple(reversed(range(len(shape))))
    perm = _whole(node.attributes["perm"])
    return perm if perm is not None and sorted(perm) == list(range(len(shape))) else None


def _whole(value: Attribute) -> tuple[int, ...] | None:
    numbers = value if isinstance(value, tuple) else ()
    whole = tuple(number for number in numbers if isinstance(number, int))
    return whole if isinstance(value, tuple) and len(whole) == len(numbers) else None


_VIEWS: Mapping[str, Callable[[Graph, OnnxNode, Shape], Shape | None]] = {
    "Flatten": _flattened,
    "Identity": lambda graph, node, shape: shape,
    "Reshape": _reshaped,
    "Squeeze": _squeezed,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
}
