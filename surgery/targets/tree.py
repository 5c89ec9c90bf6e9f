"""A network's text as a plain tree, to be changed part by part and written out in one clean spelling."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from surgery.formats.caffe.schema import kind_of, quote, spell, spell_float
from surgery.formats.caffe.text import Document, Field, read_scalar


class Entry(NamedTuple):
    """One field: its name, and its value as it is spelt, or the fields of its block."""

    name: str
    value: str | Tree


Tree = tuple[Entry, ...]


def tree_of(document: Document) -> Tree:
    """Return the fields of a network, each scalar in the spelling that every reader of the format takes.

    Comments, lists in brackets and other shorthands go. Raises ParseError for a value of another type than the
    schema's.
    """
    return _tree(document, document.fields, "NetParameter")


def _tree(document: Document, fields: Iterable[Field], owner: str | None) -> Tree:
    return tuple(_entry(document, field, owner) for field in fields)


def _entry(document: Document, field: Field, owner: str | None) -> Entry:
    kind = kind_of(owner, field.name)
    if field.children is not None:
        return Entry(field.name, _tree(document, field.children, kind.type if kind else None))
    if kind is None or kind.is_message:
        return Entry(field.name, document.text[field.value_start : field.value_end])
    return Entry(field.name, spell(read_scalar(document, field, kind), kind))


def rendered(tree: Tree) -> str:
    """Return the text of a tree; blocks of one repeated number, such as shapes, stand on one line."""
    return "".join(f"{line}\n" for entry in tree for line in _lines(entry))


def _lines(entry: Entry) -> Iterable[str]:
    if isinstance(entry.value, str):
        yield f"{entry.name}: {entry.value}"
        return
    inner = [line for child in entry.value for line in _lines(child)]
    if not inner:
        yield f"{entry.name} {{ }}"
    elif len({child.name for child in entry.value}) == 1 and all(isinstance(c.value, str) for c in entry.value):
        yield f"{entry.name} {{ {' '.join(inner)} }}"
    else:
        yield from (f"{entry.name} {{", *(f"  {line}" for line in inner), "}")


def named(tree: Tree, name: str) -> list[Entry]:
    """Return the fields of that name."""
    return [entry for entry in tree if entry.name == name]


def without(tree: Tree, *names: str) -> Tree:
    """Return the tree without the fields of these names."""
    return tuple(entry for entry in tree if entry.name not in names)


def fields_of(tree: Tree, name: str) -> Tree:
    """Return the fields of the block of that name, of all where there are several, none where there is none."""
    return tuple(field for entry in named(tree, name) if not isinstance(entry.value, str) for field in entry.value)


def with_block(tree: Tree, made: Entry) -> Tree:
    """Return the tree with this block in place of those of its name, last where there is none."""
    place = next((i for i, entry in enumerate(tree) if entry.name == made.name), len(tree))
    return (*without(tree[:place], made.name), made, *without(tree[place:], made.name))


def mapped(tree: Tree, name: str, change: Callable[[Tree], Tree]) -> Tree:
    """Return the tree with `change` made to every block of that name."""
    return tuple(
        Entry(name, change(entry.value)) if entry.name == name and not isinstance(entry.value, str) else entry
        for entry in tree
    )


def layer(name: str, kind: str, bottoms: Iterable[str], tops: Iterable[str], *params: Entry) -> Entry:
    """Return a layer."""
    links = [*(Entry("bottom", quote(blob)) for blob in bottoms), *(Entry("top", quote(blob)) for blob in tops)]
    return Entry("layer", (Entry("name", quote(name)), Entry("type", quote(kind)), *links, *params))


def block(name: str, **fields: str | float | bool) -> Entry:
    """Return a block of scalars, each as `spelt`."""
    return Entry(name, tuple(Entry(key, spelt(value)) for key, value in fields.items()))


def spelt(value: str | float | bool) -> str:
    """Return how a number or a truth is written; a string, such as an enum's name, stays."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return spell_float(value) if isinstance(value, float) else str(value)
