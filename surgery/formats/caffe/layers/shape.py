"""Layers that move, join, cut or repeat data and compute nothing."""

from __future__ import annotations

from itertools import pairwise

from surgery.formats.caffe.layers.base import (
    Setup,
    ShapeError,
    Shapes,
    axis_of,
    is_in_place,
    params,
    positive,
    size,
    text,
    unread,
)
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.text import Message


def reshape(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Reshape: axes `axis` to `axis + num_axes` give way to `shape`."""
    _refuse_in_place(layer)
    param, shape = params(layer, "reshape_param"), bottoms[0]
    axis, count = param.int("axis"), param.int("num_axes")
    start = axis if axis >= 0 else len(shape) + axis + 1  # -1 is behind the last axis.
    if not 0 <= start <= len(shape):
        raise ShapeError(f"axis {axis} is outside the input {text(shape)}, which has {len(shape)} axes")
    end = len(shape) if count == -1 else start + count
    if not start <= end <= len(shape):
        raise ShapeError(f"num_axes is {count}; expected -1 to {len(shape) - start} from axis {start} of {text(shape)}")
    middle = _filled_in(param.message("shape").ints("dim"), shape, start, end)
    top = (*shape[:start], *middle, *shape[end:])
    if size(top) != size(shape):
        raise ShapeError(
            f"the new shape {text(top)} has {size(top)} elements; the input {text(shape)} has {size(shape)}"
        )
    return Setup((top,), shares_memory=True)


def flatten(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Flatten: axes `axis` to `end_axis`, both included, become one."""
    _refuse_in_place(layer)
    param, shape = params(layer, "flatten_param"), bottoms[0]
    start, end = axis_of(shape, param.int("axis")), axis_of(shape, param.int("end_axis"), "end_axis") + 1
    if start > end:
        raise ShapeError(f"axis {start} is behind end_axis {end - 1}")
    return Setup(((*shape[:start], size(shape[start:end]), *shape[end:]),), shares_memory=True)


def permute(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of SSD's Permute; axes that `order` leaves out follow in their own order."""
    shape, order = bottoms[0], params(layer, "permute_param").ints("order")
    if len(set(order)) != len(order) or any(axis >= len(shape) for axis in order):
        raise ShapeError(f"order is {order}; expected different axes below {len(shape)}")
    full = [*order, *(axis for axis in range(len(shape)) if axis not in order)]
    return Setup((tuple(shape[axis] for axis in full),), shares_memory=full == sorted(full))


def concat(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Concat."""
    param = params(layer, "concat_param")
    foreign = unread(layer, param, "per_fla_fuse")  # Intel's, which permutes and flattens first.
    if foreign:
        return foreign
    axis = _axis(param, "concat_dim", bottoms[0])
    first = bottoms[0]
    for index, shape in enumerate(bottoms):
        if len(shape) != len(first) or _without(shape, axis) != _without(first, axis):
            raise ShapeError(
                f"bottom {index} is {text(shape)}, bottom 0 {text(first)}; they may differ in axis {axis} only"
            )
    total = sum(shape[axis] for shape in bottoms)
    return Setup(((*first[:axis], total, *first[axis + 1 :]),), shares_memory=len(bottoms) == 1)


def slice_(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Slice: cut at `slice_point`, or into equal parts."""
    param, shape, parts = params(layer, "slice_param"), bottoms[0], len(layer.tops)
    axis = _axis(param, "slice_dim", shape)
    points = param.ints("slice_point")
    if points and len(points) != parts - 1:
        raise ShapeError(f"{len(points)} slice_point for {parts} tops; expected {parts - 1}, or none for equal parts")
    if not points and shape[axis] % parts:
        raise ShapeError(f"axis {axis} of {text(shape)} does not divide into {parts} equal parts; give slice_point")
    if not points:
        points = [shape[axis] * part // parts for part in range(1, parts)]
    bounds = [0, *points, shape[axis]]
    widths = [end - start for start, end in pairwise(bounds)]
    if min(widths) <= 0:
        raise ShapeError(f"slice_point is {points}; expected increasing numbers between 0 and {shape[axis]}")
    tops = tuple((*shape[:axis], width, *shape[axis + 1 :]) for width in widths)
    return Setup(tops, shares_memory=parts == 1)


def split(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Split: every top is the bottom's own memory."""
    if bottoms and layer.bottoms[0] in layer.tops:
        raise ShapeError(f"a top has the bottom's name '{layer.bottoms[0]}'; Split does not work in place")
    return Setup((bottoms[0],) * len(layer.tops), shares_memory=True)


def silence(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a layer that only reads."""
    return Setup(())


def tile(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Tile."""
    param, shape = params(layer, "tile_param"), bottoms[0]
    axis, tiles = axis_of(shape, param.int("axis")), positive(param.int("tiles"), "tiles")
    return Setup(((*shape[:axis], shape[axis] * tiles, *shape[axis + 1 :]),))


def crop(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Crop: from `axis` on, bottom 0 is cut to the sizes of bottom 1."""
    param, (shape, model) = params(layer, "crop_param"), bottoms
    axis, offsets = axis_of(shape, param.int("axis")), param.ints("offset")
    cropped = len(shape) - axis
    if len(offsets) > 1 and len(offsets) != cropped:
        raise ShapeError(f"{len(offsets)} offsets; expected one, or one for each of the {cropped} axes from {axis} on")
    if len(model) < len(shape):
        raise ShapeError(f"bottom 1 is {text(model)}; expected the {len(shape)} axes of bottom 0, {text(shape)}")
    offsets = offsets if len(offsets) > 1 else (offsets or [0]) * cropped
    for index, offset in zip(range(axis, len(shape)), offsets, strict=True):
        if shape[index] - offset < model[index]:
            raise ShapeError(
                f"axis {index}: {model[index]} from offset {offset} on reach beyond the input {text(shape)}"
            )
    return Setup(((*shape[:axis], *model[axis : len(shape)]),))


def batch_reindex(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a BatchReindex: one item per index in bottom 1."""
    shape, indices = bottoms
    if len(indices) != 1 or not shape:
        raise ShapeError(
            f"bottom 1 is {text(indices)}, bottom 0 {text(shape)}; expected a vector of indices and a batch"
        )
    return Setup(((indices[0], *shape[1:]),))


def filter_(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Filter, whose batch is known only when it runs."""
    if len(layer.tops) != len(bottoms) - 1:
        raise ShapeError(f"{len(layer.tops)} tops; expected {len(bottoms) - 1}, one fewer than bottoms")
    selector = bottoms[-1]
    for shape in bottoms:
        if shape[:1] != selector[:1] or not shape or size(selector[1:]) != 1:
            raise ShapeError(f"a bottom is {text(shape)}, the selector {text(selector)}; expected one choice per item")
    return Setup((None,) * len(layer.tops), reason="how many items a Filter keeps depends on the data")


def _filled_in(dims: list[int], shape: Shape, start: int, end: int) -> Shape:
    """Return `dims` with 0 replaced by the input's size at that place and -1 by what is left."""
    out = []
    for index, dim in enumerate(dims, start):
        if dim == 0 and index >= len(shape):
            raise ShapeError(f"dim {index - start} is 0, but the input {text(shape)} has no axis {index} to copy")
        out.append(shape[index] if dim == 0 else dim)
    if dims.count(-1) > 1 or min(dims, default=0) < -1:
        raise ShapeError(f"shape is {dims}; expected sizes, 0 to copy, and at most one -1")
    if -1 in dims:
        rest = -size(tuple(out)) * size(shape[:start]) * size(shape[end:])
        if rest == 0 or size(shape) % rest:
            raise ShapeError(f"shape is {dims}: the {size(shape)} elements of {text(shape)} do not divide by {rest}")
        out[dims.index(-1)] = size(shape) // rest
    return tuple(out)


def _axis(param: Message, legacy: str, shape: Shape) -> int:
    """Return the axis, given as `axis` or under its old name."""
    if not param.has(legacy):
        return axis_of(shape, param.int("axis"))
    if param.has("axis"):
        raise ShapeError(f"both axis and {legacy} are given; expected one of the two")
    return axis_of(shape, param.int(legacy), legacy)


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + shape[axis + 1 :]


def _refuse_in_place(layer: Layer) -> None:
    if is_in_place(layer):
        raise ShapeError(f"top and bottom are both '{layer.tops[0]}'; {layer.type} does not work in place")
