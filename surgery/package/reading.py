"""Read a parcel that may come from anybody: only the one spelling of `archive` is taken, anything else is refused.

Nothing is written, no link is followed, and no more is read into memory than is asked for.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from surgery.errors import DataError
from surgery.package.archive import (
    CENTRAL,
    CENTRAL_MARK,
    CHUNK,
    END,
    END_MARK,
    LOCAL_MARK,
    MAX_BYTES,
    MAX_MEMBERS,
    MODE,
    PLAIN,
    Entry,
    directory,
    local_header,
)

NAME_LENGTH = 200
MAX_DIRECTORY = MAX_MEMBERS * (CENTRAL.size + NAME_LENGTH)
_KIND, _FILE = 0o170000 << 16, MODE & 0o170000 << 16  # Bits of a mode that tell files, folders and links apart.


class Parcel:
    """The members of an open parcel whose layout is in order; their bytes are not looked at before they are read."""

    def __init__(self, path: Path, file: IO[bytes], entries: tuple[Entry, ...]) -> None:
        self.path = path
        self.entries = {entry.name: entry for entry in entries}
        self._file = file

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield a member's bytes piece by piece; raises DataError where there is no such member."""
        entry = self._entry(name)
        position = entry.start
        while position < entry.end:
            self._file.seek(position)
            chunk = self._file.read(min(CHUNK, entry.end - position))
            if not chunk:
                raise DataError(self.path, f"ends inside '{name}'; it changed while it was read")
            position += len(chunk)
            yield chunk

    def read(self, name: str, limit: int) -> bytes:
        """Return a member's bytes; raises DataError where it is not there or holds more than `limit`."""
        size = self._entry(name).size
        if size > limit:
            raise DataError(self.path, f"'{name}' holds {size} bytes; at most {limit} are expected there")
        return b"".join(self.chunks(name))

    def copy(self, name: str, folder: Path) -> Path:
        """Write a member into a folder that only this program writes to; return the new file."""
        target = folder / self._entry(name).name  # A member's name is plain: it leads neither up nor elsewhere.
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.writelines(self.chunks(name))
        return target

    def _entry(self, name: str) -> Entry:
        if name not in self.entries:
            raise DataError(self.path, f"has no '{name[:NAME_LENGTH]}'; it is not a parcel, or not whole")
        return self.entries[name]


@contextmanager
def opened(path: Path) -> Iterator[Parcel]:
    """Open a parcel for reading; raises DataError unless every byte outside its members is as `archive` writes it."""
    if not path.is_file():
        raise DataError(path, "no such file" if not path.exists() else "is no regular file")
    with path.open("rb") as file:
        yield Parcel(path, file, _entries(path, file))


def _entries(path: Path, file: IO[bytes]) -> tuple[Entry, ...]:
    count, size, offset = _end(path, file)
    file.seek(offset)
    raw = file.read(size + END.size)
    records = list(_records(path, raw[:size], count))
    for record in records:
        for is_wrong, reason in _REFUSED:
            if is_wrong(record):
                raise DataError(path, f"'{record.shown}' {reason}")
    entries = tuple(Entry(record.name, record.size, record.crc, record.offset) for record in records)
    _check_names(path, [entry.name for entry in entries])
    _check_places(path, entries, offset)
    for entry in entries:
        file.seek(entry.offset)
        _check_same(path, entry.offset, file.read(entry.start - entry.offset), local_header(entry))
    _check_same(path, offset, raw, directory(entries))
    return entries


def _end(path: Path, file: IO[bytes]) -> tuple[int, int, int]:
    """Return how many members are listed, and length and place of the list."""
    length = file.seek(0, 2)
    if not END.size <= length <= MAX_BYTES:
        raise DataError(path, f"has {length} bytes; a parcel has {END.size} to {MAX_BYTES}")
    file.seek(0)
    if file.read(4) not in (LOCAL_MARK, END_MARK):
        raise DataError(path, "is no zip, or has bytes before its first file; a parcel begins with a file")
    file.seek(length - END.size)
    mark, *_, count, size, offset, comment = END.unpack(file.read(END.size))
    if mark != END_MARK or comment:
        raise DataError(path, "does not end as a parcel does: it is cut off, or has a comment or other bytes behind it")
    if count > MAX_MEMBERS or size > MAX_DIRECTORY:
        raise DataError(path, f"lists {count} files in {size} bytes; a parcel has at most {MAX_MEMBERS} files")
    if offset + size + END.size != length:
        raise DataError(path, "has bytes between its files and their list, which no parcel has")
    return count, size, offset


@dataclass(frozen=True)
class _Record:
    """A member as the list at the end describes it."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    extra: bytes
    attributes: int
    offset: int

    @property
    def shown(self) -> str:
        return self.name[:NAME_LENGTH]


def _records(path: Path, raw: bytes, count: int) -> Iterator[_Record]:
    position = 0
    for _ in range(count):
        try:
            fields = CENTRAL.unpack_from(raw, position)
        except struct.error as error:
            raise DataError(path, "its list of files is cut off") from error
        mark, _, _, flags, method, _, _, crc, packed, size, named, extra, comment, _, _, attributes, offset = fields
        if mark != CENTRAL_MARK:
            raise DataError(path, "its list of files is damaged")
        position += CENTRAL.size
        name = raw[position : position + named].decode("utf-8", "backslashreplace")
        rest = raw[position + named : position + named + extra + comment]
        position += named + extra + comment
        yield _Record(name, flags, method, crc, packed, size, rest, attributes, offset)
    if position != len(raw):
        raise DataError(path, "its list of files has bytes that belong to none")


# What of a member is told by its own reason; all else that differs from a parcel is found by comparing bytes.
_REFUSED: tuple[tuple[Callable[[_Record], bool], str], ...] = (
    (lambda r: r.name.startswith(("/", "\\")) or r.name[1:2] == ":", "is an absolute path; parcels have none"),
    (lambda r: ".." in re.split(r"[/\\]", r.name), "leads out of the folder; parcels have no such names"),
    (lambda r: len(r.name) > NAME_LENGTH, f"is a name of more than {NAME_LENGTH} letters"),
    (lambda r: r.attributes & _KIND != _FILE or r.name.endswith("/"), "is a link or a folder; parcels have only files"),
    (lambda r: not PLAIN.fullmatch(r.name), "is no plain name; expected letters, digits and . _ - /"),
    (lambda r: bool(r.flags & 1), "is encrypted; parcels are not"),
    (lambda r: r.method != 0 or r.packed != r.size, "is compressed; parcels store their files as they are"),
    (lambda r: bool(r.extra), "has an extension or a comment; parcels have none"),
)


def _check_names(path: Path, names: list[str]) -> None:
    folded: dict[str, str] = {}
    for name in names:
        if (other := folded.get(name.lower())) is not None:
            raise DataError(
                path, f"'{name}' and '{other}' are one name, on some systems at least; a parcel has it once"
            )
        folded[name.lower()] = name
    for name in names:
        parts = name.lower().split("/")
        if inside := next((up for i in range(1, len(parts)) if (up := "/".join(parts[:i])) in folded), None):
            raise DataError(path, f"'{folded[inside]}' is both a file and the folder of '{name}'")
    if names != sorted(names):
        raise DataError(path, "its files are not sorted by name, as those of a parcel are")


def _check_places(path: Path, entries: tuple[Entry, ...], end: int) -> None:
    """Raise DataError unless the members lie one behind the other and fill the file up to the list."""
    position = 0
    for entry in entries:
        if entry.offset != position:
            raise DataError(path, f"'{entry.name}' does not lie behind the file before it: they overlap, or bytes hide")
        position = entry.end
    if position != end:
        raise DataError(path, "has bytes between its files and their list, or the list is of other files")


def _check_same(path: Path, start: int, found: bytes, expected: bytes) -> None:
    """Raise DataError where the bytes from `start` on are not those that this tool writes."""
    if found != expected:
        differing = (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b)
        place = start + next(differing, len(found))
        raise DataError(path, f"byte {place} is not as this tool writes it: the archive was changed or made by another")
