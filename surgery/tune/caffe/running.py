"""Train in real Caffe from the files in a folder, go on where a killed run ended, and keep the best weights."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from surgery.calibrate.passes import Progress
from surgery.errors import EngineError
from surgery.runtime import Caffe
from surgery.tune.caffe.history import Log, Point, best_of
from surgery.tune.caffe.solver import SNAPSHOT
from surgery.tune.caffe.writing import LOG, SOLVER, Files


@dataclass(frozen=True)
class Training:
    """What came of a run.

    Attributes:
        weights: the best snapshot, None where no test was better than that of the weights it started from.
        best: the iteration of that snapshot, 0 for the start.
        iterations: how many were done.
        points: losses and tests, by iteration; a test of iteration 0 is that of the start.
        resumed: the iteration from which an earlier run was taken up, None for a new one.
    """

    weights: Path | None
    best: int
    iterations: int
    points: tuple[Point, ...]
    resumed: int | None


def run(files: Files, *, threads: int = 1, progress: Progress = lambda text, share: None) -> Training:
    """Run `caffe train` to the end, or until tests are no better for as long as the files' patience allows.

    With one thread a run repeats itself bit for bit. A run that ended early goes on from its last snapshot, and ends
    with the weights of one that did not, unless the network has Dropout or the samples are Caffe's own in random order:
    random numbers begin anew then.

    Raises EngineMissingError without Caffe, EngineError where it refuses the files or the loss is no number any more.
    """
    place = files.folder / LOG
    log = _read(place)
    resumed = _resumable(files, log)
    if resumed is None:
        place.unlink(missing_ok=True)
        log = Log()
    if resumed is None or (resumed[0] < files.iterations and not _is_patience_over(files, log)):
        start = files.weights if resumed is None else resumed[1]
        _train(files, start, log, threads, progress)
    return _training(files, log, None if resumed is None else resumed[0])


def _train(files: Files, start: str, log: Log, threads: int, progress: Progress) -> None:
    """Run Caffe, and add what it says to the log and to its file."""
    running = Caffe().train(SOLVER, start, files.folder, threads=threads)
    with closing(running), (files.folder / LOG).open("a", encoding="utf-8", errors="replace") as file:
        for line in running:
            file.write(line)
            file.flush()
            point = log.add(line)
            if point is None or point.loss is None:
                continue
            if not math.isfinite(point.loss):
                advice = "lower the learning rate"
                raise EngineError("caffe", f"the loss is {point.loss} at iteration {point.iteration}; {advice}")
            progress("training", point.iteration / files.iterations)
            _prune(files, log)
            if _is_patience_over(files, log):
                return


def _prune(files: Files, log: Log) -> None:
    """Remove snapshots that are neither the best so far nor among the last two, of which a kill may damage one."""
    found = best_of(log.points)
    for name in log.snapshots[:-2]:
        if found is None or _iteration(name) != found.iteration:
            (files.folder / name).unlink(missing_ok=True)
            _weights(files, _iteration(name)).unlink(missing_ok=True)


def _is_patience_over(files: Files, log: Log) -> bool:
    points = log.points
    found = best_of(points)
    if files.patience is None or found is None:
        return False
    return len([point for point in points if point.test and point.iteration > found.iteration]) >= files.patience


def _read(log: Path) -> Log:
    if not log.exists():
        return Log()
    with log.open(encoding="utf-8", errors="replace") as file:
        return Log(file)


def _resumable(files: Files, log: Log) -> tuple[int, str] | None:
    """Return the last snapshot that an earlier run finished: its iteration and its name."""
    found = [(_iteration(name), name) for name in log.snapshots]
    whole = [each for each in found if (files.folder / each[1]).exists() and _weights(files, each[0]).exists()]
    return max(whole, default=None)


def _iteration(name: str) -> int:
    return int(name.rpartition("_iter_")[2].partition(".")[0])


def _weights(files: Files, iteration: int) -> Path:
    return files.folder / f"{SNAPSHOT}_iter_{iteration}.caffemodel"


def _training(files: Files, log: Log, resumed: int | None) -> Training:
    points = log.points
    found = best_of(p for p in points if p.iteration == 0 or _weights(files, p.iteration).exists())
    if found is None:
        raise EngineError("caffe", "no test gave a number; see its log", files=(str(files.folder / LOG),))
    weights = _weights(files, found.iteration) if found.iteration else None
    return Training(weights, found.iteration, points[-1].iteration, points, resumed)
