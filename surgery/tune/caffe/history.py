"""What Caffe's log tells of a training run: losses, tests and snapshots."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_RECORD = re.compile(r"^[IWEF]\d{4,8} [\d:.]+ +\d+ \S+?:\d+\] (.*)$")
_LOSS = re.compile(r"^Iteration (\d+)(?: \(.*\))?, loss = (\S+)$")
_TESTING = re.compile(r"^Iteration (\d+), Testing net")
_TEST_LOSS = re.compile(r"^Test loss: (\S+)$")
_TEST_OUTPUT = re.compile(r"^ *Test net output #\d+: (.*?) = (\S+)")
_SNAPSHOT = re.compile(r"^Snapshotting solver state to binary proto file (.*)$")
_ACCURACY = re.compile(r"^tune_+accuracy$")  # Names of what training adds end in as many _ as it takes.
LOSS = "loss"  # of all targets together, in tests


@dataclass(frozen=True)
class Point:
    """What was known at one iteration: the loss of the batches before, and the outputs of a test by name."""

    iteration: int
    loss: float | None = None
    test: Mapping[str, float] = field(default_factory=dict)


class Log:
    """A log that is read line by line; where a run began again, the later record of an iteration counts.

    Attributes:
        snapshots: the solver states that Caffe finished writing, the newest last.
    """

    def __init__(self, lines: Iterable[str] = ()) -> None:
        """Begin with these lines."""
        self.snapshots: list[str] = []
        self._losses: dict[int, float] = {}
        self._tests: dict[int, dict[str, float]] = {}
        self._pending: str | None = None  # A snapshot is whole when Caffe has gone on to say something else.
        self._at = 0
        for line in lines:
            self.add(line)

    @property
    def points(self) -> tuple[Point, ...]:
        """What is known, in the order of the iterations."""
        known = sorted(self._losses.keys() | self._tests.keys())
        return tuple(Point(i, self._losses.get(i), self._tests.get(i, {})) for i in known)

    def add(self, line: str) -> Point | None:
        """Take in the next line; return what is known of its iteration where it tells a loss."""
        record = _RECORD.match(line.rstrip("\n"))
        if record is None:
            return None
        text = record[1]
        if self._pending is not None:
            self.snapshots.append(self._pending)
            self._pending = None
        if found := _SNAPSHOT.match(text):
            self._pending = found[1]
        elif found := _TESTING.match(text):
            self._at = int(found[1])
            self._tests[self._at] = {}
        elif found := _TEST_LOSS.match(text):
            self._test(LOSS, found[1])
        elif found := _TEST_OUTPUT.match(text):
            self._test(found[1], found[2])
        elif found := _LOSS.match(text):
            at = int(found[1])
            self._losses[at] = _number(found[2])
            return Point(at, self._losses[at], self._tests.get(at, {}))
        return None

    def _test(self, name: str, number: str) -> None:
        self._tests.setdefault(self._at, {})[name] = _number(number)


def best_of(points: Iterable[Point]) -> Point | None:
    """Return the test with the lowest loss, the earliest of equals; None where nothing finite was tested."""
    tested = [point for point in points if math.isfinite(point.test.get(LOSS, math.nan))]
    return min(tested, key=lambda point: point.test[LOSS], default=None)


def accuracy_of(point: Point) -> float | None:
    """Return the accuracy that a test told, None where it has none."""
    return next((value for name, value in point.test.items() if _ACCURACY.match(name)), None)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # "-nan", as C prints it
        return math.nan
