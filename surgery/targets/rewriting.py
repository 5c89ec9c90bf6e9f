"""Bring a deployed network into the words of one target: its spellings, and the rewrites that are allowed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from surgery.formats.caffe import lint, lint_net, text
from surgery.formats.caffe.netstate import NetState
from surgery.formats.caffe.schema import unquote
from surgery.formats.caffe.weights import Weights
from surgery.targets.judging import layer_problems
from surgery.targets.problem import Problem
from surgery.targets.profiles import Profile
from surgery.targets.rewrite import Case, Rewrite
from surgery.targets.rewrites import REWRITES, rewrite_for
from surgery.targets.tree import Entry, Tree, rendered


@dataclass(frozen=True, eq=False)
class Worded:
    """The network in the target's words, what is left in the way layer by layer, and what was done."""

    net: lint_net.Net
    problems: tuple[Problem, ...]
    changes: tuple[str, ...]
    rewrites: tuple[str, ...]


def worded(
    tree: Tree, path: Path, stored: Weights | None, profile: Profile, allow: Collection[str], *, is_shaped: bool
) -> Worded:
    """Return the network as `profile` reads it right, with each layer it lacks rewritten where that is allowed.

    Where shapes are missing (`is_shaped` is false) rewrites that are allowed count as done.
    """
    before = net_of(tree, path, stored)
    made, advice, done = [entry for entry in tree if entry.name != "layer"], dict[str, _Advice](), dict[str, str]()
    taken = _names(tree) | {entry.name for entry in (stored.layers if stored else ())}
    entries = (entry for entry in tree if entry.name == "layer")
    for entry, layer, shapes in zip(entries, before.layers, before.inferred, strict=True):
        assert not isinstance(entry.value, str)
        rewrite = rewrite_for(layer)
        if rewrite is None or not layer_problems(layer, shapes, profile):
            made.append(Entry("layer", profile.respelt(entry.value, layer, shapes)))
            continue
        result = _rewritten(rewrite, Case(layer, shapes, entry.value, taken, profile), is_shaped=is_shaped)
        if isinstance(result, str):
            advice[layer.name] = _Advice(f"the rewrite '{rewrite.name}' does not fit: {result}")
        elif rewrite.name not in allow:
            advice[layer.name] = _Advice(f"--rewrite {rewrite.name} writes {rewrite.summary}", rewrite.name)
        else:
            done[layer.name] = rewrite.name
            taken |= _names(result)
            made += result
            continue
        made.append(entry)
    after = before if (*made,) == tree else net_of((*made,), path, stored)
    left = _left(after, profile, advice, () if is_shaped else done)
    lines = (f"'{name}': {REWRITES[rewrite].summary}" for name, rewrite in done.items())
    return Worded(after, left, tuple(lines), tuple(dict.fromkeys(done.values())))


@dataclass(frozen=True)
class _Advice:
    """What to do about a layer's problems, and the rewrite that would solve them."""

    text: str
    rewrite: str | None = None


def _left(
    net: lint_net.Net, profile: Profile, advice: Mapping[str, _Advice], assumed: Collection[str]
) -> tuple[Problem, ...]:
    """Return what is in the way layer by layer, but not of those layers that are assumed to be rewritten."""
    found = []
    for layer, shapes in zip(net.layers, net.inferred, strict=True):
        told = advice.get(layer.name)
        for problem in layer_problems(layer, shapes, profile) if layer.name not in assumed else ():
            found.append(replace(problem, advice=told.text, rewrite=told.rewrite) if told else problem)
    return tuple(found)


def net_of(tree: Tree, path: Path, stored: Weights | None) -> lint_net.Net:
    """Return the network of a tree as Caffe builds it."""
    return lint.built(text.parse(rendered(tree), path), stored, NetState(), {})


def _rewritten(rewrite: Rewrite, case: Case, *, is_shaped: bool) -> Sequence[Entry] | str:
    """Return the layers in place of one, or why there are none; the layer itself where shapes are missing."""
    if not is_shaped:
        return [Entry("layer", case.fields)]
    return "Caffe refuses the layer" if case.shapes.is_invalid else rewrite.make(case)


def _names(entries: Iterable[Entry]) -> set[str]:
    """Return the names of layers and of the blobs that they connect."""
    fields = (field for entry in entries if not isinstance(entry.value, str) for field in entry.value)
    links = ("name", "bottom", "top")
    return {unquote(field.value) for field in fields if field.name in links and isinstance(field.value, str)}
