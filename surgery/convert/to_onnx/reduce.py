"""Reduction and ArgMax."""

from __future__ import annotations

from typing import Literal

from surgery.convert.to_onnx.graph import Graph
from surgery.convert.to_onnx.site import Site
from surgery.formats.caffe.network import Shape

_REDUCTIONS = {"SUM": "ReduceSum", "ASUM": "ReduceL1", "SUMSQ": "ReduceSumSquare", "MEAN": "ReduceMean"}


def reduction(site: Site, graph: Graph) -> tuple[str, ...]:
    """Reduce all axes from `axis` on, times `coeff`."""
    param, rank = site.param("reduction_param"), len(site.shape())
    axes = range(param.int("axis") % rank, rank)
    value = graph.reduce(_REDUCTIONS[param.str("operation")], site.inputs[0], axes, keepdims=False)
    return (graph.scaled(value, param.float("coeff")),)


def argmax(site: Site, graph: Graph) -> tuple[str, ...]:
    """Places, values or both of the `top_k` largest numbers, of equal ones the last first."""
    site.refuse_foreign("argmax_param", "softmax_threshold")
    param, shape = site.param("argmax_param"), site.shape()
    count, wants_values = param.int("top_k"), param.bool("out_max_val")
    if param.has("axis"):
        axis = param.int("axis") % len(shape)
        return _largest(graph, site.inputs[0], shape, axis, count, wants="values" if wants_values else "places")
    # Without an axis an item is one vector, and the values stand below the places.
    vectors, flat = graph.flatten(site.inputs[0], shape, 1)
    rows = _largest(graph, vectors, flat, 1, count, wants="both" if wants_values else "places")
    joined = graph.op("Concat", *rows, axis=1) if wants_values else rows[0]
    return (graph.reshape(joined, (shape[0], count * len(rows)), site.top()),)


def _largest(
    graph: Graph, value: str, shape: Shape, axis: int, count: int, *, wants: Literal["places", "values", "both"]
) -> tuple[str, ...]:
    """Return places (as floats), values or both of the `count` largest numbers along `axis`."""
    if count == 1:
        last = {"axis": axis, "keepdims": 1, "select_last_index": 1}
        places = () if wants == "values" else (graph.cast(graph.op("ArgMax", value, **last), "float32"),)
        return places if wants == "places" else (*places, graph.reduce("ReduceMax", value, [axis], keepdims=True))
    size = graph.fixed(shape[axis])
    sizes = graph.integers([count])
    if wants == "values":
        return graph.ops("TopK", (value, sizes), 2, axis=axis)[:1]
    # TopK gives the first of equal numbers first, so it gets them in reverse.
    bounds = (graph.integers([numbers]) for numbers in (-1, -size - 1, axis, -1))
    values, mirrored = graph.ops("TopK", (graph.op("Slice", value, *bounds), sizes), 2, axis=axis)
    place = graph.cast(graph.op("Sub", graph.constant(size - 1, "int64", name="last"), mirrored), "float32")
    return (place,) if wants == "places" else (place, values)
