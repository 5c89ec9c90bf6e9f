from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery.errors import DataError
from surgery.measure.labels import labels_for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.png", "sub/c.png"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "pictures"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_numbers_alone_are_in_the_order_of_the_data(tmp_path: Path) -> None:
    found = labels_for(tmp_path / "x.npy", written(tmp_path / "labels", "3\n1\n\n 0 \r\n"))
    np.testing.assert_array_equal(found, [3, 1, 0])


def test_named_labels_come_in_the_order_in_which_pictures_are_read(folder: Path, tmp_path: Path) -> None:
    labels = written(tmp_path / "labels.txt", "c.png 2\nb.png\t1\na.png 0\nstranger.png 9\n")
    np.testing.assert_array_equal(labels_for(folder, labels), [0, 1, 2])
    whole = written(tmp_path / "whole.txt", "c.png 7\nsub/c.png 2\nb.png 1\na.png 0\n")
    np.testing.assert_array_equal(labels_for(folder, whole), [0, 1, 2])
    listed = written(folder / "list.txt", "sub/c.png 5\na.png 5\n")
    np.testing.assert_array_equal(labels_for(listed, labels), [2, 0])


def test_a_list_gives_its_own_labels_and_other_data_none(folder: Path) -> None:
    np.testing.assert_array_equal(labels_for(written(folder / "list.txt", "b.png 4\na.png 2\n"), None), [4, 2])
    assert labels_for(written(folder / "list.txt", "b.png\na.png\n"), None) is None
    assert labels_for(folder, None) is None
    assert labels_for(folder / "x.npy", None) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\n-2\n", "labels:2: is '-2'; expected a whole number from 0"),
        ("1\na.png 2\n", "labels:2: is 'a.png 2'"),
        ("a.png 2\n1\n", "labels:2: is '1'"),
        ("a.png\n", "labels:1: is 'a.png'"),
        ("1.5\n", "labels:1: is '1.5'"),
        ("²\n", "labels:1: is"),
        ("9" * 4000 + "\n", "labels:1: is '999"),
        ("9" * 5000, "no end after"),
        ("\n", "holds no labels"),
        ("a.png 1\nb.png 2\n", "has no label for 'sub/c.png'"),
    ],
)
def test_labels_that_cannot_be_used_are_told_in_one_line(folder: Path, tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        labels_for(folder, written(tmp_path / "labels", text))
    assert "\n" not in str(error.value)


def test_labels_that_are_not_there_are_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        labels_for(folder, tmp_path / "nothing")
    with pytest.raises(DataError, match="by name, which the images of"):
        labels_for(written(tmp_path / "x.npy", ""), written(tmp_path / "labels", "a.png 1"))
    for text in ("a.png 1\nb.png\n", "a.png 1\nb.png -1\n"):
        with pytest.raises(DataError, match=r"'b\.png' has no label from 0, and others have one"):
            labels_for(written(folder / "list.txt", text), None)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is neither text"):
        labels_for(folder, tmp_path / "bytes")
