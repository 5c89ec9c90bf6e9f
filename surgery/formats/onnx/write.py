"""Write an ONNX file with some fields replaced; every other byte is copied from the mapping."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any

from surgery.errors import ModelError
from surgery.formats.onnx import encode
from surgery.formats.onnx.source import Buffer, Source
from surgery.formats.wire import BYTES, Record, encode_bytes, encode_tag, encode_varint

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_BYTES = 2**31 - 1  # protobuf's limit for one message
BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of the file as they are."""

    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Message:
    """A field that holds a message, made of parts; numbers stay arrays until they are written."""

    number: int
    parts: tuple[Part, ...]

    @cached_property
    def head(self) -> bytes:
        """Tag and length."""
        return encode_tag(self.number, BYTES) + encode_varint(sum(map(size, self.parts)))


if TYPE_CHECKING:
    Part = bytes | Span | Message | NDArray[Any]
    Replacements = Mapping[Record, Sequence[Part]]


def size(part: Part) -> int:
    """Return the bytes that a part takes in the file."""
    if isinstance(part, Span):
        return part.end - part.start
    if isinstance(part, Message):
        return len(part.head) + sum(map(size, part.parts))
    return len(part) if isinstance(part, bytes) else part.nbytes


def kept(record: Record) -> Span:
    """Return a field as it is."""
    return Span(record.start, record.end)


def tensor_parts(name: str, array: NDArray[Any], data_type: int) -> tuple[Part, ...]:
    """Return a TensorProto with its numbers, little-endian and in C order, as raw_data."""
    head = encode.tensor_head(name, array.shape, data_type)
    return (head + encode_tag(9, BYTES) + encode_varint(array.nbytes), array)


def replaced(source: Source, replacements: Replacements) -> list[Part]:
    """Return the file with each of the fields, at whatever depth, replaced; the lengths around them follow."""
    changes = sorted(replacements.items(), key=lambda item: item[0].start)
    return _rebuilt(source, 0, len(source.buffer), changes)


def _rebuilt(source: Source, start: int, end: int, changes: Sequence[tuple[Record, Sequence[Part]]]) -> list[Part]:
    parts: list[Part] = []
    position, index = start, 0
    for record in source.walk(start, end):
        inner = index
        while inner < len(changes) and changes[inner][0].start < record.end:
            inner += 1
        if inner == index:
            continue
        parts.append(Span(position, record.start))
        if changes[index][0].start == record.start:
            parts.extend(changes[index][1])
        else:
            parts.append(
                Message(record.number, tuple(_rebuilt(source, record.value, record.end, changes[index:inner])))
            )
        position, index = record.end, inner
    return [*parts, Span(position, end)]


def patched_external(source: Source, record: Record, location: str, offset: int, length: int) -> Message:
    """Return the field of a tensor with its data elsewhere; whatever else it says stays."""
    values = {"location": location, "offset": str(offset), "length": str(length)}
    parts: list[Part] = []
    for part in source.fields(record):
        if part.number != 13:
            parts.append(kept(part))
            continue
        key = next((source.string(field) for field in source.fields(part) if field.number == 1), "")
        value = values.pop(key, None)
        parts.append(kept(part) if value is None else encode_bytes(13, encode.entry(key, value)))
    parts += [encode_bytes(13, encode.entry(key, value)) for key, value in values.items()]
    return Message(record.number, tuple(parts))


def check_size(parts: Iterable[Part], name: str) -> None:
    """Raise ModelError where the file would be over protobuf's 2 GiB - 1."""
    total = sum(map(size, parts))
    if total > MAX_BYTES:
        raise ModelError(
            f"{name}: the result would take {total} bytes; one ONNX file holds at most {MAX_BYTES} (protobuf's limit): "
            "keep its weights in a data file beside it"
        )


def stream(source: Source, parts: Iterable[Part], file: IO[bytes]) -> None:
    """Write the parts."""
    for piece in pieces(source, parts):
        file.write(piece)


def pieces(source: Source, parts: Iterable[Part]) -> Iterator[bytes | memoryview]:
    """Yield the parts as bytes, in pieces of bounded size."""
    for part in parts:
        if isinstance(part, Message):
            yield part.head
            yield from pieces(source, part.parts)
        elif isinstance(part, Span):
            yield from blocks(source.buffer, part.start, part.end)
        elif isinstance(part, bytes):
            yield part
        else:
            yield from array_blocks(part)


def blocks(buffer: Buffer, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes of a mapping in pieces of bounded size, and let go of the memory that each has taken."""
    for position in range(start, end, BLOCK):
        yield buffer[position : min(end, position + BLOCK)]
        if isinstance(buffer, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            page = position // mmap.PAGESIZE * mmap.PAGESIZE
            buffer.madvise(mmap.MADV_DONTNEED, page, min(end, position + BLOCK) - page)


def array_blocks(array: NDArray[Any]) -> Iterator[memoryview]:
    """Yield the bytes of numbers, little-endian and in C order, a block of rows at a time."""
    rows = array.reshape(1) if array.ndim == 0 else array
    step = max(1, BLOCK * len(rows) // max(1, array.nbytes))
    kind = array.dtype.newbyteorder("<")
    for start in range(0, len(rows), step):
        # As bytes, for bfloat16 has no buffer of its own.
        yield rows[start : start + step].astype(kind, order="C", copy=False).reshape(-1).view("u1").data
