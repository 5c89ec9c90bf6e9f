"""Upsample and Interp: forks' layers that change height and width."""

from __future__ import annotations

import numpy as np

from surgery.convert.to_onnx.graph import Graph
from surgery.convert.to_onnx.site import InexpressibleError, Site
from surgery.formats.caffe.layers.base import four
from surgery.model import Shape


def interp(site: Site, graph: Graph) -> tuple[str, ...]:
    """Crop by pad_beg and pad_end, then interpolate between corners that stay corners."""
    param, shape = site.param("interp_param"), four(site.shape())
    begin, end = -param.int("pad_beg"), param.int("pad_end")
    value = graph.reshape(site.inputs[0], site.shape(), shape)
    inner = (*shape[:2], shape[2] - begin + end, shape[3] - begin + end)
    if begin or end:
        value = graph.slice(value, [2, 3], [begin, begin], [shape[2] + end, shape[3] + end])
    if inner == site.top():
        return (value,)
    return (_resized(graph, value, inner, site.top(), mode="linear", transformation="align_corners"),)


def upsample(site: Site, graph: Graph) -> tuple[str, ...]:
    """SegNet's un-pooling by a mask, or each pixel repeated."""
    if len(site.inputs) == 2:
        return (_unpooled(site, graph),)
    param = site.param("upsample_param")
    factor = param.float("scale")
    if not param.has("scale") or param.has("dims_num"):
        raise InexpressibleError("forks differ in its default scale and in dims_num; expected a scale and nothing else")
    if factor != int(factor):
        raise InexpressibleError(f"scale {factor:g} is not whole, and how its fork rounds positions is not known")
    return (_resized(graph, site.inputs[0], site.shape(), site.top(), mode="nearest", transformation="asymmetric"),)


def _unpooled(site: Site, graph: Graph) -> str:
    """Zeros, but each number at the place in its plane that the mask gives."""
    n, c, h, w = site.shape()
    rows, columns = site.top()[2:]
    flat: Shape = (n, c, h * w)
    value, mask = (graph.reshape(name, site.shape(), flat) for name in site.inputs)
    if graph.depends([n]):
        batch = graph.op("Slice", graph.op("Shape", value), graph.integers([0]), graph.integers([1]))
        sizes = graph.op("Concat", batch, graph.integers([c, rows * columns]), axis=0)
    else:
        sizes = graph.integers([n, c, rows * columns])
    # Whichever of several equal places comes last is kept, as in Caffe.
    spread = graph.op("ScatterElements", graph.op("ConstantOfShape", sizes), graph.cast(mask, "int64"), value, axis=2)
    return graph.reshape(spread, (n, c, rows * columns), site.top())


def _resized(graph: Graph, value: str, old: Shape, new: Shape, *, mode: str, transformation: str) -> str:
    """Add a Resize from shape `old` to `new`, equal but for height and width."""
    nearest = "floor" if mode == "nearest" else None
    style = {"mode": mode, "coordinate_transformation_mode": transformation, "nearest_mode": nearest}
    if not graph.depends(new):
        return graph.op("Resize", value, "", "", graph.integers(new), **style)
    scales = [1.0, 1.0, *(_ratio(*sides) for sides in zip(old[2:], new[2:], strict=True))]
    return graph.op("Resize", value, "", graph.constant(scales, name="scales"), **style)


def _ratio(old: int, new: int) -> float:
    """Return new / old in single precision, rounded up, so that `old` times it, rounded down, is `new`."""
    ratio = np.float32(new / old)
    if old * float(ratio) < new:
        ratio = np.nextafter(ratio, np.float32(np.inf))
    return float(ratio)
