from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from surgery.calibrate import Preprocess, read_preprocess, transform_param
from surgery.calibrate.mean_file import read_mean
from surgery.calibrate.preprocess import parsed
from surgery.errors import DataError
from surgery.formats import load
from surgery.formats.wire import encode_bytes, encode_tag, encode_varint
from tests.shared import shared

PICTURE = np.random.default_rng(0).integers(0, 256, (7, 10, 3)).astype(np.uint8)


def binaryproto(mean: np.ndarray, *, legacy: bool = True) -> bytes:
    """A BlobProto as compute_image_mean writes it, or as newer Caffe does."""
    if legacy:
        head = b"".join(encode_tag(i + 1, 0) + encode_varint(n) for i, n in enumerate((1, *mean.shape)))
    else:
        head = encode_bytes(7, encode_bytes(1, b"".join(map(encode_varint, mean.shape))))
    return head + encode_bytes(5, mean.astype("<f4").tobytes())


def test_it_computes_what_caffes_data_transformer_does_pixel_by_pixel(tmp_path: Path) -> None:
    mean = np.random.default_rng(1).random((3, 7, 10)).astype(np.float32)
    (tmp_path / "mean.binaryproto").write_bytes(binaryproto(mean))
    stated = {"crop": [4, 5], "mean_file": "mean.binaryproto", "scale": 0.5}
    made = parsed(stated, "here", tmp_path).apply(PICTURE, "picture")
    h_off, w_off = (7 - 4) // 2, (10 - 5) // 2
    for c in range(3):
        for h in range(4):
            for w in range(5):
                pixel = np.float32(PICTURE[h_off + h, w_off + w, c])
                assert made[c, h, w] == (pixel - mean[c, h_off + h, w_off + w]) * np.float32(0.5)


def test_means_of_channels_and_one_for_all() -> None:
    whole = PICTURE.transpose(2, 0, 1).astype(np.float32)
    np.testing.assert_array_equal(
        Preprocess(mean=(1, 2, 3)).apply(PICTURE, ""), whole - np.array([[[1]], [[2]], [[3]]])
    )
    np.testing.assert_array_equal(Preprocess(mean=(9,)).apply(PICTURE, ""), whole - 9)


def test_resizing_is_opencvs_bilinear_and_comes_first() -> None:
    cv2 = pytest.importorskip("cv2")
    made = Preprocess(resize=(20, 14), crop=(20, 14)).apply(PICTURE, "")
    np.testing.assert_array_equal(made, cv2.resize(PICTURE, (14, 20)).transpose(2, 0, 1))


@pytest.mark.parametrize(("side", "size"), [(14, (14, 20)), (7, (7, 10)), (5, (5, 7))])
def test_one_number_resizes_the_shorter_side_and_keeps_the_proportions(side: int, size: tuple[int, int]) -> None:
    pytest.importorskip("cv2")
    assert Preprocess(resize=side).apply(PICTURE, "").shape == (3, *size)


def test_a_mean_that_is_one_number_a_channel_is_kept_as_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "mean.npy", np.full((3, 4, 4), [[[1]], [[2]], [[3]]], np.float32))
    assert parsed({"mean_file": "mean.npy"}, "here", tmp_path).facts()["mean"] == [1, 2, 3]


@pytest.mark.parametrize("legacy", [True, False])
def test_a_binaryproto_is_read_in_either_spelling(tmp_path: Path, legacy: bool) -> None:
    mean = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    (tmp_path / "mean.binaryproto").write_bytes(binaryproto(mean, legacy=legacy))
    np.testing.assert_array_equal(read_mean(tmp_path / "mean.binaryproto"), mean)


def test_published_means_are_read() -> None:
    mean = read_mean(shared("zoo/caffemodel/means_misc_ck-caffe/imagenet_mean.binaryproto"))
    assert mean.shape == (3, 256, 256)
    # ILSVRC 2012's means, as every published Caffe script states them.
    np.testing.assert_allclose(mean.mean(axis=(1, 2)), [104.007, 116.669, 122.679], atol=1e-3)


def test_facts_give_the_same_again(tmp_path: Path) -> None:
    mean = np.random.default_rng(1).random((3, 7, 10)).astype(np.float32)
    np.save(tmp_path / "mean.npy", mean)
    stated = {"crop": 4, "channels": "rgb", "mean_file": "mean.npy", "scale": 0.5, "resize": [7, 10]}
    (tmp_path / "preprocess.json").write_text(json.dumps(stated))
    first = read_preprocess(tmp_path / "preprocess.json")
    again = parsed(json.loads(json.dumps(first.facts())), "plan", Path())
    assert again.facts() == first.facts()
    np.testing.assert_array_equal(again.apply(PICTURE, ""), first.apply(PICTURE, ""))
    np.save(tmp_path / "mean.npy", mean + 1)
    with pytest.raises(DataError, match="SHA-256"):
        parsed(first.facts(), "plan", Path())


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ([], "expected an object"),
        ({"size": 3}, "'size' is not known; expected some of resize, crop"),
        ({"resize": 0}, "resize is 0; expected a number of pixels"),
        ({"crop": [1, 2, 3]}, r"crop is \[1, 2, 3\]"),
        ({"channels": "yuv"}, "channels is 'yuv'; expected one of bgr, rgb, grey"),
        ({"channels": {}}, "channels is {}"),
        ({"mean": [1, 2]}, "mean has 2 numbers for 3 channels"),
        ({"mean": "x"}, "mean is 'x'; expected a number"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"scale": True}, "scale is True"),
        ({"mean": 1, "mean_file": "m.npy"}, "has both"),
        ({"mean_file": 3}, "mean_file is 3; expected text"),
        ({"mean_file": "no.npy"}, "no such mean file"),
        ({"mean_file": "bad.binaryproto"}, "is no binaryproto of a mean"),
        ({"mean_file": "bad.npy"}, "bad.npy: cannot be read"),
    ],
)
def test_a_wrong_statement_is_told_in_one_line(tmp_path: Path, stated: object, words: str) -> None:
    for name in ("bad.binaryproto", "bad.npy"):
        (tmp_path / name).write_bytes(b"\xff\xff\xff")
    with pytest.raises(DataError, match=words) as caught:
        parsed(stated, "preprocess.json", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("{")
    for name, words in (("p.json", "is no JSON"), ("q.json", "no such file")):
        with pytest.raises(DataError, match=words):
            read_preprocess(tmp_path / name)


def test_pictures_that_do_not_fit_are_told() -> None:
    with pytest.raises(DataError, match=r"cat\.jpg: is 7x10 pixels, smaller than the crop 8x8"):
        Preprocess(crop=(8, 8)).apply(PICTURE, "cat.jpg")


TRAIN_VAL = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { mirror: true crop_size: 5 mean_value: 1 } data_param { source: "a" batch_size: 2 } }
layer { name: "data" type: "ImageData" top: "data" top: "label" include { phase: TEST }
  transform_param { scale: 0.5 crop_size: 4 mean_value: 1 mean_value: 2 mean_value: 3 }
  image_data_param { source: "a" batch_size: 2 new_height: 6 new_width: 8 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }
"""


def test_the_layer_of_the_phase_that_runs_states_the_default(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(TRAIN_VAL)
    found = transform_param.stated(load([tmp_path / "net.prototxt"]))
    assert found is not None
    assert found.facts() == {"resize": [6, 8], "crop": [4, 4], "mean": [1, 2, 3], "channels": "bgr", "scale": 0.5}
    (tmp_path / "net.prototxt").write_text('input: "data" ' + TRAIN_VAL[TRAIN_VAL.index('layer { name: "ip"') :])
    assert transform_param.stated(load([tmp_path / "net.prototxt"])) is None


def test_a_mean_file_that_a_network_states_is_looked_for_beside_it(tmp_path: Path) -> None:
    text = TRAIN_VAL.replace("mean_value: 1 mean_value: 2 mean_value: 3", 'mean_file: "mean.binaryproto"')
    (tmp_path / "net.prototxt").write_text(text)
    with pytest.raises(DataError, match="no such mean file; give --preprocess"):
        transform_param.stated(load([tmp_path / "net.prototxt"]))
    (tmp_path / "mean.binaryproto").write_bytes(binaryproto(np.arange(96, dtype="f").reshape(3, 4, 8)))
    found = transform_param.stated(load([tmp_path / "net.prototxt"]))
    assert found is not None
    assert found.mean_image is not None
