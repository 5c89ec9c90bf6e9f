"""Functions of tasks, where other processes can import them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.errors import PlanError
from surgery.measure.parts import measure_part

Files = Mapping[str, Path]


def joined(files: Files, folder: Path, *, mark: str = "") -> dict[str, object]:
    """Write all files one behind the other, and a file in a folder."""
    text = mark + "".join(files[name].read_text() for name in sorted(files))
    (folder / "deep").mkdir()
    (folder / "joined.txt").write_text(text)
    (folder / "deep" / "length.txt").write_text(str(len(text)))
    return {"length": len(text), "names": sorted(files)}


def refused(files: Files, folder: Path) -> None:
    raise PlanError(f"{files['a/one.txt']}: holds nothing of use, and {folder}/x neither")


def faulty(files: Files, folder: Path) -> None:
    raise KeyError("nobody thought of this")


def missing(files: Files, folder: Path) -> None:
    (folder / "absent.txt").read_text()


def killed_at_first(files: Files, folder: Path, *, mark: str) -> dict[str, object]:
    """Die as the kernel ends processes when memory runs out, but only once."""
    if not Path(mark).exists():
        Path(mark).touch()
        _die()
    return joined(files, folder)


def measured_in_a_second_try(files: Files, folder: Path, *, mark: str, **arguments: Any) -> object:
    """Measure a part of a network, but die at first."""
    if not Path(mark).exists():
        Path(mark).touch()
        _die()
    return measure_part(files, folder, **arguments)


def killed(files: Files, folder: Path) -> None:
    _die()


def slow(files: Files, folder: Path, *, mark: str) -> None:
    """Tell that it began, and take long."""
    Path(mark).write_text(str(os.getpid()))
    time.sleep(600)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
