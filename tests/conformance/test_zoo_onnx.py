"""Real networks of the zoo, made into ONNX files, compute in ONNX Runtime what they compute in real Caffe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.convert.to_onnx import to_onnx
from surgery.errors import EngineError
from surgery.model import Model
from surgery.runtime import Array, Inputs, Job
from surgery.verify import TOLERANCE, comparable, compare, random_inputs
from tests.conformance.test_targets import AT_ONCE, FOLDERS, pairs
from tests.engines import require_caffe, require_onnxruntime

Blobs = dict[str, Array]
Pair = tuple[Model, tuple[Path, Path], list[Inputs]]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_blob_before_softmax_is_caffes(folder: str, tmp_path: Path) -> None:
    require_caffe()
    models = [(formats.load(files), files) for files in pairs()[folder]]
    loaded: list[Pair] = [
        (model, files, random_inputs(model.format.runnable(model).inputs, seed=number))
        for number, (model, files) in enumerate(models)
    ]
    for start in range(0, len(loaded), AT_ONCE):
        batch = loaded[start : start + AT_ONCE]
        for (model, files, _), expected, found in zip(batch, in_caffe(batch), in_onnx(batch, tmp_path), strict=True):
            names = comparable((model, model), expected[0], expected[0])
            assert [name for name in names if name not in found[0]] == [], files
            outputs = names[-1]
            assert not any(np.array_equal(expected[0][outputs], other[outputs]) for other in expected[1:]), files
            worst = max(compare(expected, found, names), key=lambda c: c.rel_l2)
            assert worst.rel_l2 <= TOLERANCE, (files, worst)


def in_caffe(batch: Sequence[Pair]) -> list[list[Blobs]]:
    jobs = [Job(files, inputs, all_blobs=True) for _, files, inputs in batch]
    return [checked(result) for result in require_caffe().run_jobs(jobs)]


def in_onnx(batch: Sequence[Pair], folder: Path) -> list[list[Blobs]]:
    """What the converted files compute, under the names of Caffe's blobs."""
    jobs, tables = [], []
    for number, (model, _, inputs) in enumerate(batch):
        conversion = to_onnx(model, all_blobs=True)
        path = folder / f"{number}.onnx"
        conversion.save(path)
        jobs.append(Job([path], inputs))
        tables.append(conversion.tensors)
    results = [checked(result) for result in require_onnxruntime().run_jobs(jobs)]
    return [[renamed(values, table) for values in result] for result, table in zip(results, tables, strict=True)]


def renamed(values: Blobs, tensors: Mapping[str, str]) -> Blobs:
    return {blob: values[tensor] for blob, tensor in tensors.items() if tensor in values}


def checked(result: list[Blobs] | EngineError) -> list[Blobs]:
    assert not isinstance(result, EngineError), result
    return result
