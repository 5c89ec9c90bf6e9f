"""A Caffe network made ready for a target that reads Caffe's files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from surgery.formats import Source, split
from surgery.formats.caffe import text
from surgery.formats.caffe.netstate import state_of
from surgery.formats.caffe.weights import Weights
from surgery.formats.caffe.weights import read as read_weights
from surgery.targets import weighing
from surgery.targets.deploying import Deployed, deployed
from surgery.targets.judging import built_problems, net_problems
from surgery.targets.problem import Problem
from surgery.targets.profiles import Profile
from surgery.targets.ready import Ready
from surgery.targets.rewriting import Worded, worded


def ready(source: Source, path: Path, profile: Profile, batch: int, allow: Collection[str]) -> Ready:
    """Return the network made ready; messages call its definition `path`."""
    made, stored = deployed_of(source, path, batch)
    if not made.tree:
        return Ready(made.problems)
    words = worded(made.tree, path, stored, profile, allow, is_shaped=made.is_shaped)
    problems = (*made.problems, *_problems(words, stored, profile, is_shaped=made.is_shaped))
    changes = (*made.changes, *words.changes)
    if stored is not None:
        changes += weighing.changes_of(stored, profile)

    def write(folder: Path, stem: str) -> tuple[Path, ...]:
        definition = folder / f"{stem}.prototxt"
        definition.write_bytes(words.net.document.encode())
        if stored is None:
            return (definition,)
        return definition, weighing.write(stored, words.net.layers, profile, folder, stem)

    notes = (*profile.notes, *profile.advises(words.net))
    if stored is None and any(found.blobs for found in words.net.inferred):
        notes += ("no weights are given; it computes nothing without them",)
    return Ready(problems, changes, notes, words.rewrites, write)


def deployed_of(source: Source, path: Path, batch: int) -> tuple[Deployed, Weights | None]:
    """Return the network brought into the form for devices, and its weights."""
    definition, weights = split(source.files)
    assert definition is not None
    read = text.read(definition)
    document = text.Document(read.text, path, read.fields)
    stored = read_weights(weights) if weights else None
    state = state_of(document, phase=source.phase, level=source.level, stages=source.stages)
    return deployed(document, stored, state, dict(source.shapes), batch), stored


def _problems(words: Worded, stored: Weights | None, profile: Profile, *, is_shaped: bool) -> list[Problem]:
    """Return what is in the way; of a layer that the target does not know nothing else is told."""
    found = [*net_problems(words.net, profile), *words.problems]
    known = {problem.where for problem in found}
    if is_shaped:
        found += [problem for problem in built_problems(words.net, profile) if problem.where not in known]
        if stored is not None:
            found += [p for p in weighing.weight_problems(stored, words.net, profile) if p.where not in known]
    return found
