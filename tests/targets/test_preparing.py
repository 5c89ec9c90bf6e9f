"""What is written for a target, and what is refused, with every reason at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery.errors import PlanError, TargetError
from surgery.formats import Source, load
from surgery.formats.caffe import weights
from surgery.formats.caffe.targets import TARGETS
from surgery.formats.wire import encode_bytes
from surgery.targets import PROFILES, answer, prepare, problems
from tests.nets import conv_blobs, layer_bytes
from tests.shared import shared
from tests.targets.nets import INPUT, layer, source

CONV = 'convolution_param { num_output: 2 kernel_size: 3 engine: CUDNN weight_filler { type: "xavier" } }'
TRAINED = INPUT + layer("Convolution", f'param {{ lr_mult: 1 }} param {{ name: "b" decay_mult: 0 }} {CONV}')


def content(path: Path) -> str:
    return path.read_text()


def test_every_caffe_that_lint_knows_is_a_target() -> None:
    assert set(PROFILES) == {*TARGETS, "onnxruntime"}


def test_the_text_is_clean_and_the_weights_are_the_same_bytes(tmp_path: Path) -> None:
    given = source(tmp_path, "# a comment\n" + TRAINED, {"a": conv_blobs(2, 3, 3, 3)})
    made = prepare(given, "caffe-android-lib", tmp_path)
    assert content(made.files[0]) == (
        'layer {\n  name: "in"\n  type: "Input"\n  top: "x"\n'
        "  input_param {\n    shape { dim: 1 dim: 3 dim: 7 dim: 8 }\n  }\n}\n"
        'layer {\n  name: "a"\n  type: "Convolution"\n  bottom: "x"\n  top: "y"\n'
        '  param { }\n  param { name: "b" }\n'
        "  convolution_param {\n    num_output: 2\n    kernel_size: 3\n  }\n}\n"
    )
    assert made.files[1].read_bytes() == given.files[1].read_bytes()
    assert made.changes == (
        "stripped: 1 lr_mult, 1 decay_mult, 1 engine, 1 weight_filler",
        "batch 2 became 1 at x",
    )


def test_making_ready_again_changes_nothing(tmp_path: Path) -> None:
    for target in TARGETS:
        given = source(tmp_path, TRAINED, {"a": conv_blobs(2, 3, 3, 3)})
        once = prepare(given, target, tmp_path, stem="once")
        again = prepare(Source(once.files), target, tmp_path, stem="again")
        assert again.changes == ()
        assert [f.read_bytes() for f in again.files] == [f.read_bytes() for f in once.files]


def test_a_filler_stays_where_no_file_holds_the_weights(tmp_path: Path) -> None:
    filled = 'num_output: 3 group: 3 kernel_size: 4 stride: 2 bias_term: false weight_filler { type: "bilinear" }'
    up = layer("Deconvolution", f"convolution_param {{ {filled} }}", name="up", bottom="y", top="z")
    text = INPUT + layer("Convolution", CONV.replace("2 kernel", "3 kernel")) + up
    for blobs in ({"a": conv_blobs(3, 3, 3, 3)}, None):
        made = prepare(source(tmp_path, text, blobs), "caffe-1.0", tmp_path)
        assert "bilinear" in content(made.files[0])
        assert "xavier" not in content(made.files[0])


def test_a_filler_that_adds_weights_is_no_filler(tmp_path: Path) -> None:
    text = INPUT + layer("BatchNorm", 'batch_norm_param { scale_filler { type: "constant" value: 1 } }')
    (problem,) = problems(source(tmp_path, text), "caffe-1.0")
    assert "scale_filler" in problem.found


def test_a_field_that_a_rewrite_leaves_is_still_a_reason(tmp_path: Path) -> None:
    text = INPUT + layer("Pooling", "pooling_param { kernel_size: 2 ceil_mode: false global: 1 }")
    (problem,) = problems(source(tmp_path, text), "caffe-1.0", allow=["floor-pooling"])
    assert (problem.where, problem.found) == ("a", "'global' in PoolingParameter")


def test_a_training_network_is_deployed_and_upgraded(tmp_path: Path) -> None:
    text = (
        'layers { name: "d" type: DATA top: "x" top: "label"\n'
        "  transform_param { crop_size: 7 mean_value: 1 mean_value: 2 } }\n"
        'layers { name: "a" type: INNER_PRODUCT bottom: "x" top: "y" blobs_lr: 1\n'
        "  inner_product_param { num_output: 4 } }\n"
        'layers { name: "loss" type: SOFTMAX_LOSS bottom: "y" bottom: "label" top: "loss" }\n'
        'layers { name: "acc" type: ACCURACY bottom: "y" bottom: "label" top: "acc" include { phase: TEST } }\n'
    )
    made = prepare(source(tmp_path, text), "caffe-android-lib", tmp_path, batch=4)
    assert [(node.key, node.type) for node in load(made.files).nodes] == [
        ("d", "Input"),
        ("a", "InnerProduct"),
        ("loss", "Softmax"),
    ]
    assert "dim: 4 dim: 2 dim: 7 dim: 7" in content(made.files[0])
    assert made.changes == (
        "upgraded: V1 layers",
        "'d' (Data) became Input; it had transform_param { crop_size: 7 mean_value: 1 mean_value: 2 }",
        "'loss' (SoftmaxWithLoss) became Softmax",
        "gone: 1 Accuracy",
        "stripped: 1 lr_mult",
        "batch 1 became 4 at x",
    )


def test_all_reasons_are_told_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    text = (
        'layer { name: "d" type: "Data" top: "x" }\n'
        + layer("Warp", name="w", top="w")
        + layer("Pooling", "pooling_param { kernel_size: 2 dilation: 3 }", name="p", bottom="w", top="p")
        + layer("ReLU6", name="r", bottom="p", top="p")
        + layer("ReLU", "relu_param { negative_slope: 0 negative_slope: 0 }", name="t", bottom="p", top="t")
    )
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(TargetError) as caught:
        prepare(source(tmp_path, text), "caffe-1.0", folder)
    assert list(caught.value.reasons) == [
        "d: Data does not tell the shape of blob 'x': give --shape x=1,C,H,W",
        "w: layer type 'Warp'; caffe-1.0 has no such type: run the network elsewhere",
        "p: 'dilation' in PoolingParameter; caffe-1.0 has no such field: remove it, or run the network elsewhere",
        "r: layer type 'ReLU6'; caffe-1.0 has no such type: --rewrite relu6 writes ReLU6 as ReLU and Power",
        "t: 'negative_slope' is given twice in one ReLUParameter; caffe-1.0 refuses the file: keep one",
    ]
    assert str(caught.value).startswith(f"{tmp_path / 'net.prototxt'}: caffe-1.0 cannot run it, for 5 reasons: d: ")
    assert not list(folder.iterdir())


def test_a_reason_of_many_layers_is_one_line(tmp_path: Path) -> None:
    text = INPUT + "".join(layer("Warp", name=f"w{i}", top=f"y{i}") for i in range(5))
    assert len(problems(source(tmp_path, text), "caffe-1.0")) == 5
    with pytest.raises(TargetError, match="1 reason: w0, w1 and 3 more: layer type 'Warp'"):
        prepare(source(tmp_path, text), "caffe-1.0", tmp_path)


def test_weights_that_do_not_fit_are_a_reason(tmp_path: Path) -> None:
    (problem,) = problems(source(tmp_path, TRAINED, {"a": conv_blobs(2, 4, 3, 3)}), "caffe-1.0")
    assert (problem.where, problem.code) == ("a", "blob-shape")


def test_a_network_that_needs_its_batch_says_so(tmp_path: Path) -> None:
    text = INPUT + layer("Reshape", "reshape_param { shape { dim: 2 dim: 168 } }")
    (problem,) = problems(source(tmp_path, text), "caffe-1.0")
    assert (problem.where, problem.code) == ("a", "layer-refused")
    assert not problems(source(tmp_path, text), "caffe-1.0", batch=2)


def test_regions_and_sequences_keep_their_length(tmp_path: Path) -> None:
    rois = 'layer { name: "r" type: "Input" top: "r" input_param { shape { dim: 300 dim: 5 } } }\n'
    made = prepare(source(tmp_path, INPUT + rois), "caffe-1.0", tmp_path)
    assert "dim: 300 dim: 5" in content(made.files[0])
    cont = rois.replace("300", "2").replace("dim: 5", "dim: 3")
    sequence = INPUT + cont + layer("LSTM", "recurrent_param { num_output: 2 }", bottom="x r")
    assert "dim: 2 dim: 3 dim: 7" in content(prepare(source(tmp_path, sequence), "caffe-1.0", tmp_path).files[0])


@pytest.mark.parametrize(("target", "words"), [("opencv", ("double precision",)), ("caffe-1.0", ())])
def test_double_precision_is_rounded_where_the_target_reads_single_only(
    target: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    case = shared("golden/blob_double")
    given = Source((case / "net.prototxt", case / "net.caffemodel"))
    made = prepare(given, target, tmp_path)
    assert all(any(word in change for change in made.changes) for word in words)
    old, new = (weights.read(files[1]) for files in (given.files, made.files))
    for index, entry in enumerate(new.layers):
        for before, after in zip(old.arrays(index), new.arrays(index), strict=True):
            np.testing.assert_array_equal(before.astype(after.dtype), after)
            assert after.dtype == (np.float32 if words else np.float64), entry.name


def test_hdf5_weights_become_a_caffemodel_where_the_target_has_no_hdf5(tmp_path: Path) -> None:
    case = shared("golden/model_hdf5")
    given = Source((case / "net.prototxt", case / "net.caffemodel.h5"))
    kept = prepare(given, "caffe-1.0", tmp_path, stem="kept")
    assert kept.files[1].read_bytes() == given.files[1].read_bytes()
    made = prepare(given, "caffe-android-lib", tmp_path)
    assert "HDF5 weights written as a caffemodel" in made.changes
    model = weights.read(made.files[1])
    old = weights.read(given.files[1])
    found = {entry.name: model.arrays(i) for i, entry in enumerate(model.layers)}
    assert found.keys() == {entry.name for entry in old.layers if entry.shapes}
    for index, entry in enumerate(old.layers):
        for before, after in zip(old.arrays(index), found.get(entry.name, ()), strict=True):
            np.testing.assert_array_equal(before, after)


def test_weights_in_raw_data_are_a_reason(tmp_path: Path) -> None:
    given = source(tmp_path, TRAINED, {"a": conv_blobs(2, 3, 3, 3)})
    raw = encode_bytes(7, encode_bytes(7, b"\x0a\x04\x02\x03\x03\x03") + encode_bytes(12, bytes(108)))
    given.files[1].write_bytes(encode_bytes(100, encode_bytes(1, b"a") + raw))
    codes = {problem.code for problem in problems(given, "caffe-1.0")}
    assert "raw-data" in codes


def test_the_java_class_is_named_where_it_cannot_take_the_network(tmp_path: Path) -> None:
    given = source(tmp_path, INPUT + layer("Softmax"))
    (note,) = [text for text in answer(given, "caffe-android-lib").notes if "CaffeMobile" in text]
    assert "takes 1x3x7x8 and gives 1x3x7x8" in note
    pooled = source(tmp_path, INPUT + layer("Pooling", "pooling_param { global_pooling: true }"))
    assert not [text for text in answer(pooled, "caffe-android-lib").notes if "CaffeMobile" in text]


def test_a_caffe_network_becomes_onnx_and_an_onnx_model_becomes_caffe(tmp_path: Path) -> None:
    given = source(tmp_path, TRAINED, {"a": conv_blobs(2, 3, 3, 3)})
    (onnx,) = prepare(given, "onnxruntime", tmp_path, stem="there").files
    assert load([onnx]).format.runnable(load([onnx])).inputs == {"x": (1, 3, 7, 8)}
    assert prepare(Source((onnx,)), "onnxruntime", tmp_path, stem="same").files[0].read_bytes() == onnx.read_bytes()
    back = prepare(Source((onnx,)), "caffe-android-lib", tmp_path, stem="back")
    old, new = (weights.read(files[1]) for files in (given.files, back.files))
    for before, after in zip(old.arrays(0), new.arrays(0), strict=True):
        np.testing.assert_array_equal(before, after)


def test_what_onnx_has_no_words_for_is_a_reason(tmp_path: Path) -> None:
    (problem,) = problems(source(tmp_path, INPUT + layer("Warp"), {}), "onnxruntime")
    assert (problem.where, problem.code) == ("a", "not-convertible")


def test_a_definition_without_weights_is_told(tmp_path: Path) -> None:
    given = source(tmp_path, TRAINED)
    (problem,) = problems(given, "onnxruntime")
    assert problem.code == "weights-missing"
    assert any("no weights" in note for note in answer(given, "caffe-1.0").notes)
    assert not any("no weights" in note for note in answer(source(tmp_path, INPUT + layer("ReLU")), "caffe-1.0").notes)


@pytest.mark.parametrize(
    ("asked", "word"), [({"target": "ios"}, "target ios"), ({"allow": ["relu7"]}, "relu7"), ({"batch": 0}, "batch 0")]
)
def test_a_request_for_what_there_is_not_is_refused(asked: dict[str, object], word: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=word):
        problems(source(tmp_path, INPUT), **{"target": "opencv", **asked})  # type: ignore[arg-type]


def test_layer_bytes_of_another_type_are_no_matter(tmp_path: Path) -> None:
    given = source(tmp_path, TRAINED, {"a": conv_blobs(2, 3, 3, 3)})
    given.files[1].write_bytes(layer_bytes("a", conv_blobs(2, 3, 3, 3), kind="DepthwiseConvolution"))
    assert not problems(given, "caffe-1.0")
