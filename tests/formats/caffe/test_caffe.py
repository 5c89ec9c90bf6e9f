"""Cuts of Caffe nets: what the files say afterwards, and that real Caffe computes the same at full rank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.choose import Amount, Request, Selector, choose, parse_selector
from surgery.errors import ModelError, SurgeryError
from surgery.formats.caffe import binary
from surgery.model import Refusal, Reweigh
from surgery.plans import Cut, Plan
from surgery.rewriting import rewrite
from surgery.survey import survey
from surgery.verify import comparable, compare, random_inputs, run_pair
from tests.engines import require_caffe
from tests.nets import conv_blobs, dense_blobs, layer_bytes, write_net

INPUT = 'name: "t"\ninput: "data"\ninput_shape { dim: 2 dim: 6 dim: 9 dim: 8 }\n'

# 20 to 60 products of standard normals, summed in float32 in another order, two layers deep.
FLOAT32 = 1e-5

# name -> (layers behind INPUT, blobs, method by layer)
NETS = {
    "conv": (
        'layer { name: "c" type: "Convolution" bottom: "data" top: "c"\n'
        "  convolution_param { num_output: 8 kernel_size: 3 pad: 1 stride: 2 } }\n",
        {"c": conv_blobs(8, 6, 3, 3)},
    ),
    "non-square kernel, stride, pad and two dilations": (
        'layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 8\n'
        "  kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 2 pad_w: 1 dilation: 2 dilation: 3 } }\n",
        {"c": conv_blobs(8, 6, 3, 2)},
    ),
    "repeated pairs": (
        'layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 8\n'
        "  kernel_size: [2, 3] stride: 1 stride: 2 pad: 0 pad: 2 } }\n",
        {"c": conv_blobs(8, 6, 2, 3)},
    ),
    "groups without bias": (
        'layer { name: "c" type: "Convolution" bottom: "data" top: "c"\n'
        "  convolution_param { num_output: 12 kernel_size: 3 group: 2 bias_term: false } }\n",
        {"c": conv_blobs(12, 3, 3, 3, bias=False)},
    ),
    "two bottoms, two tops, in-place ReLU behind": (
        'layer { name: "p" type: "Pooling" bottom: "data" top: "p" pooling_param { kernel_size: 3 pad: 1 } }\n'
        'layer { name: "c" type: "Convolution" bottom: "data" bottom: "p" top: "a" top: "b"\n'
        "  convolution_param { num_output: 8 kernel_size: 3 } }\n"
        'layer { name: "r" type: "ReLU" bottom: "a" top: "a" }\n',
        {"c": conv_blobs(8, 6, 3, 3)},
    ),
    "dense": (
        'layer { name: "f" type: "InnerProduct" bottom: "data" top: "f" inner_product_param { num_output: 30 } }\n',
        {"f": dense_blobs(30, 432)},
    ),
    "dense, transposed": (
        'layer { name: "f" type: "InnerProduct" bottom: "data" top: "f"\n'
        "  inner_product_param { num_output: 30 transpose: true } }\n",
        {"f": [dense_blobs(432, 30)[0], dense_blobs(30, 1)[1]]},
    ),
    "dense along the last axis": (
        'layer { name: "f" type: "InnerProduct" bottom: "data" top: "f"\n'
        "  inner_product_param { num_output: 10 axis: -1 } }\n",
        {"f": dense_blobs(10, 8)},
    ),
    "dense from the last two axes": (
        'layer { name: "f" type: "InnerProduct" bottom: "data" top: "f"\n'
        "  inner_product_param { num_output: 10 axis: -2 } }\n",
        {"f": dense_blobs(10, 72)},
    ),
    "dense from axis 2": (
        'layer { name: "f" type: "InnerProduct" bottom: "data" top: "f"\n'
        "  inner_product_param { num_output: 10 axis: 2 bias_term: false } }\n",
        {"f": dense_blobs(10, 72, bias=False)},
    ),
}


def full_rank(model: formats.Source | object, method: str) -> Request:
    return Request(methods=(method,), amount=Amount(rank=(0,)), force=True)


def cut_to(folder: Path, model, plan: Plan) -> tuple[Path, ...]:  # type: ignore[no-untyped-def]
    folder.mkdir()
    return model.format.save(rewrite(model, plan).model, folder, "net")


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", ["svd", "svd-channel", "svd-spatial", "tucker2"])
def test_full_rank_cut_computes_the_same_in_real_caffe(name: str, method: str, tmp_path: Path) -> None:
    require_caffe()
    layers, blobs = NETS[name]
    files = write_net(tmp_path, INPUT + layers, blobs)
    model = formats.load(files)
    surveyed = survey(model)
    plan = choose(surveyed, full_rank(model, method), "")
    assert len(plan.cuts) == sum(method in site.break_even for site in surveyed.sites)
    if not plan.cuts:
        assert method in str(surveyed.entries) or any(method in site.refusals for site in surveyed.sites)
        return
    paths = cut_to(tmp_path / "cut", model, plan)
    cut = formats.load(paths)
    inputs = random_inputs({"data": (2, 6, 9, 8)}, 0)
    first, second = run_pair(("caffe", "caffe"), (model, cut), (files, paths), (inputs, inputs), all_blobs=True)
    assert isinstance(first, list), first
    assert isinstance(second, list), second
    assert not np.array_equal(*(next(iter(first[i].values())) for i in (0, 1)))
    for comparison in compare(first, second, comparable((model, cut), first[0], second[0])):
        assert comparison.rel_l2 < FLOAT32, comparison


def load_text(tmp_path: Path, text: str, blobs, **kwargs):  # type: ignore[no-untyped-def]
    return formats.load(write_net(tmp_path, text, blobs, **kwargs))


def test_only_the_cut_layer_changes_in_the_text(tmp_path: Path) -> None:
    before = (
        "# head\r\n" + INPUT.replace("\n", "\r\n") + "  layer { # odd\r\n    name: 'c' type: \"Convolution\"\r\n"
        '    bottom: "data" top: "c"\r\n    param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }\r\n'
        "    include { phase: TEST }\r\n    fork_field { x: 1 }\r\n"
        '    convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } engine: CAFFE }\r\n'
        "  } # tail\r\nlayer < name: 'r' type: 'ReLU' bottom: 'c' top: 'c' unknown: 3; >\r\n"
    )
    model = load_text(tmp_path, before, {"c": conv_blobs(8, 6, 3, 3)})
    paths = cut_to(tmp_path / "out", model, Plan("", (Cut("c", "svd-channel", (2,)),)))
    after = paths[0].read_bytes().decode()
    start, end = before.index("layer { # odd"), before.index(" # tail")
    assert after.startswith(before[:start])
    assert after.endswith(before[end:])
    assert after[start : len(after) - len(before[end:])] == (
        'layer {\r\n    name: "c_1"\r\n    type: "Convolution"\r\n    bottom: "data"\r\n    top: "c_1"\r\n'
        "    param { lr_mult: 1 }\r\n    include { phase: TEST }\r\n    convolution_param {\r\n      num_output: 2\r\n"
        '      kernel_size: 3\r\n      bias_term: false\r\n      weight_filler { type: "xavier" }\r\n    }\r\n  }\r\n'
        '  layer {\r\n    name: "c_2"\r\n    type: "Convolution"\r\n    bottom: "c_1"\r\n    top: "c"\r\n'
        "    param { lr_mult: 1 }\r\n    param { lr_mult: 2 decay_mult: 0 }\r\n    include { phase: TEST }\r\n"
        "    convolution_param {\r\n      num_output: 8\r\n      kernel_size: 1\r\n"
        '      weight_filler { type: "xavier" }\r\n    }\r\n'
        "    fork_field { x: 1 }\r\n  }"
    )


def test_v1_layers_are_cut_as_v1(tmp_path: Path) -> None:
    text = (
        INPUT + 'layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" blobs_lr: 1 blobs_lr: 2 weight_decay: 1\n'
        "  weight_decay: 0 convolution_param { num_output: 8 kernel_size: 3 } }\n"
    )
    model = load_text(tmp_path, text, {"c": conv_blobs(8, 6, 3, 3)}, generation=1, legacy=True)
    paths = cut_to(tmp_path / "out", model, Plan("", (Cut("c", "svd-channel", (2,)),)))
    after = paths[0].read_text()
    assert after.count("layers {") == 2
    assert "blobs_lr: 1\n  weight_decay: 1\n" in after
    assert "blobs_lr: 1\n  blobs_lr: 2\n  weight_decay: 1\n  weight_decay: 0\n" in after
    records = binary.read(paths[1]).layers
    assert [(r.name, r.type, r.generation) for r in records] == [("c_1", "Convolution", 1), ("c_2", "Convolution", 1)]
    assert [r.shapes for r in records] == [((2, 6, 3, 3),), ((8, 2, 1, 1), (1, 1, 1, 8))]


def test_layers_of_one_name_in_two_phases_are_cut_in_both(tmp_path: Path) -> None:
    twin = (
        'layer {{ name: "c" type: "Convolution" bottom: "{0}" top: "c" include {{ phase: {1} }}\n'
        "  convolution_param {{ num_output: 8 kernel_size: 3 }} }}\n"
    )
    noise = 'layer { name: "d" type: "Dropout" bottom: "data" top: "d" include { phase: TRAIN } }\n'
    text = INPUT + noise + twin.format("d", "TRAIN") + twin.format("data", "TEST")
    model = load_text(tmp_path, text, {"c": conv_blobs(8, 6, 3, 3)})
    paths = cut_to(tmp_path / "out", model, Plan("", (Cut("c", "svd-channel", (2,)),)))
    after = paths[0].read_text()
    assert after.count('name: "c_1"') == after.count('name: "c_2"') == 2
    assert 'bottom: "d"' in after
    for phase in ("TRAIN", "TEST"):
        layers = [(n.key, n.inputs, n.outputs) for n in formats.load(paths, phase=phase).nodes if n.key != "d"]
        first = "d" if phase == "TRAIN" else "data"
        assert layers == [("c_1", (first,), ("c_1",)), ("c_2", ("c_1",), ("c",))]


def reason(tmp_path: Path, text: str, blobs, key: str) -> str:  # type: ignore[no-untyped-def]
    entries = {entry.key: entry for entry in survey(load_text(tmp_path, INPUT + text, blobs)).entries}
    entry = entries[key]
    assert isinstance(entry, Refusal)
    return entry.reason


CONV = (
    'layer {{ name: "{0}" type: "Convolution" bottom: "data" top: "{0}" {1}\n'
    "  convolution_param {{ num_output: 8 {2} }} }}\n"
)
PLAIN = CONV.format("c", "", "kernel_size: 3")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            CONV.format("c", "param { name: 'w' }", "kernel_size: 3")
            + CONV.format("e", "param { name: 'w' }", "kernel_size: 3"),
            "its weights are shared with 'e' (param name 'w')",
        ),
        (
            CONV.format("c", "include { phase: TEST }", "kernel_size: 3")
            + CONV.format("c", "include { phase: TRAIN }", "kernel_size: 3 stride: 2"),
            "a layer of the same name in another phase has other parameters",
        ),
        (
            PLAIN + PLAIN.replace('top: "c"', 'top: "x"'),
            "two layers that run have this name; Caffe gives the weights to the first only",
        ),
        (PLAIN.replace('top: "c"', 'top: "data"'), "its top overwrites its bottom"),
        (PLAIN.replace("Convolution", "MyConv"), "not a convolution or fully connected layer"),
    ],
)
def test_a_layer_that_cannot_be_cut_says_why(text: str, expected: str, tmp_path: Path) -> None:
    assert reason(tmp_path, text, {"c": conv_blobs(8, 6, 3, 3)}, "c") == expected


def test_a_param_name_of_one_layer_alone_gets_the_factors_suffix(tmp_path: Path) -> None:
    text = INPUT + CONV.format("c", "param { name: 'w' lr_mult: 3 } param { name: 'b' }", "kernel_size: 3")
    model = load_text(tmp_path, text, {"c": conv_blobs(8, 6, 3, 3)})
    after = cut_to(tmp_path / "out", model, Plan("", (Cut("c", "svd-channel", (2,)),)))[0].read_text()
    assert 'param { name: "w_1" lr_mult: 3 }' in after
    assert 'param { name: "w_2" lr_mult: 3 }\n  param { name: "b_2" }' in after


def test_new_names_avoid_names_of_the_prototxt_and_of_the_weights(tmp_path: Path) -> None:
    text = INPUT + CONV.format("c", "", "kernel_size: 3") + CONV.format("c_1", "", "kernel_size: 3")
    blobs = {"c": conv_blobs(8, 6, 3, 3), "c_1": conv_blobs(8, 6, 3, 3, seed=1), "c_cut2": conv_blobs(1, 1, 1, 1)}
    model = load_text(tmp_path, text, blobs)
    cut = formats.load(cut_to(tmp_path / "out", model, Plan("", (Cut("c", "svd-channel", (2,)),))))
    assert [node.key for node in cut.nodes] == ["c_cut2_1", "c_cut2_2", "c_1"]


def test_the_last_of_two_entries_counts_and_both_give_way(tmp_path: Path) -> None:
    prototxt, weights = write_net(tmp_path, INPUT + CONV.format("c", "", "kernel_size: 3"), {})
    stale, good = conv_blobs(8, 6, 3, 3, seed=1), conv_blobs(8, 6, 3, 3, seed=2)
    other = layer_bytes("other", conv_blobs(1, 1, 1, 1))
    weights.write_bytes(layer_bytes("c", stale) + other + layer_bytes("c", good))
    model = formats.load((prototxt, weights))
    np.testing.assert_array_equal(model.format.lift(model, model.node("c")).weight, good[0])
    paths = cut_to(tmp_path / "out", model, Plan("", (Cut("c", "svd-channel", (8,)),)))
    assert [record.name for record in binary.read(paths[1]).layers] == ["other", "c_1", "c_2"]
    assert model.format.notes(model) == ("net.caffemodel: 1 layers that the prototxt lacks are kept: other",)
    assert paths[1].read_bytes().startswith(other)


def test_reweighing_changes_only_blobs(tmp_path: Path) -> None:
    text = INPUT + NETS["dense, transposed"][0]
    model = load_text(tmp_path, text, NETS["dense, transposed"][1])
    op = model.format.lift(model, model.node("f"))
    changed = model.edit(Reweigh("f", op))
    paths = changed.format.save(changed, tmp_path, "same")
    assert paths[1].read_bytes() == (tmp_path / "net.caffemodel").read_bytes()
    assert paths[0].read_bytes() == (tmp_path / "net.prototxt").read_bytes()


def test_hdf5_weights_are_cut(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    layers, blobs = NETS["dense"]
    prototxt, _ = write_net(tmp_path, INPUT + layers, {})
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        for i, blob in enumerate(blobs["f"]):
            file[f"data/f/{i}"] = blob
        file["data/other/0"] = np.ones(3, np.float32)
    model = formats.load((prototxt, path))
    paths = cut_to(tmp_path / "out", model, Plan("", (Cut("f", "svd", (30,)),)))
    assert paths[1].suffix == ".h5"
    cut = formats.load(paths)
    stages = [cut.format.lift(cut, cut.node(name)) for name in ("f_1", "f_2")]
    # 30 products of float32 factors of size one.
    np.testing.assert_allclose(stages[1].weight @ stages[0].weight, blobs["f"][0], atol=1e-5)
    with h5py.File(paths[1]) as file:
        assert list(file["data"]) == ["f_1", "f_2", "other"]


@pytest.mark.parametrize(
    ("blobs", "expected"),
    [
        (conv_blobs(8, 5, 3, 3), "blob 0 has shape (8, 5, 3, 3) in"),
        (conv_blobs(8, 6, 3, 3, bias=False), "has 1 blobs for it"),
        ([conv_blobs(8, 6, 3, 3)[0], np.zeros((1, 1, 1, 8), np.float32)], "blob 1 has shape (1, 1, 1, 8) in"),
    ],
)
def test_weights_that_do_not_fit_are_refused_as_caffe_refuses_them(blobs, expected: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    files = write_net(tmp_path, INPUT + CONV.format("c", "", "kernel_size: 3"), {"c": blobs})
    with pytest.raises(ModelError) as error:
        formats.load(files)
    assert str(error.value).startswith(f"c: {expected}" if "has shape" in expected else "c: ")
    assert expected in str(error.value)
    assert all(file.name in str(error.value) for file in files)


def test_selectors_take_quoted_names_literally() -> None:
    assert parse_selector('"a=b:*"=svd:rank=3') == Selector("a=b:*", True, ("svd",), Amount(rank=(3,)))
    assert parse_selector("fc*=svd").matches("fc6")
    assert not parse_selector('"fc*"').matches("fc6")


@pytest.mark.parametrize("text", ["", "=svd", "a=nope", "a=svd:rank", "a=svd:rank=0", "a=svd:size=3", '"a"b'])
def test_a_wrong_selector_is_one_clear_error(text: str) -> None:
    with pytest.raises(SurgeryError):
        parse_selector(text)
