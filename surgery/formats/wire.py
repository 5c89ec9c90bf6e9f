"""A walk over protobuf's wire format: where each field starts and ends, without decoding what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from surgery.errors import ParseError

VARINT, FIXED64, BYTES, START_GROUP, END_GROUP, FIXED32 = range(6)
MAX_DEPTH = 100  # protobuf's own limit for groups inside groups


class Buffer(Protocol):
    """Bytes or a memory map."""

    def __getitem__(self, index: int, /) -> int: ...
    def __len__(self) -> int: ...


class Record(NamedTuple):
    """One field: its number and wire type, `start` of its tag, and `value:end` of what follows tag and length."""

    number: int
    wire: int
    start: int
    value: int
    end: int


def walk(buffer: Buffer, start: int, end: int, path: Path | str) -> Iterator[Record]:
    """Yield the fields between the offsets `start` and `end`; raises ParseError with the offset of what is wrong."""
    position = start
    while position < end:
        tag, value = varint(buffer, position, end, path)
        number, wire = tag >> 3, tag & 7
        if number == 0 or number >= 1 << 29:
            raise ParseError(path, f"field number {number} is impossible; the file is damaged", offset=position)
        if wire == BYTES:
            length, value = varint(buffer, value, end, path)
            stop = value + length
        elif wire == VARINT:
            stop = varint(buffer, value, end, path)[1]
        elif wire == FIXED32:
            stop = value + 4
        elif wire == FIXED64:
            stop = value + 8
        elif wire == START_GROUP:
            stop = _group_end(buffer, number, value, end, path)
        else:
            raise ParseError(path, f"wire type {wire} cannot stand here; the file is damaged", offset=position)
        if stop > end:
            missing = f"field {number} is said to end at byte {stop}, but its message ends at {end}"
            raise ParseError(path, f"{missing}; the file is cut off or damaged", offset=position)
        yield Record(number, wire, position, value, stop)
        position = stop


def varint(buffer: Buffer, position: int, end: int, path: Path | str) -> tuple[int, int]:
    """Return an unsigned number and the offset behind it."""
    result = shift = 0
    start = position
    while position < end:
        byte = buffer[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFF_FFFF_FFFF_FFFF, position  # protobuf drops what is above 64 bits
        shift += 7
        if shift >= 70:
            raise ParseError(path, "a number is longer than ten bytes; the file is damaged", offset=start)
    raise ParseError(path, "the file ends inside a number; it is cut off or damaged", offset=start)


def signed(value: int) -> int:
    """Return the int64 that the varint `value` stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _group_end(buffer: Buffer, number: int, position: int, end: int, path: Path | str) -> int:
    """Return the offset behind the end tag of the group `number` whose fields begin at `position`."""
    start, opened = position, [number]
    while opened:
        if len(opened) > MAX_DEPTH or position >= end:
            raise ParseError(path, "a group is never closed; the file is cut off or damaged", offset=start)
        here = position
        tag, position = varint(buffer, position, end, path)
        number, wire = tag >> 3, tag & 7
        if wire == START_GROUP:
            opened.append(number)
        elif wire == END_GROUP:
            if opened.pop() != number:
                raise ParseError(path, f"group {number} ends here but was not opened; the file is damaged", offset=here)
        elif wire == BYTES:
            length, position = varint(buffer, position, end, path)
            position += length
        elif wire == VARINT:
            position = varint(buffer, position, end, path)[1]
        elif wire in (FIXED32, FIXED64):
            position += 4 if wire == FIXED32 else 8
        if wire > FIXED32 or number == 0 or number >= 1 << 29:
            raise ParseError(path, f"tag {tag} is impossible; the file is damaged", offset=here)
    return position


def encode_varint(value: int) -> bytes:
    """Return the bytes of a non-negative number."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_tag(number: int, wire: int) -> bytes:
    """Return the bytes of a field's tag."""
    return encode_varint(number << 3 | wire)


def encode_bytes(number: int, value: bytes) -> bytes:
    """Return a whole length-delimited field."""
    return encode_tag(number, BYTES) + encode_varint(len(value)) + value
