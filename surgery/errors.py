"""Every error a user can cause; `str()` of one says where, what was found, what was expected, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

REASON_LENGTH = 500


class SurgeryError(Exception):
    """Something the user can put right; the command line prints it as one line and exits with `exit_code`."""

    exit_code = 2


@dataclass(eq=False)
class ParseError(SurgeryError, ValueError):
    """A file is not what its format says. `line` and `column` count from 1; `offset` is in bytes from 0."""

    path: Path | str
    message: str
    line: int | None = None
    column: int | None = None
    offset: int | None = None
    excerpt: str | None = None  # The line in question and a caret under the place.

    def __str__(self) -> str:
        place = str(self.path)
        if self.line is not None:
            place += f":{self.line}:{self.column}"
        if self.offset is not None:
            place += f": at byte {self.offset}"
        tail = f"\n{self.excerpt}" if self.excerpt else ""
        return f"{place}: {self.message}{tail}"


@dataclass(eq=False)
class ModelError(SurgeryError, ValueError):
    """The files can be read but do not make a network: mismatched, missing or contradictory parts."""

    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(eq=False)
class PlanError(SurgeryError, ValueError):
    """A request or a plan cannot be carried out on this network."""

    message: str
    node: str | None = None

    def __str__(self) -> str:
        return f"{self.node}: {self.message}" if self.node else self.message


@dataclass(eq=False)
class DataError(SurgeryError, ValueError):
    """Calibration data, or what is said of how to read it, is not what the network needs."""

    path: Path | str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(eq=False)
class ConversionError(SurgeryError):
    """Layers of a network have no equivalent in the other format; each reason names its layer."""

    path: Path | str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        count = "1 layer" if len(self.reasons) == 1 else f"{len(self.reasons)} layers"
        # All are named, however many; a name alone may hold a megabyte.
        return f"{self.path}: {count} cannot be converted: {'; '.join(text[:REASON_LENGTH] for text in self.reasons)}"


@dataclass(eq=False)
class TargetError(ConversionError):
    """A runtime cannot run a network, even made ready for it; the reasons are all there are."""

    target: str

    def __str__(self) -> str:
        count = "1 reason" if len(self.reasons) == 1 else f"{len(self.reasons)} reasons"
        told = "; ".join(text[:REASON_LENGTH] for text in self.reasons)
        return f"{self.path}: {self.target} cannot run it, for {count}: {told}"


@dataclass(eq=False)
class EngineError(SurgeryError):
    """A runtime refused the files or failed while running them."""

    engine: str
    message: str
    layer: str | None = None
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = f"{self.engine}: layer '{self.layer}'" if self.layer else self.engine
        files = f" ({', '.join(self.files)})" if self.files else ""
        return f"{place}: {self.message}{files}"


class EngineMissingError(EngineError):
    """The runtime is not installed; the message says how to get it."""


@dataclass(eq=False)
class VerificationError(SurgeryError):
    """A result is not what it must be; nothing was written."""

    message: str
    exit_code = 1

    def __str__(self) -> str:
        return self.message


@dataclass(eq=False)
class NothingToCutError(SurgeryError):
    """No layer that was asked for can be cut with a gain; nothing was written."""

    reasons: tuple[str, ...]
    exit_code = 1

    def __str__(self) -> str:
        return "nothing to cut: " + ("; ".join(self.reasons) or "no layer can be cut; surgery inspect says why")
