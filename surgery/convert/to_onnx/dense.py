"""InnerProduct and Embed: layers with one full matrix."""

from __future__ import annotations

from math import prod

from surgery.convert.to_onnx.graph import Graph
from surgery.convert.to_onnx.site import InexpressibleError, Site
from surgery.formats.caffe.layers.base import axis_of


def inner_product(site: Site, graph: Graph) -> tuple[str, ...]:
    """Gemm over the axes from `axis` on, the ones before it made one."""
    if site.is_in_place:
        raise InexpressibleError("in place it overwrites what it still has to read; give its top a name of its own")
    param, shape, top = site.param("inner_product_param"), site.shape(), site.top()
    axis = axis_of(shape, param.int("axis"))
    rows = prod(shape[:axis])
    value = graph.reshape(site.inputs[0], shape, (rows, prod(shape[axis:])))
    operands = [graph.weight(blob, role) for blob, role in zip(site.blobs, ("weight", "bias"), strict=False)]
    value = graph.op("Gemm", value, *operands, transB=int(not param.bool("transpose")))
    return (graph.reshape(value, (rows, top[-1]), top),)


def embed(site: Site, graph: Graph) -> tuple[str, ...]:
    """Gather rows of the weights by the input's numbers, cut to integers as Caffe does."""
    indices = graph.cast(site.inputs[0], "int64")
    value = graph.op("Gather", graph.weight(site.blobs[0], "weight"), indices, axis=0)
    if len(site.blobs) > 1:
        value = graph.op("Add", value, graph.weight(site.blobs[1], "bias"))
    return (value,)
