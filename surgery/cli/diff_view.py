"""What differs between two networks as a terminal shows it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

from surgery.cli import tables
from surgery.diff.difference import KINDS, Change, Difference, Entry, Numeric, Part, Reweighed, Side

WIDTH = 100  # columns
NAMES = 38  # of them for the names of layers
ALL = 10_000

_COLOURS = {
    "changed": "yellow",
    "split": "cyan",
    "merged": "cyan",
    "renamed": "blue",
    "reordered": "blue",
    "added": "green",
    "removed": "red",
}


def text(difference: Difference) -> str:
    """Return what differs, at most WIDTH columns wide."""
    return _text(difference, difference.differing, NAMES)


def whole_text(difference: Difference) -> str:
    """Return every layer, names in full, and what only training reads."""
    return _text(difference, difference.entries, ALL)


def _text(difference: Difference, entries: Sequence[Entry], limit: int) -> str:
    rows = [("changed", ["(network)"], [_change(change)]) for change in difference.network]
    rows += [(entry.kind, _names(entry, limit), _details(difference, entry, limit)) for entry in entries]
    width = max((len(line) for _, names, _ in rows for line in names), default=0)
    lines = [f"{name}  {_side(side)}" for name, side in _sides(difference)]
    lines += ["", *(line for kind, names, details in rows for line in _row(kind, names, details, width))]
    lines += [""] if rows else []
    lines += [_summary(difference), *_totals(difference)]
    lines += _numeric(difference.numeric) if difference.numeric else []
    notes = [*difference.notes, *(f"{name}: {note}" for name, side in _sides(difference) for note in side.notes)]
    return "\n".join([*lines, *(f"note: {tables.printable(note, 1000)}" for note in notes)])


def _sides(difference: Difference) -> tuple[tuple[str, Side], tuple[str, Side]]:
    return ("a", difference.a), ("b", difference.b)


def _side(side: Side) -> str:
    files = tables.printable(" ".join(side.files), 300)
    return f"{files}  ({side.format}, {len(side.layers)} layers)" if side.layers else files


def _row(kind: str, names: Sequence[str], details: Sequence[str], width: int) -> Iterator[str]:
    """Yield the lines of one entry: what it is, whom it concerns, and the details beside these."""
    room = max(WIDTH - 13 - width, 40)
    wrapped = [line for detail in details for line in textwrap.wrap(detail, room, break_on_hyphens=False)]
    for i in range(max(len(names), len(wrapped), 1)):
        label = (kind if i == 0 else "").ljust(9)
        name = names[i] if i < len(names) else ""
        detail = wrapped[i] if i < len(wrapped) else ""
        yield f"{tables.styled(label, fg=_COLOURS.get(kind))}  {name.ljust(width)}  {detail}".rstrip()


def _names(entry: Entry, limit: int) -> list[str]:
    """Return an entry's layers in one line where they have the room, else one a line."""
    a, b = ([tables.printable(key, limit - 3) for key in keys] for keys in (entry.a, entry.b))
    if a == b or not (a and b):
        return a or b
    line = f"{', '.join(a)} -> {', '.join(b)}"
    return [line] if len(line) <= limit else [*a, *(f"{'   ' if i else '-> '}{name}" for i, name in enumerate(b))]


def _details(difference: Difference, entry: Entry, limit: int) -> list[str]:
    details = [_part(part, alone=len(entry.parts) == 1) for part in entry.parts]
    details += map(_change, entry.changes)
    details += map(_reweighed, entry.weights)
    details += ["runs in another order"] if entry.is_moved else []
    details += [f"training: {_change(change)}" for change in entry.training] if limit == ALL else []
    if entry.kind in ("added", "removed"):
        layer = difference.b.by_key[entry.b[0]] if entry.b else difference.a.by_key[entry.a[0]]
        shape = f", {tables.shape(layer.shapes[0])}" if layer.shapes else ""
        details.append(f"{tables.printable(layer.type, 60)}{shape}")
    return details


def _part(part: Part, *, alone: bool) -> str:
    found = part.factored
    pieces = [found.shape + (f" of rank {'x'.join(map(str, found.ranks))}" if found.ranks else "")]
    if found.ternary:
        pieces.append(f"-1, 0, 1 in {len(found.ternary)} of {len(part.chain)}")
    if found.shared:
        pieces.append(f"shares {tables.printable(', '.join(found.shared), 60)}")
    error = f"weights {_percent(found.relative_error)} off" if found.relative_error is not None else found.reason
    told = ", ".join([*pieces, error or ""])
    return told if alone else f"{tables.printable(part.whole, 60)}: {told}"


def _change(change: Change) -> str:
    name = change.field.rpartition("_param.")[2]
    before, after = ("-" if value is None else tables.printable(value, 120) for value in (change.before, change.after))
    return f"{tables.printable(name, 60)}: {before} -> {after}"


def _reweighed(blob: Reweighed) -> str:
    if blob.before != blob.after and blob.relative_error is None:
        before, after = ("-" if shape is None else tables.shape(shape) for shape in (blob.before, blob.after))
        return f"{blob.blob}: {before} -> {after}"
    return f"{blob.blob} {_percent(blob.relative_error) if blob.relative_error is not None else 'all'} off"


def _percent(share: float) -> str:
    """Return a relative L2 error in three digits."""
    if share >= 10:
        return f"{100 * share:,.0f}%"
    return f"{100 * share:.3g}%" if share >= 1e-4 else f"{share:.1e}"


def _summary(difference: Difference) -> str:
    if difference.is_identical:
        return "identical: the files hold the same bytes"
    counts = {kind: difference.count(kind) for kind in KINDS}
    same = counts.pop("same")
    told = [f"{count} {tables.styled(kind, fg=_COLOURS[kind])}" for kind, count in counts.items() if count]
    told += ["inputs or outputs changed"] if difference.network else []
    if told:
        return f"{', '.join(told)}; {same} the same"
    answer = f"the same network: all {same} layers"
    is_one_format = difference.a.format == difference.b.format
    return f"{answer}; the files differ only in what none of these states or holds" if is_one_format else answer


def _totals(difference: Difference) -> list[str]:
    """Return what became of parameters and MACs, where both are known and differ."""
    told = []
    for name, before, after in (
        ("parameters", difference.a.params, difference.b.params),
        ("MACs", difference.a.macs, difference.b.macs),
    ):
        if before and after is not None and before != after:
            told.append(f"{name} {tables.count(before)} -> {tables.count(after)} ({tables.change(before, after)})")
    return [", ".join(told)] if told else []


def _numeric(numeric: Numeric) -> list[str]:
    rows = [("blob", "relative L2", "max abs", "")]
    for blob in numeric.blobs:
        verdict = "" if blob.relative_error <= numeric.tolerance else "differs"
        name = tables.printable(blob.blob, 60)
        rows.append((name, _number(blob.relative_error), _number(blob.max_abs), verdict))
    parting = numeric.parting
    told = f"no blob is more than {numeric.tolerance:g} off"
    if parting:
        told = f"they part at '{parting.blob}', made by '{parting.layer}'"
    end = tables.printable(f"{told}; {numeric.samples} inputs in {numeric.runtime}", 1000)
    return ["", tables.table(rows, frozenset({1, 2})), "", end, *(f"note: {note}" for note in numeric.notes)]


def _number(value: float) -> str:
    return f"{value:.3e}" if math.isfinite(value) else str(value)
