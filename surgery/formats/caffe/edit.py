"""Splices that add, move and take away whole fields of a prototxt and leave the lines around them as they are."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise

from surgery.formats.caffe.schema import quote, unquote
from surgery.formats.caffe.text import Document, Field, Splice, walk

_BLANK = re.compile(r"[ \t]*")
_LINE_END = re.compile(r"[ \t]*(?:\r?\n|\Z)")
_COMMENT = re.compile(r"[ \t]*#[^\r\n]*")
_GAP = r"(?:[ \t\r\n\f\v]|\#[^\n]*)*+"
_COMMA = re.compile(rf"{_GAP}(?P<mark>,)")
_LIST_END = re.compile(rf"{_GAP}(?P<mark>\](?:{_GAP}[;,])?)")


def newline(document: Document) -> str:
    """Return how the file ends its lines."""
    return "\r\n" if "\r\n" in document.text else "\n"


def margin(document: Document, position: int) -> str | None:
    """Return the white space between the start of the line and `position`; None when more stands there."""
    start = document.text.rfind("\n", 0, position) + 1
    before = document.text[start:position]
    return None if before.strip(" \t") else before


def unit(document: Document) -> str:
    """Return what the file indents one level by: as its first indented block does, else two spaces."""
    for field in document.fields:
        if field.children:
            outer, inner = margin(document, field.start), margin(document, field.children[0].start)
            if outer is not None and inner is not None and inner.startswith(outer) and inner != outer:
                return inner[len(outer) :]
    return "  "


def removals(document: Document, fields: Iterable[Field]) -> list[Splice]:
    """Return the splices that take fields away, with every line that holds nothing else; comments stay."""
    text = document.text
    spans: list[tuple[int, int]] = []
    for field in sorted(fields, key=lambda f: f.start):
        start = field.start
        if spans and not text[spans[-1][1] : start].strip(" \t"):
            start = spans.pop()[0]
        spans.append((start, field.end))
    return [cut(document, start, end) for start, end in spans]


def cut(document: Document, start: int, end: int) -> Splice:
    """Return the splice that takes `start:end` away, with its line when nothing else stands there."""
    indent, rest = margin(document, start), _LINE_END.match(document.text, end)
    if indent is not None and rest:
        return Splice(start - len(indent), rest.end(), "")
    if rest:
        return Splice(len(document.text[:start].rstrip(" \t")), end, "")
    blank = _BLANK.match(document.text, end)
    return Splice(start, blank.end() if blank else end, "")


def appended(document: Document, block: Field, line: str) -> Splice:
    """Return the splice that makes `line` the last field inside `block`."""
    close, children = block.value_end - 1, block.children or ()
    indent = margin(document, close)
    if indent is None:
        space = "" if document.text[close - 1].isspace() else " "
        return Splice(close, close, f"{space}{line} ")
    inner = margin(document, children[-1].start) if children else None
    place = close - len(indent)
    return Splice(place, place, f"{indent + unit(document) if inner is None else inner}{line}{newline(document)}")


def noted(document: Document, field: Field, notes: Iterable[str]) -> list[Splice]:
    """Return the splices that put comment lines above `field`."""
    indent, end = margin(document, field.start), newline(document)
    lines = "".join(f"# {note}{end}{indent or ''}" for note in notes)
    if not lines:
        return []
    return [Splice(field.start, field.start, end + lines if indent is None else lines)]


def flat(document: Document, field: Field) -> str:
    """Return a field on one line, without comments."""
    if field.children is None:
        raw = document.text[field.value_start : field.value_end]
        return f"{field.name}: {quote(unquote(raw)) if chr(10) in raw else raw}"
    inner = " ".join(flat(document, child) for child in field.children)
    return f"{field.name} {{ {inner} }}" if inner else f"{field.name} {{ }}"


def gathered(document: Document, block: str, fields: Sequence[tuple[Field, str]]) -> list[Splice]:
    """Return the splices that move fields, each with its new name, into one new block in place of the first.

    A comment behind a field on its line moves with it. None of the fields may be an element of a list.
    """
    first = fields[0][0]
    indent, end = margin(document, first.start), newline(document)
    if indent is None:
        inner = " ".join(renamed(document, field, name) for field, name in fields)
        others = removals(document, [field for field, _ in fields[1:]])
        return [Splice(first.start, first.end, f"{block} {{ {inner} }}"), *others]
    step = unit(document)
    moved = [_with_comment(document, field) for field, _ in fields]
    lines = []
    for (field, name), wide in zip(fields, moved, strict=True):
        line = renamed(document, field, name) + document.text[field.end : wide.end]
        lines.append(indent + step + line.replace("\n", "\n" + step))
    made = end.join([f"{block} {{", *lines, indent + "}"])
    return [Splice(first.start, moved[0].end, made), *removals(document, moved[1:])]


def renamed(document: Document, field: Field, name: str) -> str:
    """Return the field as it stands in the file, but under another name and without a separator behind it."""
    return name + document.text[field.start + len(field.name) : field.value_end]


def _with_comment(document: Document, field: Field) -> Field:
    """Return the field widened by the comment behind it, where the line is its own."""
    comment = _COMMENT.match(document.text, field.end)
    if comment is None or margin(document, field.start) is None:
        return field
    return field._replace(end=comment.end())


def without_lists(document: Document, names: Collection[str]) -> Document:
    """Return the document with `name: [a, b]` spelt `name: a name: b` for the given names, at any depth.

    Every such field then stands for itself, under its own name, and can be edited alone.
    """
    splices: list[Splice] = []
    blocks = [document.fields, *(field.children for field in walk(document.fields) if field.children)]
    for siblings in blocks:
        run: list[Field] = []
        for field in siblings:
            if field.name not in names:
                continue
            is_alone = document.text.startswith(field.name, field.start)
            if field.start == field.value_start:
                run.append(field)  # Only of the last element's slice the start is not the value's.
            elif run or not is_alone:
                splices += _unlisted(document, [*run, field])
                run = []
            elif "[" in document.text[field.start : field.value_start] and _opening(field.name).match(
                document.text[field.start : field.value_start]
            ):
                splices += _unlisted(document, [field])
    return document.edited(splices) if splices else document


def _opening(name: str) -> re.Pattern[str]:
    return re.compile(rf"{name}{_GAP}(?P<colon>:)?{_GAP}(?P<mark>\[){_GAP}\Z")


def _unlisted(document: Document, run: Sequence[Field]) -> list[Splice]:
    """Return the splices for one list: brackets away, each comma replaced by the next element's name."""
    text, name, value = document.text, run[0].name, run[0].value_start
    start = text.rfind(name, 0, value)
    while (opening := _opening(name).match(text[start:value])) is None:
        start = text.rfind(name, 0, start)
    bracket = start + opening.start("mark")
    splices = [Splice(bracket, bracket + 1, "" if opening["colon"] else ": ")]
    for field, following in pairwise(run):
        comma = _COMMA.match(text, field.value_end)
        if comma:
            splices.append(Splice(*comma.span("mark"), " "))
        splices.append(Splice(following.value_start, following.value_start, f"{name}: "))
    ending = _LIST_END.match(text, run[-1].value_end)
    return [*splices, Splice(*ending.span("mark"), "")] if ending else splices
