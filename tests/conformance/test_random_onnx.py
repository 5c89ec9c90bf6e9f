"""Random networks, all of a layer's parameters drawn, compute as ONNX files what they compute in real Caffe."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from surgery import formats
from surgery.convert.to_onnx import to_onnx
from surgery.errors import EngineError
from surgery.runtime import Job, NetShapes
from surgery.verify import TOLERANCE, compare
from tests import random_nets
from tests.engines import require_caffe, require_onnxruntime

NETS_OF_A_KIND = 12
# What Caffe refuses of what is drawn, such as a pad as large as the kernel, must stay the smaller part.
LEAST = 6


@pytest.mark.parametrize("seed", [0])
def test_random_layers_compute_what_caffe_computes(seed: int, tmp_path: Path) -> None:
    caffe = require_caffe()
    rng, values = Random(seed), np.random.default_rng(seed)
    paths = {}
    for kind in random_nets.NETS:
        for number in range(NETS_OF_A_KIND):
            paths[kind, number] = tmp_path / f"{kind}_{number}.prototxt"
            paths[kind, number].write_text(random_nets.net(kind, rng), encoding="utf-8")
    shapes = dict(zip(paths, caffe.blob_shapes_of([Job([path]) for path in paths.values()]), strict=True))
    jobs = {}
    for key, found in shapes.items():
        if isinstance(found, NetShapes):
            weights = random_nets.write_weights(found, paths[key].with_suffix(".caffemodel"), values)
            jobs[key] = Job([paths[key], weights], [random_nets.arrays(found, values)])
    for kind in random_nets.NETS:
        assert sum(key[0] == kind for key in jobs) >= LEAST, kind
    expected = dict(zip(jobs, caffe.run_jobs(list(jobs.values())), strict=True))
    found = dict(zip(jobs, require_onnxruntime().run_jobs([converted(job) for job in jobs.values()]), strict=True))
    for key, job in jobs.items():
        first, second = expected[key], found[key]
        text = job.files[0].read_text(encoding="utf-8")
        assert not isinstance(first, EngineError), (text, first)
        assert not isinstance(second, EngineError), (text, second)
        assert second[0].keys() == first[0].keys(), text
        for comparison in compare(first, second, list(first[0])):
            assert comparison.rel_l2 <= TOLERANCE, (text, comparison)


def converted(job: Job) -> Job:
    path = job.files[0].with_suffix(".onnx")
    to_onnx(formats.load(job.files)).save(path)
    return Job([path], job.inputs)
