"""What a whole cut network makes of samples, against the original."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from surgery.calibrate import Preprocess, transform_param
from surgery.calibrate import preprocess as reading
from surgery.calibrate.data import Data, open_data
from surgery.calibrate.gathering import is_held_out
from surgery.calibrate.passes import BATCH, Progress, Run, filled, part
from surgery.calibrate.twin import Twin, twin_of
from surgery.choose.tables import Probe
from surgery.errors import PlanError
from surgery.measure.labels import labels_of
from surgery.measure.outputs import Labels, Tally, compared, probe
from surgery.measure.suffix import ends
from surgery.model import Extract, Model
from surgery.runtime.onnxruntime import session


def evaluate(
    original: Model,
    cut: Model,
    data: Path,
    *,
    preprocess: Path | Preprocess | None = None,
    images: int | None = None,
    unseen: bool = False,
    labels: Path | None = None,
    scratch: Path | None = None,
    threads: int = 1,
    progress: Progress = lambda text, share: None,
) -> Probe:
    """Return what the outputs of `cut`, before a last Softmax, have lost against those of `original`.

    At most `images` of the data are used, with `unseen` only those that no fit sees; see `taken`, `labels_for`. The
    probe's `response` is 0: no single layer is cut. Raises DataError, PlanError for networks that do not end alike.
    """
    given = reading.read(preprocess) if isinstance(preprocess, Path) else preprocess
    with tempfile.TemporaryDirectory(prefix="surgery-", dir=scratch) as name, ExitStack() as stack:
        twins = []
        for i, model in enumerate((original, cut)):
            folder = Path(name) / str(i)
            folder.mkdir()
            twins.append(twin_of(model, (), folder))
        found = open_data(data, twins[0].inputs, given, lambda: transform_param.stated(original), images)
        chosen = [i for i in range(found.count) if not unseen or is_held_out(i, found.count)] or [0]
        few = found.only(chosen)
        return probe(0.0, _tallies(twins, few, labels_of(few, labels), Path(name), threads, stack, progress))


def _tallies(
    twins: Sequence[Twin],
    data: Data,
    labels: Labels | None,
    folder: Path,
    threads: int,
    stack: ExitStack,
    show: Progress,
) -> list[Tally]:
    """Run both networks side by side and compare them batch by batch."""
    names = [ends(twin) for twin in twins]
    if len(names[0]) != len(names[1]):
        raise PlanError(f"the networks have {len(names[0])} and {len(names[1])} outputs; they cannot be compared")
    batch = twins[0].batch or min(BATCH, data.count)
    runs = [
        _opened(twin, own, batch, folder / str(i), threads, stack)
        for i, (twin, own) in enumerate(zip(twins, names, strict=True))
    ]
    tallies, start = [], 0
    for blobs in data.batches(batch):
        images = len(next(iter(blobs.values())))
        original, cut = (run(filled(blobs, batch)) for run in runs)
        pairs = [
            (one, part(original[one], images, batch), part(cut[other], images, batch))
            for one, other in zip(*names, strict=True)
        ]
        own = None if labels is None else labels[start : start + images]
        tallies.append(compared({name: a for name, a, _ in pairs}, {name: b for name, _, b in pairs}, images, own))
        start += images
        show("comparing", start / data.count)
    return tallies


def _opened(twin: Twin, outputs: Sequence[str], batch: int, folder: Path, threads: int, stack: ExitStack) -> Run:
    model = twin.with_batch(batch)
    files = model.format.save(model.edit(Extract(tuple(outputs), tuple(twin.inputs))), folder, "whole")
    return stack.enter_context(session(files[0], threads=threads))
