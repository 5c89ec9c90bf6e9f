"""Cutting ONNX nodes of every spelling: at full rank the file computes the same, and reads back as it was meant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from surgery import formats
from surgery.errors import ModelError
from surgery.factor import METHODS
from surgery.model import Model, PerChannel, Refusal, Reweigh, Splice
from surgery.ops import Chain, Conv2d, Linear, Op, collapse
from surgery.survey import survey
from tests.chains import corrected, full, scaled
from tests.formats.onnx.engine import check, distance, random, run, stated
from tests.onnx_nets import node
from tests.onnx_nets import tiny as unstated

ROUNDING = 2e-6  # Some ten sums of at most 200 float32 terms, each about eps = 1.2e-7 off.


# One method for each way to part kernel, stride, padding and channels among nodes.
TEMPLATES = ("svd", "svd-channel", "svd-spatial", "tucker2")


def tiny(*args: Any, **named: Any) -> Path:
    return stated(unstated(*args, **named))


def cut(model: Model, key: str, method: str, rank: tuple[int, ...] | None = None) -> Model:
    op = lifted(model, key)
    chosen = METHODS[method]
    return model.edit(Splice(key, chosen.factor(op, rank or chosen.max_rank(op)).chain))


def lifted(model: Model, key: str) -> Op:
    op = model.format.lift(model, model.node(key))
    assert not isinstance(op, Refusal), op.reason
    return op


def saved(model: Model, folder: Path) -> tuple[Path, ...]:
    folder.mkdir(exist_ok=True)
    return model.format.save(model, folder, "cut")


def check_cuts(path: Path, key: str, inputs: Mapping[str, np.ndarray], folder: Path) -> set[str]:
    """Cut a node at full rank by every one of `TEMPLATES` that takes it; return their names."""
    model = formats.load([path])
    op, wanted = lifted(model, key), run(path, inputs)
    site = next(entry for entry in survey(model).entries if getattr(entry, "key", "") == key)
    assert not isinstance(site, Refusal)
    assert site.macs(op) == site.facts.macs
    used = {name for name in TEMPLATES if METHODS[name].refusal(op) is None}
    for name in used:
        changed = cut(model, key, name)
        file = saved(changed, folder)[0]
        check(file)
        for output, value in run(file, inputs).items():
            assert distance(wanted[output], value) < ROUNDING
        check_read_back(changed, formats.load([file]), key)
        check_counts(site.macs(chain(changed, key)), formats.load([file]), changed.format.made(changed)[key])
    return used


def chain(changed: Model, key: str) -> Chain:
    return Chain(changed.native.cuts[key].stages)


def check_read_back(changed: Model, again: Model, key: str) -> None:
    for name in changed.format.made(changed)[key]:
        meant, read = lifted(changed, name), lifted(again, name)
        np.testing.assert_array_equal(meant.weight, read.weight)
        assert (meant.bias is None) == (read.bias is None)
        if meant.bias is not None and read.bias is not None:
            np.testing.assert_array_equal(meant.bias, read.bias)
        if isinstance(meant, Conv2d) and isinstance(read, Conv2d):
            assert (meant.stride, meant.padding, meant.dilation) == (read.stride, read.padding, read.dilation)
            assert meant.groups == read.groups


def check_counts(estimated: int, again: Model, names: tuple[str, ...]) -> None:
    facts = survey(again, ()).facts
    counted = sum(facts[name].macs or 0 for name in names)
    # Of an axis that is padded unequally a thin convolution across it is taken to see the rest of the padding too.
    assert counted <= estimated <= 1.3 * counted


CONVS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no kernel_shape": {"kernel_shape": None},
    "pads 1": {"pads": [1, 1, 1, 1]},
    "pads unequal": {"pads": [0, 1, 2, 1]},
    "pads at one end": {"pads": [0, 0, 1, 1], "strides": [2, 2]},
    "same upper": {"auto_pad": "SAME_UPPER"},
    "same upper, stride 2": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    "same lower, stride 2x3": {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
    "valid, stride 3x1": {"auto_pad": "VALID", "strides": [3, 1]},
    "dilation 2x1": {"dilations": [2, 1], "pads": [2, 1, 2, 1]},
    "groups 2": {"group": 2, "pads": [1, 1, 1, 1]},
}


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize("case", CONVS)
def test_a_convolution_of_every_spelling_is_cut(case: str, opset: int, tmp_path: Path) -> None:
    given = {"kernel_shape": [3, 3]} | CONVS[case]
    attributes = {name: value for name, value in given.items() if value is not None}
    arrays = random(w=(12, 6 // given.get("group", 1), 3, 3), b=(12,))
    path = tiny(
        tmp_path,
        [node("Conv", "x w b", "y", "conv", **attributes)],
        inputs={"x": (2, 6, 12, 11)},
        outputs=["y"],
        weights=arrays,
        opset=opset,
        ir_version=3 if opset == 9 else 8,
    )
    used = check_cuts(path, "conv", random(1, x=(2, 6, 12, 11)), tmp_path / "out")
    assert used == {"svd-channel", "svd-spatial", "tucker2"}


def test_a_convolution_whose_map_is_not_known_keeps_auto_pad(tmp_path: Path) -> None:
    conv = node("Conv", "x w", "y", "conv", auto_pad="SAME_UPPER", strides=[2, 2])
    inputs: dict[str, tuple[int | str, ...]] = {"x": (1, 4, "h", "w")}
    path = tiny(tmp_path, [conv], inputs=inputs, outputs=["y"], weights=random(w=(8, 4, 3, 3)))
    file = saved(cut(formats.load([path]), "conv", "svd-spatial"), tmp_path / "out")[0]
    for size in ((7, 8), (8, 9), (12, 5)):
        feed = random(1, x=(1, 4, *size))
        assert distance(run(path, feed)["y"], run(file, feed)["y"]) < ROUNDING


ADDENDS: dict[str, tuple[int, ...]] = {
    "vector": (10,),
    "row": (1, 10),
    "column": (3, 1),
    "matrix": (3, 10),
    "one": (1,),
}


@pytest.mark.parametrize("opset", [7, 9, 11, 13])
@pytest.mark.parametrize("addend", ADDENDS)
@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0, "transB": 1}])
def test_a_gemm_of_every_spelling_is_cut(attributes: dict[str, Any], addend: str, opset: int, tmp_path: Path) -> None:
    arrays = random(w=(10, 7) if attributes.get("transB") else (7, 10), c=ADDENDS[addend])
    gemm = node("Gemm", "x w c", "y", "fc", **attributes)
    path = tiny(tmp_path, [gemm], inputs={"x": (3, 7)}, outputs=["y"], weights=arrays, opset=opset)
    assert check_cuts(path, "fc", random(1, x=(3, 7)), tmp_path / "out") == {"svd"}


def test_a_gemm_whose_addend_is_computed_keeps_it(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "r"), node("Gemm", "x w r", "y", "fc", beta=0.5)]
    path = tiny(tmp_path, nodes, inputs={"x": (3, 7)}, outputs=["y"], weights=random(w=(7, 7)))
    assert check_cuts(path, "fc", random(1, x=(3, 7)), tmp_path / "out") == {"svd"}


def test_a_gemm_without_addend_or_with_a_transposed_input_is_cut_from_opset_11_on(tmp_path: Path) -> None:
    plain = tiny(tmp_path, [node("Gemm", "x w", "y", "fc", transA=1)], inputs={"x": (7, 3)}, outputs=["y"],
                 weights=random(w=(7, 10)), opset=11)  # fmt: skip
    assert check_cuts(plain, "fc", random(1, x=(7, 3)), tmp_path / "out") == {"svd"}
    old = tiny(tmp_path, [node("Gemm", "x w c", "y", "fc", transA=1)], inputs={"x": (7, 3)}, outputs=["y"],
               weights=random(w=(7, 10), c=(10,)), opset=9)  # fmt: skip
    model = formats.load([old])
    refusal = model.format.lift(model, model.node("fc"))
    assert isinstance(refusal, Refusal)
    assert "needs opset 11" in refusal.reason


def test_below_opset_7_a_gemm_keeps_saying_that_its_addend_is_broadcast(tmp_path: Path) -> None:
    gemm = node("Gemm", "x w c", "y", "fc", broadcast=1, transB=1)
    path = tiny(tmp_path, [gemm], inputs={"x": (3, 7)}, outputs=["y"], weights=random(w=(10, 7), c=(10,)), opset=6)
    file = saved(cut(formats.load([path]), "fc", "svd"), tmp_path / "out")[0]
    first, last = check(file).graph.node
    assert first.op_type == "MatMul"
    assert {entry.name: entry.i for entry in last.attribute} == {"transB": 1, "broadcast": 1}


@pytest.mark.parametrize("shape", [(3, 7), (2, 5, 7)])
@pytest.mark.parametrize("with_add", [True, False])
def test_a_matmul_is_cut_and_the_add_behind_it_stays(with_add: bool, shape: tuple[int, ...], tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "m" if with_add else "y", "fc"), *([node("Add", "m b", "y", "add")] * with_add)]
    path = tiny(tmp_path, nodes, inputs={"x": shape}, outputs=["y"], weights=random(w=(7, 10), b=(10,)))
    assert check_cuts(path, "fc", random(1, x=shape), tmp_path / "out") == {"svd"}
    after = onnx.load(tmp_path / "out" / "cut.onnx").graph.node
    before = onnx.load(path).graph.node
    assert list(after)[2:] == list(before)[1:]


def test_float64_weights_are_cut_in_float64(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((7, 10))
    path = tiny(tmp_path, [node("MatMul", "x w", "y", "fc")], inputs={"x": (3, 7)}, outputs=["y"],
                weights={"w": weight})  # fmt: skip
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    path.write_bytes(model.SerializeToString())
    feed = {"x": np.random.default_rng(1).standard_normal((3, 7))}
    file = saved(cut(formats.load([path]), "fc", "svd"), tmp_path / "out")[0]
    check(file)
    assert distance(run(path, feed)["y"], run(file, feed)["y"]) < 1e-14


# What stands in the file -> the node's type, its weights, what it adds, the opset.
LINEAR: dict[str, tuple[str, dict[str, tuple[int, ...]], str, int]] = {
    "Conv": ("Conv", {"w": (8, 4, 3, 3), "b": (8,)}, "w b", 13),
    "Conv without bias": ("Conv", {"w": (8, 4, 3, 3)}, "w", 13),
    "Conv, IR 3": ("Conv", {"w": (8, 4, 3, 3), "b": (8,)}, "w b", 9),
    "Conv that adds what is computed": ("Conv", {"w": (8, 4, 3, 3), "b": (8,)}, "w c", 13),
    "Gemm": ("Gemm", {"w": (7, 10), "b": (10,)}, "w b", 13),
    "Gemm without addend": ("Gemm", {"w": (7, 10)}, "w", 13),
    "Gemm that adds a matrix": ("Gemm", {"w": (7, 10), "b": (3, 10)}, "w b", 13),
    "Gemm, opset 9": ("Gemm", {"w": (7, 10), "b": (10,)}, "w b", 9),
    "MatMul": ("MatMul", {"w": (7, 10)}, "w", 13),
}


def linear(name: str, folder: Path, **attributes: Any) -> tuple[Path, dict[str, np.ndarray]]:
    """Write a model of one node of `LINEAR`, named 'fc', between two others; return it and an input."""
    kind, weights, reads, opset = LINEAR[name]
    shape = (2, 4, 6, 5) if kind == "Conv" else (3, 7)
    nodes = [node("Relu", "x", "r"), node(kind, f"r {reads}", "y", "fc", **attributes), node("Sigmoid", "y", "z")]
    if reads.endswith("c"):
        nodes.insert(0, node("Abs", "b", "c"))
    path = tiny(folder, nodes, inputs={"x": shape}, outputs=["z", "y"], weights=random(**weights), opset=opset,
                ir_version=3 if opset == 9 else 8)  # fmt: skip
    return path, random(1, x=shape)


@pytest.mark.parametrize("name", LINEAR)
def test_a_scale_between_factors_becomes_a_mul_that_reads_back(name: str, tmp_path: Path) -> None:
    path, feed = linear(name, tmp_path)
    model = formats.load([path])
    cut_by = scaled(full(lifted(model, "fc")))
    changed = model.edit(Splice("fc", cut_by))
    file = saved(changed, tmp_path / "out")[0]
    check(file)
    again = formats.load([file])
    for output, value in run(path, feed).items():
        assert distance(value, run(file, feed)[output]) < ROUNDING
    first, scale, last = changed.format.made(changed)["fc"]
    assert [again.node(key).type for key in (first, scale, last)][1] == "Mul"
    for read in (changed, again):
        meaning = read.format.scale(read, read.node(scale))
        assert isinstance(meaning, PerChannel)
        np.testing.assert_array_equal(meaning.scale.factor, cut_by.ops[1].factor)
        assert isinstance(read.format.lift(read, read.node(scale)), Refusal)
    facts = survey(again, ()).facts
    assert sum(facts[key].params or 0 for key in (first, scale, last)) >= cut_by.weight_params
    assert (facts[scale].params, facts[scale].macs) == (cut_by.ops[1].params, 0)


def test_a_scale_below_opset_7_is_refused_with_what_to_do(tmp_path: Path) -> None:
    gemm = node("Gemm", "x w c", "y", "fc", broadcast=1, transB=1)
    path = tiny(tmp_path, [gemm], inputs={"x": (3, 7)}, outputs=["y"], weights=random(w=(10, 7), c=(10,)), opset=6)
    model = formats.load([path])
    with pytest.raises(ModelError, match=r"opset 6 is too old; .* form=folded"):
        model.edit(Splice("fc", scaled(full(lifted(model, "fc")))))


@pytest.mark.parametrize("name", LINEAR)
def test_a_cut_may_bring_a_new_bias_and_the_reference_has_it_too(name: str, tmp_path: Path) -> None:
    path, feed = linear(name, tmp_path)
    model = formats.load([path])
    op = lifted(model, "fc")
    chain = corrected(full(op))
    wanted = run(path, feed)["y"]
    shift = np.asarray(chain.last.bias) - (0 if op.bias is None else op.bias)
    wanted = wanted + (shift[:, None, None] if isinstance(op, Conv2d) else shift)
    edits = {"cut": Splice("fc", chain), "reference": Reweigh("fc", collapse(chain, "float32"))}
    for stem, edit in edits.items():
        changed = model.edit(edit)
        (file,) = changed.format.save(changed, tmp_path, stem)
        check(file)
        assert distance(wanted, run(file, feed)["y"]) < ROUNDING
        graph = onnx.load(file).graph
        read = {name for each in graph.node for name in each.input}
        assert {tensor.name for tensor in graph.initializer} <= read, "an addend that nothing reads is left behind"
        assert {info.name for info in graph.input} <= read
        made = changed.format.made(changed)["fc"]
        again = formats.load([file])
        assert set(made) <= {each.key for each in again.nodes}


def test_a_shared_bias_stays_for_the_others_when_one_changes(tmp_path: Path) -> None:
    nodes = [node("Gemm", "x w b", "y", "fc"), node("Gemm", "x v b", "z", "other")]
    path = tiny(tmp_path, nodes, inputs={"x": (3, 7)}, outputs=["y", "z"], weights=random(w=(7, 5), v=(7, 5), b=(5,)))
    model = formats.load([path])
    file = saved(model.edit(Splice("fc", corrected(full(lifted(model, "fc"))))), tmp_path / "out")[0]
    feed = random(1, x=(3, 7))
    np.testing.assert_array_equal(run(path, feed)["z"], run(file, feed)["z"])
    assert distance(run(path, feed)["y"], run(file, feed)["y"]) > 0.1


@pytest.mark.parametrize("name", LINEAR)
def test_a_chain_of_one_operation_keeps_name_and_output(name: str, tmp_path: Path) -> None:
    path, feed = linear(name, tmp_path)
    model = formats.load([path])
    changed = model.edit(Splice("fc", Chain((lifted(model, "fc"),))))
    file = saved(changed, tmp_path / "out")[0]
    check(file)
    assert changed.format.made(changed)["fc"] == ("fc",)
    np.testing.assert_array_equal(run(path, feed)["y"], run(file, feed)["y"])


def constant(name: str, array: np.ndarray) -> onnx.NodeProto:
    return node("Constant", "", name, f"make {name}", value=onnx.numpy_helper.from_array(array))


FORMS = ("initializer", "Constant", "Reshape", "Reshape of Constant", "Transpose", "Unsqueeze", "two views")


@pytest.mark.parametrize("ir_version", [3, 8])
@pytest.mark.parametrize("form", FORMS)
def test_weights_of_every_form_are_cut_and_leave_nothing_behind(form: str, ir_version: int, tmp_path: Path) -> None:
    array = random(w=(6, 10))["w"]
    before: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {"w": array}
    if form == "Constant":
        before, weights = [constant("w", array)], {}
    elif form == "Reshape":
        before = [node("Reshape", "v shape", "w")]
        weights = {"v": array.reshape(3, 20), "shape": np.array([6, -1])}
    elif form == "Reshape of Constant":
        before = [
            constant("v", array.reshape(3, 20)),
            constant("shape", np.array([6, 10])),
            node("Reshape", "v shape", "w"),
        ]
        weights = {}
    elif form == "Transpose":
        before, weights = [node("Transpose", "v", "w", perm=[1, 0])], {"v": np.ascontiguousarray(array.T)}
    elif form == "Unsqueeze":
        before, weights = [node("Squeeze", "v", "w", axes=[0])], {"v": array[np.newaxis]}
    elif form == "two views":
        before = [node("Identity", "v", "u"), node("Reshape", "u shape", "w")]
        weights = {"v": array.reshape(-1), "shape": np.array([6, 10])}
    path = tiny(tmp_path, [*before, node("MatMul", "x w", "y", "fc")], inputs={"x": (3, 6)}, outputs=["y"],
                weights=weights, opset=11, ir_version=ir_version)  # fmt: skip
    assert check_cuts(path, "fc", random(1, x=(3, 6)), tmp_path / "out") == {"svd"}
    left = onnx.load(tmp_path / "out" / "cut.onnx").graph
    kinds = [made.op_type for made in left.node]
    assert kinds == ["Constant"] * (2 if "Constant" in form else 0) + ["MatMul", "MatMul"]
    names = {tensor.name for tensor in left.initializer}
    assert names == (set() if "Constant" in form else {"fc_1_weight", "fc_2_weight"})
    assert {info.name for info in left.input} == {"x"} | (names if ir_version < 4 else set())


def test_a_constant_of_shape_is_cut_without_being_made(tmp_path: Path) -> None:
    fill = onnx.helper.make_tensor("", onnx.TensorProto.FLOAT, [1], [0.25])
    nodes = [node("ConstantOfShape", "shape", "w", value=fill), node("MatMul", "x w", "y", "fc")]
    path = tiny(tmp_path, nodes, inputs={"x": (3, 6)}, outputs=["y"], weights={"shape": np.array([6, 10])})
    model = formats.load([path])
    assert lifted(model, "fc").weight.strides == (0, 0)
    check_cuts(path, "fc", random(1, x=(3, 6)), tmp_path / "out")
    left = onnx.load(tmp_path / "out" / "cut.onnx").graph
    assert [made.op_type for made in left.node] == ["Constant", "Constant", "MatMul", "MatMul"]
    assert not left.initializer


def test_what_others_read_of_a_view_stays(tmp_path: Path) -> None:
    nodes = [node("Reshape", "v shape", "w"), node("MatMul", "x w", "y", "fc"), node("Relu", "v", "z")]
    weights = random(v=(60,)) | {"shape": np.array([6, 10])}
    path = tiny(tmp_path, nodes, inputs={"x": (3, 6)}, outputs=["y", "z"], weights=weights)
    check_cuts(path, "fc", random(1, x=(3, 6)), tmp_path / "out")
    left = onnx.load(tmp_path / "out" / "cut.onnx").graph
    assert [t.name for t in left.initializer] == ["v"]
    assert [made.op_type for made in left.node] == ["Constant", "Constant", "MatMul", "MatMul", "Relu"]


def test_other_numbers_of_the_same_shape_are_put_in_place(tmp_path: Path) -> None:
    conv = node("Conv", "x w b", "c", "conv", pads=[1, 1, 1, 1])
    nodes = [conv, node("Flatten", "c", "f"), node("Gemm", "f v", "y", "fc", alpha=2.0)]
    weights = random(w=(4, 3, 3, 3), b=(4,), v=(64, 5))
    path = tiny(tmp_path, nodes, inputs={"x": (1, 3, 4, 4)}, outputs=["y"], weights=weights)
    model = formats.load([path])
    fits = {"conv": METHODS["tucker2"], "fc": METHODS["svd"]}
    chains = {
        key: method.factor(lifted(model, key), method.rank_at(lifted(model, key), 2)) for key, method in fits.items()
    }
    changed = model.edit(*(Reweigh(key, collapse(fit.chain, "float32")) for key, fit in chains.items()))
    file = saved(changed, tmp_path / "out")[0]
    split = saved(model.edit(*(Splice(key, fit.chain) for key, fit in chains.items())), tmp_path / "split")[0]
    feed = random(1, x=(1, 3, 4, 4))
    assert distance(run(file, feed)["y"], run(split, feed)["y"]) < ROUNDING
    before, after = onnx.load(path).graph, check(file).graph
    assert list(before.node) == list(after.node)
    assert [t.name for t in before.initializer] == [t.name for t in after.initializer]
    assert isinstance(lifted(formats.load([file]), "fc"), Linear)
