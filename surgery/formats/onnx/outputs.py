"""Copy an ONNX file with more of its tensors as outputs, for whoever wants to see what runs inside it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from surgery.errors import ModelError
from surgery.formats.onnx import encode, write
from surgery.formats.onnx.graph import Graph, read
from surgery.formats.onnx.source import shown
from surgery.formats.wire import encode_bytes

OUTPUT = 12
# Operators whose outputs are no tensors.
_NO_TENSORS = frozenset(
    (
        "Optional",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceMap",
        "SplitToSequence",
    )
)


def with_outputs(source: Path, names: Sequence[str] | None, target: Path) -> tuple[str, ...]:
    """Write a copy of an ONNX file whose outputs list these tensors as well; return the names of all its outputs.

    None means every tensor that a node of the graph makes, in running order. Data files are linked or copied to
    stand beside the copy. Raises ModelError for a name that the graph does not have.
    """
    graph = read(source)
    wanted = _every(graph) if names is None else names
    present = {info.name for info in graph.outputs}
    new = [name for name in dict.fromkeys(wanted) if name not in present]
    known = {*graph.makers, *graph.initializers, *(info.name for info in graph.listed)}
    for name in new:
        if name not in known:
            raise ModelError(f"{source}: has no tensor '{shown(name)}'")
    # Only the name: whoever runs the file infers the type, and a stale one would stop it.
    fields = tuple(encode_bytes(OUTPUT, encode.text(1, name)) for name in new)
    behind = (graph.outputs or graph.nodes)[-1].record
    parts = write.replaced(graph.source, {behind: (write.kept(behind), *fields)} if fields else {})
    write.check_size(parts, target.name)
    with target.open("wb") as file:
        write.stream(graph.source, parts, file)
    put_data(graph, target.parent, _link)
    return (*(info.name for info in graph.outputs), *new)


def _every(graph: Graph) -> list[str]:
    nodes = (node for node in graph.nodes if node.domain or node.op_type not in _NO_TENSORS)
    return [output for node in nodes for output in node.outputs if output]


def put_data(graph: Graph, folder: Path, put: Callable[[Path, Path], object]) -> tuple[Path, ...]:
    """Put the graph's data files into `folder`, one by one by `put`; return their paths.

    Raises ModelError where another file of that name is there.
    """
    paths = []
    for location in graph.data_files:
        source, target = graph.source.data_file(location, location).resolve(), folder / location
        paths.append(target)
        if target.exists():
            if not target.samefile(source):
                raise ModelError(f"{target}: is in the way of the model's data; choose another folder")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        put(source, target)
    return tuple(paths)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # Another file system, or one without links.
        shutil.copyfile(source, target)
