"""Layers that move, join, cut or repeat data and compute nothing."""

from __future__ import annotations

from surgery.convert.to_onnx.graph import Graph
from surgery.convert.to_onnx.site import Site
from surgery.formats.caffe.text import Message


def concat(site: Site, graph: Graph) -> tuple[str, ...]:
    """Join all bottoms along one axis."""
    site.refuse_foreign("concat_param", "per_fla_fuse")
    if len(site.inputs) == 1:
        return site.inputs
    axis = _axis(site.param("concat_param"), "concat_dim")
    return (graph.op("Concat", *site.inputs, axis=axis),)


def slice_(site: Site, graph: Graph) -> tuple[str, ...]:
    """Cut along one axis, at the points given or into equal parts."""
    if len(site.layer.tops) == 1:
        return site.inputs
    axis = _axis(site.param("slice_param"), "slice_dim")
    return graph.split(site.inputs[0], axis, [site.top(i)[axis] for i in range(len(site.layer.tops))])


def split(site: Site, graph: Graph) -> tuple[str, ...]:
    """The bottom itself, as often as there are tops."""
    return site.inputs[:1] * len(site.layer.tops)


def reshape(site: Site, graph: Graph) -> tuple[str, ...]:
    """Reshape and Flatten: the same numbers in another shape."""
    return (graph.reshape(site.inputs[0], site.shape(), site.top()),)


def tile(site: Site, graph: Graph) -> tuple[str, ...]:
    """Repeat along one axis."""
    param, rank = site.param("tile_param"), len(site.shape())
    axis, tiles = param.int("axis") % rank, param.int("tiles")
    if tiles == 1:
        return site.inputs
    return (graph.op("Tile", site.inputs[0], graph.integers([tiles if i == axis else 1 for i in range(rank)])),)


def batch_reindex(site: Site, graph: Graph) -> tuple[str, ...]:
    """Gather the items that bottom 1 lists, in its order."""
    return (graph.op("Gather", site.inputs[0], graph.cast(site.inputs[1], "int64"), axis=0),)


def filter_(site: Site, graph: Graph) -> tuple[str, ...]:
    """Keep the items of every bottom for which the last one is not 0."""
    *values, selector = site.inputs
    shape = site.shape(len(values))
    chosen = graph.cast(graph.reshape(selector, shape, shape[:1]), "bool")
    return tuple(graph.op("Compress", value, chosen, axis=0) for value in values)


def _axis(param: Message, legacy: str) -> int:
    """Return the axis, which may count from the end, given as `axis` or under its old name."""
    return param.int(legacy if param.has(legacy) else "axis")
