"""A task that needs nothing but itself: a function, small arguments, files by content; and what becomes of it."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.errors import SurgeryError
from surgery.version import __version__

# function(files, folder, **arguments): `files` are a task's files by name, relative paths between them kept; what it
# writes into the empty `folder` and what it returns, as JSON values, is the result. Done twice, it does the same.
Function = Callable[..., Any]


@dataclass(frozen=True)
class File:
    """A file and the SHA-256 of its bytes."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> File:
        """Read a file for its digest."""
        with path.open("rb") as file:
            return cls(path, hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True)
class Task:
    """What is to be done: `function` can be imported by its name; `repr` of an argument tells all there is to it."""

    function: Function
    arguments: Mapping[str, object]
    files: Mapping[str, File]

    @property
    def key(self) -> str:
        """Return the SHA-256 of all that the result depends on, this tool's version included."""
        name = f"{self.function.__module__}:{self.function.__qualname__}"
        files = sorted((name, file.sha256) for name, file in self.files.items())
        return hashlib.sha256(
            json.dumps([__version__, name, repr(sorted(self.arguments.items())), files]).encode()
        ).hexdigest()


@dataclass(frozen=True)
class Done:
    """What the function returned, and the folder that holds what it wrote, until the next outcome is asked for."""

    value: Any
    folder: Path


@dataclass(frozen=True)
class Failure:
    """Why there is no result, in one line without the paths of the machine that found it."""

    reason: str


Outcome = Done | Failure


def perform(function: Function, arguments: Mapping[str, object], files: Mapping[str, Path], folder: Path) -> Outcome:
    """Carry out a task here; whatever goes wrong is its own failure, so that the others go on."""
    try:
        value = function(files, folder, **arguments)
    except SurgeryError as error:
        reason = str(error).split("\n", 1)[0]
    except OSError as error:
        place = error.filename if error.filename is not None else "reading or writing a file"
        reason = f"{place}: {error.strerror or error}"
    except MemoryError:
        reason = "there is not enough memory for this; expected more, or smaller files"
    except Exception as error:  # A fault of ours on one model must not cost the results of a hundred others.
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        reason = f"a fault of this tool, please report it: {type(error).__name__} at {where}: {error}"
    else:
        # The same value on every runner: what JSON makes of it.
        return Done(json.loads(json.dumps(value)), folder)
    for name, path in {**files, "": folder}.items():
        reason = reason.replace(str(path), name)
    return Failure(reason)
