"""Pooling and SPP: windows that Caffe counts by rounding up."""

from __future__ import annotations

from surgery.formats.caffe.layers.base import Setup, ShapeError, Shapes, image, params, positive, size, text, unread
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.schema import Kind
from surgery.formats.caffe.text import Message, read_scalar

BOOL = Kind(number=0, repeated=False, type="bool", default=None)


def pooling(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Pooling; a second top, of MAX only, is the mask."""
    param = params(layer, "pooling_param")
    unknown = foreign(layer, param)
    if unknown:
        return unknown
    n, c, h, w = image(bottoms[0])
    method = param.str("pool")
    if len(layer.tops) > 1 and method != "MAX":
        raise ShapeError(f"2 tops with pool {method}; only MAX has a second top, its mask")
    kernel, stride, pad = window(param, (h, w))
    if pad != (0, 0) and method not in ("AVE", "MAX"):
        raise ShapeError(f"pad is {text(pad)} with pool {method}; padding is for MAX and AVE only")
    top = (n, c, *pooled((h, w), kernel, stride, pad, rounds_up=_rounds_up(param)))
    # Without a mask top, MAX keeps its arg-max in a buffer of the same size.
    return Setup((top,) * len(layer.tops), scratch_floats=size(top) if method == "MAX" and len(layer.tops) == 1 else 0)


def spp(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an SPP: level l pools to at most 2^l x 2^l bins, joined along the channels."""
    n, c, h, w = image(bottoms[0])
    height = positive(params(layer, "spp_param").int("pyramid_height"), "pyramid_height")
    windows = [pyramid_window((h, w), 2**level) for level in range(height)]
    levels = [pooled((h, w), kernel, kernel, pad) for kernel, pad in windows]
    if height == 1:
        return Setup(((n, c, *levels[0]),))  # A single level is not flattened.
    return Setup(((n, sum(c * rows * columns for rows, columns in levels)),))


def foreign(layer: Layer, param: Message) -> Setup | None:
    """Return a setup without shapes where a fork's field says what to do, else None."""
    return unread(layer, param, "dilation", "kernel_depth", "kernel_size_3d")


def _rounds_up(param: Message) -> bool:
    if param.has("ceil_mode"):  # A fork's field, unknown to the schema.
        field = param.named("ceil_mode")[-1]
        return bool(read_scalar(param.document, field, BOOL))
    return param.str("round_mode") != "FLOOR"


def window(param: Message, sizes: Shape) -> tuple[Shape, Shape, Shape]:
    """Return kernel, stride and pad as (H, W) pairs."""
    stride = _pair(param, "stride_h", "stride_w", "stride")
    pad = _pair(param, "pad_h", "pad_w", "pad")
    if param.bool("global_pooling"):
        given = [name for name in ("kernel_size", "kernel_h", "kernel_w") if param.has(name)]
        if given:
            raise ShapeError(f"global_pooling and {given[0]} are both given; expected one of the two")
        if stride != (1, 1) or pad != (0, 0):
            raise ShapeError(f"stride {text(stride)}, pad {text(pad)}; global_pooling wants stride 1 and pad 0")
        return sizes, stride, pad
    if not (param.has("kernel_size") or param.has("kernel_h") or param.has("kernel_w")):
        raise ShapeError("no kernel; expected kernel_size, kernel_h and kernel_w, or global_pooling")
    kernel = _pair(param, "kernel_h", "kernel_w", "kernel_size")
    for field, values in (("kernel", kernel), ("stride", stride)):
        if 0 in values:
            raise ShapeError(f"the {field} is {text(values)}; expected at least 1 on every axis")
    if pad != (0, 0) and any(p >= k for p, k in zip(pad, kernel, strict=True)):
        raise ShapeError(f"pad {text(pad)} with kernel {text(kernel)}; expected a pad smaller than the kernel")
    return kernel, stride, pad


def _pair(param: Message, height: str, width: str, both: str) -> Shape:
    if not (param.has(height) or param.has(width)):
        return (param.int(both),) * 2
    if not (param.has(height) and param.has(width)):
        raise ShapeError(f"only one of {height} and {width} is given; expected both, or {both}")
    if param.has(both):
        raise ShapeError(f"both {both} and {height}/{width} are given; expected one of the two")
    return param.int(height), param.int(width)


def pooled(sizes: Shape, kernel: Shape, stride: Shape, pad: Shape, *, rounds_up: bool = True) -> Shape:
    """Return how many windows Caffe places on each axis."""
    counts = []
    for i, k, s, p in zip(sizes, kernel, stride, pad, strict=True):
        span = i + 2 * p - k
        count = (-(-span // s) if rounds_up else span // s) + 1
        # With any padding, a last window that starts beyond the image and its front padding is dropped.
        if any(pad) and (count - 1) * s >= i + p:
            count -= 1
        counts.append(count)
    if any(count <= 0 for count in counts):
        raise ShapeError(
            f"the output would be {text(tuple(counts))}: the input is {text(sizes)}, padded by {text(pad)}, "
            f"the kernel is {text(kernel)}"
        )
    return tuple(counts)


def pyramid_window(sizes: Shape, bins: int) -> tuple[Shape, Shape]:
    """Return kernel, which is the stride too, and pad of the SPP level with so many bins on each axis."""
    kernel = tuple(-(-i // bins) for i in sizes)
    pad = tuple((k * bins - i + 1) // 2 for i, k in zip(sizes, kernel, strict=True))
    if any(p >= k for p, k in zip(pad, kernel, strict=True)) and any(pad):
        raise ShapeError(
            f"{bins} bins over an input of {text(sizes)} need pad {text(pad)} with kernel {text(kernel)}; "
            "Caffe wants a pad smaller than the kernel: choose a smaller pyramid_height"
        )
    return kernel, pad
