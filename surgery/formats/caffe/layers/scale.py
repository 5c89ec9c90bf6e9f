"""Scale, Bias and PReLU: one learned number per channel, and the top is like the bottom."""

from __future__ import annotations

from surgery.formats.caffe.layers.base import Setup, ShapeError, Shapes, axis_of, is_in_place, params, size, text
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.text import Message


def scale(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Scale; its bias has the shape of the factor, learned or second bottom."""
    param = params(layer, "scale_param")
    operand = _operand(param, bottoms)
    learned = (operand,) if len(bottoms) == 1 else ()
    bias = (operand,) if param.bool("bias_term") else ()
    # In place, Caffe keeps a copy of its input for the gradient, in TEST phase too.
    return Setup((bottoms[0],), learned + bias, scratch_floats=size(bottoms[0]) if is_in_place(layer) else 0)


def bias(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Bias."""
    operand = _operand(params(layer, "bias_param"), bottoms)
    return Setup((bottoms[0],), (operand,) if len(bottoms) == 1 else ())


def prelu(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a PReLU."""
    shape = bottoms[0]
    if len(shape) < 2:
        raise ShapeError(f"the input {text(shape)} has no channel axis; expected at least 2 axes")
    shared = params(layer, "prelu_param").bool("channel_shared")
    # One item's worth of ones for the gradient, and in place a copy of the input.
    scratch = size(shape[1:]) + (size(shape) if is_in_place(layer) else 0)
    return Setup((shape,), ((() if shared else (shape[1],)),), scratch_floats=scratch)


def _operand(param: Message, bottoms: Shapes) -> Shape:
    """Return the shape of the factor or summand that is laid along the input from `axis` on."""
    shape = bottoms[0]
    if len(bottoms) > 1:
        operand = bottoms[1]
        axis = axis_of(shape, param.int("axis")) if operand else 0  # A scalar fits anywhere.
        if shape[axis : axis + len(operand)] != operand:
            raise ShapeError(f"bottom 1 is {text(operand)}; expected a part of {text(shape)} from axis {axis} on")
        return operand
    axis, count = axis_of(shape, param.int("axis")), param.int("num_axes")
    if count < -1 or axis + count > len(shape):
        raise ShapeError(f"num_axes is {count}; expected -1 to {len(shape) - axis} from axis {axis} of {text(shape)}")
    return shape[axis:] if count == -1 else shape[axis : axis + count]
