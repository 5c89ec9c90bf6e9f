"""ONNX messages as bytes: what onnx.proto calls a field is a number here, and nothing else of it is needed."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from surgery.formats.wire import FIXED32, VARINT, encode_bytes, encode_tag, encode_varint

# TensorProto.DataType of the NumPy types that converters and cuts write.
DATA_TYPES: Mapping[str, int] = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
}
FLOAT = DATA_TYPES["float32"]

_FLOAT, _INT, _STRING, _TENSOR, _FLOATS, _INTS, _STRINGS = 1, 2, 3, 4, 6, 7, 8  # AttributeProto.AttributeType

Dim = int | str | None  # a size, a symbol, or unknown


def varint(number: int, value: int) -> bytes:
    """Return a whole integer field; negative numbers take ten bytes, as in protobuf."""
    return encode_tag(number, VARINT) + encode_varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def text(number: int, value: str) -> bytes:
    """Return a whole string field; what was not UTF-8 when read comes out as it was."""
    return encode_bytes(number, value.encode("utf-8", "surrogateescape"))


def node(
    op_type: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    name: str = "",
    attributes: Mapping[str, Any] | None = None,
    domain: str = "",
) -> bytes:
    """Return a NodeProto; attributes that are None are left out."""
    parts = [text(1, value) for value in inputs]
    parts += [text(2, value) for value in outputs]
    parts += [text(3, name)] if name else []
    parts.append(text(4, op_type))
    parts += [encode_bytes(5, attribute(key, value)) for key, value in (attributes or {}).items() if value is not None]
    parts += [text(7, domain)] if domain else []
    return b"".join(parts)


def attribute(name: str, value: Any) -> bytes:
    """Return an AttributeProto of an int, a float, a string, an array, or a sequence of the first three.

    An empty sequence is one of ints.
    """
    start = text(1, name)
    if isinstance(value, np.ndarray):
        return start + encode_bytes(5, tensor("", value)) + varint(20, _TENSOR)
    if isinstance(value, str):
        return start + text(4, value) + varint(20, _STRING)
    if isinstance(value, (bool, int, np.integer)):
        return start + varint(3, int(value)) + varint(20, _INT)
    if isinstance(value, (float, np.floating)):
        return start + encode_tag(2, FIXED32) + struct.pack("<f", value) + varint(20, _FLOAT)
    items = list(value)
    if all(isinstance(item, str) for item in items) and items:
        return start + b"".join(text(9, item) for item in items) + varint(20, _STRINGS)
    if any(isinstance(item, (float, np.floating)) for item in items):
        floats = b"".join(encode_tag(7, FIXED32) + struct.pack("<f", item) for item in items)
        return start + floats + varint(20, _FLOATS)
    return start + b"".join(varint(8, int(item)) for item in items) + varint(20, _INTS)


def tensor_head(name: str, shape: Sequence[int], data_type: int) -> bytes:
    """Return a TensorProto without its data."""
    dims = b"".join(varint(1, size) for size in shape)
    return dims + varint(2, data_type) + (text(8, name) if name else b"")


def tensor(name: str, array: npt.NDArray[Any]) -> bytes:
    """Return a TensorProto with its data as `raw_data`; large ones are better streamed (see `tensor_head`)."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
    return tensor_head(name, array.shape, DATA_TYPES[array.dtype.name]) + encode_bytes(9, little.tobytes())


def external_tensor(name: str, shape: Sequence[int], data_type: int, location: str, offset: int, length: int) -> bytes:
    """Return a TensorProto whose data lies in another file."""
    entries = {"location": location, "offset": str(offset), "length": str(length)}
    data = b"".join(encode_bytes(13, text(1, key) + text(2, value)) for key, value in entries.items())
    return tensor_head(name, shape, data_type) + data + varint(14, 1)


def value_info(name: str, data_type: int, shape: Sequence[Dim] | None) -> bytes:
    """Return a ValueInfoProto of a tensor; a shape of None says nothing of its axes."""
    parts = [varint(1, data_type)]
    if shape is not None:
        parts.append(encode_bytes(2, b"".join(encode_bytes(1, _dimension(size)) for size in shape)))
    return text(1, name) + encode_bytes(2, encode_bytes(1, b"".join(parts)))


def _dimension(size: Dim) -> bytes:
    if size is None:
        return b""
    return text(2, size) if isinstance(size, str) else varint(1, size)


def entry(key: str, value: str) -> bytes:
    """Return a StringStringEntryProto, as in `metadata_props`."""
    return text(1, key) + text(2, value)


def opset(version: int, domain: str = "") -> bytes:
    """Return an OperatorSetIdProto."""
    return (text(1, domain) if domain else b"") + varint(2, version)
