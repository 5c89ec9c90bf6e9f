"""The lossless reader of the text format, against protobuf's own readers."""

from __future__ import annotations

import ctypes
import math
import random
from pathlib import Path

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message as Proto
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import ParseError
from surgery.formats.caffe import text
from surgery.formats.caffe.schema import parse_scalar, quote, unquote
from surgery.formats.caffe.schema_table import MESSAGES
from surgery.formats.caffe.text import Document, Field, Message
from tests.protobuf_text import parse_as_caffe
from tests.schema import message_class, parse_message
from tests.shared import shared

FOLDERS = {"prototxt": "NetParameter", "solver": "SolverParameter"}

# Every way to write a field next to every way to write a list.
DENSE = """\
# before
name: "net" ; input:'a',input: "b"  # of two
input_dim: [ 1, 3 ,5,7 ];  input_dim : 9
layer { name: "one" param { lr_mult: 1 } param < lr_mult: -2.5e0f >, bottom: [ "x" # why
  , 'y' 'z' ] }
layer: [ { name: "two" }, < name: "three" top: [] >, {} ],
layer [ { name: "four" } ]
state: { stage: ["only"]; stage: "more"level: - 1 }
unknown_thing { deeper: 07 [nothing] : 1 }
""".replace(" [nothing] : 1", "")


def kinds_of_files() -> list[tuple[str, str]]:
    return list(FOLDERS.items())


def skeleton(document: Document, fields: tuple[Field, ...]) -> list[tuple[str, object]]:
    """A tree without positions: names, and values as they are spelt."""
    return [
        (
            field.name,
            document.text[field.value_start : field.value_end]
            if field.children is None
            else skeleton(document, field.children),
        )
        for field in fields
    ]


def without(tree: list[tuple[str, object]], index: int) -> list[tuple[str, object]]:
    """The tree less its node `index`, counted parents first."""
    count = 0

    def copy(nodes: list[tuple[str, object]]) -> list[tuple[str, object]]:
        nonlocal count
        kept: list[tuple[str, object]] = []
        for name, value in nodes:
            here, count = count, count + 1
            inner = copy(value) if isinstance(value, list) else value
            if here != index:
                kept.append((name, inner))
        return kept

    return copy(tree)


def assert_deleting_takes_one_slice(document: Document, index: int, field: Field) -> None:
    whole = document.text
    left = document.edited([text.deletion(field)])
    assert left.text == whole[: field.start] + whole[field.end :]
    assert skeleton(left, left.fields) == without(skeleton(document, document.fields), index)


def assert_same(ours: Message, theirs: Proto, where: str = "") -> None:
    """The same known fields are set, to the same values (the schema's defaults have their own test)."""
    known = theirs.DESCRIPTOR.fields_by_name
    assert {field.name for field in ours.fields} & set(known) == {field.name for field, _ in theirs.ListFields()}, where
    for field, found in theirs.ListFields():
        place = f"{where}.{field.name}"
        if field.message_type:
            blocks = ours.messages(field.name) if field.is_repeated else [ours.message(field.name)]
            for i, (block, message) in enumerate(zip(blocks, found if field.is_repeated else [found], strict=True)):
                assert_same(block, message, f"{place}[{i}]")
        else:
            values = ours.all(field.name) if field.is_repeated else [ours.get(field.name)]
            for value, expected in zip(values, found if field.is_repeated else [found], strict=True):
                assert _equal(value, expected, field), (place, value, expected)


def _equal(ours: object, theirs: object, field: FieldDescriptor) -> bool:
    if field.enum_type:
        return field.enum_type.values_by_name[str(ours)].number == theirs
    if field.type == FieldDescriptor.TYPE_FLOAT:
        ours = ctypes.c_float(ours).value  # protobuf stores the double that it read as a float32, 1e39 as inf.
    if isinstance(ours, float) and math.isnan(ours):
        return isinstance(theirs, float) and math.isnan(theirs)
    if isinstance(theirs, bytes):
        return isinstance(ours, str) and ours.encode("utf-8", "surrogateescape") == theirs
    return type(ours) is type(theirs) and ours == theirs


UNSET = {str: "", bytes: "", bool: False, int: 0, float: 0.0}


@pytest.mark.parametrize(("folder", "type_name"), kinds_of_files())
def test_every_real_file_prints_back_byte_for_byte(folder: str, type_name: str) -> None:
    files = sorted(shared(f"zoo/{folder}").iterdir())
    assert files
    for file in files:
        document = text.read(file)
        assert document.encode() == file.read_bytes(), file.name


@pytest.mark.parametrize(("folder", "type_name"), kinds_of_files())
def test_every_file_that_the_schema_accepts_reads_as_protobuf_reads_it(folder: str, type_name: str) -> None:
    accepted = 0
    files = sorted(shared(f"zoo/{folder}").iterdir())
    for file in files:
        document = text.read(file)
        try:
            theirs = parse_message(document.text, type_name)
        except (text_format.ParseError, UnicodeEncodeError):
            continue
        accepted += 1
        text.check(document, type_name)
        assert_same(document.message(type_name), theirs, file.name)
    assert accepted > len(files) / 2, "forks' fields are in the schema by name, so most files must be accepted"


@pytest.mark.parametrize(("folder", "type_name"), kinds_of_files())
def test_deleting_any_field_of_a_real_file_takes_exactly_its_slice(folder: str, type_name: str) -> None:
    rng = random.Random(0)
    for file in sorted(shared(f"zoo/{folder}").iterdir()):
        if file.stat().st_size > 40_000:  # The law does not depend on length, its cost does.
            continue
        document = text.read(file)
        fields = list(text.walk(document.fields))
        index = rng.randrange(len(fields)) if fields else None
        if index is not None:
            assert_deleting_takes_one_slice(document, index, fields[index])


def test_deleting_any_field_of_a_dense_text_takes_exactly_its_slice() -> None:
    document = text.parse(DENSE)
    for index, field in enumerate(text.walk(document.fields)):
        assert_deleting_takes_one_slice(document, index, field)


@pytest.mark.parametrize(
    ("before", "name", "which", "after"),
    [
        ("dim: [1, 2, 3]", "dim", 0, "dim: [ 2, 3]"),
        ("dim: [1, 2, 3]", "dim", 1, "dim: [1,  3]"),
        ("dim: [1, 2, 3]", "dim", 2, "dim: [1, 2]"),
        ("dim: [ 1 ] ; name: 'x'", "dim", 0, " name: 'x'"),
        ("dim: 1; name: 'x'", "dim", 0, " name: 'x'"),
        ("dim: 1 , name: 'x'", "dim", 0, " name: 'x'"),
        ("a {} # note\nb: < c: 1 >;\nd: 2", "b", 0, "a {} # note\n\nd: 2"),
        ("layer [ {name: 'a'} , {name: 'b'} ]", "layer", 0, "layer [  {name: 'b'} ]"),
        ("layer: [ {name: 'a'} , {name: 'b'} ],", "layer", 1, "layer: [ {name: 'a'} ],"),
        ("name: 'a' # one\n 'b'\ndim: 1", "name", 0, "\ndim: 1"),
    ],
)
def test_deleting_an_element_takes_its_comma_along(before: str, name: str, which: int, after: str) -> None:
    document = text.parse(before)
    field = [field for field in document.fields if field.name == name][which]
    assert document.edited([text.deletion(field)]).text == after


def test_setting_a_field_to_its_own_value_changes_nothing() -> None:
    document = text.parse(DENSE)
    for field in text.walk(document.fields):
        own = document.text[field.value_start : field.value_end]
        assert document.edited([text.replacement(field, own)]).text == document.text


def test_splices_apply_in_order_of_place_and_overlaps_merge() -> None:
    splices = [text.Splice(4, 6, ""), text.Splice(1, 1, "x"), text.Splice(1, 1, "y"), text.Splice(3, 5, "")]
    assert text.spliced("0123456789", splices) == "0xy126789"


INTEGERS = ["06", "0x1F", "0XfF", "-0x10", "-017", "- 5", "-\n5", "-# c\n 5", "5;", "5 ,", "0", "-0", "2147483647"]
INTEGERS += ["-2147483648", "0000"]
FLOATS = ["1.5f", "1F", "-.5", ".5", "5.", "3", "1e5", "1e5f", "1E-3", "1.e+2", "inf", "-inf", "Infinity", "-INFINITY"]
FLOATS += ["nan", "-nan", "NaN", "- inf", "1e400", "-1e400", "1e39", "3.4028236e38", "1e-50", "0.1", "16777217"]
FLOATS += ["123456789012345678901234567890", "0", "-0.0", "- 3.5"]
BOOLS = ["true", "false", "True", "False", "t", "f", "1", "0", "01", "0x1", "00"]
PHASES = ["TRAIN", "TEST", "0", "1", "01", "0x1", "-0"]
STRINGS = [
    *('"a"', "'a'", '"a"\'b\'"c"', '"a" # of "two"\n  # lines\n "b"', '"a"\r\n\t"b"', "'it''s'", '"tab\there"', '""'),
    *(r'"\a\b\f\n\r\t\v\\\'\"\?"', r'"\x41\x4g\x4142"', r'"\101\7\1011"', r'"\u00e9\U0001F600\ud83d\ude00"', '"é😀"'),
    *("'\"'", '"#not a comment"', r"'\''", '"1";', '"{"', '"]",'),
]
SPELLINGS = {
    "loss_param {{ ignore_label: {} }}": INTEGERS,
    "param {{ lr_mult: {} }}": FLOATS,
    "inner_product_param {{ bias_term: {} }}": BOOLS,
    "phase: {}": PHASES,
    "name: {}": STRINGS,
}
STRUCTURES = [
    "",
    "param{}param:{}param<>param:<>",
    "param [ { lr_mult: 1 }, < lr_mult: 2 > ]",
    "param: [ { } ]",
    "param: [ ], bottom: [ ]; top: [ 'a' ]",
    "bottom: ['a', \"b\" 'c'] bottom: 'd'",
    'name:"a"bottom:"b"top:"c"',
    "loss_weight: [1, -2.5f, inf]",
    "name\n:\n'x'\v\f\r\ntype # c\n : # d\n 'y'",
    "param { lr_mult: 1, decay_mult: 2; } , param { lr_mult: 3 };",
    "include: { stage: ['a', 'b'] } exclude < phase: TRAIN not_stage: \"c\" >",
    "blobs { data: [1, 2] data: 3 shape { dim: [1, 3] } double_data: 4 num: - 1 }",
    "transform_param { mean_value: [104, 117, 123] crop_size: 0x20 mirror: t }",
]


def accepted_layers() -> list[str]:
    spelt = [form.format(value) for form, values in SPELLINGS.items() for value in values]
    return spelt + STRUCTURES


def test_awkward_spellings_read_as_caffes_protobuf_reads_them() -> None:
    layers = accepted_layers()
    written = "".join(f"layer {{ {layer} }}\n" for layer in layers)
    theirs = parse_as_caffe(written, "NetParameter")
    assert theirs is not None
    ours = text.parse(written).message("NetParameter").messages("layer")
    for layer, message, expected in zip(layers, ours, theirs.layer, strict=True):
        assert_same(message, expected, layer)


def test_windows_line_ends_read_as_caffes_protobuf_reads_them() -> None:
    written = 'name: "x" # c\r\nlayer {\r\n  name: "a"\r\n  "b"\r\n}\r\n'
    assert_same(text.parse(written).message("NetParameter"), parse_as_caffe(written, "NetParameter"))


def test_bytes_that_are_not_text_survive() -> None:
    raw = b'name: "\xff\xfe caf\xe9 \\377\\200" # \x80 comment\nlayer { name: "\xed\xa0\x80" }'
    document = text.parse(raw.decode("utf-8", "surrogateescape"))
    assert document.encode() == raw
    value = document.message("NetParameter").str("name")
    assert value.encode("utf-8", "surrogateescape") == b"\xff\xfe caf\xe9 \xff\x80"
    assert parse_as_caffe(document.text, "NetParameter") is not None
    edited = document.edited([text.replacement(document.fields[0], quote(value))])
    assert edited.message("NetParameter").str("name") == value


def test_a_byte_order_mark_is_kept_though_caffe_refuses_it() -> None:
    document = text.parse("\ufeffname: 'x'")
    assert document.encode() == b"\xef\xbb\xbfname: 'x'"
    assert document.message("NetParameter").str("name") == "x"
    assert parse_as_caffe(document.text, "NetParameter") is None


def test_what_forks_add_is_read_as_it_is_written() -> None:
    document = text.parse("layer { phase: QUANTIZED new_param { x: 1 } } state { phase: 99 }")
    net = document.message("NetParameter")
    assert net.messages("layer")[0].str("phase") == "QUANTIZED"
    assert net.message("state").str("phase") == "99"
    assert [field.name for field in net.messages("layer")[0].fields] == ["phase", "new_param"]
    text.check(document, "NetParameter")


def test_a_block_given_twice_merges_as_protobuf_merges_it() -> None:
    net = text.parse("state { level: 1 stage: 'a' } state { level: 2 stage: 'b' }").message("NetParameter")
    merged = net.message("state")
    assert merged.int("level") == 2
    assert merged.strs("stage") == ["a", "b"]


REFUSED = [
    # text, line, column, what was expected or found
    ("layer {\n  name: x\n}", 2, 9, "expected a quoted string"),
    ("layer { name: 5 }", 1, 15, "expected a quoted string"),
    ('layer { name: "a\n" }', 1, 15, "not closed on its line"),
    ("layer { name: 'a\" }", 1, 15, "not closed on its line"),
    ('layer { name: "a\\" }', 1, 15, "not closed on its line"),
    ('layer { name: "a\\\nb" }', 1, 15, "not closed on its line"),
    (r'layer { name: "C:\data" }', 1, 15, r"expected another escape than '\d'"),
    (r'layer { name: "\xg" }', 1, 15, r"expected another escape than '\x'"),
    (r'layer { name: "\u12" }', 1, 15, r"expected another escape than '\u'"),
    ("input_dim: 08", 1, 12, "expected a whole number"),
    ("input_dim: 2.0", 1, 12, "expected a whole number"),
    ("input_dim: 1e3", 1, 12, "expected a whole number"),
    ("input_dim: 1f", 1, 12, "expected a whole number"),
    ("input_dim: nan", 1, 12, "expected a whole number"),
    ('input_dim: "5"', 1, 12, "expected a whole number"),
    ("input_dim: 2147483648", 1, 12, "from -2147483648 to 2147483647"),
    ("input_dim: 1" + "0" * 5000, 1, 12, "expected a whole number"),
    ("layer { convolution_param { num_output: -1 } }", 1, 41, "from 0 to 4294967295"),
    ("input_dim: +5", 1, 12, "expected a value for 'input_dim', found '+5'"),
    ("input_dim: 1_000", 1, 12, "found '1_000'"),
    ("input_dim: 1abc", 1, 12, "found '1abc'"),
    ("input_dim: 0xg", 1, 12, "found '0xg'"),
    ("input_dim: 5input_dim: 6", 1, 12, "found '5input_dim'"),
    ("input_dim: -", 1, 12, "found '-'"),
    ("input_dim: 5;;", 1, 14, "expected a field name, found ';'"),
    ("input_dim: [1,]", 1, 15, "expected a value for 'input_dim', found ']'"),
    ("input_dim: [1;2]", 1, 14, "expected ',' or ']'"),
    ("input_dim: [1", 1, 14, "expected ',' or ']'"),
    ("input_dim [1, 2]", 1, 10, "expected ':' after 'input_dim'"),
    ("input_dim 5", 1, 11, "expected ':' or '{' after 'input_dim', found '5'"),
    ("input_dim = 5", 1, 11, "found '='"),
    ("input_dim", 1, 10, "found the end of the file"),
    ("input_dim:", 1, 11, "expected a value for 'input_dim', found the end of the file"),
    ("input_dim: {}", 1, 12, "is a block; expected a single value"),
    ("state: 5", 1, 8, "expected a block in braces"),
    ("state { phase: 'TEST' }", 1, 16, "expected one of TRAIN, TEST"),
    ("state { phase: 1.5 }", 1, 16, "expected one of TRAIN, TEST"),
    ("force_backward: TRUE", 1, 17, "expected true or false"),
    ("force_backward: 2", 1, 17, "expected true or false"),
    ("force_backward: -0", 1, 17, "expected true or false"),
    ('force_backward: "true"', 1, 17, "expected true or false"),
    ("layer { param { lr_mult: 0x10 } }", 1, 26, "expected a number"),
    ("layer { param { lr_mult: 010 } }", 1, 26, "expected a number"),
    ("layer { param { lr_mult: inff } }", 1, 26, "expected a number"),
    ("layer { param { lr_mult: true } }", 1, 26, "expected a number"),
    ("layer { param { lr_mult: 1e } }", 1, 26, "found '1e'"),
    ("layer { param { lr_mult: 1.5.2 } }", 1, 26, "found '1.5.2'"),
    ("layer { param { lr_mult: . } }", 1, 26, "found '.'"),
    ("layer { param { lr_mult: --5 } }", 1, 26, "found '-'"),
    ("// comment\nname: 'x'", 1, 1, "expected a field name, found '/'"),
    ("1: 5", 1, 1, "expected a field name, found '1'"),
    ("[a.b]: 5", 1, 1, "expected a field name, found '['"),
    ("a.b: 5", 1, 2, "found '.'"),
    ("name: 'x'\0", 1, 10, "expected a field name"),
    ("é: 1", 1, 1, "expected a field name, found 'é'"),
    ("name: 'a'\u00a0input: 'b'", 1, 10, "expected a field name"),
    ("layer {\n  name: 'a'\n", 3, 1, "the file ends inside 'layer' (opened in line 1); expected '}'"),
    ("layer {\r\n  name: 'a'\r\n  bottom 'b'\r\n}", 3, 10, "expected ':' or '{' after 'bottom'"),
    ("layer { >", 1, 9, "expected '}' to close 'layer', found '>'"),
    ("layer < }", 1, 9, "expected '>' to close 'layer', found '}'"),
    ("name: 'x' }", 1, 11, "'}' closes nothing"),
    ("layer [ { name: 'a' } { name: 'b' } ]", 1, 23, "expected ',' or ']'"),
    ("a { " * 101, 1, 403, "nested more than 100 deep"),
]


@pytest.mark.parametrize(("written", "line", "column", "expectation"), REFUSED, ids=range(len(REFUSED)))
def test_what_protobuf_refuses_is_refused_with_place_and_expectation(
    written: str, line: int, column: int, expectation: str
) -> None:
    with pytest.raises(ParseError) as caught:
        text.check(text.parse(written, "net.prototxt"), "NetParameter")
    error = caught.value
    assert (error.line, error.column) == (line, column)
    assert expectation in error.message
    first, shown, caret = str(error).split("\n")
    assert first.startswith(f"net.prototxt:{line}:{column}: ")
    assert caret.strip() == "^"
    under = shown[caret.index("^") :]
    source = written.split("\n")[line - 1].rstrip("\r")[column - 1 :]
    assert under[:1] == ("?" if source[:1] and not source[0].isprintable() else source[:1])
    assert parse_as_caffe(written, "NetParameter") is None


def test_a_caret_in_a_long_line_shows_only_what_is_around_it() -> None:
    with pytest.raises(ParseError) as caught:
        text.parse("name: 'x' " * 10_000 + "!")
    assert max(map(len, str(caught.value).split("\n"))) < 200
    assert caught.value.column == 100_001


@pytest.mark.parametrize("piece", ["a{}", "a:1 ", "a<>", "a:[{},{},{},{}]", "a:[1,2,3,4]"])
def test_more_fields_than_any_network_has_are_refused(piece: str) -> None:
    with pytest.raises(ParseError, match="fields; no network is that long"):
        text.parse(piece * (text.MAX_FIELDS + 1))


def test_a_list_of_too_many_elements_is_refused() -> None:
    with pytest.raises(ParseError, match="fields; no network is that long"):
        text.parse("a: [" + "{}," * text.MAX_FIELDS + "{}]")


def test_a_file_larger_than_any_networks_text_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "net.prototxt"
    with file.open("wb") as sparse:
        sparse.truncate(text.MAX_BYTES + 1)
    with pytest.raises(ParseError, match=f"is larger than {text.MAX_BYTES} bytes"):
        text.read(file)


TOKENS = ["name", "layer", "dim", ":", "{", "}", "<", ">", "[", "]", ",", ";", '"', "'", "#", "\n", " ", "\\", "-", "1"]
TOKENS += ["0x", ".5f", "e", "inf", '"a"', "'b'", "\r\n", "\t", "é", "\udcff", "\0", "\ufeff", "name: 'x'", "layer {"]


@given(st.one_of(st.text(), st.lists(st.sampled_from(TOKENS), max_size=40).map("".join)))
def test_any_text_either_parses_and_prints_back_or_is_refused_with_its_place(written: str) -> None:
    try:
        document = text.parse(written)
    except ParseError as error:
        assert error.line is not None
        assert error.column is not None
        assert 1 <= error.line <= written.count("\n") + 1
        assert 1 <= error.column <= len(written.split("\n")[error.line - 1]) + 1
        return
    assert document.text == written
    for field in text.walk(document.fields):
        assert 0 <= field.start <= field.value_start <= field.value_end <= field.end <= len(written)


@given(st.binary())
def test_any_bytes_either_parse_and_print_back_or_are_refused(raw: bytes) -> None:
    try:
        assert text.parse(raw.decode("utf-8", "surrogateescape")).encode() == raw
    except ParseError as error:
        assert error.line is not None


@given(st.text())
def test_quoting_and_unquoting_give_the_text_back(value: str) -> None:
    value = value.encode("utf-8", "replace").decode("utf-8")
    quoted = quote(value)
    assert unquote(quoted) == value
    assert "\n" not in quoted


GAPS = st.sampled_from(["", " ", "\n", "\t", " # c\n", "\r\n", "  # {[\"'\n  "])
GAPS_NEEDED = GAPS.map(lambda gap: gap or " ")
CHARACTERS = st.text(st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]), max_size=6)
QUOTED = st.one_of(
    st.builds(lambda s: '"' + s.replace("\\", "\\\\").replace('"', '\\"') + '"', CHARACTERS),
    st.builds(lambda s: "'" + s.replace("\\", r"\134").replace("'", r"\x27") + "'", CHARACTERS),
    st.sampled_from([r'"\n\101\x41"', r"'\u00e9'", '""']),
)
INTEGER = st.integers(-(2**31), 2**31 - 1)
NATURAL = st.integers(0, 2**31 - 1)


def scalars(field: FieldDescriptor) -> st.SearchStrategy[str]:
    """Spellings of a value of the field's type."""
    if field.enum_type:
        names = [value.name for value in field.enum_type.values]
        return st.sampled_from(names + [str(value.number) for value in field.enum_type.values])
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return st.lists(QUOTED, min_size=1, max_size=3).flatmap(lambda q: GAPS.map(lambda gap: gap.join(q)))
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.sampled_from(BOOLS)
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return st.one_of(st.floats().map(repr), st.sampled_from(FLOATS), INTEGER.map(str))
        case FieldDescriptor.CPPTYPE_UINT32 | FieldDescriptor.CPPTYPE_UINT64:
            return st.one_of(NATURAL.map(str), NATURAL.map(hex), NATURAL.map("0{:o}".format))
    return st.one_of(INTEGER.map(str), NATURAL.map("- {}".format), NATURAL.map(hex), NATURAL.map("-0{:o}".format))


@st.composite
def messages(draw: st.DrawFn, kind: Descriptor, depth: int = 0) -> str:
    """The inside of a block of that kind, spelt in any way that the format knows."""
    own = list(kind.fields)  # A fork's message may have none.
    drawn = draw(st.lists(st.sampled_from(own), max_size=6 - depth)) if own else []
    singular: set[str] = set()
    pieces = []
    for field in drawn:
        if field.name in singular or (field.message_type and depth >= 3):
            continue
        if not field.is_repeated:
            singular.add(field.name)
        pieces.append(draw(fields(field, depth)))
    return draw(GAPS) + "".join(pieces)


@st.composite
def fields(draw: st.DrawFn, field: FieldDescriptor, depth: int) -> str:
    values = [draw(_value(field, depth)) for _ in range(draw(st.integers(0, 3)) if field.is_repeated else 1)]
    colon = draw(GAPS) + ":" + draw(GAPS)
    if field.message_type:
        colon = draw(st.sampled_from([colon, draw(GAPS)]))
    if field.is_repeated and (len(values) != 1 or draw(st.booleans())):
        value = "[" + draw(GAPS) + (draw(GAPS) + "," + draw(GAPS)).join(values) + draw(GAPS) + "]"
    else:
        value = values[0]
    end = draw(st.sampled_from(["", ";", ",", " ;"]))
    return field.name + colon + value + end + draw(GAPS_NEEDED)


def _value(field: FieldDescriptor, depth: int) -> st.SearchStrategy[str]:
    if not field.message_type:
        return scalars(field)
    inside = messages(field.message_type, depth + 1)
    return st.tuples(inside, st.sampled_from(["{}", "<>"])).map(lambda pair: pair[1][0] + pair[0] + pair[1][1])


@settings(max_examples=60, deadline=None)
@given(messages(message_class("NetParameter").DESCRIPTOR), st.randoms(use_true_random=False))
def test_any_message_in_any_spelling_reads_as_caffes_protobuf_reads_it(written: str, rng: random.Random) -> None:
    theirs = parse_as_caffe(written, "NetParameter")
    assert theirs is not None, "the generator writes only what protobuf accepts"
    document = text.parse(written)
    text.check(document, "NetParameter")
    assert_same(document.message("NetParameter"), theirs)
    everything = list(text.walk(document.fields))
    if everything:
        index = rng.randrange(len(everything))
        assert_deleting_takes_one_slice(document, index, everything[index])


def test_every_default_of_the_schema_table_is_protobufs() -> None:
    for name in MESSAGES:
        ours, theirs = text.parse("").message(name), message_class(name)()
        for field in theirs.DESCRIPTOR.fields:
            if field.message_type or field.is_repeated:
                continue
            default = getattr(theirs, field.name)
            value = ours.get(field.name)
            assert _equal(UNSET[type(default)] if value is None else value, default, field), (name, field.name)


def test_a_float_is_spelt_so_that_it_reads_back_as_the_same_float32() -> None:
    from surgery.formats.caffe.schema import Kind, spell

    kind = Kind(1, False, "float", None)
    for value in (0.1, 1 / 3, 1e-45, 3.4028234663852886e38, math.inf, -math.inf, 16777216.0, 0.0, -2.5):
        rounded = ctypes.c_float(value).value
        assert ctypes.c_float(parse_scalar(spell(rounded, kind), kind)).value == rounded
