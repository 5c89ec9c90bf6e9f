"""Scales between factors and new biases in Caffe's files: what the text says, and that real Caffe computes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.errors import ModelError
from surgery.formats.caffe import binary
from surgery.model import Edit, Model, PerChannel, Refusal, Reweigh, Splice
from surgery.ops import Chain, Op, Scale, collapse
from surgery.runtime import Array
from surgery.survey import survey
from surgery.verify import random_inputs, run_pair, verify_cut
from tests.chains import corrected, full, scaled
from tests.engines import require_caffe
from tests.nets import conv_blobs, dense_blobs, write_net

FLOAT32 = 1e-5  # 20 to 200 products of standard normals, summed in float32 in another order.

INPUT = 'input: "data"\ninput_shape { dim: 2 dim: 6 dim: 9 dim: 8 }\n'
CONV = 'layer {{ name: "f" type: "Convolution" bottom: "data" top: "y" convolution_param {{ {0} }} }}\n'
DENSE = 'layer {{ name: "f" type: "InnerProduct" bottom: "data" top: "y" inner_product_param {{ {0} }} }}\n'

# name -> (the layer 'f', its blobs)
NETS = {
    "conv": (CONV.format("num_output: 8 kernel_size: 3 pad: 1"), conv_blobs(8, 6, 3, 3)),
    "conv, no bias": (
        CONV.format("num_output: 8 kernel_size: 3 bias_term: false"),
        conv_blobs(8, 6, 3, 3, bias=False),
    ),
    "conv, axis -3": (CONV.format("num_output: 8 kernel_size: 3 axis: -3"), conv_blobs(8, 6, 3, 3)),
    "dense": (DENSE.format("num_output: 30"), dense_blobs(30, 432)),
    "dense, no bias": (DENSE.format("num_output: 30 bias_term: false"), dense_blobs(30, 432, bias=False)),
    "dense, transposed": (
        DENSE.format("num_output: 30 transpose: true bias_term: false"),
        dense_blobs(432, 30, bias=False),
    ),
    "dense, axis -1": (DENSE.format("num_output: 10 axis: -1"), dense_blobs(10, 8)),
    "dense, axis -2": (DENSE.format("num_output: 10 axis: -2"), dense_blobs(10, 72)),
    "dense, axis 2": (DENSE.format("num_output: 10 axis: 2 bias_term: false"), dense_blobs(10, 72, bias=False)),
}


def written(folder: Path, name: str) -> tuple[tuple[Path, Path], Model]:
    layer, blobs = NETS[name]
    files = write_net(folder, INPUT + layer, {"f": blobs})
    return files, formats.load(files)


def lifted(model: Model, key: str) -> Op:
    op = model.format.lift(model, model.node(key))
    assert not isinstance(op, Refusal), op.reason
    return op


def saved(folder: Path, model: Model, *edits: Edit, stem: str = "cut") -> tuple[Path, ...]:
    edited = model.edit(*edits)
    return edited.format.save(edited, folder, stem)


def outputs(before: Sequence[Path], after: Sequence[Path], name: str = "y") -> tuple[Array, Array]:
    """What real Caffe computes from the same input."""
    require_caffe()
    models = formats.load(before), formats.load(after)
    inputs = random_inputs(models[0].format.runnable(models[0]).inputs, 0, 1)
    first, second = run_pair(("caffe", "caffe"), models, (before, after), (inputs, inputs), all_blobs=True)
    assert isinstance(first, list), first
    assert isinstance(second, list), second
    return first[0][name].astype(np.float64), second[0][name].astype(np.float64)


def distance(wanted: Array, found: Array) -> float:
    return float(np.linalg.norm(wanted - found) / np.linalg.norm(wanted))


@pytest.mark.parametrize("name", NETS)
def test_a_scale_between_factors_computes_the_same_in_real_caffe(name: str, tmp_path: Path) -> None:
    files, model = written(tmp_path, name)
    paths = saved(tmp_path, model, Splice("f", scaled(full(lifted(model, "f")))))
    assert distance(*outputs(files, paths)) < FLOAT32


@pytest.mark.parametrize("name", NETS)
def test_a_scale_is_counted_and_where_channels_are_axis_1_read_back(name: str, tmp_path: Path) -> None:
    _, model = written(tmp_path, name)
    chain = scaled(full(lifted(model, "f")))
    changed = model.edit(Splice("f", chain))
    again = formats.load(changed.format.save(changed, tmp_path, "cut"))
    assert [(node.key, node.type) for node in again.nodes] == [(node.key, node.type) for node in changed.nodes]
    assert changed.format.made(changed) == {"f": ("f_1", "f_2", "f_3")}
    facts = survey(again, ()).facts["f_2"]
    assert (facts.params, facts.macs) == (chain.ops[1].params, 0)
    along_1 = "axis" not in name or "conv" in name
    for read in (changed, again) if along_1 else (changed,):
        meaning = read.format.scale(read, read.node("f_2"))
        assert isinstance(meaning, PerChannel)
        assert isinstance(chain.ops[1], Scale)
        np.testing.assert_array_equal(meaning.scale.factor, chain.ops[1].factor)
        assert isinstance(read.format.lift(read, read.node("f_2")), Refusal)
    if along_1:
        made = changed.format.made(changed)
        assert verify_cut(again, model, made, ((), ()), ()).comparisons[0].rel_l2 < FLOAT32


def test_a_scale_says_what_the_layer_says_of_its_weight(tmp_path: Path) -> None:
    text = INPUT + DENSE.format("num_output: 4 axis: 2").replace(
        'top: "y"', 'top: "y" param { lr_mult: 3 decay_mult: 2 } param { lr_mult: 6 } include { phase: TEST }'
    )
    files = write_net(tmp_path, text, {"f": dense_blobs(4, 72)})
    model = formats.load(files)
    text = saved(tmp_path, model, Splice("f", scaled(full(lifted(model, "f")))))[0].read_text()
    expected = (
        'layer {\n  name: "f_2"\n  type: "Scale"\n  bottom: "f_1"\n  top: "f_2"\n'
        "  param { lr_mult: 3 decay_mult: 2 }\n  include { phase: TEST }\n"
        "  scale_param {\n    axis: 2\n    bias_term: false\n  }\n}\n"
    )
    assert expected in text


def test_v1_has_no_scale_and_says_what_to_do(tmp_path: Path) -> None:
    text = INPUT + CONV.format("num_output: 8 kernel_size: 3").replace("layer", "layers").replace(
        '"Convolution"', "CONVOLUTION"
    )
    model = formats.load(write_net(tmp_path, text, {"f": conv_blobs(8, 6, 3, 3)}, generation=1))
    with pytest.raises(ModelError, match=r"f: a Scale .* V1 lacks; `surgery upgrade` .* form=folded") as error:
        model.edit(Splice("f", scaled(full(lifted(model, "f")))))
    assert "\n" not in str(error.value)


def test_a_layer_of_two_tops_gets_no_scale(tmp_path: Path) -> None:
    text = INPUT + CONV.format("num_output: 8 kernel_size: 3").replace(
        'bottom: "data" top: "y"', 'bottom: "data" bottom: "data" top: "y" top: "z"'
    )
    model = formats.load(write_net(tmp_path, text, {"f": conv_blobs(8, 6, 3, 3)}))
    with pytest.raises(ModelError, match="f: has 2 tops"):
        model.edit(Splice("f", scaled(full(lifted(model, "f")))))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_scale_in_a_v1_caffemodel_is_found_by_its_name(legacy: bool, tmp_path: Path) -> None:
    layer, blobs = NETS["conv"]
    files = write_net(tmp_path, INPUT + layer, {"f": blobs}, generation=1, legacy=legacy)
    model = formats.load(files)
    paths = saved(tmp_path, model, Splice("f", scaled(full(lifted(model, "f")))))
    records = binary.read(paths[1]).layers
    assert [(r.name, r.type, r.generation) for r in records] == [
        ("f_1", "Convolution", 1), ("f_2", "", 1), ("f_3", "Convolution", 1)
    ]  # fmt: skip
    assert distance(*outputs(files, paths)) < FLOAT32


def test_a_scale_is_written_into_hdf5_weights(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    layer, blobs = NETS["dense"]
    prototxt, _ = write_net(tmp_path, INPUT + layer, {})
    with h5py.File(tmp_path / "net.h5", "w") as file:
        for i, blob in enumerate(blobs):
            file[f"data/f/{i}"] = blob
    model = formats.load((prototxt, tmp_path / "net.h5"))
    chain = scaled(full(lifted(model, "f")))
    paths = saved(tmp_path, model, Splice("f", chain))
    with h5py.File(paths[1]) as file:
        assert isinstance(chain.ops[1], Scale)
        np.testing.assert_array_equal(file["data/f_2/0"][...], chain.ops[1].factor)


@pytest.mark.parametrize("name", NETS)
def test_a_cut_may_bring_a_new_bias_and_the_reference_has_it_too(name: str, tmp_path: Path) -> None:
    files, model = written(tmp_path, name)
    op = lifted(model, "f")
    chain = corrected(full(op))
    assert chain.last.bias is not None
    shift = chain.last.bias - (0 if op.bias is None else op.bias)
    for stem, edit in {"cut": Splice("f", chain), "reference": Reweigh("f", collapse(chain, "float32"))}.items():
        before, after = outputs(files, saved(tmp_path, model, edit, stem=stem))
        along = shift[:, None, None] if "conv" in name else shift
        assert distance(before + along, after) < FLOAT32


BIASED = {
    "layer { A param { lr_mult: 3 decay_mult: 2 } P { num_output: 8 kernel_size: 3 bias_term: false } }":
        "  param { lr_mult: 3 decay_mult: 2 }\n  param { lr_mult: 3 decay_mult: 0 }\n  convolution_param {",
    "layer { A param { lr_mult: 3 } param { lr_mult: 5 } P { num_output: 8 kernel_size: 3 } }":
        "  param { lr_mult: 3 }\n  param { lr_mult: 5 }\n  convolution_param {",
    "layer { A P { num_output: 8 kernel_size: 3 bias_term: false } }": '  top: "y"\n  convolution_param {',
    "layers { A blobs_lr: 3 weight_decay: 1 P { num_output: 8 kernel_size: 3 bias_term: false } }":
        "  blobs_lr: 3\n  blobs_lr: 3\n  weight_decay: 1\n  weight_decay: 0\n  convolution_param {",
    "layers { A blobs_lr: 3 P { num_output: 8 kernel_size: 3 bias_term: false } }":
        "  blobs_lr: 3\n  blobs_lr: 3\n  convolution_param {",
}  # fmt: skip


@pytest.mark.parametrize("before", BIASED)
def test_a_new_bias_learns_as_the_weight_does_without_decay(before: str, tmp_path: Path) -> None:
    kind = "CONVOLUTION" if before.startswith("layers") else '"Convolution"'
    text = before.replace(" A ", f' name: "f" type: {kind} bottom: "data" top: "y" ').replace(
        "P {", "convolution_param {"
    )
    bias = "bias_term: false" not in before
    model = formats.load(write_net(tmp_path, INPUT + text, {"f": conv_blobs(8, 6, 3, 3, bias=bias)}))
    text = saved(tmp_path, model, Splice("f", corrected(full(lifted(model, "f")))))[0].read_text()
    last = text[text.index('name: "f_2"') :]
    assert BIASED[before] in last
    assert "bias_term: false" not in last


@pytest.mark.parametrize("name", NETS)
def test_a_chain_of_one_operation_keeps_name_and_top(name: str, tmp_path: Path) -> None:
    files, model = written(tmp_path, name)
    changed = model.edit(Splice("f", Chain((lifted(model, "f"),))))
    assert changed.format.made(changed) == {"f": ("f",)}
    before, after = outputs(files, changed.format.save(changed, tmp_path, "cut"))
    assert distance(before, after) < FLOAT32


def test_a_layer_with_other_weights_is_not_cut_before_it_is_saved(tmp_path: Path) -> None:
    _, model = written(tmp_path, "conv")
    op = lifted(model, "f")
    with pytest.raises(ModelError, match="f: has other weights already"):
        model.edit(Reweigh("f", op), Splice("f", full(op)))
