"""Old networks and solvers, before and after."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from surgery.errors import ModelError, SurgeryError
from surgery.formats.caffe.text import Document, parse, read
from surgery.formats.caffe.upgrade import needs_upgrade, upgrade, upgrade_solver, upgrade_v0
from tests.schema import parse_message
from tests.shared import shared

V1 = """\
# A network of 2014.
name: "V1"
layers {
  name: "conv1" # the first
  type: CONVOLUTION
  bottom: "data"
  top: "conv1"
  blobs_lr: 1   # weights
  blobs_lr: 2   # biases
  weight_decay: 1
  weight_decay: 0 # none for biases
  convolution_param { num_output: 4 kernel_size: 3 }
  my_field: [1, 2]
}
layers { bottom: "conv1" top: "conv1" name: "relu1" type: 18 }  # one line
"""
V1_AFTER = """\
# A network of 2014.
name: "V1"
layer {
  name: "conv1" # the first
  type: "Convolution"
  bottom: "data"
  top: "conv1"
  param { lr_mult: 1 decay_mult: 1 }   # weights
  param { lr_mult: 2 decay_mult: 0 }   # biases
  # none for biases
  convolution_param { num_output: 4 kernel_size: 3 }
  my_field: [1, 2]
}
layer { bottom: "conv1" top: "conv1" name: "relu1" type: "ReLU" }  # one line
"""

V0 = """\
name: "V0"
input: "data"
input_dim: 1
input_dim: 3
input_dim: 8
input_dim: 8 # width
# Pads by two.
layers {
  layer {
    name: "pad1"
    type: "padding"
    pad: 2
  }
  bottom: "data"
  top: "pad1"
}
# Convolves.
layers {
  layer {
    name: "conv1"
    type: "conv"
    num_output: 4 # few
    kernelsize: 5
    biasterm: false
    weight_filler {
      type: "gaussian"
      std: 0.01
    }
    blobs_lr: 1.
    my_field: 3
  }
  bottom: "pad1"
  top: "conv1"
}
layers { layer { name: "p" type: "pool" pool: AVE kernelsize: 2 stride: 2 } bottom: "conv1" top: "pool1" }
"""
V0_AFTER = """\
name: "V0"
layer {
  name: "input"
  type: "Input"
  top: "data"
  input_param {
    shape { dim: 1 dim: 3 dim: 8 dim: 8 }
  }
}
# width
# Pads by two.
# Convolves.
layer {
  name: "conv1"
  type: "Convolution"
  convolution_param {
    num_output: 4 # few
    pad: 2
    kernel_size: 5
    bias_term: false
    weight_filler {
      type: "gaussian"
      std: 0.01
    }
  }
  param { lr_mult: 1. }
  my_field: 3
  bottom: "data"
  top: "conv1"
}
layer { name: "p" type: "Pooling" pooling_param { pool: AVE kernel_size: 2 stride: 2 } bottom: "conv1" top: "pool1" }
"""


def test_v1_becomes_v2_and_comments_and_unknown_fields_stay() -> None:
    assert upgrade(parse(V1)).text == V1_AFTER


def test_v0_becomes_v2_and_padding_layers_merge_into_what_they_feed() -> None:
    assert upgrade(parse(V0)).text == V0_AFTER


def test_line_ends_stay_as_they_are() -> None:
    for before, after in ((V1, V1_AFTER), (V0, V0_AFTER)):
        assert upgrade(parse(before.replace("\n", "\r\n"))).text == after.replace("\n", "\r\n")


def test_upgrade_v0_leaves_input_fields_and_other_networks() -> None:
    assert upgrade_v0(parse(V0)).text.startswith('name: "V0"\ninput: "data"\ninput_dim: 1\n')
    assert "layers" not in upgrade_v0(parse(V0)).text
    assert upgrade_v0(parse(V1)).text == V1


def check(before: str, after: str) -> None:
    assert upgrade(parse(before)).text == after


def test_a_v2_network_stays_as_it_is() -> None:
    odd = 'layer{name:"x",type : "ReLU";bottom:["a"]top:\'b\'}#'
    assert upgrade(parse(odd)).text == odd


def test_shared_blobs_get_their_names_and_modes() -> None:
    check(
        'layers { name: "a" type: INNER_PRODUCT param: "w" param: "" blob_share_mode: PERMISSIVE blobs_lr: 3 }',
        'layer { name: "a" type: "InnerProduct" param { name: "w" share_mode: PERMISSIVE lr_mult: 3 }'
        ' param { name: "" } }',
    )


def test_lists_are_spelt_out_where_they_change() -> None:
    check(
        'layers: [{ name: "a" type: CONVOLUTION blobs_lr: [1,2] weight_decay: [0.5] bottom: ["x"] },'
        ' # the next\n { name: "b" type: NONE convolution_param { kernel_size: [3, 5] } }]',
        'layer: { name: "a" type: "Convolution" param { lr_mult: 1 decay_mult: 0.5 } param { lr_mult: 2 }'
        ' bottom: "x" }  # the next\n layer: { name: "b" type: "" convolution_param { kernel_size: [3, 5] } }',
    )


def test_old_data_transformations_move_to_transform_param() -> None:
    check(
        'layers {\n  name: "d"\n  type: DATA\n'
        '  data_param {\n    source: "s"\n    scale: 0.5\n    mirror: true\n  }\n}\n',
        'layer {\n  name: "d"\n  type: "Data"\n  data_param {\n    source: "s"\n  }\n'
        "  transform_param { scale: 0.5 mirror: true }\n}\n",
    )
    check(
        "layers { type: IMAGE_DATA image_data_param { scale: 0.5 crop_size: 7 } transform_param { scale: 1 } }",
        'layer { type: "ImageData" image_data_param { } transform_param { scale: 0.5 crop_size: 7 } }',
    )


def test_data_transformations_of_a_v2_layer_stay_because_caffe_ignores_them() -> None:
    source = 'layer { type: "Data" data_param { scale: 0.5 } }'
    assert upgrade(parse(source)).text == source


def test_inputs_become_one_layer_before_all_others_wherever_they_are_stated() -> None:
    check(
        'layer { name: "r" type: "ReLU" bottom: "b" top: "b" }\n'
        'input: "a" input: "b"\ninput_shape { dim: 1 # batch\n}\ninput_shape { dim: [2, 3] }\ninput_dim: 9\n',
        'layer {\n  name: "input"\n  type: "Input"\n  top: "a"\n  top: "b"\n'
        "  input_param {\n    shape { dim: 1 # batch\n    }\n    shape { dim: 2 dim: 3 }\n  }\n}\n"
        'layer { name: "r" type: "ReLU" bottom: "b" top: "b" }\n',
    )


def test_an_input_without_a_shape_stays() -> None:
    source = 'input: "data" layer { type: "ReLU" bottom: "data" top: "y" }'
    assert upgrade(parse(source)).text == source


def test_a_batch_norm_with_three_params_is_not_trained() -> None:
    check(
        'layer { type: "BatchNorm" param { lr_mult: 1 } param {} param { name: "n" lr_mult: 0 decay_mult: 2 } }',
        'layer { type: "BatchNorm" param { lr_mult: 0 decay_mult: 0 } param { lr_mult: 0 decay_mult: 0 }'
        ' param { name: "n" lr_mult: 0 decay_mult: 0 } }',
    )


@pytest.mark.parametrize("params", ["param { lr_mult: 1 } " * 2, "param { lr_mult: 0 decay_mult: 0 } " * 3, ""])
def test_other_batch_norms_stay(params: str) -> None:
    source = f'layer {{ type: "BatchNorm" {params} }}'
    assert upgrade(parse(source)).text == source


def test_what_caffe_drops_of_v0_becomes_a_comment() -> None:
    check(
        'state {\n  level: 1\n}\nlayers {\n  layer {\n    type: "relu"\n    num_output: 3\n    x: 1\n  }\n'
        "  include { phase: TEST }\n}\n",
        "# was: state { level: 1 } (dropped by Caffe's upgrade: the network has no such field)\n"
        "# was: include { phase: TEST } (dropped by Caffe's upgrade: relu has no such field)\n"
        "# was: num_output: 3 (dropped by Caffe's upgrade: relu has no such field)\n"
        'layer {\n  type: "ReLU"\n  x: 1\n}\n',
    )


@pytest.mark.parametrize(
    ("source", "steps"),
    [
        ('layer { name: "x" }', []),
        ("layers { type: RELU }", ["V1 layers"]),
        ("layers { type: DATA data_param { mirror: false } }", ["V1 layers", "data transform fields"]),
        ('layers { layer { type: "relu" } }', ["V0 layers"]),
        ('input: "x" input_dim: [1, 1, 1, 1] layers { type: RELU }', ["V1 layers", "input fields"]),
        ('layer { type: "BatchNorm" param {} param {} param {} }', ["BatchNorm params"]),
    ],
)
def test_the_steps_that_apply_are_told(source: str, steps: list[str]) -> None:
    assert needs_upgrade(parse(source)) == steps


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('layers { name: "a" type: LOCAL } layers { name: "b" type: 77 }', r"'a' \(LOCAL\), 'b' \(77\)"),
        (
            'layers { layer { name: "a" type: "fc" } } layers { layer { name: "b" type: "x" } }',
            r"'a' \(fc\), 'b' \(x\)",
        ),
        ('layers { layer { name: "a" type: "ReLU" } }', r"'a' \(ReLU\)"),
        ('layer { name: "a" } layers { type: RELU }', "both `layer` and `layers`"),
        ('layers { layer { type: "relu" } } layers { name: "v1" type: RELU }', "'v1'"),
        ('input: "a" input_dim: 1 input_dim: 3 input_dim: 8 layer { name: "x" }', "need 4 `input_dim`, found 3"),
        ('input: "a" input: "b" input_shape { dim: 1 } layer { name: "x" }', "2 `input` but 1 `input_shape`"),
        (
            'input: "d" layers { layer { name: "p" type: "padding" pad: 1 } bottom: "d" top: "p" }'
            ' layers { layer { name: "r" type: "relu" } bottom: "p" top: "r" }',
            r"padding layer 'p' feeds 'r' \(ReLU\); expected a conv or pool layer",
        ),
        ('layers { layer { name: "r" type: "relu" } bottom: "p" top: "r" }', "'r': bottom 'p' is made by no layer"),
    ],
)
def test_where_caffe_aborts_the_network_is_refused(source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        upgrade(parse(source))


def test_a_solvers_type_is_spelt_as_a_string() -> None:
    before = "base_lr: 0.1 # high\nsolver_type: ADAGRAD # adapts\nsnapshot_prefix: 'x'\n"
    after = "base_lr: 0.1 # high\ntype: \"AdaGrad\" # adapts\nsnapshot_prefix: 'x'\n"
    assert upgrade_solver(parse(before)).text == after
    assert upgrade_solver(parse(after)).text == after


@pytest.mark.parametrize(
    ("source", "message"), [('solver_type: SGD type: "SGD"', "both"), ("solver_type: SPEEDY", "expected one of SGD")]
)
def test_an_unclear_solver_type_is_refused(source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        upgrade_solver(parse(source))


def test_upgraded_networks_are_the_ones_that_caffe_makes() -> None:
    for path in sorted(shared("zoo/upgraded").iterdir()):
        made = upgrade(read(shared("zoo/prototxt") / path.name))
        assert parse_message(made.text, "NetParameter") == parse_message(path.read_text(), "NetParameter"), path.name


def test_every_network_keeps_its_comments_and_is_upgraded_once() -> None:
    for path in sorted(shared("zoo/prototxt").iterdir()):
        before = read(path)
        made = _upgraded(before)
        if made is None:
            continue
        assert comments(made.text) == comments(before.text), path.name
        assert made is before or needs_upgrade(made) == [], path.name


def test_every_solver_parses_after_its_upgrade() -> None:
    for path in sorted(shared("zoo/solver").iterdir()):
        made = upgrade_solver(read(path))
        assert not made.message("SolverParameter").has("solver_type"), path.name


def _upgraded(document: Document) -> Document | None:
    try:
        return upgrade(document)
    except SurgeryError:
        return None


def comments(source: str) -> Counter[str]:
    return Counter(line.strip() for line in re.findall(r"#[^\n]*", source) if "dropped by Caffe's upgrade" not in line)
