"""What the conversion of one Caffe layer sees of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from surgery.formats.caffe.layers.base import params
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.text import Message

Array = npt.NDArray[Any]


class InexpressibleError(Exception):
    """ONNX has no equivalent for this layer; the message says why, without the layer's name."""


@dataclass(frozen=True)
class Origin:
    """Which blob of which layer an initializer holds; `layout` says how it was rearranged, "" where it was not."""

    key: str
    blob: int
    layout: str = ""


@dataclass(frozen=True, eq=False)
class Parameter:
    """One blob: its numbers, float32, and whose they are; a shared blob is the first layer's that has it."""

    array: Array
    origin: Origin


@dataclass(frozen=True, eq=False)
class Site:
    """One layer: its text, the ONNX tensors it reads, and what Caffe's setup makes of it.

    Attributes:
        layer: the layer, V1 spellings included; read parameters with `param`.
        key: the name of its node in the model.
        inputs: names of the tensors that hold its bottoms.
        bottoms: shapes of the bottoms, None where unknown; `shape(i)` where one is needed.
        tops: shapes of the tops, None where unknown or, for a loss, where the file names none.
        parameters: its blobs in the shapes that Caffe's setup gives them, or why these are not known; read `blobs`.
        is_test: whether it runs in phase TEST.
        overwritten: the bottoms, by number, that lie in the memory into which it writes its first top.
    """

    layer: Layer
    key: str
    inputs: tuple[str, ...]
    bottoms: tuple[Shape | None, ...]
    tops: tuple[Shape | None, ...]
    parameters: tuple[Parameter, ...] | str
    is_test: bool
    overwritten: frozenset[int] = frozenset()

    @property
    def is_in_place(self) -> bool:
        """Whether a top is the bottom at the same place, so that Caffe writes over what it reads."""
        return any(top == bottom for top, bottom in zip(self.layer.tops, self.layer.bottoms, strict=False))

    @property
    def blobs(self) -> tuple[Parameter, ...]:
        """The layer's parameters; raises InexpressibleError where they are not known."""
        if isinstance(self.parameters, str):
            raise InexpressibleError(self.parameters)
        return self.parameters

    def param(self, name: str) -> Message:
        """Return the layer's message of that name, such as `convolution_param`, empty where the file has none."""
        return params(self.layer, name)

    def refuse_foreign(self, param: str, *names: str) -> None:
        """Raise InexpressibleError where one of these fields, which forks added to `param`, is given."""
        message = self.param(param)
        given = next((name for name in names if message.has(name)), None)
        if given is not None:
            raise InexpressibleError(f"what a fork's field {given} does is not known")

    def shape(self, index: int = 0) -> Shape:
        """Return the shape of bottom `index`; raises InexpressibleError where it is not known."""
        return _known(self.bottoms[index], f"bottom {index}")

    def top(self, index: int = 0) -> Shape:
        """Return the shape of top `index`; raises InexpressibleError where it is not known."""
        return _known(self.tops[index], f"top {index}")


def _known(shape: Shape | None, what: str) -> Shape:
    if shape is None:
        raise InexpressibleError(f"the shape of {what} is not known; give --shape BLOB=N,C,H,W")
    return shape
