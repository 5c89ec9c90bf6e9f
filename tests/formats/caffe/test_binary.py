"""The index over a caffemodel, and files written through it, against protobuf."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Proto
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surgery.errors import ModelError, ParseError
from surgery.formats.caffe import binary
from surgery.formats.caffe.binary import BlobRecord, Caffemodel, NewLayer, Replacement
from surgery.formats.caffe.network import V0_TYPES, V1_TYPES
from surgery.formats.wire import BYTES, FIXED32, FIXED64, VARINT, encode_bytes, encode_tag, encode_varint
from tests.schema import message_class
from tests.shared import shared

GENERATED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def indexed(raw: bytes, folder: Path) -> Caffemodel:
    file = folder / "net.caffemodel"
    file.write_bytes(raw)
    return binary.read(file)


def parsed(raw: bytes) -> Proto:
    return message_class("NetParameter").FromString(raw)


# --- Generated files: each field as protobuf may write it, in any order, with fields that nobody knows between.


def long_varint(value: int, extra: int) -> bytes:
    """The number in `extra` bytes more than it needs."""
    raw = encode_varint(value)
    return raw if not extra else raw[:-1] + bytes([raw[-1] | 0x80]) + b"\x80" * (extra - 1) + b"\0"


@st.composite
def field(draw: st.DrawFn, number: int, inside: st.SearchStrategy[bytes]) -> bytes:
    """A length-delimited field; its tag and its length may be longer than they need be."""
    value = draw(inside)
    extra = draw(st.sampled_from([0, 0, 0, 1]))
    return long_varint(number << 3 | BYTES, extra) + long_varint(len(value), extra) + value


def number(tag: int, value: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    return value.map(lambda n: encode_tag(tag, VARINT) + encode_varint(n % 2**64))


UNKNOWN = st.one_of(
    st.binary(max_size=5).map(lambda raw: encode_bytes(5000, raw)),
    st.just(encode_tag(5001, VARINT) + b"\x07"),
    st.just(encode_tag(5002, FIXED32) + b"abcd"),
    st.just(encode_tag(5003, FIXED64) + b"abcdefgh"),
    st.just(encode_tag(5004, 3) + encode_bytes(1, b"in a group") + encode_tag(5004, 4)),
)
FLOATS = st.lists(st.floats(width=32), max_size=5)
TEXT = st.text(max_size=5).map(str.encode)
DIMS = st.lists(st.integers(-2, 5), max_size=5)


def any_order(*fields: st.SearchStrategy[bytes], at_most: int = 6) -> st.SearchStrategy[bytes]:
    return st.lists(st.one_of(UNKNOWN, *fields), max_size=at_most).map(b"".join)


def numbers(tag: int, form: str, wire: int) -> st.SearchStrategy[bytes]:
    """`data` or a field like it: packed, or one by one."""
    packed = FLOATS.map(lambda values: encode_bytes(tag, struct.pack(f"<{len(values)}{form}", *values)))
    single = encode_tag(tag, wire)
    return st.one_of(packed, FLOATS.map(lambda values: b"".join(single + struct.pack("<" + form, v) for v in values)))


SHAPE = st.one_of(
    DIMS.map(lambda dims: encode_bytes(1, b"".join(encode_varint(n % 2**64) for n in dims))),
    DIMS.map(lambda dims: b"".join(encode_tag(1, VARINT) + encode_varint(n % 2**64) for n in dims)),
)
BLOB = any_order(
    field(7, any_order(SHAPE, at_most=2)),
    numbers(5, "f", FIXED32),
    numbers(5, "f", FIXED32),
    numbers(6, "f", FIXED32),
    numbers(8, "d", FIXED64),
    numbers(9, "d", FIXED64),
    *(number(tag, st.integers(-(2**31), 2**31 - 1)) for tag in (1, 2, 3, 4)),
)
V2_LAYER = any_order(field(1, TEXT), field(2, TEXT), field(3, TEXT), field(4, TEXT), field(7, BLOB), field(7, BLOB))
V0_TYPE = st.one_of(TEXT, st.sampled_from([name.encode() for name in V0_TYPES]))
V0_LAYER = any_order(field(1, TEXT), field(2, V0_TYPE), field(50, BLOB))
V1_LAYER = any_order(
    field(2, TEXT), field(3, TEXT), field(4, TEXT), number(5, st.integers(0, 39)), field(6, BLOB), field(6, BLOB)
)
V1_WITH_V0 = any_order(field(1, V0_LAYER), field(2, TEXT), field(3, TEXT))
NET = any_order(
    field(1, TEXT), field(100, V2_LAYER), field(100, V2_LAYER), field(2, V1_LAYER), field(2, V1_WITH_V0), field(3, TEXT)
)


def as_text(value: str | bytes) -> str:
    """What protobuf cannot decode it gives as bytes; here such bytes are lone surrogates."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def texts(values: Iterable[str | bytes]) -> list[str]:
    return [as_text(value) for value in values]


def assert_same(model: Caffemodel, net: Proto) -> None:
    """The index says of every layer what protobuf says."""
    new = [layer for layer in model.layers if layer.generation == 2]
    old = [layer for layer in model.layers if layer.generation < 2]
    for layer, theirs in zip(new, net.layer, strict=True):
        assert (layer.name, layer.type) == (as_text(theirs.name), as_text(theirs.type))
        assert (list(layer.bottoms), list(layer.tops)) == (texts(theirs.bottom), texts(theirs.top))
        assert_same_blobs(model, layer.blobs, theirs.blobs)
    for layer, theirs in zip(old, net.layers, strict=True):
        assert (list(layer.bottoms), list(layer.tops)) == (texts(theirs.bottom), texts(theirs.top))
        assert layer.generation == (0 if theirs.HasField("layer") else 1)
        inner = theirs.layer if theirs.HasField("layer") else theirs
        assert layer.name == as_text(inner.name)
        assert_same_blobs(model, layer.blobs, inner.blobs)
        if layer.generation == 0:
            assert layer.type == V0_TYPES.get(as_text(inner.type), as_text(inner.type))
        elif inner.HasField("type"):
            kinds = type(inner).DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number
            assert layer.type == V1_TYPES[kinds[inner.type].name]


def assert_same_blobs(model: Caffemodel, ours: Iterable[BlobRecord], theirs: Iterable[Proto]) -> None:
    for blob, proto in zip(ours, theirs, strict=True):
        assert blob.legacy == any(proto.HasField(name) for name in ("num", "channels", "height", "width"))
        stated = (proto.num, proto.channels, proto.height, proto.width) if blob.legacy else tuple(proto.shape.dim)
        assert blob.shape == stated
        values = np.array(proto.double_data) if proto.double_data else np.array(proto.data, np.float32)
        assert blob.double == bool(proto.double_data)
        assert blob.count == len(values)
        numbers = model.array(replace(blob, shape=(blob.count,)))
        assert numbers.dtype == values.dtype
        np.testing.assert_array_equal(numbers, values)


@GENERATED
@given(raw=NET)
def test_the_index_of_any_file_says_what_protobuf_says(raw: bytes, tmp_path: Path) -> None:
    assert_same(indexed(raw, tmp_path), parsed(raw))


def blob_proto(values: np.ndarray, **legacy: int) -> Proto:
    blob = message_class("BlobProto")(data=values.ravel().tolist(), **legacy)
    if not legacy:
        blob.shape.dim.extend(values.shape)
    return blob


def three_layers() -> Proto:
    net = message_class("NetParameter")(name="three")
    for i, name in enumerate(("a", "b", "c")):
        layer = net.layer.add(name=name, type="InnerProduct", bottom=["x"], top=[name])
        layer.blobs.append(blob_proto(np.full((2, 3), i, np.float32)))
    return net


BLOBS = {
    "packed": (encode_bytes(5, struct.pack("<3f", 1, 2, 3)), [1, 2, 3]),
    "unpacked": (b"".join(b"\x2d" + struct.pack("<f", v) for v in (1, 2, 3)), [1, 2, 3]),
    "unpacked, with a tag in two bytes": (
        b"".join(b"\xad\x00" + struct.pack("<f", v) for v in (1, 2)) + b"\x2d" + struct.pack("<f", 3),
        [1, 2, 3],
    ),
    "packed in pieces with a diff between": (
        encode_bytes(5, struct.pack("<2f", 1, 2)) + encode_bytes(6, b"\0" * 8) + encode_bytes(5, struct.pack("<f", 3)),
        [1, 2, 3],
    ),
    "packed, then one by one": (encode_bytes(5, struct.pack("<f", 1)) + b"\x2d" + struct.pack("<f", 2), [1, 2]),
    "double": (encode_bytes(8, struct.pack("<2d", 1, 2)), [1, 2]),
    "double one by one": (b"".join(b"\x41" + struct.pack("<d", v) for v in (1, 2)), [1, 2]),
    "double wins over float": (
        encode_bytes(5, struct.pack("<f", 7)) + encode_bytes(8, struct.pack("<2d", 1, 2)),
        [1, 2],
    ),
    "empty double does not": (encode_bytes(8, b"") + encode_bytes(5, struct.pack("<f", 7)), [7]),
    "diffs one by one": (
        b"".join(b"\x35" + struct.pack("<f", v) for v in range(9)) + encode_bytes(5, struct.pack("<f", 7)),
        [7],
    ),
    "nothing": (b"", []),
}


@pytest.mark.parametrize(("blob", "values"), BLOBS.values(), ids=BLOBS)
def test_numbers_are_found_however_they_are_stored(blob: bytes, values: list[float], tmp_path: Path) -> None:
    raw = encode_bytes(100, encode_bytes(7, blob + encode_bytes(7, encode_bytes(1, bytes([len(values)])))))
    model = indexed(raw, tmp_path)
    assert model.array(model.layers[0].blobs[0]).tolist() == values
    assert_same(model, parsed(raw))


def test_a_view_of_packed_numbers_copies_nothing(tmp_path: Path) -> None:
    model = indexed(three_layers().SerializeToString(), tmp_path)
    array = model.array(model.layers[2].blobs[0])
    assert not array.flags.owndata
    assert not array.flags.writeable
    assert array.shape == (2, 3)


SHAPES = {
    "a shape in two messages": (encode_bytes(7, b"\x0a\x01\x02") + encode_bytes(7, b"\x0a\x02\x03\x04"), (2, 3, 4)),
    "dims one by one": (encode_bytes(7, b"\x08\x02\x08\x03"), (2, 3)),
    "no axis: one number": (encode_bytes(7, b""), ()),
    "four numbers": (b"\x08\x01\x10\x01\x18\x02\x20\x03", (1, 1, 2, 3)),
    "one of the four": (b"\x20\x03", (0, 0, 0, 3)),
    "the four win over a shape": (encode_bytes(7, b"\x0a\x01\x06") + b"\x18\x02\x20\x03", (0, 0, 2, 3)),
    "the last of the four": (b"\x20\x03\x20\x05", (0, 0, 0, 5)),
    "a negative one": (b"\x20" + encode_varint(2**64 - 1), (0, 0, 0, -1)),
    "a negative one cut to 32 bits": (b"\x20" + encode_varint(2**32 - 1), (0, 0, 0, -1)),
    "dims of another wire type": (encode_bytes(7, b"\x0d\x00\x00\x00\x00\x08\x02"), (2,)),
}


@pytest.mark.parametrize(("blob", "shape"), SHAPES.values(), ids=SHAPES)
def test_shapes_are_read_as_protobuf_and_caffe_read_them(blob: bytes, shape: tuple[int, ...], tmp_path: Path) -> None:
    raw = encode_bytes(100, encode_bytes(7, blob))
    model = indexed(raw, tmp_path)
    assert model.layers[0].shapes == (shape,)
    assert_same(model, parsed(raw))


def test_a_v0_layer_in_pieces_merges_as_protobuf_merges_it(tmp_path: Path) -> None:
    first = encode_bytes(1, b"conv") + encode_bytes(2, b"conv") + encode_bytes(50, b"\x20\x03")
    second = encode_bytes(1, b"renamed") + encode_bytes(50, b"\x20\x05")
    outside = encode_bytes(4, b"not this") + encode_bytes(6, b"")
    raw = encode_bytes(2, encode_bytes(1, first) + encode_bytes(2, b"x") + encode_bytes(1, second) + outside)
    (layer,) = indexed(raw, tmp_path).layers
    assert (layer.name, layer.type, layer.generation, layer.bottoms) == ("renamed", "Convolution", 0, ("x",))
    assert layer.shapes == ((0, 0, 0, 3), (0, 0, 0, 5))


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    model = indexed(encode_bytes(100, encode_bytes(1, b"caf\xe9") + encode_bytes(3, b"\xff")), tmp_path)
    assert model.layers[0].name.encode("utf-8", "surrogateescape") == b"caf\xe9"
    written = binary.head(model.layers[0].name, "Convolution", model.layers[0].bottoms, (), 2)
    assert written == encode_bytes(1, b"caf\xe9") + encode_bytes(2, b"Convolution") + encode_bytes(3, b"\xff")


def test_raw_data_of_nvcaffe_is_seen_but_not_read(tmp_path: Path) -> None:
    model = indexed(encode_bytes(100, encode_bytes(7, encode_bytes(12, b"ab"))), tmp_path)
    assert model.layers[0].blobs[0].raw


def test_an_empty_file_is_a_model_without_layers(tmp_path: Path) -> None:
    assert indexed(b"", tmp_path).layers == ()


# --- Damage


@GENERATED
@given(raw=st.binary(max_size=80))
def test_any_bytes_either_index_or_are_refused_with_an_offset(raw: bytes, tmp_path: Path) -> None:
    try:
        indexed(raw, tmp_path)
    except ParseError as error:
        assert error.offset is not None
        assert 0 <= error.offset <= len(raw)


@GENERATED
@given(raw=NET, data=st.data())
def test_a_damaged_file_indexes_or_is_refused_and_what_protobuf_reads_is_read(
    raw: bytes, data: st.DataObject, tmp_path: Path
) -> None:
    damaged = bytearray(raw)
    if raw:
        damaged[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        del damaged[data.draw(st.integers(1, len(raw))) :]
    try:
        theirs = parsed(bytes(damaged))
    except DecodeError:
        theirs = None
    try:
        model = indexed(bytes(damaged), tmp_path)
    except ParseError as error:
        assert error.offset is not None
        if theirs is not None:  # Only limits that no network reaches may refuse more than protobuf does.
            assert "axes" in error.message
        return
    if theirs is not None and not _has_odd_text_or_type(theirs):
        assert_same(model, theirs)


def _has_odd_text_or_type(net: Proto) -> bool:
    """V1 types outside the enum are kept by number; protobuf's Python hides them among the unknown fields."""
    return any(not layer.HasField("layer") and not layer.HasField("type") for layer in net.layers)


DAMAGED = {
    "a blob of five bytes": (encode_bytes(100, encode_bytes(7, encode_bytes(5, b"12345"))), 5, "5 bytes of numbers"),
    "33 axes": (encode_bytes(100, encode_bytes(7, encode_bytes(7, b"\x08\x01" * 33))), None, "more than 32 axes"),
    "33 axes in two shapes": (
        encode_bytes(100, encode_bytes(7, encode_bytes(7, b"\x08\x01" * 30) + encode_bytes(7, b"\x08\x01" * 3))),
        None,
        "more than 32 axes",
    ),
    "a layer cut off": (encode_bytes(100, b"\x0a\x05abcde")[:-2], 0, "is said to end at byte"),
    "a name past its layer": (encode_bytes(100, b"\x0a\x05abc"), 3, "is said to end at byte"),
    "more blobs than fields are looked at": (
        encode_bytes(100, b"\x3a\x00" * (binary.MAX_PARTS + 1)),
        None,
        "fields beside the weights' numbers",
    ),
    "more unknown fields than are looked at": (
        b"\x28\x00" * (binary.MAX_PARTS + 1),
        2 * binary.MAX_PARTS,
        "fields beside",
    ),
    "too many layers": (encode_bytes(100, b"") * (binary.MAX_LAYERS + 1), 3 * binary.MAX_LAYERS, "layers"),
    "a name of 17 MB": (encode_bytes(100, encode_bytes(1, b"a" * 17_000_000)), None, "bytes of names"),
}


@pytest.mark.parametrize(("raw", "offset", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_refused_with_its_offset(raw: bytes, offset: int | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(ParseError, match=message) as caught:
        indexed(raw, tmp_path)
    assert caught.value.offset is not None
    assert offset is None or caught.value.offset == offset


def test_the_zoos_corrupt_model_is_refused_with_the_offset() -> None:
    with pytest.raises(ParseError, match=r"at byte \d+: ") as caught:
        binary.read(shared("zoo/caffemodel/ascend_concat/concat.caffemodel"))
    assert caught.value.offset is not None


# --- Real files


def real_models() -> Iterator[Path]:
    for file in sorted(shared("zoo/caffemodel").rglob("*.caffemodel")):
        if file.parent.name != "ascend_concat":
            yield file
    yield from sorted(shared("golden").rglob("*.caffemodel"))


def test_an_empty_plan_gives_every_real_model_back_byte_for_byte(tmp_path: Path) -> None:
    count = 0
    for file in real_models():
        binary.write(binary.read(file), [], tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == file.read_bytes(), file
        count += 1
    assert count > 300


def test_the_index_of_every_real_model_says_what_protobuf_says() -> None:
    for file in real_models():
        assert_same(binary.read(file), parsed(file.read_bytes()))


# --- Writing


ARRAYS = st.sampled_from([(2, 3), (1,), (4, 1, 3, 2), (0,), (2, 0), (), (2, 1, 2, 1, 3)]).flatmap(
    lambda shape: st.integers(0, 99).map(
        lambda seed: np.random.default_rng(seed).standard_normal(shape).astype([np.float32, np.float64][seed % 2])
    )
)


@st.composite
def new_layers(draw: st.DrawFn, generation: int) -> NewLayer:
    name = draw(st.text(min_size=1, max_size=4))
    head = binary.head(name, "Convolution", draw(st.lists(st.just("x"), max_size=2)), ["y"], generation)
    return NewLayer(name, head, generation, tuple(draw(st.lists(ARRAYS, max_size=3))), draw(st.booleans()))


def as_proto(layer: NewLayer) -> Proto:
    net = parsed(b"".join(p if isinstance(p, bytes) else np.float32(p).tobytes() for p in layer.encode()))
    return net.layer[0] if layer.generation == 2 else net.layers[0]


@GENERATED
@given(raw=NET, data=st.data())
def test_a_written_file_holds_the_new_layers_and_every_other_byte_of_the_old(
    raw: bytes, data: st.DataObject, tmp_path: Path
) -> None:
    model = indexed(raw, tmp_path)
    replacements, kept, expected = [], [], {1: [], 2: []}
    position = 0
    for layer, theirs in _pairs(model, parsed(raw)):
        generation = 2 if layer.generation == 2 else 1
        if data.draw(st.booleans()):
            made = data.draw(st.lists(new_layers(generation), max_size=2))
            replacements.append(Replacement(layer.start, layer.end, made))
            kept.append(raw[position : layer.start])
            position = layer.end
            expected[generation] += [as_proto(new) for new in made]
        else:
            expected[generation].append(theirs)
    kept.append(raw[position:])
    binary.write(model, replacements[::-1], tmp_path / "cut")
    written = (tmp_path / "cut").read_bytes()
    net = parsed(written)
    assert list(net.layer) == expected[2]
    assert list(net.layers) == expected[1]
    for piece in kept:
        start = written.index(piece)
        written = written[start + len(piece) :]
    assert_same(binary.read(tmp_path / "cut"), net)


def _pairs(model: Caffemodel, net: Proto) -> Iterator[tuple[binary.LayerRecord, Proto]]:
    new, old = iter(net.layer), iter(net.layers)
    for layer in model.layers:
        yield layer, next(new if layer.generation == 2 else old)


@pytest.mark.parametrize("generation", [1, 2])
def test_a_new_layer_is_what_protobuf_would_write(generation: int) -> None:
    weight = np.arange(6, dtype=np.float64).reshape(2, 3)
    head = binary.head("ip", "InnerProduct", ["x"], ["y"], generation)
    made = as_proto(NewLayer("ip", head, generation, (weight, weight[0])))
    kind = {1: 14, 2: "InnerProduct"}[generation]
    expected = type(made)(name="ip", type=kind, bottom=["x"], top=["y"])
    expected.blobs.extend([blob_proto(weight), blob_proto(weight[0])])
    assert made == expected


def test_a_new_layer_among_old_ones_states_its_shape_both_ways() -> None:
    weight = np.ones((2, 3), np.float32)
    made = as_proto(NewLayer("ip", binary.head("ip", "InnerProduct", [], [], 1), 1, (weight, weight[0]), legacy=True))
    blobs = [(blob.num, blob.channels, blob.height, blob.width, tuple(blob.shape.dim)) for blob in made.blobs]
    assert blobs == [(1, 1, 2, 3, (2, 3)), (1, 1, 1, 3, (3,))]


def test_other_numbers_leave_every_other_field_as_it_was(tmp_path: Path) -> None:
    net = three_layers()
    net.layer[1].inner_product_param.num_output = 2
    net.layer[1].param.add(lr_mult=3)
    model = indexed(net.SerializeToString(), tmp_path)
    record = model.layers[1]
    made = binary.reweighed(model, record, [np.full((2, 3), 9.5)])
    binary.write(model, [Replacement(record.start, record.end, [made])], tmp_path / "new")
    net.layer[1].blobs[0].data[:] = [9.5] * 6
    assert parsed((tmp_path / "new").read_bytes()) == net


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("layout", ["C", "F", "strided", "broadcast"])
def test_numbers_of_any_layout_are_written_as_little_endian_floats(dtype: str, layout: str, tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((300, 8)).astype(dtype)
    given_array = {
        "C": array,
        "F": np.asfortranarray(array),
        "strided": np.repeat(array, 2, axis=1)[:, ::2],
        "broadcast": np.broadcast_to(array[0], (300, 8)),
    }[layout]
    layer = NewLayer("a", binary.head("a", "Convolution", [], [], 2), 2, (given_array,))
    model = indexed(b"", tmp_path)
    binary.write(model, [Replacement(0, 0, [layer])], tmp_path / "new")
    (blob,) = parsed((tmp_path / "new").read_bytes()).layer[0].blobs
    np.testing.assert_array_equal(np.array(blob.data, np.float32), given_array.astype(np.float32).ravel())


def test_two_gibibytes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = indexed(three_layers().SerializeToString(), tmp_path)
    huge = np.broadcast_to(np.float32(1), (2**15, 2**14))  # Two gibibytes that take no memory.
    record = model.layers[0]
    layer = NewLayer("a", b"", 2, (huge,))
    target = tmp_path / "new.caffemodel"
    with pytest.raises(ModelError, match=r"would take 21474\d+ bytes; .* at most 2147483647 \(protobuf's limit\)"):
        binary.write(model, [Replacement(record.start, record.end, [layer])], target)
    assert not target.exists()


def test_the_limit_counts_what_is_cut_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = indexed(three_layers().SerializeToString(), tmp_path)
    first = model.layers[0]
    monkeypatch.setattr(binary, "MAX_BYTES", model.size - 1)
    with pytest.raises(ModelError, match=f"would take {model.size} bytes"):
        binary.write(model, [], tmp_path / "new")
    binary.write(model, [Replacement(first.start, first.end, [])], tmp_path / "new")
    assert [layer.name for layer in binary.read(tmp_path / "new").layers] == ["b", "c"]
