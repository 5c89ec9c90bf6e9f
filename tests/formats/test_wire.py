"""The walk over protobuf's wire format."""

from __future__ import annotations

import pytest
from google.protobuf.internal import decoder, encoder  # The reference for varints has no public name.
from hypothesis import given
from hypothesis import strategies as st

from surgery.errors import ParseError
from surgery.formats.wire import (
    BYTES,
    END_GROUP,
    FIXED32,
    FIXED64,
    MAX_DEPTH,
    START_GROUP,
    VARINT,
    encode_bytes,
    encode_tag,
    encode_varint,
    signed,
    varint,
    walk,
)

NUMBERS = st.integers(1, 2**29 - 1)


def field(number: int, wire: int, value: bytes) -> bytes:
    return encode_tag(number, wire) + value


@st.composite
def fields(draw: st.DrawFn, depth: int = 0) -> tuple[int, int, bytes]:
    """A field's number, wire type and bytes, whole."""
    number = draw(NUMBERS)
    wire = draw(st.sampled_from([VARINT, FIXED32, FIXED64, BYTES] + [START_GROUP] * (depth < 3)))
    match wire:
        case 0:
            return number, wire, field(number, wire, encode_varint(draw(st.integers(0, 2**64 - 1))))
        case 1 | 5:
            size = 8 if wire == FIXED64 else 4
            return number, wire, field(number, wire, draw(st.binary(min_size=size, max_size=size)))
        case 2:
            return number, wire, encode_bytes(number, draw(st.binary(max_size=40)))
    inside = b"".join(whole for _, _, whole in draw(st.lists(fields(depth + 1), max_size=3)))
    return number, wire, field(number, START_GROUP, inside) + encode_tag(number, END_GROUP)


@given(st.lists(fields(), max_size=8), st.binary(max_size=5))
def test_a_walk_gives_every_field_with_its_place(written: list[tuple[int, int, bytes]], before: bytes) -> None:
    buffer = before + b"".join(whole for _, _, whole in written) + before
    position = len(before)
    records = list(walk(buffer, position, len(buffer) - len(before), "x"))
    assert [(r.number, r.wire, buffer[r.start : r.end]) for r in records] == written
    for record in records:
        assert record.start == position
        assert record.start < record.value <= record.end
        position = record.end


@given(st.binary(max_size=60))
def test_any_bytes_are_walked_to_their_end_or_refused_with_an_offset(raw: bytes) -> None:
    try:
        records = list(walk(raw, 0, len(raw), "x"))
    except ParseError as error:
        assert error.offset is not None
        assert 0 <= error.offset <= len(raw)
    else:
        assert b"".join(raw[r.start : r.end] for r in records) == raw


@given(st.lists(fields(), min_size=1, max_size=4), st.data())
def test_a_file_cut_off_inside_a_field_is_refused(written: list[tuple[int, int, bytes]], data: st.DataObject) -> None:
    *whole, last = (field_bytes for _, _, field_bytes in written)
    kept = data.draw(st.integers(1, len(last) - 1))
    buffer = b"".join(whole) + last[:kept]
    with pytest.raises(ParseError) as caught:
        list(walk(buffer, 0, len(buffer), "x"))
    assert caught.value.offset is not None
    assert caught.value.offset >= len(b"".join(whole))


@given(st.integers(0, 2**64 - 1))
def test_numbers_are_protobufs_varints(value: int) -> None:
    pieces: list[bytes] = []
    encoder._EncodeVarint(pieces.append, value)
    raw = encode_varint(value)
    assert raw == b"".join(pieces)
    assert varint(raw, 0, len(raw), "x") == (value, len(raw))
    assert decoder._DecodeSignedVarint(raw, 0) == (signed(value), len(raw))


@pytest.mark.parametrize("raw", [b"\x85\x80\x00", b"\x85\x80\x80\x80\x80\x80\x80\x80\x80\x00"])
def test_a_number_in_more_bytes_than_it_needs_is_the_same_number(raw: bytes) -> None:
    assert varint(raw, 0, len(raw), "x") == (5, len(raw))


def test_what_a_number_has_above_64_bits_is_dropped_as_protobuf_drops_it() -> None:
    assert varint(b"\xff" * 9 + b"\x7f", 0, 10, "x") == (2**64 - 1, 10)


DAMAGED = {
    "a number without an end": (b"\x08\x80", 1, "inside a number"),
    "a number of eleven bytes": (b"\x08" + b"\x80" * 10 + b"\x01", 1, "longer than ten bytes"),
    "a field number of zero": (b"\x08\x01\x00\x01", 2, "field number 0"),
    "a field number past 2^29": (encode_varint(2**29 << 3) + b"\x01", 0, "field number 536870912"),
    "a wire type of 6": (b"\x0e\x01", 0, "wire type 6"),
    "a wire type of 7": (b"\x0f\x01", 0, "wire type 7"),
    "an end without a beginning": (b"\x08\x01\x0c", 2, "wire type 4"),
    "a length past the end": (b"\x0a\x05abc", 0, "is said to end at byte 7"),
    "a length past any memory": (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 0, "is said to end at byte"),
    "half a fixed32": (b"\x0d\x00\x00", 0, "is said to end at byte 5"),
    "half a fixed64": (b"\x09\x00\x00\x00\x00", 0, "is said to end at byte 9"),
    "a group left open": (b"\x0b\x10\x01", 1, "never closed"),
    "a group closed by another": (b"\x0b\x10\x01\x14", 3, "group 2 ends here"),
    "a group closed inside another": (b"\x0b\x13\x0c\x14", 2, "group 1 ends here"),
    "a group with a field of zero": (b"\x0b\x00\x01\x0c", 1, "tag 0 is impossible"),
    "a group with a wire type of 7": (b"\x0b\x17\x01\x0c", 1, "tag 23 is impossible"),
    "a group whose field runs out": (b"\x0b\x12\x7fabc\x0c", 1, "never closed"),
}


@pytest.mark.parametrize(("raw", "offset", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_refused_with_the_offset_of_what_is_wrong(raw: bytes, offset: int, message: str) -> None:
    with pytest.raises(ParseError, match=message) as caught:
        list(walk(raw, 0, len(raw), "net.caffemodel"))
    assert caught.value.offset == offset
    assert str(caught.value).startswith(f"net.caffemodel: at byte {offset}: ")


def test_groups_may_be_as_deep_as_protobuf_allows_and_no_deeper() -> None:
    deepest = b"\x0b" * MAX_DEPTH + b"\x0c" * MAX_DEPTH
    assert len(list(walk(deepest, 0, len(deepest), "x"))) == 1
    deeper = b"\x0b" * (MAX_DEPTH + 1) + b"\x0c" * (MAX_DEPTH + 1)
    with pytest.raises(ParseError, match="never closed"):
        list(walk(deeper, 0, len(deeper), "x"))
