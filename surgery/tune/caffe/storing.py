"""Training samples and what the teacher makes of them, stored for Caffe batch by batch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surgery.calibrate.data import Array, Blobs
from surgery.calibrate.passes import BATCH, SPARE_BYTES, Progress, filled, part
from surgery.calibrate.twin import twin_of
from surgery.errors import DataError, PlanError
from surgery.measure.suffix import ends as teacher_ends
from surgery.model import Extract, Model, Shape
from surgery.runtime.onnxruntime import session
from surgery.tune.caffe.blocks import Names
from surgery.tune.caffe.feeds import Stored
from surgery.tune.caffe.hdf5 import Writer
from surgery.tune.caffe.places import Ends
from surgery.tune.caffe.settings import Goal

Teacher = Callable[[Blobs], Blobs]  # a batch of inputs -> a row for each sample of every dataset that it is to match


@dataclass(frozen=True)
class Wanted:
    """What the teacher is asked for: its probabilities for `ends`, and the responses of layers in those shapes."""

    goal: Goal
    ends: Ends | None
    names: Names
    shapes: Mapping[str, Shape]


@contextmanager
def teacher(model: Model, wanted: Wanted, folder: Path, *, threads: int) -> Iterator[Teacher]:
    """Hand out what runs the original network in ONNX Runtime; `folder` is one of its own.

    Raises PlanError for layers and outputs that it does not have, ConversionError, EngineError.
    """
    goal, keys = wanted.goal, tuple(wanted.names.targets)
    twin = twin_of(model, keys, folder)
    outputs = {wanted.names.targets[site.key]: site.output for site in twin.sites}
    if goal.distil and wanted.ends is not None:
        found = teacher_ends(twin)
        outputs[wanted.names.teacher] = found[0] if len(found) == 1 else wanted.ends.logits
    batch = twin.batch or BATCH
    edited = twin.with_batch(batch).edit(Extract(tuple(dict.fromkeys(outputs.values())), tuple(twin.inputs)))
    files = edited.format.save(edited, folder, "teacher")
    with session(files[0], threads=threads) as run:

        def rows(blobs: Blobs) -> Blobs:
            count = len(next(iter(blobs.values())))
            pieces = []
            for start in range(0, count, batch):
                own = {name: blobs[name][start : start + batch] for name in twin.inputs}
                images = len(next(iter(own.values())))
                made = run(filled(own, batch))
                pieces.append({name: part(made[tensor], images, batch) for name, tensor in outputs.items()})
            return {name: _asked(wanted, name, np.concatenate([piece[name] for piece in pieces])) for name in outputs}

        yield rows


def _asked(wanted: Wanted, name: str, made: Array) -> Array:
    """Return what the teacher made as it is to be matched; raises PlanError where it has another shape."""
    end = wanted.ends
    shape = end.shape if end is not None and name == wanted.names.teacher else wanted.shapes[name]
    row = int(np.prod(shape[1:]))
    if made.size != len(made) * row or not np.isfinite(made).all():
        found = "NaN or infinity" if made.size == len(made) * row else f"{made.shape[1:]}"
        raise PlanError(f"the original gives {found} where the cut network gives {shape[1:]}")
    shaped = made.reshape(len(made), *shape[1:])
    return softened(shaped, wanted.goal.temperature) if name == wanted.names.teacher else shaped


def softened(logits: Array, temperature: float) -> Array:
    """Return the probabilities softmax(logits / temperature) along axis 1."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: Array = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return result


@dataclass(frozen=True)
class Part:
    """Samples to store: the file's stem, their numbers in order, and whether their classes go with them."""

    stem: str
    rows: Sequence[int]
    is_labelled: bool


def store(
    feed: Stored, parts: Sequence[Part], ask: Teacher | None, names: Names, folder: Path, progress: Progress
) -> dict[str, float]:
    """Write the samples; return the mean square of each response of the first part, summed over a sample.

    Raises DataError where the disk has no room.
    """
    total, done = sum(len(one.rows) for one in parts), 0
    squares: dict[str, float] = {}
    for one in parts:
        writer = Writer(folder, one.stem, len(one.rows))
        for start in range(0, len(one.rows), BATCH):
            chosen = one.rows[start : start + BATCH]
            read = [feed.data.read(i) for i in chosen]
            blobs = {name: np.stack([each[name] for each in read]) for name in read[0]}
            blobs |= ask(blobs) if ask else {}
            if one.is_labelled and feed.labels is not None:
                blobs[names.label] = feed.labels[chosen]
            if not done:
                _check_room(folder, blobs, total)
            if one is parts[0]:
                for key, name in names.targets.items():
                    squares[key] = squares.get(key, 0.0) + float(np.sum(blobs[name].astype(np.float64) ** 2))
            writer.add(blobs)
            done += len(chosen)
            progress("storing samples", done / total)
        writer.close()
    return {key: value / len(parts[0].rows) for key, value in squares.items()}


def _check_room(folder: Path, blobs: Blobs, samples: int) -> None:
    needed = samples * 4 * sum(array[0].size for array in blobs.values())
    free = shutil.disk_usage(folder).free - SPARE_BYTES
    if needed > free:
        asked = f"{needed / 1e9:.1f} GB, {max(free, 0) / 1e9:.1f} GB are free"
        raise DataError(folder, f"the samples, with what the original makes of them, take {asked}; use fewer of them")
