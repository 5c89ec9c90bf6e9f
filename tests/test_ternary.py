"""The file of ternary layers: what is written comes back, and whatever else is read ends in one line."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import ModelError, ParseError
from surgery.factor.base import with_options
from surgery.factor.sdd import Sdd
from surgery.ops import Chain, Linear, Scale
from surgery.ternary import MAX_HEADER, TernaryLayer, read, restored, ternary_layers, write
from tests.cases import OPS, normal

NONE = np.empty(0, np.float32)
laws = settings(deadline=None, max_examples=60, derandomize=True)


@st.composite
def layers(draw: st.DrawFn) -> TernaryLayer:
    groups, out, inputs = (draw(st.integers(1, n)) for n in (3, 4, 5))
    taps = draw(st.sampled_from([(), (1, 1), (3, 2)]))
    along = draw(st.sampled_from(["none", "output", "input"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.integers(-1, 2, (groups * out, inputs, *taps)).astype(np.int8)
    scale = rng.standard_normal({"none": 0, "output": groups * out, "input": groups * inputs}[along])
    return TernaryLayer(values, scale.astype(np.float32), along, groups)


@laws
@given(st.dictionaries(st.text(max_size=8), layers(), max_size=5), st.dictionaries(st.text(), st.integers()))
def test_what_is_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, written: dict[str, TernaryLayer], metadata: dict[str, int]
) -> None:
    path = tmp_path_factory.mktemp("file") / "layers.ternary"
    assert write(path, written, metadata) == path.stat().st_size
    found, about = read(path)
    assert (list(found), about) == (list(written), metadata)
    for name, layer in written.items():
        np.testing.assert_array_equal(found[name].values, layer.values)
        np.testing.assert_array_equal(found[name].scale, layer.scale)
        assert (found[name].along, found[name].groups) == (layer.along, layer.groups)


@pytest.mark.parametrize("form", ["scale", "folded"])
@pytest.mark.parametrize("name", ["groups 2", "3x3", "wide", "zero", "rank-deficient"])
def test_the_layers_of_a_chain_come_back_bit_for_bit(tmp_path: Path, form: str, name: str) -> None:
    op = OPS[name]
    chain = with_options(Sdd(), {"form": form}).factor(op, (7,)).chain
    stages = [f"fc_{i}" for i in range(len(chain.ops))]
    write(tmp_path / "file", ternary_layers(chain, stages), {})
    found = restored(read(tmp_path / "file")[0])
    assert list(found) == [stages[0], stages[-1]]
    # The scale has gone to the first layer; folded, it is in the last as it was.
    first, last = found.values()
    if form == "folded":
        np.testing.assert_array_equal(first, chain.first.weight)
        np.testing.assert_array_equal(last, chain.last.weight)
    else:
        scale = chain.ops[1]
        assert isinstance(scale, Scale)
        weight = chain.first.weight * scale.factor.astype(np.float32).reshape(-1, *(1,) * (first.ndim - 1))
        np.testing.assert_array_equal(first, weight)
        np.testing.assert_array_equal(last, chain.last.weight)


def test_ordinary_layers_are_left_out() -> None:
    ternary = Linear(np.array([[1, 0], [0, -1], [1, 1]], np.float32))
    assert list(ternary_layers(Chain((Linear(normal(1, 2, 5)), ternary)), ["a", "b"])) == ["b"]


def test_a_weight_takes_two_bits(tmp_path: Path) -> None:
    op = Linear(normal(2, 128, 256))
    fit = Sdd().factor(op, (64,))
    size = write(tmp_path / "file", ternary_layers(fit.chain, ["a", "b", "c"]), {})
    factors = 64 * (128 + 256)
    assert factors / 4 + 4 * 64 <= size <= factors / 4 + 4 * 64 + 1024  # Header: two layers' names and shapes.


def test_the_layout_is_the_one_that_is_documented(tmp_path: Path) -> None:
    """Read byte by byte, as the C code in the module's description does."""
    weight = np.array([[[1, -1], [0, 2]], [[-1, 1], [2, -2]], [[3, 0], [0, 0]], [[3, -3], [0, 0]]], np.float32)
    op = Linear(weight.reshape(4, 4)[:2])
    rng = np.random.default_rng(0)
    values = rng.integers(-1, 2, (4, 3, 1, 2)).astype(np.int8)
    first = TernaryLayer(values, np.array([1, 2, 3, 4], np.float32), "output", 2)
    second = TernaryLayer(values, np.arange(6).astype(np.float32), "input", 2)
    third = TernaryLayer(np.sign(op.weight[:, :2]).astype(np.int8), NONE)
    write(tmp_path / "file", {"one": first, "two": second, "three": third}, {"from": "a test"})
    data = (tmp_path / "file").read_bytes()
    assert data[:8] == bytes.fromhex("534759544 5524E00".replace(" ", ""))
    form, length = struct.unpack_from("<II", data, 8)
    assert (form, (48 + length) % 16) == (1, 0)
    assert data[16:48] == hashlib.sha256(data[48:]).digest()
    header = json.loads(data[48 : 48 + length])
    for row, layer in zip(header["layers"], (first, second, third), strict=True):
        np.testing.assert_array_equal(_as_in_c(data, 48 + length + row["offset"], row), layer.weight)


def _as_in_c(data: bytes, start: int, row: dict[str, Any]) -> np.ndarray:
    shape = row["shape"]
    taps, count = int(np.prod(shape[2:])), int(np.prod(shape))
    scales = start + -(-count // 16) * 4
    weight = np.empty(count, np.float32)
    for o, i, t in np.ndindex(shape[0], shape[1], taps):
        n, g = (o * shape[1] + i) * taps + t, o // (shape[0] // row["groups"])
        code = data[start + (n >> 2)] >> (2 * (n & 3)) & 3
        place = {"none": None, "output": o, "input": g * shape[1] + i}[row["scale"]]
        scale = 1 if place is None else struct.unpack_from("<f", data, scales + 4 * place)[0]
        weight[n] = (-1 if code == 3 else code) * scale
    return weight.reshape(shape)


def whole() -> dict[str, TernaryLayer]:
    values = np.random.default_rng(0).integers(-1, 2, (5, 7)).astype(np.int8)
    return {"a": TernaryLayer(values, NONE), "b": TernaryLayer(values, np.ones(5, np.float32), "output")}


def test_a_file_cut_short_or_with_a_changed_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, whole(), {})
    data = path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(ParseError):
            read(path)
    for place in (*range(8 * 48), *range(8 * 48, 8 * len(data), 7)):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(ParseError):
            read(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ParseError, match="SHA-256"):
        read(path)


def signed(header: bytes, payload: bytes) -> bytes:
    """A file that is consistent with itself, whatever its header says."""
    rest = header + payload
    return struct.pack("<8sII32s", b"SGYTERN\0", 1, len(header), hashlib.sha256(rest).digest()) + rest


def row(**changes: Any) -> dict[str, Any]:
    return {"name": "a", "shape": [5, 7], "groups": 1, "scale": "none", "offset": 0} | changes


@pytest.mark.parametrize(
    ("rows", "payload", "reason"),
    [
        ([row(shape=[2**31 - 1] * 4)], bytes(12), "behind the file"),
        ([row(shape=[10**4000, 1])], bytes(12), "another shape"),
        ([row(shape=[-5, 7])], bytes(12), "another shape"),
        ([row(shape=[5, 7.0])], bytes(12), "another shape"),
        ([row(shape=[True, 7])], bytes(12), "another shape"),
        ([row(shape=[5])], bytes(12), "another shape"),
        ([row(shape=[[[5]], 7])], bytes(12), "another shape"),
        ([row(groups=2)], bytes(12), "2 groups of 5 outputs"),
        ([row(groups=0)], bytes(12), "0 groups"),
        ([row(groups=10**4000)], bytes(12), "groups"),
        ([row(scale="rows")], bytes(12), "scales 'rows'"),
        ([row(scale="output")], bytes(12), "behind the file"),
        ([row(scale="output")], bytes(12) + np.full(5, np.nan, "<f4").tobytes(), "not finite"),
        ([row(offset=4)], bytes(16), "begins at 4"),
        ([row(), row(offset=12)], bytes(24), "twice"),
        ([row()], bytes(16), "4 bytes follow"),
        ([row()], b"\xaa" * 12, "no number"),
        ([row()], bytes(8) + b"\0\x40\0\0", "no number"),
        ([row(name=None)], bytes(12), "incomplete"),
        (["a"], bytes(12), "incomplete"),
        ({}, b"", "no .metadata."),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, rows: Any, payload: bytes, reason: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(signed(json.dumps({"metadata": {}, "layers": rows}).encode(), payload))
    with pytest.raises(ParseError, match=reason) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))


@pytest.mark.parametrize(
    "header", [b"", b"{", b"[" * 100_000, b"\xff", b"[]", b"1" * 10_000, b'{"layers": []}'], ids=lambda h: h[:9]
)
def test_a_header_that_is_no_header_is_refused(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "file").write_bytes(signed(header, b""))
    with pytest.raises(ParseError):
        read(tmp_path / "file")


@laws
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_refused_or_read(tmp_path_factory: pytest.TempPathFactory, data: bytes, dressed: bool) -> None:
    path = tmp_path_factory.mktemp("file") / "file"
    path.write_bytes(signed(data[:100], data[100:]) if dressed else data)
    with pytest.raises(ParseError):
        read(path)


def test_a_header_beyond_its_bound_is_neither_written_nor_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="header would take"):
        write(tmp_path / "file", {}, {"long": "x" * MAX_HEADER})
    (tmp_path / "file").write_bytes(signed(b" " * (MAX_HEADER + 1), b""))
    with pytest.raises(ParseError, match="longer"):
        read(tmp_path / "file")


@pytest.mark.parametrize(
    "make",
    [
        lambda: TernaryLayer(np.full((2, 2), 2, np.int8), NONE),
        lambda: TernaryLayer(np.zeros((2, 2), np.int8), np.ones(3, np.float32), "output"),
        lambda: TernaryLayer(np.zeros((2, 2), np.int8), np.full(2, np.inf, np.float32), "input"),
        lambda: TernaryLayer(np.zeros(2, np.int8), NONE),
        lambda: TernaryLayer(np.zeros((3, 2), np.int8), NONE, groups=2),
    ],
)
def test_what_is_not_ternary_is_no_ternary_layer(make: Callable[[], TernaryLayer]) -> None:
    with pytest.raises(ModelError):
        make()
