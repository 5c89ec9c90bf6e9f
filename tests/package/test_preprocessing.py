from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from surgery.calibrate import Preprocess, read_preprocess
from surgery.calibrate.mean_file import read_mean
from surgery.calibrate.preprocess import MeanImage
from surgery.errors import PlanError
from surgery.package import preprocessing

PIXELS = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
WITH_IMAGE = Preprocess(crop=(2, 3), mean_image=MeanImage(PIXELS, "some/where.npy", "0"), scale=0.5)


def written(how: Preprocess, folder: Path) -> Preprocess:
    for name, content in preprocessing.files(how).items():
        (folder / name).write_bytes(content)
    return read_preprocess(folder / preprocessing.JSON_FILE)


def test_a_mean_image_is_what_caffe_reads(tmp_path: Path) -> None:
    (tmp_path / "mean.binaryproto").write_bytes(preprocessing.binaryproto(MeanImage(PIXELS, "", "")))
    np.testing.assert_array_equal(read_mean(tmp_path / "mean.binaryproto"), PIXELS)


def test_pictures_become_the_same_by_the_files_of_a_parcel(tmp_path: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (4, 5, 3), np.uint8)
    for how in (WITH_IMAGE, Preprocess(channels="rgb", mean=(1.0, 2.0, 3.0), scale=1 / 3)):
        np.testing.assert_array_equal(written(how, tmp_path).apply(picture, "x"), how.apply(picture, "x"))


def test_nothing_of_the_machine_is_in_the_files(tmp_path: Path) -> None:
    made = preprocessing.files(WITH_IMAGE)
    assert json.loads(made[preprocessing.JSON_FILE])["mean_file"] == preprocessing.MEAN_FILE
    assert set(made) == {preprocessing.JSON_FILE, preprocessing.MEAN_FILE}
    assert preprocessing.files(None) == {}


def test_every_step_that_changes_the_input_is_told() -> None:
    how = Preprocess(resize=(8, 9), crop=(6, 7), channels="rgb", mean=(104.0, 117.0, 123.5), scale=0.017)
    told = list(preprocessing.steps(how))
    for wanted, line in zip(
        ("red, green, blue", "8x9", "6x7", "104, 117, 123.5", "0.017", "float32"), told, strict=True
    ):
        assert wanted in line
    assert len(list(preprocessing.steps(Preprocess()))) == 2  # decoded and stored


def test_a_mean_completes_what_has_none_and_contradicts_what_has_one(tmp_path: Path) -> None:
    path = tmp_path / "mean.npy"
    np.save(path, np.array([1.0, 2.0, 3.0], np.float32))
    with_mean = preprocessing.with_mean(Preprocess(scale=2.0), path)
    assert with_mean is not None
    assert (with_mean.mean, with_mean.scale) == ((1.0, 2.0, 3.0), 2.0)
    with pytest.raises(PlanError, match="keep one"):
        preprocessing.with_mean(Preprocess(mean=(1.0,)), path)
    with pytest.raises(PlanError, match="give --preprocess too"):
        preprocessing.with_mean(None, path)
    assert preprocessing.with_mean(None, None) is None
