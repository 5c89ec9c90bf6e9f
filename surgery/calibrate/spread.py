"""Which images are read, where not all are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

GOLDEN = 2654435769  # 2^32 over the golden ratio: multiples of it, modulo 2^32, spread evenly.


def taken(count: int, limit: int | None) -> Sequence[int]:
    """Return which of `count` images are read: all, or `limit` of them, one of each of so many runs of equal length.

    Its place in the run changes without a period: data may be sorted by class, or classes may take turns.
    """
    if limit is None or limit >= count:
        return range(count)
    runs = pairwise(count * i // limit for i in range(limit + 1))
    return [start + (i * GOLDEN % 2**32 * (end - start) >> 32) for i, (start, end) in enumerate(runs)]
