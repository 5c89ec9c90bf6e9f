"""How networks do on samples, told by their outputs in ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from surgery.calibrate.data import Array, Data
from surgery.calibrate.passes import BATCH, filled, part
from surgery.calibrate.twin import twin_of
from surgery.measure.outputs import Labels
from surgery.measure.suffix import ends
from surgery.model import Extract, Model
from surgery.runtime.onnxruntime import session
from surgery.tune.caffe.settings import Goal
from surgery.tune.caffe.storing import softened

Score = dict[str, float | None]  # loss, accuracy, agreement; None for what is not known
TINY = 1e-30  # added to probabilities before their logarithm, as in training


def scores(
    models: Sequence[Model], data: Data, numbers: Sequence[int], labels: Labels | None, goal: Goal, *, threads: int
) -> list[Score]:
    """Return how each model does on the samples of those numbers; the first one is the teacher.

    The loss is of the goal's labels and distillation; None where it counts neither. Raises ConversionError.
    """
    logits = [_logits(model, data, numbers, threads) for model in models]
    known = None if labels is None else labels[np.asarray(numbers)]
    return [_score(own, logits[0], known, goal) for own in logits]


def _logits(model: Model, data: Data, numbers: Sequence[int], threads: int) -> Array:
    """Return the scores of classes (samples, classes, ...) that a network gives before its Softmax."""
    found = []
    with tempfile.TemporaryDirectory(prefix="surgery-") as name, ExitStack() as stack:
        twin = twin_of(model, (), Path(name))
        batch, end = twin.batch or BATCH, ends(twin)[0]
        edited = twin.with_batch(batch).edit(Extract((end,), tuple(twin.inputs)))
        run = stack.enter_context(session(edited.format.save(edited, Path(name), "whole")[0], threads=threads))
        for start in range(0, len(numbers), batch):
            read = [data.read(i) for i in numbers[start : start + batch]]
            blobs = {each: np.stack([sample[each] for sample in read]) for each in twin.inputs}
            found.append(part(run(filled(blobs, batch))[end], len(read), batch))
    return np.concatenate(found)


def _score(own: Array, teacher: Array, labels: Labels | None, goal: Goal) -> Score:
    best, wanted = own.argmax(axis=1), teacher.argmax(axis=1)
    accuracy = None if labels is None else float(np.mean(best.reshape(len(labels), -1) == labels[:, None]))
    losses = list(_losses(own, teacher, labels, goal))
    return {"loss": sum(losses) if losses else None, "accuracy": accuracy, "agreement": float(np.mean(best == wanted))}


def _losses(own: Array, teacher: Array, labels: Labels | None, goal: Goal) -> Iterable[float]:
    if goal.labels and labels is not None:
        right = np.take_along_axis(softened(own, 1), labels.reshape(-1, *[1] * (own.ndim - 1)), axis=1)
        yield goal.labels * float(np.mean(-np.log(right + TINY)))
    if goal.distil:
        p, q = (softened(each, goal.temperature).astype(np.float64) for each in (teacher, own))
        gaps = np.sum(p * (np.log(p + TINY) - np.log(q + TINY)), axis=1)
        yield goal.distil * goal.temperature**2 * float(np.mean(gaps))
