"""Files of the same bytes are known without being read as models; data files beside an ONNX file count."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from surgery.convert.to_onnx import to_onnx
from surgery.diff.files import are_identical
from tests.diff.networks import network


def test_files_are_compared_in_the_order_in_which_they_are_given(tmp_path: Path) -> None:
    a, b, copy = (tmp_path / name for name in "abc")
    a.write_bytes(b"x" * 9)
    b.write_bytes(b"x" * 8 + b"y")
    shutil.copy(a, copy)
    assert are_identical([a, b], [copy, b])
    assert not are_identical([a, b], [b, a])
    assert not are_identical([a], [a, b])
    with pytest.raises(OSError, match="absent"):
        are_identical([a], [tmp_path / "absent"])


def test_a_data_file_that_differs_is_seen_behind_onnx_files_that_do_not(tmp_path: Path) -> None:
    paths = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        paths.append(to_onnx(network("lenet", tmp_path)).save(tmp_path / name / "net.onnx", limit=0))
    assert are_identical(paths[0][:1], paths[1][:1])
    stored = np.memmap(paths[1][1], np.uint8, "r+")
    stored[-1] ^= 1
    stored.flush()
    assert not are_identical(paths[0][:1], paths[1][:1])
