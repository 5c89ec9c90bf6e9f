"""What a format remembers of the layers that were cut in memory and not yet written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgery.ops import Op, Stage


@dataclass(frozen=True, eq=False)
class Made:
    """A node that a cut made: stage `stage` of what the node `origin` became."""

    origin: str
    stage: int


@dataclass(frozen=True, eq=False)
class Cut:
    """What a node became: the operations and the names of the new nodes, in running order.

    The first `shared` of them are another node's, written where that one stood; this node's own read the last of them.
    """

    stages: tuple[Stage, ...]
    names: tuple[str, ...]
    shared: int = 0

    def with_op(self, stage: int, op: Op) -> Cut:
        """Return the cut with another operation at a stage."""
        return replace(self, stages=(*self.stages[:stage], op, *self.stages[stage + 1 :]))
