"""LRN, BatchNorm and MVN in ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery.convert.to_onnx import Origin
from surgery.model import Shape
from tests.convert.to_onnx.nets import (
    Draw,
    Net,
    Results,
    compare,
    converted,
    distance,
    inputs,
    layer,
    operators,
    positive,
    run,
    single,
    write,
)

PLANE = (2, 5, 6, 7)
IN_PLACE = 'layer {{ name: "layer" type: "{}" bottom: "x0" top: "x0" {} }}'


def constant(value: float) -> Draw:
    return lambda _, shape: np.full(shape, value, np.float32)


def lrn(param: str, shape: Shape = PLANE) -> Net:
    return single("LRN", f"lrn_param {{ {param} }}", shape)


def batch_norm(param: str, shape: Shape = PLANE, factor: float = 1.0) -> Net:
    return single("BatchNorm", f"batch_norm_param {{ {param} }}", shape, blobs={1: positive, 2: constant(factor)})


def mvn(param: str, shape: Shape = PLANE) -> Net:
    return single("MVN", f"mvn_param {{ {param} }}", shape)


NETS = {
    "LRN": lrn(""),
    "LRN, AlexNet's": lrn("local_size: 5 alpha: 1e-4 beta: 0.75"),
    "LRN, k": lrn("local_size: 3 alpha: 2 beta: 0.5 k: 3"),
    "LRN, more than the channels": lrn("local_size: 13 alpha: 2"),
    "LRN, one channel": lrn("local_size: 1 alpha: 2"),
    "LRN, alpha 0": lrn("alpha: 0 k: 2"),
    "LRN, alpha below 0": lrn("alpha: -0.01 k: 3"),
    "LRN, beta 0": lrn("beta: 0"),
    "LRN, beta below 0": lrn("local_size: 3 beta: -0.5"),
    "LRN, in place": Net(IN_PLACE.format("LRN", "lrn_param { local_size: 3 alpha: 2 k: 1.5 }"), (PLANE,)),
    "LRN within, in place": Net(IN_PLACE.format("LRN", "lrn_param { norm_region: WITHIN_CHANNEL }"), (PLANE,)),
    "LRN within": lrn("norm_region: WITHIN_CHANNEL"),
    "LRN within, k": lrn("norm_region: WITHIN_CHANNEL local_size: 3 alpha: 2 beta: 0.5 k: 3"),
    "LRN within, more than the plane": lrn("norm_region: WITHIN_CHANNEL local_size: 9", (1, 2, 4, 3)),
    "LRN within, one number": lrn("norm_region: WITHIN_CHANNEL local_size: 1"),
    "LRN within, alpha and beta 0": lrn("norm_region: WITHIN_CHANNEL alpha: 0 beta: 0"),
    "BatchNorm": batch_norm(""),
    "BatchNorm, factor": batch_norm("", factor=999.98),
    "BatchNorm, factor 0": batch_norm("", factor=0.0),
    "BatchNorm, eps": batch_norm("eps: 0.1", factor=3.0),
    "BatchNorm, vectors": batch_norm("", (3, 5)),
    "BatchNorm, 3 axes": batch_norm("", (3, 5, 4), 2.0),
    "BatchNorm, 5 axes": batch_norm("", (2, 3, 4, 2, 3), 2.0),
    "BatchNorm of the batch": batch_norm("use_global_stats: false"),
    "BatchNorm of the batch, vectors": batch_norm("use_global_stats: false eps: 0.1", (4, 5)),
    "BatchNorm of the batch, 5 axes": batch_norm("use_global_stats: false", (2, 3, 4, 2, 3)),
    "BatchNorm in phase TRAIN": Net(layer("BatchNorm", "x0", "y0", "phase: TRAIN"), (PLANE,)),
    "BatchNorm in phase TRAIN, stored": Net(
        layer("BatchNorm", "x0", "y0", "phase: TRAIN batch_norm_param { use_global_stats: true }"),
        (PLANE,),
        blobs={("layer", 1): positive},
    ),
    "BatchNorm, in place": Net(
        IN_PLACE.format("BatchNorm", ""), (PLANE,), blobs={("layer", 1): positive, ("layer", 2): positive}
    ),
    "MVN": mvn(""),
    "MVN, across channels": mvn("across_channels: true"),
    "MVN, mean only": mvn("normalize_variance: false"),
    "MVN, mean only, across channels": mvn("normalize_variance: false across_channels: true"),
    "MVN, eps": mvn("eps: 0.5 across_channels: true"),
    "MVN, 3 axes": mvn("", (2, 3, 4)),
    "MVN, 2 axes": mvn("across_channels: true", (2, 5)),
    "MVN, 2 axes, alone": mvn("", (2, 5)),
    "MVN, 1 axis": mvn("normalize_variance: false", (4,)),
    "MVN, in place": Net(IN_PLACE.format("MVN", ""), (PLANE,)),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return compare(NETS, tmp_path_factory.mktemp("nets"))


@pytest.mark.parametrize("name", NETS)
def test_a_normalised_net_computes_what_caffe_computes(results: Results, name: str) -> None:
    assert results[name].error <= 1e-6
    assert results[f"{name} (dynamic)"].error <= 1e-6


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LRN", ["LRN"]),
        ("LRN within", ["Mul", "Pad", "AveragePool", "Add", "Pow", "Mul"]),
        ("BatchNorm", ["BatchNormalization"]),
        ("BatchNorm, factor 0", ["BatchNormalization"]),
        ("MVN, mean only", ["ReduceMean", "Sub"]),
    ],
)
def test_it_takes_no_more_operators_than_it_must(name: str, expected: list[str], tmp_path: Path) -> None:
    assert operators(NETS[name], tmp_path) == expected


def test_statistics_go_in_as_they_lie_in_the_file_where_their_factor_is_one(tmp_path: Path) -> None:
    one, other = (converted(NETS[name], tmp_path).conversion for name in ("BatchNorm", "BatchNorm, factor"))
    assert one.weights == {"layer.mean": Origin("layer", 0), "layer.variance": Origin("layer", 1)}
    assert [origin.layout for origin in other.weights.values()] == ["over factor", "over factor"]


@pytest.mark.parametrize("param", ["scale_bias: true", "scale_bias: true use_global_stats: false"])
def test_nvcaffes_batch_norm_scales_too(param: str, tmp_path: Path) -> None:
    blobs = {1: positive, 2: constant(2)}
    net = single("BatchNorm", f"batch_norm_param {{ {param} }}", PLANE, blobs=blobs)
    result = run(net, tmp_path)["y0"]
    mean, variance, factor, scale, shift = (
        np.asarray(blob, np.float64) for blob in write(net, tmp_path).native.weights.arrays(0)
    )
    x = np.moveaxis(inputs(net)["x0"].astype(np.float64), 1, -1)
    if "false" in param:
        mean, variance, factor = x.mean((0, 1, 2)), x.var((0, 1, 2)), np.ones(1)
    y = (x - mean / factor) / np.sqrt(variance / factor + 1e-5) * scale + shift
    assert distance(result, np.moveaxis(y, -1, 1)) <= 1e-6
