"""A network's tree, written out, is the same network in one spelling."""

from __future__ import annotations

import pytest

from surgery.formats.caffe import text
from surgery.targets.tree import block, layer, rendered, tree_of
from tests.protobuf_text import parse_as_caffe
from tests.shared import shared

ODD = """
# comment
layer: [{ name: 'a' 'b', type: "Pooling"; top: ["x", "y"] pooling_param < pool: 1 kernel_size: 0x6 > },
        { name: "c\\x41" type: "Reshape" reshape_param { shape { } } blobs { data: 1.5f data: inf data: -nan } }]
debug_info: t
"""
CLEAN = """\
layer {
  name: "ab"
  type: "Pooling"
  top: "x"
  top: "y"
  pooling_param {
    pool: AVE
    kernel_size: 6
  }
}
layer {
  name: "cA"
  type: "Reshape"
  reshape_param {
    shape { }
  }
  blobs { data: 1.5 data: inf data: nan }
}
debug_info: true
"""


def test_shorthands_become_one_spelling() -> None:
    assert rendered(tree_of(text.parse(ODD))) == CLEAN


def test_what_is_written_out_reads_as_the_same_tree() -> None:
    tree = tree_of(text.parse(ODD))
    assert tree_of(text.parse(rendered(tree))) == tree


@pytest.mark.parametrize("part", range(4))
def test_caffe_reads_the_same_network(part: int) -> None:
    read = 0
    for path in sorted(shared("zoo/prototxt").iterdir())[part::40]:
        document = text.read(path)
        wanted = parse_as_caffe(document.text, "NetParameter")
        if wanted is not None:
            assert parse_as_caffe(rendered(tree_of(document)), "NetParameter") == wanted, path.name
            read += 1
    assert read > 3


def test_a_made_layer_is_spelt_as_caffe_reads_it() -> None:
    made = layer('a"b', "Power", ["x"], ["y"], block("power_param", scale=-1.0, shift=0.1))
    parsed = parse_as_caffe(rendered((made,)), "NetParameter")
    assert parsed is not None
    assert 'name: "a\\"b"' in str(parsed)
    assert "shift: 0.1" in str(parsed)
