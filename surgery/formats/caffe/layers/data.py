"""Layers without bottoms: inputs, data sources and constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from surgery.formats.caffe.layers.base import Setup, ShapeError, Shapes, params, unread
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.text import Message

_T = TypeVar("_T")


def input_(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an Input: no shape, one for all tops, or one each."""
    param = params(layer, "input_param")
    if not param.has("shape"):
        return Setup((None,) * len(layer.tops), reason="it states no shape")
    return Setup(_one_or_each("shape", _shapes(param), len(layer.tops)))


def dummy_data(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a DummyData, in its present or its legacy form."""
    param, count = params(layer, "dummy_data_param"), len(layer.tops)
    legacy = ("num", "channels", "height", "width")
    if not any(map(param.has, legacy)):
        return Setup(_one_or_each("shape", _shapes(param), count))
    if param.has("shape"):
        raise ShapeError("both shape and num/channels/height/width are given; expected one of the two")
    sides = [_one_or_each(name, param.ints(name), count) for name in legacy]
    return Setup(tuple(zip(*sides, strict=True)))


def parameter(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Parameter: its blob is its top."""
    shape = tuple(params(layer, "parameter_param").message("shape").ints("dim"))
    return Setup((shape,), (shape,), shares_memory=True)


def memory_data(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a MemoryData: data and label."""
    param = params(layer, "memory_data_param")
    foreign = unread(layer, param, "dim")
    if foreign:
        return foreign
    shape = tuple(param.int(name) for name in ("batch_size", "channels", "height", "width"))
    if min(shape) <= 0:
        raise ShapeError(f"batch_size, channels, height, width are {shape}; expected at least 1 each")
    return Setup((shape, shape[:1]))


def data(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a Data layer: only the label's shape stands in the file."""
    batch = params(layer, "data_param").int("batch_size")
    reason = "a Data layer's shape is in its database"
    return Setup((None, (batch,) if batch else None), reason=reason)


def hdf5_data(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an HDF5Data."""
    return Setup((None,) * len(layer.tops), reason="an HDF5Data layer's shapes are in its files")


def image_data(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an ImageData; without crop_size or new_height and new_width the images decide."""
    param = params(layer, "image_data_param")
    batch, height, width = param.int("batch_size"), param.int("new_height"), param.int("new_width")
    if bool(height) != bool(width):
        raise ShapeError(f"new_height is {height}, new_width {width}; expected both or neither")
    crop = _crop_size(layer, param)
    side = (crop, crop) if crop else (height, width)
    if not all(side):
        return Setup((None, (batch,)), reason="an ImageData layer's shape is that of its first image")
    return Setup(((batch, 3 if param.bool("is_color") else 1, *side), (batch,)))


def window_data(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a WindowData; its source file states the channels, which are those of colour images."""
    param = params(layer, "window_data_param")
    batch, crop = param.int("batch_size"), _crop_size(layer, param)
    if not batch or not crop:
        raise ShapeError(f"batch_size is {batch}, crop_size {crop}; expected at least 1 each")
    return Setup(((batch, 3, crop, crop), (batch,)))


def _shapes(param: Message) -> list[Shape]:
    return [tuple(shape.ints("dim")) for shape in param.messages("shape")]


def _one_or_each(field: str, values: Sequence[_T], count: int) -> tuple[_T, ...]:
    if len(values) == 1:
        return (values[0],) * count
    if len(values) != count:
        raise ShapeError(f"{field} is given {len(values)} times; expected once, or once per top ({count})")
    return tuple(values)


def _crop_size(layer: Layer, param: Message) -> int:
    # Before transform_param existed, crop_size stood in the layer's own block.
    return params(layer, "transform_param").int("crop_size") or param.int("crop_size")
