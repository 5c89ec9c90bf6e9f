"""Findings in a prototxt's text: what protobuf's parser, and Caffe's upgrade right behind it, do with it."""

from __future__ import annotations

import difflib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from surgery.errors import ParseError
from surgery.formats.caffe.finding import Finding, refusal
from surgery.formats.caffe.network import input_names, is_mixed, layers
from surgery.formats.caffe.schema import Kind, kind_of
from surgery.formats.caffe.schema_table import ENUMS, MESSAGES
from surgery.formats.caffe.targets import REQUIRED, Target, names
from surgery.formats.caffe.text import Document, Field, read_scalar
from surgery.formats.caffe.upgrade import needs_upgrade

MAX_CHOICES = 8  # An enum of more values is not listed in a message.


def schema_findings(document: Document, judged: Sequence[Target]) -> list[Finding]:
    """Return what the schemas of `judged` say of a network's text, in the file's order.

    The same finding at several places is told once, at the first. A "wrong-type" among the findings means that the
    text's values cannot be asked for.
    """
    found = _Schema(document, judged).findings()
    if document.text.startswith("\ufeff"):
        message = "the file begins with a byte order mark; Caffe refuses the file: save it as UTF-8 without BOM"
        found.insert(0, Finding("error", "byte-order-mark", f"{document.path}:1:1", message))
    return found


def upgrade_findings(document: Document, judged: Sequence[Target]) -> list[Finding]:
    """Return what Caffe's upgrade of old spellings does with a network whose values have the right types."""
    return [*_generations(document, judged), *_inputs(document), *_rules(document)]


class _Block(NamedTuple):
    """A message in the text, and the runtimes that have read on so far."""

    fields: tuple[Field, ...]
    type: str
    position: int
    readers: tuple[Target, ...]


class _Schema:
    """One walk over a tree; what is found is kept with its position and how often it was found."""

    def __init__(self, document: Document, judged: Sequence[Target]) -> None:
        self.document, self.judged = document, tuple(judged)
        self.found: dict[tuple[str, ...], tuple[int, int, Finding]] = {}

    def findings(self) -> list[Finding]:
        pending = [_Block(self.document.fields, "NetParameter", 0, self.judged)]
        while pending:
            block = pending.pop()
            pending += reversed(list(self._block(block)))
        told = sorted(self.found.values(), key=lambda item: item[0])
        return [
            replace(finding, message=f"{finding.message} ({count} places)") if count > 1 else finding
            for _, count, finding in told
        ]

    def _block(self, block: _Block) -> Iterator[_Block]:
        """Enter what is found in the block itself, and yield the blocks in it."""
        seen = set()
        for field in block.fields:
            kind = kind_of(block.type, field.name)
            knowing = tuple(t for t in block.readers if t.knows_field(block.type, field.name))
            if len(knowing) < len(block.readers) or not block.readers:
                self._foreign(block, field, knowing)
            if kind is None or not knowing:
                continue
            if field.name in seen and not kind.repeated:
                self._twice(block, field, kind)
            seen.add(field.name)
            if kind.is_message and field.children is not None:
                yield _Block(field.children, kind.type, field.value_start, knowing)
            else:
                self._value(block, field, kind, knowing)
        for name in REQUIRED.get(block.type, ()):
            if name not in seen:
                message = f"{block.type} needs '{name}'; Caffe refuses the file: set it"
                self._add(block.position, Finding("error", "missing-field", "", message), block.type, name)

    def _foreign(self, block: _Block, field: Field, knowing: tuple[Target, ...]) -> None:
        skipping = [t for t in block.readers if t.skips_unknown_fields and t not in knowing]
        if skipping:
            message = f"'{field.name}' in {block.type}: {', '.join(names(skipping))} passes over it; it has no effect"
            finding = Finding("warning", "ignored-field", "", message, names(skipping))
            self._add(field.start, finding, block.type, field.name)
        refusing = [t for t in self.judged if t not in knowing and t not in skipping]
        if not refusing:
            return
        severity, words, targets = refusal(refusing, self.judged)
        if field.name in MESSAGES[block.type]:
            message = f"'{field.name}' in {block.type}: {words}; remove it, or run the network elsewhere"
            finding = Finding(severity, "foreign-field", "", message, targets)
        else:
            hint = _meant(field.name, MESSAGES[block.type])
            message = f"{block.type} has no field '{field.name}': {words}; {hint or 'remove it'}"
            finding = Finding(severity, "unknown-field", "", message, targets)
        self._add(field.start, finding, block.type, field.name)

    def _twice(self, block: _Block, field: Field, kind: Kind) -> None:
        what = "the blocks are not merged, " if kind.is_message else ""
        message = f"'{field.name}' is given twice in one {block.type}; {what}Caffe refuses the file: keep one"
        self._add(field.start, Finding("error", "given-twice", "", message), block.type, field.name)

    def _value(self, block: _Block, field: Field, kind: Kind, knowing: tuple[Target, ...]) -> None:
        if kind.is_message:
            message = f"'{field.name}' is a single value, expected a block in braces; Caffe refuses the file"
            self._add(field.value_start, Finding("error", "wrong-type", "", message))
            return
        try:
            value = read_scalar(self.document, field, kind)
        except ParseError as error:
            message = f"{error.message}; Caffe refuses the file"
            self._add(field.value_start, Finding("error", "wrong-type", "", message), error.message)
            return
        if kind.is_enum:
            self._enum(field, kind, str(value), knowing)

    def _enum(self, field: Field, kind: Kind, value: str, readers: tuple[Target, ...]) -> None:
        values = ENUMS[kind.type]
        knowing = [t for t in readers if value in values and t.knows_value(kind.type, value)]
        if len(knowing) == len(readers):
            return
        severity, words, targets = refusal([t for t in self.judged if t not in knowing], self.judged)
        code = "foreign-value" if value in values else "unknown-value"
        choices = [name for name in values if any(t.knows_value(kind.type, name) for t in readers)]
        hint = _meant(value, choices) or (f"use {', '.join(choices)}" if len(choices) <= MAX_CHOICES else "")
        message = f"'{field.name}' is {value}: {words}; {hint or 'run the network elsewhere'}"
        self._add(field.value_start, Finding(severity, code, "", message, targets), field.name, value)

    def _add(self, position: int, finding: Finding, *words: str) -> None:
        key = (finding.code, *words) if words else (finding.code, str(position))
        first, count, told = self.found.get(key, (position, 0, replace(finding, where=self._place(position))))
        self.found[key] = (first, count + 1, told)

    def _place(self, position: int) -> str:
        line = bisect_right(self._lines, position)
        return f"{self.document.path}:{line}:{position - self._lines[line - 1] + 1}"

    @cached_property
    def _lines(self) -> list[int]:
        """Where each line begins."""
        starts = [0]
        while (end := self.document.text.find("\n", starts[-1])) >= 0:
            starts.append(end + 1)
        return starts


def _meant(word: str, known: Iterable[str]) -> str:
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.75)
    return f"did you mean '{by_lower[close[0]]}'?" if close else ""


def _generations(document: Document, judged: Sequence[Target]) -> Iterator[Finding]:
    where = str(document.path)
    if is_mixed(document):
        message = "has both `layer` and `layers`; Caffe refuses to upgrade such a file: rewrite the `layers` as `layer`"
        yield Finding("error", "mixed-generations", where, message)
        return
    steps = needs_upgrade(document)
    if steps:
        message = f"old spelling ({', '.join(steps)}): Caffe upgrades it on every load; `surgery upgrade` does so once"
        yield Finding("note", "upgraded-on-load", where, message)
    refusing = [target for target in judged if "v0" in target.without]
    if refusing and any(layer.generation == 0 for layer in layers(document)):
        severity, words, targets = refusal(refusing, judged)
        yield Finding(severity, "old-generation", where, f"the network is in V0's spelling: {words}; upgrade", targets)


def _inputs(document: Document) -> Iterator[Finding]:
    """Yield what is wrong with `input` fields; Caffe counts nothing here and reads past the end."""
    net, where = document.message("NetParameter"), str(document.path)
    inputs, shapes, dims = (len(net.named(name)) for name in ("input", "input_shape", "input_dim"))
    if not inputs:
        stray = "input_shape" if shapes else "input_dim" if dims else ""
        if stray:
            message = f"`{stray}` without any `input`; Caffe ignores it: add the `input`, or remove it"
            yield Finding("warning", "shape-without-input", where, message)
    elif shapes and shapes != inputs:
        message = f"{inputs} `input` but {shapes} `input_shape`; Caffe reads past the end: give one each"
        yield Finding("error", "input-count", where, message)
    elif shapes and dims:
        message = "both `input_shape` and `input_dim`; Caffe ignores input_dim (before 1.0: refuses): remove input_dim"
        yield Finding("warning", "input-dim-ignored", where, message)
    elif dims and dims != 4 * inputs:
        message = f"{inputs} `input` need {4 * inputs} `input_dim`, found {dims}; Caffe reads past the end: give all"
        yield Finding("error", "input-count", where, message)
    elif not shapes and not dims:
        yield _bare_input(document)


def _bare_input(document: Document) -> Finding:
    """Return what happens to `input` fields without shapes: Caffe drops them, and what reads them has no source."""
    found = layers(document)
    made = {top for layer in found for top in layer.tops}
    missing = [name for name in input_names(document) if name not in made]
    reader = next((layer.name for layer in found if set(missing) & set(layer.bottoms)), None)
    if reader is None:
        message = "`input` without a shape; Caffe drops it, and no layer reads it: remove it"
        return Finding("note", "input-ignored", str(document.path), message)
    message = f"`input` without a shape; Caffe drops it and stops at '{reader}', which reads it: add input_shape"
    return Finding("error", "input-without-shape", str(document.path), message)


def _rules(document: Document) -> Iterator[Finding]:
    for layer in layers(document):
        if layer.generation and layer.message.has("include") and layer.message.has("exclude"):
            message = "has both include and exclude rules; Caffe stops: keep one kind"
            yield Finding("error", "include-and-exclude", layer.name, message)
