"""The ONNX format: what is not cut leaves byte for byte, what cannot be cut says why, hostile files are one line."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from surgery import formats
from surgery.errors import ModelError, ParseError
from surgery.factor import METHODS
from surgery.formats.onnx import graph, write
from surgery.formats.wire import encode_bytes, encode_tag, encode_varint, walk
from surgery.model import Model, Refusal, Splice
from surgery.survey import survey
from tests.formats.onnx.engine import check, distance, random, run, stated
from tests.formats.onnx.test_cuts import ROUNDING, cut, saved
from tests.onnx_nets import node, tiny

X = (1, 4, 8, 8)


def small(folder: Path, **named: Any) -> Path:
    """Two convolutions, a Gemm, and a value_info for every tensor."""
    nodes = [
        node("Conv", "x w1 b1", "c1", "one", pads=[1, 1, 1, 1]),
        node("Relu", "c1", "r1", "relu"),
        node("Conv", "r1 w2 b2", "c2", "two"),
        node("Flatten", "c2", "f", "flat"),
        node("Gemm", "f w3 b3", "y", "three"),
    ]
    weights = random(w1=(8, 4, 3, 3), b1=(8,), w2=(8, 8, 3, 3), b2=(8,), w3=(288, 10), b3=(10,))
    return stated(tiny(folder, nodes, inputs={"x": X}, outputs=["y"], weights=weights, **named))


def fields(path: Path) -> tuple[list[bytes], list[bytes]]:
    """The fields of the model but for its graph, and those of the graph, as they stand in the file."""
    whole = path.read_bytes()
    outer = list(walk(whole, 0, len(whole), path))
    inside = next(record for record in outer if record.number == 7)
    inner = walk(whole, inside.value, inside.end, path)
    return [whole[r.start : r.end] for r in outer if r is not inside], [whole[r.start : r.end] for r in inner]


def with_unknown_fields(path: Path) -> Path:
    """Add fields that no onnx.proto knows to model, graph and every node, before and behind the known ones."""
    strange = encode_tag(999, 0) + encode_varint(7)
    outer, inner = fields(path)
    body = b"".join(strange + field for field in inner) + encode_bytes(1000, b"more")
    path.write_bytes(b"".join(strange + field for field in outer) + encode_bytes(7, body) + strange)
    return path


def test_what_no_cut_names_keeps_its_bytes_and_its_order(tmp_path: Path) -> None:
    path = with_unknown_fields(small(tmp_path))
    outer, inner = fields(path)
    file = saved(cut(formats.load([path]), "two", "svd-channel"), tmp_path / "out")[0]
    new_outer, new_inner = fields(file)
    assert new_outer == outer
    stayed = [field for field in new_inner if field in set(inner)]
    gone = Counter(inner) - Counter(new_inner)
    assert [field for field in inner if field not in gone] == stayed
    found = graph.read(path)
    buffer = path.read_bytes()
    two, w2 = found.nodes[2].record, found.initializers["w2"].record
    assert gone == Counter([buffer[two.start : two.end], buffer[w2.start : w2.end]])
    assert len(new_inner) == len(inner) + 2  # Two nodes for one, two weights for one; the bias is the old one.


def test_a_file_without_edits_is_written_byte_for_byte(tmp_path: Path) -> None:
    path = with_unknown_fields(small(tmp_path))
    model = formats.load([path])
    assert saved(model, tmp_path / "out")[0].read_bytes() == path.read_bytes()
    assert formats.copy([path], tmp_path / "out")[0].read_bytes() == path.read_bytes()
    assert formats.digest([path]) == model.format.digest(model)


def test_cuts_of_several_nodes_do_not_hang_on_their_order(tmp_path: Path) -> None:
    model = formats.load([small(tmp_path)])
    one = cut(cut(model, "one", "svd-spatial"), "three", "svd")
    other = cut(cut(model, "three", "svd"), "one", "svd-spatial")
    assert saved(one, tmp_path / "a")[0].read_bytes() == saved(other, tmp_path / "b")[0].read_bytes()


def test_names_opset_and_ir_version_stay_and_new_names_are_derived(tmp_path: Path) -> None:
    path = small(tmp_path, opset=12, ir_version=7)
    changed = cut(cut(formats.load([path]), "two", "tucker2"), "three", "svd")
    assert dict(changed.format.made(changed)) == {"two": ("two_1", "two_2", "two_3"), "three": ("three_1", "three_2")}
    result = check(saved(changed, tmp_path / "out")[0])
    assert result.ir_version == 7
    assert [entry.version for entry in result.opset_import] == [12]
    made = {n.name: (list(n.input), list(n.output)) for n in result.graph.node}
    assert made["two_1"] == (["r1", "two_1_weight"], ["two_1"])
    assert made["two_2"] == (["two_1", "two_2_weight"], ["two_2"])
    assert made["two_3"] == (["two_2", "two_3_weight", "b2"], ["c2"])
    assert made["three_2"] == (["three_1", "three_2_weight", "b3"], ["y"])


def test_a_name_that_is_taken_is_not_given_again(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "fc_1_weight"), node("MatMul", "fc_1_weight w", "y", "fc")]
    path = stated(tiny(tmp_path, nodes, inputs={"x": (2, 6)}, outputs=["y"], weights=random(w=(6, 5))))
    changed = cut(formats.load([path]), "fc", "svd")
    assert changed.format.made(changed)["fc"] == ("fc_cut1", "fc_cut2")
    check(saved(changed, tmp_path / "out")[0])


@pytest.mark.parametrize("names", [("", ""), ("fc", "fc"), ("-> m", "-> y")])
def test_nodes_with_empty_double_or_misleading_names_are_cut(names: tuple[str, str], tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "m", names[0]), node("MatMul", "m v", "y", names[1])]
    path = stated(tiny(tmp_path, nodes, inputs={"x": (2, 6)}, outputs=["y"], weights=random(w=(6, 9), v=(9, 5))))
    model = formats.load([path])
    assert [n.key for n in model.nodes] == ["-> m", "-> y"]
    file = saved(cut(cut(model, "-> y", "svd"), "-> m", "svd"), tmp_path / "out")[0]
    check(file)
    feed = random(1, x=(2, 6))
    (wanted,), (found,) = (
        ReferenceEvaluator(str(p)).run(None, feed) for p in (path, file)
    )  # ORT takes no double names.
    assert distance(np.asarray(wanted), np.asarray(found)) < ROUNDING


def test_what_is_said_of_tensors_that_are_gone_goes(tmp_path: Path) -> None:
    nodes = [
        node("Constant", "", "w", value=numpy_helper.from_array(random(w=(6, 9))["w"])),
        node("MatMul", "x w", "y", "fc"),
    ]
    path = stated(tiny(tmp_path, nodes, inputs={"x": (2, 6)}, outputs=["y"]))
    assert [info.name for info in onnx.load(path).graph.value_info] == ["w"]
    result = check(saved(cut(formats.load([path]), "fc", "svd"), tmp_path / "out")[0])
    assert not result.graph.value_info


def branches(reads: str) -> onnx.NodeProto:
    """An If whose branches read a tensor of the graph around them, and have a convolution of their own."""
    weight = numpy_helper.from_array(random(k=(8, 8, 3, 3))["k"], "inner")
    out = helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, 8, 6, 6])
    made = [helper.make_node("Conv", [reads, "inner"], ["b"], name="inside")]
    then = helper.make_graph(made, "then", [], [out], [weight])
    other = helper.make_graph([helper.make_node("Identity", ["c2"], ["b"])], "else", [], [out])
    return helper.make_node("If", ["flag"], ["y"], name="if", then_branch=then, else_branch=other)


def with_if(folder: Path, reads: str, w2: str = "w2") -> Path:
    nodes = [
        node("Conv", "x w1", "r1", "one", pads=[1, 1, 1, 1]),
        node("Conv", f"r1 {w2}", "c2", "two"),
        branches(reads),
    ]
    weights = random(w1=(8, 4, 3, 3), w2=(8, 8, 3, 3)) | {"flag": np.array(True)}
    return stated(tiny(folder, nodes, inputs={"x": X}, outputs=["y"], weights=weights))


def test_subgraphs_leave_byte_for_byte_and_what_they_read_stays(tmp_path: Path) -> None:
    path = with_if(tmp_path, "r1")
    model = formats.load([path])
    assert [n.key for n in model.nodes] == ["one", "two", "if"]
    file = saved(cut(cut(model, "one", "svd-channel"), "two", "svd-channel"), tmp_path / "out")[0]
    before, after = onnx.load(path).graph, check(file).graph
    assert before.node[2].SerializeToString() == after.node[4].SerializeToString()
    assert before.node[2].SerializeToString() in file.read_bytes()
    feed = random(1, x=X)
    assert distance(run(path, feed)["y"], run(file, feed)["y"]) < ROUNDING


def test_functions_metadata_and_custom_domains_leave_byte_for_byte(tmp_path: Path) -> None:
    path = small(tmp_path)
    model = onnx.load(path)
    twice = helper.make_function("own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
                                 [helper.make_opsetid("", 13)])  # fmt: skip
    model.functions.append(twice)
    model.opset_import.extend([helper.make_opsetid("own", 1), helper.make_opsetid("other", 3)])
    model.metadata_props.add(key="k", value="v")
    model.graph.node.insert(1, helper.make_node("Twice", ["c1"], ["t"], domain="own", name="t"))
    model.graph.node[2].input[0] = "t"
    path.write_bytes(model.SerializeToString())
    file = saved(cut(formats.load([path]), "two", "svd-spatial"), tmp_path / "out")[0]
    assert fields(file)[0] == fields(path)[0]
    feed = random(1, x=X)
    assert distance(run(path, feed)["y"], run(file, feed)["y"]) < ROUNDING
    facts = survey(formats.load([path])).facts
    assert facts["t"].macs is None
    assert "an operator of 'own'" in (facts["t"].reason or "")


@pytest.mark.parametrize("depth", [0, 40], ids=["itself", "twice the next, forty times"])
def test_functions_without_end_are_not_followed(depth: int, tmp_path: Path) -> None:
    path = tiny(tmp_path, [node("Relu", "x", "y")], inputs={"x": (1, 3)}, outputs=["y"])
    model = onnx.load(path)
    for i in range(max(depth, 1)):
        inner = f"F{i + 1 if depth else 0}"
        calls = [
            helper.make_node(inner, ["a"], ["c"], domain="own"),
            helper.make_node(inner, ["c"], ["b"], domain="own"),
        ]
        model.functions.append(
            helper.make_function("own", f"F{i}", ["a"], ["b"], calls, [helper.make_opsetid("own", 1)])
        )
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[0].op_type, model.graph.node[0].domain = "F0", "own"
    path.write_bytes(model.SerializeToString())
    facts = survey(formats.load([path])).facts["-> y"]
    assert "its functions call each other in a circle, or come to more than" in (facts.reason or "")


def test_data_of_a_function_comes_along(tmp_path: Path) -> None:
    path = small(tmp_path)
    model = onnx.load(path)
    value = TensorProto(dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="f.bin")
    made = [helper.make_node("Constant", [], ["b"], value=value)]
    model.functions.append(helper.make_function("own", "Four", [], ["b"], made, [helper.make_opsetid("", 13)]))
    path.write_bytes(model.SerializeToString())
    (tmp_path / "f.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    file, data = saved(cut(formats.load([path]), "two", "svd-channel"), tmp_path / "out")
    assert data.read_bytes() == (tmp_path / "f.bin").read_bytes()
    (tensor,) = graph.read(file).nested
    assert tensor.array().tolist() == [0, 1, 2, 3]


def annotated(path: Path) -> Path:
    model = onnx.load(path)
    model.graph.quantization_annotation.add(tensor_name="w2")
    path.write_bytes(model.SerializeToString())
    return path


def dense(folder: Path, *nodes: onnx.NodeProto, **weights: np.ndarray) -> Path:
    return tiny(folder, nodes, inputs={"x": (2, 6)}, outputs=["y"], weights=weights)


W = random(w=(6, 6))["w"]
SCALE: dict[str, np.ndarray] = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
REFUSALS: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "shared": (lambda f: dense(f, node("MatMul", "x w", "m", "fc"), node("MatMul", "m w", "y", "twin"), w=W), "fc",
               "its weights are shared with node 'twin'"),
    "shared with a subgraph": (lambda f: with_if(f, "w2", "w2"), "two", "its weights are shared with node 'if'"),
    "output": (lambda f: tiny(f, [node("MatMul", "x w", "y", "fc")], inputs={"x": (2, 6)}, outputs=["y", "w"],
                              weights={"w": W}), "fc", "its weights are an output of the network"),
    "fed": (lambda f: tiny(f, [node("MatMul", "x w", "y", "fc")], inputs={"x": (2, 6), "w": (6, 6)}, outputs=["y"]),
            "fc", "its weights are the input 'w', which is fed"),
    "computed": (lambda f: dense(f, node("Relu", "w", "r", "relu"), node("MatMul", "x r", "y", "fc"), w=W), "fc",
                 "its weights are computed while it runs, by node 'relu'"),
    "left": (lambda f: dense(f, node("MatMul", "w x", "y", "fc"), w=random(w=(4, 2))["w"]), "fc",
             "its weights are its first input, expected the second"),
    "dequantised": (lambda f: dense(f, node("DequantizeLinear", "q s z", "r", "dq"), node("MatMul", "x r", "y", "fc"),
                                    q=np.ones((6, 6), np.int8), **SCALE), "fc",
                    "is quantised: its weights come from node 'dq'"),
    "integer": (lambda f: dense(f, node("MatMulInteger", "x w", "y", "fc"), w=np.ones((6, 6), np.int8)), "fc",
                "is quantised (MatMulInteger)"),
    "annotated": (lambda f: annotated(small(f)), "two", "the file has a quantization_annotation"),
    "float16": (lambda f: dense(f, node("MatMul", "x w", "y", "fc"), w=W.astype(np.float16)), "fc",
                "its weights are float16; expected float32 or float64"),
    "custom": (lambda f: dense(f, helper.make_node("MatMul", ["x", "w"], ["y"], "fc", domain="own"), w=W), "fc",
               "an operator of 'own', not of ONNX itself"),
    "batched": (lambda f: dense(f, node("MatMul", "x w", "y", "fc"), w=W[np.newaxis]), "fc",
                "its weights have 3 axes, expected 2"),
    "1-D": (lambda f: tiny(f, [node("Conv", "x w", "y", "c")], inputs={"x": (1, 4, 9)}, outputs=["y"],
                           weights=random(w=(5, 4, 3))), "c", "a convolution over 1 spatial axes, not 2"),
    "transposed": (lambda f: tiny(f, [node("ConvTranspose", "x w", "y", "c")], inputs={"x": X}, outputs=["y"],
                                  weights=random(w=(4, 5, 3, 3))), "c", "not a convolution or fully connected layer"),
    "wrong kernel": (lambda f: tiny(f, [node("Conv", "x w", "y", "c", kernel_shape=[5, 5])], inputs={"x": X},
                                    outputs=["y"], weights=random(w=(5, 4, 3, 3))), "c", "its kernel_shape is (5, 5)"),
    "stride 0": (lambda f: tiny(f, [node("Conv", "x w", "y", "c", strides=[0, 1])], inputs={"x": X}, outputs=["y"],
                                weights=random(w=(5, 4, 3, 3))), "c", "stride is (0, 1)"),
    "groups": (lambda f: tiny(f, [node("Conv", "x w", "y", "c", group=2)], inputs={"x": X}, outputs=["y"],
                              weights=random(w=(5, 2, 3, 3))), "c", "5 outputs in 2 groups"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_a_node_that_cannot_be_cut_says_why(case: str, tmp_path: Path) -> None:
    make, key, reason = REFUSALS[case]
    model = formats.load([make(tmp_path)])
    refusal = model.format.lift(model, model.node(key))
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason
    survey(model)


def outside(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """The small network with its weights in `data/w.bin`, and its weights."""
    path = small(folder)
    model = onnx.load(path)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    (folder / "data").mkdir()
    onnx.save(model, path, save_as_external_data=True, location="data/w.bin", size_threshold=64)
    return path, weights


def test_data_in_another_file_is_cut_there(tmp_path: Path) -> None:
    path, weights = outside(tmp_path)
    file, data = saved(cut(formats.load([path]), "two", "svd-channel", (2,)), tmp_path / "out")
    assert (file.name, data.name) == ("cut.onnx", "cut.onnx.data")
    result = check(file)
    found = {t.name: numpy_helper.to_array(t) for t in result.graph.initializer}
    assert found.keys() == weights.keys() - {"w2"} | {"two_1_weight", "two_2_weight"}
    for name in weights.keys() - {"w2"}:
        np.testing.assert_array_equal(found[name], weights[name])
    assert weights["w2"].tobytes()[:64] not in data.read_bytes()
    assert data.stat().st_size < (tmp_path / "data" / "w.bin").stat().st_size
    new = {t.name: t for t in onnx.load(file, load_external_data=False).graph.initializer}
    for old in onnx.load(path, load_external_data=False).graph.initializer:
        if old.name in new and old.data_location == TensorProto.EXTERNAL:
            kept = new[old.name]
            assert [entry.key for entry in kept.external_data] == [entry.key for entry in old.external_data]
            kept.ClearField("external_data")
            old.ClearField("external_data")
            assert kept == old
        elif old.name in new:
            assert new[old.name] == old
    feed = random(1, x=X)
    whole = saved(cut(formats.load([small(tmp_path / "data")]), "two", "svd-channel", (2,)), tmp_path / "whole")[0]
    np.testing.assert_array_equal(run(file, feed)["y"], run(whole, feed)["y"])


def test_a_model_with_data_outside_is_copied_with_its_files(tmp_path: Path) -> None:
    path, _ = outside(tmp_path)
    model = formats.load([path])
    copied = saved(model, tmp_path / "out")
    assert [p.relative_to(tmp_path / "out") for p in copied] == [Path("cut.onnx"), Path("data/w.bin")]
    assert copied[0].read_bytes() == path.read_bytes()
    assert copied[1].read_bytes() == (tmp_path / "data" / "w.bin").read_bytes()
    assert copied[1].stat().st_ino != (tmp_path / "data" / "w.bin").stat().st_ino
    before = model.format.digest(model)
    data = bytearray(copied[1].read_bytes())
    data[5] ^= 1
    (tmp_path / "data" / "w.bin").write_bytes(data)
    assert formats.digest([path]) != before


def test_new_weights_go_outside_where_the_file_would_be_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(tmp_path)
    changed = cut(formats.load([path]), "three", "svd")
    monkeypatch.setattr(write, "MAX_BYTES", path.stat().st_size)
    file, data = saved(changed, tmp_path / "out")
    check(file)
    feed = random(1, x=X)
    assert distance(run(path, feed)["y"], run(file, feed)["y"]) < ROUNDING
    assert data.stat().st_size > 4 * 10 * 288
    monkeypatch.setattr(write, "MAX_BYTES", 1000)
    with pytest.raises(ModelError, match="one ONNX file holds at most 1000"):
        saved(changed, tmp_path / "small")


def test_symbolic_sizes_are_asked_for_but_a_batch_is_one(tmp_path: Path) -> None:
    def model(shape: tuple[int | str, ...], given: tuple[int, ...] = ()) -> Model:
        path = tiny(tmp_path, [node("Conv", "x w", "y", "c")], inputs={"x": shape}, outputs=["y"],
                    weights=random(w=(5, 4, 3, 3)))  # fmt: skip
        return formats.load([path], input_shapes={"x": given} if given else None)

    batch = model(("n", 4, 9, 9))
    assert dict(batch.format.runnable(batch).inputs) == {"x": (1, 4, 9, 9)}
    assert batch.format.facts(batch)["c"].macs == 7 * 7 * 5 * 4 * 9
    free = model(("n", 4, "h", "w"))
    assert free.format.runnable(free).unready == "input 'x' has no fixed shape; give --shape x=1,4,<h>,<w>"
    assert free.format.facts(free)["c"].macs is None
    assert "give --shape x=1,4,<h>,<w>" in (free.format.facts(free)["c"].reason or "")
    given = model(("n", 4, "h", "w"), (2, 4, 6, 5))
    assert given.format.facts(given)["c"].shapes == ((2, 5, 4, 3),)
    with pytest.raises(ModelError, match="a shape is given for 'z'; the network's inputs are 'x'"):
        formats.load([tmp_path / "net.onnx"], input_shapes={"z": (1,)})


def test_shapes_that_the_graph_computes_are_worked_out(tmp_path: Path) -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Cast", "s", "s32", to=TensorProto.INT32),
        node("Slice", "s32 zero one zero", "n"),
        node("Concat", "n rest", "t32", axis=0),
        node("Cast", "t32", "t", to=TensorProto.INT64),
        node("Reshape", "x t", "f"),
        node("MatMul", "f w", "y", "fc"),
    ]
    small_ones = {"zero": np.array([0]), "one": np.array([1]), "rest": np.array([24], np.int32)}
    path = tiny(tmp_path, nodes, inputs={"x": ("n", 4, 6)}, outputs=["y"], weights=random(w=(24, 5)) | small_ones)
    model = formats.load([path])
    facts = model.format.facts(model)
    assert facts["fc"].shapes == ((1, 5),)
    assert facts["fc"].macs == 24 * 5
    memory = model.format.memory(model)
    assert memory is not None
    assert memory.weights == 4 * 24 * 5


def test_parameters_count_once_and_shapes_and_bounds_not_at_all(tmp_path: Path) -> None:
    nodes = [
        node("Clip", "x low high", "c"),
        node("Reshape", "c t", "f"),
        node("MatMul", "f w", "m", "first"),
        node("MatMul", "m w", "y", "second"),
    ]
    weights = random(w=(6, 6)) | {
        "low": np.array(0, np.float32),
        "high": np.array(6, np.float32),
        "t": np.array([2, 6]),
    }
    path = tiny(tmp_path, nodes, inputs={"x": (2, 6)}, outputs=["y"], weights=weights)
    surveyed = survey(formats.load([path]))
    assert surveyed.params == 36
    assert (surveyed.facts["first"].params, surveyed.facts["second"].params) == (36, 0)


def test_a_layer_that_does_not_fit_into_its_input_is_still_listed(tmp_path: Path) -> None:
    conv = node("Conv", "x w", "c", "conv")
    path = tiny(tmp_path, [conv, node("Reshape", "c t", "y")], inputs={"x": (1, 4, 2, 2)}, outputs=["y"],
                weights=random(w=(8, 4, 3, 3)) | {"t": np.array([-1, -1])})  # fmt: skip
    surveyed = survey(formats.load([path]))
    assert surveyed.macs is None
    assert "does not fit into its input" in (surveyed.facts["conv"].reason or "")


def test_a_made_node_is_not_cut_again_before_it_is_saved(tmp_path: Path) -> None:
    changed = cut(formats.load([small(tmp_path)]), "two", "svd-channel")
    op = changed.format.lift(changed, changed.node("two_1"))
    assert not isinstance(op, Refusal)
    fit = METHODS["svd-channel"].factor(op, (1,))
    with pytest.raises(ModelError, match="was made by a cut"):
        changed.edit(Splice("two_1", fit.chain))


def test_an_onnx_file_takes_no_weights_beside_it(tmp_path: Path) -> None:
    path = small(tmp_path)
    weights = tmp_path / "w.caffemodel"
    weights.write_bytes(b"")
    with pytest.raises(ModelError, match="an ONNX model names its weights itself; leave out"):
        formats.load([path, weights])


def test_inspecting_loads_no_caffe_and_no_runtime(tmp_path: Path) -> None:
    path = small(tmp_path)
    code = (
        "import sys; from surgery.cli.main import main; main(['inspect', sys.argv[1]], standalone_mode=False); "
        "print([n for n in ('surgery.formats.caffe.caffe', 'onnxruntime', 'cv2') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    assert "svd-channel" in done.stdout


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_either_surveyed_or_one_clear_line(data: st.DataObject, tmp_path: Path) -> None:
    whole = bytearray(small(tmp_path).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):  # The first kilobyte: nodes and the heads of the first weights.
        whole[data.draw(st.integers(0, 1000))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.onnx"
    path.write_bytes(whole)
    try:
        model = formats.load([path])
        surveyed = survey(model)
        model.format.memory(model)
        model.format.runnable(model)
    except (ParseError, ModelError) as error:
        assert "\n" not in str(error)
    else:
        assert len(surveyed.entries) == len(model.nodes)
