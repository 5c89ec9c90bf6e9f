"""Convolution, Deconvolution, Im2col and the forks' depthwise convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from surgery.formats.caffe.layers.base import Setup, ShapeError, Shapes, axis_of, params, positive, same_shapes, text
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.text import Message


@dataclass(frozen=True)
class Window:
    """A sliding window, one entry per spatial axis, H before W."""

    kernel: Shape
    stride: Shape
    pad: Shape
    dilation: Shape

    @property
    def is_pointwise(self) -> bool:
        """True when the window visits each position alone, so that im2col would copy the input."""
        return all(k == 1 and s == 1 and p == 0 for k, s, p in zip(self.kernel, self.stride, self.pad, strict=True))

    @property
    def extent(self) -> Shape:
        """Input positions from the window's first to its last tap."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))


def window(param: Message, axes: int) -> Window:
    """Return the window of a `convolution_param` over `axes` spatial axes."""
    kernel = _pair(param, "kernel_h", "kernel_w", "kernel_size", axes) or _repeated(param, "kernel_size", axes)
    stride = _pair(param, "stride_h", "stride_w", "stride", axes) or _repeated(param, "stride", axes, default=1)
    pad = _pair(param, "pad_h", "pad_w", "pad", axes) or _repeated(param, "pad", axes, default=0)
    for field, values in (("kernel", kernel), ("stride", stride)):
        if 0 in values:
            # A lone kernel_h or stride_h leaves its partner at 0.
            raise ShapeError(f"the {field} is {text(values)}; expected at least 1 on every axis")
    return Window(kernel, stride, pad, _repeated(param, "dilation", axes, default=1))


def convolution(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Convolution; weights are (num_output, channels / group, kernel...)."""
    param, axis, channels, outputs = _channels(layer, bottoms)
    group = _group(param, channels, outputs)
    return _forward(layer, bottoms, param, axis, group, outputs, keeps_columns=True)


def depthwise_base(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a DepthwiseConvolution: one group per channel, whatever `group` says.

    Its CPU path loops over the image and has no columns.
    """
    param, axis, channels, outputs = _channels(layer, bottoms)
    if outputs % channels:
        raise ShapeError(f"num_output is {outputs}; expected a multiple of the {channels} input channels")
    return _forward(layer, bottoms, param, axis, channels, outputs, keeps_columns=False)


def depthwise_own(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a ConvolutionDepthwise, which makes as many channels as it reads."""
    param = params(layer, "convolution_param")
    axis = axis_of(bottoms[0], 1)
    channels = bottoms[0][axis]
    outputs = param.int("num_output") or channels  # The layer itself never reads num_output.
    if outputs != channels:
        raise ShapeError(f"num_output is {outputs}; expected {channels}, the number of input channels")
    return _forward(layer, bottoms, param, axis, channels, outputs, keeps_columns=False)


def deconvolution(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Deconvolution; weights are (channels, num_output / group, kernel...)."""
    param, axis, channels, outputs = _channels(layer, bottoms)
    group = _group(param, channels, outputs)
    shape = bottoms[0]
    slide = window(param, len(shape) - axis - 1)
    spatial = tuple(
        s * (i - 1) + e - 2 * p
        for i, s, e, p in zip(shape[axis + 1 :], slide.stride, slide.extent, slide.pad, strict=True)
    )
    _check_output(spatial, shape[axis + 1 :], slide)
    weight = (channels, outputs // group, *slide.kernel)
    taps = outputs * prod(slide.kernel)
    return Setup(
        tops=((*shape[:axis], outputs, *spatial),) * len(layer.tops),
        blobs=_with_bias(param, weight, outputs),
        macs=len(bottoms) * prod(shape) * (outputs // group) * prod(slide.kernel),
        column_floats=0 if slide.is_pointwise else taps * prod(shape[axis + 1 :]),
    )


def im2col(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an Im2col: one channel per channel and tap."""
    param, shape = params(layer, "convolution_param"), bottoms[0]
    axis = axis_of(shape, param.int("axis"))
    if axis + 1 == len(shape):
        raise ShapeError(f"the input {text(shape)} has no axis behind axis {axis}; expected a spatial one")
    slide = window(param, len(shape) - axis - 1)
    spatial = _slid(shape[axis + 1 :], slide)
    return Setup(((*shape[:axis], shape[axis] * prod(slide.kernel), *spatial),))


def _forward(
    layer: Layer, bottoms: Shapes, param: Message, axis: int, group: int, outputs: int, *, keeps_columns: bool
) -> Setup:
    shape = bottoms[0]
    slide = window(param, len(shape) - axis - 1)
    spatial = _slid(shape[axis + 1 :], slide)
    top = (*shape[:axis], outputs, *spatial)
    weight = (outputs, shape[axis] // group, *slide.kernel)
    # Caffe gathers all channels before it splits them into groups, so a group does not shrink the columns.
    columns = shape[axis] * prod(slide.kernel) * prod(spatial)
    return Setup(
        tops=(top,) * len(layer.tops),
        blobs=_with_bias(param, weight, outputs),
        macs=len(bottoms) * prod(top) * prod(weight[1:]),
        column_floats=columns if keeps_columns and not slide.is_pointwise else 0,
    )


def _channels(layer: Layer, bottoms: Shapes) -> tuple[Message, int, int, int]:
    """Return the parameters, the channel axis, the channels there and num_output."""
    shape = same_shapes(bottoms)
    if len(bottoms) != len(layer.tops):
        raise ShapeError(f"{len(bottoms)} bottoms but {len(layer.tops)} tops; expected one top per bottom")
    param = params(layer, "convolution_param")
    axis = axis_of(shape, param.int("axis"))
    return param, axis, positive(shape[axis], "the number of channels"), positive(param.int("num_output"), "num_output")


def _group(param: Message, channels: int, outputs: int) -> int:
    group = positive(param.int("group"), "group")
    if channels % group or outputs % group:
        raise ShapeError(
            f"group is {group}; expected a divisor of {channels}, the input channels, and of {outputs}, num_output"
        )
    return group


def _with_bias(param: Message, weight: Shape, outputs: int) -> Shapes:
    return (weight, (outputs,)) if param.bool("bias_term") else (weight,)


def _slid(sizes: Shape, slide: Window) -> Shape:
    """Return how many positions the window takes on each axis."""
    # C++ divides towards zero: an input shorter than the window by less than a stride still gives one position.
    spatial = tuple(
        int((i + 2 * p - e) / s) + 1 for i, p, e, s in zip(sizes, slide.pad, slide.extent, slide.stride, strict=True)
    )
    _check_output(spatial, sizes, slide)
    return spatial


def _check_output(spatial: Shape, sizes: Shape, slide: Window) -> None:
    if any(count <= 0 for count in spatial):
        raise ShapeError(
            f"the output would be {text(spatial)}: the input is {text(sizes)}, padded by {text(slide.pad)}, "
            f"the kernel spans {text(slide.extent)}"
        )


def _pair(param: Message, height: str, width: str, both: str, axes: int) -> Shape | None:
    """Return the two values of `kernel_h`, `kernel_w` and their like, None when neither is set."""
    if not (param.has(height) or param.has(width)):
        return None
    if axes != 2:
        raise ShapeError(f"{height} and {width} are for 2 spatial axes, the input has {axes}; use {both}")
    if param.has(both):
        raise ShapeError(f"both {both} and {height}/{width} are given; expected one of the two")
    return param.int(height), param.int(width)


def _repeated(param: Message, name: str, axes: int, default: int | None = None) -> Shape:
    """Return the values of a field that is given once for all axes or once per axis."""
    values = param.ints(name)
    if not values and default is not None:
        return (default,) * axes
    if len(values) == 1:
        return (values[0],) * axes
    if len(values) != axes:
        found = f"{len(values)} times" if values else "not at all"
        raise ShapeError(f"{name} is given {found}; expected once, or once per spatial axis ({axes})")
    return tuple(values)
