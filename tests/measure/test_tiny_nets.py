"""A net that is made for timing holds the layer that was asked for, as often as asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.choose.latency import KINDS, Shape, shapes_of
from surgery.measure.tiny_nets import INPUT, write_onnx, write_prototxt
from surgery.model import Model, PerChannel, Refusal
from surgery.runtime import Job
from tests.engines import require, require_caffe

SHAPES = [
    Shape("convolution", 1, 8, 16, (3, 3), padding=(1, 1), input=(14, 14), has_bias=True),
    Shape("convolution", 2, 4, 6, (3, 1), (2, 1), (2, 0), (2, 1), 2, (9, 7)),
    Shape("convolution", 1, 5, 5, (3, 3), (1, 1), (1, 1), (2, 2), 5, (9, 9)),
    Shape("fully connected", 2, 30, 20, has_bias=True),
    Shape("fully connected", 1, 3, 1),
    Shape("scale", 2, 8, 8, input=(5, 6)),
]
IDS = [f"{shape.kind} {i}" for i, shape in enumerate(SHAPES)]


def layers(model: Model, shape: Shape) -> list[Shape]:
    """The shapes of the layers in a model that do what `shape` says, wherever they stand."""
    found = []
    for node in model.nodes:
        op, scale = model.format.lift(model, node), model.format.scale(model, node)
        if isinstance(scale, PerChannel):
            found.append(Shape(KINDS[2], shape.batch, scale.scale.channels, scale.scale.channels, input=shape.input))
        elif not isinstance(op, Refusal):
            found += shapes_of(op, shape.batch, shape.input)
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_an_onnx_net_holds_copies_of_the_layer(shape: Shape, tmp_path: Path) -> None:
    model = formats.load((write_onnx(shape, 3, tmp_path / "net.onnx"),))
    assert layers(model, shape) == [shape] * 3
    maps = () if shape.kind == KINDS[1] else shape.input
    assert model.format.runnable(model).inputs == {INPUT: (shape.batch, shape.in_channels, *maps)}


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_caffe_sets_copies_of_the_layer_up(shape: Shape, tmp_path: Path) -> None:
    found = require_caffe().blob_shapes((write_prototxt(shape, 3, tmp_path / "net.prototxt"),))
    made = [layer for layer in found.layers if layer.name.startswith("layer")]
    assert len(made) == 3
    for layer in made:
        assert sum(int(np.prod(blob)) for blob in layer.params) == shape.params + shape.has_bias * shape.out_channels
        output = found.blobs[layer.tops[0]]
        assert output == (shape.batch, shape.out_channels, *(() if shape.kind == KINDS[1] else shape.output))


@pytest.mark.parametrize("runtime", ["onnxruntime", "opencv"])
@pytest.mark.parametrize("copies", [0, 1, 3])
def test_engines_run_the_nets_and_give_one_pixel_of_each_map(runtime: str, copies: int, tmp_path: Path) -> None:
    engine = require(runtime)
    jobs = []
    for i, shape in enumerate(SHAPES):
        if shape.kind == KINDS[1] and not copies:
            continue  # Nothing is made of no fully connected layers.
        path = write_onnx(shape, copies, tmp_path / f"{i}.onnx")
        maps = () if shape.kind == KINDS[1] else shape.input
        jobs.append((shape, Job((path,), [{INPUT: np.ones((shape.batch, shape.in_channels, *maps), np.float32)}])))
    for (shape, _), outcome in zip(jobs, engine.run_jobs([job for _, job in jobs]), strict=True):
        assert isinstance(outcome, list), outcome
        channels = shape.out_channels if copies else shape.in_channels
        pixel = () if shape.kind == KINDS[1] else (1, 1)
        assert [value.shape for value in outcome[0].values()] == [(shape.batch, channels, *pixel)] * max(copies, 1)
        values = [float(value.ravel()[0]) for value in outcome[0].values()]
        assert len(set(values)) == len(values)  # Equal copies would be computed once.
        assert all(0 < value < 10 for value in values)
