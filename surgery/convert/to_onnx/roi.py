"""Layers that pool regions of a feature map: Fast R-CNN's and R-FCN's."""

from __future__ import annotations

import numpy as np

from surgery.convert.to_onnx.graph import Graph
from surgery.convert.to_onnx.site import InexpressibleError, Site
from surgery.formats.caffe.layers.base import four


def roi_pooling(site: Site, graph: Graph) -> tuple[str, ...]:
    """MaxRoiPool, which rounds, clips and leaves empty bins as Fast R-CNN does."""
    param = site.param("roi_pooling_param")
    site.refuse_foreign("roi_pooling_param", "pooled_size")
    if graph.opset >= 22:
        raise InexpressibleError("ONNX Runtime has MaxRoiPool up to opset 21 only; convert with an older opset")
    grid = [param.int("pooled_h"), param.int("pooled_w")]
    value = graph.reshape(site.inputs[0], site.shape(), four(site.shape()))
    scale = param.float("spatial_scale")
    return (graph.op("MaxRoiPool", value, _regions(site, graph), pooled_shape=grid, spatial_scale=scale),)


def psroi_pooling(site: Site, graph: Graph) -> tuple[str, ...]:
    """The average of each bin, of the channels that belong to it, as a product with masks of 0 and 1."""
    param = site.param("psroi_pooling_param")
    if not param.has("spatial_scale"):
        raise InexpressibleError("it states no spatial_scale")
    n, _, h, w = four(site.shape())
    group, outputs = param.int("group_size"), param.int("output_dim")
    count, bins = four(site.shape(1))[0], group * group
    regions = _regions(site, graph)
    columns, rows = _masks(graph, regions, param.float("spatial_scale"), group, (w, h))
    # (g, 1, R, H, 1) and (1, g, R, 1, W) to (g g, R, H W)
    inside = graph.op("Mul", graph.unsqueeze(rows, [1, 4]), graph.unsqueeze(columns, [0, 3]))
    inside = graph.reshape(inside, (group, group, count, h, w), (bins, count, h * w))
    area = graph.reduce("ReduceSum", inside, [2], keepdims=True)
    features = graph.reshape(site.inputs[0], site.shape(), (n, outputs, bins, h * w))
    features = graph.op("Transpose", features, perm=[2, 0, 3, 1])
    features = graph.reshape(features, (bins, n, h * w, outputs), (bins, n * h * w, outputs))
    if graph.fixed(n) > 1:
        of_image = graph.cast(graph.slice(regions, [1], [0], [1]), "int64")
        images = graph.cast(graph.op("Equal", of_image, graph.integers(range(n))), "float32")
        inside = graph.op("Mul", graph.unsqueeze(inside, [2]), graph.unsqueeze(images, [0, 3]))
        inside = graph.reshape(inside, (bins, count, n, h * w), (bins, count, n * h * w))
    total = graph.op("MatMul", inside, features)
    average = graph.op("Div", total, graph.op("Max", area, graph.constant(1.0, name="one")))
    average = graph.op("Transpose", average, perm=[1, 2, 0])
    return (graph.reshape(average, (count, outputs, bins), (count, outputs, group, group)),)


def _regions(site: Site, graph: Graph) -> str:
    """Return bottom 1 as (R, 5): image, left, top, right, bottom."""
    return graph.reshape(site.inputs[1], site.shape(1), (four(site.shape(1))[0], 5))


def _masks(graph: Graph, regions: str, scale: float, group: int, sides: tuple[int, int]) -> tuple[str, str]:
    """Return which columns (g, R, W) and which rows (g, R, H) belong to each bin of each region, as 0 and 1."""
    begin, end = (_half_away(graph, graph.slice(regions, [1], [first], [first + 2])) for first in (1, 3))
    begin = graph.scaled(begin, scale)
    end = graph.scaled(graph.scaled(end, 1.0, 1.0), scale)
    length = graph.op("Max", graph.op("Sub", end, begin), graph.constant(0.1, name="least"))
    size = graph.op("Div", length, graph.constant(float(group), name="bins"))
    steps = np.arange(group, dtype=np.float32).reshape(group, 1, 1)
    lower, upper = (
        graph.op(rounding, graph.op("Add", graph.op("Mul", graph.constant(numbers, name="bin"), size), begin))
        for rounding, numbers in (("Floor", steps), ("Ceil", steps + 1))
    )  # (g, R, 2)
    found = []
    for axis, side in enumerate(sides):
        places = graph.constant(np.arange(side, dtype=np.float32), name="places")
        low, high = (graph.slice(bound, [2], [axis], [axis + 1]) for bound in (lower, upper))
        both = graph.op("And", graph.op("GreaterOrEqual", places, low), graph.op("Less", places, high))
        found.append(graph.cast(both, "float32"))
    return found[0], found[1]


def _half_away(graph: Graph, value: str) -> str:
    """Round as C does, halves away from zero; ONNX rounds them to even."""
    size = graph.op("Abs", value)
    whole = graph.op("Floor", size)
    is_up = graph.op("GreaterOrEqual", graph.op("Sub", size, whole), graph.constant(0.5, name="half"))
    return graph.op("Mul", graph.op("Sign", value), graph.op("Add", whole, graph.cast(is_up, "float32")))
