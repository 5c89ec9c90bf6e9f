"""Upsample, Interp and Pad: forks' layers that change height and width."""

from __future__ import annotations

from surgery.formats.caffe.layers.base import (
    Setup,
    ShapeError,
    Shapes,
    four,
    image,
    params,
    positive,
    same_shapes,
    text,
)
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.text import Message


def upsample(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an Upsample: SegNet's un-pooling with a mask as second bottom, else nearest neighbours."""
    param = params(layer, "upsample_param")
    if len(bottoms) == 1:
        *outer, h, w = image(bottoms[0])
        factor = param.float("scale")
        if not abs(factor) < 2**31:
            raise ShapeError(f"scale is {factor}; expected a number below 2^31")
        return Setup(((*outer, *_positive((int(h * factor), int(w * factor)))),))
    n, c, h, w = image(same_shapes(bottoms))
    return Setup(((n, c, *_positive(_unpooled(param, h, w))),))


def interp(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of DeepLab's and PSPNet's Interp."""
    param = params(layer, "interp_param")
    n, c, h, w = four(bottoms[0])
    if max(param.int("pad_beg"), param.int("pad_end")) > 0:
        raise ShapeError("pad_beg or pad_end is above 0; Interp only crops")
    inner = tuple(side + param.int("pad_beg") + param.int("pad_end") for side in (h, w))
    given = [name for name in ("shrink_factor", "zoom_factor", "height", "width") if param.has(name)]
    if len(bottoms) == 2:
        if given:
            raise ShapeError(f"{given[0]} and a second bottom are both given; expected one of the two")
        return Setup(((n, c, *four(bottoms[1])[2:]),))
    return Setup(((n, c, *_positive(_interpolated(param, given, _positive(inner)))),))


def pad(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Pad: rows and columns around the image, or, where all four are negative, taken off it."""
    param = params(layer, "pad_param")
    sides = [param.int(f"pad_{side}") for side in "udlr"]
    if min(sides) < 0 <= max(sides):
        raise ShapeError(f"pad_u, pad_d, pad_l, pad_r are {sides}; expected all negative or none")
    n, c, h, w = image(bottoms[0])
    if param.str("pad_type") == "REFLECT" and (max(sides[:2]) >= h or max(sides[2:]) >= w):
        raise ShapeError(f"pad_u, pad_d, pad_l, pad_r are {sides}; a reflection of {h}x{w} has less")
    return Setup(((n, c, *_positive((h + sides[0] + sides[1], w + sides[2] + sides[3]))),))


def _unpooled(param: Message, h: int, w: int) -> Shape:
    if param.has("upsample_h") and param.has("upsample_w"):
        return param.int("upsample_h"), param.int("upsample_w")
    if param.has("scale_h") != param.has("scale_w") or (param.has("scale") and param.has("scale_h")):
        raise ShapeError("expected upsample_h and upsample_w, or scale, or scale_h and scale_w")
    rows, columns = (param.int("scale_h"), param.int("scale_w")) if param.has("scale_h") else (param.int("scale"),) * 2
    if min(rows, columns) < 2:
        raise ShapeError(f"the scale is {rows} x {columns}; expected at least 2")
    # An odd input loses half a cell in pooling, which pad_out takes off again.
    return h * rows - param.bool("pad_out_h"), w * columns - param.bool("pad_out_w")


def _interpolated(param: Message, given: list[str], inner: Shape) -> Shape:
    """Return height and width; a lone factor goes before an explicit size, which goes before both factors."""
    shrink = positive(param.int("shrink_factor"), "shrink_factor")
    zoom = positive(param.int("zoom_factor"), "zoom_factor")
    has_shrink, has_zoom = "shrink_factor" in given, "zoom_factor" in given
    if has_shrink == has_zoom:
        if "height" in given and "width" in given:
            return param.int("height"), param.int("width")
        if not has_shrink:
            raise ShapeError("no size; expected shrink_factor, zoom_factor, or height and width")
    shrunk = [(side - 1) // shrink + 1 for side in inner]
    return tuple(side + (side - 1) * (zoom - 1) for side in shrunk)


def _positive(sides: Shape) -> Shape:
    if min(sides) <= 0:
        raise ShapeError(f"height and width would be {text(sides)}; expected at least 1")
    return sides
