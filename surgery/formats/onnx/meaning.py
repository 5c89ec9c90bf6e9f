"""What an ONNX node computes: `Conv2d` or `Linear` with its weights, or the reason why it is neither."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from surgery.formats.onnx.constants import FLOATS, Constant, constant
from surgery.formats.onnx.graph import Graph, OnnxNode
from surgery.formats.onnx.parameters import SAME, Pads, auto_pad, conv_pads, pair, real
from surgery.formats.onnx.source import shown
from surgery.formats.onnx.tensor import type_name
from surgery.model import Shape

if TYPE_CHECKING:
    from surgery.ops import FloatArray, Op

QUANTIZED = frozenset(
    ("ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulNBits", "QGemm", "QLinearConv", "QLinearMatMul")
)
MAX_COUNT = 2**31 - 1  # numbers in one tensor of weights: a ConstantOfShape can tell of any
READABLE = ("float32", "float64")

InputShape = Callable[[str], Shape | None]  # of a tensor, None where it is not known


@dataclass(frozen=True, eq=False)
class Lifted:
    """An operation and how the node stores it.

    `weight` is the tensor behind `op.weight`, transposed where `is_transposed`; the operation's weight is `alpha` times
    it. `addend` names the input that is added, "" without; `op.bias` is None where that is not one number per channel
    known beforehand, and then it stays as it is. `pads` are the two ends of each axis, of a convolution.
    """

    op: Op
    weight: Constant
    addend: str = ""
    is_transposed: bool = False
    alpha: float = 1.0
    pads: Pads | None = None


def lifted(graph: Graph, node: OnnxNode, shape_of: InputShape) -> Lifted | str:
    """Return what a node computes, or why it cannot be cut."""
    reason = _refusal(node)
    if reason:
        return reason
    weight = constant(graph, node.inputs[1])
    if weight is None:
        return _why_unknown(graph, node)
    reason = weight_refusal(graph, node, weight)
    if reason:
        return reason
    try:
        return _TYPES[node.op_type](graph, node, weight, shape_of)
    except ValueError as error:  # A runtime would refuse it as well: a stride of 0, groups that do not divide.
        return str(error)


def _refusal(node: OnnxNode) -> str | None:
    if node.op_type in QUANTIZED:
        return f"is quantised ({node.op_type}): its weights are whole numbers, which no factors keep"
    if node.domain:
        return f"an operator of '{shown(node.domain)}', not of ONNX itself"
    if node.op_type not in _TYPES:
        return "not a convolution or fully connected layer"
    if len(node.inputs) < 2 or not all(node.inputs[:2]) or len(node.outputs) != 1:
        return f"has {len(node.inputs)} inputs and {len(node.outputs)} outputs; expected two or three, and one"
    return None


def _why_unknown(graph: Graph, node: OnnxNode) -> str:
    """Return why the second input is not known before the network runs."""
    if constant(graph, node.inputs[0]) is not None:
        return "its weights are its first input, expected the second"
    maker = graph.makers.get(node.inputs[1])
    if maker is None:
        return f"its weights are the input '{shown(node.inputs[1])}', which is fed"
    if maker.op_type.endswith("DequantizeLinear"):
        return f"is quantised: its weights come from {maker.label}"
    return f"its weights are computed while it runs, by {maker.label}"


def weight_refusal(graph: Graph, node: OnnxNode, weight: Constant) -> str | None:
    """Return why a node's weights cannot be changed, or None."""
    kind = FLOATS.get(weight.data_type, "")
    if weight.size > MAX_COUNT:
        return f"its weights are {weight.size} numbers; at most {MAX_COUNT} are taken for real"
    if weight.name in graph.quantized:
        return "is quantised: the file has a quantization_annotation for its weights"
    if kind not in READABLE:
        return f"its weights are {kind or type_name(weight.data_type)}; expected float32 or float64"
    if node.inputs.count(weight.name) > 1:
        return "its weights are two of its inputs"
    others = [user for user in graph.users[weight.name] if user is not node]
    if others:
        return f"its weights are shared with {others[0].label}"
    if any(info.name == weight.name for info in graph.outputs):
        return "its weights are an output of the network"
    return None


def _conv(graph: Graph, node: OnnxNode, weight: Constant, shape_of: InputShape) -> Lifted | str:
    from surgery.ops import Conv2d

    if len(weight.shape) != 4:
        return f"a convolution over {len(weight.shape) - 2} spatial axes, not 2"
    kernel, groups = weight.shape[2:], node.attributes.get("group", 1)
    if not isinstance(groups, int) or node.attributes.get("kernel_shape", kernel) != kernel:
        return f"its kernel_shape is {node.attributes.get('kernel_shape')}, its weights' shape {weight.shape}"
    pads = conv_pads(node, kernel, shape_of(node.inputs[0]) if auto_pad(node) in SAME else None)
    if isinstance(pads, str):
        return pads
    for (begin, end), taps in zip(pads, kernel, strict=True):
        if begin != end and taps == 1:
            return f"pads an axis on which its kernel has one tap by {begin} and {end}"
    addend = node.inputs[2] if len(node.inputs) > 2 else ""
    # Of ends that differ the smaller counts; the nodes that are written get both (see `spelling`).
    padding = (min(pads[0]), min(pads[1]))
    bias = _bias(graph, addend, weight, {(weight.shape[0],)})
    stride, dilation = pair(node, "strides"), pair(node, "dilations")
    op = Conv2d(weight.array(), bias, stride, padding, dilation, groups)
    return Lifted(op, weight, addend, pads=pads)


def _gemm(graph: Graph, node: OnnxNode, weight: Constant, shape_of: InputShape) -> Lifted | str:
    from surgery.ops import Linear

    if len(weight.shape) != 2:
        return f"its weights have {len(weight.shape)} axes, expected 2"
    alpha, beta = real(node, "alpha", 1.0), real(node, "beta", 1.0)
    if node.attributes.get("transA", 0) and graph.opset < 11:
        return "its input is transposed (transA), which needs opset 11 to be cut"  # Gemm without C came then.
    if not alpha:
        return "multiplies its weights by 0 (alpha)"
    is_transposed = not node.attributes.get("transB", 0)
    stored = weight.array()
    matrix = stored.T if is_transposed else stored
    addend = node.inputs[2] if len(node.inputs) > 2 else ""
    bias = _bias(graph, addend, weight, {(len(matrix),), (1, len(matrix))})
    op = Linear(_times(matrix, alpha), None if bias is None else _times(bias.reshape(-1), beta))
    return Lifted(op, weight, addend, is_transposed, alpha)


def _matmul(graph: Graph, node: OnnxNode, weight: Constant, shape_of: InputShape) -> Lifted | str:
    from surgery.ops import Linear

    if len(weight.shape) != 2:
        return f"its weights have {len(weight.shape)} axes, expected 2"
    return Lifted(Linear(weight.array().T), weight, is_transposed=True)


def _times(array: FloatArray, factor: float) -> FloatArray:
    """Return the product; for the factor 1 the array itself, a view of the file. One number repeated stays that."""
    if factor == 1.0:
        return array
    with np.errstate(over="ignore"):  # What is infinite then is refused when it is to be factored.
        if array.size and not any(array.strides):
            return np.broadcast_to(array.reshape(-1)[:1] * array.dtype.type(factor), array.shape)
        return array * array.dtype.type(factor)


def _bias(graph: Graph, name: str, weight: Constant, shapes: set[Shape]) -> FloatArray | None:
    """Return what is added to each channel where it is known beforehand and has one of these shapes."""
    found = constant(graph, name) if name else None
    if found is None or found.shape not in shapes or found.data_type != weight.data_type:
        return None
    return found.array()


def reweighed(old: Lifted, op: Op) -> FloatArray:
    """Return the numbers of `op.weight` laid out as the node stores them."""
    weight = op.weight.T if old.is_transposed else op.weight
    return _times(weight, 1.0 / old.alpha) if old.alpha != 1.0 else weight


_TYPES: dict[str, Callable[[Graph, OnnxNode, Constant, InputShape], Lifted | str]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
