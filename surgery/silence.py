"""Keep what libraries print past Python off the terminal and out of results."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silenced_output() -> Iterator[None]:
    """Drop what is written to the standard output of the process inside the block, by any thread."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        if os.name == "posix":
            ctypes.CDLL(None).fflush(None)  # A pipe gets what C has buffered only at the end of the process.
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
