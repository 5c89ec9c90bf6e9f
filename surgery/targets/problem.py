"""One reason why a runtime cannot run a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Problem:
    """One thing in a network that a target refuses or would compute otherwise.

    Attributes:
        where: The layer's name, or the file's where it is no layer's matter.
        code: A stable name of the kind of problem, in kebab-case, as in lint's findings.
        found: What the network has.
        known: What the target knows or does instead.
        advice: What to do.
        rewrite: The name of the portable rewrite that solves it when it is allowed, None where there is none.
    """

    where: str
    code: str
    found: str
    known: str = ""
    advice: str = ""
    rewrite: str | None = None

    def __str__(self) -> str:
        said = f"{self.found}; {self.known}" if self.known else self.found
        return f"{self.where}: {said}: {self.advice}" if self.advice else f"{self.where}: {said}"


LISTED = 3  # names of a longer list that one line shows


def grouped(problems: Sequence[Problem]) -> tuple[str, ...]:
    """Return the problems as lines, those that say the same of several layers in one."""
    places: dict[Problem, list[str]] = {}
    for problem in problems:
        places.setdefault(replace(problem, where=""), []).append(problem.where)
    return tuple(str(replace(problem, where=_listed(names))) for problem, names in places.items())


def _listed(names: Sequence[str]) -> str:
    if len(names) <= LISTED:
        return ", ".join(names)
    return f"{', '.join(names[: LISTED - 1])} and {len(names) - LISTED + 1} more"
