"""Bad samples, statistics, preprocessing and options: one clear line and exit 2, in bounded time and memory."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgery.formats.wire import encode_bytes, encode_tag, encode_varint
from tests.cli.commands import complaints, end_children, run
from tests.cli.test_bad_input import NET, RANDOM, WEIGHTS, blob, layer
from tests.engines import require_onnxruntime
from tests.shared import REPOSITORY

SAMPLES = np.random.default_rng(0).standard_normal((12, 3, 8, 8)).astype(np.float32)
CUSTOM = NET.replace('type: "ReLU"', 'type: "Python" python_param { module: "a" layer: "b" }')
NAN = np.full(SAMPLES.shape, np.nan, np.float32)

Commands = Mapping[str, Sequence[str]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good model, samples for it, their statistics and plans that are fitted to them or are not."""
    require_onnxruntime()
    pytest.importorskip("cv2")
    folder = tmp_path_factory.mktemp("files")
    for name, text in (("net", NET), ("custom", CUSTOM), ("bare", NET.replace("input_shape {", "#"))):
        (folder / f"{name}.prototxt").write_text(text)
        (folder / f"{name}.caffemodel").write_bytes(WEIGHTS)
    np.save(folder / "x.npy", SAMPLES)
    np.save(folder / "pictures.npy", np.zeros((2, 8, 8, 3), np.uint8))
    (folder / "plain.json").write_text("{}")
    model = model_of(folder)
    cut = [*model, "--macs", "0.5", "-o"]
    ran = run(
        [
            ["calibrate", *model, "--data", str(folder / "x.npy"), "-o", str(folder / "net.statistics")],
            ["plan", *cut, str(folder / "fitted.json"), "--calibrate", str(folder / "x.npy")],
            ["plan", *cut, str(folder / "blind.json")],
        ]
    )
    assert [each.code for each in ran] == [0, 0, 0], [each.err for each in ran]
    return folder


@pytest.fixture(scope="module", autouse=True)
def _children_end() -> Iterator[None]:
    yield
    end_children()


def model_of(folder: Path, name: str = "net") -> list[str]:
    return [str(folder / f"{name}.prototxt"), str(folder / f"{name}.caffemodel")]


def assert_refused(commands: Commands, out: Path, codes: set[int] = {2}) -> None:  # noqa: B006
    """Each command line ends with one of `codes`, as it should, and leaves nothing in the folder `out`."""
    out.mkdir(exist_ok=True)
    wrong = []
    for (name, command), ran in zip(commands.items(), run(list(commands.values()), "--measured"), strict=True):
        given = [argument for argument in command if len(argument) < 1000]
        wrong += [f"{name}: {complaint}" for complaint in complaints(ran, codes, given)]
    assert not wrong, f"{len(wrong)} of {len(commands)}:\n" + "\n".join(wrong)
    assert not list(out.iterdir())


# --- Arrays


def npy(header: str, numbers: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + numbers


def stating(shape: str, kind: str = "'<f4'", numbers: bytes = b"") -> bytes:
    return npy(f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}", numbers)


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def packed(entries: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, raw in entries.items():
            archive.writestr(name, raw)
    return file.getvalue()


def changed(raw: bytes, place: int, bits: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ bits]) + raw[place + 1 :]


GOOD = saved(SAMPLES)
STORED = packed({"data.npy": GOOD}, zipfile.ZIP_STORED)
DIRECTORY = STORED.rfind(b"PK\x01\x02")
ARRAYS: dict[str, bytes] = {
    "empty.npy": b"",
    "random.npy": RANDOM,
    "a pickle.npy": b"\x80\x04K\x01.",
    "truncated.npy": GOOD[:-7],
    "truncated in the header.npy": GOOD[:50],
    "longer than it says.npy": GOOD + b"\0",
    "80 TB.npy": stating("(99999999999, 3, 8, 8)"),
    "2^64 images.npy": stating(f"({2**64}, 3, 8, 8)"),
    "a product of 2^64.npy": stating(f"({2**32}, {2**32})"),
    "a side of 3000 digits.npy": stating(f"({'9' * 3000},)"),
    "a negative side.npy": stating("(-1, 3, 8, 8)"),
    "a side that is a truth.npy": stating("(True, 3, 8, 8)", numbers=bytes(768)),
    "200 axes.npy": stating("(" + "1," * 200 + ")", numbers=bytes(4)),
    "a deep header.npy": npy("(" * 5000),
    "a deep table.npy": npy("{'a':" * 2000),
    "a call.npy": npy("__import__('os').abort()"),
    "zeros in the header.npy": npy("\0" * 100),
    "format 3.npy": b"\x93NUMPY\x03\x00\x04\x00\x00\x00\xff\xfe\xff\xfe",
    "format 9.npy": b"\x93NUMPY\x09\x00\x10\x00" + b" " * 16,
    "objects.npy": saved(np.array([{}, []], object)),
    "complex.npy": saved(SAMPLES.astype(complex)),
    "a struct.npy": saved(np.zeros(12, [("a", "<f4"), ("b", "<i4")])),
    "arrays of arrays.npy": stating("(1,)", "('<f4', (3, 8, 8))", bytes(768)),
    "words.npy": saved(np.full(SAMPLES.shape, "a")),
    "dates.npy": stating("(1, 3, 8, 8)", "'<M8[ns]'", bytes(2 * 768)),
    "a number.npy": saved(np.float32(1)),
    "no images.npy": saved(SAMPLES[:0]),
    "other axes.npy": saved(SAMPLES.transpose(0, 2, 3, 1)),
    "one axis less.npy": saved(SAMPLES[0]),
    "pictures of no pixels.npy": saved(np.zeros((12, 0, 9, 3), np.uint8)),
    "pictures of 4 channels.npy": saved(np.zeros((12, 8, 8, 4), np.uint8)),
    "NaN in the last.npy": saved(np.concatenate([SAMPLES, NAN])),
    "more than float32 holds.npy": saved(SAMPLES.astype(np.float64) * 1e300),
    "too large to square.npy": saved(SAMPLES * np.float32(1e30)),
    "empty.npz": b"",
    "random.npz": RANDOM,
    "almost.npz": b"PK\x03\x04" + RANDOM,
    "an npy.npz": GOOD,
    "nothing.npz": packed({}),
    "truncated.npz": STORED[:-30],
    "a bit turned over.npz": changed(STORED, 600, 255),
    "encrypted.npz": changed(STORED, DIRECTORY + 8, 1),
    "of another method.npz": changed(STORED, DIRECTORY + 10, 99),
    "lzma.npz": packed({"data.npy": GOOD}, zipfile.ZIP_LZMA),
    "text.npz": packed({"data.npy": b"hello"}),
    "other names.npz": packed({"a.npy": GOOD, "b.npy": GOOD}),
    "20000 names.npz": packed({f"{i}.npy": b"" for i in range(20_000)}, zipfile.ZIP_STORED),
    "objects.npz": packed({"data.npy": saved(np.array([{}], object))}),
    "10^12 numbers.npz": packed({"data.npy": stating("(1000000000000,)", numbers=bytes(9000))}),
}


def bomb(size: int) -> bytes:
    """An .npz whose one array of that many bytes is there, as zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("data.npy", "w") as entry:
        entry.write(stating(f"({size // 768}, 3, 8, 8)"))
        for _ in range(size // 768 // 1000):
            entry.write(bytes(768_000))
    return file.getvalue()


def test_bad_arrays_are_one_line_and_exit_2(files: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, raw in (ARRAYS | {"a bomb.npz": bomb(1_200_000_000)}).items():
        (tmp_path / "data" / name).write_bytes(raw)
    with (tmp_path / "data" / "300 MB of zeros.npy").open("wb") as sparse:
        sparse.truncate(3 * 10**8)
    os.mkfifo(tmp_path / "data" / "a pipe.npy")
    (tmp_path / "data" / "a loop.npy").symlink_to("a loop.npy")
    (tmp_path / "data" / "a device.npy").symlink_to("/dev/zero")
    names = [*sorted(path.name for path in (tmp_path / "data").iterdir()), "missing.npy"]
    assert_refused(_calibrating(files, tmp_path, names), tmp_path / "out")


def _calibrating(files: Path, folder: Path, names: Sequence[str], *more: str) -> Commands:
    """Command lines that read what is called so in the folder `data`."""
    command = ["calibrate", *model_of(files), "-o", str(folder / "out" / "made"), *more, "--data"]
    return {name: [*command, str(folder / "data" / name)] for name in names}


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_bits_turned_over_in_arrays_end_in_an_answer(ending: str, files: Path, tmp_path: Path) -> None:
    raw = {"npy": GOOD[:128] + GOOD[128 : 128 + 768 * 12], "npz": STORED}[ending]
    (tmp_path / "data").mkdir()
    rng = random.Random(0)
    for i in range(30):  # In the header, or in the directory at the end.
        place = rng.randrange(128) if ending == "npy" else len(raw) - 1 - rng.randrange(160)
        (tmp_path / "data" / f"{i}.{ending}").write_bytes(changed(raw, place, 1 << rng.randrange(8)))
    names = [f"{i}.{ending}" for i in range(30)]
    wrong = []
    for name, ran in zip(names, run(list(_calibrating(files, tmp_path, names).values())), strict=True):
        wrong += [f"{name}: {complaint}" for complaint in complaints(ran, {0, 2})]
    assert not wrong, "\n".join(wrong)


# --- Pictures and lists of them


def chunk(kind: bytes, raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + kind + raw + struct.pack(">I", zlib.crc32(kind + raw))


def png(width: int, height: int, rows: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, raw) for kind, raw in parts)


PICTURE = png(8, 8, (b"\0" + bytes(range(24))) * 8)
PICTURES: dict[str, dict[str, bytes]] = {
    "no files": {},
    "no pictures": {"a.txt": b"x"},
    "empty": {"a.png": b""},
    "random": {"a.png": RANDOM},
    "truncated": {"a.png": PICTURE[:60]},
    "text": {"a.jpg": b"hello"},
    "a bad one behind a good one": {"a.png": PICTURE, "b.png": RANDOM},
    "of 10^10 pixels": {"a.png": png(100_000, 100_000, bytes(100))},
    "of 2^62 pixels": {"a.png": png(2**31 - 1, 2**31 - 1, b"")},
    "of 4 * 10^8 pixels that are there": {"a.png": png(20_000, 20_000, bytes(60_001) * 2000)},
    "of 10^8 pixels that are not": {"a.png": png(10_000, 10_000, bytes(100))},
    "of no pixels": {"a.png": png(0, 0, b"")},
    "a huge PPM": {"a.ppm": b"P6 50000 50000 255\n" + bytes(100)},
    "a huge bitmap": {
        "a.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60000, 60000, 1, 24, *[0] * 6)
    },
    "a bad TIFF": {"a.tif": b"II*\0\x08\0\0\0" + RANDOM},
    "a bad JPEG 2000": {"a.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + RANDOM},
    "of another size": {"a.png": png(9, 8, (b"\0" + bytes(27)) * 8)},
    "a name that is not UTF-8": {"b\udcff\n\x1b[2J.png": RANDOM},
}
LISTS: dict[str, bytes] = {
    "empty.lst": b"",
    "blank lines.lst": b"\n\n  \n",
    "a missing picture.lst": b"good/a.png 0\ngood/z.png 1\n",
    "an absolute path that is not there.lst": b"/nowhere/a.png 3\n",
    "a folder.lst": b"good 0\n",
    "a device.lst": b"/dev/zero 0\n",
    "itself.lst": b"itself.lst 0\n",
    "a zero byte.lst": b"good/a\0.png 0\n",
    "a name of 5000 letters.lst": b"a" * 5000 + b" 0\n",
    "one line of 20 MB.lst": b"x" * 20_000_000,
    "control characters.lst": b"\x1b[2Jx.png 0\n",
    "latin-1.lst": b"good/\xff.png 0\n",
    "random.lst": RANDOM,
    "a picture.png": PICTURE,
    "statistics": packed({"header.npy": saved(np.zeros(3))}),
}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder `data` of folders and lists of pictures, good ones among them."""
    for name, held in (PICTURES | {"good": {"a.png": PICTURE, "b.png": PICTURE}}).items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for file, raw in held.items():
            (tmp_path / "data" / name / file).write_bytes(raw)
    for name, raw in LISTS.items():
        (tmp_path / "data" / name).write_bytes(raw)
    with (tmp_path / "data" / "300 MB of zeros.lst").open("wb") as sparse:
        sparse.truncate(3 * 10**8)
    return tmp_path


def test_bad_pictures_are_one_line_and_exit_2(files: Path, pictures: Path) -> None:
    names = [*PICTURES, *LISTS, "300 MB of zeros.lst", "missing"]
    plain = str(files / "plain.json")
    assert_refused(_calibrating(files, pictures, names, "--preprocess", plain), pictures / "out")
    assert_refused(_calibrating(files, pictures, ["good"]), pictures / "out")  # Nothing says how they are read.


def test_odd_folders_and_lists_of_good_pictures_are_read(files: Path, pictures: Path) -> None:
    data = pictures / "data"
    (data / "good" / "loop").symlink_to(data / "good")
    (data / "good" / "itself.png").symlink_to("itself.png")
    (data / "good" / "zero.png").symlink_to("/dev/zero")
    (data / "good" / "folder.png").mkdir()
    os.mkfifo(data / "good" / "pipe.png")
    (data / "good" / "b\udcff\n.png").write_bytes(PICTURE)
    lists = {"blank.lst": "\n\ngood/a.png 0\n\n", "absolute.lst": f"{data}/good/a.png 3\r\n", "bare.lst": "good/a.png"}
    for name, text in lists.items():
        (data / name).write_text(text)
    (pictures / "out").mkdir()
    command = ["calibrate", *model_of(files), "--preprocess", str(files / "plain.json")]
    commands = [[*command, "--data", str(data / n), "-o", str(pictures / "out" / n)] for n in ["good", *lists]]
    wrong = [complaint for ran in run(commands) for complaint in complaints(ran, {0})]
    assert not wrong, "\n".join(wrong)
    assert len(list((pictures / "out").iterdir())) == 4


# --- How pictures are read

GREY_LEVELS = np.random.default_rng(0).random((3, 8, 8)).astype(np.float32)
LEGACY = b"".join(encode_tag(number, 0) + encode_varint(size) for number, size in ((1, 1), (2, 3), (3, 8), (4, 8)))
MEANS: dict[str, bytes] = {
    "another size.npy": saved(np.random.default_rng(0).random((3, 9, 9))),
    "one channel.npy": saved(GREY_LEVELS[:1]),
    "NaN.npy": saved(GREY_LEVELS * np.nan),
    "complex.npy": saved(GREY_LEVELS * 1j),
    "more than float32 holds.npy": saved(GREY_LEVELS * np.float64(1e300)),
    "objects.npy": saved(np.array([{}], object)),
    "no numbers.npy": saved(np.zeros(0)),
    "a number.npy": saved(np.float32(1)),
    "of two pictures.npy": saved(np.zeros((2, 3, 8, 8))),
    "random.npy": RANDOM,
    "80 TB.npy": stating("(99999999999, 3, 8, 8)"),
    "random.binaryproto": RANDOM,
    "empty.binaryproto": b"",
    "10^12 numbers.binaryproto": encode_tag(2, 0) + encode_varint(10**12) + encode_bytes(5, GREY_LEVELS.tobytes()),
    "of 2^40 bytes.binaryproto": encode_tag(5, 2) + encode_varint(2**40),
    "NaN.binaryproto": LEGACY + encode_bytes(5, (GREY_LEVELS * np.nan).tobytes()),
    "10^6 axes.binaryproto": encode_bytes(7, encode_bytes(1, b"\x01" * 1_000_000)) + encode_bytes(5, bytes(4)),
    "one by one.binaryproto": LEGACY + (encode_tag(5, 5) + bytes(4)) * 300_000,
}
STATEMENTS: list[object] = [
    *(1, [], None, "x", {"size": 1}, {"\x1b[2J\n": 1}),
    *({"resize": value} for value in (0, -1, 10**30, 65535, [65535, 65535], 1.5, [1, 2, 3], True, None, "8")),
    *({"crop": value} for value in (0, 9, "8", [8])),
    *({"channels": value} for value in ("xyz", 5, ["bgr"], None, "grey")),
    *({"mean": value} for value in ("1", [1, 2], float("nan"), float("inf"), [[1]], 1e300, 10**400, None, True)),
    {"mean": [1.0] * 1_000_000},
    *({"scale": value} for value in (0, 1e-300, 1e300, 10**400, float("nan"), "1", None)),
    *({"mean_file": value} for value in ("gone.npy", 5, ".", "", "a\0b", "a" * 5000, "/dev/zero")),
    *({"mean": 1, **more} for more in ({"mean_file": "x"}, {"mean_sha256": "x"}, {"mean_sha256": 5})),
    *({"mean_file": name} for name in MEANS),
]
TEXTS = [b"", RANDOM, b"[" * 100_000, b'{"a":' * 100_000, b"NaN", b"1" * 5000, b"{} x", '{"crop": 8}'.encode("utf-16")]


def test_bad_preprocessing_is_one_line_and_exit_2(files: Path, tmp_path: Path) -> None:
    for name, raw in MEANS.items():
        (tmp_path / name).write_bytes(raw)
    texts = [*(json.dumps(stated).encode() for stated in STATEMENTS), *TEXTS]
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.json").write_bytes(text)
    os.mkfifo(tmp_path / "a pipe")
    (tmp_path / "a device").symlink_to("/dev/zero")
    (tmp_path / "a loop").symlink_to("a loop")
    names = [*(f"{i}.json" for i in range(len(texts))), "a pipe", "a device", "a loop", "missing", "."]
    command = [
        "calibrate",
        *model_of(files),
        "--data",
        str(files / "pictures.npy"),
        "-o",
        str(tmp_path / "out" / "made"),
    ]
    assert_refused({name: [*command, "--preprocess", str(tmp_path / name)] for name in names}, tmp_path / "out")


# --- Statistics

NONSENSE: list[object] = [None, -1, 1.5, "x", [], {"a": 1}, 10**400]


def entries_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def with_header(entries: Mapping[str, bytes], **fields: Any) -> bytes:
    header = json.loads(np.load(io.BytesIO(entries["header.npy"])).tobytes()) | fields
    raw = np.frombuffer(json.dumps(header).encode(), np.uint8)
    return packed({**entries, "header.npy": saved(raw)}, zipfile.ZIP_STORED)


def bad_statistics(good: Path) -> Iterator[tuple[str, bytes]]:
    """Yield files that lie about themselves, by name."""
    raw, entries = good.read_bytes(), entries_of(good)
    header = json.loads(np.load(io.BytesIO(entries["header.npy"])).tobytes())
    yield from (("empty", b""), ("random", RANDOM), ("truncated", raw[:-50]), ("half", raw[: len(raw) // 2]))
    yield from (
        (f"bit in {name}", changed(raw, raw.find(entries[name]) + 200, 1)) for name in ("0.rows0.npy", "header.npy")
    )
    lies: list[tuple[str, Any]] = [("format", 2), ("format", "1"), ("model", "0000"), ("tool", "x"), ("record", {})]
    lies += [("layers", None), ("layers", {}), ("layers", []), ("layers", [1])]
    lies += [("layers", [{"key": [1], "count": 5, "relu": True}])]
    lies += [("layers", [{**row, "count": 0} for row in header["layers"]]), ("layers", header["layers"][::-1])]
    lies += [("record", {**header["record"], name: None}) for name in ("images", "positions", "symmetric", "digest")]
    lies += [("record", {**header["record"], "images": value}) for value in NONSENSE]
    yield from ((f"{name} {i}", with_header(entries, **{name: value})) for i, (name, value) in enumerate(lies))
    yield "a deep header", packed({**entries, "header.npy": saved(np.frombuffer(b"[" * 100_000, np.uint8))})
    for name in sorted(name for name in entries if name.startswith("0.")):
        array = np.load(io.BytesIO(entries[name]))
        yield f"without {name}", packed({key: value for key, value in entries.items() if key != name})
        for what, bad in (
            ("NaN", array * np.nan),
            ("wide", np.concatenate([array, array], -1)),
            ("huge", array + 1e38),
        ):
            yield f"{what} {name}", packed({**entries, name: saved(bad.astype(array.dtype))})
        yield f"objects {name}", packed({**entries, name: saved(np.array([None], object))})


def test_bad_statistics_are_one_line_and_exit_2(files: Path, tmp_path: Path) -> None:
    command = ["compress", *model_of(files), "--layer", "conv=svd-spatial:rank=1", "-o", str(tmp_path / "out" / "made")]
    (tmp_path / "data").mkdir()
    for name, raw in bad_statistics(files / "net.statistics"):
        (tmp_path / "data" / name).write_bytes(raw)
    os.mkfifo(tmp_path / "data" / "a pipe")
    names = [*(path.name for path in (tmp_path / "data").iterdir()), "missing", "."]
    assert_refused({n: [*command, "--statistics", str(tmp_path / "data" / n)] for n in names}, tmp_path / "out")


# --- Plans and requests


def test_plans_with_nonsense_about_their_data_are_one_line_and_exit_2(files: Path, tmp_path: Path) -> None:
    plan = json.loads((files / "fitted.json").read_text())
    record, cut = plan["calibration"], plan["cuts"][0]
    broken: list[object] = [5, [], True, "x", {}]
    plans = [{**plan, "calibration": value} for value in broken]
    for name in ("images", "digest", "positions", "symmetric"):
        plans += [{**plan, "calibration": {**record, name: value}} for value in NONSENSE]
    stated: list[object] = [1, "x", [], {"mean_file": "/dev/zero"}]
    plans += [{**plan, "calibration": {**record, "preprocess": value}} for value in stated]
    plans += [
        {**plan, name: value} for name, value in (("refit", None), ("refit", 1), ("format", True), ("format", "2"))
    ]
    options: list[object] = [None, 5, [], {"a": 1}, {"algorithm": "tpm"}]
    plans += [{**plan, "cuts": [{**cut, "options": value}]} for value in options]
    layers: list[object] = [[], ["conv", "conv"], ["conv", 5], [["conv"]], ["conv", "ip"], ["conv", "relu"], {}, "relu"]
    plans += [{**plan, "cuts": [{**cut, "layer": value}]} for value in layers]
    commands = {}
    for i, bad in enumerate(plans):
        (tmp_path / f"{i}.json").write_text(json.dumps(bad))
        out = ["-o", str(tmp_path / "out" / "made"), "--verify", "none", "--calibrate", str(files / "x.npy")]
        commands[json.dumps(bad)[-300:]] = ["apply", *model_of(files), str(tmp_path / f"{i}.json"), *out]
    os.mkfifo(tmp_path / "a pipe.json")
    commands["a pipe"] = [
        "apply",
        *model_of(files),
        str(tmp_path / "a pipe.json"),
        "-o",
        str(tmp_path / "out" / "made"),
    ]
    assert_refused(commands, tmp_path / "out")


# What follows a model, with {data} the folder of the fixture; -o, where the verb takes one, comes behind it.
REQUESTS: dict[str, list[str]] = {
    "compress": [
        "--rank 1 --method cp --option x=1",
        "--rank 1 --method cp --option algorithm",
        "--rank 1 --method cp --option =",
        "--rank 1 --method cp --algorithm magic",
        "--rank 1 --method cp --option algorithm=tpm --option algorithm=als",
        "--rank 1 --method cp --option algorithm=tpm --algorithm als",
        "--rank 1 --algorithm tpm",
        "--rank 1 --method svd --algorithm tpm",
        "--rank 1 --method nmtf --option keep=nan",
        "--rank 1 --method ,",
        "--rank 1 --method response",
        "--layer conv=cp,svd-spatial:rank=1,algorithm=tpm",
        "--layer conv=svd-spatial:rank=1,algorithm=tpm",
        "--layer conv=cp:rank=1,algorithm=tpm,algorithm=als",
        "--rank 1 --calibrate {data}/x.npy --statistics {data}/net.statistics",
        "--rank 1 --statistics {data}/x.npy",
        "--rank 1 --calibrate {data}/net.statistics",
        "--rank 1 --calibrate {data}/missing",
        "--rank 1 --calibrate {data}/x.npy --images 0",
        "--rank 1 --calibrate {data}/x.npy --positions 0",
        "--rank 1 --calibrate {data}/x.npy --preprocess {data}/plain.json",
        "--rank 1 --calibrate {data}/x.npy --scratch {data}/plain.json",
        "--rank 1 --calibrate {data}/x.npy --scratch {data}/missing",
        "--rank 1 --calibrate {data}/x.npy --scratch /proc",
        "--rank 1 --preprocess {data}/plain.json",
        "--rank 1 --images 3",
        "--rank 1 --statistics {data}/net.statistics --symmetric",
        "--method none --calibrate {data}/x.npy",
        "--rank 1 --magic",
        "--rank",
    ],
    "advise": [
        "--macs 0.5",
        "--layer conv",
        "--layer missing --macs 0.5",
        "--layer relu --macs 0.5",
        "--layer relu --macs 0.5 --calibrate {data}/x.npy",
        "--layer conv --macs 0",
        "--layer conv --macs 2",
        "--layer conv --macs nan",
        "--layer conv --macs x",
        "--layer conv --macs 0.5 --preprocess {data}/plain.json",
        "--layer conv --macs 0.5 --runtime magic",
    ],
    "calibrate": [
        "--data {data}/x.npy --images 0",
        "--data {data}/x.npy --layer missing",
        "--data {data}/x.npy --scratch {data}/x.npy",
        "--images 1",
    ],
    "merge": ["--layer missing"],
    "apply": [
        "{data}/fitted.json",
        "{data}/fitted.json --statistics {data}/net.statistics",
        "{data}/fitted.json --calibrate {data}/x.npy --weights-only",
        "{data}/blind.json --calibrate {data}/x.npy",
        "{data}/missing.json",
    ],
    "convert": ["--int8"],  # Its name does not end in .onnx.
}


@pytest.mark.parametrize("verb", REQUESTS)
def test_a_request_for_data_or_a_method_that_cannot_be_met_is_one_line(verb: str, files: Path, tmp_path: Path) -> None:
    end = [] if verb == "advise" else ["-o", str(tmp_path / "out" / "made")]
    words = {text: text.replace("{data}", str(files)).split() for text in REQUESTS[verb]}
    commands = {text: [verb, *model_of(files), *end, *more] for text, more in words.items()}
    assert_refused(commands, tmp_path / "out")


def test_what_can_be_read_but_has_nothing_to_cut_ends_with_1(files: Path, tmp_path: Path) -> None:
    out = ["-o", str(tmp_path / "out" / "made")]
    commands = {
        "merge of nothing": ["merge", *model_of(files), *out],
        "a layer without weights": [
            "calibrate",
            *model_of(files),
            *out,
            "--data",
            str(files / "x.npy"),
            "--layer",
            "relu",
        ],
        "next to nothing": ["advise", *model_of(files), "--layer", "conv", "--macs", "1e-9"],
    }
    (tmp_path / "out").mkdir()
    for name, ran in zip(commands, run(list(commands.values())), strict=True):
        assert ran.code == 1, name
        assert ran.err.startswith("surgery: nothing to cut: "), name
        assert ran.err.count("\n") == 1, name
    assert not list((tmp_path / "out").iterdir())


def test_models_that_cannot_be_run_with_data_are_one_line_and_exit_2(files: Path, tmp_path: Path) -> None:
    without = [str(files / "net.prototxt")]
    weights = layer("conv", "Convolution", blob(8, 3, 3, 3)[:-4] + b"\0\0\xc0\x7f", blob(8))
    (tmp_path / "NaN.prototxt").write_text(NET)
    (tmp_path / "NaN.caffemodel").write_bytes(weights + layer("ip", "InnerProduct", blob(10, 288), blob(10)))
    models = {"a custom layer": model_of(files, "custom"), "no shapes": model_of(files, "bare"), "no weights": without}
    models["NaN in weights"] = model_of(tmp_path, "NaN")
    data, out = str(files / "x.npy"), str(tmp_path / "out" / "made")
    commands = {f"calibrate {name}": ["calibrate", *m, "--data", data, "-o", out] for name, m in models.items()}
    commands |= {n: ["compress", *m, "--rank", "1", "--calibrate", data, "-o", out] for n, m in models.items()}
    commands |= {
        f"advise {n}": ["advise", *m, "--layer", "conv", "--macs", "0.5", "--calibrate", data]
        for n, m in models.items()
    }
    assert_refused(commands, tmp_path / "out")


# --- What is the user's own


def test_results_do_not_take_the_place_of_what_they_are_made_from(files: Path, tmp_path: Path) -> None:
    held = {path: path.read_bytes() for path in files.iterdir()}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(PICTURE)
    model, plain = model_of(files), str(files / "plain.json")
    data, statistics, pictures = (str(files / name) for name in ("x.npy", "net.statistics", "pictures.npy"))
    calibrate = ["calibrate", *model, "--data"]
    commands = {
        "the data": [*calibrate, data, "-o", data],
        "the model": [*calibrate, data, "-o", model[1]],
        "a foreign file": [*calibrate, data, "-o", str(files / "blind.json")],
        "the preprocessing": [*calibrate, pictures, "--preprocess", plain, "-o", plain],
        "a picture": [
            *calibrate,
            str(tmp_path / "data"),
            "--preprocess",
            plain,
            "-o",
            str(tmp_path / "data" / "a.png"),
        ],
        "a folder": [*calibrate, data, "-o", str(files)],
        "a plan over data": ["plan", *model, "--rank", "1", "--calibrate", data, "-o", data],
        "a plan over statistics": ["plan", *model, "--rank", "1", "--statistics", statistics, "-o", statistics],
        "a folder of data": [
            "compress",
            *model,
            "--rank",
            "1",
            "--calibrate",
            str(tmp_path / "data"),
            "-o",
            str(tmp_path / "data"),
        ],
    }
    assert_refused(commands, tmp_path / "out")
    assert {path: path.read_bytes() for path in files.iterdir()} == held
    assert (tmp_path / "data" / "a.png").read_bytes() == PICTURE


def calibrating(files: Path, tmp_path: Path, **options: Any) -> subprocess.Popen[str]:
    """Begin to calibrate in a process of its own, with its scratch files and the result in folders of `tmp_path`."""
    for name in ("scratch", "out"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-m", "surgery", "calibrate", *model_of(files), "--data", str(tmp_path / "many.npy")]
    return subprocess.Popen(
        [*command, "--scratch", str(tmp_path / "scratch"), "-o", str(tmp_path / "out" / "made")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        **options,
    )


def test_interrupted_it_leaves_no_files(files: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "many.npy", np.tile(SAMPLES, (1500, 1, 1, 1)))
    with calibrating(files, tmp_path) as process:
        deadline = time.monotonic() + 20
        while not list((tmp_path / "scratch").glob("*/*.npy")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 130, told
    assert told.strip() == "surgery: interrupted"
    assert not [*(tmp_path / "scratch").iterdir(), *(tmp_path / "out").iterdir()]


def test_a_full_scratch_disk_is_one_line_and_leaves_no_files(files: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "many.npy", SAMPLES)

    def fill_up() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))  # Every write past 500 bytes fails.

    with calibrating(files, tmp_path, preexec_fn=fill_up) as process:
        _, told = process.communicate(timeout=20)
    assert process.returncode == 2, told
    assert told.startswith("surgery: ")
    assert told.count("\n") == 1
    assert not [*(tmp_path / "scratch").iterdir(), *(tmp_path / "out").iterdir()]
