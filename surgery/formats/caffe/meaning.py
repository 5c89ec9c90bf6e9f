"""What a Caffe layer computes: `Conv2d` or `Linear` with its weights, or the reason why it is neither."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgery.formats.caffe.network import Layer, Shape

if TYPE_CHECKING:
    from surgery.ops import FloatArray, Op

CUTTABLE_TYPES = ("Convolution", "InnerProduct")
DEPTHWISE_TYPES = ("DepthwiseConvolution", "ConvolutionDepthwise", "CuDNNGroupedConvolutionForward")


def refusal(layer: Layer) -> str | None:
    """Return why a layer cannot be cut whatever its weights are, or None."""
    if layer.type not in CUTTABLE_TYPES:
        if layer.type in DEPTHWISE_TYPES:
            return "a fork's type; stock Caffe writes it as a Convolution with `group`"
        return "not a convolution or fully connected layer"
    if layer.message.has("blobs"):
        return "its weights stand in the prototxt itself (`blobs`)"
    if set(layer.tops) & set(layer.bottoms):
        return "its top overwrites its bottom"
    if not layer.bottoms or len(layer.bottoms) != len(layer.tops):
        return f"has {len(layer.bottoms)} bottoms and {len(layer.tops)} tops; Caffe wants as many of each"
    if layer.type == "Convolution" and layer.message.message("convolution_param").int("axis") not in (1, -3):
        return "its channels are not axis 1"
    return None


def as_op(layer: Layer, arrays: Sequence[FloatArray]) -> Op | str:
    """Return the operation of a layer that `refusal` lets pass, its weight a view of `arrays`, or why there is none."""
    try:
        return _op(layer, arrays)
    except ValueError as error:  # Caffe would refuse it as well: a stride of 0, groups that do not divide.
        return str(error)


def _op(layer: Layer, arrays: Sequence[FloatArray]) -> Op | str:
    from surgery.ops import Conv2d, Linear

    has_bias = len(arrays) > 1
    bias = arrays[1].reshape(-1) if has_bias else None
    weight = arrays[0]
    if layer.type == "InnerProduct":
        param = layer.message.message("inner_product_param")
        matrix = weight.reshape(weight.shape[-2:])
        return Linear(matrix.T if param.bool("transpose") else matrix, bias)
    if weight.ndim != 4:
        return f"a convolution over {weight.ndim - 2} spatial axes, not 2"
    param = layer.message.message("convolution_param")
    stride, padding = spatial(layer, "stride", 1), spatial(layer, "pad", 0)
    return Conv2d(weight, bias, stride, padding, spatial(layer, "dilation", 1), param.int("group"))


def spatial(layer: Layer, field: str, default: int) -> tuple[int, int]:
    """Return a convolution's (height, width) value of kernel_size, stride, pad or dilation."""
    param = layer.message.message("convolution_param")
    short = {"kernel_size": "kernel"}.get(field, field)
    if field != "dilation" and (param.has(f"{short}_h") or param.has(f"{short}_w")):
        return param.int(f"{short}_h"), param.int(f"{short}_w")
    values = param.ints(field) or [default]
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def stated_shapes(layer: Layer, stored: Sequence[Shape]) -> list[tuple[int | None, ...]] | None:
    """Return what the prototxt alone says of a layer's blob shapes, None for an axis that the input decides.

    `stored` shapes give the number of axes. None where nothing can be said.
    """
    if layer.type == "InnerProduct":
        param = layer.message.message("inner_product_param")
        outputs = param.int("num_output")
        weight: tuple[int | None, ...] = (None, outputs) if param.bool("transpose") else (outputs, None)
    elif layer.type == "Convolution":
        param = layer.message.message("convolution_param")
        outputs = param.int("num_output")
        if not stored or len(stored[0]) != 4:
            return None
        weight = (outputs, None, *spatial(layer, "kernel_size", 0))
    else:
        return None
    return [weight, (outputs,)] if param.bool("bias_term") else [weight]


def fits(stored: Shape, expected: Sequence[int | None], *, legacy: bool) -> bool:
    """Return whether Caffe would load a blob of shape `stored` into one of shape `expected` (Blob::ShapeEquals).

    A legacy shape is compared from its last axis; any other must be equal, the number of axes included.
    """
    wanted = tuple(expected)
    if legacy:
        if len(wanted) > 4:
            return False
        wanted = (1,) * (4 - len(wanted)) + wanted
    pairs = zip(stored, wanted, strict=False)
    return len(stored) == len(wanted) and all(want in (None, have) for have, want in pairs)


def count(shapes: Sequence[Shape]) -> int:
    """Return the number of elements in all the shapes together."""
    return sum(math.prod(shape) for shape in shapes)
