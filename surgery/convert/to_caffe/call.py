"""A node with what is known of its inputs, as the functions that lower it see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from surgery.convert.to_caffe.values import Array, Constant, InexpressibleError, Operand
from surgery.formats.onnx.graph import OnnxNode
from surgery.formats.onnx.tensor import Tensor

MAX_LIST = 1 << 16  # numbers in a list of sizes, axes or parts


@dataclass(frozen=True, eq=False)
class Call:
    """A node, its operands (None for an optional one left out), the version of the standard operators.

    `used` are the tensors that something reads, `room` the bytes that computed constants may still take.
    """

    node: OnnxNode
    operands: tuple[Operand | None, ...]
    opset: int
    used: frozenset[str]
    room: int

    @property
    def type(self) -> str:
        """The operator."""
        return self.node.op_type

    def operand(self, index: int) -> Operand:
        """Return an operand that must be there."""
        found = self.optional(index)
        if found is None:
            raise InexpressibleError(f"input {index} is missing; the file is damaged")
        return found

    def optional(self, index: int) -> Operand | None:
        """Return an operand, or None where it is left out."""
        return self.operands[index] if index < len(self.operands) else None

    def array(self, index: int, what: str) -> Array | None:
        """Return a constant operand's numbers, None where it is left out."""
        found = self.optional(index)
        if found is None:
            return None
        if not isinstance(found, Constant):
            raise InexpressibleError(f"its {what} is computed, and Caffe takes only a constant there")
        return found.array

    def needed(self, index: int, what: str) -> Array:
        """Return a constant operand's numbers."""
        self.operand(index)
        found = self.array(index, what)
        assert found is not None
        return found

    def has(self, name: str) -> bool:
        """Say whether the node states an attribute."""
        return name in self.node.attributes

    def integer(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, int):
            raise self._unexpected(name, "an integer")
        return value

    def number(self, name: str, default: float) -> float:
        """Return a number attribute as the float32 it is."""
        value = self.node.attributes.get(name, float(np.float32(default)))
        if not isinstance(value, (int, float)):
            raise self._unexpected(name, "a number")
        return float(value)

    def text(self, name: str, default: str) -> str:
        """Return a text attribute."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, str):
            raise self._unexpected(name, "a text")
        return value

    def listed(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
        """Return a list of integers, `default` where the node states none."""
        value = self.node.attributes.get(name)
        if value is None:
            return None if default is None else tuple(default)
        found = tuple(item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, int))
        if not isinstance(value, tuple) or len(found) != len(value):
            raise self._unexpected(name, "a list of integers")
        return found

    def numbers(self, name: str) -> tuple[float, ...]:
        """Return a list of numbers, empty where the node states none."""
        value = self.node.attributes.get(name, ())
        found = tuple(item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, float))
        if not isinstance(value, tuple) or len(found) != len(value):
            raise self._unexpected(name, "a list of numbers")
        return found

    def tensor(self, name: str) -> Array | None:
        """Return a tensor attribute's numbers, None where the node states none."""
        value = self.node.attributes.get(name)
        if value is None:
            return None
        if not isinstance(value, Tensor):
            raise self._unexpected(name, "a tensor")
        return value.array()

    def integers(self, index: int, name: str, since: int) -> tuple[int, ...] | None:
        """Return a list of integers that is an attribute before opset `since` and an input from then on."""
        if self.opset < since:
            return self.listed(name)
        found = self.array(index, name)
        if found is not None and (found.dtype.kind not in "iu" or found.ndim > 1 or found.size > MAX_LIST):
            raise InexpressibleError(
                f"its {name} are {found.dtype.name} of shape {found.shape}; expected at most {MAX_LIST} integers"
            )
        return None if found is None else tuple(int(number) for number in found.reshape(-1))

    def _unexpected(self, name: str, wanted: str) -> InexpressibleError:
        return InexpressibleError(f"its attribute '{name}' is not {wanted}; the file is damaged")


def axis_of(axis: int, rank: int) -> int:
    """Return an axis counted from the front; raises InexpressibleError for one that is not there."""
    if not -rank <= axis < rank:
        raise InexpressibleError(f"it has no axis {axis}: its input has {rank}")
    return axis % rank


def axes_of(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return axes counted from the front, in order."""
    found = {axis_of(axis, rank) for axis in axes}
    if len(found) != len(axes):
        raise InexpressibleError(f"its axes are {tuple(axes)}; expected each once")
    return tuple(sorted(found))
