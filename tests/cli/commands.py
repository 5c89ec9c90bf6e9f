"""Run command lines in bounded time and memory, and say what is wrong with how they ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from tests.cli.child import Ran
from tests.shared import REPOSITORY

PATIENCE_S = 20.0  # of the processor; most commands take a tenth of one.
SPARE_BYTES = 200_000_000


def run(commands: Sequence[Sequence[str]], *options: str) -> list[Ran]:
    """Run command lines in a child that waits for more."""
    child = _child(*options)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps([list(command) for command in commands]) + "\n")
    child.stdin.flush()
    return [Ran(**row) for row in json.loads(child.stdout.readline())]


def end_children() -> None:
    """End the children, whose input closes with that."""
    for options in ((), ("--measured",)):
        with _child(*options) as child:
            child.stdin.close() if child.stdin else None
    _child.cache_clear()


@cache
def _child(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.cli.child", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8:strict"},
    )


def complaints(ran: Ran, codes: set[int], given: Sequence[str] = (), spare: int = SPARE_BYTES) -> Iterator[str]:
    """What is wrong with how a command that was given these files, and `spare` bytes besides, ended."""
    if ran.code not in codes:
        yield f"exit {ran.code}, expected {sorted(codes)}"
    if ran.code not in (0, 1, 2) or "Traceback" in ran.err:
        yield f"traceback or signal: {ran.err[-600:]}"
    elif ran.code == 2:
        first, *more = ran.err.rstrip("\n").split("\n")
        if not first.startswith("surgery: "):
            yield f"expected one line from 'surgery: ' on, found {ran.err[:300]!r}"
        if more and not (len(more) == 2 and more[1].strip() == "^"):
            yield f"expected one line (and a caret), found {ran.err[:600]!r}"
        if len(first) > 2000 and "cannot be converted" not in first:  # There every layer is named.
            yield f"a line of {len(first)} characters"
        if "not enough memory" in first:
            yield "a wild allocation"
        if any(not character.isprintable() for character in first):
            yield f"control characters on the terminal: {first[:200]!r}"
        if ran.out:
            yield f"output besides the error: {ran.out[:100]!r}"
    if ran.seconds > PATIENCE_S:
        yield f"took {ran.seconds:.0f} s"
    size = sum(Path(file).stat().st_size for file in given if Path(file).is_file())
    if ran.peak_bytes > 2 * size + spare:
        yield f"{ran.peak_bytes / 1e6:.0f} MB of memory for {size / 1e6:.1f} MB of files"
