"""Tune a cut Caffe model in real Caffe: files to train it with, the run, and the weights that come of it.

`surgery.tune.caffe.tuning.tune` is the whole of `surgery tune --engine caffe`; its three steps are:

    files = write(Task(cut, feed, goal, solver, teacher=...), folder)   # a folder that anyone with Caffe can train from
    training = run(files, threads=..., progress=...)                    # a killed run goes on from its last snapshot
    blobs = trained_blobs(training.weights, cut.load(), files.kept)     # layer -> number -> what became of a blob
"""

from surgery.tune.caffe.feeds import DataLayer, Feed, Own, Stored
from surgery.tune.caffe.finding import feed_of
from surgery.tune.caffe.history import Point
from surgery.tune.caffe.reading import trained_blobs
from surgery.tune.caffe.running import Training, run
from surgery.tune.caffe.settings import Goal, Policy, Solver
from surgery.tune.caffe.task import Task
from surgery.tune.caffe.writing import Files, write
from surgery.tune.recipe import BatchNorm

__all__ = [
    "BatchNorm",
    "DataLayer",
    "Feed",
    "Files",
    "Goal",
    "Own",
    "Point",
    "Policy",
    "Solver",
    "Stored",
    "Task",
    "Training",
    "feed_of",
    "run",
    "trained_blobs",
    "write",
]
