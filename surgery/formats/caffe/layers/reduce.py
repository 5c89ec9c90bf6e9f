"""Reduction and ArgMax."""

from __future__ import annotations

from surgery.formats.caffe.layers.base import Setup, ShapeError, Shapes, axis_of, params, size, text
from surgery.formats.caffe.network import Layer


def reduction(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Reduction over all axes from `axis` on; by default over everything, to a scalar."""
    axis = axis_of(bottoms[0], params(layer, "reduction_param").int("axis"))
    return Setup((bottoms[0][:axis],))


def argmax(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an ArgMax."""
    param, shape = params(layer, "argmax_param"), bottoms[0]
    count = param.int("top_k")
    axis = axis_of(shape, param.int("axis")) if param.has("axis") else None
    if not shape:
        raise ShapeError("the input is a scalar; expected at least 1 axis")
    candidates = size(shape[1:]) if axis is None else shape[axis]
    if not 1 <= count <= candidates:
        raise ShapeError(f"top_k is {count}; expected 1 to {candidates} for the input {text(shape)}")
    if axis is not None:
        return Setup(((*shape[:axis], count, *shape[axis + 1 :]),))
    # Without an axis an item is one vector: (N, 1, k), or (N, 2, k) with its values, filled up to the input's axes.
    rows = 2 if param.bool("out_max_val") else 1
    return Setup(((shape[0], rows, count, *(1,) * (len(shape) - 3)),))
