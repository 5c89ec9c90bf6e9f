from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from surgery.errors import DataError, EngineError, SurgeryError, VerificationError
from surgery.package import check
from surgery.package.archive import write
from surgery.package.parcel import sums
from surgery.package.vectors import npy, parsed, raw
from tests.engines import require_onnxruntime
from tests.package.parcels import members, tiny_parcel

Members = dict[str, bytes]
FLIPS = 2000


@pytest.fixture(autouse=True)
def _runtime() -> None:
    require_onnxruntime()


@pytest.fixture
def parcel(tmp_path: Path) -> Path:
    (tmp_path / "tiny.zip").write_bytes(tiny_parcel())
    return tmp_path / "tiny.zip"


def test_a_parcel_as_it_was_made_is_in_order(parcel: Path) -> None:
    checked = check(parcel)
    assert (checked.target, checked.samples) == ("caffe-android-lib", 3)
    assert all(distance <= 1e-4 for own in checked.distances.values() for distance in own.values())


def test_any_changed_byte_is_found(parcel: Path) -> None:
    """All bytes outside the files, which test_reading.py changes one by one, and as many inside."""
    data = parcel.read_bytes()
    rng = random.Random(0)
    for _ in range(FLIPS):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        parcel.write_bytes(changed)
        with pytest.raises((DataError, VerificationError)):
            check(parcel)


def test_nothing_is_written_but_into_the_temporary_folder(
    parcel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path != scratch}
    check(parcel)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path != scratch} == before


def _with(name: str, content: bytes | None) -> Callable[[Members], Members]:
    def change(found: Members) -> Members:
        return {**found, name: content} if content is not None else {n: c for n, c in found.items() if n != name}

    return change


def _manifest(**changes: object) -> Callable[[Members], Members]:
    def change(found: Members) -> Members:
        return {**found, "MANIFEST.json": json.dumps(json.loads(found["MANIFEST.json"]) | changes).encode()}

    return change


def _output(times: float) -> Callable[[Members], Members]:
    def change(found: Members) -> Members:
        array = parsed(found["golden/1-output-0.f32"], "x") * np.float32(times)
        return {**found, "golden/1-output-0.f32": raw(array), "golden/1-output-0.npy": npy(array)}

    return change


# Parcels put together anew, sums and all: what a program makes that is not this one, or a person who means harm.
FORGED: dict[str, tuple[Callable[[Members], Members], type[SurgeryError], str]] = {
    "no manifest": (_with("MANIFEST.json", None), DataError, "has no 'MANIFEST.json'"),
    "a manifest that is no JSON": (_with("MANIFEST.json", b"{"), DataError, "is not what this tool writes"),
    "a manifest that is a list": (_with("MANIFEST.json", b"[]"), DataError, "is not what this tool writes"),
    "a manifest too deep to read": (_with("MANIFEST.json", b"[" * 10**6), DataError, "is not what this tool writes"),
    "another format": (_manifest(format=2), DataError, "expected 'surgery', format 1"),
    "a network of no files": (_manifest(model={"files": []}), DataError, "does not name the network's files"),
    "a file outside": (_manifest(model={"files": ["../../etc/passwd"]}), DataError, "has no '../../etc/passwd'"),
    "a file by its path": (_manifest(model={"files": ["/etc/passwd"]}), DataError, "has no '/etc/passwd'"),
    "a number for a name": (_manifest(model={"files": [7]}), DataError, "does not name the network's files"),
    "no list of vectors": (_with("golden/index.txt", None), DataError, "has no 'golden/index.txt'"),
    "no vectors": (_with("golden/index.txt", b""), DataError, "names no golden vectors"),
    "a vector twice": (
        _with("golden/index.txt", b"input 0 golden/0-input-0.f32 0 data\n" * 2),
        DataError,
        "names a file twice",
    ),
    "a sample far off": (
        _with("golden/index.txt", b"input 9999 golden/0-input-0.f32 0 data\n"),
        DataError,
        "not all from sample 0 on",
    ),
    "no outputs": (
        _with("golden/index.txt", b"input 0 golden/0-input-0.f32 0 data\n"),
        DataError,
        "does not name every output",
    ),
    "a vector outside": (
        _with("golden/index.txt", b"input 0 ../0-input-0.f32 0 data\n"),
        DataError,
        "has no '../0-input-0.f32'",
    ),
    "a vector of another shape": (_with("golden/0-input-0.f32", raw(np.zeros(3))), DataError, "same numbers"),
    "a vector of no shape": (_with("golden/0-input-0.f32", b"\xff" * 8), DataError, "holds no shape"),
    "an output a thousandth off": (_output(1.001), VerificationError, "'conv' is 1.0e-03 .* from the golden vectors"),
    "other weights": (_with("deploy.caffemodel", b""), VerificationError, "conv"),
    "no network": (_with("deploy.prototxt", b"layer {"), EngineError, "no runtime here runs the network"),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_parcel_put_together_anew_is_refused_with_its_reason(case: str, parcel: Path) -> None:
    change, error, reason = FORGED[case]
    found = members(parcel)
    del found["SHA256SUMS"]
    forged = change(found)
    write(parcel, {**forged, "SHA256SUMS": sums(forged)})
    with pytest.raises(error, match=reason) as caught:
        check(parcel)
    assert "\n" not in str(caught.value)


def test_an_output_within_its_tolerance_agrees(parcel: Path) -> None:
    found = members(parcel)
    del found["SHA256SUMS"]
    forged = _output(1 + 4e-7)(found)
    write(parcel, {**forged, "SHA256SUMS": sums(forged)})
    check(parcel)


@pytest.mark.parametrize("case", ["one more", "one less", "twice", "none", "no text"])
def test_sums_that_do_not_list_every_file_once_are_refused(case: str, parcel: Path) -> None:
    found = members(parcel)
    lines = found["SHA256SUMS"].splitlines(keepends=True)
    changed = {
        "one more": [*lines, b"0" * 64 + b"  more\n"],
        "one less": lines[1:],
        "twice": [lines[0], *lines],
        "none": [],
        "no text": [b"\xff\xfe"],
    }
    write(parcel, {**found, "SHA256SUMS": b"".join(changed[case])})
    with pytest.raises(VerificationError, match="SHA256SUMS and the files do not match"):
        check(parcel)
