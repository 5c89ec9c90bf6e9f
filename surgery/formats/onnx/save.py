"""Write a changed ONNX model: the file with fields replaced, and one data file where its weights lie outside."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.errors import ModelError
from surgery.formats.onnx import changes, write
from surgery.formats.onnx.graph import Graph
from surgery.formats.onnx.net import OnnxNet
from surgery.formats.onnx.outputs import put_data
from surgery.formats.onnx.store import Store

if TYPE_CHECKING:
    from surgery.formats.onnx.write import Part


def save(net: OnnxNet, folder: Path, stem: str) -> tuple[Path, ...]:
    """Write `<stem>.onnx` and, where the model has its weights outside or is over 2 GiB, `<stem>.onnx.data`.

    A model without edits is copied byte for byte, its data files under their own names. Raises ModelError where even
    with the new weights outside the file would be over protobuf's 2 GiB - 1.
    """
    target = folder / f"{stem}.onnx"
    if not net.cuts and not net.reweighed and not net.file.is_edited:
        return copy(net.graph, target)
    data = folder / f"{target.name}.data"
    store = Store(data.name) if net.graph.data_files else None
    parts = _parts(net, store, all_outside=False)
    if sum(map(write.size, parts)) > write.MAX_BYTES:
        store = Store(data.name)
        parts = _parts(net, store, all_outside=True)
    write.check_size(parts, target.name)
    with target.open("wb") as file:
        write.stream(net.graph.source, parts, file)
    if store is None:
        return (target,)
    store.write(data)
    return target, data


def _parts(net: OnnxNet, store: Store | None, *, all_outside: bool) -> list[Part]:
    made = changes.made(net, store, all_outside=all_outside)
    return write.replaced(net.graph.source, made.finish())


def copy(graph: Graph, target: Path) -> tuple[Path, ...]:
    """Write a file again as it is, its data files beside it; return the new paths."""
    with target.open("wb") as file:
        write.stream(graph.source, write.replaced(graph.source, {}), file)
    data = put_data(graph, target.parent, shutil.copyfile)
    for path, location in zip(data, graph.data_files, strict=True):
        if location in graph.source.replaced:
            if path.samefile(graph.source.data_file(location, location)):
                raise ModelError(f"{path}: holds the model's data as it was; choose another folder")
            replaced = graph.source.replaced[location]
            with path.open("wb") as file:
                file.writelines(write.blocks(replaced, 0, len(replaced)))
    return (target, *data)


def digest(graph: Graph) -> str:
    """Return the SHA-256 over the digests of the file and its data files."""
    data = (graph.source.data(location, location) for location in graph.data_files)
    total = hashlib.sha256()
    for buffer in (graph.source.buffer, *data):
        one = hashlib.sha256()
        for block in write.blocks(buffer, 0, len(buffer)):
            one.update(block)
        total.update(one.digest())
    return total.hexdigest()
