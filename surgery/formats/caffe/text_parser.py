"""The parser of the lossless reader: from a text to fields that point into it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from surgery.errors import ParseError

MAX_DEPTH = 100  # protobuf's own limit for messages inside messages
MAX_FIELDS = 250_000  # seven times the largest known network; keeps the tree's memory bounded
MAX_BYTES = 32_000_000  # thirty times the largest known network; one wide character makes the text four times that

# Possessive only where nothing in the group can fail behind its first character: Python 3.11.2, Debian's, does not
# step back to where such a group began.
_GAP = r"(?:[ \t\r\n\f\v]++|\#[^\n]*+)*+"
_STRING = r'(?:"[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*"|\'[^\'\\\n]*+(?:\\[^\n][^\'\\\n]*+)*\')'
_NUMBER = r"(?:0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)(?![\w.])"
_SCALAR = rf"{_STRING}(?:{_GAP}{_STRING})*|(?:-{_GAP})?(?:{_NUMBER}|[A-Za-z_]\w*+)"
_FIELD = re.compile(
    rf"{_GAP}(?P<name>[A-Za-z_][A-Za-z0-9_]*+){_GAP}"
    rf"(?::{_GAP}(?P<scalar>{_SCALAR})(?P<separator>{_GAP}[;,])?|(?P<colon>:{_GAP})?(?P<open>[{{<\[]))"
)
_CLOSE = re.compile(rf"{_GAP}(?P<close>[}}>])(?P<separator>{_GAP}[;,])?")
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


def error_at(text: str, path: Path | str, position: int, message: str) -> ParseError:
    """Return an error that shows the line of `position` with a caret."""
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


class Parser:
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
        """Return the text's fields; raises ParseError."""
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
        return error_at(self.text, self.path, position, message)

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
