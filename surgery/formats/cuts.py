"""What a format remembers of the layers that were cut in memory and not yet written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgery.ops import Chain


@dataclass(frozen=True, eq=False)
class Made:
    """A node that a cut made: stage `stage` of what the node `origin` became."""

    origin: str
    stage: int


@dataclass(frozen=True, eq=False)
class Cut:
    """What a node became: the operations and the names of the new nodes."""

    chain: Chain
    names: tuple[str, ...]
