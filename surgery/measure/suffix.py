"""The network with one layer cut, run from that layer on, on a few images: what its outputs then lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from surgery.calibrate.data import Array, Blobs, Data
from surgery.calibrate.gathering import is_held_out
from surgery.calibrate.passes import Cursor, Progress, Run, filled, part
from surgery.calibrate.segments import Piece, alone, behind, whole
from surgery.calibrate.twin import Twin
from surgery.errors import PlanError
from surgery.formats.onnx.graph import Graph
from surgery.measure.outputs import Labels, Tally, compared
from surgery.model import Splice
from surgery.ops import Chain

BATCH = 4  # images, fewer than elsewhere: the sessions of all cuts of a layer hold maps at a time
_SOFTMAX = frozenset({"Softmax", "LogSoftmax"})
_VIEWS = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


class Suffix:
    """Stands before a layer, as a `Cursor` does, with some of the data's images; moves forward only.

    The layers before are run once for all. Of the rest one session serves all cuts of a layer, which themselves run as
    networks of their own: no weights are written but those of the layer's factors.
    """

    def __init__(
        self, twin: Twin, data: Data, images: int, folder: Path, labels: Labels | None, threads: int, progress: Progress
    ) -> None:
        """Take at most `images` of the data; `folder` is one of its own. Labels are those of all the data."""
        chosen = spread(data.count, images)
        self._data = data.only(chosen)
        self._twin, self._folder = twin, folder
        self._labels = None if labels is None else labels[chosen]
        self._ends = ends(twin)
        self._cursor = Cursor(
            twin, self._data, folder, threads=threads, progress=progress, ends=self._ends, batch=BATCH
        )
        self._has_originals = False

    def tallies(self, key: str, chains: Sequence[Chain]) -> list[list[Tally]]:
        """Return for each chain in the place of the layer `key` the tallies, by batch.

        Raises PlanError that names the layer for outputs that cannot be compared, DataError where the scratch folder
        has no room, EngineError.
        """
        if not self._has_originals:
            self._keep_originals()
        self._cursor.move(key, {})
        site = self._cursor.sites[key]
        own, rest = alone(self._twin, site), behind(self._twin, self._cursor.segment, self._ends)
        model, found = own.model(self._cursor.model), [list[Tally]() for _ in chains]
        node = next(node for node in model.nodes if site.output in node.outputs)
        with ExitStack() as stack:
            run_rest = self._cursor.opened(rest.model(self._cursor.model), stack) if rest.outputs else _nothing
            cuts = [self._cursor.opened(model.edit(Splice(node.key, chain)), stack) for chain in chains]
            start = 0
            for i, (live, images) in enumerate(zip(self._live(own, rest), self._cursor.images, strict=True)):
                original = {name: np.load(self._place(i, name)) for name in self._ends}
                labels = None if self._labels is None else self._labels[start : start + images]
                start += images
                for tallies, cut in zip(found, cuts, strict=True):
                    made = self._outputs(own, rest, live, (cut, run_rest), images)
                    tallies.append(_told(key, original, made, images, labels))
        return found

    def _live(self, own: Piece, rest: Piece) -> Iterator[Blobs]:
        """Yield, batch by batch, what is alive of all that the rest needs."""
        wanted = {*own.inputs, *rest.inputs, *self._ends}
        return self._cursor.read([name for name in wanted if name in self._cursor.segment.live])

    def _outputs(self, own: Piece, rest: Piece, live: Blobs, runs: tuple[Run, Run], images: int) -> Blobs:
        """Return the ends for a batch of live tensors; `runs` are of the layer and of what is behind it."""
        known = live | runs[0]({name: live[name] for name in own.inputs})
        known |= runs[1]({name: known[name] for name in rest.inputs})
        return {name: part(known[name], images, self._cursor.batch) for name in self._ends}

    def _keep_originals(self) -> None:
        """Spool what the original network makes: as large as it may be, one batch is in memory.

        It runs as a whole, so that its numbers are the same bit for bit whichever layer comes first.
        """
        piece, batch = whole(self._twin, self._ends), self._cursor.batch
        with ExitStack() as stack:
            run = self._cursor.opened(piece.model(self._cursor.model), stack)
            for i, (blobs, images) in enumerate(zip(self._data.batches(batch), self._cursor.images, strict=True)):
                made = run({name: array for name, array in filled(blobs, batch).items() if name in piece.inputs})
                for name in self._ends:
                    np.save(self._place(i, name), part(made[name], images, batch))
        self._has_originals = True

    def _place(self, batch: int, name: str) -> Path:
        return self._folder / f"original-{batch}-{self._ends.index(name)}.npy"


def ends(twin: Twin) -> tuple[str, ...]:
    """Return the tensors at which the network ends: its outputs, before a last Softmax where there is one."""
    graph: Graph = twin.model.native.graph
    return tuple(
        dict.fromkeys(_before_softmax(graph, info.name) for info in graph.outputs if info.name in graph.makers)
    )


def spread(images: int, most: int) -> list[int]:
    """Return which of `images` images the network is run on, `most` of them: those that no fit sees come first."""
    held = [i for i in range(images) if is_held_out(i, images)]
    seen = [i for i in range(images) if not is_held_out(i, images)]
    return sorted([*_evenly(held, most), *_evenly(seen, most - len(held))])


def _evenly(numbers: Sequence[int], most: int) -> list[int]:
    count = min(len(numbers), max(most, 0))
    return [numbers[i * len(numbers) // count] for i in range(count)]


def _before_softmax(graph: Graph, name: str) -> str:
    """Return what the Softmax reads that makes a tensor, views of it looked through; else the tensor itself."""
    node = graph.makers.get(name)
    while node is not None and node.op_type in _VIEWS:
        node = graph.makers.get(node.inputs[0])
    return node.inputs[0] if node is not None and node.op_type in _SOFTMAX else name


def _told(key: str, original: Blobs, made: Blobs, images: int, labels: Labels | None) -> Tally:
    try:
        return compared(original, made, images, labels)
    except PlanError as error:
        raise PlanError(error.message, key) from error


def _nothing(blobs: Mapping[str, Array]) -> Blobs:
    return {}
