"""Views: whatever is reshaped and transposed, the numbers are where the view says."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from surgery.convert.to_caffe.values import (
    Value,
    axes_in_memory,
    in_memory,
    memory_order,
    plain,
    reshaped,
    transposed,
    varying,
)

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)


def seen(value: Value, blob: np.ndarray) -> np.ndarray:
    """The tensor, by the definition of a view."""
    return blob.reshape(value.factors).transpose(value.order).reshape(value.shape)


@st.composite
def views(draw: st.DrawFn) -> tuple[Value, np.ndarray, np.ndarray]:
    """A view, its blob and the tensor as NumPy makes it by the same steps."""
    shape = draw(SHAPES)
    blob = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    value, tensor = plain("blob", shape), blob
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            order = draw(st.permutations(range(tensor.ndim)))
            moved = transposed(value, order)
            if moved is None:  # A view that is none: a layer would have to sort the numbers first.
                continue
            value, tensor = moved, tensor.transpose(order)
        else:
            sizes = list(tensor.shape)
            if draw(st.booleans()) and len(sizes) > 1:
                place = draw(st.integers(0, len(sizes) - 2))
                sizes[place : place + 2] = [sizes[place] * sizes[place + 1]]
            else:
                place = draw(st.integers(0, len(sizes) - 1))
                factor = draw(st.sampled_from([n for n in range(1, sizes[place] + 1) if sizes[place] % n == 0]))
                sizes[place : place + 1] = [factor, sizes[place] // factor]
            value, tensor = reshaped(value, sizes), tensor.reshape(sizes)
    return value, blob, tensor


@given(views())
def test_view_is_what_numpy_makes_of_the_blob(case: tuple[Value, np.ndarray, np.ndarray]) -> None:
    value, blob, tensor = case
    assert np.array_equal(seen(value, blob), tensor)
    assert value.is_in_order == np.array_equal(tensor.reshape(-1), blob.reshape(-1))


@given(views())
def test_axes_in_memory_give_the_tensor_back(case: tuple[Value, np.ndarray, np.ndarray]) -> None:
    value, blob, tensor = case
    found = axes_in_memory(value)
    if found is not None:
        shape, permutation = found
        assert np.array_equal(blob.reshape(shape).transpose(permutation), tensor)


@given(views())
def test_constant_in_memory_lies_where_the_tensor_does(case: tuple[Value, np.ndarray, np.ndarray]) -> None:
    value, blob, tensor = case
    constant = np.arange(tensor.shape[-1], dtype=np.float32)
    assert np.array_equal(seen(value, blob + in_memory(value, constant)), tensor + constant)


@given(views())
def test_memory_order_names_the_place_of_each_number_of_a_row(case: tuple[Value, np.ndarray, np.ndarray]) -> None:
    value, blob, tensor = case
    rows = tensor.shape[0]
    places = memory_order(value, rows)
    if places is not None:
        assert np.array_equal(blob.reshape(rows, -1)[:, places], tensor.reshape(rows, -1))


def test_channel_last_and_back_is_in_order() -> None:
    there = transposed(plain("blob", (2, 3, 4, 5)), (0, 2, 3, 1))
    assert there is not None
    assert not there.is_in_order
    back = transposed(there, (0, 3, 1, 2))
    assert back is not None
    assert back.is_plain


def test_axis_that_straddles_memory_has_no_view() -> None:
    moved = transposed(plain("blob", (4, 6)), (1, 0))
    assert moved is not None
    assert transposed(reshaped(moved, (8, 3)), (1, 0)) is None


def test_broadcast_axes_do_not_vary() -> None:
    array = np.broadcast_to(np.float32([[1], [2]]), (1 << 20, 2, 1 << 20))
    assert varying(array) == [1]
    assert varying(np.float32([[np.nan, np.nan]])) == []
