"""The whole of an ONNX graph as Caffe layers, node by node; what has no layers is named, all of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from surgery.convert.records import parameters
from surgery.convert.to_caffe import (
    activation,
    arithmetic,
    constants,
    convolution,
    dense,
    normalization,
    pooling,
    reduction,
    resize,
    structure,
)
from surgery.convert.to_caffe.call import Call
from surgery.convert.to_caffe.layers import MAX_AXES, MAX_NUMBERS, Builder, Layer, permuted
from surgery.convert.to_caffe.layout import folded_inputs, inverse
from surgery.convert.to_caffe.restoring import Group, groups
from surgery.convert.to_caffe.values import Constant, InexpressibleError, Kind, Operand, Padded, Shape, Value, plain
from surgery.errors import ModelError
from surgery.formats.onnx.attribute import Subgraph
from surgery.formats.onnx.graph import Graph, OnnxNode
from surgery.formats.onnx.tensor import type_name

Lowering = Callable[[Call, Builder], list[Operand]]
# What numbers of a damaged file that no check foresaw end in.
_MISFITS = (ValueError, IndexError, ZeroDivisionError, OverflowError)
OLDEST, NEWEST = 7, 28  # operator sets whose meanings the table below knows
FLOAT = 1

_LOWERINGS: Mapping[str, Lowering] = {
    "Abs": activation.layer("AbsVal"),
    "Add": arithmetic.add,
    "ArgMax": reduction.arg_max,
    "AveragePool": pooling.average_pool,
    "BatchNormalization": normalization.batch_normalization,
    "Cast": structure.cast,
    "Celu": activation.celu,
    "Clip": activation.clip,
    "Concat": structure.concat,
    "Conv": convolution.conv,
    "ConvTranspose": convolution.conv_transpose,
    "DepthToSpace": structure.depth_to_space,
    "Div": arithmetic.divide,
    "Dropout": activation.dropout,
    "Elu": activation.elu,
    "Exp": activation.layer("Exp"),
    "Expand": structure.expand,
    "Flatten": structure.reshape,
    "Gather": structure.gather,
    "Gemm": dense.gemm,
    "GlobalAveragePool": pooling.global_pool,
    "GlobalMaxPool": pooling.global_pool,
    "Greater": arithmetic.compare,
    "HardSigmoid": activation.hard_sigmoid,
    "HardSwish": activation.hard_swish,
    "Identity": structure.identity,
    "InstanceNormalization": normalization.instance_normalization,
    "LRN": normalization.lrn,
    "LayerNormalization": normalization.layer_normalization,
    "LeakyRelu": activation.leaky_relu,
    "Less": arithmetic.compare,
    "Log": activation.layer("Log"),
    "LogSoftmax": normalization.log_softmax,
    "LpNormalization": normalization.lp_normalization,
    "MatMul": dense.matmul,
    "Max": arithmetic.extreme,
    "MaxPool": pooling.max_pool,
    "Mean": arithmetic.mean,
    "MeanVarianceNormalization": normalization.mean_variance_normalization,
    "Min": arithmetic.extreme,
    "Mish": activation.mish,
    "Mul": arithmetic.multiply,
    "Neg": activation.power(scale=-1.0),
    "PRelu": activation.prelu,
    "Pad": structure.pad,
    "Pow": arithmetic.power,
    "Reciprocal": activation.power(exponent=-1.0),
    "ReduceL1": reduction.reduce,
    "ReduceL2": reduction.reduce,
    "ReduceMax": reduction.reduce,
    "ReduceMean": reduction.reduce,
    "ReduceMin": reduction.reduce,
    "ReduceSum": reduction.reduce,
    "ReduceSumSquare": reduction.reduce,
    "Relu": activation.layer("ReLU"),
    "Reshape": structure.reshape,
    "Resize": resize.resize,
    "Selu": activation.selu,
    "Shape": structure.shape,
    "Sigmoid": activation.layer("Sigmoid"),
    "Size": structure.size,
    "Slice": structure.slice_,
    "Softmax": reduction.softmax,
    "Softplus": activation.layer("BNLL"),
    "Softsign": activation.softsign,
    "SpaceToDepth": structure.space_to_depth,
    "Split": structure.split,
    "Sqrt": activation.power(exponent=0.5),
    "Squeeze": structure.reshape,
    "Sub": arithmetic.subtract,
    "Sum": arithmetic.add,
    "Swish": activation.swish,
    "Tanh": activation.layer("TanH"),
    "TopK": reduction.top_k,
    "ThresholdedRelu": activation.thresholded_relu,
    "Tile": structure.tile,
    "Transpose": structure.transpose,
    "Unsqueeze": structure.reshape,
    "Upsample": resize.resize,
}
# Operators that pass on integers as they are, those that compute with them and stay exact in float32, and all that
# take them.
_MOVING = {"Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Tile"}
_MOVING |= {"Transpose", "Unsqueeze"}
_EXACT = {"Add", "Mul", "Neg", "Sub"}
_ANY_KIND = _MOVING | {"Cast", "Shape", "Size"}


@dataclass(frozen=True, eq=False)
class Lowered:
    """Layers, where each tensor ended up, how inputs are laid out, what could not be said, and the names in use."""

    layers: tuple[Layer, ...]
    values: Mapping[str, Value]
    folded: Mapping[str, tuple[int, ...]]
    reasons: tuple[str, ...]
    taken: frozenset[str]


@dataclass(eq=False)
class _Lowerer:
    graph: Graph
    inferred: Callable[[], Mapping[str, Shape | None]]
    out: Builder
    known: dict[str, Operand]
    used: frozenset[str]
    names: Sequence[str]
    reasons: list[str]
    room: int  # bytes that computed constants may still take

    def node(self, node: OnnxNode) -> None:
        """Lower a node; where that cannot be, note the reason and go on with what is known of its outputs."""
        if any(name and name not in self.known and name not in self.graph.initializers for name in node.inputs):
            self._unknown(node)  # It hangs on a node whose output's shape is not known: only its type can be judged.
            return
        self.out.begin(self.names[node.index])
        try:
            operands = tuple(self._operand(name) if name else None for name in node.inputs)
            _check(node, operands)
            results = _results(Call(node, operands, self.graph.opset, self.used, self.room), self.out)
        except (InexpressibleError, *_MISFITS) as error:
            reason = error if isinstance(error, InexpressibleError) else f"its inputs do not fit each other ({error})"
            self.out.restart()
            self._refuse(node, str(reason))
            self._assume(node)
            return
        held = [operand.array for operand in operands if isinstance(operand, Constant)]
        self.room -= sum(constants.new_bytes(r.array, held) for r in results if isinstance(r, Constant))
        for name, result in zip(node.outputs, self.out.finish(results, node.outputs), strict=False):
            if name:
                self.known[name] = result

    def group(self, group: Group) -> None:
        """Put a layer back in place of its nodes; where it does not fit what they read, lower them one by one."""
        nodes = self.graph.nodes[group.first : group.last + 1]
        missing = (
            name for name in group.layer.bottoms if name not in self.known and name not in self.graph.initializers
        )
        if next(missing, None) is not None:
            for node in nodes:
                self._assume(node)
            return
        self.out.begin(group.layer.name)
        try:
            tops = self._put_back(group)
        except InexpressibleError:
            self.out.restart()
            for node in nodes:
                self.node(node)
            return
        self.known.update(zip(group.layer.tops, self.out.finish(tops, group.layer.tops), strict=True))

    def _put_back(self, group: Group) -> list[Value]:
        bottoms = [self.out.plain(self._operand(name)) for name in group.layer.bottoms]
        shapes = group.tops([value.shape for value in bottoms])
        return self.out.put_back(group.layer.type, bottoms, shapes, parameters(group.layer))

    def _unknown(self, node: OnnxNode) -> None:
        try:
            _check(node, ())
            _ = _lowering(node)
        except InexpressibleError as reason:
            self._refuse(node, str(reason))
        self._assume(node)

    def _refuse(self, node: OnnxNode, reason: str) -> None:
        kind = f" ({node.op_type})" if node.name else ""  # The label of a node without a name has it.
        self.reasons.append(f"{node.label}{kind}: {reason}")

    def _assume(self, node: OnnxNode) -> None:
        """Go on as if the node had been lowered, where the shapes of its outputs are known from elsewhere."""
        for name in filter(None, node.outputs):
            shape = self.inferred().get(name)
            if shape is not None and 0 not in shape:
                self.known[name] = plain(name, shape)

    def _operand(self, name: str) -> Operand:
        if name in self.known:
            return self.known[name]
        try:
            return Constant(self.graph.initializers[name].array())
        except ModelError as error:
            raise InexpressibleError(str(error)) from error

    def output(self, name: str) -> None:
        """Make an output of the graph a blob of its name and shape."""
        if name not in self.known and name not in self.graph.initializers:
            return  # A node before it could not be lowered.
        self.out.begin(name)
        try:
            value = self.out.plain(self._operand(name))
        except InexpressibleError as reason:
            self.out.restart()
            self.reasons.append(f"output '{name}': {reason}")
            return
        (named,) = self.out.finish([value], [name])
        assert isinstance(named, Value)
        if named.blob != name:  # It is another tensor too, under that name.
            named = self.out.add("Reshape", [named], named.shape, {"shape": {"dim": (0,) * len(named.shape)}})
            (named,) = self.out.finish([named], [name])
        self.known[name] = named


def _results(call: Call, out: Builder) -> list[Operand]:
    """Return a node's outputs: computed now where they depend on no input, else lowered."""
    if all(isinstance(operand, Constant) for operand in call.operands if operand is not None):
        found = constants.evaluated(call)
        if found is not None:
            return list(found)
    with np.errstate(all="ignore"):  # What overflows in a folded weight would in ONNX as well.
        results = _lowering(call.node)(call, out)
    if call.type not in _MOVING | _EXACT:
        return results
    kinds = {
        operand.kind for operand in call.operands[: 1 if call.type == "Gather" else None] if isinstance(operand, Value)
    }
    kind: Kind = "truncated" if "truncated" in kinds else "integer" if "integer" in kinds else "float"
    return [replace(result, kind=kind) if isinstance(result, Value) else result for result in results]


def _lowering(node: OnnxNode) -> Lowering:
    found = _LOWERINGS.get(node.op_type)
    if found is None:
        raise InexpressibleError(f"no layers of stock Caffe are known that compute {node.op_type}")
    return found


def _check(node: OnnxNode, operands: tuple[Operand | None, ...]) -> None:
    if node.domain:
        raise InexpressibleError(f"it is of the custom domain '{node.domain}'")
    for value in node.attributes.values():
        if isinstance(value, Subgraph):
            raise InexpressibleError("it holds a graph of its own; Caffe has no control flow")
    for operand in operands:
        if isinstance(operand, (Value, Padded)) and 0 in operand.shape:
            raise InexpressibleError("its input is empty; Caffe has no empty blobs")
        kind = operand.kind if isinstance(operand, Value) else "float"
        if kind != "float" and node.op_type not in _ANY_KIND | (_EXACT if kind == "integer" else set()):
            raise InexpressibleError("it computes with integers; Caffe's blobs are float32")


def _layer_names(graph: Graph, taken: Mapping[str, Shape]) -> list[str]:
    """Return a name for the layer of each node: the node's own where it is unique, else its first output's."""
    count = Counter(node.name for node in graph.nodes)
    names = []
    for node in graph.nodes:
        made = next(filter(None, node.outputs), f"{node.op_type}_{node.index}")
        names.append(node.name if node.name and count[node.name] == 1 and node.name not in taken else made)
    return names


def _graph_reasons(graph: Graph, shapes: Mapping[str, Shape]) -> Iterator[str]:
    """Yield what stands against the graph as a whole."""
    if not OLDEST <= graph.opset <= NEWEST:
        yield f"its operators are of opset {graph.opset}; expected {OLDEST} to {NEWEST}"
    for info in graph.inputs:
        if info.data_type != FLOAT:
            yield f"input '{info.name}' is {type_name(info.data_type)}; Caffe's blobs are float32"
    for name, shape in shapes.items():
        if not 0 < math.prod(shape) <= MAX_NUMBERS or len(shape) > MAX_AXES:
            yield (
                f"input '{name}' has the shape {shape}; Caffe's blobs hold 1 to {MAX_NUMBERS} numbers along at most "
                f"{MAX_AXES} axes"
            )
    for name in sorted(graph.sparse):
        yield f"initializer '{name}' is sparse; expected dense numbers"


def lower(graph: Graph, shapes: Mapping[str, Shape], inferred: Callable[[], Mapping[str, Shape | None]]) -> Lowered:
    """Return the layers of a graph whose inputs have these shapes; `inferred` gives shapes of other tensors."""
    taken = {name for node in graph.nodes for name in (*node.inputs, *node.outputs, node.name)} | set(shapes)
    outputs = [info.name for info in graph.outputs]
    used = frozenset(name for node in graph.nodes for name in node.reads) | frozenset(outputs)
    builder, names = Builder(taken), _layer_names(graph, shapes)
    reasons, room = list(_graph_reasons(graph, shapes)), constants.room(graph)
    lowerer = _Lowerer(graph, inferred, builder, {}, used, names, reasons, room)
    folded = folded_inputs(graph, shapes)
    for name, shape in shapes.items():
        order = folded.get(name)
        stored = shape if order is None else tuple(shape[axis] for axis in order)
        builder.layers.append(Layer(name, "Input", (), (name,), {"shape": {"dim": stored}}))
        value = plain(name, stored)
        lowerer.known[name] = value if order is None else permuted(value, inverse(order))
    kept = {index: group for group in groups(graph) for index in range(group.first, group.last + 1)}
    for node in graph.nodes:
        group = kept.get(node.index)
        if group is None:
            lowerer.node(node)
        elif node.index == group.last:  # By then all that the layer reads is there.
            lowerer.group(group)
    for name in outputs:
        lowerer.output(name)
    values = {name: value for name, value in lowerer.known.items() if isinstance(value, Value)}
    return Lowered(tuple(builder.layers), values, folded, tuple(lowerer.reasons), frozenset(builder.taken))
