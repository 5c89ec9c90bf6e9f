from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from surgery.errors import PlanError
from surgery.package import archive

MEMBERS = {"b/c.txt": b"two", "a.bin": bytes(range(256)), "empty": b""}


def test_any_zip_reader_gives_the_members_back(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    archive.write(path, MEMBERS)
    with zipfile.ZipFile(path) as found:
        assert found.testzip() is None
        assert {name: found.read(name) for name in found.namelist()} == MEMBERS


def test_members_come_sorted_dated_1980_as_plain_files_and_stored(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    archive.write(path, MEMBERS)
    with zipfile.ZipFile(path) as found:
        infos = found.infolist()
    assert [info.filename for info in infos] == ["a.bin", "b/c.txt", "empty"]
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {info.external_attr >> 16 for info in infos} == {0o100644}
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}


def test_a_file_and_its_bytes_make_the_same_archive_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(MEMBERS["a.bin"])
    archive.write(tmp_path / "one.zip", MEMBERS)
    archive.write(tmp_path / "two.zip", {"empty": b"", "a.bin": tmp_path / "content", "b/c.txt": b"two"})
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


@pytest.mark.parametrize("name", ["/a", "../a", "a/../b", "a//b", "ä", "a\nb", "", ".hidden", "a/"])
def test_a_name_that_is_not_plain_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="is no name for a file in a parcel"):
        archive.write(tmp_path / "x.zip", {name: b""})
    assert not (tmp_path / "x.zip").exists()


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="2001 files"):
        archive.write(tmp_path / "x.zip", {str(i): b"" for i in range(archive.MAX_MEMBERS + 1)})
