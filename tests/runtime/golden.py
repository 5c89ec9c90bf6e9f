"""Nets with weights, inputs and the outputs that BVLC Caffe gave for them."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from surgery.runtime import Array, Job
from tests.shared import shared


@dataclass(frozen=True)
class Golden:
    name: str
    job: Job
    expected: dict[str, Array]


def golden_cases() -> list[Golden]:
    folder = shared("golden")
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    cases = []
    for case in index["cases"]:
        own = folder / case["case"]
        with np.load(own / "io.npz") as arrays:
            inputs = {key[3:]: arrays[key] for key in arrays if key.startswith("in:")}
            outputs = {key[4:]: arrays[key] for key in arrays if key.startswith("out:")}
        job = Job([own / "net.prototxt", own / "net.caffemodel"], [inputs], stages=case["stages"])
        cases.append(Golden(case["case"], job, outputs))
    return cases


def agree(found: dict[str, Array], expected: dict[str, Array], tolerance: float) -> bool:
    """Whether the same blobs are there, of the same shapes, with values as near as `tolerance`."""
    return found.keys() == expected.keys() and all(
        found[name].shape == value.shape
        and np.allclose(found[name], value, rtol=tolerance, atol=tolerance, equal_nan=True)
        for name, value in expected.items()
    )
