"""Extracts, folds and convolutions of ONNX graphs: what the file says then, and that it computes the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from surgery import formats
from surgery.errors import ModelError, PlanError
from surgery.folding import folding
from surgery.model import Convolve, Edit, Extract, Model
from surgery.runtime import ENGINES, Job
from tests.engines import require_onnxruntime
from tests.onnx_nets import filled, node, pictures, tiny

RNG = np.random.default_rng(0)
SHAPE = (2, 6, 9, 8)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return RNG.uniform(0.5, 1.5, shape).astype(np.float32)


NORM = {"g": positive(8), "h": normal(8), "m": normal(8), "v": positive(8)}
CONV = node("Conv", "x w", "c", "conv")
W = {"w": normal(8, 6, 3, 3)}
BN = node("BatchNormalization", "c g h m v", "n", "norm", epsilon=1e-3)
RELU = node("Relu", "n", "y", "relu")
UP = node("Unsqueeze", "s", "u", "up", axes=[1, 2])

# name -> (nodes, weights, keyword arguments of `tiny`, what each node takes in, the nodes left)
FOLDS: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], dict[str, Any], dict[str, str], str]] = {
    "a convolution without a bias": ([CONV, BN, RELU], {**W, **NORM}, {}, {"conv": "norm"}, ""),
    "one with a bias": (
        [node("Conv", "x w b", "c", "conv", pads=[1, 0, 2, 1], strides=[2, 1]), BN, RELU],
        {**W, **NORM, "b": normal(8)},
        {},
        {"conv": "norm"},
        "",
    ),
    "IR 3": ([CONV, BN, RELU], {**W, **NORM}, {"ir_version": 3, "opset": 9}, {"conv": "norm"}, ""),
    "a bias that others read": (
        [node("Conv", "x w b", "c", "conv"), BN, RELU, node("Conv", "x k b", "z", "other")],
        {**W, **NORM, "b": normal(8), "k": normal(8, 6, 1, 1)},
        {"outputs": ["y", "z"]},
        {"conv": "norm"},
        "",
    ),
    "arithmetic with a number per channel": (
        [CONV, node("Mul", "c s", "d", "mul"), node("Sub", "d t", "e", "sub"), node("Div", "e q", "n", "div"), RELU],
        {**W, "s": normal(1, 8, 1, 1), "t": normal(8, 1, 1), "q": positive(8, 1, 1)},
        {},
        {"conv": "mul sub div"},
        "",
    ),
    "the constant in front": (
        [CONV, node("Sub", "t c", "e", "sub"), node("Add", "t e", "n", "add"), RELU],
        {**W, "t": normal(8, 1, 1)},
        {},
        {"conv": "sub add"},
        "",
    ),
    "a constant behind views": (
        [CONV, UP, node("Mul", "c u", "n", "mul"), RELU],
        {**W, "s": normal(8)},
        {"opset": 9},
        {"conv": "mul"},
        "",
    ),
    "a number for all": ([CONV, node("Mul", "c s", "n", "mul"), RELU], {**W, "s": normal(1)}, {}, {"conv": "mul"}, ""),
    "a transposed convolution in groups": (
        [node("ConvTranspose", "x w b", "c", "conv", group=2), BN, RELU],
        {**NORM, "w": normal(6, 4, 3, 3), "b": normal(8)},
        {},
        {"conv": "norm"},
        "",
    ),
    "Gemm with alpha and beta": (
        [node("Flatten", "x", "f"), node("Gemm", "f w b", "c", "fc", alpha=0.5, beta=2.0), BN, RELU],
        {**NORM, "w": normal(432, 8), "b": normal(1, 8)},
        {},
        {"fc": "norm"},
        "",
    ),
    "Gemm without what it adds": (
        [node("Flatten", "x", "f"), node("Gemm", "f w", "c", "fc", transB=1, beta=2.0), BN, RELU],
        {**NORM, "w": normal(8, 432)},
        {},
        {"fc": "norm"},
        "",
    ),
    "MatMul and Add": (
        [node("Flatten", "x", "f"), node("MatMul", "f w", "c", "fc"), node("Add", "c t", "n", "add"), RELU],
        {"w": normal(432, 8), "t": normal(8)},
        {},
        {"fc": "add"},
        "",
    ),
    "weights of Constant nodes": (
        [
            node("Constant", "", "w", value=onnx.numpy_helper.from_array(normal(8, 6, 3, 3))),
            node("Constant", "", "b", value=onnx.numpy_helper.from_array(normal(8))),
            node("Conv", "x w b", "c", "conv"),
            BN,
            RELU,
        ],
        NORM,
        {},
        {"conv": "norm"},
        "",
    ),
    "weights of one number repeated": (
        [
            node("ConstantOfShape", "shape", "w", value=onnx.helper.make_tensor("v", 1, [1], [0.5])),
            CONV,
            BN,
            RELU,
        ],
        {**NORM, "shape": np.array([8, 6, 3, 3])},
        {},
        {"conv": "norm"},
        "",
    ),
    "read elsewhere": (
        [CONV, BN, RELU, node("Tanh", "c", "z", "tanh")],
        {**W, **NORM},
        {"outputs": ["y", "z"]},
        {},
        "norm",
    ),
    "an output itself": ([CONV, BN, RELU], {**W, **NORM}, {"outputs": ["y", "c"]}, {}, "norm"),
    "the output in the end": ([CONV, BN], {**W, **NORM}, {"outputs": ["n"]}, {"conv": "norm"}, ""),
    "a number per column": ([CONV, node("Mul", "c s", "n", "mul"), RELU], {**W, "s": normal(6)}, {}, {}, "mul"),
    "a shared weight": (
        [CONV, BN, RELU, node("Conv", "x w", "z", "other")],
        {**W, **NORM},
        {"outputs": ["y", "z"]},
        {},
        "norm",
    ),
    "not behind a linear node": (
        [node("Relu", "x", "c", "r"), BN, RELU],
        {"g": positive(6), "h": normal(6), "m": normal(6), "v": positive(6)},
        {},
        {},
        "norm",
    ),
    "two tensors added": ([CONV, node("Add", "c c", "n", "add"), RELU], W, {}, {}, ""),
}


def build(folder: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], **more: Any) -> Model:
    path = tiny(folder, nodes, weights=weights, **{"inputs": {"x": SHAPE}, "outputs": ["y"], **more})
    # The checker wants the outputs' shapes; what is said of the tensors between is to go with them.
    path.write_bytes(onnx.shape_inference.infer_shapes(onnx.load(path)).SerializeToString())
    return formats.load([path])


def saved(model: Model, folder: Path, *edits: Edit) -> tuple[Path, ...]:
    folder.mkdir()
    paths = model.format.save(model.edit(*edits), folder, "net")
    onnx.checker.check_model(str(paths[0]), full_check=True)
    return paths


def run(path: Path, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    return dict(ENGINES["onnxruntime"].run(Job((path,), [feeds]))[0])


def assert_equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert second[name].shape in (value.shape, (*value.shape, 1, 1))
        gap = np.linalg.norm(second[name].reshape(value.shape).astype(np.float64) - value)
        assert gap <= tolerance * np.linalg.norm(value), name


@pytest.mark.parametrize("name", FOLDS)
def test_what_folds_computes_the_same(name: str, tmp_path: Path) -> None:
    require_onnxruntime()
    nodes, weights, more, expected, left = FOLDS[name]
    model = build(tmp_path, nodes, weights, **more)
    found = folding(model)
    assert {fold.key: " ".join(fold.absorbed) for fold in found.folds} == expected
    assert " ".join(refusal.key for refusal in found.left) == left
    (path,) = saved(model, tmp_path / "folded", *found.folds)
    source = model.native.graph.path
    if not expected:
        assert path.read_bytes() == source.read_bytes()
        return
    x = normal(*SHAPE)
    assert_equal(run(source, x=x), run(path, x=x))
    # Nothing is left of what was taken in, and nothing else went.
    graph = onnx.load(path).graph
    read = {tensor for node in graph.node for tensor in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read
    assert {info.name for info in graph.input} <= read
    assert not {key for keys in expected.values() for key in keys.split()} & {node.name for node in graph.node}
    again = formats.load([path])
    assert not folding(again).folds


REASONS = {
    "read elsewhere": "its input 'c' is needed as it is: 'tanh' reads it too",
    "an output itself": "its input 'c' is needed as it is: the network gives it as an output",
    "a number per column": "its constant of shape (6,) is not one number per channel",
    "a shared weight": "'conv' (Conv) before it cannot take it in: its weights are shared with node 'other'",
    "not behind a linear node": "'r' (Relu) before it cannot take it in: not a convolution or fully connected layer",
}


@pytest.mark.parametrize("name", REASONS)
def test_what_cannot_fold_is_listed_with_the_reason(name: str, tmp_path: Path) -> None:
    nodes, weights, more, _, _ = FOLDS[name]
    (left,) = folding(build(tmp_path, nodes, weights, **more)).left
    assert left.reason.startswith(REASONS[name])


def test_what_no_fold_concerns_keeps_its_bytes(tmp_path: Path) -> None:
    custom = onnx.helper.make_node("Odd", ["y"], ["z"], "odd", domain="my.own", depth=3)
    path = tiny(tmp_path, [CONV, BN, RELU, custom], inputs={"x": SHAPE}, weights={**W, **NORM}, outputs=["z"])
    before = onnx.load(path)
    before.opset_import.append(onnx.helper.make_opsetid("my.own", 1))
    before.metadata_props.add(key="made by", value="hand")
    path.write_bytes(before.SerializeToString())
    model = formats.load([path])
    edited = model.edit(*folding(model).folds)
    (result,) = edited.format.save(edited, tmp_path, "folded")
    after = onnx.load(result)
    assert after.metadata_props == before.metadata_props
    assert [x.SerializeToString() for x in after.graph.node[1:]] == [
        x.SerializeToString() for x in before.graph.node[2:]
    ]
    assert [x.name for x in after.graph.initializer] == ["w", "conv_bias"]


def test_external_weights_leave_their_data_file_with_what_read_them(tmp_path: Path) -> None:
    require_onnxruntime()
    weights = {**W, "k": normal(8, 8, 3, 3)}
    nodes = [CONV, node("Conv", "c k", "y", "second")]
    path = build(tmp_path, nodes, weights).native.graph.path
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    model = formats.load([path])
    paths = saved(model, tmp_path / "part", Extract(("c",)))
    assert [x.name for x in paths] == ["net.onnx", "net.onnx.data"]
    assert paths[1].read_bytes() == W["w"].tobytes()
    x = normal(*SHAPE)
    np.testing.assert_array_equal(run(paths[0], x=x)["c"], run(path_with(path, "c"), x=x)["c"])


def path_with(path: Path, name: str) -> Path:
    """Return a copy of the model that gives one more tensor."""
    from surgery.formats.onnx.outputs import with_outputs

    target = path.with_name("more.onnx")
    with_outputs(path, [name], target)
    return target


CHAIN = [
    node("Conv", "x w b", "c", "conv"),
    node("Relu", "c", "r", "relu"),
    node("Constant", "", "k", value=onnx.numpy_helper.from_array(normal(8, 1, 1))),
    node("Mul", "r k", "d", "mul"),
    node("Sigmoid", "d", "y", "end"),
    node("Tanh", "r", "z", "side"),
]
CHAIN_WEIGHTS = {**W, "b": normal(8), "unread": normal(3)}


def chain(folder: Path, **more: Any) -> Model:
    return build(folder, CHAIN, CHAIN_WEIGHTS, **{"outputs": ["y", "z"], **more})


def test_what_an_output_does_not_need_goes(tmp_path: Path) -> None:
    require_onnxruntime()
    model = chain(tmp_path)
    (path,) = saved(model, tmp_path / "part", Extract(("d",)))
    after, before = onnx.load(path), onnx.load(model.native.graph.path)
    assert [x.SerializeToString() for x in after.graph.node] == [x.SerializeToString() for x in before.graph.node[:4]]
    assert [x.name for x in after.graph.output] == ["d"]
    assert [x.name for x in after.graph.initializer] == ["w", "b", "unread"]
    (side,) = saved(model, tmp_path / "side", Extract(("z",)))
    assert [x.op_type for x in onnx.load(side).graph.node] == ["Conv", "Relu", "Tanh"]
    x = normal(*SHAPE)
    np.testing.assert_array_equal(run(side, x=x)["z"], run(model.native.graph.path, x=x)["z"])


@pytest.mark.parametrize("ir_version", [3, 8])
def test_a_graph_can_begin_in_its_middle(ir_version: int, tmp_path: Path) -> None:
    require_onnxruntime()
    model = chain(tmp_path, ir_version=ir_version)
    (path,) = saved(model, tmp_path / "part", Extract(("y",), ("r",)))
    graph = onnx.load(path).graph
    assert [x.op_type for x in graph.node] == ["Constant", "Mul", "Sigmoid"]
    fed = [x for x in graph.input if x.name not in {t.name for t in graph.initializer}]
    assert [(x.name, [d.dim_value for d in x.type.tensor_type.shape.dim]) for x in fed] == [("r", [2, 8, 7, 6])]
    x = normal(*SHAPE)
    whole = run(path_with(model.native.graph.path, "r"), x=x)
    np.testing.assert_array_equal(run(path, r=whole["r"])["y"], whole["y"])


def test_an_extract_may_begin_at_an_output_of_which_only_the_type_is_stated(tmp_path: Path) -> None:
    require_onnxruntime()
    nodes = [node("Relu", "x", "r"), node("Neg", "r", "y")]
    path = tiny(tmp_path, nodes, inputs={"x": SHAPE}, outputs=["r", "y"])
    model = formats.load([path]).edit(Extract(("y",), ("r",)))
    (part,) = model.format.save(model, tmp_path, "part")
    x = normal(*SHAPE)
    np.testing.assert_array_equal(run(part, r=x)["y"], -x)


def test_an_extract_of_everything_changes_no_byte(tmp_path: Path) -> None:
    model = chain(tmp_path)
    (path,) = saved(model, tmp_path / "all", Extract(("z", "y")))
    assert path.read_bytes() == model.native.graph.path.read_bytes()


@pytest.mark.parametrize(
    ("outputs", "inputs", "message"),
    [
        (("q",), (), "no tensor is named 'q'"),
        (("relu",), (), "no tensor is named 'relu'; the node of that name makes 'r'"),
        (("w",), (), "'w' is a weight, not what a node makes"),
        (("x",), (), "'x' is asked for as an output, but it is an input"),
        (("y",), ("z",), "input 'z' does not lead to y"),
        (("y", "z"), ("d",), "y, z also need 'x', which these inputs do not replace"),
        ((), (), "no output is named"),
    ],
)
def test_a_request_that_makes_no_network_is_refused(
    outputs: tuple[str, ...], inputs: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=re.escape(message)):
        chain(tmp_path).edit(Extract(outputs, inputs))


def test_a_subgraph_keeps_what_it_reads(tmp_path: Path) -> None:
    then = onnx.helper.make_graph(
        [node("Identity", "c", "t")], "then", [], [onnx.helper.make_tensor_value_info("t", 1, None)]
    )
    other = onnx.helper.make_graph(
        [node("Neg", "c", "e")], "else", [], [onnx.helper.make_tensor_value_info("e", 1, None)]
    )
    branch = node("If", "flag", "z", "branch", then_branch=then, else_branch=other)
    weights = {**W, **NORM, "flag": np.array(True)}
    model = build(tmp_path, [CONV, BN, RELU, branch], weights, outputs=["y", "z"])
    (left,) = folding(model).left
    assert left.reason == "its input 'c' is read inside node 'branch'"
    (part,) = saved(model, tmp_path / "part", Extract(("z",)))
    assert [x.op_type for x in onnx.load(part).graph.node] == ["Conv", "If"]


FC = node("Gemm", "f w b", "a", "fc6", transB=1)
FLAT = node("Flatten", "x", "f", "flat")
FC_WEIGHTS = {"w": normal(10, 432), "b": normal(10), "k": normal(10, 4), "t": normal(4)}

# name -> (nodes, weights, keyword arguments, the nodes rewritten, a reason for each of the others)
CONVOLVED: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], dict[str, Any], str, dict[str, str]]] = {
    "a classifier": (
        [
            FLAT,
            FC,
            node("Relu", "a", "r"),
            node("Dropout", "r", "d"),
            node("Gemm", "d k t", "e", "fc7"),
            node("Softmax", "e", "y", axis=1),
        ],
        FC_WEIGHTS,
        {},
        "fc6 fc7",
        {},
    ),
    "IR 3, reshaped": (
        [node("Reshape", "x shape", "f"), FC, node("Relu", "a", "y")],
        {**FC_WEIGHTS, "shape": np.array([0, -1])},
        {"ir_version": 3, "opset": 9},
        "fc6",
        {},
    ),
    "alpha, beta and a shared bias": (
        [
            FLAT,
            node("Gemm", "f w b", "a", "fc6", transB=1, alpha=0.5, beta=3.0),
            node("Mul", "a b", "z"),
            node("Gemm", "f w2 b", "y", "fc", transB=1, beta=2.0),
        ],
        {**FC_WEIGHTS, "w2": normal(10, 432)},
        {"outputs": ["y"]},
        "fc",
        {"fc6": "node 2 (Mul -> 'z') behind it lines up another tensor with the last axis"},
    ),
    "flattened again": (
        [FLAT, FC, node("Flatten", "a", "g"), node("Gemm", "g k t", "y", "fc7")],
        FC_WEIGHTS,
        {},
        "fc6",
        {"fc7": "its input 'g' is not a view of a map with height and width"},
    ),
    "softmax along the last axis": (
        [FLAT, FC, node("Softmax", "a", "y")],
        FC_WEIGHTS,
        {},
        "",
        {"fc6": "behind it does not say that it works along axis 1"},
    ),
    "MatMul and Add": (
        [FLAT, node("MatMul", "f v", "a", "fc6"), node("Add", "a b", "y", "add")],
        {"v": normal(432, 10), "b": normal(10)},
        {},
        "",
        {
            "fc6": "node 'add' behind it lines up another tensor with the last axis; "
            "`surgery fold` takes in what a node only adds"
        },
    ),
    "the flat map is read elsewhere": (
        [FLAT, FC, node("Relu", "a", "y"), node("Relu", "f", "z")],
        FC_WEIGHTS,
        {"outputs": ["y", "z"]},
        "fc6",
        {},
    ),
}


@pytest.mark.parametrize("name", CONVOLVED)
def test_dense_nodes_become_convolutions_unless_something_behind_would_differ(name: str, tmp_path: Path) -> None:
    require_onnxruntime()
    nodes, weights, more, expected, reasons = CONVOLVED[name]
    model = build(tmp_path, nodes, weights, **more)
    found, left = model.format.convolvable(model, [x.key for x in model.nodes])
    assert " ".join(found) == expected
    assert [x.key for x in left] == list(reasons)
    assert all(reasons[x.key] in x.reason for x in left), left
    source = model.native.graph.path
    if not expected:
        return
    (path,) = saved(model, tmp_path / "conv", Convolve(found))
    x = normal(*SHAPE)
    assert_equal(run(source, x=x), run(path, x=x))
    after = formats.load([path])
    assert [after.node(key).type for key in found] == ["Conv"] * len(found)


def test_the_result_slides_over_larger_images(tmp_path: Path) -> None:
    require_onnxruntime()
    model = build(tmp_path, [FLAT, FC], FC_WEIGHTS, inputs={"x": (1, 6, 9, 8)}, outputs=["a"])
    path = model.native.graph.path
    (made,) = saved(model, tmp_path / "conv", Convolve(("fc6",)))
    larger = onnx.load(made)
    larger.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 10
    larger.graph.output[0].type.tensor_type.ClearField("shape")
    made.write_bytes(larger.SerializeToString())
    x = normal(1, 6, 9, 10)
    parts = [run(path, x=x[..., i : i + 8])["a"] for i in range(3)]
    np.testing.assert_allclose(run(made, x=x)["a"][:, :, 0], np.stack(parts, axis=2), rtol=1e-4, atol=1e-4)


def test_a_cut_model_must_be_saved_first(tmp_path: Path) -> None:
    from surgery.choose import Amount, Request, choose
    from surgery.rewriting import rewrite
    from surgery.survey import survey

    model = build(tmp_path, [CONV, node("Relu", "c", "y")], W)
    plan = choose(survey(model), Request(methods=("svd-spatial",), amount=Amount(rank=(2,)), force=True), "")
    with pytest.raises(ModelError, match="was made by a cut; save the model and load that"):
        rewrite(model, plan).model.edit(Extract(("c",)))


# Light network -> folds, nodes that remain a scale, dense nodes that become convolutions.
LIGHT = [("resnet50", 53, 0, 1), ("inception_v2", 69, 0, 1), ("densenet121", 59, 186, 0), ("shufflenet", 49, 0, 1)]


@pytest.mark.parametrize(("name", "folds", "left", "dense"), LIGHT)
def test_light_networks_fold_and_become_fully_convolutional(
    name: str, folds: int, left: int, dense: int, tmp_path: Path
) -> None:
    require_onnxruntime()
    source = filled(name, tmp_path)
    model = formats.load([source])
    found = folding(model)
    assert (len(found.folds), len(found.left)) == (folds, left)
    convolvable, _ = model.format.convolvable(model, [x.key for x in model.nodes])
    assert len(convolvable) == dense
    logits = next((x.inputs[0] for x in model.nodes if x.type == "Softmax"), model.format.outputs(model)[0])
    (fed,) = model.format.runnable(model).inputs
    before = [run(path_with(source, logits), **{fed: pictures(seed)})[logits] for seed in (0, 1)]
    assert np.linalg.norm(before[1] - before[0]) > 0.1 * np.linalg.norm(before[0])
    for i, edits in enumerate(([*found.folds], [Convolve(convolvable)])):
        (path,) = saved(model, tmp_path / f"result{i}", *edits)
        after = [run(path_with(path, logits), **{fed: pictures(seed)})[logits] for seed in (0, 1)]
        for a, b in zip(before, after, strict=True):
            assert np.linalg.norm(b.reshape(a.shape) - a) < 1e-4 * np.linalg.norm(a)
