"""What a cut made is found and multiplied back: the files then compute what they did, and say what they said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.errors import ModelError
from surgery.factor import METHODS
from surgery.merging import merging
from surgery.model import Merge, Model, Refusal, Splice
from surgery.ops import Conv2d, Linear, Op, collapse
from surgery.verify import random_inputs, run_pair
from tests.cases import normal
from tests.chains import corrected, full, scaled
from tests.engines import require
from tests.formats.onnx.engine import check, distance, random, run, stated
from tests.nets import conv_blobs, dense_blobs, write_net
from tests.onnx_nets import node, tiny

ROUNDING = 2e-6  # Some ten sums of at most 200 float32 terms, each about eps = 1.2e-7 off.

CAFFE = """# a net
input: "data" input_shape { dim: 2 dim: 6 dim: 9 dim: 8 }
layer {
  name: "c" # the first
  type: "Convolution"
  bottom: "data"
  top: "y"
  param { name: "w" lr_mult: 1 decay_mult: 3 }
  param { name: "b" lr_mult: 2 }
  convolution_param {
    num_output: 8
    kernel_size: 3
    stride: 2
    pad: 1
    weight_filler { type: "xavier" }
    bias_filler { type: "constant" }
  }
} # behind it
layer { name: "r" type: "ReLU" bottom: "y" top: "y" }
layer {
  name: "f"
  type: "InnerProduct"
  bottom: "y"
  top: "z"
  inner_product_param {
    num_output: 7
    bias_term: false
  }
}
"""
BLOBS = {"c": conv_blobs(8, 6, 3, 3), "f": dense_blobs(7, 160, bias=False)}


def caffe(folder: Path) -> Model:
    return formats.load(write_net(folder, CAFFE, BLOBS))


def onnx(folder: Path, opset: int = 13) -> Model:
    nodes = [
        node("Conv", "x w b", "c", "conv", kernel_shape=[3, 3], pads=[0, 1, 2, 1], strides=[2, 1]),
        node("Relu", "c", "d"),
        node("Flatten", "d", "e"),
        node("Gemm", "e v u", "f", "fc", alpha=0.5, beta=2.0),
        node("MatMul", "f t", "y", "last"),
    ]
    weights = random(w=(8, 4, 3, 3), b=(8,), v=(120, 5), u=(5,), t=(5, 6))
    inputs = {"x": (1, 4, 6, 5)}
    ir_version = 3 if opset < 9 else 8
    return formats.load([stated(tiny(folder, nodes, inputs=inputs, outputs=["y"], weights=weights, opset=opset,
                                     ir_version=ir_version))])  # fmt: skip


def lifts(model: Model) -> Mapping[str, Op]:
    found = {node.key: model.format.lift(model, node) for node in model.nodes}
    return {key: op for key, op in found.items() if not isinstance(op, Refusal)}


def cut(model: Model, change: str, folder: Path) -> Model:
    """Return the model with every layer cut, as it is read back from its files."""
    edits = {"full": full, "scaled": lambda op: scaled(full(op)), "corrected": lambda op: corrected(full(op))}
    changed = model.edit(*(Splice(key, edits[change](op)) for key, op in lifts(model).items()))
    return reread(changed, folder, "cut")


def reread(model: Model, folder: Path, stem: str) -> Model:
    return formats.load(model.format.save(model, folder, stem))


@pytest.mark.parametrize("change", ["full", "scaled", "corrected"])
def test_merging_undoes_a_cut_of_a_caffe_net(change: str, tmp_path: Path) -> None:
    model = caffe(tmp_path)
    factored = cut(model, change, tmp_path)
    found = merging(factored)
    assert [(merge.keys[0], merge.keys[-1], merge.name) for merge in found.merges] == [
        ("c_1", "c_3" if change == "scaled" else "c_2", "c"),
        ("f_1", "f_3" if change == "scaled" else "f_2", "f"),
    ]
    assert not found.left
    again = reread(factored.edit(*found.merges), tmp_path, "again")
    for key, op in lifts(again).items():
        # Factors are rounded to float32 once, and the products of at most 8 of them once more.
        np.testing.assert_allclose(op.weight, lifts(model)[key].weight, atol=1e-5)
    if change != "corrected":  # Else there is a bias more.
        assert (tmp_path / "again.prototxt").read_text() == CAFFE.replace(" # the first", "")
    stored = formats.weights_of(tmp_path / "again.caffemodel")
    assert [entry[:2] for entry in stored] == [("c", "Convolution"), ("f", "InnerProduct")]


@pytest.mark.parametrize("engine", ["caffe", "opencv"])
def test_a_merged_caffe_net_computes_what_the_cut_one_does(engine: str, tmp_path: Path) -> None:
    runtime = require(engine)
    factored = cut(caffe(tmp_path), "scaled", tmp_path)
    again = factored.edit(*merging(factored).merges)
    files = (
        [tmp_path / f"cut{end}" for end in (".prototxt", ".caffemodel")],
        again.format.save(again, tmp_path, "again"),
    )
    inputs = random_inputs({"data": (2, 6, 9, 8)}, 0, 1)
    first, second = run_pair((engine, engine), (factored, again), files, (inputs, inputs), all_blobs=False)
    assert isinstance(first, list), first
    assert isinstance(second, list), second
    assert runtime.version()
    assert distance(first[0]["z"], second[0]["z"]) < 1e-5  # As in tests of cuts: two layers deep.


@pytest.mark.parametrize(
    "generation", ["blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0", 'param: "w" param: "b"']
)
def test_merging_undoes_a_cut_of_v1_layers(generation: str, tmp_path: Path) -> None:
    text = (
        'input: "data" input_dim: 2 input_dim: 6 input_dim: 9 input_dim: 8\nlayers { name: "c" type: CONVOLUTION '
        f'bottom: "data" top: "y" {generation}\n convolution_param {{ num_output: 8 kernel_size: 3 }} }}\n'
    )
    model = formats.load(write_net(tmp_path, text, {"c": conv_blobs(8, 6, 3, 3)}, generation=1))
    factored = cut(model, "full", tmp_path)
    again = reread(factored.edit(*merging(factored).merges), tmp_path, "again")
    assert [node.key for node in again.nodes] == ["c"]
    after = (tmp_path / "again.prototxt").read_text()
    found = [line.strip() for line in after.splitlines() if line.startswith(("  blobs", "  weight", "  param"))]
    assert " ".join(found) == generation


@pytest.mark.parametrize("opset", [8, 13])
@pytest.mark.parametrize("change", ["full", "scaled", "corrected"])
def test_merging_undoes_a_cut_of_an_onnx_net(change: str, opset: int, tmp_path: Path) -> None:
    model = onnx(tmp_path, opset)
    factored = cut(model, change, tmp_path)
    found = merging(factored)
    assert [merge.name for merge in found.merges] == ["conv", "fc", "last"]
    again = reread(factored.edit(*found.merges), tmp_path, "again")
    added = ["last_3"] if change == "corrected" else []  # What a MatMul's new bias became.
    assert list(lifts(again)) == ["conv", "fc", "last"]
    assert [node.key for node in again.nodes if node.key not in ("-> d", "-> e")] == ["conv", "fc", "last", *added]
    for key, op in lifts(again).items():
        np.testing.assert_allclose(op.weight, lifts(model)[key].weight, atol=1e-5)
    feed = random(1, x=(1, 4, 6, 5))
    check(tmp_path / "again.onnx")
    wanted = run(tmp_path / "cut.onnx", feed)["y"]
    assert (
        distance(wanted, run(tmp_path / "again.onnx", feed)["y"]) < 5 * ROUNDING
    )  # Three layers deep, cut and merged.
    graph = again.native.graph
    assert set(graph.initializers) <= set(graph.users), "a weight that nothing reads is left behind"
    assert not [info.name for info in graph.inputs if info.name != "x"]


def linear(*weights: tuple[int, ...], reads: str = "", outputs: tuple[str, ...] = ("y",), folder: Path) -> Model:
    """Return a model of Convs 'k1', 'k2', ... one after the other, padded by 1 and with a bias, and more nodes."""
    arrays = random(**{f"w{i}": shape for i, shape in enumerate(weights, 1)})
    arrays |= {f"b{i}": np.ones(shape[0], np.float32) for i, shape in enumerate(weights, 1)}
    names = ["x", *(f"v{i}" for i in range(1, len(weights))), "y"]
    nodes = [
        node("Conv", f"{names[i - 1]} w{i} b{i}", names[i], f"k{i}", pads=[shape[2] // 2, shape[3] // 2] * 2)
        for i, shape in enumerate(weights, 1)
    ]
    nodes += [node("Relu", reads, "z")] if reads else []
    return formats.load([tiny(folder, nodes, inputs={"x": (1, 4, 6, 5)}, outputs=outputs, weights=arrays)])


def test_layers_of_other_names_are_merged_under_the_last_ones(tmp_path: Path) -> None:
    found = merging(linear((6, 4, 3, 3), (5, 6, 1, 1), (3, 5, 1, 1), folder=tmp_path))
    assert [(merge.keys, merge.name) for merge in found.merges] == [(("k1", "k2", "k3"), "k3")]


def test_a_run_ends_where_others_read_and_at_an_output(tmp_path: Path) -> None:
    shapes = ((6, 4, 3, 3), (5, 6, 1, 1), (3, 5, 1, 1))
    found = merging(linear(*shapes, reads="v1", outputs=("y", "z"), folder=tmp_path))
    assert [merge.keys for merge in found.merges] == [("k2", "k3")]
    found = merging(linear(*shapes, outputs=("y", "v2"), folder=tmp_path))
    assert [merge.keys for merge in found.merges] == [("k1", "k2")]


def test_what_no_one_layer_computes_is_left_with_the_reason(tmp_path: Path) -> None:
    (left,) = merging(linear((6, 4, 1, 1), (5, 6, 3, 3), folder=tmp_path)).left
    assert (left.key, left.reason) == (
        "k1", "with k2: collapse: a bias inside the chain is followed by padding; the border is no convolution"
    )  # fmt: skip
    (left,) = merging(linear((6, 4, 3, 1), (5, 6, 3, 1), (5, 5, 1, 1), folder=tmp_path)).left
    assert left.reason.startswith("with k2, k3: ")


def test_a_convolution_and_a_product_behind_it_are_no_run(tmp_path: Path) -> None:
    text = CAFFE.replace('layer { name: "r" type: "ReLU" bottom: "y" top: "y" }\n', "")
    factored = cut(formats.load(write_net(tmp_path, text, BLOBS)), "full", tmp_path)
    found = merging(factored)
    assert [merge.name for merge in found.merges] == ["c", "f"]
    again = merging(factored.edit(*found.merges))
    assert (again.merges, again.left) == ((), ())


def test_cuts_side_by_side_are_merged_each_for_itself(tmp_path: Path) -> None:
    model = linear((6, 4, 3, 3), (5, 6, 3, 3), folder=tmp_path)
    found = merging(cut(model, "full", tmp_path))
    assert [(merge.keys, merge.name) for merge in found.merges] == [
        (("k1_1", "k1_2"), "k1"),
        (("k2_1", "k2_2"), "k2"),
    ]


def edited(model: Model, keys: tuple[str, ...], name: str = "k") -> str:
    op = Linear(normal(1, 6, 8)) if model.format.name == "caffe" else Conv2d(normal(1, 5, 4, 3, 3))
    with pytest.raises(ModelError) as error:
        model.edit(Merge(keys, op, name))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_an_onnx_file_needs_in_between_is_not_taken_away(tmp_path: Path) -> None:
    shapes = ((6, 4, 3, 3), (5, 6, 1, 1), (3, 5, 1, 1))
    read = linear(*shapes, reads="v1", outputs=("y", "z"), folder=tmp_path)
    assert "reads 'v1' too" in edited(read, ("k1", "k2"))
    assert "'v1' is an output" in edited(linear(*shapes, outputs=("y", "v1"), folder=tmp_path), ("k1", "k2"))
    assert "another node has the name 'k3'" in edited(linear(*shapes, folder=tmp_path), ("k1", "k2"), "k3")
    assert "does not read" in edited(linear(*shapes, folder=tmp_path), ("k1", "k3"))


TWO = (
    'input: "data" input_shape {{ dim: 1 dim: 8 }}\n'
    'layer {{ name: "a" type: "InnerProduct" bottom: "data" top: "p" {0} inner_product_param {{ num_output: 3 }} }}\n'
    'layer {{ name: "b" type: "InnerProduct" bottom: "p" top: "q" {1} inner_product_param {{ num_output: 6 }} }}\n'
)
RELU = 'layer { name: "r" type: "ReLU" bottom: "p" top: "s" include { phase: TRAIN } }\n'
TEST = "include { phase: TEST }"


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        (TWO.format("", "") + RELU, "b", "'r' uses 'p' too"),
        (TWO.format("", TEST), "b", "'b' runs in another phase, level or stage than 'a'"),
        (TWO.format("", "") + RELU, "r", "the name 'r' is taken"),
        (TWO.format("param { name: 'w' }", "param { name: 'w' }"), "b", "'a' its weights are shared with 'b'"),
        (TWO.format("", TEST) + TWO.format("", "").splitlines()[2].replace('b"', 'b" include { phase: TRAIN }'), "b",
         "another layer has the name 'b'"),
    ],
)  # fmt: skip
def test_what_a_caffe_file_needs_in_between_is_not_taken_away(
    text: str, name: str, expected: str, tmp_path: Path
) -> None:
    blobs = {"a": dense_blobs(3, 8), "b": dense_blobs(6, 3)}
    assert expected in edited(formats.load(write_net(tmp_path, text, blobs)), ("a", "b"), name)


@pytest.mark.parametrize("method", ["svd-channel", "svd-spatial", "tucker2"])
def test_every_methods_chain_is_found(method: str, tmp_path: Path) -> None:
    model = caffe(tmp_path)
    op = lifts(model)["c"]
    chain = METHODS[method].factor(op, METHODS[method].rank_at(op, 2)).chain
    factored = reread(model.edit(Splice("c", chain)), tmp_path, "cut")
    (merge,) = merging(factored).merges
    np.testing.assert_allclose(merge.op.weight, collapse(chain).weight, rtol=1e-5, atol=1e-6)
