"""A table of times survives the way through a file and a spreadsheet; what is wrong in it is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.choose.latency import KINDS, LatencyTable, Shape
from surgery.choose.latency_csv import HEADING, from_csv, to_csv
from surgery.errors import ParseError

PATH = Path("phone.csv")
COUNTS = st.integers(1, 4096)
PAIRS = st.tuples(st.integers(1, 300), st.integers(1, 300))
SHAPES = st.builds(
    Shape,
    st.sampled_from(KINDS), COUNTS, COUNTS, COUNTS, PAIRS, PAIRS, st.tuples(st.integers(0, 9), st.integers(0, 9)),
    PAIRS, COUNTS, PAIRS, st.booleans(),
)  # fmt: skip
HEAD = "# runtime: caffe\n# threads: 2\n# machine: a phone\n" + HEADING + "\n"
ROW = "convolution,1,64,32,3x1,1x1,1x0,1x1,1,56x28,no,1.25,0001.prototxt"
SHAPE = Shape("convolution", 1, 64, 32, (3, 1), padding=(1, 0), input=(56, 28))


@given(st.dictionaries(SHAPES, st.floats(0, 1e6), max_size=5), st.integers(1, 64))
def test_a_table_comes_back_as_it_was(rows: dict[Shape, float], threads: int) -> None:
    found = from_csv(to_csv(LatencyTable("opencv", threads, "a phone: fast, cheap", rows)), PATH)
    assert (found.runtime, found.threads, found.machine) == ("opencv", threads, "a phone: fast, cheap")
    assert found.rows == {shape: pytest.approx(time, rel=1e-5) for shape, time in rows.items()}  # Six digits are kept.


def test_rows_say_what_their_columns_are() -> None:
    text = to_csv(LatencyTable("caffe", 2, "a phone", {SHAPE: 1.25}), {SHAPE: "0001.prototxt"})
    assert text.endswith(f"{HEADING}\n{ROW}\n")
    assert [line for line in HEAD.splitlines() if line not in text.splitlines()] == []


def test_rows_without_a_time_are_not_measured() -> None:
    asked = {SHAPE: "0001.prototxt", Shape("scale", 1, 8, 8): "0002.prototxt"}
    text = to_csv(LatencyTable("caffe", 1, "", {}), asked)
    assert from_csv(text, PATH).rows == {}
    assert from_csv(text.replace(",,0002", ",0.5,0002"), PATH).rows == {Shape("scale", 1, 8, 8): 0.5}


def test_a_spreadsheets_ways_do_no_harm() -> None:
    """A mark at the start, commas behind every line, other ends of lines, no names of files, empty lines."""
    text = (HEAD + ROW.rpartition(",")[0] + "\n").replace("a phone\n", "a phone,,,,,,,,,,,,\n") + ",,,,,,,,,,,,\n\n"
    found = from_csv("\ufeff" + text.replace("\n", "\r\n"), PATH)
    assert (found.machine, found.threads, found.rows) == ("a phone", 2, {SHAPE: 1.25})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + ROW.replace("3x1", "3by1"), "phone.csv:5:21: column kernel: found '3by1', expected like 3x3"),
        (HEAD + ROW.replace("1.25", "1;25"), "phone.csv:5:48: column milliseconds: found '1;25', expected a number"),
        (HEAD + ROW.replace("1.25", "-1"), "column milliseconds: found '-1'"),
        (HEAD + ROW.replace("1.25", "nan"), "column milliseconds: found 'nan'"),
        (HEAD + ROW.replace("1.25", "1,25"), "phone.csv:5:1: found 14 cells, expected 13"),
        (HEAD + ROW.replace("convolution", "conv"), "column kind: found 'conv', expected 'convolution' or 'fully"),
        (HEAD + ROW.replace(",64,", ",0,"), "column in_channels: found '0', expected a whole number above 0"),
        (HEAD + ROW.replace(",no,", ",maybe,"), "column bias: found 'maybe', expected yes or no"),
        (HEAD + ROW + "\n" + ROW, "phone.csv:6:1: the same shape as in line 5"),
        (HEAD.replace("batch", "images") + ROW, "phone.csv:4:1: found 'kind,images,"),
        (HEAD.replace(",", ";"), "expected the heading 'kind,batch,"),
        (HEAD.replace("# runtime: caffe\n", "") + ROW, "does not say which runtime was timed"),
        (HEAD.replace("threads: 2", "threads: two"), "found '# threads: two', expected a whole number above 0"),
        ("# runtime: caffe\n", "there is no table; expected the heading"),
        ("", "there is no table"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        from_csv(text, PATH)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="#kind,\n0123x.yesconvlu:ma ", max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for whole in (text, HEAD + text):
        try:
            from_csv(whole, PATH)
        except ParseError as error:
            assert "phone.csv:" in str(error)
