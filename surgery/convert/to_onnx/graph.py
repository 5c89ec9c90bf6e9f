"""An ONNX graph as it is built: operators in running order, constants, and which weight is which blob."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from surgery.convert.to_onnx import sizes
from surgery.convert.to_onnx.site import Array, InexpressibleError, Origin, Parameter
from surgery.model import Shape

OLDEST_OPSET, NEWEST_OPSET = 13, 22
MAX_COMPUTED = 2**23  # numbers in a constant that no file holds, such as SSD's prior boxes (24564 of 8 in SSD512)


@dataclass(frozen=True, eq=False)
class Operator:
    """A node that is not encoded yet, so that it and its outputs may still get their final names."""

    type: str
    layer: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


def float32(value: float) -> float:
    """Return the number as Caffe reads it from a file: what is too large is infinite."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


class Graph:
    """Collects what the layers become.

    `within(layer)` opens a layer, after which what follows is named.
    For a size that is not fixed, such as a dynamic batch, every shape here holds a prime in the axes that depend on it,
    `symbols` says what it stands for, and whatever would write that number into the file is refused.
    """

    def __init__(self, opset: int, symbols: Mapping[int, str] | None = None) -> None:
        self.opset = opset
        self.symbols = symbols or {}
        self.operators: list[Operator] = []
        self.initializers: dict[str, Array] = {}
        self.origins: dict[str, Origin] = {}
        self.taken: set[str] = set()
        self._numbers: dict[str, int] = {}  # the last number given behind a name
        self._layer = ""

    def within(self, layer: str) -> None:
        """Name what follows after `layer`."""
        self._layer = layer

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator with one output and return the output; attributes that are None are left out."""
        return self.ops(op_type, inputs, 1, **attributes)[0]

    def ops(self, op_type: str, inputs: Sequence[str], count: int, **attributes: Any) -> tuple[str, ...]:
        """Add an operator and return its `count` outputs."""
        for name, value in attributes.items():
            self._check(op_type, name, value)
        attributes = {name: float32(value) if isinstance(value, float) else value for name, value in attributes.items()}
        outputs = tuple(self.fresh(f"{self._layer}/{op_type}") for _ in range(count))
        self.operators.append(Operator(op_type, self._layer, tuple(inputs), outputs, attributes))
        return outputs

    def constant(self, value: Array | Sequence[float] | float, dtype: str = "float32", name: str = "constant") -> str:
        """Add a constant tensor and return its name."""
        with np.errstate(over="ignore"):
            array = np.asarray(value, dtype)
        if array.ndim <= 1 and array.dtype.kind == "i":
            self._check("constant", name, array.reshape(-1).tolist())
        if self.depends(array.shape):
            raise InexpressibleError(f"it needs a constant as large as {self.what(array.shape)}")
        name = self.fresh(f"{self._layer}/{name}")
        self.initializers[name] = array
        return name

    def integers(self, values: Sequence[int]) -> str:
        """Add a constant vector of int64 and return its name."""
        return self.constant(np.asarray(values, np.int64), "int64")

    def weight(self, parameter: Parameter, role: str) -> str:
        """Add a layer's parameter as it is, as the initializer `<layer>.<role>`; a shared one is added once."""
        for name, origin in self.origins.items():
            if origin == parameter.origin and self.initializers[name].shape == parameter.array.shape:
                return name
        return self._initializer(parameter.array, parameter.origin, role)

    def rearranged(self, array: Array, origin: Origin, role: str, layout: str) -> str:
        """Add what was made of a layer's parameter; `layout` says what, in a word or two."""
        return self._initializer(array, replace(origin, layout=layout), role)

    def _initializer(self, array: Array, origin: Origin, role: str) -> str:
        name = self.fresh(f"{origin.key}.{role}")
        self.initializers[name] = array
        self.origins[name] = origin
        return name

    def fresh(self, name: str) -> str:
        """Return `name`, or that with a number behind where it is taken, and take it."""
        number, free = self._numbers.get(name, 1), name
        while free in self.taken:
            number += 1
            free = f"{name}_{number}"
        self._numbers[name] = number
        self.taken.add(free)
        return free

    def depends(self, shape: Sequence[int]) -> bool:
        """Return whether any axis of `shape` depends on the batch, or on another size that is not fixed."""
        return sizes.depends(shape, self.symbols)

    def what(self, shape: Sequence[int]) -> str:
        """Return which unfixed size `shape` depends on, and what can be done."""
        found = (name for prime, name in self.symbols.items() if sizes.depends(shape, {prime: name}))
        name = next(found, sizes.BATCH)
        return "the batch; convert with a fixed batch" if name == sizes.BATCH else f"'{name}', which only the data tell"

    def fixed(self, size: int) -> int:
        """Return `size`; raises InexpressibleError where it depends on a batch that is dynamic."""
        if self.depends([size]):
            raise InexpressibleError(f"its numbers depend on the size of {self.what([size])}")
        return size

    def affordable(self, count: int) -> None:
        """Raise InexpressibleError where a constant of that many numbers is more than any network needs."""
        if count > MAX_COMPUTED:
            raise InexpressibleError(f"it needs a constant of {count} numbers; at most {MAX_COMPUTED} are computed")

    def _check(self, op_type: str, name: str, value: Any) -> None:
        values = value if isinstance(value, (list, tuple)) else [value]
        numbers = [int(v) for v in values if isinstance(v, (int, np.integer))]
        if self.depends(numbers):
            raise InexpressibleError(f"{op_type}'s {name} would hold the size of {self.what(numbers)}")

    # Operators whose spelling depends on the opset, or whose constants depend on the batch.

    def reshape(self, value: str, old: Shape, new: Shape) -> str:
        """Return `value` of shape `old` as shape `new`; no operator where they are equal."""
        if old == new:
            return value
        spelt = list(new)
        varying = [axis for axis, size in enumerate(new) if self.depends([size])]
        if len(varying) > 1:
            raise InexpressibleError(f"two axes of its output depend on the size of {self.what(new)}")
        for axis in varying:
            spelt[axis] = 0 if axis == 0 and old[:1] == new[:1] else -1
        return self.op("Reshape", value, self.integers(spelt))

    def flatten(self, value: str, old: Shape, axis: int) -> tuple[str, Shape]:
        """Return `value` with the axes from `axis` on made one, and that shape."""
        new = (*old[:axis], int(np.prod(old[axis:], dtype=np.int64)))
        return self.reshape(value, old, new), new

    def reduce(self, op_type: str, value: str, axes: Sequence[int], *, keepdims: bool) -> str:
        """Add ReduceSum, ReduceMean, ...; no axes means no reduction."""
        if not axes:
            raise ValueError("a reduction over no axes would be one over all of them")
        if op_type == "ReduceSum" or self.opset >= 18:
            return self.op(op_type, value, self.integers(axes), keepdims=int(keepdims))
        return self.op(op_type, value, axes=list(axes), keepdims=int(keepdims))

    def unsqueeze(self, value: str, axes: Sequence[int]) -> str:
        """Add axes of size one; `axes` count in the result."""
        return self.op("Unsqueeze", value, self.integers(axes)) if axes else value

    def squeeze(self, value: str, axes: Sequence[int]) -> str:
        """Take away axes of size one."""
        return self.op("Squeeze", value, self.integers(axes)) if axes else value

    def split(self, value: str, axis: int, sizes: Sequence[int]) -> tuple[str, ...]:
        """Cut `value` along `axis` into parts of the given sizes."""
        return self.ops("Split", (value, self.integers(sizes)), len(sizes), axis=axis)

    def split_evenly(self, value: str, axis: int, count: int) -> tuple[str, ...]:
        """Cut `value` along `axis` into `count` equal parts, whose size need not be known; nothing to do for one."""
        if count == 1:
            return (value,)
        return self.ops("Split", (value,), count, axis=axis, num_outputs=count if self.opset >= 18 else None)

    def slice(self, value: str, axes: Sequence[int], starts: Sequence[int], ends: Sequence[int]) -> str:
        """Take `starts` to `ends` of the axes."""
        return self.op("Slice", value, self.integers(starts), self.integers(ends), self.integers(axes))

    def pad(self, value: str, begins: Sequence[int], ends: Sequence[int], constant: float = 0.0) -> str:
        """Pad every axis; no operator where there is nothing to pad."""
        if not any((*begins, *ends)):
            return value
        return self.op("Pad", value, self.integers([*begins, *ends]), self.constant(constant, name="padding"))

    def cast(self, value: str, dtype: str) -> str:
        """Cast to a NumPy type's name."""
        from surgery.formats.onnx.encode import DATA_TYPES

        return self.op("Cast", value, to=DATA_TYPES[dtype])

    def scaled(self, value: str, factor: float, shift: float = 0.0) -> str:
        """Return factor * value + shift, without the operators that would do nothing."""
        if factor != 1:
            value = self.op("Mul", value, self.constant(factor, name="factor"))
        return self.op("Add", value, self.constant(shift, name="shift")) if shift else value
