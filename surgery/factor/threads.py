"""Solves under a fixed number of BLAS threads: factors differ in their last bits between numbers of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


@contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """Run the block with `count` threads in every BLAS that NumPy and SciPy use."""
    import scipy.linalg  # noqa: F401 - SciPy brings a BLAS of its own, and only libraries that are loaded are limited.

    with threadpool_limits(count):
        yield
