"""What a network computes by several linear layers with nothing between them, and the one layer of each such run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from surgery.formats.wiring import Value, Wiring
from surgery.model import Merge, Model, PerChannel, Refusal
from surgery.ops import Chain, Conv2d, Linear, Scale, Stage, collapse

_OF_A_CUT = re.compile(r"(?P<stem>.+?)(?P<middle>_|_cut|_cut\d+_)(?P<number>\d+)")


@dataclass(frozen=True, eq=False)
class Merging:
    """The edits that make one layer of each run, and the runs, by their first layer, that stay, with the reasons."""

    merges: tuple[Merge, ...]
    left: tuple[Refusal, ...]


def merging(model: Model) -> Merging:
    """Find every run of convolutions or of fully connected layers, with scales at most between them.

    Each but the last is read by the next alone. The layers that a cut made are a run of their own, named as the layer
    that was cut; another run is named as its last layer.
    """
    merges, left = [], []
    stages = _stages(model)
    for run in _runs(model, stages):
        node = model.nodes[run[0]]
        keys = tuple(model.nodes[i].key for i in run)
        try:
            chain = Chain(tuple(stages[i] for i in run))
            merges.append(Merge(keys, collapse(chain, chain.first.weight.dtype), _name(keys)))
        except ValueError as error:
            left.append(Refusal(node.key, node.type, f"with {', '.join(keys[1:])}: {error}"))
    return Merging(tuple(merges), tuple(left))


def _stages(model: Model) -> dict[int, Stage]:
    """Return, by place, what each linear layer and each scale without shift computes."""
    found: dict[int, Stage] = {}
    for i, node in enumerate(model.nodes):
        op = model.format.lift(model, node)
        if not isinstance(op, Refusal):
            found[i] = op
            continue
        scale = model.format.scale(model, node)
        if isinstance(scale, PerChannel) and scale.input == 0 and not scale.scale.shift.any():
            found[i] = scale.scale
    return found


def _runs(model: Model, stages: dict[int, Stage]) -> Iterator[Sequence[int]]:
    """Yield the runs of at least two layers, none of them beginning or ending with a scale."""
    followers = _followers(model, stages)
    for start in sorted(stages.keys() - followers.values()):
        run = [start]
        while run[-1] in followers:
            run.append(followers[run[-1]])
        for part in _parts([model.nodes[i].key for i in run]):
            trimmed = _trimmed(run[part], stages)
            if len(trimmed) > 1:
                yield trimmed


def _followers(model: Model, stages: dict[int, Stage]) -> dict[int, int]:
    """Return, for each stage whose one output only another reads as its first input, that other."""
    wiring = Wiring(model.nodes)
    outputs = {wiring.final[name] for name in model.format.outputs(model) if name in wiring.final}
    found = {}
    for i in stages:
        value = Value(i, 0)
        readers = wiring.readers.get(value, ())
        is_alone = len(model.nodes[i].outputs) == 1 and len(readers) == 1 and value not in outputs
        if is_alone and readers[0] in stages and wiring.sources[readers[0]][0] == value:
            kinds = {type(stages[i]), type(stages[readers[0]])}
            if kinds != {Conv2d, Linear}:  # Between these the map is flattened.
                found[i] = readers[0]
    return found


def _parts(keys: Sequence[str]) -> Iterator[slice]:
    """Yield what a cut made of one layer each, stem_1 to stem_n, and what lies between as it is."""
    matches = [_OF_A_CUT.fullmatch(key) for key in keys]
    # Numbers that count up with the places belong to one cut.
    labels = [match and (match["stem"], match["middle"], i - int(match["number"])) for i, match in enumerate(matches)]
    start = 0
    for _, same in groupby(labels):
        end = start + len(list(same))
        yield slice(start, end)
        start = end


def _trimmed(run: Sequence[int], stages: dict[int, Stage]) -> Sequence[int]:
    places = [place for place, i in enumerate(run) if not isinstance(stages[i], Scale)]
    return run[places[0] : places[-1] + 1] if places else []


def _name(keys: Sequence[str]) -> str:
    first, last = (_OF_A_CUT.fullmatch(key) for key in (keys[0], keys[-1]))
    if first and last and first["number"] == "1" and first["stem"] == last["stem"]:
        return first["stem"]
    return keys[-1].removeprefix("-> ")
