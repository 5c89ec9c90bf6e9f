"""Operators that only move, join, repeat or pick numbers, and those that compute shapes."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor

from surgery.formats.onnx.encode import DATA_TYPES
from surgery.tune.call import Call

# What ONNX's numbers for types are in torch; reals become what the network computes in.
_REALS = {DATA_TYPES[name] for name in ("float16", "float32", "float64")} | {16}
TYPES: Mapping[int, torch.dtype] = {
    number: getattr(torch, name)
    for name, number in DATA_TYPES.items()
    if number not in _REALS and name not in ("uint16", "uint32", "uint64")
}


def type_of(call: Call, data_type: int) -> torch.dtype:
    """Return the torch type of a TensorProto.DataType."""
    if data_type in _REALS:
        return call.dtype
    if data_type not in TYPES:
        raise call.unsupported(f"numbers of type {data_type}")
    return TYPES[data_type]


def reshape(call: Call) -> Tensor:
    """Reshape; 0 keeps the axis at that place, -1 is what is left."""
    wanted = call.numbers("shape", 1) or []
    if not call.integer("allowzero", 0):
        wanted = [call.x.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    return call.x.reshape(wanted)


def flatten(call: Call) -> Tensor:
    """Flatten to two axes."""
    shape, axis = call.x.shape, call.integer("axis", 1)
    front = shape[:axis]  # A negative axis counts from the end here too.
    return call.x.reshape(prod(front), prod(shape[len(front) :]))


def transpose(call: Call) -> Tensor:
    """Transpose, reversed where no order is given."""
    return call.x.permute(call.integers("perm", range(call.x.dim())[::-1]))


def squeeze(call: Call) -> Tensor:
    """Squeeze the axes given, else all of size one."""
    axes = call.numbers("axes", 1)
    return call.x.squeeze() if axes is None else call.x.squeeze(tuple(axes))


def unsqueeze(call: Call) -> Tensor:
    """Unsqueeze; axes count in the result."""
    axes = call.numbers("axes", 1) or []
    result = call.x
    for axis in sorted(axis % (call.x.dim() + len(axes)) for axis in axes):
        result = result.unsqueeze(axis)
    return result


def split(call: Call) -> tuple[Tensor, ...]:
    """Split into the sizes given, else into equal parts, the last one smaller where they do not fit."""
    axis, count = call.integer("axis", 0), len(call.step.outputs)
    sizes = call.numbers("split", 1)
    return torch.split(call.x, sizes or -(-call.x.shape[axis] // count), axis)


def slice_(call: Call) -> Tensor:
    """Slice, backwards too."""
    starts, ends = call.numbers("starts", 1) or [], call.numbers("ends", 2) or []
    axes = call.numbers("axes", 3)
    steps = call.numbers("steps", 4) or [1] * len(starts)
    result = call.x
    for axis, start, end, step in zip(axes or range(len(starts)), starts, ends, steps, strict=True):
        size = result.shape[axis]
        # What is before the first number, going backwards, has no number in Python but None.
        places = range(size)[slice(start, None if step < 0 and end < -size else end, step)]
        result = result.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=result.device))
    return result


def pad(call: Call) -> Tensor:
    """Pad with a number, or with what lies in the tensor; negative pads take away."""
    x, mode = call.x, call.text("mode", "constant")
    pads = call.numbers("pads", 1) or []
    axes = call.numbers("axes", 3) or list(range(x.dim()))
    begins, ends = dict(zip(axes, pads, strict=False)), dict(zip(axes, pads[len(axes) :], strict=True))
    if mode == "constant":
        spelt = [p for axis in reversed(range(x.dim())) for p in (begins.get(axis, 0), ends.get(axis, 0))]
        number = call.limit("value", 2)
        return F.pad(x, spelt, value=0.0 if number is None else float(number))
    for axis in axes:
        places = torch.arange(-begins[axis], x.shape[axis] + ends[axis], device=x.device)
        x = x.index_select(axis, _inside(call, places, x.shape[axis], mode))
    return x


def _inside(call: Call, places: Tensor, size: int, mode: str) -> Tensor:
    """Return which numbers of an axis stand at places before and behind it."""
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    if mode != "reflect":
        raise call.unsupported(f"padding '{mode}'")
    period = max(1, 2 * (size - 1))
    return (size - 1) - ((places % period) - (size - 1)).abs()


def gather(call: Call) -> Tensor:
    """Gather slices by numbers, negative ones from the end."""
    axis, x = call.integer("axis", 0) % max(1, call.x.dim()), call.x
    index = call[1].long() % x.shape[axis]
    picked = x.index_select(axis, index.reshape(-1))
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def gather_elements(call: Call) -> Tensor:
    """GatherElements."""
    axis = call.integer("axis", 0)
    return torch.gather(call.x, axis, call[1].long() % call.x.shape[axis])


def expand(call: Call) -> Tensor:
    """Expand by broadcasting both ways."""
    wanted = call.numbers("shape", 1) or []
    own = [1] * (len(wanted) - call.x.dim()) + list(call.x.shape)
    lead = [1] * (len(own) - len(wanted)) + wanted
    return call.x.expand([a if b == 1 else b for a, b in zip(own, lead, strict=True)])


def compress(call: Call) -> Tensor:
    """Keep the slices whose condition holds."""
    axis = call.step.attributes.get("axis")
    x = call.x.reshape(-1) if axis is None else call.x
    index = call[1].bool().nonzero().reshape(-1)
    return x.index_select(0 if axis is None else int(axis), index)


def cast(call: Call) -> Tensor:
    """Cast; a real number loses what is behind its point, as in C."""
    return call.x.to(type_of(call, call.integer("to", 1)))


def constant_of_shape(call: Call) -> Tensor:
    """A tensor of one number."""
    value: Any = call.step.attributes.get("value")
    shape = call.numbers("shape", 0) or []
    if value is None:
        return torch.zeros(shape, dtype=call.dtype)
    one = torch.from_numpy(value.reshape(()).copy())
    return one.to(call.dtype if one.is_floating_point() else one.dtype).expand(shape).to(call.device)


def range_(call: Call) -> Tensor:
    """Range from a start to a limit by a step."""
    return torch.arange(call[0].item(), call[1].item(), call[2].item(), dtype=call[0].dtype)


def shape(call: Call) -> Tensor:
    """The shape, or the axes of it from `start` to `end`."""
    sizes = list(call.x.shape)[call.integer("start", 0) : call.integer("end", call.x.dim())]
    return torch.tensor(sizes, dtype=torch.int64)


def top_k(call: Call) -> tuple[Tensor, ...]:
    """The k largest or smallest numbers, sorted, and their places; of equal ones the first."""
    (count,) = call.numbers("k", 1) or [1]
    axis, largest = call.integer("axis", -1), bool(call.integer("largest", 1))
    order = torch.argsort(call.x, dim=axis, descending=largest, stable=True).narrow(axis, 0, count)
    return torch.gather(call.x, axis, order), order


def arg(call: Call, *, sign: int) -> Tensor:
    """ArgMax where `sign` is 1, ArgMin where it is -1; the first of equal numbers."""
    axis = call.integer("axis", 0)
    x = call.x.flip(axis) if call.integer("select_last_index", 0) else call.x
    found = torch.argmax(sign * x, axis, keepdim=bool(call.integer("keepdims", 1)))
    return call.x.shape[axis] - 1 - found if call.integer("select_last_index", 0) else found
