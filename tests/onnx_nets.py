"""ONNX networks for tests: the onnx package's light networks with weights that mean something, and tiny ones.

The light networks come as graphs only: every weight is a ConstantOfShape of 0.02, and what they give does not depend
on their input. Filled with seeded He-normal weights and sane BatchNorm statistics they are as hard as trained ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LIGHT = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
INPUT_SHAPE = (1, 3, 224, 224)

_VIEWS = ("Unsqueeze", "Reshape", "Identity")


def light(name: str) -> onnx.ModelProto:
    """The light network `name` as the onnx package ships it."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    return onnx.load(folder / f"light_{name}.onnx")


def filled(name: str, folder: Path) -> Path:
    """Write the light network `name` with seeded weights into `folder`, unless it is there, and return its path.

    Every weight is an initializer of the same name (and a graph input too, as IR 3 asks); nodes, their names and
    tensors stay. Activations neither die nor explode, and two different inputs give different outputs.
    """
    path = folder / f"{name}.onnx"
    if path.exists():
        return path
    model = light(name)
    shapes = {t.name: tuple(numpy_helper.to_array(t)) for t in model.graph.initializer if t.data_type == 7}
    floats = {t.name: tuple(t.dims) for t in model.graph.initializer if t.data_type == 1}
    made = [node for node in model.graph.node if node.op_type == "ConstantOfShape"]
    weights = floats | {node.output[0]: tuple(int(n) for n in shapes[node.input[0]]) for node in made}
    roles = _roles(model.graph)
    unused = {node.input[0] for node in made}
    kept = [t for t in model.graph.initializer if t.name not in weights and t.name not in unused]
    nodes = [node for node in model.graph.node if node.op_type != "ConstantOfShape"]
    inputs = [v for v in model.graph.input if v.name not in weights and v.name not in unused]
    for field, values in (("initializer", kept), ("node", nodes), ("input", inputs)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(copies)
    for tensor, shape in sorted(weights.items()):
        if tensor not in roles:
            continue  # Caffe2's leftovers, which nothing reads.
        array = _values(roles[tensor], shape, np.random.default_rng(zlib.crc32(f"{name}/{tensor}".encode())))
        model.graph.initializer.append(numpy_helper.from_array(array, tensor))
        model.graph.input.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape))
    staged = folder / f".{name}.onnx"
    staged.write_bytes(model.SerializeToString())
    return staged.rename(path)


def _roles(graph: onnx.GraphProto) -> dict[str, tuple[str, int]]:
    """Return, for each tensor, the type and the input of the node that reads it; views are looked through."""
    readers = {name: (node, i) for node in graph.node for i, name in enumerate(node.input)}
    roles = {}
    for tensor, (node, i) in readers.items():
        while node.op_type in _VIEWS and node.output[0] in readers:
            node, i = readers[node.output[0]]
        roles[tensor] = (node.op_type, i)
    return roles


def _values(role: tuple[str, int], shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return random numbers of `shape` for the input `role[1]` of an operator `role[0]`."""
    normal = rng.standard_normal(shape, dtype=np.float32)
    if role in (("Conv", 1), ("Gemm", 1)):
        fan_in = shape[-1] if role[0] == "Gemm" else int(np.prod(shape[1:]))
        weight = normal * np.float32(np.sqrt(2 / fan_in))
        if fan_in <= 9:  # Depthwise.
            return weight
        # Of a filter's mean half goes: behind ReLUs, all of it left, one direction drowns what the input says.
        return weight - np.float32(0.5) * weight.mean(axis=tuple(range(1, len(shape))), keepdims=True)
    if role in (("BatchNormalization", 1), ("BatchNormalization", 4), ("Mul", 1)):
        return np.exp(np.float32(0.1) * normal)
    return np.float32(0.02) * normal


def pictures(seed: int) -> np.ndarray:
    """An input for the light networks: blocks of colour on a coloured ground, with noise, of about unit size.

    White noise of one size is all alike to a network that pools globally.
    """
    rng = np.random.default_rng(seed)
    ground = 2 * rng.standard_normal((1, 3, 1, 1))
    blocks = np.kron(rng.standard_normal((1, 3, 7, 7)), np.ones((1, 1, 32, 32)))
    return (ground + blocks + 0.3 * rng.standard_normal(INPUT_SHAPE)).astype(np.float32)


def tiny(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    weights: Mapping[str, np.ndarray] | None = None,
    opset: int = 13,
    ir_version: int = 8,
    name: str = "net",
) -> Path:
    """Write `folder`/`name`.onnx with these nodes (see `node`) and return its path; inputs are float32.

    The outputs' shapes are left to whoever reads the file. Below IR 4 the weights are graph inputs too.
    """
    tensors = [numpy_helper.from_array(np.asarray(array), key) for key, array in (weights or {}).items()]
    infos = [helper.make_tensor_value_info(key, TensorProto.FLOAT, list(shape)) for key, shape in inputs.items()]
    if ir_version < 4:
        infos += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    results = [helper.make_tensor_value_info(key, TensorProto.FLOAT, None) for key in outputs]
    graph = helper.make_graph(list(nodes), name, infos, results, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def node(op_type: str, inputs: str, outputs: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    """Return a node; `inputs` and `outputs` are names with blanks between, `-` for one left out."""
    names = ["" if text == "-" else text for text in inputs.split()]
    return helper.make_node(op_type, names, outputs.split(), name=name or None, **attributes)
