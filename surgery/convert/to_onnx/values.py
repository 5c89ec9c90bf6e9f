"""Which tensor holds a blob at each moment: Caffe writes in place and lets blobs share memory, ONNX does neither."""

from __future__ import annotations

from dataclasses import dataclass

from surgery.convert.to_onnx.graph import Graph
from surgery.model import Shape


@dataclass
class _Memory:
    """A piece of Caffe's memory: what stands in it now, and how often it was written."""

    value: str
    shape: Shape | None
    writes: int = 0


@dataclass
class _View:
    """A blob: a piece of memory, its own shape, and the tensor that held it when it was last looked at."""

    memory: _Memory
    shape: Shape | None
    value: str
    writes: int


@dataclass(frozen=True)
class Stage:
    """One value of a blob: the tensor and the layer that wrote it, "" for a network input."""

    layer: str
    value: str


class Values:
    """Follows the blobs of a network through its layers, in running order."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._views: dict[str, _View] = {}
        self.stages: dict[str, list[Stage]] = {}

    def __contains__(self, blob: str) -> bool:
        return blob in self._views

    def shape(self, blob: str) -> Shape | None:
        """Return the blob's shape."""
        return self._views[blob].shape

    def share_memory(self, blob: str, other: str) -> bool:
        """Return whether the two blobs are views of one piece of memory."""
        return self._views[blob].memory is self._views[other].memory

    def read(self, blob: str, layer: str) -> str:
        """Return the tensor that holds the blob now; where another view of its memory was written, a new one."""
        view = self._views[blob]
        if view.writes != view.memory.writes:
            value, old = view.memory.value, view.memory.shape
            if old != view.shape and old is not None and view.shape is not None:
                value = self._graph.reshape(value, old, view.shape)
            view.value, view.writes = value, view.memory.writes
            self.stages[blob].append(Stage(layer, value))
        return view.value

    def make(self, blob: str, value: str, shape: Shape | None, layer: str) -> None:
        """Enter a blob that has memory of its own."""
        self._views[blob] = _View(_Memory(value, shape), shape, value, 0)
        self.stages.setdefault(blob, []).append(Stage(layer, value))

    def overwrite(self, blob: str, value: str, shape: Shape | None, layer: str) -> None:
        """Enter a blob that its layer wrote in place: every view of that memory sees it."""
        view = self._views[blob]
        if value == view.value:
            return
        memory = view.memory
        memory.value, memory.shape = value, shape
        memory.writes += 1
        view.value, view.shape, view.writes = value, shape, memory.writes
        self.stages[blob].append(Stage(layer, value))

    def share(self, blob: str, other: str, value: str, shape: Shape | None, layer: str) -> None:
        """Enter a blob that is a view of `other`'s memory."""
        memory = self._views[other].memory
        self._views[blob] = _View(memory, shape, value, memory.writes)
        self.stages.setdefault(blob, []).append(Stage(layer, value))
