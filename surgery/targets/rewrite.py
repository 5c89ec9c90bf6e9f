"""What one rewrite is: a named way to write a layer as others that compute the same."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from surgery.formats.caffe.layers.base import params
from surgery.formats.caffe.network import Layer
from surgery.formats.caffe.shapes import LayerShapes
from surgery.formats.caffe.targets import Target
from surgery.formats.caffe.text import Message
from surgery.targets.profiles import Profile
from surgery.targets.tree import Entry, Tree

UNSHAPED = "the shape of what it reads is not known, because of a layer before it"


@dataclass(frozen=True, eq=False)
class Case:
    """One layer to be rewritten: its shapes, its fields, the names taken, and the target that shall have it."""

    layer: Layer
    shapes: LayerShapes
    fields: Tree
    taken: Collection[str]
    profile: Profile

    @property
    def target(self) -> Target:
        """What the target's Caffe knows."""
        return self.profile.caffe

    def names(self, count: int) -> list[str]:
        """Return free names for the layers that come in its place."""
        from surgery.formats.caffe.spelling import stems  # It loads NumPy, which the table of rewrites does without.

        return stems(self.layer.name, self.taken.__contains__, count)

    def param(self, name: str) -> Message:
        """Return the layer's block of parameters."""
        return params(self.layer, name)


@dataclass(frozen=True)
class Rewrite:
    """One way to write a layer otherwise.

    Attributes:
        name: What the user calls it.
        types: The layer types that it is for.
        fields: Of these types the layers that state one of these, all where there are none.
        summary: What becomes what.
        make: Returns the layers in place of the one given, or why it cannot be rewritten.
    """

    name: str
    types: tuple[str, ...]
    summary: str
    make: Callable[[Case], Sequence[Entry] | str]
    fields: tuple[str, ...] = ()
