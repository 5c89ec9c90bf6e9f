"""What does not depend on the network's input, computed: the shape arithmetic that exporters leave behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from surgery.convert.to_caffe.call import Call, axes_of, axis_of
from surgery.convert.to_caffe.values import Array, Constant, InexpressibleError
from surgery.formats.onnx.encode import DATA_TYPES
from surgery.formats.onnx.graph import Graph

SPARE_BYTES = 2**25  # that constants may take together, and
TIMES_STORED = 8  # times what the file holds: hostile ones make terabytes of a few bytes
MAX_PRODUCTS = 2**32  # in a MatMul
MAX_NUMBERS = 2**31 - 1  # in a constant that repeats a few
_NUMPY = {number: np.dtype(name) for name, number in DATA_TYPES.items()}


def evaluated(call: Call) -> list[Constant] | None:
    """Return a node's outputs where all its inputs are constants, None where its operator is not known here.

    Raises InexpressibleError where the inputs do not fit each other, or the result would be beyond all measure.
    """
    function = _TABLE.get(call.type)
    if function is None:
        return None
    arrays = [operand.array if isinstance(operand, Constant) else None for operand in call.operands]
    try:
        _check_size(call, arrays)
        with np.errstate(all="ignore"):
            results = function(call, *arrays)
    except (ValueError, IndexError, TypeError, AttributeError, ZeroDivisionError, OverflowError) as error:
        raise InexpressibleError(f"its constant inputs do not fit each other ({error})") from error
    return [Constant(array) for array in (results if isinstance(results, list) else [results])]


def room(graph: Graph) -> int:
    """Return how many bytes the constants that are computed may take together."""
    tensors = (*graph.initializers.values(), *graph.nested)
    stored = sum(tensor.record.end - tensor.record.start for tensor in tensors)
    stored += sum(tensor.size_bytes or 0 for tensor in graph.initializers.values() if tensor.external)
    return SPARE_BYTES + TIMES_STORED * stored


def new_bytes(array: Array, held: Sequence[Array]) -> int:
    """Return the memory that a result takes beside the operands: a number that is repeated counts once."""
    if any(np.may_share_memory(array, other) for other in held):
        return 0
    sizes = [size for size, step in zip(array.shape, array.strides, strict=True) if step]
    total: int = array.itemsize * math.prod(sizes)
    return total


def _check_size(call: Call, arrays: Sequence[Array | None]) -> None:
    """Raise InexpressibleError before numbers are computed that are too many."""
    given = [array for array in arrays if array is not None]
    if not given or call.type in _VIEWS or call.type in _LIMITED:
        return
    kind = dtype_of(call) if call.type == "Cast" else max((array.dtype for array in given), key=lambda d: d.itemsize)
    if call.type in _RESHAPES:
        if not (given[0].flags.c_contiguous or not any(given[0].strides)):
            _limited(call, given[0].shape, kind)
    elif call.type == "Concat":
        _limited(call, [sum(array.size for array in given)], kind)
    elif call.type == "MatMul" and min(array.ndim for array in given) > 0:
        _check_product(call, *given[:2])
    else:
        _limited(call, given[0].shape if call.type in _ALONE else broadcast_shape(*(a.shape for a in given)), kind)


def _check_product(call: Call, a: Array, b: Array) -> None:
    rows, columns = a.shape[-2:-1], b.shape[-1:] if b.ndim > 1 else ()
    shape = _limited(call, (*broadcast_shape(a.shape[:-2], b.shape[:-2]), *rows, *columns), a.dtype)
    if math.prod(shape) * a.shape[-1] > MAX_PRODUCTS:
        raise InexpressibleError(f"it multiplies constants of {a.shape} and {b.shape}, above {MAX_PRODUCTS} products")


def broadcast_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    """Return the shape that operands broadcast to; raises InexpressibleError."""
    try:
        return np.broadcast_shapes(*(tuple(shape) for shape in shapes))
    except ValueError as error:
        raise InexpressibleError("its inputs' shapes do not broadcast: " + ", ".join(map(str, shapes))) from error


def reshape_target(shape: Sequence[int], wanted: Sequence[int], *, allow_zero: bool) -> tuple[int, ...]:
    """Return the shape that a Reshape to `wanted` gives; raises InexpressibleError where it does not fit."""
    sizes = [shape[i] if size == 0 and not allow_zero and i < len(shape) else size for i, size in enumerate(wanted)]
    total = math.prod(shape)
    if sizes.count(-1) == 1:
        known = math.prod(size for size in sizes if size != -1)
        sizes = [total // known if size == -1 and known else size for size in sizes]
    if math.prod(sizes) != total or min(sizes, default=1) < 0:
        raise InexpressibleError(f"{tuple(shape)} cannot take the shape {tuple(wanted)}")
    return tuple(sizes)


def sliced(call: Call, shape: Sequence[int]) -> dict[int, range]:
    """Return the indices that a Slice takes along each axis it names, for an input of `shape`."""
    starts, ends = call.integers(1, "starts", 10), call.integers(2, "ends", 10)
    if starts is None or ends is None:
        raise InexpressibleError("it names no starts or no ends; the file is damaged")
    axes = call.integers(3, "axes", 10)
    steps = call.integers(4, "steps", 10) if call.opset >= 10 else None
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise InexpressibleError("its starts, ends, axes and steps are not of one length; the file is damaged")
    found = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        place = axis_of(axis, len(shape))
        if step == 0:
            raise InexpressibleError("it has a step of 0; the file is damaged")
        size = shape[place]
        # With a step back, an end before the front is none at all; Python's slice takes that as None only.
        stop = None if step < 0 and end < -size else end
        found[place] = range(size)[start:stop:step]
    return found


def squeezed(call: Call, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape that a Squeeze or an Unsqueeze gives."""
    axes = call.integers(1, "axes", 13)
    if call.type == "Unsqueeze":
        rank = len(shape) + len(axes or ())
        places = axes_of(axes or (), rank)
        rest = iter(shape)
        return tuple(1 if i in places else next(rest) for i in range(rank))
    if axes is None:
        return tuple(size for size in shape if size != 1)
    places = axes_of(axes, len(shape))
    if any(shape[axis] != 1 for axis in places):
        raise InexpressibleError(f"it squeezes an axis of {tuple(shape)} that is not of size 1; the file is damaged")
    return tuple(size for axis, size in enumerate(shape) if axis not in places)


def dtype_of(call: Call, default: int = 0) -> np.dtype[np.generic]:
    """Return the NumPy type a Cast goes to."""
    number = call.integer("to", default)
    if number not in _NUMPY:
        raise InexpressibleError(f"it makes numbers of TensorProto type {number}, which is not known here")
    return _NUMPY[number]


def _limited(call: Call, shape: Sequence[int], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Return the shape of a constant; raises InexpressibleError where it is impossible or takes too much memory."""
    sizes = tuple(int(size) for size in shape)
    if min(sizes, default=0) < 0:
        raise InexpressibleError(f"it makes a constant of shape {sizes}; expected sizes from 0")
    if math.prod(sizes) * dtype.itemsize > call.room:
        raise InexpressibleError(
            f"it makes a constant of shape {sizes}, above the {call.room} bytes left of {SPARE_BYTES} and "
            f"{TIMES_STORED} times the file's weights"
        )
    return sizes


def _spread(array: Array, shape: Iterable[int]) -> Array:
    """Return an array broadcast to a shape, which takes no memory; raises InexpressibleError where none has it."""
    sizes = tuple(int(size) for size in shape)
    if min(sizes, default=0) < 0 or math.prod(sizes) > MAX_NUMBERS:
        raise InexpressibleError(f"it makes a constant of shape {sizes}; expected 0 to {MAX_NUMBERS} numbers")
    return np.broadcast_to(array, sizes)


def _constant(call: Call) -> Array:
    attributes = call.node.attributes
    if "value" in attributes:
        found = call.tensor("value")
        assert found is not None
        return found
    for name, kind in (("value_float", np.float32), ("value_int", np.int64)):
        if name in attributes:
            return np.asarray(attributes[name], kind)
        if name + "s" in attributes:
            return np.asarray(attributes[name + "s"], kind)
    raise InexpressibleError("it is a constant of strings or a sparse one")


def _of_shape(call: Call, shape: Array) -> Array:
    value = call.tensor("value")
    single = np.zeros(1, np.float32) if value is None else value
    if single.size != 1:
        raise InexpressibleError("its value has more than one number; the file is damaged")
    return _spread(single.reshape(()), shape.reshape(-1))


def _slice(call: Call, data: Array, *_: Array | None) -> Array:
    index = [slice(None)] * data.ndim
    result = data
    for axis, indices in sliced(call, data.shape).items():
        here = index.copy()
        stop = indices.stop if indices.stop >= 0 else None  # Going back, an end before the front.
        here[axis] = slice(indices.start, stop, indices.step) if indices else slice(0)
        result = result[tuple(here)]
    return result


def _reshape(call: Call, data: Array, shape: Array) -> Array:
    wanted = [int(size) for size in shape.reshape(-1)]
    return data.reshape(reshape_target(data.shape, wanted, allow_zero=bool(call.integer("allowzero", 0))))


def _flatten(call: Call, data: Array) -> Array:
    axis = call.integer("axis", 1)
    return data.reshape(math.prod(data.shape[: axis if axis >= 0 else data.ndim + axis]), -1)


def _expand(_: Call, data: Array, shape: Array) -> Array:
    return _spread(data, broadcast_shape(data.shape, [int(size) for size in shape.reshape(-1)]))


def _tile(call: Call, data: Array, repeats: Array) -> Array:
    _limited(call, [size * int(n) for size, n in zip(data.shape, repeats, strict=True)], data.dtype)
    return np.tile(data, [int(n) for n in repeats])


def _range(call: Call, start: Array, limit: Array, delta: Array) -> Array:
    count = math.ceil((limit.item() - start.item()) / delta.item())
    _limited(call, (max(0, count),), start.dtype)
    numbers: Array = (start + np.arange(max(0, count)) * delta).astype(start.dtype)
    return numbers


def _shape(call: Call, data: Array) -> Array:
    return shape_of(call, data.shape)


def shape_of(call: Call, shape: Sequence[int]) -> Array:
    """Return what a Shape node gives for an input of `shape`."""
    end = len(shape) if not call.has("end") else call.integer("end", 0)
    return np.asarray(tuple(shape)[call.integer("start", 0) : end], np.int64)


def _split(call: Call, data: Array, *_: Array | None) -> list[Array]:
    axis = axis_of(call.integer("axis", 0), data.ndim)
    sizes = split_sizes(call, data.shape[axis])
    return np.split(data, np.cumsum(sizes)[:-1], axis)


def split_sizes(call: Call, size: int) -> list[int]:
    """Return the sizes of a Split's parts along an axis of `size`."""
    stated = call.integers(1, "split", 13)
    if stated is not None:
        if sum(stated) != size or min(stated, default=0) < 0:
            raise InexpressibleError(f"its parts are {tuple(stated)}, which do not make up an axis of {size}")
        return list(stated)
    count = call.integer("num_outputs", len(call.node.outputs))
    if count != len(call.node.outputs) or count < 1:
        raise InexpressibleError(f"it makes {count} parts, but has {len(call.node.outputs)} outputs")
    step = -(-size // count)
    return [min(step, size - start) for start in range(0, size, step)]


def _reduced(function: Callable[..., Array]) -> Callable[..., Array]:
    def apply(call: Call, data: Array, *_: Array | None) -> Array:
        axes = call.integers(1, "axes", 13 if call.type == "ReduceSum" else 18)
        if not axes and call.integer("noop_with_empty_axes", 0):
            return data
        places = axes_of(axes, data.ndim) if axes else None
        return function(data, axis=places, keepdims=bool(call.integer("keepdims", 1))).astype(data.dtype)

    return apply


def _divide(_: Call, a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu":
        return np.trunc(a / b).astype(a.dtype) if np.abs(a).max(initial=0) < 2**52 else a // b
    return a / b


def _gather(call: Call, data: Array, indices: Array) -> Array:
    axis = axis_of(call.integer("axis", 0), data.ndim)
    _limited(call, (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]), data.dtype)
    return np.take(data, indices, axis)


def _clip(call: Call, data: Array, *bounds: Array | None) -> Array:
    if call.opset < 11:
        return np.clip(data, np.float32(call.number("min", -np.inf)), np.float32(call.number("max", np.inf)))
    low, high = (*bounds, None, None)[:2]
    return np.clip(data, low, high)


def _same(function: Callable[..., Array]) -> Callable[..., Array]:
    """Return a NumPy function of the operands alone; an operator's result has its first input's type."""

    def apply(_: Call, *arrays: Array) -> Array:
        return function(*arrays).astype(arrays[0].dtype).reshape(broadcast_shape(*(array.shape for array in arrays)))

    return apply


def _compared(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda _, *arrays: np.asarray(function(*arrays))


def _folded(function: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    return _same(lambda *arrays: np.asarray(reduce(function, arrays)))


# Operators that only look at what is there, that do unless it has to be put in order, that check their own result's
# size, and whose result is as large as their first input at most.
_VIEWS = {"Constant", "ConstantOfShape", "Dropout", "Expand", "Identity", "Shape", "Size", "Slice", "Split"}
_VIEWS |= {"Transpose"}
_RESHAPES = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
_LIMITED = {"Gather", "Range", "Tile"}
_ALONE = {"Cast", "CastLike", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"}

_TABLE: Mapping[str, Callable[..., Array | list[Array]]] = {
    "Constant": _constant,
    "ConstantOfShape": _of_shape,
    "Identity": lambda _, data: data,
    "Dropout": lambda _, data, *rest: data,
    "Cast": lambda call, data: data.astype(dtype_of(call)),
    "CastLike": lambda _, data, like: data.astype(like.dtype),
    "Shape": _shape,
    "Size": lambda _, data: np.asarray(data.size, np.int64),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": lambda call, data, *_: data.reshape(squeezed(call, data.shape)),
    "Unsqueeze": lambda call, data, *_: data.reshape(squeezed(call, data.shape)),
    "Transpose": lambda call, data: data.transpose(call.listed("perm", range(data.ndim)[::-1])),
    "Concat": lambda call, *arrays: np.concatenate(arrays, axis_of(call.integer("axis", 0), arrays[0].ndim)),
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Expand": _expand,
    "Tile": _tile,
    "Range": _range,
    "Add": _same(np.add),
    "Sub": _same(np.subtract),
    "Mul": _same(np.multiply),
    "Div": _divide,
    "Mod": lambda call, a, b: np.fmod(a, b) if call.integer("fmod", 0) else np.mod(a, b),
    "Pow": _same(np.power),
    "Sum": _folded(np.add),
    "Max": _folded(np.maximum),
    "Min": _folded(np.minimum),
    "Neg": _same(np.negative),
    "Abs": _same(np.abs),
    "Sqrt": _same(np.sqrt),
    "Exp": _same(np.exp),
    "Log": _same(np.log),
    "Reciprocal": _same(np.reciprocal),
    "Floor": _same(np.floor),
    "Ceil": _same(np.ceil),
    "Round": _same(np.round),
    "Clip": _clip,
    "Equal": _compared(np.equal),
    "Greater": _compared(np.greater),
    "Less": _compared(np.less),
    "Not": _compared(np.logical_not),
    "And": _compared(np.logical_and),
    "Or": _compared(np.logical_or),
    "Where": lambda _, *arrays: np.asarray(np.where(*arrays)),
    "MatMul": lambda _, a, b: np.matmul(a, b),
    "ReduceSum": _reduced(np.sum),
    "ReduceProd": _reduced(np.prod),
    "ReduceMean": _reduced(np.mean),
    "ReduceMax": _reduced(np.max),
    "ReduceMin": _reduced(np.min),
}
