"""Give the inputs of a network another batch size, and a shape each."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.formats.caffe.schema import unquote
from surgery.targets.tree import Entry, Tree, mapped, named

_RECURRENT = {'"LSTM"', '"LSTMUnit"', '"RNN"'}

Dims = tuple[str, ...]


def rebatched(tree: Tree, batch: int) -> tuple[Tree, tuple[str, ...]]:
    """Return the network with Input layers of `batch`, one shape for each top, and what changed.

    The batch is the first axis of the first input of two or more axes, and of every other that has as many there; the
    others, such as a list of regions, stay. So do the inputs of recurrent networks: their first axis is time.
    """
    inputs = [entry.value for entry in tree if _is_type(entry, '"Input"') and not isinstance(entry.value, str)]
    stated = next((dims[0] for fields in inputs for dims in _shapes(fields) if len(dims) > 1), None)
    recurrent = any(_is_type(entry, kind) for entry in tree for kind in _RECURRENT)
    wanted = stated if recurrent or stated is None else str(batch)
    result = tuple(
        Entry("layer", _with_shapes(entry.value, stated, wanted))
        if _is_type(entry, '"Input"') and not isinstance(entry.value, str)
        else entry
        for entry in tree
    )
    if wanted == stated:
        return result, ()
    names = [top for fields in inputs for top, dims in _tops(fields) if len(dims) > 1 and dims[0] == stated]
    return result, (f"batch {stated} became {wanted} at {', '.join(names)}",)


def _is_type(entry: Entry, kind: str) -> bool:
    return entry.name == "layer" and Entry("type", kind) in entry.value


def _shapes(fields: Tree) -> list[Dims]:
    """Return the shapes that an Input layer states."""
    params = [entry.value for entry in named(fields, "input_param") if not isinstance(entry.value, str)]
    shapes = [shape.value for param in params for shape in named(param, "shape")]
    return [tuple(str(dim.value) for dim in shape if isinstance(dim, Entry)) for shape in shapes]


def _tops(fields: Tree) -> list[tuple[str, Dims]]:
    """Return the blobs of an Input layer with their shapes; one shape stands for all."""
    tops = [unquote(entry.value) for entry in named(fields, "top") if isinstance(entry.value, str)]
    shapes = _shapes(fields)
    return list(zip(tops, shapes * len(tops) if len(shapes) == 1 else shapes, strict=False))


def _with_shapes(fields: Tree, stated: str | None, wanted: str | None) -> Tree:
    shapes: Sequence[Dims] = [dims for _, dims in _tops(fields)]
    if len(shapes) < len(named(fields, "top")):
        return fields  # Caffe refuses it, which is told elsewhere.
    return mapped(fields, "input_param", lambda _: tuple(_shape(dims, stated, wanted) for dims in shapes))


def _shape(dims: Dims, stated: str | None, wanted: str | None) -> Entry:
    if len(dims) > 1 and dims[0] == stated and wanted is not None:
        dims = (wanted, *dims[1:])
    return Entry("shape", tuple(Entry("dim", dim) for dim in dims))
