"""Bound the memory of a call into a library that bounds it itself nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATUS = Path("/proc/self/statm")


@contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """Let the process take at most `more` bytes beyond what it has; beyond that, allocations raise MemoryError.

    The limit is the whole process's, other threads' included. Systems that are not Linux have no such bound.
    """
    if not _STATUS.exists():
        yield
        return
    import resource

    now = int(_STATUS.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    bounds = [bound for bound in (now + more, soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
