"""OpenCV's blobs come back under Caffe's names, and its exceptions as one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from surgery.errors import EngineError
from surgery.runtime import Job, OpenCV
from surgery.runtime.opencv import producers
from tests.engines import require_caffe, require_opencv
from tests.runtime.golden import agree, golden_cases

# What OpenCV 4 computes otherwise than Caffe, without a word.
WRONG = {
    "concat_dim_legacy",
    "conv_kernel_h_only_w_default",
    "deconv_dilation",
    "eltwise_inplace_first",
    "flatten_axis0",
    "ip_axis0",
    "ip_transpose",
    "log_all",
    "log_base10",
    "lrn_default",
    "lrn_size3_k2",
    "mvn_eps",
    "pool_edge_max_k1s2_even",
    "scale_two_bottoms_bias",
    "slice_dim_legacy",
    "split_explicit",
}
TOLERANCE = 1e-4  # OpenCV's own exp, log and pow keep a few bits less than libm's.

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 3 dim: 3 } } }\n'
POWER = 'layer { name: "%s" type: "Power" bottom: "%s" top: "%s" power_param { shift: %d } }\n'
ONES = {"data": np.ones((1, 2, 3, 3), np.float32)}


@pytest.fixture(scope="module")
def opencv() -> OpenCV:
    return require_opencv()


def test_golden_cases_that_opencv_runs_agree_except_where_listed(opencv: OpenCV) -> None:
    """Layers come from real Caffe, which knows them after upgrading."""
    cases = golden_cases()
    nets = require_caffe().blob_shapes_of([replace(case.job, inputs=[{}]) for case in cases])
    runs = [(case, net) for case, net in zip(cases, nets, strict=True) if not isinstance(net, EngineError)]
    outcomes = opencv.run_jobs(
        [replace(case.job, outputs=list(case.expected)) for case, _ in runs],
        producers=[producers((layer.name, layer.type, layer.tops) for layer in net.layers) for _, net in runs],
    )
    refused, wrong = set(), set()
    for (case, _), outcome in zip(runs, outcomes, strict=True):
        if isinstance(outcome, EngineError):
            assert "\n" not in str(outcome)
            refused.add(case.name)
        elif not agree(outcome[0], case.expected, TOLERANCE):
            wrong.add(case.name)
    assert wrong == WRONG
    assert len(runs) - len(refused) - len(wrong) > 200


def test_blobs_by_caffes_names(opencv: OpenCV, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(INPUT + POWER % ("one", "data", "a", 1) + POWER % ("two", "a", "b", 10), encoding="utf-8")
    table = producers([("data", "Input", ["data"]), ("one", "Power", ["a"]), ("two", "Power", ["b"])])
    (unasked,) = opencv.run(Job([path], [ONES]))
    (by_blob,) = opencv.run(Job([path], [ONES]), producers=table)
    (every,) = opencv.run(Job([path], [ONES], all_blobs=True), producers=table)
    (named,) = opencv.run(Job([path], [ONES], outputs=["a"]), producers=table)
    assert {name: float(value.flat[0]) for name, value in unasked.items()} == {"b": 12.0}
    assert {name: float(value.flat[0]) for name, value in by_blob.items()} == {"b": 12.0}
    assert {name: float(value.flat[0]) for name, value in every.items()} == {"a": 2.0, "b": 12.0}
    assert {name: float(value.flat[0]) for name, value in named.items()} == {"a": 2.0}


def test_producers_follow_opencvs_naming() -> None:
    layers = [
        ("data", "Input", ["data"]),
        ("conv", "Convolution", ["a", "b"]),
        ("act", "ReLU", ["a"]),
        ("act", "ReLU", ["b"]),
        ("cut", "Slice", ["c", "d"]),
    ]
    assert producers(layers) == {"a": ("act", 0), "b": ("act_1", 0), "c": ("cut", 0), "d": ("cut", 1)}
    assert producers(layers[:2]) == {"a": ("a", 0), "b": ("b", 0)}


def test_an_exception_is_one_line_with_its_layer(
    opencv: OpenCV, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(
        INPUT
        + 'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }',
        encoding="utf-8",
    )
    with pytest.raises(EngineError) as caught:
        opencv.run(Job([path], [ONES]))  # OpenCV has no fillers, so a layer without weights is refused.
    assert caught.value.layer == "ip"
    assert caught.value.files == (str(path),)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_text_that_does_not_parse(opencv: OpenCV, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(INPUT + "layer {", encoding="utf-8")
    with pytest.raises(EngineError, match=r"net\.prototxt:2:8: the file ends inside 'layer'"):
        opencv.run(Job([path], [ONES]))


def test_what_opencv_would_ignore_is_refused(opencv: OpenCV, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(INPUT + POWER % ("one", "data", "a", 1), encoding="utf-8")
    with pytest.raises(EngineError, match="ignores phases, levels and stages"):
        opencv.run(Job([path], [ONES], stages=["deploy"]))
    with pytest.raises(EngineError, match="no layer makes a blob 'z'"):
        opencv.run(Job([path], [ONES], outputs=["z"]), producers={"a": ("one", 0)})
    with pytest.raises(EngineError, match="no such file"):
        opencv.run(Job([path, tmp_path / "none.caffemodel"], [ONES]))
