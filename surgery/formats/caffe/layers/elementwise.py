"""Layers whose top has the shape of their bottom and that learn nothing."""

from __future__ import annotations

from surgery.formats.caffe.layers.base import (
    Setup,
    ShapeError,
    Shapes,
    axis_of,
    four,
    image,
    is_in_place,
    params,
    positive,
    same_shapes,
    size,
    text,
)
from surgery.formats.caffe.network import Layer


def same(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an activation."""
    return Setup((bottoms[0],))


def absval(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an AbsVal."""
    if is_in_place(layer):
        raise ShapeError(f"top and bottom are both '{layer.tops[0]}'; AbsVal does not work in place")
    return Setup((bottoms[0],))


def softmax(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Softmax; its buffer holds one maximum per vector."""
    shape = bottoms[0]
    axis = axis_of(shape, params(layer, "softmax_param").int("axis"))
    return Setup((shape,), scratch_floats=size(shape) // max(shape[axis], 1))


def eltwise(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an Eltwise: Caffe never broadcasts."""
    param = params(layer, "eltwise_param")
    coefficients, operation = len(param.named("coeff")), param.str("operation")
    if coefficients not in (0, len(bottoms)):
        raise ShapeError(f"{coefficients} coeff for {len(bottoms)} bottoms; expected one each or none")
    if coefficients and operation == "PROD":
        raise ShapeError("coeff is given with operation PROD; coefficients are for SUM")
    shape = same_shapes(bottoms)
    return Setup((shape,), scratch_floats=size(shape) if operation == "MAX" else 0)


def axpy(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of SENet's Axpy: bottoms a (N, C) or (N, C, 1, 1), x and y; a * x + y."""
    scale, shape = bottoms[0], same_shapes(bottoms[1:])
    if len(shape) < 2 or scale not in (shape[:2], (*shape[:2], 1, 1)):
        raise ShapeError(f"bottom 0 is {text(scale)}; expected one number per item and channel of {text(shape)}")
    return Setup((shape,))


def shuffle_channel(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a ShuffleChannel."""
    group, channels = params(layer, "shuffle_channel_param").int("group"), four(bottoms[0])[1]
    if group < 1 or channels % group:
        raise ShapeError(f"group {group} does not divide the {channels} input channels")
    return Setup((four(bottoms[0]),))


def pixel_shuffle(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a PixelShuffle: channels become rows and columns."""
    n, channels, height, width = image(bottoms[0])
    factor = positive(params(layer, "pixelshuffle_param").int("upscale_factor"), "upscale_factor")
    if channels % factor**2:
        raise ShapeError(f"{channels} input channels; expected a multiple of upscale_factor^2 = {factor**2}")
    return Setup(((n, channels // factor**2, height * factor, width * factor),))
