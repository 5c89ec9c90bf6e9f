"""A lossless reader of protobuf's text format: the text stays as it is, the tree only points into it."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from surgery.errors import ParseError
from surgery.formats.caffe.schema import Kind, Value, kind_of, parse_scalar
from surgery.formats.caffe.text_parser import MAX_BYTES, MAX_FIELDS, Field, Parser, error_at

__all__ = [
    "MAX_BYTES",
    "MAX_FIELDS",
    "Document",
    "Field",
    "Message",
    "Splice",
    "check",
    "default_of",
    "deletion",
    "parse",
    "read",
    "read_scalar",
    "replacement",
    "spliced",
    "walk",
]


class Splice(NamedTuple):
    """Replace `start:end` of a text by `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, eq=False)
class Document:
    """A parsed text file: `text` is the file itself, undecodable bytes as surrogate escapes."""

    text: str
    path: Path | str
    fields: tuple[Field, ...]

    def encode(self) -> bytes:
        """Return the file's bytes."""
        return self.text.encode("utf-8", "surrogateescape")

    def slice(self, field: Field) -> str:
        """Return the field as it stands in the file."""
        return self.text[field.start : field.end]

    def error(self, position: int, message: str) -> ParseError:
        """Return an error that shows the line of `position` with a caret."""
        return error_at(self.text, self.path, position, message)

    def edited(self, splices: Sequence[Splice]) -> Document:
        """Return the document with `splices` applied."""
        return parse(spliced(self.text, splices), self.path)

    def message(self, type_name: str) -> Message:
        """Return the whole document as one typed message."""
        return Message(self, self.fields, type_name, 0)


@dataclass(frozen=True, eq=False)
class Message:
    """Typed access by field name to the fields of one block (or of a whole document)."""

    document: Document
    fields: tuple[Field, ...]
    type: builtins.str | None
    position: builtins.int

    @cached_property
    def _by_name(self) -> dict[builtins.str, list[Field]]:
        names: dict[builtins.str, list[Field]] = {}
        for field in self.fields:
            names.setdefault(field.name, []).append(field)
        return names

    def named(self, name: builtins.str) -> list[Field]:
        """Return the fields of that name, in file order."""
        return self._by_name.get(name, [])

    def has(self, name: builtins.str) -> builtins.bool:
        """Return whether the field is set."""
        return name in self._by_name

    def kind(self, name: builtins.str) -> Kind:
        """Return what `name` means here; KeyError is a mistake of the caller, not of the file."""
        kind = kind_of(self.type, name)
        if kind is None:
            raise KeyError(f"{self.type}.{name}")
        return kind

    def value(self, field: Field) -> Value:
        """Return the typed value of a scalar field; raises ParseError where the file holds something else."""
        return read_scalar(self.document, field, self.kind(field.name))

    def all(self, name: builtins.str) -> list[Value]:
        """Return all values of a scalar field."""
        kind = self.kind(name)
        return [read_scalar(self.document, field, kind) for field in self.named(name)]

    def get(self, name: builtins.str) -> Value | None:
        """Return the last value of a scalar field, else its default (an enum's default is its first value's name)."""
        found = self.named(name)
        return self.value(found[-1]) if found else default_of(self.kind(name))

    def int(self, name: builtins.str) -> builtins.int:
        """Return `get(name)` as an int; 0 where there is neither value nor default."""
        return int(self.get(name) or 0)

    def float(self, name: builtins.str) -> builtins.float:
        """Return `get(name)` as a float; 0 where there is neither value nor default."""
        return float(self.get(name) or 0)

    def str(self, name: builtins.str) -> builtins.str:
        """Return `get(name)` as a string; empty where there is neither value nor default."""
        value = self.get(name)
        return "" if value is None else str(value)

    def bool(self, name: builtins.str) -> builtins.bool:
        """Return `get(name)` as a bool."""
        return bool(self.get(name))

    def ints(self, name: builtins.str) -> list[builtins.int]:
        """Return all values of an integer field."""
        return [int(value) for value in self.all(name)]

    def strs(self, name: builtins.str) -> list[builtins.str]:
        """Return all values of a string or enum field."""
        return [str(value) for value in self.all(name)]

    def messages(self, name: builtins.str) -> list[Message]:
        """Return the blocks of that name; raises ParseError where one is a scalar."""
        kind = kind_of(self.type, name)
        inner = kind.type if kind and kind.is_message else None
        return [Message(self.document, _block(self.document, f), inner, f.value_start) for f in self.named(name)]

    def message(self, name: builtins.str) -> Message:
        """Return the block of that name, several merged as protobuf merges, or an empty one."""
        found = self.messages(name)
        if len(found) == 1:
            return found[0]
        kind = kind_of(self.type, name)
        inner = kind.type if kind and kind.is_message else None
        return Message(self.document, tuple(f for m in found for f in m.fields), inner, self.position)


def default_of(kind: Kind) -> Value | None:
    """Return a field's default value; an enum without one defaults to its first name."""
    if kind.default is None and kind.is_enum:
        from surgery.formats.caffe.schema_table import ENUMS

        return next(iter(ENUMS[kind.type]))
    return kind.default


def read_scalar(document: Document, field: Field, kind: Kind) -> Value:
    """Return the typed value of `field`; ParseError when it is a block or spelt wrongly."""
    if field.children is not None:
        raise document.error(
            field.value_start, f"'{field.name}' is a block; expected a single value of type {kind.type}"
        )
    raw = document.text[field.value_start : field.value_end]
    try:
        return parse_scalar(raw, kind)
    except ValueError as error:
        shown = raw if len(raw) <= 40 else raw[:37] + "..."
        raise document.error(field.value_start, f"'{field.name}' is {shown}; expected {error}") from error


def _block(document: Document, field: Field) -> tuple[Field, ...]:
    if field.children is None:
        raw = document.text[field.value_start : field.value_end]
        raise document.error(field.value_start, f"'{field.name}' is {raw[:40]}; expected a block in braces")
    return field.children


def read(path: Path) -> Document:
    """Read and parse a text file; raises ParseError, for one too large to be a network's before it is read."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ParseError(path, f"is larger than {MAX_BYTES} bytes; no network's text is that long")
    return parse(data.decode("utf-8", "surrogateescape"), path)


def parse(text: str, path: Path | str = "<text>") -> Document:
    """Parse `text`; raises ParseError with line, column and what was expected."""
    return Document(text, path, Parser(text, path).parse())


def check(document: Document, type_name: str) -> None:
    """Raise ParseError at the first known field whose value is of another type than the schema says."""
    pending: list[tuple[Field, str]] = [(field, type_name) for field in reversed(document.fields)]
    while pending:
        field, owner = pending.pop()
        kind = kind_of(owner, field.name)
        if kind is None:
            continue
        if kind.is_message:
            inner = kind.type
            pending.extend([(child, inner) for child in reversed(_block(document, field))])
        else:
            read_scalar(document, field, kind)


def spliced(text: str, splices: Sequence[Splice]) -> str:
    """Return `text` with all splices applied; overlapping deletions merge, insertions at one place keep their order."""
    out, position = [], 0
    for splice in sorted(splices, key=lambda s: (s.start, s.end)):
        out.append(text[position : max(position, splice.start)])
        out.append(splice.text)
        position = max(position, splice.end)
    out.append(text[position:])
    return "".join(out)


def deletion(field: Field) -> Splice:
    """Return the splice that removes exactly the field's slice."""
    return Splice(field.start, field.end, "")


def replacement(field: Field, value: str) -> Splice:
    """Return the splice that puts the spelling `value` in place of the field's value."""
    return Splice(field.value_start, field.value_end, value)


def walk(fields: Sequence[Field]) -> Iterator[Field]:
    """Yield every field of a tree, parents first."""
    pending = list(reversed(fields))
    while pending:
        field = pending.pop()
        yield field
        if field.children:
            pending.extend(reversed(field.children))
