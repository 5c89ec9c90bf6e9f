"""MaxPool, AveragePool and global pooling as Pooling, whose windows are counted by other rules.

Caffe pads both ends of an axis alike, rounds the number of windows up, and drops a last one that starts in the
padding; an average divides by what of the window lies in the padded image. Windows that Caffe has in front or at the
end are cut off; where averages divide by another number, a Scale puts that right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from surgery.convert.to_caffe.call import Call
from surgery.convert.to_caffe.convolution import geometry, stated_padding, window
from surgery.convert.to_caffe.layers import Builder, Param
from surgery.convert.to_caffe.values import Array, InexpressibleError, Operand, Padded, Shape, Value, reshaped

MAX_KERNEL = 1 << 16
MAX_WINDOWS = 1 << 24  # of a plane, whose averages are put right one by one
_LOWEST = -3.4e38  # a number that cannot win


@dataclass(frozen=True)
class _Axis:
    """One spatial axis and ONNX's `count` windows on it.

    `begin` and `end` are all the padding; `front` and `back` of it came from a Pad and belong to the image.
    """

    size: int
    kernel: int
    stride: int
    begin: int
    end: int
    front: int
    back: int
    count: int


@dataclass(frozen=True)
class _Fit:
    """How Caffe covers an axis: its padding, the windows it makes, and how many in front are too many."""

    pad: int
    made: int
    skipped: int


def max_pool(call: Call, out: Builder) -> list[Operand]:
    """Lower a MaxPool. A pool's own padding never wins, nor do zeros that a Pad puts around numbers from 0 up."""
    if call.used.intersection(call.node.outputs[1:]):
        raise InexpressibleError("its indices are used; Caffe counts them within each plane")
    if call.integer("storage_order", 0):
        raise InexpressibleError("its storage_order is 1; only 0 is expressible")
    operand = call.operand(0)
    is_harmless = isinstance(operand, Padded) and (
        operand.fill <= _LOWEST or (operand.fill == 0 and out.is_positive(operand.value))
    )
    return [_pool(call, out, "MAX", folds=is_harmless)]


def average_pool(call: Call, out: Builder) -> list[Operand]:
    """Lower an AveragePool; zeros that a Pad adds are part of the image that it averages over."""
    operand = call.operand(0)
    return [_pool(call, out, "AVE", folds=isinstance(operand, Padded) and operand.fill == 0)]


def _pool(call: Call, out: Builder, mode: str, *, folds: bool) -> Value:
    """Pool, with the padding of a Pad before it as the pool's own where it `folds` and Caffe can pad as far."""
    operand = call.operand(0)
    if folds and isinstance(operand, Padded) and not any((*operand.begin[:2], *operand.end[:2])):
        try:
            return _pooled(call, out, operand.value, (operand.begin[2:], operand.end[2:]), mode)
        except InexpressibleError:
            out.restart()
    value = out.value(operand)
    nothing = (0,) * max(0, len(value.shape) - 2)
    return _pooled(call, out, value, (nothing, nothing), mode)


def global_pool(call: Call, out: Builder) -> list[Operand]:
    """Lower GlobalAveragePool or GlobalMaxPool of any rank."""
    value = out.plain(call.operand(0))
    if len(value.shape) < 3:
        raise InexpressibleError(f"its input {value.shape} has no spatial axes")
    mode = "AVE" if call.type == "GlobalAveragePool" else "MAX"
    return [whole_pool(out, value, mode)]


def whole_pool(out: Builder, value: Value, mode: str) -> Value:
    """Pool a plain value of three axes or more over all but the first two, which stay as axes of one."""
    batch, channels, *sizes = value.shape
    image = value if len(sizes) == 2 else out.view(value, (batch, channels, 1, math.prod(sizes)))
    made = out.add("Pooling", [image], (batch, channels, 1, 1), {"pool": mode, "global_pooling": True})
    return reshaped(made, (batch, channels, *([1] * len(sizes))))


def _pooled(call: Call, out: Builder, value: Value, padded: tuple[Shape, Shape], mode: str) -> Value:
    value = out.plain(value)
    batch, channels, *sizes = value.shape
    axes = _axes(call, sizes, padded)
    if len(sizes) == 1:
        axes = [_Axis(1, 1, 1, 0, 0, 0, 0, 1), *axes]
        value = out.view(value, (batch, channels, 1, *sizes))
    fits = _fits(axes)
    params: dict[str, Param] = {"pool": mode}
    params |= geometry([a.kernel for a in axes], [a.stride for a in axes], [f.pad for f in fits])
    result = out.add("Pooling", [value], (batch, channels, *(fit.made for fit in fits)), params)
    for i, (axis, fit) in enumerate(zip(axes, fits, strict=True), 2):
        result = out.take(result, i, range(fit.skipped, fit.skipped + axis.count))
    if mode == "AVE":
        result = out.scale(result, _correction(axes, fits, counted=bool(call.integer("count_include_pad", 0))))
    return reshaped(result, (batch, channels, *(axis.count for axis in axes[-len(sizes) :])))


def _axes(call: Call, sizes: Sequence[int], padded: tuple[Shape, Shape]) -> list[_Axis]:
    rank = len(sizes)
    kernel = call.listed("kernel_shape")
    strides, dilations = window(call, "strides", rank), window(call, "dilations", rank)
    if rank not in (1, 2) or kernel is None or len(kernel) != rank or not all(0 < k <= MAX_KERNEL for k in kernel):
        raise InexpressibleError(f"it pools {rank} spatial axes with kernel_shape {kernel}; Caffe pools two")
    if any(d != 1 and k != 1 for d, k in zip(dilations, kernel, strict=True)):
        raise InexpressibleError(f"its windows are dilated by {list(dilations)}; Caffe's are not")
    image = [front + size + back for front, size, back in zip(padded[0], sizes, padded[1], strict=True)]
    if max(image) > MAX_WINDOWS:
        raise InexpressibleError(f"it pools an axis of {max(image)} numbers; {MAX_WINDOWS} is the limit")
    begin, end = stated_padding(call, image, kernel, strides)
    ceil = bool(call.integer("ceil_mode", 0)) and call.text("auto_pad", "NOTSET") == "NOTSET"
    axes = []
    for i, (front, back) in enumerate(zip(*padded, strict=True)):
        count = _count(image[i], kernel[i], strides[i], begin[i], end[i], ceil=ceil)
        axis = _Axis(sizes[i], kernel[i], strides[i], front + begin[i], back + end[i], front, back, count)
        if front + back and not (axis.begin < axis.kernel and (count - 1) * axis.stride - axis.begin < axis.size):
            raise InexpressibleError("a window lies in the padding")
        axes.append(axis)
    return axes


def _count(size: int, kernel: int, stride: int, begin: int, end: int, *, ceil: bool) -> int:
    """Return how many windows ONNX makes; rounding up, a window that would start in the end padding is none."""
    room = size + begin + end - kernel
    if room < 0 or begin >= kernel or end >= kernel:
        raise InexpressibleError(f"its kernel of {kernel} does not fit an input of {size} padded by {begin} and {end}")
    count = (-(-room // stride) if ceil else room // stride) + 1
    return count - 1 if ceil and (count - 1) * stride >= size + begin else count


def _fits(axes: Sequence[_Axis]) -> list[_Fit]:
    """Return how Caffe covers the axes; whether it drops windows in the padding depends on both."""
    for is_padded in (False, True):
        fits = [_fit(axis, is_padded=is_padded) for axis in axes]
        if any(fit.pad for fit in fits) == is_padded:
            return fits
    return [_fit(axis, is_padded=True) for axis in axes]


def _fit(axis: _Axis, *, is_padded: bool) -> _Fit:
    """Return the narrowest padding of Caffe's with which every window of ONNX's is among Caffe's."""
    for skipped in range(axis.kernel + 1):
        pad = axis.begin + skipped * axis.stride
        if pad and not (is_padded and pad < axis.kernel):
            break
        made = -(-(axis.size + 2 * pad - axis.kernel) // axis.stride) + 1
        if is_padded and (made - 1) * axis.stride >= axis.size + pad:
            made -= 1
        if made >= skipped + axis.count and axis.size + 2 * pad >= axis.kernel:
            return _Fit(pad, made, skipped)
    if not is_padded:
        return _Fit(1, 0, 0)  # It cannot be done without padding.
    raise InexpressibleError(
        f"its windows of {axis.kernel} every {axis.stride} over {axis.size} numbers padded by {axis.begin} and "
        f"{axis.end} are not among those that Caffe makes with even padding below the kernel"
    )


def _correction(axes: Sequence[_Axis], fits: Sequence[_Fit], *, counted: bool) -> Array:
    """Return, for each window (rows, columns), the number Caffe divides by over the number ONNX divides by."""
    ratios = []
    for axis, fit in zip(axes, fits, strict=True):
        starts = np.arange(axis.count) * axis.stride - axis.begin
        stops = starts + axis.kernel
        first, last = (axis.begin, axis.end) if counted else (axis.front, axis.back)
        onnx = np.minimum(stops, axis.size + last) - np.maximum(starts, -first)
        ratios.append((np.minimum(stops, axis.size + fit.pad) - starts) / onnx)
    if all(np.all(each == 1) for each in ratios):
        return np.ones((), np.float32)
    if math.prod(axis.count for axis in axes) > MAX_WINDOWS:
        raise InexpressibleError("its averages would have to be put right one by one, and are too many for that")
    ratio: Array = np.outer(*ratios).astype(np.float32)
    return ratio
