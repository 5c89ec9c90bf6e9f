"""The one spelling of a parcel as a zip: members stored as they are, sorted, with fixed dates and modes.

Nothing is compressed: weights hardly shrink, whoever unpacks gets no more bytes than the file has, and the bytes do not
depend on anybody's zlib. Names are plain ASCII and sizes below 4 GiB, so that no member needs an extension. One set of
members therefore has one spelling, which a reader can demand byte for byte.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from surgery.errors import PlanError

CHUNK = 1 << 20
MAX_MEMBERS = 2000
MAX_BYTES = (1 << 32) - 1  # of a parcel; beyond, zip has another layout

LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
LOCAL_MARK, CENTRAL_MARK, END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_NEEDED, _MADE_BY = 10, 3 << 8 | 10  # zip 1.0, made on Unix, whose modes the next field holds
MODE = 0o100644 << 16  # a plain file, which its owner may write
_TIME, _DATE = 0, 1 << 5 | 1  # 1980-01-01, the first day that zip knows

PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*", re.ASCII)  # a member's name

Content = bytes | Path  # of a member: what it holds, or the file that it is a copy of


@dataclass(frozen=True)
class Entry:
    """A member: its name, its size in bytes, its CRC-32, and where its local header begins."""

    name: str
    size: int
    crc: int
    offset: int

    @property
    def start(self) -> int:
        """Where its bytes begin."""
        return self.offset + LOCAL.size + len(self.name)

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.size


@dataclass(frozen=True)
class Measured:
    """What a member's bytes come to; `sha256` in hexadecimal."""

    size: int
    crc: int
    sha256: str


def measured(chunks: Iterable[bytes]) -> Measured:
    """Return what the bytes come to, reading each once."""
    size, crc, digest = 0, 0, hashlib.sha256()
    for chunk in chunks:
        size, crc = size + len(chunk), zlib.crc32(chunk, crc)
        digest.update(chunk)
    return Measured(size, crc, digest.hexdigest())


def chunks_of(content: Content) -> Iterator[bytes]:
    """Yield a member's bytes, those of a file piece by piece."""
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        yield from iter(lambda: file.read(CHUNK), b"")


def write(path: Path, members: Mapping[str, Content]) -> None:
    """Write a parcel of these members by name; equal members give equal bytes.

    Raises PlanError where they are too many or too large, or have names that a parcel cannot have.
    """
    if (odd := next((name for name in members if not PLAIN.fullmatch(name)), None)) is not None:
        raise PlanError(f"{path.name}: '{odd}' is no name for a file in a parcel; expected letters, digits and . _ - /")
    found = {name: measured(chunks_of(members[name])) for name in sorted(members)}
    total = sum(facts.size for facts in found.values())
    if total + len(found) * 1000 > MAX_BYTES or len(found) > MAX_MEMBERS:  # Headers take less than 1000 bytes each.
        raise PlanError(
            f"{path.name}: {len(found)} files of {total} bytes; a parcel holds {MAX_MEMBERS} and 4 GB at most"
        )
    with path.open("wb") as file:
        entries = [_append(file, Entry(name, f.size, f.crc, file.tell()), members[name]) for name, f in found.items()]
        file.write(directory(entries))


def _append(file: IO[bytes], entry: Entry, content: Content) -> Entry:
    file.write(local_header(entry))
    for chunk in chunks_of(content):
        file.write(chunk)
    if file.tell() != entry.end:
        raise PlanError(f"{content!s:.300}: changed while it was read; run it again")
    return entry


def local_header(entry: Entry) -> bytes:
    """Return what stands before a member's bytes."""
    fields = (_NEEDED, 0, 0, _TIME, _DATE, entry.crc, entry.size, entry.size, len(entry.name), 0)
    return LOCAL.pack(LOCAL_MARK, *fields) + entry.name.encode("ascii")


def directory(entries: Sequence[Entry]) -> bytes:
    """Return what stands behind the last member: the list of all, and the end."""
    listed = b"".join(map(_listed, entries))
    offset = entries[-1].end if entries else 0
    return listed + END.pack(END_MARK, 0, 0, len(entries), len(entries), len(listed), offset, 0)


def _listed(entry: Entry) -> bytes:
    fields = (_MADE_BY, _NEEDED, 0, 0, _TIME, _DATE, entry.crc, entry.size, entry.size)
    return CENTRAL.pack(CENTRAL_MARK, *fields, len(entry.name), 0, 0, 0, 0, MODE, entry.offset) + entry.name.encode()
