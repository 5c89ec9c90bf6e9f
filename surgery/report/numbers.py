"""Numbers as a reader of a report sees them."""

from __future__ import annotations

from collections.abc import Sequence

NONE = "–"  # What is not known.


def count(number: float | None) -> str:
    """Return a count with its thousands apart."""
    return NONE if number is None else f"{round(number):,}"


def size(number: float | None) -> str:
    """Return bytes, in decimal units too: 1 MB is 10^6 bytes."""
    if number is None:
        return NONE
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= scale:
            return f"{number / scale:.1f} {unit} ({round(number):,} bytes)"
    return f"{round(number):,} bytes"


def share(part: float | None, whole: float | None = 1) -> str:
    """Return what part of a whole there is, in percent; nothing where there is no whole."""
    return NONE if part is None or not whole else f"{part / whole:.1%}"


def figure(number: float | None) -> str:
    """Return a measured number with four significant digits."""
    return NONE if number is None else f"{number:.4g}"


def ranks(rank: Sequence[int]) -> str:
    """Return a rank of one number or several."""
    return "x".join(map(str, rank))


def milliseconds(number: float | None) -> str:
    """Return a time."""
    return NONE if number is None else f"{number:.4g} ms"
