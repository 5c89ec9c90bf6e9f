"""All files that it takes to train a cut model in Caffe, in one folder."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surgery.calibrate.passes import Progress
from surgery.errors import PlanError
from surgery.model import Model, Overwrite
from surgery.tune.caffe import data_layers, hdf5
from surgery.tune.caffe.batches import TEST, TRAIN, parts_of
from surgery.tune.caffe.blocks import Lines
from surgery.tune.caffe.feeds import Own, Stored
from surgery.tune.caffe.solver import NETWORK, SNAPSHOT, solver_text
from surgery.tune.caffe.storing import Wanted, store, teacher
from surgery.tune.caffe.task import Design, Task, designed
from surgery.tune.caffe.train_val import Request, train_val

SOLVER, REQUEST, LOG = "solver.prototxt", "request.json", "train.log"
MEMORY = (10, 100)  # batches: the least and the most that statistics are taken over, and half an epoch in between
STATISTICS = 3  # blobs of a BatchNorm: mean, variance, and the factor of both
# How a data layer calls the text of a phase's HDF5 files.
_STEMS = {"TRAIN": TRAIN, "TEST": TEST}


@dataclass(frozen=True)
class Files:
    """A folder to train in, with Caffe's files.

    Attributes:
        folder: where Caffe runs.
        weights: the cut network's, by name; training starts from them.
        iterations: batches of the whole run.
        interval: batches between two tests, and two snapshots.
        patience: tests without a better one until the run ends, None for never.
        kept: layers whose blobs are to stay as they are, whatever a snapshot says; see `trained_blobs`.
        level: chooses layers, as it did for the network that runs; `caffe train` does not heed the solver's.
    """

    folder: Path
    weights: str
    iterations: int
    interval: int
    patience: int | None
    kept: frozenset[str] = frozenset()
    level: int = 0

    @property
    def command(self) -> str:
        """The command line that trains, for a shell."""
        run = f"caffe train -solver {SOLVER} -weights {shlex.quote(self.weights)}"
        return f"cd {shlex.quote(str(self.folder))} && {run}" + (f" -level {self.level}" if self.level else "")


def write(
    task: Task,
    folder: Path,
    *,
    threads: int = 1,
    progress: Progress = lambda text, share: None,
    fresh: bool = False,
) -> Files:
    """Write train_val.prototxt, solver.prototxt, the weights to start from and, for stored samples, HDF5 into `folder`.

    It is made where it is not there; its own, all files in it may be replaced. Where it holds what the same task wrote,
    it stays as it is, snapshots included, unless `fresh`; what another task wrote is replaced. `threads` are for the
    teacher. Raises DataError for samples that do not fit, ModelError for a model that Caffe cannot train, PlanError for
    a goal that does not fit the model.
    """
    design, facts = designed(task), task.facts()
    model, rounds, state = design.model, design.batches.rounds, design.model.native.state
    weights = f"start{model.native.weights.path.suffix}"
    files = Files(folder, weights, rounds.iterations, rounds.interval, task.solver.patience, design.kept, state.level)
    if not fresh and _is_written(folder, facts):
        return files
    _clear(folder)
    text = train_val(model, _request(design, folder, _stored(design, folder, threads, progress)))
    (folder / NETWORK).write_bytes(text.encode("utf-8", "surrogateescape"))
    (folder / SOLVER).write_text(solver_text(task.solver, rounds, state), encoding="utf-8")
    _write_start(model, design.norms, folder / weights)
    (folder / REQUEST).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return files


def _stored(design: Design, folder: Path, threads: int, progress: Progress) -> dict[str, float]:
    """Write the samples where they are to be stored, and return the mean squares of the teacher's responses."""
    feed, goal, names = design.task.feed, design.task.goal, design.names
    if not isinstance(feed, Stored):
        return {}
    wanted = Wanted(goal, design.end, names, {names.targets[key]: one.shape for key, one in design.cuts.items()})
    parts = parts_of(feed, goal, design.batches, design.task.solver.seed)
    with tempfile.TemporaryDirectory(prefix="surgery-") as name, ExitStack() as stack:
        ask = None
        if design.original is not None:
            ask = stack.enter_context(teacher(design.original, wanted, Path(name), threads=threads))
        return store(feed, parts, ask, names, folder, progress)


def _request(design: Design, folder: Path, squares: Mapping[str, float]) -> Request:
    """Return what the network to train is made of; `squares` are the mean ones of the teacher's responses."""
    feed = design.task.feed
    return Request(
        goal=design.task.goal,
        ends=design.end,
        names=design.names,
        data=[_data_layer(phase, design, folder) for phase in data_layers.PHASES],
        # Caffe's EuclideanLoss is half the mean over samples of the squared error.
        scales={key: 2 / (square or 1) for key, square in squares.items()},
        replaced=design.cuts,
        frozen=design.kept,
        memory=max(MEMORY[0], min(MEMORY[1], design.batches.rounds.interval // 2)),
        is_labelled=isinstance(feed, Own) or feed.labels is not None,
    )


def _is_written(folder: Path, facts: dict[str, Any]) -> bool:
    try:
        return bool(json.loads((folder / REQUEST).read_text(encoding="utf-8")) == facts)
    except (OSError, ValueError):
        return False


def _write_start(model: Model, norms: Sequence[str], path: Path) -> None:
    """Write the weights to start from: the model's own, with statistics to follow the data standing for one batch.

    Stored sums of a long training stand for a thousand, and would outweigh those of the cut network for as long.
    """
    with tempfile.TemporaryDirectory(prefix="surgery-") as scratch:
        edited = model.edit(*filter(None, (_as_one_batch(model, key) for key in norms)))
        shutil.copyfile(edited.format.save(edited, Path(scratch), "start")[1], path)


def _as_one_batch(model: Model, key: str) -> Overwrite | None:
    """Return what divides a BatchNorm's mean and variance by their factor; None where that is no number above 0."""
    index = model.node(key).native.index
    blobs = [] if index is None else list(model.native.weights.arrays(index))
    if len(blobs) != STATISTICS or not blobs[2].item() > 0:
        return None
    mean, variance, factor = (blob.astype(np.float64) for blob in blobs)
    return Overwrite(key, {0: mean / factor, 1: variance / factor, 2: np.ones(1)})


def _clear(folder: Path) -> None:
    """Make the folder, and take away what an earlier request left in it, its mark first."""
    folder.mkdir(exist_ok=True)
    (folder / REQUEST).unlink(missing_ok=True)
    for pattern in (f"{SNAPSHOT}_iter_*", f"{TRAIN}*.h5", f"{TEST}*.h5", LOG):
        for path in folder.glob(pattern):
            path.unlink()


def _data_layer(phase: str, design: Design, folder: Path) -> Lines:
    feed, goal, names = design.task.feed, design.task.goal, design.names
    inputs = list(design.model.format.runnable(design.model).inputs)
    batch = design.batches.train if phase == "TRAIN" else design.batches.test
    source = f"{_STEMS[phase]}.txt"
    if isinstance(feed, Own):
        tops = [*inputs, names.label]
        path = (feed.test if phase == "TEST" else None) or feed.train
        if feed.type == "HDF5Data":
            hdf5.write_names(folder / source, hdf5.files_of(path))
            return data_layers.hdf5(phase, tops, source, batch)
        if len(inputs) > 1:
            raise PlanError(f"Caffe's {feed.type} layer feeds one input; the network has {', '.join(inputs)}")
        return data_layers.own(feed, phase, path, tops, batch)
    tops = [*inputs, *names.targets.values()]
    tops += [names.teacher] if goal.distil else []
    # A label that nothing reads would be printed with each loss.
    is_read = feed.labels is not None and design.end is not None
    tops += [names.label] if is_read and (goal.labels or phase == "TEST") else []
    return data_layers.hdf5(phase, tops, source, batch)
