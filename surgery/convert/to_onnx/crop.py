"""Crop: a part of the input, of another blob's size."""

from __future__ import annotations

from surgery.convert.to_onnx.graph import Graph
from surgery.convert.to_onnx.site import InexpressibleError, Site
from surgery.formats.caffe.layers.base import axis_of


def crop(site: Site, graph: Graph) -> tuple[str, ...]:
    """Slice the axes that get smaller; no operator where none does."""
    param, shape, top = site.param("crop_param"), site.shape(), site.top()
    first = axis_of(shape, param.int("axis"))
    offsets = param.ints("offset") or [0]
    if len(offsets) == 1:
        offsets *= len(shape) - first
    cut = [
        (axis, offset, offset + top[axis])
        for axis, offset in zip(range(first, len(shape)), offsets, strict=True)
        if top[axis] != shape[axis]
    ]
    if not cut:
        return (site.inputs[0],)
    if site.is_in_place:
        raise InexpressibleError("in place it overwrites what it still has to read; give its top a name of its own")
    axes, starts, ends = zip(*cut, strict=True)
    return (graph.slice(site.inputs[0], axes, starts, ends),)
