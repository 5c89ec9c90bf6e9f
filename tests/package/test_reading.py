from __future__ import annotations

import io
import os
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from surgery.errors import DataError
from surgery.package import archive
from surgery.package.reading import opened

MEMBERS = {"a.bin": bytes(range(256)), "b/c.txt": b"two", "d": b""}


def made(*files: tuple[str, bytes], mode: int = 0o100644, kind: int = zipfile.ZIP_STORED) -> bytes:
    """A zip as other programs write them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type, info.create_system = mode << 16, kind, 3
            file.writestr(info, content)
    return buffer.getvalue()


def ours(members: dict[str, bytes], folder: Path) -> bytes:
    archive.write(folder / "ours.zip", members)
    return (folder / "ours.zip").read_bytes()


def refusal(data: bytes, folder: Path) -> str:
    path = folder / "parcel.zip"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught, opened(path):
        pass
    assert "\n" not in str(caught.value)
    return caught.value.message


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(ours(MEMBERS, tmp_path))
    with opened(tmp_path / "x.zip") as parcel:
        assert {name: parcel.read(name, 1000) for name in parcel.entries} == MEMBERS
        assert parcel.copy("b/c.txt", tmp_path / "out").read_bytes() == b"two"


def test_more_than_the_limit_and_what_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(ours(MEMBERS, tmp_path))
    with opened(tmp_path / "x.zip") as parcel:
        with pytest.raises(DataError, match="256 bytes; at most 255"):
            parcel.read("a.bin", 255)
        with pytest.raises(DataError, match="has no 'z'"):
            parcel.read("z", 255)


def test_a_name_that_is_no_members_is_written_nowhere(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(ours(MEMBERS, tmp_path))
    before = set(tmp_path.rglob("*"))
    with opened(tmp_path / "x.zip") as parcel, pytest.raises(DataError, match=r"has no '../out/new'"):
        parcel.copy("../out/new", tmp_path / "scratch")
    assert set(tmp_path.rglob("*")) == before


def _duplicates() -> bytes:
    with pytest.warns(UserWarning, match="Duplicate"):
        return made(("a", b"1"), ("a", b"2"))


def _encrypted() -> bytes:
    data = bytearray(made(("a", b"1")))
    for mark, offset in ((archive.LOCAL_MARK, 6), (archive.CENTRAL_MARK, 8)):
        data[data.index(mark) + offset] |= 1
    return bytes(data)


def _overlapping() -> bytes:
    """Two members in the list whose bytes are the same, as in zip bombs that need no nesting."""
    data = made(("a", b"1" * 100))
    start = data.index(archive.CENTRAL_MARK)
    record = data[start : -archive.END.size]
    other = record.replace(b"a", b"b")
    end = archive.END.pack(archive.END_MARK, 0, 0, 2, 2, 2 * len(record), start, 0)
    return data[:start] + record + other + end


def _commented() -> bytes:
    buffer = io.BytesIO(made(("a", b"1")))
    with zipfile.ZipFile(buffer, "a") as file:
        file.comment = b"hello"
    return buffer.getvalue()


def _extended() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        info = zipfile.ZipInfo("a")
        info.external_attr, info.extra = 0o100644 << 16, struct.pack("<2H", 0xCAFE, 0)
        file.writestr(info, b"1")
    return buffer.getvalue()


def _between() -> bytes:
    data = made(("a", b"1"))
    start = data.index(archive.CENTRAL_MARK)
    end = archive.END.unpack(data[-archive.END.size :])
    moved = archive.END.pack(*end[:6], end[6] + 5, 0)
    return data[:start] + b"extra" + data[start : -archive.END.size] + moved


def _many() -> bytes:
    return archive.END.pack(archive.END_MARK, 0, 0, 65535, 65535, 46 * 65535, 0, 0)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "climbs": (lambda: made(("../a", b"")), "leads out of the folder"),
    "climbs from inside": (lambda: made(("b/../../a", b"")), "leads out of the folder"),
    "climbs as Windows does": (lambda: made(("..\\a", b"")), "leads out of the folder"),
    "absolute": (lambda: made(("/etc/passwd", b"")), "is an absolute path"),
    "a drive's": (lambda: made(("C:evil", b"")), "is an absolute path"),
    "a link": (lambda: made(("a", b"/etc/passwd"), mode=0o120777), "is a link or a folder"),
    "a device": (lambda: made(("a", b""), mode=0o020666), "is a link or a folder"),
    "a folder": (lambda: made(("a/", b""), mode=0o040755), "is a link or a folder"),
    "packed": (lambda: made(("a", bytes(10**7)), kind=zipfile.ZIP_DEFLATED), "is compressed"),
    "encrypted": (_encrypted, "is encrypted"),
    "twice": (_duplicates, "are one name"),
    "one name to some systems": (lambda: made(("A", b"1"), ("a", b"2")), "are one name"),
    "a file as folder": (lambda: made(("a", b"1"), ("a/b", b"2")), "both a file and the folder"),
    "not sorted": (lambda: made(("b", b"1"), ("a", b"2")), "not sorted"),
    "strange letters": (lambda: made(("ä", b"1")), "is no plain name"),
    "control characters": (lambda: made(("a\x1b[2J", b"1")), "is no plain name"),
    "a device of Windows": (lambda: made(("a b", b"1")), "is no plain name"),
    "long": (lambda: made(("a" * 300, b"1")), "more than 200 letters"),
    "bytes before": (lambda: b"#!/bin/sh\n" + made(("a", b"1")), "bytes before its first file"),
    "bytes behind": (lambda: made(("a", b"1")) + b"x", "does not end as a parcel does"),
    "bytes between": (_between, "bytes between its files and their list"),
    "a comment": (_commented, "does not end as a parcel does"),
    "an extension": (_extended, "an extension or a comment"),
    "overlapping": (_overlapping, "does not lie behind the file before it"),
    "a list of everything": (_many, "lists 65535 files"),
    "another program's": (lambda: made(("a", b"1")), "is not as this tool writes it"),
    "no zip": (lambda: b"hello, this is not a zip file at all", "is no zip"),
    "nothing": (lambda: b"", "has 0 bytes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_an_archive_that_is_not_a_parcels_is_refused_with_its_reason(case: str, tmp_path: Path) -> None:
    make, reason = HOSTILE[case]
    assert reason in refusal(make(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["parcel.zip"]


def test_every_changed_byte_outside_the_files_is_refused(tmp_path: Path) -> None:
    data = ours(MEMBERS, tmp_path)
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(tmp_path / "ours.zip") as file:
        starts = [
            (info.header_offset + archive.LOCAL.size + len(info.filename), info.file_size) for info in file.filelist
        ]
    inside = {start + i for start, size in starts for i in range(size)}
    rng = random.Random(0)
    for position in set(range(len(data))) - inside:
        changed = bytearray(data)
        changed[position] ^= rng.randrange(1, 256)
        path.write_bytes(changed)
        with pytest.raises(DataError), opened(path):
            pass


def test_an_archive_that_ends_early_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    data = ours(MEMBERS, tmp_path)
    for length in range(len(data)):
        refusal(data[:length], tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(DataError, match="is no regular file"), opened(tmp_path / "pipe.zip"):
        pass
    with pytest.raises(DataError, match="no such file"), opened(tmp_path / "nothing.zip"):
        pass
