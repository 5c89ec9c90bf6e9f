from __future__ import annotations

from pathlib import Path

import pytest

from surgery.measure.cache import load, store


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "surgery" / "tables"


@pytest.mark.parametrize("value", [None, 0.1, [1, [2.5e-300, "é"]], {"a": [], "b": None}])
def test_what_was_stored_is_found_again_bit_for_bit(value: object) -> None:
    store("kind", "key", value)
    assert load("kind", "key") == value


def test_kinds_and_keys_are_told_apart_and_the_last_value_counts() -> None:
    store("one", "key", 1)
    store("two", "key", 2)
    store("one", "other", 3)
    store("one", "key", 4)
    assert [load("one", "key"), load("two", "key"), load("one", "other")] == [4, 2, 3]
    assert load("two", "other") is None


@pytest.mark.parametrize("text", [b"", b'{"key": "key", "val', b"\xff\x00", b"[1]", b'{"key": "another", "value": 1}'])
def test_a_file_that_is_broken_or_foreign_counts_as_absent_and_is_replaced(cache: Path, text: bytes) -> None:
    store("kind", "key", 1)
    (file,) = (cache / "kind").iterdir()
    file.write_bytes(text)
    assert load("kind", "key") is None
    store("kind", "key", 2)
    assert load("kind", "key") == 2


def test_nothing_but_whole_files_lies_in_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store("kind", "key", 1)

    def stopped(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        store("kind", "key", 2)
    assert load("kind", "key") == 1
    assert len(list((cache / "kind").iterdir())) == 1


def test_without_a_place_to_write_nothing_is_kept_and_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    store("kind", "key", 1)
    assert load("kind", "key") is None


def test_the_cache_is_in_the_home_folder_where_no_other_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    store("kind", "key", 1)
    assert len(list((tmp_path / ".cache" / "surgery" / "tables" / "kind").iterdir())) == 1
