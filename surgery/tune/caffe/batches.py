"""How training samples come in batches, and in which order they are stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surgery.errors import PlanError
from surgery.tune.caffe.feeds import Feed, Own, Stored
from surgery.tune.caffe.settings import Goal, Solver
from surgery.tune.caffe.solver import Rounds
from surgery.tune.caffe.storing import Part

UNKNOWN_EPOCH = 1000  # batches between two tests where nothing tells how many samples there are
MOST_TESTS = 50  # batches of a test on Caffe's own samples, unless it is told how many of them are for tests
TRAIN, TEST = "train", "test"  # what the texts that name HDF5 files are called


@dataclass(frozen=True)
class Batches:
    """How many of what: the rounds, and the samples in a batch of training and of a test."""

    rounds: Rounds
    train: int
    test: int


def batches_of(feed: Feed, solver: Solver) -> Batches:
    """Return how the samples come in batches; raises PlanError where that cannot be told."""
    return _of_own(feed, solver) if isinstance(feed, Own) else _of_stored(feed, solver)


def _of_own(feed: Own, solver: Solver) -> Batches:
    if feed.images is None and solver.iterations is None:
        raise PlanError("nothing tells how many samples there are, so an epoch has no length; an LMDB would tell")
    epoch = -(-feed.images // solver.batch) if feed.images else UNKNOWN_EPOCH
    tests = -(-feed.test_images // solver.batch) if feed.test_images else min(epoch, MOST_TESTS)
    return Batches(Rounds(solver.iterations or solver.epochs * epoch, epoch, tests), solver.batch, solver.batch)


def _of_stored(feed: Stored, solver: Solver) -> Batches:
    """Return batches of which a test's leave none of the held-back samples over, or nearly."""
    if not feed.train:
        raise PlanError("there are no samples to train on; give at least 2")
    train = min(solver.batch, len(feed.train))
    epoch = -(-len(feed.train) // train)
    held = len(feed.held) or len(feed.train)
    most = min(solver.batch, held)
    test = next((size for size in range(most, most // 4, -1) if held % size == 0), most)
    return Batches(Rounds(solver.iterations or solver.epochs * epoch, epoch, held // test), train, test)


def parts_of(feed: Stored, goal: Goal, batches: Batches, seed: int) -> list[Part]:
    """Return the samples to train and to test on, in the order in which they are stored.

    Those to train on come in a random order, filled up with some of them to whole batches: every epoch then begins
    with the first row, and a run that goes on from the snapshot at its end sees what it would have seen.
    """
    order = np.random.default_rng(seed).permutation(np.asarray(feed.train, np.int64))
    order = np.concatenate([order, order[: -len(order) % batches.train]])
    tested = list(feed.held or feed.train)[: batches.rounds.tests * batches.test]
    is_labelled = feed.labels is not None
    return [Part(TRAIN, order.tolist(), is_labelled and goal.labels > 0), Part(TEST, tested, is_labelled)]
