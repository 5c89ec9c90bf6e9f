"""A network made ready for a target, in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from surgery.targets.problem import Problem

Writer = Callable[[Path, str], tuple[Path, ...]]


def _nothing(folder: Path, stem: str) -> tuple[Path, ...]:
    return ()


@dataclass(frozen=True, eq=False)
class Ready:
    """What is in the way, what was done, what whoever runs it must know, and what writes it into a folder."""

    problems: tuple[Problem, ...]
    changes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()
    write: Writer = _nothing
