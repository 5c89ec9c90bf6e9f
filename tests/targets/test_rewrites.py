"""Every rewrite gives what the layer gave, in stock layers, and is only done where it is allowed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery.formats import Source, load
from surgery.formats.caffe.targets import TARGETS
from surgery.runtime import Array, job_of
from surgery.targets import REWRITES, prepare, problems
from tests.engines import require_onnxruntime
from tests.nets import Blobs, conv_blobs
from tests.targets.nets import INPUT, layer, source

CONV = "convolution_param { num_output: 6 kernel_size: 3 pad: 1 stride: 2 }"
GATE = layer("Pooling", "pooling_param { pool: AVE global_pooling: true }", name="g", top="g")
FLAT = layer("Flatten", name="f", bottom="g", top="f")
OTHER = layer("Power", "power_param { scale: 0.5 shift: 1 }", name="o", top="o")
IN_PLACE = (
    layer("Power", name="b", top="b") + layer("ReLU6", bottom="b", top="b") + layer("Power", name="c", bottom="b")
)

# Rewrite -> networks to be rewritten, each with the weights that it has.
CASES: dict[str, list[tuple[str, Blobs]]] = {
    "axpy": [
        (GATE + OTHER + layer("Axpy", bottom="g x o"), {}),
        (GATE + FLAT + OTHER + layer("Axpy", bottom="f x o"), {}),
    ],
    "clip": [
        (layer("Clip", "clip_param { min: 0 max: 6 }"), {}),
        (layer("Clip", "clip_param { min: -0.75 max: 0.5 }"), {}),
        (layer("Clip", "clip_param { min: 1 max: 1 }"), {}),
    ],
    "depthwise": [
        (layer("DepthwiseConvolution", CONV.replace("6", "3")), {"a": conv_blobs(3, 1, 3, 3)}),
        (layer("DepthwiseConvolution", CONV), {"a": conv_blobs(6, 1, 3, 3)}),
        (layer("ConvolutionDepthwise", CONV.replace("num_output: 6 ", "")), {"a": conv_blobs(3, 1, 3, 3)}),
        (
            layer("CuDNNGroupedConvolutionForward", CONV.replace("pad", "group: 3 pad")),
            {"a": conv_blobs(6, 1, 3, 3)},
        ),
    ],
    "floor-pooling": [
        (layer("Pooling", "pooling_param { kernel_size: 2 stride: 2 round_mode: FLOOR }"), {}),
        (layer("Pooling", "pooling_param { kernel_size: 3 stride: 3 ceil_mode: false }"), {}),
        (layer("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 ceil_mode: false }"), {}),
        (layer("Pooling", "pooling_param { kernel_size: 2 stride: 2 round_mode: CEIL }"), {}),
    ],
    "hard-sigmoid": [(layer("HardSigmoid", "hardsigmoid_param { alpha: 0.2 beta: 0.4 }"), {})],
    "hard-swish": [(layer("HardSwish"), {})],
    "relu6": [
        (layer("ReLU6"), {}),
        (layer("ReLU6", "relu6_param { threshold: 2 }"), {}),
        (IN_PLACE, {}),
    ],
    "swish": [(layer("Swish"), {}), (layer("Swish", "swish_param { beta: 1.5 }"), {})],
    "upsample": [(layer("Upsample", "upsample_param { scale: 3 }"), {})],
}
# Targets that have such layers, or have no way to write them.
UNNEEDED = {("clip", "caffe-master"), ("swish", "caffe-master"), ("upsample", "opencv")}
# What a rewrite does not fit, and a word of the reason.
MISFITS = {
    "axpy": (GATE + layer("Power", name="o", top="o") + layer("Axpy", bottom="g x o", top="o"), "in place"),
    "clip": (layer("Clip", "clip_param { min: 2 max: 1 }"), "no range"),
    "relu6": (layer("ReLU6", "relu6_param { negative_slope: 0.1 }"), "negative_slope"),
    "swish": (layer("Power", name="p", top="p") + layer("Swish", bottom="p", top="p"), "in place"),
    "upsample": (layer("Upsample", "upsample_param { scale: 1.5 }"), "whole scale"),
}


def outputs(sources: list[Source]) -> list[dict[str, Array]]:
    """Run networks on numbers of both signs, small and large."""
    engine = require_onnxruntime()
    inputs = {"x": np.random.default_rng(0).normal(scale=5, size=(2, 3, 7, 8)).astype(np.float32)}
    jobs = [job_of(load(own.files), own.files, [inputs]) for own in sources]
    results = engine.run_jobs(jobs)
    assert not [result for result in results if isinstance(result, Exception)]
    return [result[0] for result in results if not isinstance(result, Exception)]


def test_every_rewrite_is_tried() -> None:
    assert list(CASES) == list(REWRITES)


@pytest.mark.parametrize("target", ["caffe-1.0", "caffe-master", "opencv"])
@pytest.mark.parametrize("name", CASES)
def test_a_rewritten_network_gives_what_it_gave(name: str, target: str, tmp_path: Path) -> None:
    pairs = []
    for i, (text, blobs) in enumerate(CASES[name]):
        folder = tmp_path / str(i)
        folder.mkdir()
        given = source(folder, INPUT + text, blobs)
        found = problems(given, target, batch=2)
        if not found or any("makes no weights" in problem.advice for problem in found):
            continue
        made = prepare(given, target, folder, batch=2, allow=[name], stem="made")
        assert made.rewrites == (name,)
        assert {node.type for node in load(made.files).nodes} <= TARGETS[target].types
        pairs += [given, Source(made.files)]
    assert bool(pairs) != ((name, target) in UNNEEDED)
    results = outputs([_as_onnx(own, tmp_path / f"{i}.onnx") for i, own in enumerate(pairs)])
    for before, after in zip(results[::2], results[1::2], strict=True):
        assert before.keys() == after.keys()
        for blob, values in before.items():
            # A constant of at most 6 added and taken away: half a unit in its last place, twice, and times x in a gate.
            np.testing.assert_allclose(after[blob], values, rtol=1e-6, atol=1e-6 * max(1, np.abs(values).max()))


def _as_onnx(own: Source, path: Path) -> Source:
    return Source(prepare(own, "onnxruntime", path.parent, batch=2, stem=path.stem).files)


@pytest.mark.parametrize("name", CASES)
def test_a_rewrite_that_is_not_allowed_is_offered_by_name(name: str, tmp_path: Path) -> None:
    text, blobs = CASES[name][0]
    (problem,) = problems(source(tmp_path, INPUT + text, blobs), "caffe-1.0")
    assert (problem.where, problem.rewrite) == ("a", name)
    assert f"--rewrite {name}" in problem.advice


@pytest.mark.parametrize("name", MISFITS)
def test_a_rewrite_that_does_not_fit_says_why(name: str, tmp_path: Path) -> None:
    text, reason = MISFITS[name]
    for allow in ((), (name,)):
        found = [p for p in problems(source(tmp_path, INPUT + text), "caffe-1.0", allow=allow) if p.where == "a"]
        assert [p.rewrite for p in found] == [None]
        assert reason in found[0].advice


def test_clipping_is_one_layer_where_the_target_has_one(tmp_path: Path) -> None:
    given = source(tmp_path, INPUT + layer("ReLU6"))
    made = prepare(given, "caffe-master", tmp_path, allow=["relu6"])
    assert [node.type for node in load(made.files).nodes] == ["Input", "Clip"]


def test_new_layers_have_names_of_their_own(tmp_path: Path) -> None:
    text = INPUT + layer("ReLU6", name="a") + layer("ReLU", name="a_2", bottom="y", top="a_1")
    made = prepare(source(tmp_path, text), "caffe-1.0", tmp_path, allow=["relu6"])
    names = [node.key for node in load(made.files).nodes]
    assert len(set(names)) == len(names) == 6
    assert names[-1] == "a_2"
