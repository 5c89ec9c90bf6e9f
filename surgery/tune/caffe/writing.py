"""All files that it takes to train a cut model in Caffe, in one folder."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import tempfile
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surgery.calibrate.passes import Progress
from surgery.errors import ModelError, PlanError
from surgery.formats import Source, digest
from surgery.formats.caffe.net import CaffeNet
from surgery.model import Model, Overwrite
from surgery.tune.caffe import data_layers, hdf5
from surgery.tune.caffe.batches import TEST, TRAIN, Batches, batches_of, parts_of
from surgery.tune.caffe.blocks import Lines, Names
from surgery.tune.caffe.feeds import Feed, Own, Stored
from surgery.tune.caffe.settings import Goal, Solver
from surgery.tune.caffe.solver import NETWORK, SNAPSHOT, solver_text
from surgery.tune.caffe.storing import Wanted, store
from surgery.tune.caffe.storing import teacher as opened_teacher
from surgery.tune.caffe.train_val import Ends, Request, ends, names_for, replaced, train_val
from surgery.tune.recipe import BatchNorm

VERSION = 1  # of what these files say for one request
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
    cut: Source,
    feed: Feed,
    goal: Goal,
    solver: Solver,
    folder: Path,
    *,
    teacher: Source | None = None,
    frozen: Collection[str] = (),
    logits: str | None = None,
    batchnorm: BatchNorm = "batch",
    threads: int = 1,
    progress: Progress = lambda text, share: None,
    fresh: bool = False,
) -> Files:
    """Write train_val.prototxt, solver.prototxt, the weights to start from and, for stored samples, HDF5 into `folder`.

    Where the folder holds what the same request wrote, it stays as it is, snapshots included, unless `fresh`; what
    another request wrote is replaced.

    Args:
        cut: the model to tune, a Caffe one with weights.
        feed: the samples.
        goal: what the model is to match.
        solver: how it is trained.
        folder: made where it is not there; its own, all files in it may be replaced.
        teacher: the original model, for goals that need one.
        frozen: layers that keep their weights, as those must whose zeros, signs or ternary values are to stay: no layer
            of Caffe's keeps these while it trains.
        logits: the blob of the logits, for networks with several outputs.
        batchnorm: "batch" normalises with each batch's own statistics in training, and lets the stored ones follow;
            "fixed" with those stored, for batches of a few samples.
        threads: for the teacher.
        progress: told what is done, and the share of it.
        fresh: whether to begin anew.

    Raises:
        DataError: for samples that do not fit.
        ModelError: for a model that Caffe cannot train.
        PlanError: for a goal that does not fit the model.
    """
    model = _trainable(cut)
    original = _original(goal, feed, teacher)
    if goal.labels and isinstance(feed, Stored) and feed.labels is None:
        raise PlanError("the samples have no labels to learn; give --labels, or another target")
    batches = batches_of(feed, solver)
    rounds, state = batches.rounds, model.native.state
    weights = f"start{model.native.weights.path.suffix}"
    cuts = replaced(model, original, goal.layers) if original and goal.responses else {}
    norms = [node.key for node in model.nodes if node.type == "BatchNorm"]
    kept = frozenset(frozen).union(norms if batchnorm == "fixed" else ())
    if goal.is_local:  # No error reaches the other layers, but weight decay would.
        made = {name for one in cuts.values() for name in one.layers}
        kept = kept.union(node.key for node in model.nodes if node.key not in made.union(norms))
    _check_kept(model, frozen, kept)
    files = Files(folder, weights, rounds.iterations, rounds.interval, solver.patience, kept, state.level)
    facts = _facts(cut, feed, goal, solver, teacher, frozen=sorted(frozen), logits=logits, batchnorm=batchnorm)
    if not fresh and _is_written(folder, facts):
        return files
    _clear(folder)
    is_named = isinstance(feed, Own) and feed.type == "HDF5Data"
    names, end = names_for(model, goal, hdf5.LABEL if is_named else None), ends(model, logits)
    wanted = Wanted(goal, end, names, {names.targets[key]: one.shape for key, one in cuts.items()})
    with tempfile.TemporaryDirectory(prefix="surgery-") as scratch:
        asked = opened_teacher(original, wanted, Path(scratch), threads=threads) if original else nullcontext(None)
        with asked as ask:
            parts = parts_of(feed, goal, batches, solver.seed) if isinstance(feed, Stored) else []
            squares = store(feed, parts, ask, names, folder, progress) if isinstance(feed, Stored) else {}
    request = Request(
        goal=goal,
        ends=end,
        names=names,
        data=[_data_layer(phase, model, feed, goal, names, batches, end, folder) for phase in data_layers.PHASES],
        # Caffe's EuclideanLoss is half the mean over samples of the squared error.
        scales={key: 2 / (square or 1) for key, square in squares.items()},
        replaced=cuts,
        frozen=kept,
        memory=max(MEMORY[0], min(MEMORY[1], rounds.interval // 2)),
        is_labelled=isinstance(feed, Own) or feed.labels is not None,
    )
    (folder / NETWORK).write_bytes(train_val(model, request).encode("utf-8", "surrogateescape"))
    (folder / SOLVER).write_text(solver_text(solver, rounds, state), encoding="utf-8")
    _write_start(model, [key for key in norms if key not in kept], folder / weights)
    (folder / REQUEST).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return files


def _trainable(cut: Source) -> Model:
    """Return the model; raises ModelError where Caffe cannot train it."""
    model = cut.load()
    name = cut.files[0]
    if model.format.name != "caffe":
        raise ModelError(f"{name}: is no Caffe model, so Caffe cannot train it; use --engine torch")
    net: CaffeNet = model.native
    if net.weights is None:
        raise ModelError(f"{name}: has no weights to start from; give its .caffemodel as well")
    if unready := model.format.runnable(model).unready:
        raise ModelError(f"{name}: {unready}")
    return model


def _original(goal: Goal, feed: Feed, source: Source | None) -> Model | None:
    if not goal.needs_teacher:
        return None
    if source is None:
        raise PlanError("these targets are the original's outputs; give --teacher")
    if not isinstance(feed, Stored):
        raise PlanError("these targets are stored beside the samples; give samples that can be stored, not Caffe's own")
    return source.load()


def _check_kept(model: Model, frozen: Collection[str], kept: Collection[str]) -> None:
    """Raise PlanError for layers to be frozen that are not there, and where no weight is left to learn."""
    unknown = sorted(set(frozen) - {node.key for node in model.nodes})
    if unknown:
        raise PlanError(f"no layer is named '{unknown[0]}'; `surgery inspect` lists the names")
    entries = model.native.weights.layers
    held = (n for n in model.nodes if n.native.index is not None and entries[n.native.index].shapes)
    if {node.key for node in held if node.type != "BatchNorm"} <= set(kept):
        raise PlanError("all layers with weights are to keep them, so there is nothing to train")


def _facts(cut: Source, feed: Feed, goal: Goal, solver: Solver, original: Source | None, **more: Any) -> dict[str, Any]:
    """Return all that the files are made from."""
    return {
        "format": VERSION,
        "cut": digest(cut.files),
        "teacher": digest(original.files) if original and goal.needs_teacher else None,
        "data": _data_facts(feed),
        "goal": {**asdict(goal), "layers": list(goal.layers)},
        "solver": asdict(solver),
        **more,
    }


def _data_facts(feed: Feed) -> dict[str, Any]:
    if isinstance(feed, Own):
        stated = {"train": str(feed.train), "test": feed.test and str(feed.test), "mirror": feed.mirror}
        return {"type": feed.type, **stated, "preprocess": feed.preprocess and feed.preprocess.facts()}
    numbers: list[Sequence[int] | Any] = [feed.train, feed.held, [] if feed.labels is None else feed.labels]
    chosen = b"|".join(np.asarray(each, np.int64).tobytes() for each in numbers)
    return {"samples": feed.data.digest, "chosen": hashlib.sha256(chosen).hexdigest()}


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


def _data_layer(
    phase: str, model: Model, feed: Feed, goal: Goal, names: Names, batches: Batches, end: Ends | None, folder: Path
) -> Lines:
    inputs = list(model.format.runnable(model).inputs)
    batch = batches.train if phase == "TRAIN" else batches.test
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
    is_read = feed.labels is not None and end is not None
    tops += [names.label] if is_read and (goal.labels or phase == "TEST") else []
    return data_layers.hdf5(phase, tops, source, batch)
