"""What is to be trained, on what and how; and all that follows from it before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from surgery.errors import ModelError, PlanError
from surgery.formats import Source, digest
from surgery.formats.caffe.net import CaffeNet
from surgery.model import Model
from surgery.tune.caffe import hdf5
from surgery.tune.caffe.batches import Batches, batches_of
from surgery.tune.caffe.blocks import Names
from surgery.tune.caffe.feeds import Feed, Own, Stored
from surgery.tune.caffe.places import Ends, Replaced, ends, replaced
from surgery.tune.caffe.settings import Goal, Solver
from surgery.tune.caffe.train_val import names_for
from surgery.tune.recipe import BatchNorm

VERSION = 1  # of what the files say for one task


@dataclass(frozen=True, eq=False)
class Task:
    """A cut model, samples, and how it is to be trained on them.

    Attributes:
        cut: the model to tune, a Caffe one with weights.
        feed: the samples.
        goal: what the model is to match.
        solver: how it is trained.
        teacher: the original model, for goals that need one.
        frozen: layers that keep their weights, as those must whose zeros, signs or ternary values are to stay: no layer
            of Caffe's keeps these while it trains.
        logits: the blob of the logits, for networks with several outputs.
        batchnorm: "batch" normalises with each batch's own statistics in training, and lets the stored ones follow;
            "fixed" with those stored, for batches of a few samples.
    """

    cut: Source
    feed: Feed
    goal: Goal
    solver: Solver
    teacher: Source | None = None
    frozen: Collection[str] = ()
    logits: str | None = None
    batchnorm: BatchNorm = "batch"

    def facts(self) -> dict[str, Any]:
        """Return all that the files are made from, as JSON values."""
        return {
            "format": VERSION,
            "cut": digest(self.cut.files),
            "teacher": digest(self.teacher.files) if self.teacher and self.goal.needs_teacher else None,
            "data": _data_facts(self.feed),
            "goal": {**asdict(self.goal), "layers": list(self.goal.layers)},
            "solver": asdict(self.solver),
            "frozen": sorted(self.frozen),
            "logits": self.logits,
            "batchnorm": self.batchnorm,
        }


@dataclass(frozen=True, eq=False)
class Design:
    """What a task comes to.

    Attributes:
        model: the cut model.
        original: the teacher, None where no target needs it.
        batches: how the samples come.
        cuts: by cut layer whose response is matched, what is in its place.
        norms: the BatchNorms whose statistics follow the data.
        kept: layers whose blobs are to stay as they are.
        names: of the blobs that are added.
        end: where the network ends, None where it has several outputs.
    """

    task: Task
    model: Model
    original: Model | None
    batches: Batches
    cuts: Mapping[str, Replaced]
    norms: tuple[str, ...]
    kept: frozenset[str]
    names: Names
    end: Ends | None


def designed(task: Task) -> Design:
    """Return what a task comes to; raises ModelError and PlanError for what Caffe cannot do."""
    goal, feed = task.goal, task.feed
    model, original = _trainable(task.cut), _original(task)
    if goal.labels and isinstance(feed, Stored) and feed.labels is None:
        raise PlanError("the samples have no labels to learn; give --labels, or another target")
    batches = batches_of(feed, task.solver)
    cuts = replaced(model, original, goal.layers) if original and goal.responses else {}
    kept = _kept(task, model, cuts)
    norms = tuple(key for key in _norms(model) if key not in kept)
    is_named = isinstance(feed, Own) and feed.type == "HDF5Data"
    names = names_for(model, goal, hdf5.LABEL if is_named else None)
    return Design(task, model, original, batches, cuts, norms, kept, names, ends(model, task.logits))


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


def _original(task: Task) -> Model | None:
    if not task.goal.needs_teacher:
        return None
    if task.teacher is None:
        raise PlanError("these targets are the original's outputs; give --teacher")
    if not isinstance(task.feed, Stored):
        raise PlanError("these targets are stored beside the samples; give samples that can be stored, not Caffe's own")
    return task.teacher.load()


def _kept(task: Task, model: Model, cuts: Mapping[str, Replaced]) -> frozenset[str]:
    """Return the layers whose blobs stay; raises PlanError for unknown ones, and where no weight is left to learn."""
    unknown = sorted(set(task.frozen) - {node.key for node in model.nodes})
    if unknown:
        raise PlanError(f"no layer is named '{unknown[0]}'; `surgery inspect` lists the names")
    norms = _norms(model)
    kept = frozenset(task.frozen).union(norms if task.batchnorm == "fixed" else ())
    if task.goal.is_local:  # No error reaches the other layers, but weight decay would.
        made = {name for one in cuts.values() for name in one.layers}
        kept = kept.union(node.key for node in model.nodes if node.key not in made.union(norms))
    entries = model.native.weights.layers
    held = {n.key for n in model.nodes if n.native.index is not None and entries[n.native.index].shapes}
    if held.difference(norms) <= kept:
        raise PlanError("all layers with weights are to keep them, so there is nothing to train")
    return kept


def _norms(model: Model) -> list[str]:
    return [node.key for node in model.nodes if node.type == "BatchNorm"]


def _data_facts(feed: Feed) -> dict[str, Any]:
    if isinstance(feed, Own):
        stated = {"train": str(feed.train), "test": feed.test and str(feed.test), "mirror": feed.mirror}
        return {"type": feed.type, **stated, "preprocess": feed.preprocess and feed.preprocess.facts()}
    numbers: list[Sequence[int] | Any] = [feed.train, feed.held, [] if feed.labels is None else feed.labels]
    chosen = b"|".join(np.asarray(each, np.int64).tobytes() for each in numbers)
    return {"samples": feed.data.digest, "chosen": hashlib.sha256(chosen).hexdigest()}
