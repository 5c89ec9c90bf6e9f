"""Layers that read one value get one common first factor: what the files say then, and that they compute the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgery import formats
from surgery.errors import ModelError
from surgery.formats.caffe import binary
from surgery.model import Edit, Model, Refusal, Reweigh, Share, Splice
from surgery.ops import Chain, Op, collapse
from surgery.ops.stack import stack, unstack
from surgery.verify import compare, random_inputs, run_pair, verify_cut
from tests.chains import corrected, full, scaled
from tests.engines import require
from tests.formats.onnx.engine import check, random, stated
from tests.nets import conv_blobs, dense_blobs, write_net
from tests.onnx_nets import node, tiny

FLOAT32 = 1e-5  # Up to 100 products of standard normals, summed in float32 in another order, two layers deep.

CAFFE = """# head
input: "data" input_shape { dim: 2 dim: 6 dim: 9 dim: 8 }
layer { name: "r0" type: "ReLU" bottom: "data" top: "data" } # in place
  layer { # the first
    name: "a" type: "Convolution" bottom: "data" top: "a" param { name: "w" lr_mult: 1 } param { lr_mult: 2 }
    convolution_param { num_output: 8 kernel_size: 3 pad: 1 }
  } # behind it
layer { name: "other" type: "Pooling" bottom: "data" top: "other" pooling_param { kernel_size: 3 } }
layer { name: "ra" type: "ReLU" bottom: "a" top: "a" }
layer { name: "b" type: "Convolution" bottom: "data" top: "b"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "late" type: "Convolution" bottom: "other" top: "late"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
"""
BLOBS = {
    "b": conv_blobs(4, 6, 3, 3, seed=1, bias=False),
    "a": conv_blobs(8, 6, 3, 3),
    "late": conv_blobs(4, 6, 3, 3, seed=2),
}


def caffe(folder: Path, **kind: Any) -> Model:
    return formats.load(write_net(folder, CAFFE, BLOBS, **kind))


def v1(folder: Path) -> Model:
    layer = (
        'layers {{ name: "{0}" type: INNER_PRODUCT bottom: "data" top: "{0}" blobs_lr: 1 blobs_lr: 2\n'
        "  inner_product_param {{ num_output: {1} axis: -1 }} }}\n"
    )
    head = 'input: "data" input_dim: 2 input_dim: 6 input_dim: 9 input_dim: 8\n'
    text = head + layer.format("a", 7) + layer.format("b", 3)
    return formats.load(write_net(folder, text, {"a": dense_blobs(7, 8), "b": dense_blobs(3, 8)}, generation=1))


def onnx(kind: str, opset: int, folder: Path) -> Model:
    if kind == "Conv":
        same: dict[str, Any] = {"auto_pad": "SAME_UPPER", "strides": [2, 2]}
        nodes = [node("Conv", "r v c", "b", "b", **same), node("Conv", "r w", "a", **same)]
        weights, shape = random(w=(8, 6, 3, 3), v=(4, 6, 3, 3), c=(4,)), (2, 6, 9, 8)
    else:
        addends = {"c": (5,), "u": (8,)} if kind == "Gemm" else {}
        nodes = [
            node(kind, " ".join(["r v", *addends][:2]), "b", "b"),
            node(kind, " ".join(["r w", *addends][::2]), "a"),
        ]
        weights, shape = random(w=(9, 8), v=(9, 5), **addends), (3, 9)
    nodes = [node("Relu", "x", "r"), nodes[0], node("Relu", "b", "z"), nodes[1]]
    path = tiny(folder, nodes, inputs={"x": shape}, outputs=["a", "z"], weights=weights, opset=opset,
                ir_version=3 if opset < 9 else 8)  # fmt: skip
    return formats.load([stated(path)])


ONNX_KEYS = ("-> a", "b")  # Asked for the other way round than they run.


def lifted(model: Model, keys: Sequence[str]) -> list[Op]:
    found = [model.format.lift(model, model.node(key)) for key in keys]
    assert not any(isinstance(op, Refusal) for op in found)
    return [op for op in found if not isinstance(op, Refusal)]


def share(model: Model, keys: tuple[str, ...], whole: Chain | None = None) -> tuple[Share, dict[str, Chain]]:
    """Return the edit at full rank, or by the chain given, and what each layer becomes as a whole."""
    ops = lifted(model, keys)
    stem, heads = unstack(whole or full(stack(ops)), ops)
    return Share(keys, stem, heads), {key: Chain((*stem.ops, *head.ops)) for key, head in zip(keys, heads, strict=True)}


def check_same(engine: str, model: Model, changed: Model, folder: Path) -> None:
    """Run both as written: every blob that both have is the same."""
    require(engine)
    models, files = [], []
    for each, stem in ((model, "before"), (changed, "after")):
        files.append(each.format.save(each, folder, stem))
        models.append(formats.load(files[-1]))
    inputs = random_inputs(models[0].format.runnable(models[0]).inputs, 0, 1)
    first, second = run_pair((engine, engine), (models[0], models[1]), (files[0], files[1]), (inputs, inputs),
                             all_blobs=True)  # fmt: skip
    assert isinstance(first, list), first
    assert isinstance(second, list), second
    names = [name for name in first[0] if name in second[0]]
    assert set(model.format.outputs(model)) <= set(names)
    for comparison in compare(first, second, names):
        assert comparison.rel_l2 < FLOAT32, comparison


@pytest.mark.parametrize("engine", ["caffe", "opencv"])
def test_a_caffe_net_with_a_common_first_factor_computes_the_same(engine: str, tmp_path: Path) -> None:
    model = caffe(tmp_path)
    check_same(engine, model, model.edit(share(model, ("a", "b"))[0]), tmp_path)


def test_a_v1_net_with_a_common_first_factor_computes_the_same(tmp_path: Path) -> None:
    model = v1(tmp_path)
    check_same("caffe", model, model.edit(share(model, ("a", "b"))[0]), tmp_path)


@pytest.mark.parametrize("opset", [8, 13])
@pytest.mark.parametrize("kind", ["Conv", "Gemm", "MatMul"])
def test_an_onnx_net_with_a_common_first_factor_computes_the_same(kind: str, opset: int, tmp_path: Path) -> None:
    model = onnx(kind, opset, tmp_path)
    changed = model.edit(share(model, ONNX_KEYS)[0])
    check_same("onnxruntime", model, changed, tmp_path)
    graph = check(tmp_path / "after.onnx").graph
    assert [each.name for each in graph.node if each.op_type in (kind, "MatMul")] == ["b_shared1", "b", "a_1"]
    assert changed.format.made(changed) == {"b": ("b_shared1", "b"), "-> a": ("b_shared1", "a_1")}


def test_a_scale_and_a_new_bias_come_along(tmp_path: Path) -> None:
    model = onnx("MatMul", 13, tmp_path)
    op = stack(lifted(model, ONNX_KEYS))
    first, last = full(op).ops
    # A stem of two factors with a scale between them.
    middle = replace(full(op).first, weight=np.eye(9, dtype=np.float32))
    whole = corrected(Chain((*scaled(Chain((middle, first))).ops, last)))
    edit, chains = share(model, ONNX_KEYS, whole)
    reference = model.edit(*(Reweigh(key, collapse(chain, "float32")) for key, chain in chains.items()))
    changed = model.edit(edit)
    check_same("onnxruntime", reference, changed, tmp_path)
    assert changed.format.made(changed)["b"] == ("b_shared1", "b_shared2", "b_shared3", "b_1", "b_2")


@pytest.mark.parametrize("build", [caffe, v1, partial(onnx, "Conv", 13), partial(onnx, "Gemm", 13)])
def test_a_net_that_nothing_runs_is_checked_layer_by_layer(build: Any, tmp_path: Path) -> None:
    model = build(tmp_path)
    keys = ("a", "b") if model.format.name == "caffe" else ONNX_KEYS
    edit, chains = share(model, keys)
    changed = model.edit(edit)
    again = formats.load(changed.format.save(changed, tmp_path, "after"))
    reference = model.edit(*(Reweigh(key, collapse(chain, "float32")) for key, chain in chains.items()))
    verdict = verify_cut(again, reference, changed.format.made(changed), ((), ()), ())
    assert {comparison.blob for comparison in verdict.comparisons} == set(keys)
    assert verdict.worst.rel_l2 < FLOAT32


def test_all_other_bytes_of_a_caffe_net_stay(tmp_path: Path) -> None:
    model = caffe(tmp_path)
    changed = model.edit(share(model, ("b", "a"), full(stack(lifted(model, ("b", "a")))))[0])
    prototxt, weights = changed.format.save(changed, tmp_path, "after")
    text = prototxt.read_text()
    ends = [CAFFE.index("layer { # the first"), CAFFE.index(" # behind it"), CAFFE.index('layer { name: "b"'),
            CAFFE.index('\nlayer { name: "late"')]  # fmt: skip
    assert text.startswith(CAFFE[: ends[0]] + 'layer {\n    name: "a_shared1"\n')
    assert CAFFE[ends[1] : ends[2]] + 'layer {\n  name: "b"\n' in text
    assert text.endswith(CAFFE[ends[3] :])
    assert 'param { name: "w_shared1" lr_mult: 1 }' in text
    assert 'param { name: "w" lr_mult: 1 }\n    param { lr_mult: 2 }' in text
    assert [record.name for record in binary.read(weights).layers] == ["b", "a_shared1", "a", "late"]
    assert weights.read_bytes().endswith((tmp_path / "net.caffemodel").read_bytes()[-100:])
    again = formats.load((prototxt, weights))
    found = {each.key: (each.inputs, each.outputs) for each in again.nodes}
    assert found["a_shared1"] == (("data",), ("a_shared1",))
    assert found["a"] == (("a_shared1",), ("a",))
    assert found["b"] == (("a_shared1",), ("b",))


def refused(model: Model, keys: tuple[str, ...], *before: Edit) -> str:
    edit, _ = share(model, keys)
    with pytest.raises(ModelError) as error:
        model.edit(*before, edit)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_layers_that_read_other_values_do_not_share(tmp_path: Path) -> None:
    model = caffe(tmp_path)
    assert "'late' does not read the value that 'a' reads" in refused(model, ("a", "late"))
    nodes = [node("Relu", "x", "r"), node("MatMul", "x w", "a", "a"), node("MatMul", "r v", "b", "b")]
    path = tiny(tmp_path, nodes, inputs={"x": (3, 9)}, outputs=["a", "b"], weights=random(w=(9, 8), v=(9, 8)))
    assert "'b' does not read the value that 'a' reads" in refused(formats.load([path]), ("b", "a"))


def test_a_layer_of_another_phase_does_not_share(tmp_path: Path) -> None:
    text = CAFFE.replace('top: "b"', 'top: "b" include { phase: TEST }')
    model = formats.load(write_net(tmp_path, text, BLOBS))
    assert "'b' runs in another phase, level or stage than 'a'" in refused(model, ("a", "b"))
    twin = CAFFE[CAFFE.index('layer { name: "b"') : CAFFE.index('layer { name: "late"')]
    twins = twin.replace('top: "b"', 'top: "b" include { phase: TEST }') + twin.replace(
        'top: "b"', 'top: "b" include { phase: TRAIN }'
    )
    model = formats.load(write_net(tmp_path, CAFFE.replace(twin, twins), BLOBS))
    assert "another layer has the name 'b'" in refused(model, ("a", "b"))


def test_nodes_that_pad_otherwise_do_not_share(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "a", "a", pads=[0, 0, 1, 1]),
        node("Conv", "x v", "b", "b", pads=[0, 0, 2, 2]),
    ]
    weights = random(w=(4, 3, 3, 3), v=(4, 3, 3, 3))
    path = tiny(tmp_path, nodes, inputs={"x": (1, 3, 7, 7)}, outputs=["a", "b"], weights=weights)
    assert "'b' has the pads ((0, 2), (0, 2)), 'a' has ((0, 1), (0, 1))" in refused(formats.load([path]), ("a", "b"))


@pytest.mark.parametrize("build", [caffe, partial(onnx, "Conv", 13)])
def test_a_layer_that_was_cut_does_not_share(build: Any, tmp_path: Path) -> None:
    model = build(tmp_path)
    keys = ("a", "b") if model.format.name == "caffe" else ONNX_KEYS
    (op,) = lifted(model, ("b",))
    with pytest.raises(KeyError):
        model.edit(Splice("b", full(op))).node("b")
    edit, _ = share(model, keys)
    with pytest.raises(ModelError, match="b: has other weights already"):
        model.edit(Reweigh("b", op), edit)
