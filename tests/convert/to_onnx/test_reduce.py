"""Reduction and ArgMax in ONNX: of equal numbers Caffe takes the last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery.model import Shape
from surgery.runtime import Array
from tests.convert.to_onnx.nets import Results, compare, operators, single

PLANE = (2, 3, 4, 5)


def few(rng: np.random.Generator, shape: Shape) -> Array:
    """Few different numbers, so that many are equal."""
    return rng.integers(-1, 2, shape).astype(np.float32)


REDUCTIONS: dict[str, tuple[str, Shape]] = {
    "all": ("", PLANE),
    "from axis 1": ("axis: 1", PLANE),
    "from axis 2, weighted": ("axis: 2 coeff: -0.3", PLANE),
    "from the end": ("axis: -1", PLANE),
    "vector": ("", (5,)),
    "one number": ("coeff: 2", (1,)),
    "6 axes": ("axis: 3", (2, 1, 3, 2, 2, 3)),
}
ARGMAX: dict[str, tuple[str, Shape]] = {
    f"{name}{' and values' if values else ''}": (f"{param} {values}", shape)
    for values in ("", "out_max_val: true")
    for name, (param, shape) in {
        "items": ("", PLANE),
        "items of one axis": ("", (3, 7)),
        "items of 3 axes": ("", (2, 3, 4)),
        "items of 6 axes": ("", (2, 1, 3, 2, 2, 3)),
        "items of one number": ("", (4,)),
        "five of each item": ("top_k: 5", PLANE),
        "all of each item": ("top_k: 7", (3, 7)),
        "axis 1": ("axis: 1", PLANE),
        "axis from the end": ("axis: -2", PLANE),
        "two along axis 1": ("axis: 1 top_k: 2", PLANE),
        "all along the last axis": ("axis: -1 top_k: 5", PLANE),
    }.items()
}
NETS = (
    {
        f"{operation}, {name}": single("Reduction", f"reduction_param {{ operation: {operation} {param} }}", shape)
        for operation in ("SUM", "ASUM", "SUMSQ", "MEAN")
        for name, (param, shape) in REDUCTIONS.items()
    }
    | {
        f"ArgMax, {name}": single("ArgMax", f"argmax_param {{ {param} }}", shape, values={"x0": few})
        for name, (param, shape) in ARGMAX.items()
    }
    | {
        "ArgMax, batch": single("ArgMax", "argmax_param { axis: 0 }", PLANE, values={"x0": few}),
        "ArgMax, two of the batch": single(
            "ArgMax", "argmax_param { axis: 0 top_k: 2 }", PLANE, values={"x0": few}, batch=False
        ),
    }
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return compare(NETS, tmp_path_factory.mktemp("nets"))


@pytest.mark.parametrize("name", NETS)
def test_a_reduction_computes_what_caffe_computes(results: Results, name: str) -> None:
    # Sums of up to 144 numbers in another order; places are exact.
    tolerance = 0 if name.startswith("ArgMax") else 1e-5
    assert results[name].error <= tolerance
    assert not NETS[name].batch or results[f"{name} (dynamic)"].error <= tolerance


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SUM, all", ["ReduceSum"]),
        ("MEAN, from axis 2, weighted", ["ReduceMean", "Mul"]),
        ("ArgMax, axis 1", ["ArgMax", "Cast"]),
        ("ArgMax, axis 1 and values", ["ReduceMax"]),
        ("ArgMax, two along axis 1 and values", ["TopK"]),
    ],
)
def test_it_takes_no_more_operators_than_it_must(name: str, expected: list[str], tmp_path: Path) -> None:
    assert operators(NETS[name], tmp_path) == expected
