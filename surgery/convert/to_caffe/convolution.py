"""Conv and ConvTranspose as Convolution and Deconvolution, which pad both ends of an axis alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from surgery.convert.to_caffe.call import Call
from surgery.convert.to_caffe.layers import Builder, Param
from surgery.convert.to_caffe.values import Array, InexpressibleError, Operand, Padded, Shape, Value, plain


def conv(call: Call, out: Builder) -> list[Operand]:
    """Lower a Conv: uneven padding becomes even and whole strides wider, and what that adds is cut off again."""
    weight = call.needed(1, "weight")
    bias = call.array(2, "bias")
    value, begin, end = _padded_by(call, out)
    value = out.plain(value)
    rank = _rank(call, value, weight)
    kernel = weight.shape[2:]
    strides, dilations = window(call, "strides", rank), window(call, "dilations", rank)
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    begin, end = _explicit(call, value.shape[2:], reach, strides, begin, end)
    groups = call.integer("group", 1)
    if weight.shape[1] * groups != value.shape[1] or groups < 1 or weight.shape[0] % groups:
        raise InexpressibleError(f"its weight {weight.shape} does not fit {groups} groups of {value.shape[1]} channels")
    wanted, pads, dropped, made = [], [], [], []
    for axis in range(rank):
        size, stride = value.shape[2 + axis], strides[axis]
        count = (size + begin[axis] + end[axis] - reach[axis]) // stride + 1
        if count < 1:
            raise InexpressibleError(f"its kernel reaches {reach[axis]}, more than the padded input")
        skip = _skipped(size, begin[axis], reach[axis], stride, count)
        pad = begin[axis] + skip * stride
        wanted.append(count)
        pads.append(pad)
        dropped.append(skip)
        made.append((size + 2 * pad - reach[axis]) // stride + 1)
    params = _params(weight.shape[0], kernel, strides, pads, dilations, groups, bias)
    blobs = [weight] if bias is None else [weight, _fitting(bias, weight.shape[0])]
    result = out.add("Convolution", [value], (value.shape[0], weight.shape[0], *made), params, blobs)
    return [_cut(out, result, dropped, wanted)]


def _skipped(size: int, begin: int, reach: int, stride: int, count: int) -> int:
    """Return by how many strides the even padding must be wider for `count` windows to fit."""
    # Each stride of padding adds a window in front, which is dropped, and one behind.
    return max(0, count - 1 - (size + 2 * begin - reach) // stride)


def _cut(out: Builder, value: Value, dropped: Sequence[int], wanted: Sequence[int]) -> Value:
    for axis, (first, count) in enumerate(zip(dropped, wanted, strict=True), 2):
        value = out.take(value, axis, range(first, first + count))
    return value


def conv_transpose(call: Call, out: Builder) -> list[Operand]:
    """Lower a ConvTranspose: what uneven padding takes away is cut off, output padding grows the kernel by zeros."""
    value = out.plain(call.operand(0))
    weight, bias = call.needed(1, "weight"), call.array(2, "bias")
    rank = _rank(call, value, weight)
    kernel = weight.shape[2:]
    strides, dilations = window(call, "strides", rank), window(call, "dilations", rank)
    groups = call.integer("group", 1)
    if weight.shape[0] != value.shape[1] or groups < 1 or weight.shape[0] % groups:
        raise InexpressibleError(f"its weight {weight.shape} does not fit {groups} groups of {value.shape[1]} channels")
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    full = [s * (i - 1) + r for i, r, s in zip(value.shape[2:], reach, strides, strict=True)]
    begin, wanted = _output(call, value.shape[2:], full, strides)
    if min(wanted) < 1 or min(begin) < 0:
        raise InexpressibleError(f"its padding leaves an output of {wanted} from {full}")
    missing = [b + w - f for b, w, f in zip(begin, wanted, full, strict=True)]
    if any(count > 0 for count in missing):
        if any(d != 1 for d in dilations):
            raise InexpressibleError("it is dilated and has output padding beyond the kernel's reach")
        weight = np.pad(weight, [(0, 0), (0, 0), *((0, max(0, count)) for count in missing)])
        full = [size + max(0, count) for size, count in zip(full, missing, strict=True)]
    even = [min(b, f - b - w) for b, f, w in zip(begin, full, wanted, strict=True)]
    pads = [max(0, pad) for pad in even]
    outputs = weight.shape[1] * groups
    params = _params(outputs, weight.shape[2:], strides, pads, dilations, groups, bias)
    blobs = [weight] if bias is None else [weight, _fitting(bias, outputs)]
    made = [f - 2 * pad for f, pad in zip(full, pads, strict=True)]
    result = out.add("Deconvolution", [value], (value.shape[0], outputs, *made), params, blobs)
    return [_cut(out, result, [b - pad for b, pad in zip(begin, pads, strict=True)], wanted)]


def _output(call: Call, sizes: Shape, full: Sequence[int], strides: Shape) -> tuple[list[int], list[int]]:
    """Return what is cut off the full result in front, and the size that remains, along each axis."""
    extra = call.listed("output_padding") or (0,) * len(full)
    stated = call.listed("output_shape")
    mode = call.text("auto_pad", "NOTSET")
    if stated is not None or mode.startswith("SAME"):
        wanted = list(stated or (size * stride for size, stride in zip(sizes, strides, strict=True)))[-len(full) :]
        if len(wanted) != len(full):
            raise InexpressibleError(f"its output_shape is {wanted}; expected {len(full)} sizes")
        over = [max(0, f + e - w) for f, e, w in zip(full, extra, wanted, strict=True)]
        return [o // 2 if mode == "SAME_UPPER" else o - o // 2 for o in over], wanted
    pads = call.listed("pads") or (0,) * (2 * len(full))
    begin, end = pads[: len(full)], pads[len(full) :]
    return list(begin), [f + e - b - a for f, e, b, a in zip(full, extra, begin, end, strict=True)]


def _padded_by(call: Call, out: Builder) -> tuple[Value, list[int], list[int]]:
    """Return the input without the zeros of a Pad before it, and how many these are along each spatial axis."""
    operand = call.operand(0)
    if isinstance(operand, Padded) and operand.fill == 0 and not any((*operand.begin[:2], *operand.end[:2])):
        return operand.value, list(operand.begin[2:]), list(operand.end[2:])
    value = out.value(operand)
    rank = max(0, len(value.shape) - 2)
    return value, [0] * rank, [0] * rank


def window(call: Call, name: str, rank: int) -> Shape:
    """Return strides or dilations: one for each spatial axis."""
    found = call.listed(name) or (1,) * rank
    if len(found) != rank or min(found) < 1:
        raise InexpressibleError(f"its {name} are {list(found)}; expected {rank} numbers above 0")
    return found


def _explicit(
    call: Call, sizes: Shape, reach: Sequence[int], strides: Shape, begin: list[int], end: list[int]
) -> tuple[list[int], list[int]]:
    before, after = stated_padding(call, [s + b + e for s, b, e in zip(sizes, begin, end, strict=True)], reach, strides)
    total = [*(a + b for a, b in zip(begin, before, strict=True)), *(a + b for a, b in zip(end, after, strict=True))]
    if min(total, default=0) < 0:
        raise InexpressibleError(f"its padding {total} is negative")
    return total[: len(before)], total[len(before) :]


def stated_padding(
    call: Call, sizes: Sequence[int], reach: Sequence[int], strides: Shape
) -> tuple[list[int], list[int]]:
    """Return the padding that a node states, or that its `auto_pad` comes to."""
    mode = call.text("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [max(0, (-(-i // s) - 1) * s + k - i) for i, s, k in zip(sizes, strides, reach, strict=True)]
        small = [t // 2 for t in total]
        large = [t - t // 2 for t in total]
        return (small, large) if mode == "SAME_UPPER" else (large, small)
    if mode not in ("NOTSET", "VALID", ""):
        raise InexpressibleError(f"its auto_pad is '{mode}', which is not known here")
    pads = call.listed("pads")
    if mode == "VALID" or pads is None:
        return [0] * len(sizes), [0] * len(sizes)
    if len(pads) != 2 * len(sizes):
        raise InexpressibleError(f"its pads are {list(pads)}; expected {2 * len(sizes)} numbers")
    return list(pads[: len(sizes)]), list(pads[len(sizes) :])


def _rank(call: Call, value: Value, weight: Array) -> int:
    rank = len(value.shape) - 2
    stated = call.listed("kernel_shape")
    if rank < 1 or weight.ndim != rank + 2:
        raise InexpressibleError(f"its weight {weight.shape} does not fit its input {value.shape}")
    if stated is not None and stated != weight.shape[2:]:
        raise InexpressibleError(f"its kernel_shape is {list(stated)}, but its weight is {weight.shape}")
    return rank


def _fitting(bias: Array, outputs: int) -> Array:
    if bias.size != outputs:
        raise InexpressibleError(f"its bias {bias.shape} does not fit its {outputs} outputs")
    return bias.reshape(-1)


def _params(
    outputs: int,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    bias: Array | None,
) -> Mapping[str, Param]:
    params: dict[str, Param] = {"num_output": outputs}
    params |= geometry(kernel, strides, pads)
    # Along an axis of one tap dilation means nothing: readers that know one value only are served by the other.
    useful = {d for d, k in zip(dilations, kernel, strict=True) if k > 1}
    if useful - {1}:
        params["dilation"] = tuple(useful) if len(useful) == 1 else tuple(dilations)
    if groups > 1:
        params["group"] = groups
    if bias is None:
        params["bias_term"] = False
    return params


def geometry(kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int]) -> Mapping[str, Param]:
    """Return the fields of a window in the spelling that all Caffes read: one number, or height and width apart."""
    if len({*zip(kernel, strides, pads, strict=True)}) == 1:
        params: dict[str, Param] = {"kernel_size": kernel[0]}
        params |= {"stride": strides[0]} if strides[0] != 1 else {}
        return params | ({"pad": pads[0]} if pads[0] else {})
    if len(kernel) == 2:
        names = ("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w")
        return dict(zip(names, (*kernel, *strides, *pads), strict=True))
    return {"kernel_size": tuple(kernel), "stride": tuple(strides), "pad": tuple(pads)}


def dense_conv(out: Builder, value: Value, weight: Array) -> Value:
    """Add a 1x1 Convolution without bias over a plain value; `weight` is (out, in)."""
    blob = weight.reshape(*weight.shape, *([1] * (len(value.shape) - 2)))
    params = {"num_output": weight.shape[0], "kernel_size": 1, "bias_term": False}
    made = out.add("Convolution", [value], (value.shape[0], weight.shape[0], *value.shape[2:]), params, [blob])
    return plain(made.blob, made.stored)
