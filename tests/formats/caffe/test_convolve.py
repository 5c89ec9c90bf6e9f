"""InnerProduct layers as convolutions: what the files say then, and that real Caffe computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.formats.caffe import binary
from surgery.model import Convolve, Model
from surgery.runtime import ENGINES, Job, job_of
from surgery.verify import random_inputs
from tests.engines import require_caffe
from tests.nets import dense_blobs, write_net
from tests.shared import shared

INPUT = 'input: "data"\ninput_shape { dim: 2 dim: 3 dim: 5 dim: 4 }\n'


def layer(kind: str, name: str, bottoms: str = "", tops: str = "", more: str = "") -> str:
    wires = [f'bottom: "{x}"' for x in bottoms.split()] + [f'top: "{x}"' for x in tops.split()]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(wires)} {more} }}\n'


def dense(name: str, bottom: str, top: str, outputs: int, more: str = "") -> str:
    return layer("InnerProduct", name, bottom, top, f"inner_product_param {{ num_output: {outputs} {more} }}")


FC6, FC7 = dense("fc6", "data", "a", 6), dense("fc7", "a", "b", 4)
RELU, DROP, SOFTMAX = layer("ReLU", "r", "a", "a"), layer("Dropout", "d", "a", "a"), layer("Softmax", "s", "b", "p")
BLOBS = {"fc6": dense_blobs(6, 60), "fc7": dense_blobs(4, 6, seed=1)}

# name -> (layers behind INPUT, blobs, the layers rewritten, a reason for each of the others)
NETS = {
    "a classifier": (FC6 + RELU + DROP + FC7 + SOFTMAX, BLOBS, "fc6 fc7", {}),
    "transposed, without bias": (
        dense("fc6", "data", "a", 6, "transpose: true bias_term: false axis: 1") + RELU + FC7,
        {"fc6": [dense_blobs(60, 6)[0]], "fc7": BLOBS["fc7"]},
        "fc6 fc7",
        {},
    ),
    "two heads": (
        FC6 + RELU + FC7 + dense("x", "a", "c", 4) + layer("Concat", "k", "b c", "o"),
        {**BLOBS, "x": dense_blobs(4, 6)},
        "fc6 fc7 x",
        {},
    ),
    "flattened in the end": (FC6 + layer("Flatten", "f", "a", "o"), BLOBS, "fc6", {}),
    "shape for one that reads it flat": (
        FC6 + layer("Reshape", "f", "a", "o", "reshape_param { shape { dim: 0 dim: -1 } }"),
        BLOBS,
        "fc6",
        {},
    ),
    "reshaped to other axes": (
        FC6
        + layer("Reshape", "f", "a", "o", "reshape_param { shape { dim: 0 dim: 2 dim: 3 } }")
        + layer("ReLU", "r", "o", "q"),
        BLOBS,
        "fc6",
        {},
    ),
    "a reshape by axis": (
        FC6 + layer("Reshape", "f", "a", "o", "reshape_param { shape { dim: 2 dim: 3 } axis: 1 num_axes: 1 }"),
        BLOBS,
        "",
        {"fc6": "'f' (Reshape) behind it would give another shape"},
    ),
    "softmax along the last axis": (
        FC6 + FC7 + layer("Softmax", "s", "b", "p", "softmax_param { axis: -1 }"),
        BLOBS,
        "fc6",
        {"fc7": "'s' (Softmax) behind it does not say that it works along axis 1"},
    ),
    "what forks may read": (
        FC6 + layer("Reduction", "n", "a", "o", "reduction_param { axis: 1 }"),
        BLOBS,
        "",
        {"fc6": "'n' (Reduction) behind it is not known to take two more axes of size 1"},
    ),
    "a sum with a blob of two axes": (
        INPUT.replace("data", "y").replace("dim: 3 dim: 5 dim: 4", "dim: 6") + FC6 + layer("Eltwise", "e", "a y", "o"),
        BLOBS,
        "",
        {"fc6": "'e' (Eltwise) behind it also reads blobs without these axes"},
    ),
    "behind a Flatten": (
        layer("Flatten", "f", "data", "z") + dense("fc6", "z", "a", 6) + FC7,
        BLOBS,
        "",
        {
            "fc6": "its input from 'f' has 2 axes, none of them height and width",
            "fc7": "its input from 'fc6' has 2 axes",
        },
    ),
    "along the last axis": (
        dense("fc6", "data", "a", 6, "axis: -1"),
        {"fc6": dense_blobs(6, 4)},
        "",
        {"fc6": "does not read all of its input but the batch"},
    ),
    "shared weights": (
        layer("InnerProduct", "fc6", "data", "a", 'param { name: "w" } inner_product_param { num_output: 6 }')
        + layer("InnerProduct", "x", "data", "c", 'param { name: "w" } inner_product_param { num_output: 6 }'),
        {"fc6": BLOBS["fc6"], "x": BLOBS["fc6"]},
        "",
        {"fc6": "its weights are shared with 'x'", "x": "its weights are shared with 'fc6'"},
    ),
    "read in another phase": (
        FC6 + layer("Reduction", "n", "a", "o", "include { phase: TRAIN }"),
        BLOBS,
        "",
        {"fc6": "'n', which runs in another phase, level or stage, reads what comes of it"},
    ),
}


def convolvable(model: Model) -> tuple[tuple[str, ...], dict[str, str]]:
    found, left = model.format.convolvable(model, [node.key for node in model.nodes])
    return found, {refusal.key: refusal.reason for refusal in left}


def convolved(model: Model, folder: Path) -> tuple[Path, ...]:
    folder.mkdir()
    return model.format.save(model.edit(Convolve(convolvable(model)[0])), folder, "net")


@pytest.mark.parametrize("name", NETS)
def test_layers_become_convolutions_unless_something_behind_would_differ(name: str, tmp_path: Path) -> None:
    layers, blobs, expected, reasons = NETS[name]
    text = INPUT + layers
    files = write_net(tmp_path, text, blobs)
    model = formats.load(files)
    found, left = convolvable(model)
    assert " ".join(found) == expected
    assert left.keys() == reasons.keys()
    assert all(left[key].startswith(reason) for key, reason in reasons.items()), left
    paths = convolved(model, tmp_path / "conv")
    if not expected:
        assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in files]
        return
    assert_same_numbers(model, files, paths)


def assert_same_numbers(model: Model, files: tuple[Path, ...], paths: tuple[Path, ...]) -> None:
    require_caffe()
    inputs = random_inputs(model.format.runnable(model).inputs, 0)
    jobs = [job_of(model, files, inputs, all_blobs=True), job_of(formats.load(paths), paths, inputs, all_blobs=True)]
    first, second = ENGINES["caffe"].run_jobs(jobs)
    assert isinstance(first, list), first
    assert isinstance(second, list), second
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert b[name].shape in (value.shape, (*value.shape, 1, 1))
            np.testing.assert_allclose(b[name].reshape(value.shape), value, rtol=1e-4, atol=1e-4 * np.abs(value).max())


def test_only_the_layers_concerned_change(tmp_path: Path) -> None:
    block = "layer {\n  name: 'fc6' # six\n  type: 'InnerProduct'\n  bottom: 'data'\n  top: 'a'\n"
    block += "  inner_product_param {\n    num_output: 6\n    axis: 1\n    weight_filler { type: 'xavier' }\n  }\n}\n"
    files = write_net(tmp_path, INPUT + block + RELU, {**BLOBS, "stranger": [np.ones(3, np.float32)]})
    paths = convolved(formats.load(files), tmp_path / "conv")
    expected = block.replace("'InnerProduct'", '"Convolution"').replace("inner_product_param", "convolution_param")
    expected = expected.replace("    axis: 1\n", "").replace("  }\n}", "    kernel_h: 5\n    kernel_w: 4\n  }\n}")
    assert paths[0].read_text() == INPUT + expected + RELU
    model = binary.read(paths[1])
    assert [(x.name, x.shapes) for x in model.layers] == [
        ("fc6", ((6, 3, 5, 4), (6,))),
        ("fc7", ((4, 6), (4,))),
        ("stranger", ((3,),)),
    ]
    assert model.array(model.layers[0].blobs[0]).tobytes() == BLOBS["fc6"][0].tobytes()


def test_the_result_takes_larger_images_and_slides_over_them(tmp_path: Path) -> None:
    require_caffe()
    files = write_net(tmp_path, INPUT + FC6 + RELU + FC7, BLOBS)
    paths = convolved(formats.load(files), tmp_path / "conv")
    large = np.random.default_rng(0).standard_normal((1, 3, 6, 6)).astype(np.float32)
    windows = [{"data": large[:, :, i : i + 5, j : j + 4]} for i in range(2) for j in range(3)]
    whole = ENGINES["caffe"].run(Job(paths, [{"data": large}]))[0]["b"]
    parts = ENGINES["caffe"].run(Job(files, windows))
    assert whole.shape == (1, 4, 2, 3)
    expected = np.stack([part["b"].reshape(4) for part in parts], axis=1).reshape(1, 4, 2, 3)
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-4)


def test_v1_layers_stay_v1(tmp_path: Path) -> None:
    text = INPUT + 'layers { name: "fc6" type: INNER_PRODUCT bottom: "data" top: "a" blobs_lr: 1 blobs_lr: 2\n'
    text += "inner_product_param { num_output: 6 } }\n"
    files = write_net(tmp_path, text, {"fc6": BLOBS["fc6"]}, generation=1, legacy=True)
    paths = convolved(formats.load(files), tmp_path / "conv")
    assert "type: CONVOLUTION" in paths[0].read_text()
    assert binary.read(paths[1]).layers[0].generation == 1
    assert_same_numbers(formats.load(files), files, paths)


ZOO = [
    ("lenet_v1_everpeace/lenet.prototxt", "lenet_iter_5000.caffemodel", "ip1 ip2"),
    ("lenet_JachinShen/lenet_deploy.prototxt", "lenet_iter_10000.caffemodel", "ip1 ip2"),
    ("mtcnn_kpzhang93/det2.prototxt", "det2.caffemodel", "conv4 conv5-1 conv5-2"),
]


@pytest.mark.parametrize(("definition", "weights", "expected"), ZOO)
def test_trained_networks_become_fully_convolutional(
    definition: str, weights: str, expected: str, tmp_path: Path
) -> None:
    prototxt = shared("zoo/caffemodel") / definition
    files = (prototxt, prototxt.parent / weights)
    model = formats.load(files)
    found, left = convolvable(model)
    assert (" ".join(found), left) == (expected, {})
    assert_same_numbers(model, files, convolved(model, tmp_path / "conv"))
