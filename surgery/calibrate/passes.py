"""A model and its half-cut self, run side by side from site to site over all calibration data."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import numpy as np

from surgery.calibrate.data import Array, Blobs, Data
from surgery.calibrate.segments import Segment, segments
from surgery.calibrate.twin import Site, Twin
from surgery.errors import DataError
from surgery.model import Model, Splice
from surgery.ops import Chain, collapse
from surgery.runtime.onnxruntime import session

BATCH = 16  # images, where the network takes any number
SPARE_BYTES = 1 << 28  # of disk, left to others

Live = Mapping[str, Path]  # tensor -> the file it is spooled in
Run = Callable[[Mapping[str, Array]], Blobs]
Progress = Callable[[str, float], None]  # told what is being done, and the share of it that is


class Cursor:
    """Stands before a site, with all that either network needs from there on, batch by batch, on disk.

    Moves forward only. All sites together cost one pass of the original network and, from the first cut on, one of the
    half-cut network, in which each cut layer runs as one layer, the product of its factors.

    Attributes:
        sites: all sites by key, in running order.
        images: how many of each batch there are.
        batch: how many the network takes at a time; the last batch is filled up.
        model: the network for that many.
    """

    def __init__(
        self,
        twin: Twin,
        data: Data,
        folder: Path,
        *,
        threads: int,
        progress: Progress,
        ends: Sequence[str] = (),
        batch: int = BATCH,
    ) -> None:
        """Stand before the first site; `ends` are tensors behind the sites that are to be reached as well.

        Where the network takes any number of images, it gets at most `batch` at a time.
        """
        self.sites = {site.key: site for site in twin.sites}
        self._segments = segments(twin, ends)
        self.batch = twin.batch or min(batch, data.count)
        self.images = [min(self.batch, data.count - i) for i in range(0, data.count, self.batch)]
        self.model = twin.with_batch(self.batch)
        self._data = data
        self._folder = folder
        self._threads = threads
        self._progress = progress
        self._live: list[tuple[Live, Live]] = []  # for each batch: the original's, the half-cut network's
        self._at = -1
        self._files = count()

    def move(self, key: str, done: Mapping[str, Chain]) -> None:
        """Go to the site `key`, with the layers in `done` cut on the way.

        Raises ValueError where it lies behind, DataError where the scratch folder has no room, EngineError.
        """
        target = list(self.sites).index(key)
        if target < self._at:
            raise ValueError(f"'{key}' runs before '{self._segments[self._at].site.key}'; ask in running order")
        if self._at < 0:
            for i, blobs in enumerate(self._data.batches(self.batch)):
                live = self._written(filled(blobs, self.batch), i)
                self._live.append((live, live))
                self._progress("reading", (i + 1) / len(self.images))
        for segment in self._segments[self._at + 1 : target + 1]:
            before = self._segments[self._at].site if self._at >= 0 else None
            self._advance(segment, before, done.get(before.key) if before else None)
            self._at += 1

    def inputs(self) -> Iterator[tuple[Array, Array]]:
        """Yield, batch by batch, what the site reads in the original and in the half-cut network."""
        name = self._segments[self._at].site.input
        for (original, cut), images in zip(self._live, self.images, strict=True):
            first = part(np.load(original[name]), images, self.batch)
            yield first, first if cut[name] == original[name] else part(np.load(cut[name]), images, self.batch)

    @property
    def segment(self) -> Segment:
        """What leads to the site that it stands before."""
        return self._segments[self._at]

    def read(self, names: Sequence[str]) -> Iterator[Blobs]:
        """Yield, batch by batch, tensors that are alive in the original, the last batch filled up like the others."""
        for original, _ in self._live:
            yield {name: np.load(original[name]) for name in names}

    def opened(self, model: Model, stack: ExitStack) -> Run:
        """Return what runs a model that was made of `model`; gone with `stack`. Raises EngineError."""
        folder = self._folder / f"segment{next(self._files)}"
        folder.mkdir()
        stack.callback(shutil.rmtree, folder)
        return stack.enter_context(session(model.format.save(model, folder, "part")[0], threads=self._threads))

    def _advance(self, segment: Segment, before: Site | None, chain: Chain | None) -> None:
        """Run what lies between two sites."""
        is_apart = chain is not None or any(own[n] != cut[n] for own, cut in self._live for n in segment.inputs)
        with ExitStack() as stack:
            run, run_cut = self._loaded(segment, before, chain, stack) if segment.outputs else (_nothing, _nothing)
            for i, (own, cut) in enumerate(self._live):
                made = self._written(run(_read(own, segment)), i)
                made_cut = self._written(run_cut(_read(cut, segment)), i) if is_apart else made
                self._live[i] = (_kept(own, segment) | made, _kept(cut, segment) | made_cut)
                used = {path for live in self._live[i] for path in live.values()}
                for path in {*own.values(), *cut.values()} - used:
                    path.unlink()
                self._progress(f"running up to {segment.site.key}", (i + 1) / len(self._live))

    def _loaded(self, segment: Segment, before: Site | None, chain: Chain | None, stack: ExitStack) -> tuple[Run, Run]:
        """Return what runs a segment, as it is and with the site `before` it cut; gone with `stack`."""
        model = segment.model(self.model)
        run = self.opened(model, stack)
        node = next((node for node in model.nodes if before and before.output in node.outputs), None)
        if chain is None or before is None or node is None:  # Nothing that is cut later hangs on that site.
            return run, run
        # One layer, the product of the factors, takes whatever stages they have.
        whole = collapse(chain, before.op.weight.dtype)
        return run, self.opened(model.edit(Splice(node.key, Chain((whole,)))), stack)

    def _written(self, blobs: Blobs, batch: int) -> dict[str, Path]:
        """Spool tensors of batch number `batch`; raises DataError where the disk would not hold those of all."""
        if batch == 0:
            needed = 2 * len(self.images) * sum(array.nbytes for array in blobs.values())
            free = shutil.disk_usage(self._folder).free - SPARE_BYTES
            if needed > free:
                asked = f"{needed / 1e9:.1f} GB for what runs between two layers, {max(free, 0) / 1e9:.1f} GB are free"
                raise DataError(
                    self._folder.parent, f"calibrating takes {asked}; use fewer images or --scratch elsewhere"
                )
        paths = {name: self._folder / f"{next(self._files)}.npy" for name in blobs}
        for name, path in paths.items():
            np.save(path, blobs[name])
        return paths


def filled(blobs: Blobs, batch: int) -> Blobs:
    """Return a batch with its last image repeated up to `batch`."""
    return {name: np.concatenate([a, *[a[-1:]] * (batch - len(a))]) for name, a in blobs.items()}


def part(array: Array, images: int, batch: int) -> Array:
    """Return what a tensor holds of the first `images` of a batch that was filled up to `batch`."""
    return array[: len(array) * images // batch]


def _read(live: Live, segment: Segment) -> Blobs:
    return {name: np.load(live[name]) for name in segment.inputs}


def _kept(live: Live, segment: Segment) -> dict[str, Path]:
    return {name: path for name, path in live.items() if name in segment.live}


def _nothing(blobs: Mapping[str, Array]) -> Blobs:
    return {}
