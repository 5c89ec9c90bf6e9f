"""Real Caffe gives what BVLC Caffe gave, and what it aborts with becomes one line that names the layer."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from surgery.errors import EngineError, EngineMissingError
from surgery.runtime import Array, Caffe, Job
from tests.engines import require_caffe
from tests.runtime.golden import agree, golden_cases
from tests.shared import shared

# What the build is not: BVLC master's newest fields and layers, and its normalisation of two losses.
ABORTS = {"clip", "clip_relu6", "swish", "swish_beta", "pool_ave_floor", "pool_max_floor"}
DIFFERS = {"infogain", "sigmoidce_valid"}

# The same arithmetic in float32 by another BLAS; sums of a few hundred terms of size one.
TOLERANCE = 1e-5

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 5 dim: 5 } } }\n'
CONV = (
    'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"'
    " convolution_param { num_output: 4 kernel_size: 3 } }\n"
)
ONES = {"data": np.ones((1, 2, 5, 5), np.float32)}


@pytest.fixture(scope="module")
def caffe() -> Caffe:
    return require_caffe()


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.prototxt"
    path.write_text(INPUT + CONV, encoding="utf-8")
    return path


def caffemodel(path: Path, layer: str, *blobs: Array) -> Path:
    """Write one layer's parameters as a NetParameter, encoded by hand to owe nothing to the code under test."""

    def field(number: int, content: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(content)) + content

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    def blob(array: Array) -> bytes:
        shape = field(7, field(1, b"".join(varint(n) for n in array.shape)))
        return field(7, shape + field(5, array.astype("<f4").tobytes()))

    path.write_bytes(field(100, field(1, layer.encode()) + b"".join(blob(array) for array in blobs)))
    return path


def refusal(caffe: Caffe, net: Path, weights: Path | None = None, inputs: dict[str, Array] = ONES) -> EngineError:
    with pytest.raises(EngineError) as caught:
        caffe.run(Job([net] if weights is None else [net, weights], [inputs]))
    assert "\n" not in str(caught.value)
    assert caught.value.engine == "caffe"
    return caught.value


# ---- running ----------------------------------------------------------------------------------------------------


def test_golden_cases_fail_exactly_where_listed(caffe: Caffe) -> None:
    cases = golden_cases()
    outcomes = caffe.run_jobs([case.job for case in cases])
    aborts, differs = set(), set()
    for case, outcome in zip(cases, outcomes, strict=True):
        if isinstance(outcome, EngineError):
            assert "\n" not in str(outcome)
            aborts.add(case.name)
        elif not agree(outcome[0], case.expected, TOLERANCE):
            differs.add(case.name)
    assert aborts == ABORTS
    assert differs == DIFFERS
    assert len(cases) > 300


def test_hdf5_weights_load(caffe: Caffe) -> None:
    folder = shared("golden/model_hdf5")
    (case,) = [case for case in golden_cases() if case.name == "model_hdf5"]
    (found,) = caffe.run(Job([folder / "net.prototxt", folder / "net.caffemodel.h5"], case.job.inputs))
    assert agree(found, case.expected, TOLERANCE)


def test_convolution_is_what_numpy_says(caffe: Caffe, net: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 2, 3, 3)).astype(np.float32)
    bias = rng.standard_normal(4).astype(np.float32)
    data = rng.standard_normal((1, 2, 5, 5)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(data, (3, 3), axis=(2, 3))
    expected = np.einsum("nchwij,ocij->nohw", windows, weight) + bias[:, None, None]
    (found,) = caffe.run(Job([net, caffemodel(tmp_path / "w.caffemodel", "conv", weight, bias)], [{"data": data}]))
    np.testing.assert_allclose(found["conv"], expected, rtol=1e-5, atol=1e-5)  # 18 terms of float32


def test_arrays_decide_the_shapes_and_each_set_has_its_own(caffe: Caffe, net: Path) -> None:
    sets = [{"data": np.zeros(shape, np.float32)} for shape in ((3, 2, 5, 5), (1, 2, 9, 7))]
    shapes = [result["conv"].shape for result in caffe.run(Job([net], sets))]
    assert shapes == [(3, 4, 3, 3), (1, 4, 7, 5)]


def test_in_place_blobs_hold_the_last_value(caffe: Caffe, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    power = 'layer { name: "%s" type: "Power" bottom: "%s" top: "b" power_param { shift: %d } }\n'
    path.write_text(INPUT + power % ("one", "data", 1) + power % ("two", "b", 10), encoding="utf-8")
    (blobs,) = caffe.run(Job([path], [ONES], all_blobs=True))
    assert {name: float(value.flat[0]) for name, value in blobs.items()} == {"data": 1.0, "b": 12.0}


def test_named_outputs_only(caffe: Caffe, net: Path) -> None:
    (blobs,) = caffe.run(Job([net], [ONES], outputs=["data"]))
    assert list(blobs) == ["data"]


def test_recurrent_state_does_not_reach_the_next_input_set(caffe: Caffe, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "in" type: "Input" top: "x" top: "cont"'
        " input_param { shape { dim: 2 dim: 1 dim: 3 } shape { dim: 2 dim: 1 } } }\n"
        'layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h"'
        ' recurrent_param { num_output: 4 weight_filler { type: "uniform" min: -1 max: 1 } } }\n',
        encoding="utf-8",
    )
    inputs = {"x": np.ones((2, 1, 3), np.float32), "cont": np.ones((2, 1), np.float32)}
    first, second = caffe.run(Job([path], [inputs, inputs]))
    assert np.any(first["h"])
    np.testing.assert_array_equal(first["h"], second["h"])


def test_stages_and_phase_select_layers(caffe: Caffe, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    rule = 'layer { name: "%s" type: "Power" bottom: "data" top: "%s" include { %s } }\n'
    path.write_text(
        INPUT + rule % ("a", "a", 'stage: "deploy"') + rule % ("b", "b", "phase: TRAIN") + rule % ("c", "c", ""),
        encoding="utf-8",
    )
    assert list(caffe.run(Job([path], [ONES]))[0]) == ["c"]
    assert sorted(caffe.run(Job([path], [ONES], stages=["deploy"]))[0]) == ["a", "c"]
    assert sorted(caffe.run(Job([path], [ONES], phase="TRAIN"))[0]) == ["b", "c"]


def test_an_abort_ends_only_its_own_job(caffe: Caffe, net: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.prototxt"
    broken.write_text(INPUT + CONV.replace("num_output: 4", ""), encoding="utf-8")
    before, between, after = caffe.run_jobs([Job([net], [ONES]), Job([broken], [ONES]), Job([net], [ONES])])
    assert isinstance(between, EngineError)
    assert not isinstance(before, EngineError)
    assert not isinstance(after, EngineError)


def test_shapes_without_running(caffe: Caffe, net: Path) -> None:
    shapes = caffe.blob_shapes([net])
    assert shapes.inputs == ("data",)
    assert shapes.outputs == ("conv",)
    assert shapes.blobs == {"data": (1, 2, 5, 5), "conv": (1, 4, 3, 3)}
    assert [(layer.name, layer.type, layer.params) for layer in shapes.layers] == [
        ("data", "Input", ()),
        ("conv", "Convolution", ((4, 2, 3, 3), (4,))),
    ]
    assert caffe.blob_shapes([net], inputs={"data": (7, 2, 3, 4)}).blobs["conv"] == (7, 4, 1, 2)


def test_times_of_the_forward_pass(caffe: Caffe, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    # ArgMax has no backward pass.
    path.write_text(INPUT + CONV + 'layer { name: "top" type: "ArgMax" bottom: "conv" top: "top" }\n', encoding="utf-8")
    times = caffe.time(path, iterations=3)
    assert list(times.layers) == ["data", "conv", "top"]
    assert times.total > 0
    assert min(times.layers.values()) >= 0


# ---- refusing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "layer", "message"),
    [
        (INPUT + CONV.replace("kernel_size", "colour"), None, 'has no field named "colour"'),
        (INPUT + "layer {", None, "Expected"),
        (INPUT + CONV.replace('bottom: "data"', 'bottom: "nothing"'), "conv", "Unknown bottom blob 'nothing'"),
        (INPUT + CONV.replace("Convolution", "Convolusion"), "conv", "Unknown layer type: Convolusion"),
        (INPUT + CONV.replace("num_output: 4", ""), "conv", "Check failed: num_output_ > 0"),
        (INPUT + CONV.replace("kernel_size: 3", "kernel_size: 9"), "conv", "Check failed"),
        (
            INPUT + CONV + 'layer { name: "sum" type: "Eltwise" bottom: "data" bottom: "conv" top: "sum" }',
            "sum",
            "Check failed: bottom[i]->shape() == bottom[0]->shape()",
        ),
        # Two inputs and one shape: Caffe reads past the end of the list.
        ('input: "data" input: "more" input_shape { dim: 1 dim: 2 }', None, "SIGSEGV"),
    ],
)
def test_a_bad_net_is_one_line_with_its_layer(
    caffe: Caffe, tmp_path: Path, layers: str, layer: str | None, message: str
) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(layers, encoding="utf-8")
    error = refusal(caffe, path)
    assert message in error.message
    assert error.layer == layer
    assert error.files == (str(path),)


@pytest.mark.parametrize(
    ("blobs", "message"),
    [
        ([np.zeros((4, 2, 3, 2), np.float32), np.zeros(4, np.float32)], "shape mismatch"),
        ([np.zeros((4, 2, 3, 3), np.float32)], "Incompatible number of blobs"),
        ([], "Incompatible number of blobs"),
    ],
)
def test_weights_that_do_not_fit_are_one_line_with_their_layer(
    caffe: Caffe, net: Path, tmp_path: Path, blobs: list[Array], message: str
) -> None:
    weights = caffemodel(tmp_path / "w.caffemodel", "conv", *blobs)
    error = refusal(caffe, net, weights)
    assert message in error.message
    assert error.layer == "conv"
    assert error.files == (str(net), str(weights))


def test_weights_that_are_no_caffemodel(caffe: Caffe, net: Path, tmp_path: Path) -> None:
    weights = tmp_path / "junk.caffemodel"
    weights.write_bytes(b"\xff\xffjunk" * 9)
    assert "Failed to parse NetParameter file" in refusal(caffe, net, weights).message


def test_missing_file(caffe: Caffe, net: Path, tmp_path: Path) -> None:
    error = refusal(caffe, net, tmp_path / "none.caffemodel")
    assert error.message == "no such file"
    assert error.files == (str(tmp_path / "none.caffemodel"),)


def test_input_that_does_not_fit_names_the_layer_that_refused_it(caffe: Caffe, net: Path) -> None:
    error = refusal(caffe, net, inputs={"data": np.ones((1, 3, 5, 5), np.float32)})
    assert error.layer == "conv"
    assert "3 vs. 2" in error.message


def test_inputs_must_be_the_nets_inputs(caffe: Caffe, net: Path) -> None:
    assert "input 'data' has no array" in refusal(caffe, net, inputs={}).message
    assert "no input 'extra'" in refusal(caffe, net, inputs={**ONES, "extra": np.ones(1, np.float32)}).message


def test_unknown_output(caffe: Caffe, net: Path) -> None:
    with pytest.raises(EngineError, match="no blob 'nothing'; it has 'data', 'conv'"):
        caffe.run(Job([net], [ONES], outputs=["nothing"]))


# ---- finding the build ------------------------------------------------------------------------------------------


def fake_build(folder: Path, age: int) -> Path:
    (folder / "env/bin").mkdir(parents=True)
    (folder / "env/bin/python").touch()
    (folder / "version").write_text(folder.name, encoding="utf-8")
    (folder / "complete").touch()
    os.utime(folder / "complete", (10**9 - age, 10**9 - age))
    return folder


def test_newest_finished_build_is_used_unless_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SURGERY_CAFFE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    caffe = Caffe()
    assert "tools/build-caffe" in (caffe.missing() or "")
    old = fake_build(tmp_path / "surgery/caffe-old", age=2)
    fake_build(tmp_path / "surgery/caffe-new", age=1)
    unfinished = fake_build(tmp_path / "surgery/caffe-unfinished", age=0)
    (unfinished / "complete").unlink()
    assert caffe.version() == "caffe-new"
    monkeypatch.setenv("SURGERY_CAFFE", str(old))
    assert caffe.version() == "caffe-old"
    monkeypatch.setenv("SURGERY_CAFFE", str(unfinished))
    with pytest.raises(EngineMissingError, match="SURGERY_CAFFE"):
        caffe.version()
