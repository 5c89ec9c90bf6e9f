"""What lint says: one finding about a Caffe model, and the words for which runtimes it concerns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from surgery.formats.caffe.targets import Target, names

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing about a model's files that Caffe takes otherwise than one may expect.

    Attributes:
        severity: "error" where Caffe stops or computes garbage, "warning" where it silently does something else than
            the files seem to say, "note" for what is only worth knowing.
        code: A stable name of the kind of finding, in kebab-case.
        where: A layer's name, or file:line:column.
        message: One line: what was found, what Caffe does with it, what to do.
        targets: The runtimes that refuse the files over it, where not all do or where it is the schema's matter.
    """

    severity: Severity
    code: str
    where: str
    message: str
    targets: tuple[str, ...] = ()


def refusal(refusing: Collection[Target], judged: Sequence[Target]) -> tuple[Severity, str, tuple[str, ...]]:
    """Return how grave it is that some of the runtimes refuse a file, who does in words, and their names."""
    refusers = names(target for target in judged if target in refusing)
    if len(refusers) == len(judged) > 1:
        return "error", f"all of {', '.join(refusers)} refuse the file", refusers
    verb = "refuses" if len(refusers) == 1 else "refuse"
    severity: Severity = "error" if len(refusers) == len(judged) else "warning"
    return severity, f"{', '.join(refusers)} {verb} the file", refusers
