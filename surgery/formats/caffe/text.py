"""A lossless reader of protobuf's text format: the text stays as it is, the tree only points into it."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from surgery.errors import ParseError
from surgery.formats.caffe.schema import Kind, Value, kind_of, parse_scalar

MAX_DEPTH = 100  # protobuf's own limit for messages inside messages
MAX_FIELDS = 250_000  # seven times the largest known network; keeps the tree's memory bounded
MAX_BYTES = 32_000_000  # thirty times the largest known network; one wide character makes the text four times that

_GAP = r"(?:[ \t\r\n\f\v]++|\#[^\n]*+)*+"
_STRING = r'(?:"(?:[^"\\\n]|\\[^\n])*+"|\'(?:[^\'\\\n]|\\[^\n])*+\')'
_NUMBER = r"(?:0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)(?![\w.])"
_SCALAR = rf"{_STRING}(?:{_GAP}{_STRING})*+|(?:-{_GAP})?(?:{_NUMBER}|[A-Za-z_]\w*+)"
_FIELD = re.compile(
    rf"{_GAP}(?P<name>[A-Za-z_][A-Za-z0-9_]*+){_GAP}"
    rf"(?::{_GAP}(?P<scalar>{_SCALAR})(?P<separator>{_GAP}[;,])?+|(?P<colon>:{_GAP})?(?P<open>[{{<\[]))"
)
_CLOSE = re.compile(rf"{_GAP}(?P<close>[}}>])(?P<separator>{_GAP}[;,])?+")
_ELEMENT = re.compile(rf"{_GAP}(?:(?P<scalar>{_SCALAR})|(?P<open>[{{<])|(?P<close>\]))")
_AFTER_ELEMENT = re.compile(rf"{_GAP}(?P<mark>[,\]])")
_SEPARATOR = re.compile(rf"{_GAP}[;,]")
_SKIP = re.compile(_GAP)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*+")
_WORD = re.compile(r"[+-]?[\w.]+")
_CLOSER = {"{": "}", "<": ">"}


class Field(NamedTuple):
    """One field of a text file. Positions count characters.

    `start:end` is the slice that deleting the field removes (with its separator, or its list comma);
    `value_start:value_end` is the value, braces included. `children` is None for a scalar.
    """

    name: str
    start: int
    end: int
    value_start: int
    value_end: int
    children: tuple[Field, ...] | None


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
        return _error_at(self.text, self.path, position, message)

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
    return Document(text, path, _Parser(text, path).parse())


def check(document: Document, type_name: str) -> None:
    """Raise ParseError at the first known field whose value is of another type than the schema says."""
    pending: list[tuple[Field, str]] = [(field, type_name) for field in reversed(document.fields)]
    while pending:
        field, owner = pending.pop()
        kind = kind_of(owner, field.name)
        if kind is None:
            continue
        if kind.is_message:
            pending += [(child, kind.type) for child in reversed(_block(document, field))]
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


def _error_at(text: str, path: Path | str, position: int, message: str) -> ParseError:
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    line = text[start : end if end >= 0 else len(text)].rstrip("\r")
    column = position - start
    window = max(0, column - 60)  # A line of a minified file can be the whole file.
    shown = "".join(c if c.isprintable() else " " if c == "\t" else "?" for c in line[window : window + 100])
    excerpt = f"  {shown}\n  {' ' * (column - window)}^"
    return ParseError(path, message, line=text.count("\n", 0, position) + 1, column=column + 1, excerpt=excerpt)


class _Open(NamedTuple):
    """A block whose end has not been seen; `in_list` when it is an element of `[...]`."""

    name: str
    start: int
    value_start: int
    closer: str
    in_list: bool
    outer: list[Field]


class _List(NamedTuple):
    """A `[...]` whose end has not been seen; `first` is the index of its first element among the fields."""

    name: str
    start: int
    has_colon: bool
    first: int


class _Parser:
    """One pass over the text with an explicit stack, so that depth costs no recursion."""

    def __init__(self, text: str, path: Path | str) -> None:
        self.text, self.path = text, path
        self.position = 1 if text.startswith("\ufeff") else 0
        self.fields: list[Field] = []
        self.stack: list[_Open] = []
        self.lists: list[_List] = []
        self.names: dict[str, str] = {}  # One object for each name keeps the tree small.
        self.count = 0

    def parse(self) -> tuple[Field, ...]:
        text, match_field = self.text, _FIELD.match
        while True:
            match = match_field(text, self.position)
            if match is None:
                if not self._close_or_end():
                    return tuple(self.fields)
                continue
            start, opener = match.start("name"), match.group("open")
            name = self.names.setdefault(match["name"], match["name"])
            self._count(start)
            self.position = match.end()
            if opener is None:
                value_start, value_end = match.span("scalar")
                self.fields.append(Field(name, start, self.position, value_start, value_end, None))
            elif opener == "[":
                self.lists.append(_List(name, start, match["colon"] is not None, len(self.fields)))
                self._element()
            else:
                self._push(name, start, match.start("open"), opener, in_list=False)

    def _count(self, position: int) -> None:
        self.count += 1
        if self.count > MAX_FIELDS:
            raise self._fail(position, f"more than {MAX_FIELDS} fields; no network is that long")

    def _push(self, name: str, start: int, value_start: int, opener: str, *, in_list: bool) -> None:
        if len(self.stack) >= MAX_DEPTH:
            raise self._fail(value_start, f"blocks are nested more than {MAX_DEPTH} deep")
        self.stack.append(_Open(name, start, value_start, _CLOSER[opener], in_list, self.fields))
        self.fields = []

    def _close_or_end(self) -> bool:
        """Close the innermost block; return False at the end of the text."""
        match = _CLOSE.match(self.text, self.position)
        if match is None:
            gap = _SKIP.match(self.text, self.position)
            end = gap.end() if gap else self.position
            if end == len(self.text) and not self.stack:
                return False
            raise self._diagnose(end)
        if not self.stack:
            raise self._fail(match.start("close"), f"'{match['close']}' closes nothing; expected a field name")
        opened = self.stack.pop()
        if match["close"] != opened.closer:
            raise self._fail(
                match.start("close"),
                f"expected '{opened.closer}' to close '{opened.name}', found '{match['close']}'",
            )
        end = match.end("close") if opened.in_list else match.end()
        field = Field(opened.name, opened.start, end, opened.value_start, match.end("close"), tuple(self.fields))
        self.fields = opened.outer
        self.fields.append(field)
        self.position = end
        if opened.in_list:
            self._after_element()
        return True

    def _element(self) -> None:
        """Read list elements until the list ends or a block opens."""
        name, start, has_colon, first = self.lists[-1]
        while True:
            match = _ELEMENT.match(self.text, self.position)
            empty = len(self.fields) == first
            if match is None or (match["close"] and not empty):
                raise self._diagnose_value(name)
            if match["scalar"] and not has_colon:
                raise self._fail(start + len(name), f"expected ':' after '{name}', whose list holds values")
            self.position = match.end()
            if match["close"]:
                self._end_list()
                return
            self._count(match.end())
            if match["open"]:
                self._push(name, match.start("open"), match.start("open"), match["open"], in_list=True)
                return
            begin, end = match.span("scalar")
            self.fields.append(Field(name, begin, end, begin, end, None))
            if self._mark() == "]":
                self._end_list()
                return

    def _after_element(self) -> None:
        if self._mark() == "]":
            self._end_list()
        else:
            self._element()

    def _mark(self) -> str:
        match = _AFTER_ELEMENT.match(self.text, self.position)
        if match is None:
            gap = _SKIP.match(self.text, self.position)
            raise self._fail(gap.end() if gap else self.position, "expected ',' or ']' in the list")
        self.position = match.end()
        return match["mark"]

    def _end_list(self) -> None:
        """Widen the elements' slices by their commas; a lone element's slice is the whole field."""
        _, start, _, first = self.lists.pop()
        separator = _SEPARATOR.match(self.text, self.position)
        if separator:
            self.position = separator.end()
        elements = self.fields[first:]
        if len(elements) == 1:
            self.fields[first] = elements[0]._replace(start=start, end=self.position)
            return
        for index, element in enumerate(elements):
            if index + 1 < len(elements):
                comma = _AFTER_ELEMENT.match(self.text, element.value_end)
                self.fields[first + index] = element._replace(end=comma.end() if comma else element.end)
            else:
                self.fields[first + index] = element._replace(start=elements[index - 1].value_end)

    def _fail(self, position: int, message: str) -> ParseError:
        return _error_at(self.text, self.path, position, message)

    def _diagnose(self, position: int) -> ParseError:
        """Return the error for a place where neither a field nor an end can be read."""
        if position >= len(self.text):
            opened = self.stack[-1]
            line = self.text.count("\n", 0, opened.start) + 1
            return self._fail(
                position,
                f"the file ends inside '{opened.name}' (opened in line {line}); expected '{opened.closer}'",
            )
        name = _NAME.match(self.text, position)
        if name is None:
            found = self.text[position]
            return self._fail(position, f"expected a field name, found {found!r}")
        self.position = name.end()
        gap = _SKIP.match(self.text, self.position)
        after = gap.end() if gap else self.position
        if self.text[after : after + 1] != ":":
            found = repr(self.text[after]) if after < len(self.text) else "the end of the file"
            return self._fail(min(after, len(self.text)), f"expected ':' or '{{' after '{name[0]}', found {found}")
        self.position = after + 1
        return self._diagnose_value(name[0])

    def _diagnose_value(self, name: str) -> ParseError:
        gap = _SKIP.match(self.text, self.position)
        position = gap.end() if gap else self.position
        found = self.text[position : position + 1]
        if found in ('"', "'"):
            return self._fail(position, f"the string of '{name}' is not closed on its line")
        word = _WORD.match(self.text, position, position + 40)
        shown = repr(word[0] if word else found) if found else "the end of the file"
        return self._fail(position, f"expected a value for '{name}', found {shown}")
