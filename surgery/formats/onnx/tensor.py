"""A tensor of an ONNX file: where its numbers are; they are looked at only when asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from surgery.errors import ModelError, ParseError
from surgery.formats.onnx.source import Source, shown
from surgery.formats.wire import BYTES, FIXED32, FIXED64, VARINT, Record
from surgery.model import Shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_AXES = 64

_DIMS, _DATA_TYPE, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14
# Field -> NumPy type of its numbers and the wire type of one that stands alone; varints have no NumPy type.
_TYPED = {4: ("<f4", FIXED32), 5: ("", VARINT), 7: ("", VARINT), 10: ("<f8", FIXED64), 11: ("", VARINT)}

# TensorProto.DataType -> NumPy type of its raw form, and the field of its typed form.
_TYPES = {
    1: ("<f4", 4),
    2: ("u1", 5),
    3: ("i1", 5),
    4: ("<u2", 5),
    5: ("<i2", 5),
    6: ("<i4", 5),
    7: ("<i8", 7),
    9: ("?", 5),
    10: ("<f2", 5),
    11: ("<f8", 10),
    12: ("<u4", 11),
    13: ("<u8", 11),
    14: ("<c8", 4),
    15: ("<c16", 10),
    16: ("<u2", 5),  # bfloat16, the upper half of a float32
}
BFLOAT16 = 16
TYPE_NAMES = (
    *("undefined", "float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16"),
    *("float64", "uint32", "uint64", "complex64", "complex128", "bfloat16", "float8e4m3fn", "float8e4m3fnuz"),
    *("float8e5m2", "float8e5m2fnuz", "uint4", "int4", "float4e2m1", "float8e8m0", "uint2", "int2"),
)


def type_name(data_type: int | None) -> str:
    """Return what a TensorProto.DataType is called."""
    known = data_type is not None and 0 <= data_type < len(TYPE_NAMES)
    return TYPE_NAMES[data_type or 0] if known else f"type {data_type}"


@dataclass(frozen=True, slots=True)
class External:
    """Where a data file holds a tensor; `length` is None where the file does not say."""

    location: str
    offset: int
    length: int | None


@dataclass(frozen=True, eq=False)
class Tensor:
    """An initializer, or the tensor of an attribute; `record` is its whole field in the file.

    `typed` are the fields that hold numbers other than as raw bytes.
    """

    name: str
    shape: Shape
    data_type: int
    record: Record
    source: Source
    raw: Record | None = None
    typed: tuple[Record, ...] = ()
    external: External | None = None

    @property
    def size(self) -> int:
        """Count of its numbers."""
        return math.prod(self.shape)

    @property
    def type_name(self) -> str:
        """What its numbers are called."""
        return type_name(self.data_type)

    @property
    def where(self) -> str:
        """The beginning of messages about it."""
        return _where(self.source, self.name)

    @property
    def size_bytes(self) -> int | None:
        """Bytes of the numbers in raw form, None for types that are not read."""
        import numpy as np

        known = _TYPES.get(self.data_type)
        return None if known is None else self.size * np.dtype(known[0]).itemsize

    def check(self) -> None:
        """Raise ModelError unless the file holds as many numbers as the shape says; nothing is decoded."""
        needed = self.size_bytes
        if self.external is not None:
            self.span()
        elif needed is None:
            return
        elif self.raw is not None:
            found = self.raw.end - self.raw.value
            if found != needed:
                raise self._mismatch(f"holds {found} bytes", f"{needed}")
        elif self._counted() != self._wanted():
            raise self._mismatch(f"holds {self._counted()} numbers", f"{self._wanted()}")

    def array(self) -> NDArray[Any]:
        """Return the numbers in their shape, read-only: a view of the mapped file where they lie there as raw bytes.

        bfloat16 comes as float32. Raises ModelError where the file does not hold them, or in a type that is not read.
        """
        array = self._array
        array.flags.writeable = False
        return array

    @cached_property
    def _array(self) -> NDArray[Any]:
        import numpy as np

        known = _TYPES.get(self.data_type)
        if known is None:
            raise ModelError(f"{self.where} holds {self.type_name}, which is not read")
        self.check()
        kind = np.dtype(known[0])
        if self.size == 0:
            return np.zeros(self.shape, "<f4" if self.data_type == BFLOAT16 else kind)
        if self.external is not None:
            start, _ = self.span()
            flat = np.frombuffer(self.source.data(self.external.location, self.name), kind, self.size, start)
        elif self.raw is not None:
            flat = np.frombuffer(self.source.buffer, kind, self.size, self.raw.value)
        else:
            flat = self._decoded(kind)
        flat = flat.reshape(self.shape)
        if self.data_type == BFLOAT16:
            return (flat.astype("<u4") << 16).view("<f4")
        return flat

    def span(self) -> tuple[int, int]:
        """Return where in its data file a tensor starts and ends; ModelError where that cannot be."""
        assert self.external is not None
        place = self.external
        total = len(self.source.data(place.location, self.name))
        needed = self.size_bytes
        length = place.length if place.length is not None else needed if needed is not None else total - place.offset
        if needed is not None and length != needed:
            raise self._mismatch(f"has {length} bytes in '{shown(place.location)}'", f"{needed}")
        if place.offset < 0 or length < 0 or place.offset + length > total:
            raise ModelError(
                f"{self.where} is said to lie at bytes {place.offset} to "
                f"{place.offset + length} of '{shown(place.location)}', which has {total}; "
                "the files do not belong together"
            )
        return place.offset, place.offset + length

    def _mismatch(self, found: str, expected: str) -> ModelError:
        shape = "x".join(map(str, self.shape)) or "one number"
        told = f"{shape} of {self.type_name} takes {expected}"
        return ModelError(f"{self.where} {found}, but {told}; the file is damaged")

    def _wanted(self) -> int:
        return self.size * (2 if self.data_type in (14, 15) else 1)

    def _counted(self) -> int:
        """Return how many numbers the typed fields hold."""
        import numpy as np

        total, field = 0, _TYPES[self.data_type][1]
        for record in self.typed:
            if record.number != field:
                continue
            kind = _TYPED[field][0]
            if record.wire != BYTES:
                total += 1
            elif kind:
                total += (record.end - record.value) // np.dtype(kind).itemsize
            else:
                chunk = np.frombuffer(self.source.buffer, np.uint8, record.end - record.value, record.value)
                total += int(np.count_nonzero(chunk < 0x80))
        return total

    def _decoded(self, kind: np.dtype[Any]) -> NDArray[Any]:
        """Return the numbers of the typed fields as `kind`."""
        import numpy as np

        field = _TYPES[self.data_type][1]
        stored = _TYPED[field][0]
        parts = []
        for record in (record for record in self.typed if record.number == field):
            raw = np.frombuffer(self.source.buffer, np.uint8, record.end - record.value, record.value)
            parts.append(raw.view(stored) if stored else _varints(raw))
        flat = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, stored or "<u8"), *parts])
        if self.data_type in (10, BFLOAT16):  # Their bits, as int32.
            return flat.astype("<u2").view(kind)
        return flat.view(kind) if stored else flat.astype(kind)


def _varints(raw: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Decode packed varints; the last must be complete, and those of over ten bytes lose their upper bits."""
    import numpy as np

    ends = np.flatnonzero(raw < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
    values = np.zeros(len(ends), np.uint64)
    lengths = ends - starts + 1
    for i in range(min(10, int(lengths.max(initial=0)))):
        rows = lengths > i
        values[rows] |= (raw[starts[rows] + i].astype(np.uint64) & np.uint64(0x7F)) << np.uint64(7 * i)
    return values


def _where(source: Source, name: str) -> str:
    return f"{source.path}: tensor '{shown(name)}'"


def read_tensor(source: Source, record: Record) -> Tensor:
    """Index the TensorProto in a field; raises ParseError where it is damaged, ModelError for an impossible shape."""
    shape: list[int] = []
    name, data_type, is_external = "", 0, False
    raw: Record | None = None
    typed: list[Record] = []
    entries: dict[str, str] = {}
    for part in source.fields(record):
        if part.number == _DIMS:
            shape.extend(source.integers(part))
            if len(shape) > MAX_AXES:
                raise ParseError(source.path, f"a tensor has more than {MAX_AXES} axes", offset=part.start)
        elif part.number == _DATA_TYPE:
            data_type = source.integer(part)
        elif part.number == _NAME:
            name = source.string(part)
        elif part.number == _RAW and part.wire == BYTES:
            raw = part
        elif part.number in _TYPED:
            _check_numbers(source, part)
            typed.append(part)
        elif part.number == _EXTERNAL:
            key, value = read_entry(source, part)
            entries[key] = value
        elif part.number == _LOCATION:
            is_external = source.integer(part) == 1
    if any(size < 0 for size in shape):
        raise ModelError(f"{_where(source, name)} has the shape {shape}; expected sizes from 0")
    place = _external(source, name, entries) if is_external else None
    filled = tuple(part for part in typed if part.end > part.value)
    return Tensor(name, tuple(shape), data_type, record, source, raw, filled, place)


def _check_numbers(source: Source, part: Record) -> None:
    kind, single = _TYPED[part.number]
    whole = part.wire == single
    if part.wire == BYTES:
        length = part.end - part.value
        whole = length % int(kind[-1]) == 0 if kind else length == 0 or source.buffer[part.end - 1] < 0x80
    if not whole:
        raise ParseError(source.path, "a tensor's numbers are not whole; the file is damaged", offset=part.start)


def _external(source: Source, name: str, entries: dict[str, str]) -> External:
    if "location" not in entries:
        raise ModelError(f"{_where(source, name)} has its data in another file, but does not say in which")
    numbers: dict[str, int | None] = {"offset": 0, "length": None}
    for key in numbers:
        text = entries.get(key)
        if text is None:
            continue
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise ModelError(f"{_where(source, name)} has the {key} '{shown(text)}'; expected a number of bytes")
        numbers[key] = int(text)
    return External(entries["location"], numbers["offset"] or 0, numbers["length"])


def read_entry(source: Source, record: Record) -> tuple[str, str]:
    """Return key and value of a StringStringEntryProto."""
    key = value = ""
    for part in source.fields(record):
        if part.number == 1:
            key = source.string(part)
        elif part.number == 2:
            value = source.string(part)
    return key, value
