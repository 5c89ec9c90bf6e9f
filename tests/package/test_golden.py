from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.errors import VerificationError
from surgery.formats import Source
from surgery.package import golden
from surgery.verify import TOLERANCE, random_inputs
from tests.engines import require_onnxruntime
from tests.shared import REPOSITORY

DIGITS = (REPOSITORY / "models/digits/deploy.prototxt", REPOSITORY / "models/digits/digits.caffemodel")


@given(st.lists(st.floats(0, TOLERANCE), min_size=1, max_size=4))
def test_a_tolerance_is_ten_times_what_was_measured_rounded_up_and_no_more(distances: list[float]) -> None:
    found, wanted = golden.tolerance(distances), max(10 * max(distances), 1e-6)
    assert wanted <= found <= 2.5 * wanted


def test_without_a_second_runtime_a_tolerance_is_that_of_float32() -> None:
    assert golden.tolerance([]) == TOLERANCE


def test_a_distance_is_relative_and_the_largest_of_all_samples() -> None:
    a, b = np.array([3.0, 4.0]), np.array([3.0, 4.5])
    assert golden.distances([{"x": a}, {"x": a}], [{"x": a}, {"x": b}]) == {"x": pytest.approx(0.1)}
    assert golden.distances([{"x": 0 * a}], [{"x": 0 * a}]) == {"x": 0.0}
    assert golden.distances([{"x": 0 * a}], [{"x": a}]) == {"x": float("inf")}
    assert golden.distances([{"x": a}], [{"x": a[None]}]) == {"x": float("inf")}


def test_the_same_files_give_the_same_vectors_and_every_runtime_agrees() -> None:
    require_onnxruntime()
    model = Source(DIGITS).load()
    inputs = random_inputs(model.format.runnable(model).inputs, 0)
    one, two = (golden.compute(model, DIGITS, inputs, "onnxruntime", None) for _ in range(2))
    assert one.files() == two.files()
    assert one.facts() == two.facts()
    for distances in one.distances.values():
        assert 10 * distances["prob"] <= one.tolerances["prob"]


def test_a_twin_that_computes_something_else_stops_it(tmp_path: Path) -> None:
    require_onnxruntime()
    from surgery.convert.to_onnx import to_onnx

    weights = bytearray(DIGITS[1].read_bytes())
    weights[-400_000:-399_000] = bytes(1000)  # Of ip1's weights.
    (tmp_path / "other.caffemodel").write_bytes(weights)
    model = Source(DIGITS).load()
    conversion = to_onnx(Source((DIGITS[0], tmp_path / "other.caffemodel")).load())
    twin = golden.Twin(conversion.save(tmp_path / "other.onnx"), conversion.tensors)
    inputs = random_inputs(model.format.runnable(model).inputs, 0)
    with pytest.raises(VerificationError, match=r"the ONNX twin: 'prob' is .* nothing was written"):
        golden.compute(model, DIGITS, inputs, "caffe", twin)


def test_outputs_that_show_nothing_are_refused() -> None:
    require_onnxruntime()
    model = Source(DIGITS).load()
    zeros = [{"data": np.zeros((1, 1, 8, 8), np.float32)}] * 3
    with pytest.raises(VerificationError, match="would show nothing"):
        golden.compute(model, DIGITS, zeros, "caffe", None)
    wild = random_inputs({"data": (1, 1, 8, 8)}, 0)
    wild[1] = {"data": np.full((1, 1, 8, 8), np.nan, np.float32)}
    with pytest.raises(VerificationError, match="'prob' of sample 1 is not finite"):
        golden.compute(model, DIGITS, wild, "caffe", None)
