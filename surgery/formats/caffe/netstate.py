"""Which layers of a prototxt run: Caffe's include and exclude rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from surgery.errors import ModelError
from surgery.formats.caffe.network import Layer
from surgery.formats.caffe.text import Document, Message


@dataclass(frozen=True)
class NetState:
    """What a network is set up for; rules in its layers are tested against this."""

    phase: str = "TEST"
    level: int = 0
    stages: tuple[str, ...] = ()


def active(layers: Sequence[Layer], state: NetState) -> tuple[Layer, ...]:
    """Return the layers that run in `state`, in order.

    A layer runs when it has no rule, when any `include` matches, or when no `exclude` does. Raises ModelError where one
    has both, which Caffe refuses. V0 layers have no rules: Caffe drops them with the upgrade.
    """
    return tuple(layer for layer in layers if is_active(layer, state))


def is_active(layer: Layer, state: NetState) -> bool:
    """Return whether the layer runs in `state`; raises ModelError where it has both `include` and `exclude`."""
    if layer.generation == 0:
        return True
    includes, excludes = layer.message.messages("include"), layer.message.messages("exclude")
    if includes and excludes:
        raise ModelError(
            f"{layer.message.document.path}: layer '{layer.name}' has both include and exclude rules; "
            "Caffe takes one kind, remove the other"
        )
    if includes:
        return any(matches(rule, state) for rule in includes)
    return not any(matches(rule, state) for rule in excludes)


def matches(rule: Message, state: NetState) -> bool:
    """Return whether all conditions that the rule sets hold; a rule without conditions always matches."""
    stages = set(state.stages)
    return (
        (not rule.has("phase") or rule.str("phase") == state.phase)
        and (not rule.has("min_level") or state.level >= rule.int("min_level"))
        and (not rule.has("max_level") or state.level <= rule.int("max_level"))
        and stages.issuperset(rule.strs("stage"))
        and stages.isdisjoint(rule.strs("not_stage"))
    )


def state_of(
    document: Document, *, phase: str = "TEST", level: int | None = None, stages: Sequence[str] = ()
) -> NetState:
    """Return the state a file runs in when the user asks for `phase`, `level` and `stages`.

    As in Caffe's tools the file's own `state {}` gives the level where none is asked for, its stages add to those
    asked for, and its phase does not count: every tool sets its own.
    """
    own = document.message("NetParameter").message("state")
    asked = own.int("level") if level is None else level
    return NetState(phase, asked, tuple(dict.fromkeys((*own.strs("stage"), *stages))))
