"""Tiny ONNX graphs, one for each way in which an operator becomes Caffe layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from tests.onnx_nets import node, tiny

IMAGE = (1, 6, 9, 11)


@dataclass(frozen=True)
class Case:
    """A graph from the input `x` (and `y`) to the output `z`."""

    nodes: Sequence[onnx.NodeProto]
    shapes: Mapping[str, Sequence[int | str]] = field(default_factory=lambda: {"x": IMAGE})
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    outputs: Sequence[str] = ("z",)
    opset: int = 13
    draw: Callable[[np.random.Generator, Sequence[int]], np.ndarray] = lambda rng, shape: rng.standard_normal(shape)

    def write(self, folder: Path, name: str) -> Path:
        return tiny(
            folder,
            self.nodes,
            inputs=self.shapes,
            outputs=self.outputs,
            weights=self.weights,
            opset=self.opset,
            name=name,
        )

    def inputs(self, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        sizes = {key: [n if isinstance(n, int) else 1 for n in shape] for key, shape in self.shapes.items()}
        return {key: self.draw(rng, shape).astype(np.float32) for key, shape in sizes.items()}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def positive(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return 0.1 + rng.random(shape)


def ints(*numbers: int) -> np.ndarray:
    return np.asarray(numbers, np.int64)


def unary(op_type: str, *, opset: int = 13, **attributes: object) -> Case:
    return Case([node(op_type, "x", "z", **attributes)], opset=opset)


def conv(shape: Sequence[int] = IMAGE, weight: Sequence[int] = (8, 6, 3, 3), **attributes: object) -> Case:
    weights = {"w": normal(*weight), "b": normal(weight[0], seed=1)}
    return Case([node("Conv", "x w b", "z", **attributes)], {"x": shape}, weights)


def deconv(weight: Sequence[int] = (6, 4, 3, 3), **attributes: object) -> Case:
    outputs = weight[1] * int(attributes.get("group", 1))  # type: ignore[call-overload]
    weights = {"w": normal(*weight), "b": normal(outputs, seed=1)}
    return Case([node("ConvTranspose", "x w b", "z", **attributes)], weights=weights)


def pool(op_type: str, shape: Sequence[int] = IMAGE, *, opset: int = 13, **attributes: object) -> Case:
    return Case([node(op_type, "x", "z", **attributes)], {"x": shape}, opset=opset)


def pair(op_type: str, x: Sequence[int], y: Sequence[int]) -> Case:
    return Case([node(op_type, "x y", "z")], {"x": x, "y": y}, draw=positive)


def with_constant(nodes: str, *constant_shape: int, op_type: str, x: Sequence[int] = IMAGE) -> Case:
    return Case([node(op_type, nodes, "z")], {"x": x}, {"c": 0.5 + np.abs(normal(*constant_shape))}, draw=positive)


def reduce_(op_type: str, axes: Sequence[int], keepdims: int = 1, shape: Sequence[int] = (2, 3, 4, 5)) -> Case:
    weights = {"axes": ints(*axes)}
    return Case([node(op_type, "x axes", "z", keepdims=keepdims)], {"x": shape}, weights, opset=18)


def resize(mode: str, sizes: Sequence[int], x: Sequence[int] = (1, 3, 5, 6), **attributes: object) -> Case:
    return Case([node("Resize", "x - - s", "z", mode=mode, **attributes)], {"x": x}, {"s": ints(*sizes)})


def transposes(perm: Sequence[int], *middle: onnx.NodeProto, **rest: object) -> Case:
    """Channel-last on the outside, `middle` from `a` to `b` inside, as exporters write it."""
    nodes = [node("Conv", "x w", "c"), node("Transpose", "c", "a", perm=[0, 2, 3, 1]), *middle]
    nodes.append(node("Transpose", "b", "z", perm=perm))
    return Case(nodes, weights={"w": normal(4, 6, 3, 3), **rest})  # type: ignore[dict-item]


_POOLS: dict[str, Case] = {}
for _type in ("MaxPool", "AveragePool"):
    for _kernel, _stride, _pads in (
        ((3, 3), (2, 2), (0, 0, 0, 0)),
        ((2, 2), (2, 2), (0, 0, 0, 0)),
        ((3, 3), (2, 2), (1, 1, 1, 1)),
        ((3, 3), (2, 2), (0, 0, 1, 1)),
        ((3, 3), (1, 1), (1, 1, 1, 1)),
        ((3, 2), (2, 3), (1, 0, 0, 1)),
        ((3, 3), (1, 1), (2, 2, 0, 0)),
        ((3, 3), (1, 1), (0, 0, 2, 2)),
        ((4, 4), (3, 3), (1, 0, 2, 3)),
        ((1, 1), (2, 2), (0, 0, 0, 0)),
        ((5, 3), (2, 1), (2, 1, 1, 0)),
        ((2, 2), (3, 3), (0, 0, 0, 0)),
    ):
        for _ceil in (0, 1):
            for _counted in (0, 1) if _type == "AveragePool" else (None,):
                _more = {} if _counted is None else {"count_include_pad": _counted}
                _name = f"{_type} {_kernel}/{_stride} pads {_pads} ceil {_ceil} counted {_counted}"
                _POOLS[_name] = pool(
                    _type, kernel_shape=_kernel, strides=_stride, pads=_pads, ceil_mode=_ceil, **_more, opset=19
                )

CASES: dict[str, Case] = {
    "Conv": conv(pads=[1, 1, 1, 1]),
    "Conv strided and dilated": conv(strides=[2, 1], dilations=[1, 2], pads=[1, 2, 1, 2]),
    "Conv grouped": conv(weight=(4, 3, 3, 3), group=2),
    "Conv depthwise": conv(weight=(6, 1, 3, 3), group=6, pads=[1, 1, 1, 1]),
    "Conv padded at the end": conv(strides=[2, 2], pads=[0, 0, 1, 1]),
    "Conv padded in front": conv(strides=[2, 2], pads=[1, 1, 0, 0]),
    "Conv padded unevenly": conv(strides=[2, 3], pads=[0, 2, 3, 1]),
    "Conv padded by more than its kernel": conv(weight=(4, 6, 1, 1), pads=[2, 0, 1, 3]),
    "Conv SAME_UPPER": conv(strides=[2, 2], auto_pad="SAME_UPPER"),
    "Conv SAME_LOWER": conv(weight=(4, 6, 2, 4), strides=[1, 2], auto_pad="SAME_LOWER"),
    "Conv VALID": conv(auto_pad="VALID"),
    "Conv of one axis": conv((2, 3, 12), (5, 3, 3), pads=[1, 0], strides=[2]),
    "Conv of three axes": conv((1, 3, 5, 6, 4), (2, 3, 3, 2, 1), pads=[1, 0, 0, 1, 1, 0]),
    "ConvTranspose": deconv(strides=[2, 2], pads=[1, 1, 1, 1]),
    "ConvTranspose grouped": deconv(weight=(6, 2, 4, 4), group=3, strides=[2, 2], pads=[1, 1, 1, 1]),
    "ConvTranspose with output padding": deconv(strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    "ConvTranspose with output padding alone": deconv(strides=[3, 2], output_padding=[2, 1]),
    "ConvTranspose unevenly": deconv(strides=[2, 2], pads=[0, 1, 2, 0]),
    "ConvTranspose dilated": deconv(dilations=[2, 1], pads=[1, 0, 0, 0]),
    "ConvTranspose to a shape": deconv(strides=[2, 2], output_shape=[18, 22]),
    "ConvTranspose SAME_LOWER": deconv(strides=[2, 2], auto_pad="SAME_LOWER"),
    **_POOLS,
    "MaxPool SAME_UPPER": pool("MaxPool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    "AveragePool SAME_LOWER": pool("AveragePool", kernel_shape=[2, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    "MaxPool of one axis": pool("MaxPool", (2, 3, 11), kernel_shape=[3], strides=[2], pads=[1, 0]),
    "AveragePool of one axis": pool("AveragePool", (2, 3, 11), kernel_shape=[3], strides=[2], pads=[1, 1]),
    "GlobalAveragePool": unary("GlobalAveragePool"),
    "GlobalMaxPool": unary("GlobalMaxPool"),
    "GlobalAveragePool of three axes": Case([node("GlobalAveragePool", "x", "z")], {"x": (2, 3, 4, 2, 3)}),
    "Pad and Conv": Case(
        [node("Pad", "x p", "a"), node("Conv", "a w", "z", strides=[2, 2], pads=[1, 0, 0, 0])],
        weights={"p": ints(0, 0, 1, 0, 0, 0, 1, 2), "w": normal(4, 6, 3, 3)},
    ),
    "Pad and AveragePool": Case(
        [node("Pad", "x p", "a"), node("AveragePool", "a", "z", kernel_shape=[3, 3], strides=[2, 2])],
        weights={"p": ints(0, 0, 1, 1, 0, 0, 1, 2)},
    ),
    "Pad and MaxPool": Case(
        [node("Pad", "x p", "a"), node("MaxPool", "a", "z", kernel_shape=[3, 3], strides=[2, 2])],
        weights={"p": ints(0, 0, 1, 1, 0, 0, 1, 1)},
    ),
    "Pad by the lowest and MaxPool": Case(
        [node("Pad", "x p v", "a"), node("MaxPool", "a", "z", kernel_shape=[3, 3], strides=[2, 2])],
        weights={"p": ints(0, 0, 1, 1, 0, 0, 1, 1), "v": np.float32(-np.inf)},
    ),
    "Relu, Pad and MaxPool": Case(
        [
            node("Relu", "x", "r"),
            node("Pad", "r p", "a"),
            node("MaxPool", "a", "z", kernel_shape=[3, 3], strides=[2, 2]),
        ],
        weights={"p": ints(0, 0, 1, 1, 0, 0, 1, 1)},
    ),
    "Pad and AveragePool, wider than the kernel": Case(
        [node("Pad", "x p", "a"), node("AveragePool", "a", "z", kernel_shape=[2, 2])],
        weights={"p": ints(0, 0, 3, 2, 0, 0, 1, 4)},
    ),
    "Pad alone": Case([node("Pad", "x p v", "z")], weights={"p": ints(0, 2, 1, 0, 0, 1, 0, 3), "v": np.float32(2.5)}),
    "Pad that cuts": Case([node("Pad", "x p", "z")], weights={"p": ints(0, 0, -1, 2, 0, -2, 0, -3)}),
    "Pad with axes": Case([node("Pad", "x p - a", "z")], weights={"p": ints(1, 2), "a": ints(-1)}, opset=18),
    "Pad before opset 11": Case([node("Pad", "x", "z", pads=[0, 0, 1, 1, 0, 0, 2, 0], value=1.0)], opset=9),
    "Gemm": Case(
        [node("Gemm", "x w b", "z", transB=1, alpha=0.5, beta=2.0)],
        {"x": (3, 7)},
        {"w": normal(5, 7), "b": normal(5)},
    ),
    "Gemm as stored": Case([node("Gemm", "x w", "z")], {"x": (3, 7)}, {"w": normal(7, 5)}),
    "Gemm with a scalar": Case([node("Gemm", "x w b", "z")], {"x": (3, 7)}, {"w": normal(7, 5), "b": normal(1)}),
    "Gemm with a bias per row": Case(
        [node("Gemm", "x w b", "z")], {"x": (3, 7)}, {"w": normal(7, 5), "b": normal(3, 1)}
    ),
    "Gemm with a computed addend": Case(
        [node("Gemm", "x w y", "z", beta=0.5)], {"x": (3, 7), "y": (3, 5)}, {"w": normal(7, 5)}
    ),
    "Gemm of a lone number": Case(
        [node("Reshape", "x s", "a"), node("Gemm", "a w", "z")], {"x": (1,)}, {"s": ints(1, 1), "w": normal(1, 5)}
    ),
    "MatMul and Add": Case(
        [node("MatMul", "x w", "a"), node("Add", "b a", "z")], {"x": (3, 7)}, {"w": normal(7, 5), "b": normal(5)}
    ),
    "MatMul of three axes": Case([node("MatMul", "x w", "z")], {"x": (2, 3, 7)}, {"w": normal(7, 5)}),
    "Flatten and Gemm": Case(
        [node("Flatten", "x", "a"), node("Gemm", "a w", "z")], {"x": (2, 3, 4, 5)}, {"w": normal(60, 5)}
    ),
    "BatchNormalization": Case(
        [node("BatchNormalization", "x s b m v", "z", epsilon=1e-3)],
        weights={"s": normal(6), "b": normal(6, seed=1), "m": normal(6, seed=2), "v": np.abs(normal(6, seed=3))},
    ),
    "BatchNormalization of two axes": Case(
        [node("BatchNormalization", "x s b m v", "z")],
        {"x": (4, 6)},
        {"s": normal(6), "b": normal(6, seed=1), "m": normal(6, seed=2), "v": np.abs(normal(6, seed=3))},
    ),
    "InstanceNormalization": Case(
        [node("InstanceNormalization", "x s b", "z", epsilon=1e-2)],
        {"x": (2, 3, 4, 5)},
        {"s": normal(3), "b": normal(3, seed=1)},
    ),
    "LayerNormalization": Case(
        [node("LayerNormalization", "x s b", "z", axis=-2)],
        {"x": (2, 3, 4, 5)},
        {"s": normal(4, 5), "b": normal(4, 5, seed=1)},
        opset=17,
    ),
    "MeanVarianceNormalization": Case([node("MeanVarianceNormalization", "x", "z")]),
    "LpNormalization": Case([node("LpNormalization", "x", "z", axis=1, p=2)], {"x": (2, 3, 4, 5)}),
    "LpNormalization of absolute values": Case([node("LpNormalization", "x", "z", axis=-1, p=1)], {"x": (2, 7)}),
    "LRN": unary("LRN", size=5, alpha=0.05, beta=0.75, bias=2.0),
    "Softmax": Case([node("Softmax", "x", "z")], {"x": (3, 7)}),
    "Softmax along channels": unary("Softmax", axis=1),
    "Softmax before opset 13": Case([node("Softmax", "x", "z", axis=1)], {"x": (2, 3, 4)}, opset=11),
    "Softmax before opset 13, last axis": Case([node("Softmax", "x", "z", axis=-1)], {"x": (2, 3, 4)}, opset=11),
    "LogSoftmax": Case([node("LogSoftmax", "x", "z")], {"x": (3, 7)}, draw=lambda rng, s: 100 * rng.standard_normal(s)),
    "LogSoftmax along channels": unary("LogSoftmax", axis=1),
    "LeakyRelu": unary("LeakyRelu", alpha=0.1),
    "PRelu per channel": Case([node("PRelu", "x s", "z")], weights={"s": normal(6, 1, 1)}),
    "PRelu with one slope": Case([node("PRelu", "x s", "z")], weights={"s": normal(1)}),
    "PRelu per place": Case([node("PRelu", "x s", "z")], weights={"s": normal(6, 9, 11)}),
    "Elu": unary("Elu", alpha=0.7),
    "Selu": unary("Selu"),
    "Celu": unary("Celu", alpha=0.5),
    **{kind: unary(kind) for kind in ("Relu", "Sigmoid", "Tanh", "Softplus", "Abs", "Exp", "Neg", "Softsign")},
    **{kind: Case([node(kind, "x", "z")], draw=positive) for kind in ("Log", "Sqrt", "Reciprocal")},
    "HardSigmoid": unary("HardSigmoid", alpha=0.3, beta=0.4),
    "HardSwish": unary("HardSwish", opset=14),
    "Mish": unary("Mish", opset=18),
    "Swish": Case([node("Sigmoid", "x", "a"), node("Mul", "x a", "z")]),
    "ThresholdedRelu": unary("ThresholdedRelu", alpha=0.3),
    "Clip 0 to 6": Case([node("Clip", "x l h", "z")], weights={"l": np.float32(0), "h": np.float32(6)}),
    "Clip -1 to 0.5": Case([node("Clip", "x l h", "z")], weights={"l": np.float32(-1), "h": np.float32(0.5)}),
    "Clip from below": Case([node("Clip", "x l", "z")], weights={"l": np.float32(0.25)}),
    "Clip from above": Case([node("Clip", "x - h", "z")], weights={"h": np.float32(0.25)}),
    "Clip at far bounds": Case([node("Clip", "x l h", "z")], weights={"l": np.float32(-1e6), "h": np.float32(1e5)}),
    "Clip before opset 11": unary("Clip", opset=9, min=-0.5, max=6.0),
    "Greater": Case([node("Greater", "x c", "a"), node("Cast", "a", "z", to=1)], weights={"c": np.float32(0.3)}),
    "Less": Case([node("Less", "x c", "a"), node("Cast", "a", "z", to=1)], weights={"c": np.float32(0.3)}),
    **{f"{kind} of two": pair(kind, IMAGE, IMAGE) for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min")},
    **{f"{kind} by channel": pair(kind, (2, 3, 4, 5), (2, 3, 1, 1)) for kind in ("Add", "Sub", "Mul", "Div", "Max")},
    **{f"{kind} by place": pair(kind, (2, 3, 4, 5), (2, 1, 4, 5)) for kind in ("Add", "Mul")},
    **{f"{kind} of a row": pair(kind, (2, 3, 4, 5), (5,)) for kind in ("Add", "Mul", "Min")},
    **{f"{kind} of one": pair(kind, (2, 3, 4, 5), (1,)) for kind in ("Sub", "Mul")},
    **{f"{kind} both broadcast": pair(kind, (2, 3, 1, 5), (1, 3, 4, 1)) for kind in ("Add", "Mul", "Div", "Max")},
    **{f"{kind} from the smaller": pair(kind, (2, 3, 1, 1), (2, 3, 4, 5)) for kind in ("Sub", "Div", "Add")},
    **{
        f"{kind} a number": with_constant("x c", op_type=kind)
        for kind in ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min")
    },
    **{
        f"{kind} a constant by channel": with_constant("x c", 6, 1, 1, op_type=kind)
        for kind in ("Add", "Sub", "Mul", "Div")
    },
    **{
        f"{kind} a constant by place": with_constant("x c", 9, 11, op_type=kind)
        for kind in ("Add", "Mul", "Max", "Min")
    },
    **{
        f"{kind} a constant that broadcasts": with_constant("x c", 6, 9, 11, op_type=kind, x=(1, 1, 11))
        for kind in ("Add", "Mul")
    },
    **{f"{kind} from a constant": with_constant("c x", 6, 1, 1, op_type=kind) for kind in ("Sub", "Div", "Add")},
    "Pow of a number": with_constant("c x", op_type="Pow"),
    "Sum of three": Case([node("Sum", "x y x", "z")], {"x": IMAGE, "y": IMAGE}),
    "Mean of two": Case([node("Mean", "x y", "z")], {"x": IMAGE, "y": IMAGE}),
    "Concat": Case([node("Concat", "x y", "z", axis=1)], {"x": (2, 3, 4, 5), "y": (2, 1, 4, 5)}),
    "Concat with a constant": Case([node("Concat", "x c", "z", axis=-1)], {"x": (2, 3)}, {"c": normal(2, 2)}),
    "Split": Case([node("Split", "x s", "a b z", axis=1)], weights={"s": ints(1, 2, 3)}, outputs=("a", "z")),
    "Split before opset 13": Case([node("Split", "x", "a z", axis=2, split=[4, 5])], outputs=("a", "z"), opset=11),
    "Slice": Case(
        [node("Slice", "x b e a s", "z")],
        weights={"b": ints(1, -1), "e": ints(9, -20), "a": ints(2, 3), "s": ints(3, -2)},
    ),
    "Slice before opset 10": Case([node("Slice", "x", "z", axes=[1, 3], starts=[1, -4], ends=[5, 1000])], opset=9),
    "Gather one": Case([node("Gather", "x i", "z", axis=1)], weights={"i": np.int64(-2)}),
    "Gather several": Case([node("Gather", "x i", "z", axis=2)], weights={"i": ints(3, 4, 0, 3)}),
    "Gather rows": Case(
        [node("Cast", "x", "a", to=7), node("Gather", "w a", "z")],
        {"x": (2, 3)},
        {"w": normal(5, 4)},
        draw=lambda rng, shape: rng.integers(0, 5, shape).astype(np.float32),
    ),
    "Flatten": unary("Flatten", axis=2),
    "Reshape": Case([node("Reshape", "x s", "z")], weights={"s": ints(0, -1, 33)}),
    "Squeeze": Case([node("Squeeze", "x a", "z")], {"x": (2, 1, 3, 1)}, {"a": ints(3)}),
    "Unsqueeze": Case([node("Unsqueeze", "x a", "z")], {"x": (2, 3)}, {"a": ints(0, -1)}),
    "Identity": Case([node("Relu", "x", "a"), node("Identity", "a", "z")], outputs=("a", "z")),
    "Dropout": Case([node("Dropout", "x", "z")]),
    "Expand": Case([node("Expand", "x s", "z")], {"x": (2, 1, 4)}, {"s": ints(3, 1, 5, 1)}),
    "Tile": Case([node("Tile", "x r", "z")], {"x": (2, 1, 4)}, {"r": ints(1, 3, 2)}),
    "DepthToSpace": Case([node("DepthToSpace", "x", "z", blocksize=2)], {"x": (2, 8, 3, 4)}),
    "DepthToSpace CRD": Case([node("DepthToSpace", "x", "z", blocksize=2, mode="CRD")], {"x": (1, 8, 3, 4)}),
    "SpaceToDepth": Case([node("SpaceToDepth", "x", "z", blocksize=2)], {"x": (2, 3, 4, 6)}),
    "Transpose": Case([node("Relu", "x", "a"), node("Transpose", "a", "z", perm=[2, 0, 3, 1])], {"x": (2, 3, 4, 5)}),
    "channel shuffle": Case(
        [
            node("Reshape", "x s", "a"),
            node("Transpose", "a", "b", perm=[0, 2, 1, 3, 4]),
            node("Reshape", "b t", "z"),
        ],
        {"x": (2, 6, 3, 4)},
        {"s": ints(2, 3, 2, 3, 4), "t": ints(2, 6, 3, 4)},
    ),
    "channel-last activation": transposes([0, 3, 1, 2], node("Relu", "a", "b")),
    "channel-last scale": transposes([0, 3, 1, 2], node("Mul", "a s", "b"), s=normal(4)),
    "channel-last padding": transposes([0, 3, 1, 2], node("Pad", "a p", "b"), p=ints(0, 1, 2, 0, 0, 0, 1, 0)),
    "channel-last softmax": transposes([0, 3, 1, 2], node("Softmax", "a", "b", axis=-1)),
    "channel-last mean": transposes([0, 3, 1, 2], node("ReduceMean", "a", "b", axes=[1, 2], keepdims=1)),
    "channel-last concat": transposes([0, 3, 1, 2], node("Neg", "a", "n"), node("Concat", "a n", "b", axis=3)),
    "channel-last matrix": Case(
        [
            node("Conv", "x w", "c"),
            node("Transpose", "c", "a", perm=[0, 2, 3, 1]),
            node("Shape", "a", "s"),
            node("Gather", "s zero", "n", axis=0),
            node("Unsqueeze", "n zero", "m"),
            node("Concat", "m rest", "t", axis=0),
            node("Reshape", "a t", "f"),
            node("MatMul", "f d", "g"),
            node("Add", "g e", "z"),
        ],
        {"x": ("batch", 6, 5, 6)},
        {
            "w": normal(4, 6, 3, 3),
            "zero": ints(0)[0],
            "rest": ints(-1),
            "d": normal(48, 5),
            "e": normal(5),
        },
    ),
    **{
        f"{kind} over {axes} keepdims {keep}": reduce_(kind, axes, keep)
        for kind in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare")
        for axes, keep in (((2, 3), 1), ((2, 3), 0), ((1,), 1), ((0, 2), 0), ((-1,), 0), ((0, 1, 2, 3), 1))
    },
    "ArgMax": Case([node("ArgMax", "x", "a", axis=1), node("Cast", "a", "z", to=1)], {"x": (2, 5, 3)}),
    "ArgMax of equals": Case(
        [node("ArgMax", "x", "a", axis=1, keepdims=0), node("Cast", "a", "z", to=1)],
        {"x": (4, 6)},
        draw=lambda rng, shape: rng.integers(0, 2, shape).astype(np.float32),
    ),
    "ArgMax, last of equals": Case(
        [node("ArgMax", "x", "a", axis=-1, select_last_index=1), node("Cast", "a", "z", to=1)],
        {"x": (4, 6)},
        draw=lambda rng, shape: rng.integers(0, 2, shape).astype(np.float32),
    ),
    "TopK": Case(
        [node("TopK", "x k", "z i", axis=1), node("Cast", "i", "y", to=1)],
        {"x": (2, 7, 3)},
        {"k": ints(3)},
        outputs=("z", "y"),
        draw=lambda rng, shape: rng.integers(0, 4, shape).astype(np.float32),
    ),
    "TopK of the smallest": Case(
        [node("TopK", "x k", "v i", largest=0), node("Cast", "i", "z", to=1)], {"x": (2, 7)}, {"k": ints(2)}
    ),
    "Slice of a Slice": Case(
        [node("Slice", "x b e a s", "y"), node("Slice", "y c e a s", "z")],
        {"x": (2, 7)},
        {"b": ints(-1), "c": ints(-2), "e": ints(-100), "a": ints(1), "s": ints(-1)},
        outputs=("y", "z"),
    ),
    "Upsample": Case([node("Upsample", "x s", "z")], {"x": (1, 3, 4, 5)}, {"s": np.float32([1, 1, 2, 3])}, opset=9),
    "Resize by 2": resize("nearest", (1, 3, 10, 12)),
    "Resize by 2, floor": resize(
        "nearest", (1, 3, 10, 12), coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    ),
    "Resize to the nearest": resize("nearest", (1, 3, 7, 4)),
    "Resize linearly": resize("linear", (1, 3, 9, 11)),
    "Resize linearly to corners": resize("linear", (1, 3, 9, 12), coordinate_transformation_mode="align_corners"),
    "Resize linearly, smaller": resize("linear", (1, 3, 3, 4), coordinate_transformation_mode="asymmetric"),
    "an output that others read": Case([node("Relu", "x", "a"), node("Neg", "a", "z")], outputs=("a", "z")),
    "constants folded": Case(
        [
            node("Constant", "", "k", value_floats=[0.5, 2.0]),
            node("Constant", "", "one", value_int=1),
            node("Gather", "k one", "two"),
            node("Sqrt", "two", "root"),
            node("Mul", "x root", "z"),
        ]
    ),
}
