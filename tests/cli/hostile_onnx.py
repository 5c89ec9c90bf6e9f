"""ONNX files that nobody should have to meet: damaged, lying, of absurd sizes; each a few bytes made by hand."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from surgery.formats.onnx import encode
from surgery.formats.wire import encode_bytes, encode_tag, encode_varint

FLOAT, INT64, STRING, BOOL = 1, 7, 8, 9
NODE, INITIALIZER, SPARSE = 1, 5, 15
Shape = Sequence[encode.Dim] | None

RNG = np.random.default_rng(0)
K = RNG.standard_normal((8, 3, 3, 3)).astype(np.float32)
W = RNG.standard_normal((10, 288)).astype(np.float32)
B = RNG.standard_normal(10).astype(np.float32)


def node(op_type: str, inputs: str, outputs: str, domain: str = "", name: str = "", **attributes: Any) -> bytes:
    """A node; `inputs` and `outputs` are words, "-" one that is left out."""
    names = [["" if word == "-" else word for word in words.split()] for words in (inputs, outputs)]
    return encode.node(op_type, *names, name, attributes, domain)


def holding(op_type: str, inputs: str, outputs: str, *attributes: bytes) -> bytes:
    """A node of these AttributeProtos."""
    return node(op_type, inputs, outputs) + b"".join(encode_bytes(5, each) for each in attributes)


def wrapped(
    graph: bytes, opset: int | None = 13, functions: Sequence[bytes] = (), domains: Sequence[str] = ()
) -> bytes:
    """A model around a graph."""
    head = encode.varint(1, 8) + encode_bytes(7, graph)
    head += b"" if opset is None else encode_bytes(8, encode.opset(opset))
    head += b"".join(encode_bytes(8, encode.opset(1, domain)) for domain in domains)
    return head + b"".join(encode_bytes(25, function) for function in functions)


def graph(
    nodes: Sequence[bytes],
    tensors: Sequence[bytes] = (),
    inputs: Mapping[str, Shape] | Sequence[tuple[str, Shape]] = (("x", (1, 3, 8, 8)),),
    outputs: Sequence[str] = ("y",),
    kind: int = FLOAT,
) -> bytes:
    """A GraphProto."""
    listed = inputs.items() if isinstance(inputs, Mapping) else inputs
    return b"".join(
        [
            *(encode_bytes(NODE, each) for each in nodes),
            encode.text(2, "g"),
            *(encode_bytes(INITIALIZER, each) for each in tensors),
            *(encode_bytes(11, encode.value_info(name, kind, shape)) for name, shape in listed),
            *(encode_bytes(12, encode.value_info(name, FLOAT, None)) for name in outputs),
        ]
    )


def model(nodes: Sequence[bytes], tensors: Sequence[bytes] = (), opset: int | None = 13, **more: Any) -> bytes:
    """An ONNX file."""
    return wrapped(graph(nodes, tensors, **more), opset)


def floats(name: str, *values: float) -> bytes:
    return encode.tensor(name, np.asarray(values, np.float32))


def whole(name: str, *values: int) -> bytes:
    return encode.tensor(name, np.asarray(values, np.int64))


def one(value: float) -> bytes:
    return encode.tensor("s", np.asarray(value, np.float32))


LAYERS = [
    node("Conv", "x k", "c", name="conv"),
    node("Relu", "c", "h", name="relu"),
    node("Flatten", "h", "f", name="flat"),
    node("Gemm", "f w b", "y", name="ip", transB=1),
]
WEIGHTS = [encode.tensor(name, array) for name, array in (("k", K), ("w", W), ("b", B))]
GOOD = model(LAYERS, WEIGHTS)


def weighted(kernel: bytes, *conv: bytes, **more: Any) -> bytes:
    """The good network with another kernel, or another convolution."""
    return model([*(conv or LAYERS[:1]), *LAYERS[1:]], [kernel, *WEIGHTS[1:]], **more)


def external(location: str, offset: int | str = 0, length: int | str | None = K.nbytes, count: int = 1) -> bytes:
    entries = {"location": location, "offset": str(offset)} | ({} if length is None else {"length": str(length)})
    data = b"".join(encode_bytes(13, encode.text(1, key) + encode.text(2, value)) for key, value in entries.items())
    return encode.tensor_head("k", K.shape, FLOAT) + data * count + encode.varint(14, 1)


def conv(**attributes: Any) -> bytes:
    return model([node("Conv", "x k", "y", name="conv", **attributes)], WEIGHTS[:1])


def pool(op_type: str = "MaxPool", **attributes: Any) -> bytes:
    return model([node(op_type, "x", "y", name="pool", **attributes)])


def nested(depth: int) -> bytes:
    """Graphs inside graphs, so deep."""
    inner = graph([node("Relu", "x", "y")], inputs=())
    for _ in range(depth):
        branch = encode.text(1, "then_branch") + encode_bytes(6, inner) + encode.varint(20, 5)
        inner = graph([holding("If", "x", "y", branch)], inputs=())
    branch = encode.text(1, "then_branch") + encode_bytes(6, inner) + encode.varint(20, 5)
    return model([holding("If", "x", "y", branch)])


def endless() -> bytes:
    """A Loop of 2^62 rounds, each with as much to do as the one before."""
    nodes = b"".join(encode_bytes(NODE, each) for each in (node("Identity", "c", "d"), node("Relu", "v", "w")))
    counted, asked, given = (
        encode.value_info(*info) for info in (("i", INT64, ()), ("c", BOOL, ()), ("v", FLOAT, None))
    )
    results = [encode.value_info("d", BOOL, ()), encode.value_info("w", FLOAT, None)]
    body = nodes + encode.text(2, "body") + b"".join(encode_bytes(11, info) for info in (counted, asked, given))
    body += b"".join(encode_bytes(12, info) for info in results)
    attribute = encode.text(1, "body") + encode_bytes(6, body) + encode.varint(20, 5)
    rounds, is_going_on = encode.tensor("rounds", np.asarray(2**62)), encode.tensor("going", np.asarray(True))
    return model([holding("Loop", "rounds going x", "y", attribute)], [rounds, is_going_on])


def functions(width: int, depth: int) -> bytes:
    """Functions that call the next one so many times."""
    made = []
    for level in range(depth):
        calls = [node(f"F{level + 1}", f"t{i}", f"t{i + 1}", "f") for i in range(width)]
        body = b"".join(encode_bytes(7, call) for call in calls)
        ends = encode.text(4, "t0") + encode.text(5, f"t{width}")
        opsets = encode_bytes(9, encode.opset(13)) + encode_bytes(9, encode.opset(1, "f"))
        made.append(encode.text(1, f"F{level}") + ends + body + opsets + encode.text(10, "f"))
    last = encode_bytes(7, node("Relu", "t", "u"))
    opsets = encode_bytes(9, encode.opset(13))
    made.append(encode.text(1, f"F{depth}") + encode.text(4, "t") + encode.text(5, "u") + last + opsets)
    made[-1] += encode.text(10, "f")
    return wrapped(graph([node("F0", "x", "y", "f")]), functions=made, domains=["f"])


def circular_functions() -> bytes:
    made = []
    for name, other in (("F", "G"), ("G", "F")):
        call = encode_bytes(7, node(other, "t", "u", "f"))
        made.append(encode.text(1, name) + encode.text(4, "t") + encode.text(5, "u") + call + encode.text(10, "f"))
    return wrapped(graph([node("F", "x", "y", "f")]), functions=made, domains=["f"])


def doubling(op_type: str, count: int) -> bytes:
    """A tensor that doubles so often: each node reads what the one before made twice."""
    chain = [node(op_type, f"t{i} t{i}", f"t{i + 1}", axis=0) for i in range(count)]
    return model([*chain, node("Add", f"x t{count}", "y")], [encode.tensor("t0", np.ones(2, np.float32))])


RANDOM = random.Random(1).randbytes(5000)

# Bad through and through: exit 2, whatever the verb.
BAD: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\x08",
    "zeros": b"\0" * 10_000,
    "random": RANDOM,
    "text": b"hello, this is no model\n",
    "HTML": b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n",
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "a zip": b"PK\x03\x04" + RANDOM,
    "no graph": encode.varint(1, 8) + encode_bytes(8, encode.opset(13)),
    "two graphs": GOOD + GOOD,
    "a huge length": encode_tag(7, 2) + encode_varint(2**62) + GOOD,
    "a length past ten bytes": encode_tag(7, 2) + b"\xff" * 30,
    "a graph that is a number": encode.varint(7, 5),
    "deep groups": encode_tag(5, 3) * 50_000,
    "a million empty nodes": wrapped(b"\x0a\x00" * 1_000_000),
    "three million empty attributes": model([node("Relu", "x", "y") + b"\x2a\x00" * 3_000_001]),
    "a circle": model([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "a", "y")]),
    "a node that reads itself": model([node("Add", "x y", "y")]),
    "nodes out of order": model([node("Relu", "a", "y"), node("Relu", "x", "a")]),
    "a name that nothing makes": model([node("Add", "x nobody", "y")]),
    "a tensor made twice": model([node("Relu", "x", "y"), node("Abs", "x", "y")]),
    "a node that makes one tensor twice": model([node("Split", "x", "y y", axis=1)]),
    "a node that makes its input anew": model([node("Relu", "x", "x")], outputs=["x"]),
    "two initializers of one name": model(LAYERS, [*WEIGHTS, WEIGHTS[0]]),
    "an input listed twice": model(LAYERS, WEIGHTS, inputs=[("x", (1, 3, 8, 8)), ("x", (1, 3, 8, 8))]),
    "an output that nothing makes": model(LAYERS, WEIGHTS, outputs=["y", "nobody"]),
    "an output without a name": model(LAYERS, WEIGHTS, outputs=["y", ""]),
    "too few bytes": weighted(encode.tensor_head("k", K.shape, FLOAT) + encode_bytes(9, K.tobytes()[:-1])),
    "too many bytes": weighted(encode.tensor_head("k", K.shape, FLOAT) + encode_bytes(9, K.tobytes() + b"\0")),
    "no bytes": weighted(encode.tensor_head("k", K.shape, FLOAT)),
    "too few numbers": weighted(encode.tensor_head("k", K.shape, FLOAT) + encode_bytes(4, K.tobytes()[:-4])),
    "half a number": weighted(encode.tensor_head("k", K.shape, FLOAT) + encode_bytes(4, K.tobytes()[:-1])),
    "numbers of another type": weighted(encode.tensor_head("k", K.shape, FLOAT) + encode_bytes(7, b"\1" * K.size)),
    "a dimension of 2^40": weighted(encode.tensor_head("k", (2**40, 3, 3, 3), FLOAT) + encode_bytes(9, K.tobytes())),
    "dimensions of 2^62": weighted(encode.tensor_head("k", [2**62] * 4, FLOAT) + encode_bytes(9, K.tobytes())),
    "a product of 2^64 and more": weighted(encode.tensor_head("k", (2**32, 2**32, 3, 3), FLOAT) + encode_bytes(9, b"")),
    "a negative dimension": weighted(encode.tensor_head("k", (-8, 3, 3, -3), FLOAT) + encode_bytes(9, K.tobytes())),
    "a thousand dimensions": weighted(encode.tensor_head("k", (1,) * 1000, FLOAT) + encode_bytes(9, b"abcd")),
    "an attribute without a value": model([holding("Conv", "x k", "y", encode.text(1, "pads") + encode.varint(20, 5))]),
    "half a float in an attribute": model(
        [holding("Elu", "x", "y", encode.text(1, "alpha") + encode_bytes(7, b"abc"))]
    ),
    "a thousand graphs inside each other": nested(1000),
    "external data with an absolute path": weighted(external("/etc/passwd", 0, 100)),
    "external data that climbs out": weighted(external("../../etc/passwd", 0, 100)),
    "external data that climbs out later": weighted(external("sub/../../secret.bin")),
    "external data without a place": weighted(external("")),
    "external data in the dark": weighted(external("missing.bin")),
    "external data in a folder": weighted(external("folder.bin")),
    "external data in a pipe": weighted(external("pipe.bin")),
    "external data behind a link that leads out": weighted(external("link.bin")),
    "external data in a folder behind a link": weighted(external("linked/secret.bin")),
    "external data in a device": weighted(external("zero.bin")),
    "external data with a NUL": weighted(external("a\0b")),
    "external data with a line end": weighted(external("a\nb\x1b[31m")),
    "external data with a name of a megabyte": weighted(external("a" * 1_000_000)),
    "external data beyond the end": weighted(external("data.bin", 2**40)),
    "external data with an offset of 2^63": weighted(external("data.bin", 2**63)),
    "external data at minus one": weighted(external("data.bin", -1)),
    "external data at a word": weighted(external("data.bin", "here")),
    "external data at an Arabic digit": weighted(external("data.bin", "\u0663")),
    "external data at a number of a thousand digits": weighted(external("data.bin", "1" * 1000)),
    "external data that is too short": weighted(external("data.bin", 0, 100)),
    "external data of 2^62 bytes": weighted(external("data.bin", 0, 2**62)),
    "external data that the file does not hold": weighted(external("data.bin", 2)),
    "external data that is empty": weighted(external("empty.bin")),
}
for at in (2, 3, 17, 100, len(GOOD) // 3, len(GOOD) // 2, len(GOOD) - 30, len(GOOD) - 1):
    BAD[f"cut off at {at}"] = GOOD[:at]

BIG = {"big": 2**40, "vast": 2**62, "int max": 2**31 - 1, "negative": -(2**31), "least": -(2**63)}
HUGE_INPUT = (1, 3, 10**6, 10**6)


def made(sizes: Sequence[int], *nodes: bytes, **more: Any) -> bytes:
    """A network that makes a constant of these sizes, and these nodes behind it, of which the last gives `y`."""
    return model([node("ConstantOfShape", "s", "t"), *nodes], [whole("s", *sizes)], **more)


MEET = node("Add", "x t", "y")
# Can be read, and is strange or absurd: no traceback, no hang, no memory; yes, no or wrong is not asked here.
ODD: dict[str, bytes] = {
    "nothing in it": wrapped(b""),
    "no nodes": model([], outputs=["x"]),
    "no outputs": model(LAYERS, WEIGHTS, outputs=[]),
    "no inputs": model(
        LAYERS[:1], [WEIGHTS[0], encode.tensor("x", np.ones((1, 3, 8, 8), np.float32))], inputs=(), outputs=["c"]
    ),
    "an input that is the output": model([node("Relu", "x", "y")], outputs=["x", "y"]),
    "an output listed twice": model(LAYERS, WEIGHTS, outputs=["y", "y"]),
    "a constant for an output": model(LAYERS, WEIGHTS, outputs=["y", "k"]),
    "no opset": model(LAYERS, WEIGHTS, None),
    "opset 0": model(LAYERS, WEIGHTS, 0),
    "opset 1": model(LAYERS, WEIGHTS, 1),
    "opset 999": model(LAYERS, WEIGHTS, 999),
    "opset 2^62": model(LAYERS, WEIGHTS, 2**62),
    "opset -1": model(LAYERS, WEIGHTS, -1),
    "IR version 2^60": GOOD + encode.varint(1, 2**60),
    "IR version -1": GOOD + encode.varint(1, -1),
    "a custom domain": wrapped(graph([node("Thing", "x", "y", "my.domain")]), domains=["my.domain"]),
    "a domain that is not imported": model([node("Thing", "x", "y", "my.domain")]),
    "an operator nobody knows": model([node("Konv", "x k", "y")], WEIGHTS[:1]),
    "an operator without a type": model([node("", "x", "y")]),
    "a node that makes nothing": model([*LAYERS, node("Relu", "y", "")], WEIGHTS),
    "a convolution without inputs": model([node("Conv", "", "y")]),
    "a convolution without a weight": model([node("Conv", "x", "y")]),
    "a convolution with a weight left out": model([node("Conv", "x - b", "y")], WEIGHTS),
    "a Gemm of one input": model([node("Gemm", "x", "y")]),
    "a BatchNormalization of two inputs": model([node("BatchNormalization", "x b", "y")], WEIGHTS),
    "a hundred inputs too many": model([node("Relu", "x " + "x " * 100, "y")]),
    "a weight that is the input": model([node("Conv", "x x", "y")]),
    "operators of no inputs": model(
        [
            node("Concat", "", "a", axis=0),
            node("Reshape", "", "b"),
            node("Shape", "", "c"),
            node("Squeeze", "", "d"),
            node("Split", "", "e f"),
            node("Sum", "", "g"),
            node("Max", "", "h"),
            node("Resize", "", "i"),
            node("Tile", "", "j"),
            node("Slice", "", "l"),
            node("Pad", "", "m"),
            node("Constant", "", "n"),
            node("ConstantOfShape", "", "o"),
            node("Where", "", "p"),
            node("Range", "", "q"),
            node("Transpose", "", "r"),
            node("Cast", "", "s"),
            node("Gather", "", "t"),
            node("Size", "", "u"),
            node("Relu", "x", "y"),
        ]
    ),
    "operators of inputs left out": model(
        [
            node(kind, "- - - -", f"o{i}")
            for i, kind in enumerate(
                [
                    "Concat",
                    "Reshape",
                    "Shape",
                    "Size",
                    "Squeeze",
                    "Split",
                    "Sum",
                    "Resize",
                    "Tile",
                    "Slice",
                    "Pad",
                    "ConstantOfShape",
                    "Where",
                    "Range",
                    "Cast",
                    "Transpose",
                    "Gather",
                    "Add",
                    "Identity",
                    "Relu",
                    "Gemm",
                    "MatMul",
                    "Conv",
                    "ConvTranspose",
                    "MaxPool",
                    "Softmax",
                    "Clip",
                    "PRelu",
                ]
            )
        ]
        + [node("Relu", "x", "y")]
    ),
    "attributes of other types": model(
        [
            node("Conv", "x k", "c", pads="same", strides=2, group="a", kernel_shape=1.5, dilations=[0.5, 0.5]),
            node("Flatten", "c", "f", axis="last"),
            node("Transpose", "f", "t", perm="ab"),
            node("Softmax", "t", "y", axis=[1]),
        ],
        WEIGHTS[:1],
    ),
    "more attributes of other types": model(
        [
            node("MaxPool", "x", "a", kernel_shape="ab", strides=[1.0], pads=3, ceil_mode="yes"),
            node("LRN", "a", "b", size="big", alpha=[1], beta="x"),
            node("Elu", "b", "c", alpha="a"),
            node("Concat", "c c", "d", axis="a"),
            node("Gemm", "d w", "e", transA="yes", transB=[1], alpha="a", beta=[1]),
            node("Cast", "e", "f", to="float"),
            node("Cast", "f", "y", to=999),
        ],
        WEIGHTS[1:2],
    ),
    "constants of other types": model(
        [
            node("Constant", "", "a", value=5),
            node("Constant", "", "b", value_floats="abc"),
            node("Constant", "", "c", value_ints=[0.5]),
            node("Constant", "", "d", value_string="abc"),
            node("Constant", "", "e", value_int=2**63 - 1),
            node("Reshape", "x a", "f"),
            node("Reshape", "f b", "g"),
            node("Reshape", "g d", "h"),
            node("Reshape", "h e", "y"),
        ]
    ),
    "a tensor of strings": weighted(encode.tensor_head("k", K.shape, STRING) + encode_bytes(6, b"a") * K.size),
    "a tensor of no type": weighted(encode.tensor_head("k", K.shape, 0) + encode_bytes(9, K.tobytes())),
    "a tensor of type 999": weighted(encode.tensor_head("k", K.shape, 999) + encode_bytes(9, K.tobytes())),
    "a tensor of type -1": weighted(encode.tensor_head("k", K.shape, -1) + encode_bytes(9, K.tobytes())),
    "a weight of int64": weighted(encode.tensor("k", np.ones(K.shape, np.int64))),
    "a weight of bool": weighted(encode.tensor("k", np.ones(K.shape, bool))),
    "a weight of float16": weighted(encode.tensor("k", K.astype(np.float16))),
    "a weight of float64": weighted(encode.tensor("k", K.astype(np.float64))),
    "a weight of complex64": weighted(encode.tensor_head("k", K.shape, 14) + encode_bytes(9, K.tobytes() * 2)),
    "a weight of bfloat16": weighted(encode.tensor_head("k", K.shape, 16) + encode_bytes(9, K.tobytes()[: 2 * K.size])),
    "a weight of NaN and inf": weighted(encode.tensor("k", np.where(K > 0, np.nan, np.inf).astype(np.float32))),
    "a weight without numbers": weighted(encode.tensor("k", np.zeros((0, 3, 3, 3), np.float32))),
    "a weight with no channels": weighted(encode.tensor("k", np.zeros((8, 0, 3, 3), np.float32))),
    "a weight with a kernel of zero": weighted(encode.tensor("k", np.zeros((8, 3, 0, 0), np.float32))),
    "a weight with zero times 2^62": weighted(encode.tensor_head("k", (0, 2**62, 2**62, 3), FLOAT)),
    "a weight that is a number": weighted(encode.tensor("k", np.ones((), np.float32))),
    "a weight of two axes": weighted(encode.tensor("k", np.ones((8, 3), np.float32))),
    "a weight of 64 axes": weighted(encode.tensor("k", np.ones((1,) * 64, np.float32))),
    "a weight for other channels": weighted(encode.tensor("k", np.ones((8, 5, 3, 3), np.float32))),
    "a bias of another length": model([node("Conv", "x k b", "y")], WEIGHTS),
    "a Gemm that does not fit": model([node("Gemm", "x w b", "y")], WEIGHTS),
    "an initializer without a name": model(LAYERS, [*WEIGHTS, encode.tensor("", B)]),
    "an initializer that is an input": model(LAYERS, WEIGHTS, inputs=[("x", (1, 3, 8, 8)), ("k", (1, 1))]),
    "a sparse initializer": wrapped(graph(LAYERS, WEIGHTS[1:]) + encode_bytes(SPARSE, encode_bytes(1, WEIGHTS[0]))),
    "a sparse constant": model(
        [holding("Constant", "", "t", encode.text(1, "sparse_value") + encode_bytes(22, b"")), MEET]
    ),
    "a constant that is damaged": model(
        [
            holding(
                "Constant",
                "",
                "t",
                encode.text(1, "value")
                + encode_bytes(5, encode.tensor_head("", (2**40,), FLOAT))
                + encode.varint(20, 4),
            ),
            MEET,
        ]
    ),
    "a constant of 2^62 bytes": model(
        [
            holding(
                "Constant",
                "",
                "t",
                encode.text(1, "value")
                + encode_bytes(5, encode.tensor_head("", (2**60,), FLOAT) + encode_bytes(9, b"a"))
                + encode.varint(20, 4),
            ),
            node("MatMul", "x t", "y"),
        ]
    ),
    "a constant in a file outside": model(
        [
            holding(
                "Constant",
                "",
                "t",
                encode.text(1, "value") + encode_bytes(5, external("/etc/passwd")) + encode.varint(20, 4),
            ),
            node("Conv", "x t", "y"),
        ]
    ),
    "an input without a type": wrapped(graph(LAYERS, WEIGHTS, inputs=()) + encode_bytes(11, encode.text(1, "x"))),
    "an input without a shape": model(LAYERS, WEIGHTS, inputs={"x": None}),
    "an input without a name": model([node("Constant", "", "y", value=B)], inputs={"": (1,)}),
    "an input of symbols": model(LAYERS, WEIGHTS, inputs={"x": ("n", "c", "h\n", "w")}),
    "an input of strings": model([node("Relu", "x", "y")], kind=STRING),
    "an input of int64": model([node("Relu", "x", "y")], kind=INT64),
    "an input of type 999": model([node("Relu", "x", "y")], kind=999),
    "an input with a size of zero": model(LAYERS, WEIGHTS, inputs={"x": (0, 3, 8, 8)}),
    "an input with no pixels": model(LAYERS, WEIGHTS, inputs={"x": (1, 3, 0, 0)}),
    "an input with negative sizes": model(LAYERS, WEIGHTS, inputs={"x": (1, 3, -8, -8)}),
    "an input of no axes": model(LAYERS, WEIGHTS, inputs={"x": ()}),
    "an input of 40 axes": model([node("Relu", "x", "y")], inputs={"x": (1,) * 40}),
    "an input of 1000 axes": model([node("Relu", "x", "y")], inputs={"x": (1,) * 1000}),
    "an input of 40 axes of 2": model([node("Relu", "x", "y")], inputs={"x": (2,) * 40}),
    "an input of 10^12 pixels": model(LAYERS, WEIGHTS, inputs={"x": HUGE_INPUT}),
    "an input of 10^12 pixels, only activated": model([node("Relu", "x", "y")], inputs={"x": HUGE_INPUT}),
    "an input of 2^62": model(LAYERS, WEIGHTS, inputs={"x": (1, 3, 2**62, 2**62)}),
    "an input of 2^63 - 1": model([node("Relu", "x", "y")], inputs={"x": (2**63 - 1,)}),
    "ten thousand inputs": model([node("Relu", "x0", "y")], inputs={f"x{i}": (1, 3) for i in range(10_000)}),
    "a name that is not UTF-8": GOOD.replace(b"conv", b"c\xff\xed\xa0"),
    "a tensor name that is not UTF-8": GOOD.replace(b"\x0a\x01h", b"\x0a\x01\xff").replace(
        b"\x12\x01h", b"\x12\x01\xff"
    ),
    "an output name that is not UTF-8": model([node("Relu", "x", "y")], outputs=["y"]).replace(b"y", b"\xff"),
    "an operator that is not UTF-8": GOOD.replace(b"Relu", b"\xff\xfe\xed\xa0"),
    "names with line ends and escapes": model(
        [node("Relu", "x", "a", name='c\n\x1b[31m\x7f"\\'), node("Relu", "a", "y", name="../../up")]
    ),
    "tensor names with line ends": wrapped(
        graph(
            [encode.node("Relu", ["x"], ["a\n\x1b[31mb"]), encode.node("Konv", ["a\n\x1b[31mb"], ["../../y"], "\n")],
            outputs=["../../y"],
        )
    ),
    "tensor names for a terminal": model(
        [encode.node("Conv", ["x", "k"], ["\u202e\u2066\x9b31m"], "\u200b")], WEIGHTS, outputs=["\u202e\u2066\x9b31m"]
    ),
    "a name of a megabyte": model(
        [node("Relu", "x", "a", name="r" * 1_000_000), node("Konv", "a", "y", name="k" * 1_000_000)]
    ),
    "nodes of one name": model(
        [node("Relu", "x", "a", name="n"), node("Relu", "a", "b", name="n"), node("Relu", "b", "y", name="-> a")]
    ),
    "graphs inside each other": nested(20),
    "a graph that reads what is not there": model(
        [
            holding(
                "If",
                "x",
                "y",
                encode.text(1, "then_branch")
                + encode_bytes(6, graph([node("Relu", "x", "z")], inputs=(), outputs=["z"]))
                + encode.varint(20, 5),
            )
        ]
    ),
    "functions that call each other": circular_functions(),
    "functions of 2^30 nodes": functions(8, 10),
    "functions 500 deep": functions(1, 500),
    "5000 metadata entries": GOOD + encode_bytes(14, encode.entry("a\n\x1b[31m", "b")) * 5000,
    "unknown fields": GOOD + encode_bytes(5000, b"abc") * 1000,
    "quantised": model(
        [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")],
        [floats("s", 0.1), encode.tensor("z", np.zeros(1, np.uint8))],
    ),
    # Sizes beyond measure, in attributes
    "a group of 0": conv(group=0),
    "a group of -1": conv(group=-1),
    "a group of 2^40": conv(group=2**40),
    "strides of 0": conv(strides=[0, 0]),
    "strides of -1": conv(strides=[-1, -1]),
    "strides of 2^40": conv(strides=[2**40, 2**40]),
    "dilations of 0": conv(dilations=[0, 0]),
    "dilations of 2^40": conv(dilations=[2**40, 2**40]),
    "pads of 2^40": conv(pads=[2**40] * 4),
    "pads of 2^62": conv(pads=[2**62] * 4),
    "pads of 20000": conv(pads=[20_000] * 4),
    "pads of -100": conv(pads=[-100] * 4),
    "too many pads": conv(pads=[1] * 100),
    "one pad": conv(pads=[1]),
    "a kernel_shape of 2^31": conv(kernel_shape=[2**31, 2**31]),
    "a kernel_shape of 0": conv(kernel_shape=[0, 0]),
    "an auto_pad nobody knows": conv(auto_pad="SAMEISH"),
    "auto_pad and pads": conv(auto_pad="SAME_UPPER", pads=[1] * 4),
    "auto_pad and strides of 0": conv(auto_pad="SAME_UPPER", strides=[0, 0]),
    "a transposed convolution of 2^40": model(
        [node("ConvTranspose", "x k", "y", strides=[2**40] * 2)],
        [encode.tensor("k", np.ones((3, 8, 3, 3), np.float32))],
    ),
    "a transposed convolution with strides of 0": model(
        [node("ConvTranspose", "x k", "y", strides=[0, 0], output_shape=[1, 2])],
        [encode.tensor("k", np.ones((3, 8, 3, 3), np.float32))],
    ),
    "a transposed convolution of any output": model(
        [node("ConvTranspose", "x k", "y", output_padding=[2**40] * 2, output_shape=[2**40] * 2)],
        [encode.tensor("k", np.ones((3, 8, 3, 3), np.float32))],
    ),
    "a transposed convolution of group 0": model(
        [node("ConvTranspose", "x k", "y", group=0)], [encode.tensor("k", np.ones((3, 8, 3, 3), np.float32))]
    ),
    "a pool of 2^31": pool(kernel_shape=[2**31] * 2),
    "a pool of 2^31, padded": pool(kernel_shape=[2**31] * 2, pads=[2**31 - 1] * 4),
    "an average pool of 2^30, padded": pool("AveragePool", kernel_shape=[2**30] * 2, pads=[2**30 - 1] * 4),
    "a pool of 0": pool(kernel_shape=[0, 0]),
    "a pool with strides of 0": pool(kernel_shape=[2, 2], strides=[0, 0], ceil_mode=1),
    "a pool with auto_pad and strides of 0": pool(kernel_shape=[2, 2], strides=[0, 0], auto_pad="SAME_LOWER"),
    "a pool without a kernel": pool(),
    "an LRN of 2^40": pool("LRN", size=2**40),
    "an LRN of 0": pool("LRN", size=0),
    "a Softmax of axis 2^40": pool("Softmax", axis=2**40),
    "a Flatten of axis 99": pool("Flatten", axis=99),
    "a Flatten of axis -2^62": pool("Flatten", axis=-(2**62)),
    "a Transpose twice of one axis": pool("Transpose", perm=[0, 0, 1, 1]),
    "a Transpose of axes far out": pool("Transpose", perm=[2**40, 1, 2, -5]),
    "a DepthToSpace of 2^40": pool("DepthToSpace", blocksize=2**40),
    "a DepthToSpace of 0": pool("DepthToSpace", blocksize=0),
    "a SpaceToDepth of 0": pool("SpaceToDepth", blocksize=0),
    "an ArgMax of axis 2^40": pool("ArgMax", axis=2**40),
    "a reduction over axis 2^40": pool("ReduceMean", axes=[2**40]),
    "a Cast to 2^40": pool("Cast", to=2**40),
    "a random tensor of 2^60": model([node("RandomNormal", "", "t", shape=[2**30, 2**30]), MEET]),
    "an EyeLike of 2^40": made([2**20, 2**20], node("EyeLike", "t", "e"), node("Add", "x e", "y")),
    "a OneHot of 2^40": model([node("OneHot", "x d v", "y")], [whole("d", 2**40), floats("v", 0, 1)]),
    # Sizes beyond measure, in constants
    "a constant of 2^40 numbers": made([2**40], MEET),
    "a constant of 2^80 numbers": made([2**40, 2**40], MEET),
    "a constant of -1 numbers": made([-1], MEET),
    "a constant of 2^40 numbers, negated": made([2**40], node("Neg", "t", "u"), node("Add", "x u", "y")),
    "a constant of 2^33 numbers, reduced": made([2**33], node("ReduceSum", "t", "u"), node("Add", "x u", "y")),
    "a constant of 2^28 numbers, cast": made(
        [2**28],
        node("Cast", "t", "u", to=11),
        node("ReduceMax", "u", "v"),
        node("Cast", "v", "w", to=1),
        node("Add", "x w", "y"),
    ),
    "a constant of 2^28 numbers, compared": made(
        [2**28],
        node("Equal", "t t", "u"),
        node("Cast", "u", "v", to=1),
        node("ReduceMax", "v", "w"),
        node("Add", "x w", "y"),
    ),
    "constants of 2^28 numbers, multiplied": made(
        [2**14, 2**14], node("MatMul", "t t", "u"), node("ReduceMax", "u", "v"), node("Add", "x v", "y")
    ),
    "constants of 2^15 by 2^15, made": model(
        [
            node("ConstantOfShape", "s", "t"),
            node("ConstantOfShape", "r", "u"),
            node("MatMul", "t u", "v"),
            node("ReduceMax", "v", "w"),
            node("Add", "x w", "y"),
        ],
        [whole("s", 2**15, 1), whole("r", 1, 2**15)],
    ),
    "constants of 2^20 by 2^20, spread": model(
        [
            node("ConstantOfShape", "s", "t"),
            node("ConstantOfShape", "r", "u"),
            node("Greater", "t u", "v"),
            node("Cast", "v", "w", to=1),
            node("Add", "x w", "y"),
        ],
        [whole("s", 2**20, 1), whole("r", 1, 2**20)],
    ),
    "constants of 2^20 by 2^20, chosen": model(
        [
            node("ConstantOfShape", "s", "t"),
            node("ConstantOfShape", "r", "u"),
            node("Greater", "t t", "v"),
            node("Where", "v t u", "w"),
            node("Add", "x w", "y"),
        ],
        [whole("s", 2**20, 1), whole("r", 1, 2**20)],
    ),
    "constants of 2^20 by 2^20, divided": model(
        [
            node("ConstantOfShape", "s", "t"),
            node("ConstantOfShape", "r", "u"),
            node("Div", "t u", "v"),
            node("Add", "x v", "y"),
        ],
        [whole("s", 2**20, 1), whole("r", 1, 2**20)],
    ),
    "constants of 2^20 by 2^20, clipped": model(
        [
            node("ConstantOfShape", "s", "t"),
            node("ConstantOfShape", "r", "u"),
            node("Clip", "t u", "v"),
            node("Add", "x v", "y"),
        ],
        [whole("s", 2**20, 1), whole("r", 1, 2**20)],
    ),
    "a constant of 2^28 numbers, joined": made(
        [2**28], node("Concat", "t t t t t t t t", "u", axis=0), node("ReduceMax", "u", "v"), node("Add", "x v", "y")
    ),
    "a constant of 2^28 numbers, sliced": model(
        [
            node("ConstantOfShape", "s", "t"),
            node("Slice", "t a b", "u"),
            node("ReduceMax", "u", "v"),
            node("Add", "x v", "y"),
        ],
        [whole("s", 2**28), whole("a", 0), whole("b", 2**62)],
    ),
    "a constant of 2^28 numbers, sliced step by step": model(
        [
            node("ConstantOfShape", "s", "t"),
            node("Slice", "t a b c d", "u"),
            node("ReduceMax", "u", "v"),
            node("Add", "x v", "y"),
        ],
        [whole("s", 2**28), whole("a", 0), whole("b", 2**62), whole("c", 0), whole("d", 1)],
    ),
    "a constant of 2^28 numbers, turned": model(
        [
            node("ConstantOfShape", "s", "t"),
            node("Transpose", "t", "u"),
            node("Reshape", "u m", "v"),
            node("ReduceMax", "v", "w"),
            node("Add", "x w", "y"),
        ],
        [whole("s", 2**14, 2**14), whole("m", -1)],
    ),
    "a constant of 2^28 numbers in 2^28 parts": made(
        [2**28], node("Split", "t", "u v", num_outputs=2**28), node("Add", "x u", "y"), opset=18
    ),
    "a constant tiled 2^40 times": model(
        [node("Tile", "t r", "u"), node("Add", "x u", "y")], [floats("t", 1, 2), whole("r", 2**40)]
    ),
    "a constant tiled -1 times": model(
        [node("Tile", "t r", "u"), node("Add", "x u", "y")], [floats("t", 1, 2), whole("r", -1)]
    ),
    "an input tiled 2^40 times": model([node("Tile", "x r", "y")], [whole("r", 1, 1, 2**40, 1)]),
    "an input tiled 20000 times": model([node("Tile", "x r", "y")], [whole("r", 1, 1, 20000, 20000)]),
    "a constant expanded to 2^60": model(
        [node("Expand", "t r", "u"), node("Add", "x u", "y")], [floats("t", 1), whole("r", 2**60)]
    ),
    "an input expanded to 2^40": model([node("Expand", "x r", "y")], [whole("r", 2**40, 1, 1, 1, 1)]),
    "a range of 2^40": model(
        [node("Range", "a b c", "u"), node("Add", "x u", "y")],
        [encode.tensor(n, np.asarray(v, np.int64)) for n, v in (("a", 0), ("b", 2**40), ("c", 1))],
    ),
    "a range without steps": model(
        [node("Range", "a b c", "u"), node("Add", "x u", "y")],
        [encode.tensor(n, np.asarray(v, np.int64)) for n, v in (("a", 0), ("b", 5), ("c", 0))],
    ),
    "a range to NaN": model(
        [node("Range", "a b c", "u"), node("Add", "x u", "y")],
        [encode.tensor(n, np.asarray(v, np.float32)) for n, v in (("a", 0), ("b", np.nan), ("c", 1))],
    ),
    "a range to infinity": model(
        [node("Range", "a b c", "u"), node("Add", "x u", "y")],
        [encode.tensor(n, np.asarray(v, np.float32)) for n, v in (("a", 0), ("b", np.inf), ("c", 1))],
    ),
    "a constant doubled 60 times": doubling("Concat", 60),
    "a constant reshaped to what does not fit": model(
        [node("Reshape", "t r", "u"), node("Add", "x u", "y")], [floats("t", 1, 2), whole("r", 2**40, -1)]
    ),
    "an input reshaped to what does not fit": model([node("Reshape", "x r", "y")], [whole("r", 2**40, -1)]),
    "an input reshaped with two -1": model([node("Reshape", "x r", "y")], [whole("r", -1, -1)]),
    "an input reshaped to 60 axes": model([node("Reshape", "x r", "y")], [whole("r", *[1] * 60, 192)]),
    "an input reshaped by floats": model([node("Reshape", "x r", "y")], [floats("r", 1, 192)]),
    "an input reshaped by a matrix": model([node("Reshape", "x r", "y")], [encode.tensor("r", np.array([[1, 192]]))]),
    "an input reshaped by nothing": model([node("Reshape", "x r", "y")], [whole("r")]),
    "an input unsqueezed far out": model([node("Unsqueeze", "x r", "y")], [whole("r", 2**40)]),
    "an input unsqueezed 60 times": model([node("Unsqueeze", "x r", "y")], [whole("r", *range(60))]),
    "an input unsqueezed twice at one place": model([node("Unsqueeze", "x r", "y")], [whole("r", 0, 0)]),
    "an input squeezed far out": model([node("Squeeze", "x r", "y")], [whole("r", 2**40)]),
    "an input padded by 2^40": model([node("Pad", "x r", "y")], [whole("r", *[2**40] * 8)]),
    "an input padded by 20000": model([node("Pad", "x r", "y")], [whole("r", *[0, 0, 20000, 20000] * 2)]),
    "an input padded by -2^40": model([node("Pad", "x r", "y")], [whole("r", *[-(2**40)] * 8)]),
    "an input padded by too few": model([node("Pad", "x r", "y")], [whole("r", 1)]),
    "an input padded by 2^31 before a convolution": model(
        [node("Pad", "x r", "p"), node("Conv", "p k", "y")], [whole("r", *[0, 0, 2**31, 2**31] * 2), WEIGHTS[0]]
    ),
    "an input resized to 2^40": model([node("Resize", "x - - r", "y")], [whole("r", 1, 3, 2**40, 2**40)]),
    "an input resized by 1e30": model([node("Resize", "x - r", "y")], [floats("r", 1, 1, 1e30, 1e30)]),
    "an input resized by 0": model([node("Resize", "x - r", "y")], [floats("r", 1, 1, 0, 0)]),
    "an input resized by NaN": model([node("Resize", "x - r", "y")], [floats("r", 1, 1, np.nan, np.nan)]),
    "an input resized by -1": model([node("Resize", "x - r", "y")], [floats("r", 1, 1, -1, -1)]),
    "an input resized by 50": model([node("Resize", "x - r", "y", mode="linear")], [floats("r", 1, 1, 50, 50)]),
    "an input resized by too few": model([node("Resize", "x - r", "y")], [floats("r", 2)]),
    "an input resized in a mode nobody knows": model(
        [node("Resize", "x - r", "y", mode="magic", coordinate_transformation_mode="x")], [floats("r", 1, 1, 2, 2)]
    ),
    "an input sliced by too few": model([node("Slice", "x a b c", "y")], [whole("a", 1, 1), whole("b", 1), whole("c")]),
    "an input sliced at 2^62": model([node("Slice", "x a b", "y")], [whole("a", 2**62), whole("b", 2**62)]),
    "an input sliced with steps of 0": model(
        [node("Slice", "x a b c d", "y")], [whole("a", 0), whole("b", 1), whole("c", 0), whole("d", 0)]
    ),
    "an input sliced to nothing": model([node("Slice", "x a b", "y")], [whole("a", 5), whole("b", 5)]),
    "an input gathered far out": model([node("Gather", "x a", "y")], [whole("a", 2**40)]),
    "a constant gathered far out": model(
        [node("Gather", "b a", "u"), node("Add", "x u", "y")], [WEIGHTS[2], whole("a", 2**40)]
    ),
    "a constant gathered by floats": model(
        [node("Gather", "b a", "u"), node("Add", "x u", "y")], [WEIGHTS[2], floats("a", 0.5)]
    ),
    "a constant gathered at an axis far out": model(
        [node("Gather", "b a", "u", axis=99), node("Add", "x u", "y")], [WEIGHTS[2], whole("a", 0)]
    ),
    "a split of 2^40": model([node("Split", "x r", "y z", axis=1)], [whole("r", 2**40, 2**40)]),
    "a split of a negative part": model([node("Split", "x r", "y z", axis=1)], [whole("r", -5, 8)]),
    "a split into more parts than there are": model([node("Split", "x", "y z a b c d e", axis=1)]),
    "a split into nothing": model([node("Split", "x", "y", axis=99)]),
    "joined at an axis far out": pool("Concat", axis=99),
    "joined of what does not fit": model([node("Concat", "x k", "y", axis=0)], WEIGHTS[:1]),
    "added of what does not fit": model([node("Add", "x b", "y")], WEIGHTS[2:]),
    "a product of what does not fit": model([node("MatMul", "x w", "y")], WEIGHTS[1:2]),
    "a product of numbers": model([node("MatMul", "x t", "y")], [one(2)]),
    "a sum spread over 2^40": model(
        [node("Expand", "x r", "e"), node("Add", "e x", "y")], [whole("r", 2**20, 1, 1, 1)]
    ),
    "a sum spread over 2^40 by a constant": made([2**20, 1, 1, 1], MEET),
    "a shape that no batch gives": model(
        [node("Shape", "x", "s"), node("ConstantOfShape", "s", "t"), node("Tile", "t s", "u"), node("Add", "x u", "y")]
    ),
    "a shape raised to a power": model(
        [
            node("Shape", "x", "s"),
            node("Mul", "s s", "a"),
            node("Mul", "a a", "b"),
            node("Mul", "b b", "c"),
            node("Mul", "c c", "d"),
            node("Mul", "d d", "e"),
            node("ConstantOfShape", "e", "t"),
            MEET,
        ]
    ),
    "a power of integers": model(
        [node("Pow", "a b", "c"), node("ConstantOfShape", "c", "t"), MEET], [whole("a", 2), whole("b", 2**62)]
    ),
    "a division of integers by zero": model(
        [node("Div", "a b", "c"), node("ConstantOfShape", "c", "t"), MEET], [whole("a", 2), whole("b", 0)]
    ),
    "a remainder of integers by zero": model(
        [node("Mod", "a b", "c"), node("ConstantOfShape", "c", "t"), MEET], [whole("a", 2), whole("b", 0)]
    ),
    "a negative power of integers": model(
        [node("Pow", "a b", "c"), node("ConstantOfShape", "c", "t"), MEET], [whole("a", 2), whole("b", -1)]
    ),
    "a TopK of 2^40": model([node("TopK", "x a", "y z")], [whole("a", 2**40)]),
    "a Clip by many numbers": model([node("Clip", "x b b", "y")], WEIGHTS[2:]),
    "a PRelu of another length": model([node("PRelu", "x b", "y")], WEIGHTS[2:]),
    "a BatchNormalization of other lengths": model([node("BatchNormalization", "x b b b b", "y")], WEIGHTS[2:]),
    "a BatchNormalization with a negative variance": model(
        [node("BatchNormalization", "x b b b b", "y", epsilon=-1e30)], [floats("b", -1, 0, 1)]
    ),
    "an LSTM": model([node("LSTM", "x w w", "y", hidden_size=2**40)], WEIGHTS[1:2]),
    "a loop without end": endless(),
    "a thousand of one layer": model(
        [node("Relu", f"t{i}" if i else "x", f"t{i + 1}" if i < 999 else "y") for i in range(1000)]
    ),
    "external data twice": weighted(external("data.bin", 0, K.nbytes, 2)),
    "external data without a length": weighted(external("data.bin", 0, None)),
    "external data in the model itself": weighted(external("external data in the model itself.onnx", 0)),
    "external data in a folder inside": weighted(external("sub/./data.bin")),
}
for seed in range(40):  # Bits turned over anywhere but in the numbers.
    turned = bytearray(GOOD)
    dice = random.Random(seed)
    places = [i for i in range(len(GOOD)) if i < 200 or i > len(GOOD) - 120]
    for _ in range(1 + seed // 10):
        turned[dice.choice(places)] ^= 1 << dice.randrange(8)
    ODD[f"bit-flipped {seed}"] = bytes(turned)
for name, size in BIG.items():
    ODD[f"a kernel of {name}"] = pool(kernel_shape=[size, size])
    ODD[f"a reshape to {name}"] = model([node("Reshape", "x r", "y")], [whole("r", size, 3)])
    ODD[f"a constant {name}"] = made([size], MEET)

# Large, where a reader that is not careful takes minutes or gigabytes.
HUGE: dict[str, bytes] = {
    "20000 layers": model(
        [node("Relu", f"t{i}" if i else "x", f"t{i + 1}" if i < 19_999 else "y") for i in range(20_000)]
    ),
    "20000 constants": model(
        [*(node("Constant", "", f"c{i}", value_float=1.0) for i in range(20_000)), node("Relu", "x", "y")]
    ),
    "3000 convolutions": model(
        [
            node("Conv", f"{f't{i - 1}' if i else 'x'} k", f"t{i}" if i < 2999 else "y", name=f"n{i}", pads=[1] * 4)
            for i in range(3000)
        ],
        [encode.tensor("k", np.ones((3, 3, 3, 3), np.float32))],
    ),
    "50000 inputs of one node": model([node("Concat", "x " * 50_000, "y", axis=1)]),
    "50000 outputs of one node": model([node("Split", "x", "y " + " ".join(f"s{i}" for i in range(50_000)), axis=1)]),
    "a million integers in an attribute": model([node("Conv", "x k", "y", pads=[1] * 1_000_000)], WEIGHTS[:1]),
    "ten thousand views of a weight": model(
        [*(node("Identity", f"v{i}" if i else "k", f"v{i + 1}") for i in range(10_000)), node("Conv", "x v10000", "y")],
        WEIGHTS[:1],
    ),
    "ten thousand reads of a view": model(
        [
            *(node("Identity", f"v{i}" if i else "k", f"v{i + 1}") for i in range(3000)),
            *(node("Conv", f"x v{i + 1}", f"c{i}") for i in range(3000)),
            node("Relu", "c0", "y"),
        ],
        WEIGHTS[:1],
    ),
    "a constant reshaped ten thousand times": model(
        [
            *(node("Reshape", f"{f'v{i}' if i else 'b'} r", f"v{i + 1}") for i in range(10_000)),
            node("Add", "x v10000", "y"),
        ],
        [WEIGHTS[2], whole("r", 10)],
    ),
    "shapes of shapes": model(
        [
            node("Shape", "x", "s0"),
            *(node("Add", f"s{i} s{i}", f"s{i + 1}") for i in range(3000)),
            node("Reshape", "x s3000", "y"),
        ]
    ),
}
