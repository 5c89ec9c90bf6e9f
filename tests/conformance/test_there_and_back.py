"""Caffe networks, made into ONNX files and those into Caffe networks, compute what they computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest

from surgery import formats
from surgery.convert.to_caffe import to_caffe
from surgery.convert.to_onnx import to_onnx
from surgery.errors import EngineError
from surgery.runtime import Array, Job, NetShapes
from surgery.verify import TOLERANCE, compare, random_inputs
from tests import random_nets
from tests.conformance.test_targets import AT_ONCE, FOLDERS, pairs
from tests.conformance.test_zoo_onnx import checked
from tests.engines import require_caffe
from tests.runtime.golden import golden_cases

Blobs = dict[str, Array]

NETS_OF_A_KIND = 6


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_outputs_of_a_real_network_are_those_of_the_original(folder: str, tmp_path: Path) -> None:
    jobs = []
    for number, files in enumerate(pairs()[folder]):
        model = formats.load(files)
        jobs.append(Job(files, random_inputs(model.format.runnable(model).inputs, seed=number)))
    check(jobs, tmp_path)


def test_every_golden_case_computes_what_it_computed(tmp_path: Path) -> None:
    cases = golden_cases()
    check([case.job for case in cases], tmp_path, [case.expected for case in cases])


def test_random_layers_compute_what_they_computed(tmp_path: Path) -> None:
    rng, values = Random(1), np.random.default_rng(1)
    paths = []
    for kind in random_nets.NETS:
        for number in range(NETS_OF_A_KIND):
            paths.append(tmp_path / f"{kind}_{number}.prototxt")
            paths[-1].write_text(random_nets.net(kind, rng), encoding="utf-8")
    jobs = []
    for path, shapes in zip(paths, require_caffe().blob_shapes_of([Job([path]) for path in paths]), strict=True):
        if isinstance(shapes, NetShapes):  # Else Caffe refuses what was drawn.
            weights = random_nets.write_weights(shapes, path.with_suffix(".caffemodel"), values)
            jobs.append(Job([path, weights], [random_nets.arrays(shapes, values)]))
    assert len(jobs) > 0.75 * len(paths)
    check(jobs, tmp_path)


def check(jobs: Sequence[Job], folder: Path, recorded: Sequence[Blobs] = ()) -> None:
    """Convert every job's network there and back, and compare all outputs in real Caffe.

    Where the Caffe that is built here does not know a field of the original, what another Caffe `recorded` counts.
    """
    caffe = require_caffe()
    returned = [Job(there_and_back(job, folder / f"back{i}"), job.inputs) for i, job in enumerate(jobs)]
    for start in range(0, len(jobs), AT_ONCE):
        chosen = slice(start, start + AT_ONCE)
        results = caffe.run_jobs([*jobs[chosen], *returned[chosen]])
        half = len(results) // 2
        for number, (first, second) in enumerate(zip(results[:half], results[half:], strict=True), start):
            files = jobs[number].files
            is_unknown = isinstance(first, EngineError) and recorded
            expected, found = [recorded[number]] if is_unknown else checked(first), checked(second)
            assert found[0].keys() == expected[0].keys(), files
            worst = max(compare(expected, found, list(expected[0])), key=lambda c: c.rel_l2)
            assert worst.rel_l2 <= TOLERANCE, (files, worst)


def there_and_back(job: Job, folder: Path) -> tuple[Path, ...]:
    folder.mkdir()
    to_onnx(formats.load(job.files, stages=tuple(job.stages))).save(folder / "net.onnx")
    return to_caffe(formats.load([folder / "net.onnx"])).save(folder, "net")
