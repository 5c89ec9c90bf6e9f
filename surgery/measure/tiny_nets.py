"""Nets of nothing but copies of one layer: what is timed to know how long the layer takes inside a network.

Weights are constants, which nothing has to draw or keep: no kernel's time depends on a number unless it is denormal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from surgery.choose.latency import CONVOLUTION, FULLY_CONNECTED, SCALE, Shape
from surgery.convert.to_onnx.conversion import Conversion, TensorType
from surgery.convert.to_onnx.graph import Operator
from surgery.ops import FloatArray

INPUT = "data"
LAYER = "layer"  # A copy's name is this and its number.
_CONSTANT = 0.01  # of a weight
_OPSET = 13


def input_shape(shape: Shape) -> tuple[int, ...]:
    """Return the shape of the input that a net of a layer of this shape has."""
    maps = () if shape.kind == FULLY_CONNECTED else shape.input
    return shape.batch, shape.in_channels, *maps


def write_prototxt(shape: Shape, copies: int, path: Path) -> Path:
    """Write a Caffe net of an input and `copies` of a layer, which all read it."""
    dims = " ".join(f"dim: {size}" for size in input_shape(shape))
    lines = [f'layer {{ name: "{INPUT}" type: "Input" top: "{INPUT}" input_param {{ shape {{ {dims} }} }} }}']
    kind, parameters = _LAYERS[shape.kind]
    for name in (f"{LAYER}{i}" for i in range(copies)):
        head = f'name: "{name}" type: "{kind}" bottom: "{INPUT}" top: "{name}"'
        lines.append(f"layer {{ {head} {parameters(shape)} }}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_onnx(shape: Shape, copies: int, path: Path) -> Path:
    """Write an ONNX model of `copies` of a layer, which all read the input; of maps one pixel each is an output.

    The pixel is picked by pooling with a stride as large as the map, so that neither handing a map to the caller nor
    bringing it back into the usual order of numbers counts. With no copies the input's pixel is picked. Each copy has
    a constant of its own: of equal layers a runtime would compute one.
    """
    operators: list[Operator] = []
    weights: dict[str, FloatArray] = {}
    kind, attributes = _OPERATORS[shape.kind]
    for made in (f"{LAYER}{i}" for i in range(copies)):
        constant = _CONSTANT * (1 + len(operators) / 8)
        own = {f"{made}_{name}": np.broadcast_to(np.float32(constant), dims) for name, dims in _weights(shape).items()}
        operators.append(Operator(kind, made, (INPUT, *own), (made,), attributes(shape)))
        weights |= own
    read = [op.layer for op in operators] or [INPUT]
    channels, size = (shape.out_channels, shape.output) if copies else (shape.in_channels, shape.input)
    outputs = [TensorType(name, (shape.batch, channels)) for name in read]
    if shape.kind != FULLY_CONNECTED:
        pick = {"kernel_shape": (1, 1), "strides": size}
        operators += [Operator("MaxPool", f"{name}_pixel", (name,), (f"{name}_pixel",), pick) for name in read]
        outputs = [TensorType(f"{name}_pixel", (shape.batch, channels, 1, 1)) for name in read]
    inputs = [TensorType(INPUT, input_shape(shape))]
    Conversion("layers", _OPSET, operators, weights, inputs, outputs, (), {}, {}, {}, ()).save(path)
    return path


def _weights(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an ONNX operator's weights."""
    if shape.kind == SCALE:
        return {"weight": (shape.in_channels, 1, 1)}
    taps = shape.kernel if shape.kind == CONVOLUTION else ()
    weight = {"weight": (shape.out_channels, shape.in_channels // shape.groups, *taps)}
    return weight | ({"bias": (shape.out_channels,)} if shape.has_bias else {})


_OPERATORS: Mapping[str, tuple[str, Callable[[Shape], Mapping[str, object]]]] = {
    CONVOLUTION: (
        "Conv",
        lambda shape: {
            "kernel_shape": shape.kernel,
            "strides": shape.stride,
            "pads": shape.padding * 2,
            "dilations": shape.dilation,
            "group": shape.groups,
        },
    ),
    FULLY_CONNECTED: ("Gemm", lambda shape: {"transB": 1}),
    SCALE: ("Mul", lambda shape: {}),
}


def _convolution(shape: Shape) -> str:
    pairs = {"kernel": shape.kernel, "stride": shape.stride, "pad": shape.padding}
    # Each number of its own: not all forks read repeated ones, and none reads both kinds at once.
    window = [f"{name}_h: {pair[0]} {name}_w: {pair[1]}" for name, pair in pairs.items()]
    (down, right), groups = shape.dilation, f" group: {shape.groups}" if shape.groups > 1 else ""
    dilation = "" if down == right == 1 else f" dilation: {down}" + (f" dilation: {right}" if down != right else "")
    numbers = f"{' '.join(window)}{dilation}{groups}"
    return f"convolution_param {{ num_output: {shape.out_channels} {numbers} {_filled(shape)} }}"


def _filled(shape: Shape) -> str:
    bias = "" if shape.has_bias else " bias_term: false"
    return f'weight_filler {{ type: "constant" value: {_CONSTANT} }}{bias}'


_LAYERS: Mapping[str, tuple[str, Callable[[Shape], str]]] = {
    CONVOLUTION: ("Convolution", _convolution),
    FULLY_CONNECTED: (
        "InnerProduct",
        lambda shape: f"inner_product_param {{ num_output: {shape.out_channels} {_filled(shape)} }}",
    ),
    SCALE: ("Scale", lambda shape: ""),
}
