"""A progress bar on stderr that is there only on a terminal, and only for what takes more than a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WIDTH = 24
PATIENCE_S = 1.0
PATIENT_S = 100  # from which on seconds say no more than minutes


@contextmanager
def bar() -> Iterator[Callable[[str, float], None]]:
    """Give a function that shows what is being done and which share of the whole is behind.

    The time left is told from the first share on: what came before it, or an earlier run had done, is no measure.
    """
    start, shown = time.monotonic(), False
    first: tuple[float, float] | None = None

    def show(text: str, share: float) -> None:
        nonlocal shown, first
        now = time.monotonic()
        passed = now - start
        if first is None and share > 0:
            first = now, share
        if not sys.stderr.isatty() or (passed < PATIENCE_S and not shown and share > 0):
            return
        filled = round(share * WIDTH)
        left = ""
        if first is not None and share > first[1]:
            left = f" {_shown((now - first[0]) * (1 - share) / (share - first[1]))} left"
        sys.stderr.write(f"\r\x1b[K[{'#' * filled}{'.' * (WIDTH - filled)}] {share:4.0%}{left}  {text}")
        sys.stderr.flush()
        shown = True

    try:
        yield show
    finally:
        if shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _shown(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < PATIENT_S else f"{seconds / 60:.0f} min"
