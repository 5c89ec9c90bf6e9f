"""Scales folded into the layers before them: what the files say then, and that real Caffe computes the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.errors import ModelError
from surgery.folding import folding
from surgery.formats.caffe import binary, text
from surgery.formats.caffe.deploy import deploy
from surgery.formats.caffe.netstate import NetState
from surgery.model import Model
from surgery.verify import comparable, compare, random_inputs, run_pair
from tests.engines import require_caffe
from tests.nets import conv_blobs, dense_blobs, layer_bytes, write_net
from tests.shared import shared

RNG = np.random.default_rng(0)
INPUT = 'name: "t"\ninput: "data"\ninput_shape { dim: 2 dim: 6 dim: 9 dim: 8 }\n'
CONV = """\
layer {
  name: "c" # first
  type: "Convolution"
  bottom: "data"
  top: "c"
  convolution_param { num_output: 8 kernel_size: 3 bias_term: false }
}
"""
NORM = 'layer { name: "n" type: "BatchNorm" bottom: "c" top: "c" }\n'
SCALE = 'layer { name: "s" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }\n'
RELU = 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" }\n'


def uniform(*shape: int) -> np.ndarray:
    return RNG.uniform(0.5, 1.5, shape).astype(np.float32)


def norm_blobs(channels: int = 8, factor: float = 2.5) -> list[np.ndarray]:
    return [uniform(channels) - 1, uniform(channels), np.array([factor], np.float32)]


def scale_blobs(channels: int = 8) -> list[np.ndarray]:
    return [uniform(channels), uniform(channels) - 1]


def layer(kind: str, name: str, bottom: str, top: str, more: str = "") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" {more} }}\n'


C = {"c": conv_blobs(8, 6, 3, 3, bias=False)}
C_BIAS = {"c": conv_blobs(8, 6, 3, 3)}

# name -> (layers behind INPUT, blobs, what each layer takes in, the layers left)
NETS = {
    "in place": (CONV + NORM + SCALE + RELU, {**C, "n": norm_blobs(), "s": scale_blobs()}, {"c": "n s"}, ""),
    "with a bias of its own": (
        CONV.replace("bias_term: false", "") + NORM,
        {**C_BIAS, "n": norm_blobs()},
        {"c": "n"},
        "",
    ),
    "a factor of 0 stands for statistics of 0": (CONV + NORM, {**C, "n": norm_blobs(factor=0)}, {"c": "n"}, ""),
    "blob after blob": (
        CONV + layer("BatchNorm", "n", "c", "d") + layer("Scale", "s", "d", "e") + layer("Bias", "b", "e", "f"),
        {**C, "n": norm_blobs(), "s": scale_blobs()[:1], "b": scale_blobs()[:1]},
        {"c": "n s b"},
        "",
    ),
    "a scale that only multiplies": (CONV + layer("Scale", "s", "c", "c"), {**C, "s": [uniform(8)]}, {"c": "s"}, ""),
    "one number for all channels": (
        CONV + layer("Scale", "s", "c", "c", "scale_param { num_axes: 0 }"),
        {**C, "s": [np.float32(1.5).reshape(())]},
        {"c": "s"},
        "",
    ),
    "channels counted from the end": (
        CONV + layer("Scale", "s", "c", "c", "scale_param { axis: -3 }"),
        {**C, "s": [uniform(8)]},
        {"c": "s"},
        "",
    ),
    "groups": (
        CONV.replace("num_output: 8", "num_output: 8 group: 2") + NORM,
        {"c": conv_blobs(8, 3, 3, 3, bias=False), "n": norm_blobs()},
        {"c": "n"},
        "",
    ),
    "deconvolution in groups": (
        layer("Deconvolution", "c", "data", "c", "convolution_param { num_output: 8 kernel_size: 3 group: 2 }") + NORM,
        {"c": [*conv_blobs(6, 4, 3, 3, bias=False), uniform(8)], "n": norm_blobs()},
        {"c": "n"},
        "",
    ),
    "dense": (
        layer("InnerProduct", "c", "data", "c", "inner_product_param { num_output: 8 }") + NORM + SCALE,
        {"c": dense_blobs(8, 432), "n": norm_blobs(), "s": scale_blobs()},
        {"c": "n s"},
        "",
    ),
    "dense, transposed": (
        layer("InnerProduct", "c", "data", "c", "inner_product_param { num_output: 8 transpose: true }") + NORM,
        {"c": [dense_blobs(432, 8)[0], uniform(8)], "n": norm_blobs()},
        {"c": "n"},
        "",
    ),
    "dense along the last axis": (
        layer("InnerProduct", "c", "data", "c", "inner_product_param { num_output: 8 axis: -1 }") + NORM,
        {"c": dense_blobs(8, 8), "n": norm_blobs(6)},
        {},
        "n",
    ),
    "the convolution's blob is read elsewhere": (
        CONV + layer("BatchNorm", "n", "c", "d") + layer("ReLU", "r", "c", "e"),
        {**C, "n": norm_blobs()},
        {},
        "n",
    ),
    "the first of two can go": (
        CONV + NORM + layer("Scale", "s", "c", "d") + layer("TanH", "t", "c", "e"),
        {**C, "n": norm_blobs(), "s": scale_blobs()[:1]},
        {"c": "n"},
        "s",
    ),
    "the batch's own statistics": (
        CONV + layer("BatchNorm", "n", "c", "c", "batch_norm_param { use_global_stats: false }"),
        {**C, "n": norm_blobs()},
        {},
        "n",
    ),
    "in phase TRAIN by its own field": (
        CONV + layer("BatchNorm", "n", "c", "c", "phase: TRAIN"),
        {**C, "n": norm_blobs()},
        {},
        "n",
    ),
    "factors from a blob": (
        CONV + 'layer { name: "s" type: "Scale" bottom: "c" bottom: "data" top: "d" scale_param { axis: 0 } }\n',
        C,
        {},
        "s",
    ),
    "not behind a linear layer": (
        layer("ReLU", "r", "data", "c") + NORM + SCALE,
        {"n": norm_blobs(6), "s": scale_blobs(6)},
        {},
        "n s",
    ),
    "numbers along another axis": (
        CONV + layer("Scale", "s", "c", "c", "scale_param { axis: 2 }"),
        {**C, "s": [uniform(7)]},
        {},
        "s",
    ),
    "numbers for every pixel": (
        CONV + layer("Scale", "s", "c", "c", "scale_param { num_axes: 3 }"),
        {**C, "s": [uniform(8, 7, 6)]},
        {},
        "s",
    ),
}
NOT_IN_CAFFE = {"factors from a blob"}  # The shapes do not fit: only the decision is of interest.


def taken_in(model: Model) -> dict[str, str]:
    return {fold.key: " ".join(fold.absorbed) for fold in folding(model).folds}


def left(model: Model) -> dict[str, str]:
    return {refusal.key: refusal.reason for refusal in folding(model).left}


def fold(model: Model, folder: Path) -> tuple[Path, ...]:
    folder.mkdir()
    return model.format.save(model.edit(*folding(model).folds), folder, "net")


def assert_same_in_caffe(model: Model, files: tuple[Path, ...], paths: tuple[Path, ...], tolerance: float) -> int:
    folded = formats.load(paths)
    inputs = random_inputs(model.format.runnable(model).inputs, 0)
    first, second = run_pair(("caffe", "caffe"), (model, folded), (files, paths), (inputs, inputs), all_blobs=True)
    assert isinstance(first, list), first
    assert isinstance(second, list), second
    names = comparable((model, folded), first[0], second[0])
    assert any(not np.array_equal(first[0][name], first[1][name]) for name in names)
    for comparison in compare(first, second, names):
        assert comparison.rel_l2 < tolerance, comparison
    return len(names)


@pytest.mark.parametrize("name", NETS)
def test_what_folds_computes_the_same_in_real_caffe(name: str, tmp_path: Path) -> None:
    layers, blobs, expected, stays = NETS[name]
    files = write_net(tmp_path, INPUT + layers, blobs)
    if name in NOT_IN_CAFFE:
        model = formats.load(files[:1])
        assert list(left(model)) == stays.split()
        return
    model = formats.load(files)
    assert taken_in(model) == expected
    assert list(left(model)) == stays.split()
    paths = fold(model, tmp_path / "folded")
    if not expected:
        assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in files]
        return
    assert not {key for keys in expected.values() for key in keys.split()} & {n.key for n in formats.load(paths).nodes}
    require_caffe()
    assert_same_in_caffe(model, files, paths, 1e-5)  # two float32 sums of at most 432 products


def test_only_the_layers_concerned_change(tmp_path: Path) -> None:
    other = layer(
        "Convolution", "z", "c", "z", "convolution_param { num_output: 2 kernel_size: 1 } # odd\n my_field: 3"
    )
    blobs = {**C, "n": norm_blobs(), "s": scale_blobs(), "z": conv_blobs(2, 8, 1, 1), "stranger": [uniform(3)]}
    files = write_net(tmp_path, INPUT + CONV + "# statistics\n" + NORM + SCALE + RELU + other, blobs)
    paths = fold(formats.load(files), tmp_path / "folded")
    expected = CONV.replace("bias_term: false", "bias_term: true")
    assert paths[0].read_text() == INPUT + expected + "# statistics\n" + RELU + other
    kept = {entry.name: entry for entry in binary.read(paths[1]).layers}
    assert list(kept) == ["c", "z", "stranger"]
    assert paths[1].read_bytes().endswith(layer_bytes("z", blobs["z"]) + layer_bytes("stranger", blobs["stranger"]))


def test_the_last_blob_keeps_its_name(tmp_path: Path) -> None:
    layers = CONV + layer("BatchNorm", "n", "c", "d") + layer("ReLU", "r", "d", "e")
    paths = fold(formats.load(write_net(tmp_path, INPUT + layers, {**C, "n": norm_blobs()})), tmp_path / "folded")
    assert [(x.key, x.inputs, x.outputs) for x in formats.load(paths).nodes] == [
        ("c", ("data",), ("d",)),
        ("r", ("d",), ("e",)),
    ]


# name -> (layers behind INPUT, blobs, the reason for "n")
REFUSED = {
    "shared weights": (
        CONV.replace("top", 'param { name: "w" } top')
        + NORM
        + layer(
            "Convolution", "x", "data", "x", 'param { name: "w" } convolution_param { num_output: 8 kernel_size: 3 }'
        ),
        {**C, "n": norm_blobs()},
        "'c' (Convolution) before it cannot take it in: its weights are shared with 'x' (param name 'w')",
    ),
    "no weights": (CONV + NORM, C, "no file holds weights for it"),
    "a variance below 0": (CONV + NORM, {**C, "n": [uniform(8), -uniform(8), uniform(1)]}, "has no root"),
    "another layer's phase": (
        CONV + layer("BatchNorm", "n", "c", "d") + layer("TanH", "t", "c", "d", "include { phase: TRAIN }"),
        {**C, "n": norm_blobs()},
        "'t', which runs in another phase, level or stage, reads its input",
    ),
    "two readers": (
        CONV + layer("BatchNorm", "n", "c", "d") + layer("TanH", "t", "c", "e"),
        {**C, "n": norm_blobs()},
        "its input 'c' is needed as it is: 't' reads it too",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_fold_is_listed_with_the_reason(name: str, tmp_path: Path) -> None:
    layers, blobs, reason = REFUSED[name]
    model = formats.load(write_net(tmp_path, INPUT + layers, blobs))
    assert not folding(model).folds
    assert reason in left(model)["n"]


def test_twins_of_another_phase_go_too(tmp_path: Path) -> None:
    twin = layer("BatchNorm", "n", "c", "c", "include { phase: TRAIN } batch_norm_param { use_global_stats: false }")
    rule = NORM.replace(" }", " include { phase: TEST } }")
    paths = fold(
        formats.load(write_net(tmp_path, INPUT + CONV + twin + rule, {**C, "n": norm_blobs()})), tmp_path / "f"
    )
    assert [x.name for x in formats.load(paths).native.layers] == ["c"]


def test_forks_bn_folds_by_its_four_blobs(tmp_path: Path) -> None:
    blobs = [uniform(1, 8, 1, 1) for _ in range(4)]
    layers = CONV + layer("BN", "n", "c", "c", "bn_param { frozen: true }")
    model = formats.load(write_net(tmp_path, INPUT + layers, {**C, "n": [blob.reshape(1, 8) for blob in blobs]}))
    (found,) = folding(model).folds
    x = RNG.standard_normal((2, 8, 3, 3))
    slope, bias, mean, variance = (blob.astype(np.float64) for blob in blobs)
    np.testing.assert_allclose(found.scale.apply(x), slope * (x - mean) / np.sqrt(variance + 1e-5) + bias, rtol=1e-9)


def test_legacy_and_hdf5_weights_fold_too(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    blobs = {**C_BIAS, "n": norm_blobs()}
    files = write_net(tmp_path, INPUT + CONV.replace("bias_term: false", "") + NORM, blobs, legacy=True)
    plain = fold(formats.load(files), tmp_path / "legacy")
    expected = [np.array(a) for a in binary_arrays(plain[1], "c")]
    with h5py.File(tmp_path / "net.h5", "w") as file:
        for name, arrays in blobs.items():
            for i, array in enumerate(arrays):
                file[f"data/{name}/{i}"] = array
    paths = fold(formats.load([files[0], tmp_path / "net.h5"]), tmp_path / "h5")
    with h5py.File(paths[1]) as file:
        assert list(file["data"]) == ["c"]
        for i, array in enumerate(expected):
            np.testing.assert_array_equal(file[f"data/c/{i}"][...].reshape(-1), array.reshape(-1))


def binary_arrays(path: Path, name: str) -> list[np.ndarray]:
    model = binary.read(path)
    entry = next(entry for entry in model.layers if entry.name == name)
    return [model.array(blob) for blob in entry.blobs]


def test_a_fold_beyond_float32_is_refused(tmp_path: Path) -> None:
    blobs = {"c": [np.full((8, 6, 3, 3), 1e38, np.float32)], "s": [np.full(8, 1e38, np.float32)]}
    model = formats.load(write_net(tmp_path, INPUT + CONV + layer("Scale", "s", "c", "c"), blobs))
    with pytest.raises(ModelError, match="c: cannot take in what follows it: a weight would be beyond float32's range"):
        model.edit(*folding(model).folds)


def test_a_folded_network_can_be_edited_again(tmp_path: Path) -> None:
    blobs = {**C, "n": norm_blobs(), "s": scale_blobs()}
    files = write_net(tmp_path, INPUT + CONV + NORM + SCALE, blobs)
    model = formats.load(files)
    whole = folding(model).folds[0]
    scales = {node.key: model.format.scale(model, node) for node in model.nodes if node.key in ("n", "s")}
    assert whole.absorbed == ("n", "s")
    once = model.edit(whole)
    assert not folding(once).folds
    assert [node.key for node in once.nodes] == ["c"]
    first = model.edit(type(whole)("c", ("n",), scales["n"].scale))  # type: ignore[union-attr]
    again = first.edit(*folding(first).folds)
    outputs = [x.format.save(x, tmp_path, name) for x, name in ((once, "once"), (again, "again"))]
    a, b = (binary_arrays(paths[1], "c") for paths in outputs)
    for one, other in zip(a, b, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)  # rounded to float32 once more


# Trained networks: prototxt, weights, what its data layer's blob is fed, BatchNorm layers, BatchNorm layers that fold.
ZOO = [
    ("caffe-onnx_test/test.prototxt", "test.caffemodel", {}, 1, 1),
    ("wechat_qrcode/detect.prototxt", "detect.caffemodel", {}, 2, 1),
    ("cifar10_resnet20/res20_cifar_train_test.prototxt", "ResNet_20.caffemodel", {"Data1": (2, 3, 32, 32)}, 21, 21),
    ("cifar10_resnet20/plain20_cifar_train_test.prototxt", "PlainNet_20.caffemodel", {"Data1": (2, 3, 32, 32)}, 19, 19),
]


@pytest.mark.parametrize(("definition", "weights", "shapes", "norms", "folds"), ZOO)
def test_trained_networks_fold(
    definition: str, weights: str, shapes: dict[str, tuple[int, ...]], norms: int, folds: int, tmp_path: Path
) -> None:
    require_caffe()
    source = shared("zoo/caffemodel") / definition
    document = text.read(source)
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_bytes(deploy(document, NetState(), shapes).encode() if shapes else document.encode())
    files = (prototxt, source.parent / weights)
    model = formats.load(files)
    found = folding(model)
    assert sum(node.type == "BatchNorm" for node in model.nodes) == norms
    assert len(found.folds) == folds
    assert {key for x in found.folds for key in x.absorbed} | {x.key for x in found.left} == {
        node.key for node in model.nodes if node.type in ("BatchNorm", "Scale")
    }
    assert assert_same_in_caffe(model, files, fold(model, tmp_path / "folded"), 1e-4) > 1


def test_golden_networks_fold(tmp_path: Path) -> None:
    caffe = require_caffe()
    index = json.loads((shared("golden") / "index.json").read_text(encoding="utf-8"))
    folded = 0
    for case in index["cases"]:
        if not {"BatchNorm", "Scale", "Bias"} & set(case["types"]):
            continue
        own = shared("golden") / case["case"]
        files = (own / "net.prototxt", own / "net.caffemodel")
        model = formats.load(files, stages=case["stages"])
        if not folding(model).folds:
            continue
        assert_same_in_caffe(model, files, fold(model, tmp_path / case["case"]), 1e-5)
        folded += 1
    assert folded == 2, caffe.version()
