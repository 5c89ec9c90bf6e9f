"""Operators that slide a window: convolutions, their transposes and pooling over one to three axes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor

from surgery.tune.call import Call, Result

_CONV = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_MAX = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVERAGE = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


@dataclass(frozen=True)
class _Windows:
    """A window along each axis; `more` is what rounding up adds behind the padding `ends`."""

    kernel: list[int]
    stride: list[int]
    dilation: list[int]
    begins: list[int]
    ends: list[int]
    more: list[int]

    @property
    def all_ends(self) -> list[int]:
        return [end + more for end, more in zip(self.ends, self.more, strict=True)]


def conv(call: Call) -> Tensor:
    """Conv; pads that differ at the two ends, which torch does not have, come first."""
    windows = _windows(call, list(call[1].shape[2:]))
    x, pads = call.x, windows.begins
    if windows.begins != windows.ends or min(pads) < 0:
        x, pads = _padded(x, windows.begins, windows.ends), [0] * len(pads)
    function = _CONV[len(pads) - 1]
    return function(x, call[1], call.optional(2), windows.stride, pads, windows.dilation, call.integer("group", 1))


def conv_transpose(call: Call) -> Tensor:
    """ConvTranspose: everything first, then what the pads take off; what lies behind everything is the bias alone."""
    weight, bias, rank = call[1], call.optional(2), call[1].dim() - 2
    if call.step.attributes.get("output_shape") or call.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise call.unsupported("an output shape instead of pads")
    stride, dilation = (call.integers(name, [1] * rank) for name in ("strides", "dilations"))
    pads, more = call.integers("pads", [0] * 2 * rank), call.integers("output_padding", [0] * rank)
    full = _TRANSPOSED[rank - 1](call.x, weight, None, stride, 0, 0, call.integer("group", 1), dilation)
    ends = [extra - pad for extra, pad in zip(more, pads[rank:], strict=True)]
    result = _padded(full, [-pad for pad in pads[:rank]], ends)
    return result if bias is None else result + bias.reshape(-1, *[1] * rank)


def max_pool(call: Call) -> Result:
    """MaxPool; the second output counts through the whole tensor, the first of equal numbers wins."""
    windows, x = _windows(call, call.integers("kernel_shape")), call.x
    rank = len(windows.kernel)
    # Of no numbers at all the runtimes give the lowest.
    lowest = torch.finfo(x.dtype).min
    padded = _padded(x, windows.begins, windows.all_ends, lowest)
    pool = _MAX[rank - 1]
    if len(call.step.outputs) == 1:
        return pool(padded, windows.kernel, windows.stride, 0, windows.dilation)
    values, places = pool(padded, windows.kernel, windows.stride, 0, windows.dilation, return_indices=True)
    place, parts = places, []
    for size in reversed(padded.shape[2:]):
        parts.append(place % size)
        place = torch.div(place, size, rounding_mode="floor")
    index = torch.zeros_like(places)
    for part, size, begin in zip(reversed(parts), x.shape[2:], windows.begins, strict=True):
        index = index * size + part - begin
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * prod(x.shape[2:])
    return values, index + planes.reshape(*x.shape[:2], *[1] * rank)


def average_pool(call: Call) -> Tensor:
    """AveragePool over the numbers inside, or over the padding too; never over what rounding up adds."""
    windows, x = _windows(call, call.integers("kernel_shape")), call.x
    rank, counts_padding = len(windows.kernel), call.integer("count_include_pad", 0)
    if any(size != 1 for size in windows.dilation):
        raise call.unsupported("a dilated AveragePool")
    pool = _AVERAGE[rank - 1]
    if not any((*windows.begins, *windows.all_ends)):
        return pool(x, windows.kernel, windows.stride)
    mean = pool(_padded(x, windows.begins, windows.all_ends), windows.kernel, windows.stride)
    inside = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    inner = _padded(inside, windows.begins, windows.ends, float(bool(counts_padding)))
    share = pool(_padded(inner, [0] * rank, windows.more), windows.kernel, windows.stride)
    return mean / share


def lrn(call: Call) -> Tensor:
    """LRN over neighbouring channels: x / (bias + alpha / size sum(x^2))^beta."""
    x, size = call.x, call.integer("size", 1)
    before, behind = (size - 1) // 2, size // 2
    rows = (x * x).reshape(x.shape[0], 1, x.shape[1], -1)
    mean = F.avg_pool2d(F.pad(rows, (0, 0, before, behind)), (size, 1), 1).reshape(x.shape)
    return x / (call.real("bias", 1.0) + call.real("alpha", 1e-4) * mean) ** call.real("beta", 0.75)


def _windows(call: Call, kernel: list[int]) -> _Windows:
    rank, sizes = len(kernel), list(call.x.shape[2:])
    stride, dilation = (call.integers(name, [1] * rank) for name in ("strides", "dilations"))
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    mode = call.text("auto_pad", "NOTSET")
    pads = call.integers("pads", [0] * 2 * rank)
    begins, ends = pads[:rank], pads[rank:]
    if mode.startswith("SAME"):
        needed = [max(0, (-(-n // s) - 1) * s + e - n) for n, s, e in zip(sizes, stride, extents, strict=True)]
        less, more = [n // 2 for n in needed], [n - n // 2 for n in needed]
        begins, ends = (more, less) if mode == "SAME_LOWER" else (less, more)
    elif mode == "VALID":
        begins = ends = [0] * rank
    behind = [0] * rank
    if call.integer("ceil_mode", 0):
        axes = zip(sizes, stride, extents, begins, ends, strict=True)
        behind = [_rounded_up(*axis) for axis in axes]
    return _Windows(kernel, stride, dilation, begins, ends, behind)


def _rounded_up(size: int, stride: int, extent: int, begin: int, end: int) -> int:
    """Return what must lie behind the padding for one more window, which starts before the padding `end` or not."""
    count = -(-(size + begin + end - extent) // stride) + 1
    count -= (count - 1) * stride >= size + begin
    return max(0, (count - 1) * stride + extent - size - begin - end)


def _padded(x: Tensor, begins: list[int], ends: list[int], value: float = 0.0) -> Tensor:
    """Return the planes with so many rows and columns of `value` before and behind them, or taken away."""
    spelt = [pad for pair in zip(reversed(begins), reversed(ends), strict=True) for pad in pair]
    return F.pad(x, spelt, value=value) if any(spelt) else x
