"""What is told of a tuning in Caffe: the facts, in the form of the other engine's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surgery.editing import as_facts
from surgery.model import Model
from surgery.output import REPORT, TOOL
from surgery.runtime import Caffe
from surgery.survey import survey
from surgery.tune.asked import Asked, settings
from surgery.tune.caffe.asking import Order
from surgery.tune.caffe.feeds import Feed, Stored
from surgery.tune.caffe.history import LOSS, Point, accuracy_of
from surgery.tune.caffe.running import Training
from surgery.tune.caffe.scoring import Score, scores
from surgery.tune.caffe.settings import Goal, Solver
from surgery.tune.caffe.writing import Files
from surgery.tune.data import open_samples
from surgery.tune.results import FORMAT, as_json, named
from surgery.verify import Verdict
from surgery.version import __version__


def facts_of(order: Order, files: Files, training: Training, tuned: Model, verdict: Verdict | None) -> dict[str, Any]:
    """Return all that is known, as JSON values, in the form of the other engine's."""
    asked, goal = order.asked, order.goal
    sizes = [survey(model, ()) for model in (order.original, tuned)]
    weights = {"labels": goal.labels, "distil": goal.distil, "responses": goal.responses}
    return {
        "tool": TOOL,
        "format": FORMAT,
        "verb": "tune",
        "versions": {TOOL: __version__, "Caffe": Caffe().version()},
        "source": named(asked.cut.files),
        "teacher": named(asked.teacher.files),
        "params": [each.params for each in sizes],
        "macs": [each.macs for each in sizes],
        "data": _told_data(asked, order.feed),
        "settings": _settings(asked, order.solver),
        "goal": weights | ({"temperature": goal.temperature} if goal.distil else {}),
        "scores": _scores(order, training, tuned),
        "steps": [_step(order, files, training)],
        "notes": list(order.notes),
        "verified": as_facts(verdict),
    }


def _settings(asked: Asked, solver: Solver) -> dict[str, Any]:
    """Return the settings as they were carried out."""
    found = settings(asked)
    own = {"rate": solver.rate, "course": solver.policy, "warm_up": 0.0, "optimizer": solver.kind}
    return found | {"engine": "caffe", "recipe": found["recipe"] | own}


def _told_data(asked: Asked, feed: Feed) -> dict[str, Any]:
    if not isinstance(feed, Stored):
        return {"path": asked.data.name, "digest": "", "preprocess": None, "trained": feed.images, "held_back": None}
    how = None if feed.data.preprocess is None else feed.data.preprocess.facts()
    counts = {"trained": len(feed.train), "held_back": len(feed.held)}
    return {"path": asked.data.name, "digest": feed.data.digest, "preprocess": how, **counts}


def _scores(order: Order, training: Training, tuned: Model) -> dict[str, dict[str, Score]]:
    """Return how original, cut and tuned network do on held-back samples, and on test data where there are any.

    Responses are in no loss but Caffe's own, which stands where they count.
    """
    asked, goal, feed = order.asked, order.goal, order.feed
    models = (order.original, order.cut, tuned)
    found: dict[str, dict[str, Score]] = {}
    if isinstance(feed, Stored):
        rows = scores(models, feed.data, feed.held, feed.labels, goal, threads=asked.threads)
        if goal.responses:
            told_by = {point.iteration: point.test[LOSS] for point in training.points if point.test}
            own = (rows[0]["loss"] or 0.0, told_by[0], told_by[training.best])
            rows = [{**row, "loss": loss} for row, loss in zip(rows, own, strict=True)]
        found["held back"] = dict(zip(("original", "cut", "tuned"), rows, strict=True))
    if asked.test is not None:
        test = open_samples(asked.test, order.original, labels=asked.test_labels, preprocess=asked.preprocess)
        # Without labels of its own the test tells how far each is from the teacher.
        by = goal if (goal.labels and test.labels is not None) or goal.distil else Goal(distil=1.0)
        rows = scores(models, test.data, range(test.data.count), test.labels, by, threads=asked.threads)
        found["test"] = dict(zip(("original", "cut", "tuned"), rows, strict=True))
    return found


def _step(order: Order, files: Files, training: Training) -> dict[str, Any]:
    tested = [point for point in training.points if point.test]
    return {
        "cut": order.step,
        "rate": order.solver.rate,
        "found": False,
        "before": _score(tested[0]),
        "epochs": [{"loss": _loss(training.points, point), "held_back": _score(point)} for point in tested[1:]],
        "best": training.best // files.interval,
        "after": _score(next(point for point in tested if point.iteration == training.best)),
        "normed": (False, False),
    }


def _loss(points: Sequence[Point], until: Point) -> float:
    """Return the loss that Caffe told last; not every epoch is a multiple of the steps between two lines of its log."""
    return next(p.loss for p in reversed(points) if p.loss is not None and p.iteration <= until.iteration)


def _score(point: Point) -> Score:
    return {"loss": point.test[LOSS], "accuracy": accuracy_of(point), "agreement": None}


def write_report(
    folder: Path, order: Order, names: Sequence[str], notes: Sequence[str], verdict: Verdict
) -> dict[str, Any]:
    """Write report.json alone, for a folder of files that were not trained with; return what is in it."""
    facts = {
        "tool": TOOL,
        "format": FORMAT,
        "verb": "tune",
        "source": named(order.asked.cut.files),
        "files": [*names, REPORT],
        "scores": {},
        "steps": [],
        "notes": [*order.notes, *notes],
        "verified": as_facts(verdict),
    }
    (folder / REPORT).write_text(as_json(facts), encoding="utf-8", errors="backslashreplace")
    return facts
