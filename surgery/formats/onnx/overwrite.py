"""Put other numbers in the place of a node's constants; shapes and types stay, and so does every other byte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from surgery.errors import ModelError
from surgery.formats.onnx.constants import FLOATS, Constant, constant
from surgery.formats.onnx.graph import Graph, OnnxNode, indexed
from surgery.formats.onnx.net import OnnxFile, OnnxNet
from surgery.formats.onnx.rework import put, reworked
from surgery.formats.onnx.source import Source
from surgery.formats.onnx.tensor import BFLOAT16, Tensor
from surgery.formats.patching import Patch, patched
from surgery.formats.wire import BYTES
from surgery.model import Overwrite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surgery.formats.onnx.write import Part

_TYPED = {1: 4, 11: 10}  # types whose typed field holds them as they are in memory, and that field


def blobs(graph: Graph, node: OnnxNode) -> Iterator[tuple[int, Constant]]:
    """Yield a node's constants of real numbers in the order of its inputs, each with the number of the input."""
    for index, name in enumerate(node.inputs):
        found = constant(graph, name) if name else None
        if found is not None and found.data_type in FLOATS:
            yield index, found


def overwritten(net: OnnxNet, changes: Sequence[Overwrite]) -> OnnxNet:
    """Return the network with other numbers in its file and its data files.

    Raises ModelError for a blob that a node does not have, or that is another node's as well.
    """
    numbers = {one.root: (one, array) for change in changes for one, array in _named(net, change)}
    patches: dict[str | None, list[Patch]] = {}
    spelt: list[tuple[str, NDArray[Any]]] = []
    for old, array in numbers.values():
        assert old.tensor is not None
        place = _place(old.tensor)
        if place is None:
            spelt.append((old.name, array))
        else:
            location, offset = place
            flat = _stored(old.tensor, array)
            patches.setdefault(location, []).append(Patch(offset, flat.itemsize, flat))
    changed = _patched(net, patches)
    fields: dict[Any, list[Part]] = {}
    for name, array in spelt:
        found = constant(changed.graph, name)
        assert found is not None
        put(changed.graph, fields, found, array)
    return reworked(changed, fields)


def _named(net: OnnxNet, change: Overwrite) -> Iterator[tuple[Constant, NDArray[Any]]]:
    """Yield what holds each blob, and its new numbers in that shape."""
    node = net.file.keys[change.key]
    known = dict(enumerate(constant for _, constant in blobs(net.graph, node)))
    for blob, array in change.blobs.items():
        if blob not in known or known[blob].tensor is None or known[blob].size != array.size:
            raise ModelError(f"{change.key}: has no blob {blob} of {array.size} numbers")
        root = known[blob].root
        views = {view.node for view in known[blob].views}
        if any(user is not node and user not in views for user in net.graph.users[root]):
            raise ModelError(f"{change.key}: its blob {blob} is another node's as well")
        yield known[blob], array.reshape(known[blob].root_shape)


def _place(tensor: Tensor) -> tuple[str | None, int] | None:
    """Return the data file, None for the model's own, and the offset of a tensor's numbers in a row.

    None where the file does not hold them so.
    """
    if tensor.external is not None:
        return tensor.external.location, tensor.span()[0]
    if tensor.raw is not None:
        return None, tensor.raw.value
    typed = [record for record in tensor.typed if record.number == _TYPED.get(tensor.data_type)]
    return (None, typed[0].value) if len(typed) == 1 and typed[0].wire == BYTES else None


def _stored(tensor: Tensor, array: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers in a row, in the type in which the file holds them."""
    import numpy as np

    flat = np.ascontiguousarray(array).reshape(-1)
    if tensor.data_type != BFLOAT16:
        kind: np.dtype[Any] = np.dtype(FLOATS[tensor.data_type]).newbyteorder("<")
        return flat.astype(kind)
    bits = flat.astype("<f4").view("<u4")
    nearest: NDArray[Any] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # Of two that are as near, the even one.
    return nearest.astype("<u2")


def _patched(net: OnnxNet, patches: dict[str | None, list[Patch]]) -> OnnxNet:
    old = net.graph.source
    own = patches.pop(None, [])
    data = {location: patched(old.data(location, location), found) for location, found in patches.items() if location}
    source = Source(old.path, patched(old.buffer, own) if own else old.buffer, replaced={**old.replaced, **data})
    return OnnxNet(OnnxFile(indexed(source), net.file.shapes, is_edited=net.file.is_edited))
