"""The flow: read a model, make it ready for a target in memory, say what is in the way, and write it."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from surgery.errors import PlanError, TargetError
from surgery.formats import Source, is_onnx, split
from surgery.targets import for_caffe, for_onnx
from surgery.targets.problem import Problem, grouped
from surgery.targets.profiles import PROFILES, Profile
from surgery.targets.ready import Ready
from surgery.targets.rewrites import REWRITES


@dataclass(frozen=True)
class Prepared:
    """A network's files made ready for a target.

    Attributes:
        files: Where they lie: the definition first, then the weights where there are any. They load with
            `Source(files)`; what runs in them runs in phase TEST, at level 0, without stages.
        changes: One line for each thing that was done to the network, in order.
        notes: What whoever runs it on the target must know.
        rewrites: Names of the rewrites that were done, of those allowed.
    """

    files: tuple[Path, ...]
    changes: tuple[str, ...]
    notes: tuple[str, ...]
    rewrites: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """Whether a target can run a network once it is made ready for it: it can where there are no problems.

    `changes`, `notes` and `rewrites` are those of `Prepared`; with problems, what was done up to there.
    """

    problems: tuple[Problem, ...]
    changes: tuple[str, ...]
    notes: tuple[str, ...]
    rewrites: tuple[str, ...]


def answer(source: Source, target: str, *, batch: int = 1, allow: Collection[str] = ()) -> Answer:
    """Return what `prepare` would do and what is in its way; it raises what `problems` raises."""
    with _ready(source, target, batch, allow) as ready:
        return Answer(ready.problems, ready.changes, ready.notes, ready.rewrites)


def problems(source: Source, target: str, *, batch: int = 1, allow: Collection[str] = ()) -> tuple[Problem, ...]:
    """Return every reason why `target` cannot run the network even when it is made ready for it; none where it can.

    `allow` names the rewrites of `REWRITES` that may be done; a problem that another one would solve names it.

    Raises ParseError and ModelError for files that make no network, PlanError for another target or rewrite than there
    is, or a batch below 1.
    """
    return answer(source, target, batch=batch, allow=allow).problems


def prepare(
    source: Source, target: str, folder: Path, *, batch: int = 1, allow: Collection[str] = (), stem: str = "deploy"
) -> Prepared:
    """Write the network, made ready for `target`, into the existing `folder` as `<stem>.prototxt` and so on.

    What that is: a deploy network with Input layers of the given batch, in V2's spelling, without what only training
    or other builds need, in plain text that parses under the target's own schema; weights byte for byte those of the
    file unless the target cannot read them so. For onnxruntime it is `<stem>.onnx`.

    Raises TargetError with all of `problems`, and what `problems` raises; then nothing is written.
    """
    with _ready(source, target, batch, allow) as ready:
        if ready.problems:
            definition, _ = split(source.files)
            raise TargetError(definition or "", grouped(ready.problems), target)
        return Prepared(ready.write(folder, stem), ready.changes, ready.notes, ready.rewrites)


@contextmanager
def _ready(source: Source, target: str, batch: int, allow: Collection[str]) -> Iterator[Ready]:
    """Give the network made ready; the files that it is written from are there as long as the block."""
    profile = _profile(target, batch, allow)
    definition, _ = split(source.files)
    assert definition is not None
    with tempfile.TemporaryDirectory(prefix="surgery-") as scratch:
        if profile.reader is None:
            make = for_onnx.as_it_is if is_onnx(definition) else for_onnx.converted
            yield make(source, definition, batch, Path(scratch))
        elif is_onnx(definition):
            yield for_onnx.into_caffe(source, definition, profile, batch, allow, Path(scratch))
        else:
            yield for_caffe.ready(source, definition, profile, batch, allow)


def _profile(target: str, batch: int, allow: Collection[str]) -> Profile:
    if target not in PROFILES:
        raise PlanError(f"target {target[:60]}: expected one of {', '.join(PROFILES)}")
    for name in allow:
        if name not in REWRITES:
            raise PlanError(f"rewrite {name[:60]}: expected one of {', '.join(REWRITES)}")
    if batch < 1:
        raise PlanError(f"batch {batch}: expected a whole number from 1")
    return PROFILES[target]
