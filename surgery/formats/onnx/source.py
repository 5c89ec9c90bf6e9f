"""The bytes of an ONNX file and of the data files beside it, and how much of them may be looked at."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from surgery.errors import ModelError, ParseError
from surgery.formats.wire import BYTES, VARINT, Record, signed, varint, walk

# Several times what the largest known networks need; they keep the time and the memory of an index bounded.
MAX_PARTS = 3_000_000  # fields looked at
MAX_TEXT = 64_000_000  # bytes of names

Buffer = mmap.mmap | bytes


@dataclass(eq=False)
class Source:
    """A mapped ONNX file; data files are mapped when their first tensor is asked for.

    `replaced` are the bytes that stand for those of data files, by location.
    """

    path: Path
    buffer: Buffer
    parts: int = MAX_PARTS
    text: int = MAX_TEXT
    replaced: Mapping[str, Buffer] = field(default_factory=dict)
    _mapped: dict[str, Buffer] = field(default_factory=dict)

    def walk(self, start: int, end: int) -> Iterator[Record]:
        """Yield the fields of a message."""
        for record in walk(self.buffer, start, end, self.path):
            self.parts -= 1
            if self.parts < 0:
                raise self.error(record.start, f"more than {MAX_PARTS} fields beside the weights' numbers")
            yield record

    def fields(self, record: Record) -> Iterator[Record]:
        """Yield the fields of the message that a field holds; raises ParseError for a field of another kind."""
        if record.wire != BYTES:
            raise ParseError(
                self.path, f"field {record.number} is no message; the file is damaged", offset=record.start
            )
        return self.walk(record.value, record.end)

    def integer(self, record: Record) -> int:
        """Return the int64 of a field."""
        if record.wire != VARINT:
            message = f"field {record.number} is no whole number; the file is damaged"
            raise ParseError(self.path, message, offset=record.start)
        return signed(varint(self.buffer, record.value, record.end, self.path)[0])

    def integers(self, record: Record) -> Iterator[int]:
        """Yield the int64s of a repeated field, packed or one of those that stand alone."""
        if record.wire not in (VARINT, BYTES):
            message = f"field {record.number} holds no whole numbers; the file is damaged"
            raise ParseError(self.path, message, offset=record.start)
        position = record.value
        while position < record.end:
            self.parts -= 1
            if self.parts < 0:
                raise self.error(position, f"more than {MAX_PARTS} fields beside the weights' numbers")
            value, position = varint(self.buffer, position, record.end, self.path)
            yield signed(value)

    def string(self, record: Record) -> str:
        """Return the text of a field; what is not UTF-8 comes as lone surrogates."""
        if record.wire != BYTES:
            raise ParseError(self.path, f"field {record.number} is no text; the file is damaged", offset=record.start)
        self.text -= record.end - record.value
        if self.text < 0:
            raise self.error(record.start, f"more than {MAX_TEXT} bytes of names")
        return self.buffer[record.value : record.end].decode("utf-8", "surrogateescape")

    def error(self, offset: int, message: str) -> ParseError:
        """Return the error for a file over one of the bounds."""
        return ParseError(self.path, f"{message}; no network has that many", offset=offset)

    def data_file(self, location: str, tensor: str) -> Path:
        """Return the path of a data file; raises ModelError for one that is missing or outside the model's folder."""
        where = f"{self.path}: tensor '{shown(tensor)}' has its data in '{shown(location)}'"
        relative = Path(location)
        if "\0" in location or not location or relative.is_absolute() or ".." in relative.parts:
            raise ModelError(f"{where}; expected a path inside the model's folder")
        path = self.path.parent / relative
        folder = os.path.realpath(self.path.parent)
        real = os.path.realpath(path)
        if os.path.commonpath([folder, real]) != folder:
            raise ModelError(f"{where}, a link that leads out of the model's folder; copy the file there")
        if not path.is_file():
            missing = "is not a regular file" if path.exists() else "is not there"
            raise ModelError(f"{where}, which {missing}; put it beside the model")
        return path

    def data(self, location: str, tensor: str) -> Buffer:
        """Return the mapped bytes of a data file."""
        if location in self.replaced:
            return self.replaced[location]
        if location not in self._mapped:
            self._mapped[location] = mapped(self.data_file(location, tensor))
        return self._mapped[location]


def shown(text: str) -> str:
    """Return text of the file as messages print it: one line, and not too long."""
    return "".join(char if char.isprintable() else "?" for char in text[:80])


def mapped(path: Path) -> Buffer:
    """Return a file's bytes as a read-only map."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""  # Nothing cannot be mapped.
