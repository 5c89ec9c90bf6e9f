"""Training networks and the deployed ones made of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from surgery.errors import ModelError, PlanError, SurgeryError
from surgery.formats.caffe.deploy import deploy
from surgery.formats.caffe.netstate import NetState, state_of
from surgery.formats.caffe.network import Shape, inputs, layers
from surgery.formats.caffe.text import Document, parse, read
from tests.shared import shared

LENET = """\
name: "LeNet"
# Where the digits come from.
layer {
  name: "mnist"
  type: "Data"
  top: "data"
  top: "label"
  include { phase: TRAIN }
  data_param { source: "train_lmdb" batch_size: 64 }
}
layer {
  name: "mnist"
  type: "Data"
  top: "data"
  top: "label"
  include {
    phase: TEST
  }
  transform_param {
    scale: 0.00390625  # 1 / 256
  }
  data_param { source: "test_lmdb" batch_size: 100 }
}
# The only weights.
layer {
  name: "ip" type: "InnerProduct"   # odd spacing
  bottom: "data"
  top: "ip"
  my_field: 1
  include { phase: TEST }
  include { phase: TRAIN }
}
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }
layer {
  name: "accuracy"
  type: "Accuracy"
  bottom: "ip"
  bottom: "label"
  top: "accuracy"
}
layer {
  name: "loss"
  type: "SoftmaxWithLoss"
  bottom: "ip"
  bottom: "label"
  top: "loss"
  loss_weight: 1
  softmax_param { axis: 1 }
  loss_param { ignore_label: 255 }
}
"""
LENET_AFTER = """\
name: "LeNet"
# Where the digits come from.
# was: transform_param { scale: 0.00390625 }
layer {
  name: "mnist"
  type: "Input"
  top: "data"
  input_param { shape { dim: 1 dim: 1 dim: 28 dim: 28 } }
}
# The only weights.
layer {
  name: "ip" type: "InnerProduct"   # odd spacing
  bottom: "data"
  top: "ip"
  my_field: 1
}
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }
layer {
  name: "loss"
  type: "Softmax"
  bottom: "ip"
  top: "prob"
  softmax_param { axis: 1 }
}
"""
DIGIT: dict[str, Shape] = {"data": (1, 1, 28, 28)}


def deployed(source: str, shapes: dict[str, Shape] | None = None, state: NetState | None = None) -> str:
    return deploy(parse(source), state or NetState(), shapes or {}).text


def kept(source: str, shapes: dict[str, Shape] | None = None, state: NetState | None = None) -> list[str]:
    """The layers of a deployed network, as `type:name(bottoms)tops`."""
    found = layers(parse(deployed(source, shapes, state)))
    return [f"{x.type}:{x.name}({','.join(x.bottoms)}){','.join(x.tops)}" for x in found]


def layer(kind: str, name: str, bottoms: str = "", tops: str = "", more: str = "") -> str:
    """One layer's text; bottoms and tops are separated by blanks."""
    wires = [f'bottom: "{x}"' for x in bottoms.split()] + [f'top: "{x}"' for x in tops.split()]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(wires)} {more} }}\n'


DATA = layer("Data", "d", "", "data label")
CONV = layer("Convolution", "conv", "data", "conv")


def test_a_training_network_becomes_a_deployed_one() -> None:
    assert deployed(LENET, DIGIT) == LENET_AFTER


def test_line_ends_stay_as_they_are() -> None:
    assert deployed(LENET.replace("\n", "\r\n"), DIGIT) == LENET_AFTER.replace("\n", "\r\n")


def test_a_deployed_network_stays_as_it_is() -> None:
    assert deployed(LENET_AFTER) == LENET_AFTER
    v1 = 'input: "data" input_dim: [1, 1, 2, 2] layers { type: SOFTMAX bottom: "data" top: "p" include {phase: TEST} }'
    assert deployed(v1) == v1


def test_v1_networks_are_upgraded() -> None:
    source = 'layers { name: "d" type: DATA top: "data" top: "label" }\n'
    source += 'layers { name: "l" type: SOFTMAX_LOSS bottom: "data" bottom: "label" }\n'
    assert kept(source, DIGIT) == ["Input:d()data", "Softmax:l(data)prob"]


def test_input_fields_stay_unless_they_feed_a_label() -> None:
    fields = 'input: "data"\ninput_dim: [1, 1, 28, 28]\n'
    loss = layer("EuclideanLoss", "l", "conv data")
    assert deployed(fields + CONV + loss) == fields + CONV
    both = 'input: "data" input: "label" input_shape { dim: 1 dim: 2 } input_shape { dim: 1 }\n'
    made = kept(both + CONV + layer("SoftmaxWithLoss", "l", "conv label"))
    assert made == ["Input:input()data", "Convolution:conv(data)conv", "Softmax:l(conv)prob"]


# A data layer, its shapes as the file tells them
STATED = [
    ('type: "ImageData" image_data_param { new_height: 5 new_width: 6 }', (1, 3, 5, 6)),
    ('type: "ImageData" image_data_param { new_height: 5 new_width: 6 is_color: false }', (1, 1, 5, 6)),
    (
        'type: "ImageData" image_data_param { new_height: 9 new_width: 9 } transform_param { crop_size: 7 }',
        (1, 3, 7, 7),
    ),
    ('type: "MemoryData" memory_data_param { batch_size: 64 channels: 2 height: 5 width: 6 }', (1, 2, 5, 6)),
    ('type: "DummyData" dummy_data_param { shape { dim: 8 dim: 2 dim: 5 dim: 6 } }', (1, 2, 5, 6)),
    ('type: "DummyData" dummy_data_param { num: 8 channels: 2 height: 5 width: 6 }', (1, 2, 5, 6)),
    ('type: "DummyData" dummy_data_param { shape { dim: 8 dim: 2 } }', (8, 2)),
    ('type: "WindowData" transform_param { crop_size: 7 }', (1, 3, 7, 7)),
    ('type: "Data" transform_param { crop_size: 7 force_gray: true }', (1, 1, 7, 7)),
    ('type: "Data" transform_param { crop_size: 7 mean_value: [1, 2, 3] }', (1, 3, 7, 7)),
    ('type: "AnnotatedData" transform_param { force_color: true resize_param { height: 5 width: 6 } }', (1, 3, 5, 6)),
]


@pytest.mark.parametrize(("fields", "shape"), STATED)
def test_the_shape_is_derived_where_the_file_tells_it(fields: str, shape: Shape) -> None:
    made = layers(parse(deployed(f'layer {{ name: "d" top: "data" {fields} }}\n{CONV}')))
    assert tuple(made[0].message.message("input_param").message("shape").ints("dim")) == shape


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ('type: "Data"', "--shape data=1,C,H,W"),
        ('type: "Data" transform_param { crop_size: 7 mean_value: 1 }', "--shape data=1,C,7,7"),
        ('type: "ImageData"', "--shape data=1,3,H,W"),
        ('type: "HDF5Data"', "--shape data=1,C,H,W"),
        ('type: "Python" python_param { module: "m" layer: "L" }', "--shape data=1,C,H,W"),
        ('type: "MyData" transform_param { crop_size: 7 force_color: true }', "--shape data=1,3,7,7"),
    ],
)
def test_a_missing_shape_is_named(fields: str, hint: str) -> None:
    with pytest.raises(PlanError, match=re.escape(hint)):
        deployed(f'layer {{ name: "d" top: "data" {fields} }}\n{CONV}')


def test_all_missing_shapes_are_named_at_once() -> None:
    with pytest.raises(PlanError, match=r"--shape a=.*--shape b="):
        deployed(layer("Data", "x", "", "a") + layer("Data", "y", "", "b") + layer("InnerProduct", "c", "a b", "c"))


def test_shapes_for_other_blobs_and_impossible_shapes_are_refused() -> None:
    with pytest.raises(PlanError, match="'dat'; the blobs fed are data, label"):
        deployed(DATA + CONV, {"dat": (1,)})
    with pytest.raises(PlanError, match="expected whole numbers from 1"):
        deployed(DATA + CONV, {"data": (1, 0)})
    with pytest.raises(PlanError, match="'x'; the blobs fed are data"):
        deployed(LENET_AFTER, {"x": (1,)})


def test_an_input_layer_takes_the_shape_that_is_given() -> None:
    source = layer("Input", "in", "", "data", "input_param { shape { dim: 8 dim: 3 } }") + CONV
    assert deployed(source, {"data": (8, 3)}) == source
    made = 'layer {\n  name: "in"\n  type: "Input"\n  top: "data"\n  input_param { shape { dim: 1 dim: 3 } }\n}\n'
    assert deployed(source, {"data": (1, 3)}) == made + CONV
    assert deployed(layer("Input", "in", "", "data") + CONV, {"data": (1, 3)}) == made + CONV


def test_input_fields_take_the_shapes_that_are_given() -> None:
    shape = (1, 3, 8, 9)
    given = {"data": shape}
    bare = 'input: "data" # pixels\n' + CONV
    assert deployed(bare, {}) == bare
    stated = 'input: "data"\ninput_shape { dim: 1 dim: 3 dim: 8 dim: 9 } # pixels\n' + CONV
    assert deployed(bare, given) == deployed(stated, given) == stated
    old = 'input: "data"\n' + "".join(f"input_dim: {n}\n" for n in (10, 3, 8, 9)) + CONV
    assert deployed(old, given) == old.replace("input_dim: 10", "input_dim: 1")
    with pytest.raises(PlanError, match="input 'info' has no shape; give --shape info=N,C,H,W as well"):
        deployed('input: "data" input: "info"\n' + CONV, given)


def test_a_blob_of_several_gives_its_layer_the_name() -> None:
    source = layer("HDF5Data", "d", "", "image clip label") + layer("LSTM", "lstm", "image clip", "h")
    loss = layer("SoftmaxWithLoss", "l", "h label", "loss")
    shapes: dict[str, Shape] = {"image": (2, 1, 3), "clip": (2, 1)}
    assert kept(source + loss, shapes)[:2] == ["Input:image()image", "Input:clip()clip"]


def test_dummy_data_beside_a_real_source_is_a_constant() -> None:
    constant = layer("DummyData", "h0", "", "h0", "dummy_data_param { shape { dim: 9 } }")
    source = DATA + constant + layer("LSTM", "lstm", "data h0", "h")
    assert constant in deployed(source, {"data": (1, 2)})


def test_data_and_losses_for_another_phase_alone_count() -> None:
    rule = "include { phase: TRAIN }"
    source = layer("Data", "d", "", "data label", rule) + CONV + layer("SoftmaxWithLoss", "l", "conv label", "l", rule)
    assert kept(source, DIGIT) == ["Input:d()data", "Convolution:conv(data)conv", "Softmax:l(conv)prob"]


def test_the_state_chooses() -> None:
    source = DATA + layer("Convolution", "a", "data", "y", 'include { stage: "fast" }')
    source += layer("Convolution", "b", "data", "y", 'include { not_stage: "fast" }')
    assert kept(source, DIGIT)[1] == "Convolution:b(data)y"
    assert kept(source, DIGIT, NetState(stages=("fast",)))[1] == "Convolution:a(data)y"


# What follows data, label and a convolution, and what of it is left.
ENDS = {
    "a sigmoid loss becomes a Sigmoid": (
        layer("SigmoidCrossEntropyLoss", "l", "conv label", "loss"),
        ["Sigmoid:l(conv)prob"],
    ),
    "a loss without a top gets one": (layer("SoftmaxWithLoss", "l", "conv label"), ["Softmax:l(conv)prob"]),
    "a loss's own prediction keeps its name": (
        layer("SoftmaxWithLoss", "l", "conv label", "loss p") + layer("ArgMax", "best", "p", "best"),
        ["Softmax:l(conv)p", "ArgMax:best(p)best"],
    ),
    "where prob is taken the loss keeps its blob": (
        layer("ReLU", "r", "conv", "prob") + layer("SoftmaxWithLoss", "l", "conv label", "loss"),
        ["ReLU:r(conv)prob", "Softmax:l(conv)loss"],
    ),
    "a Softmax that is there already is enough": (
        layer("Softmax", "s", "conv", "p") + layer("SoftmaxWithLoss", "l", "conv label", "loss"),
        ["Softmax:s(conv)p"],
    ),
    "two losses of one blob make one Softmax": (
        layer("SoftmaxWithLoss", "a", "conv label", "la") + layer("SoftmaxWithLoss", "b", "conv label", "lb"),
        ["Softmax:a(conv)prob"],
    ),
    "several tasks keep a head each": (
        layer("InnerProduct", "x", "conv", "x")
        + layer("SoftmaxWithLoss", "a", "conv label", "la")
        + layer("SoftmaxWithLoss", "b", "x label", "lb"),
        ["InnerProduct:x(conv)x", "Softmax:a(conv)a_prob", "Softmax:b(x)b_prob"],
    ),
    "a head of less weight and what only it needs go": (
        layer("InnerProduct", "aux", "conv", "aux")
        + layer("Softmax", "auxp", "aux", "auxp")
        + layer("Accuracy", "auxa", "auxp label", "auxa")
        + layer("SoftmaxWithLoss", "a", "aux label", "la", "loss_weight: 0.3")
        + layer("InnerProduct", "x", "conv", "x")
        + layer("SoftmaxWithLoss", "b", "x label", "lb", "loss_weight: 1"),
        ["InnerProduct:x(conv)x", "Softmax:b(x)prob"],
    ),
    "a head of less weight for another label stays": (
        layer("Slice", "s", "label", "age sex")
        + layer("SoftmaxWithLoss", "a", "conv age", "la", "loss_weight: 0.3")
        + layer("InnerProduct", "x", "conv", "x")
        + layer("SoftmaxWithLoss", "b", "x sex", "lb"),
        ["Softmax:a(conv)a_prob", "InnerProduct:x(conv)x", "Softmax:b(x)b_prob"],
    ),
    "regressions end in what they predict, whichever bottom that is": (
        layer("Flatten", "f", "label", "f") + layer("EuclideanLoss", "l", "f conv", "l"),
        [],
    ),
    "metrics go alone": (layer("Accuracy", "a", "conv label", "a"), []),
    "what computes with a loss goes": (
        layer("EuclideanLoss", "l", "conv label", "l") + layer("Power", "p", "l", "l2"),
        [],
    ),
    "what computes with a label goes": (
        layer("SoftmaxWithLoss", "l", "conv label", "l") + layer("MyTriplets", "t", "conv label", "t"),
        ["Softmax:l(conv)prob"],
    ),
    "what a weight makes a loss goes": (
        layer("Reduction", "l", "conv", "l", "loss_weight: 0.1") + layer("ReLU", "r", "conv", "r"),
        ["ReLU:r(conv)r"],
    ),
    "Silence stays for what would be an output": (
        layer("Slice", "s", "conv", "s1 s2")
        + layer("Silence", "quiet", "s2 label")
        + layer("SoftmaxWithLoss", "l", "s1 label"),
        ["Slice:s(conv)s1,s2", "Silence:quiet(s2)", "Softmax:l(s1)prob"],
    ),
    "Silence goes with its blob": (layer("Silence", "quiet", "label"), []),
    "what alone was silenced becomes the output": (
        layer("DetectionOutput", "show", "conv", "boxes") + layer("Silence", "quiet", "boxes"),
        ["DetectionOutput:show(conv)boxes"],
    ),
    "in-place layers before a loss stay": (
        layer("ReLU", "r", "conv", "conv") + layer("SoftmaxWithLoss", "l", "conv label"),
        ["ReLU:r(conv)conv", "Softmax:l(conv)prob"],
    ),
    "metrics of detectors go with their labels": (
        layer("DetectionOutput", "o", "conv", "boxes") + layer("DetectionEvaluate", "e", "boxes label", "e"),
        ["DetectionOutput:o(conv)boxes"],
    ),
}


@pytest.mark.parametrize("claim", ENDS)
def test_of_the_networks_end_predictions_stay(claim: str) -> None:
    source, left = ENDS[claim]
    assert kept(DATA + CONV + source, DIGIT) == ["Input:d()data", "Convolution:conv(data)conv", *left]


def test_a_network_of_losses_only_is_refused() -> None:
    with pytest.raises(ModelError, match="no layer is left"):
        deployed(DATA + layer("Accuracy", "a", "data label", "a"), DIGIT)


def test_a_blob_that_no_running_layer_makes_is_refused() -> None:
    source = DATA + layer("ReLU", "r", "data", "x", "include { phase: TRAIN }") + layer("Convolution", "c", "x", "c")
    with pytest.raises(ModelError, match="layer 'c' needs blob 'x'"):
        deployed(source, DIGIT)


def test_a_layer_that_lost_its_bottom_is_no_data_layer() -> None:
    assert kept(layer("Softmax", "s", "", "p") + layer("Accuracy", "a", "p", "a")) == ["Softmax:s()p"]


def test_googlenet_loses_its_auxiliary_heads() -> None:
    document = read(shared("zoo/prototxt/caffe--models_bvlc_googlenet_train_val.prototxt"))
    made = deploy(document, NetState(), {})
    assert "loss1" not in made.text
    assert "loss2" not in made.text
    assert outputs(made) == {"prob"}
    assert inputs_of(made) == {"data": (1, 3, 224, 224)}


def test_lenet_is_deployed_with_a_batch_that_is_asked_for() -> None:
    document = read(shared("zoo/caffemodel/lenet_nandahkrishna/lenet_train_test.prototxt"))
    made = deploy(document, NetState(), {"data": (64, 1, 28, 28)})
    assert inputs_of(made) == {"data": (64, 1, 28, 28)}
    assert outputs(made) == {"prob"}


def test_every_network_is_deployed_or_refused() -> None:
    files = [*shared("zoo/prototxt").iterdir(), *shared("zoo/caffemodel").glob("*/*.prototxt")]
    for path in sorted(files):
        made = _with_any_shapes(path)
        if made is None or made.text == read(path).text:
            continue
        assert_runs(made, path.name)
        assert deploy(made, state_of(made), {}).text == made.text, path.name


def _with_any_shapes(path: Path) -> Document | None:
    """Deploy, giving each shape that is asked for; None where the network is refused."""
    shapes: dict[str, Shape] = {}
    while True:
        try:
            document = read(path)
            return deploy(document, state_of(document), shapes)
        except PlanError as error:
            asked = dict.fromkeys(re.findall(r"--shape ([^=]+)=", str(error)), (1, 3, 8, 8))
            if asked.keys() <= shapes.keys():
                raise
            shapes.update(asked)
        except SurgeryError:
            return None


def assert_runs(document: Document, name: str) -> None:
    made = set(inputs(document))
    for found in layers(document):
        assert made.issuperset(found.bottoms), f"{name}: {found.name}"
        made.update(found.tops)


def outputs(document: Document) -> set[str]:
    found = layers(document)
    return {top for x in found for top in x.tops} - {bottom for x in found for bottom in x.bottoms}


def inputs_of(document: Document) -> dict[str, Shape]:
    return {
        x.tops[0]: tuple(x.message.message("input_param").message("shape").ints("dim"))
        for x in layers(document)
        if x.type == "Input"
    }
