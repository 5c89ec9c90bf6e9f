from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from surgery.errors import DataError, ModelError
from surgery.package.vectors import Vector, listed, npy, parsed, raw, read_list

floats = arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))


@given(floats)
def test_a_raw_file_gives_the_array_back(array: np.ndarray) -> None:
    np.testing.assert_array_equal(parsed(raw(array), "x"), array)


@given(floats)
def test_numpy_reads_the_npy_file(array: np.ndarray) -> None:
    found = np.load(io.BytesIO(npy(array)), allow_pickle=False)
    assert found.dtype == np.dtype("<f4")
    np.testing.assert_array_equal(found, array)


def test_a_raw_file_is_axes_then_numbers_little_endian() -> None:
    assert raw(np.array([[1.5, -2.0]])) == struct.pack("<3I2f", 2, 1, 2, 1.5, -2.0)


@given(st.binary(max_size=64))
def test_any_bytes_are_an_array_or_refused(data: bytes) -> None:
    try:
        array = parsed(data, "x")
    except DataError:
        return
    assert raw(array) == data


def test_a_list_gives_the_vectors_back_names_with_spaces_too() -> None:
    vectors = [Vector("input", 0, "golden/a.f32", 0.0, "data"), Vector("output", 12, "b.f32", 2e-6, "a b  #c")]
    assert list(read_list(listed(vectors), "x")) == vectors


def test_a_blob_whose_name_is_no_line_is_refused() -> None:
    with pytest.raises(ModelError, match="line by line"):
        listed([Vector("input", 0, "a", 0.0, "a\nb")])


@pytest.mark.parametrize(
    "line", ["", "input", "other 0 a 0 b", "input -1 a 0 b", "output 0 a nan b", "output 0 a 1 b", "output 0 a 1e9 b"]
)
def test_a_line_that_is_no_vector_is_refused_with_its_number(line: str) -> None:
    with pytest.raises(DataError, match=r"^x:2: is"):
        list(read_list(f"input 0 a 0 b\n{line}\n", "x"))
