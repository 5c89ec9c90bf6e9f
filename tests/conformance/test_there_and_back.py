"""Real networks of the zoo, made into ONNX files and those into Caffe networks, compute what they computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery import formats
from surgery.convert.to_caffe import to_caffe
from surgery.convert.to_onnx import to_onnx
from surgery.runtime import Array, Job
from surgery.verify import TOLERANCE, compare, random_inputs
from tests.conformance.test_targets import AT_ONCE, FOLDERS, pairs
from tests.conformance.test_zoo_onnx import checked
from tests.engines import require_caffe

Blobs = dict[str, Array]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_outputs_are_those_of_the_original(folder: str, tmp_path: Path) -> None:
    caffe = require_caffe()
    jobs, files = [], pairs()[folder]
    for number, original in enumerate(files):
        model = formats.load(original)
        inputs = random_inputs(model.format.runnable(model).inputs, seed=number)
        there = tmp_path / f"{number}.onnx"
        to_onnx(model).save(there)
        back = tmp_path / str(number)
        back.mkdir()
        jobs += [Job(original, inputs), Job(to_caffe(formats.load([there])).save(back, "net"), inputs)]
    for start in range(0, len(jobs), 2 * AT_ONCE):
        results = [checked(result) for result in caffe.run_jobs(jobs[start : start + 2 * AT_ONCE])]
        for expected, found in zip(results[::2], results[1::2], strict=True):
            assert list(found[0]) == list(expected[0])
            worst = max(compare(expected, found, list(expected[0])), key=lambda c: c.rel_l2)
            assert worst.rel_l2 <= TOLERANCE, (folder, worst)
