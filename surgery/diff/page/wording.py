"""Put kinds, counts, shapes and names into words: short, and no longer than a reader can use."""

from __future__ import annotations

from unicodedata import east_asian_width

from surgery.diff.difference import Kind, Shape
from surgery.page import visible

LONGEST = 500  # Letters of a name or a field that are told.
WORDS: dict[Kind, str] = {
    "same": "the same",
    "changed": "changed",
    "split": "split",
    "merged": "merged",
    "renamed": "renamed",
    "reordered": "moved",
    "added": "added",
    "removed": "removed",
}
# What a kind is called on its layers; colours alone would not tell them apart for everyone.
SIGNS: dict[Kind, str] = {
    "changed": "≠ changed",
    "split": "÷ split",
    "merged": "× merged",
    "renamed": "≈ renamed",
    "reordered": "↕ moved",
    "added": "+ added",
    "removed": "− removed",
}


def count(number: int | None) -> str:
    """Return a count as people read it: "1,024", "unknown"."""
    return "unknown" if number is None else f"{number:,}"


def share(before: int | None, after: int | None) -> str:
    """Return how a count changed: "−72.1 %"; nothing where it did not, or cannot be told."""
    if not before or after is None or before == after:
        return ""
    return f"{(after - before) / before * 100:+.1f} %".replace("-", "−")


def shaped(shape: Shape) -> str:
    """Return a shape as people write it: "64 × 56 × 56", without the number of images where there are others."""
    sizes = shape[1:] if len(shape) > 1 else shape
    return " × ".join(map(str, sizes))


def shortened(text: str, room: int) -> str:
    """Return a text that takes no more than the room of so many letters, its middle left out where it is longer."""
    text = visible(text[: 2 * room] + text[2 * room :][-2 * room :])
    if sum(map(_width, text)) <= room:
        return text
    tail = _fitting(text[::-1], room // 2)[::-1]
    return f"{_fitting(text, room - room // 2 - 1)}…{tail}"


def limited(text: str) -> str:
    """Return a text, or the beginning of it and how long it is: a name or a field may hold a megabyte."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} letters)"


def _fitting(text: str, room: int) -> str:
    for i, letter in enumerate(text):
        room -= _width(letter)
        if room < 0:
            return text[:i]
    return text


def _width(letter: str) -> int:
    return 2 if east_asian_width(letter) in "WF" else 1
