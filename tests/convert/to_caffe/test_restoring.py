"""Layers that become operators in which nothing could recognise them come back as they were, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from surgery import formats
from surgery.choose import Amount, Request, choose
from surgery.convert import records
from surgery.convert.records import KEY
from surgery.convert.to_caffe import ToCaffe, to_caffe
from surgery.errors import ConversionError
from surgery.formats.caffe import text
from surgery.formats.caffe.network import layers
from surgery.rewriting import rewrite
from surgery.survey import survey
from tests.convert.to_onnx.nets import Net, converted, layer, single

SCORES, LABELS, IMAGE = (4, 5), (4,), (1, 8, 6, 8)
PRIORS = 6
DETECTION = (
    "detection_output_param { num_classes: 3 share_location: true background_label_id: 0 "
    "nms_param { nms_threshold: 0.45 top_k: 4 } code_type: CENTER_SIZE keep_top_k: 3 confidence_threshold: 0.01 }"
)

# One layer, that was called so; what stands behind the type is what a person would write.
NETS: dict[str, Net] = {
    "Accuracy": single("Accuracy", "accuracy_param { top_k: 2 } include { phase: TEST }", SCORES, LABELS),
    "Accuracy by class": single("Accuracy", "accuracy_param { ignore_label: 1 }", SCORES, LABELS, tops=2),
    "BatchReindex": single("BatchReindex", "", (4, 3), (6,)),
    "ContrastiveLoss": single("ContrastiveLoss", "contrastive_loss_param { margin: 2 }", (4, 3), (4, 3), (4,)),
    "DetectionOutput": single("DetectionOutput", DETECTION, (1, 4 * PRIORS), (1, 3 * PRIORS), (1, 2, 4 * PRIORS)),
    "Filter": single("Filter", "", (4, 3), (4, 2, 5), (4,), tops=2),
    "HingeLoss": single("HingeLoss", "hinge_loss_param { norm: L2 }", SCORES, LABELS),
    "InfogainLoss": single("InfogainLoss", "loss_weight: 2", SCORES, LABELS, (1, 1, 5, 5)),
    "MultinomialLogisticLoss": single("MultinomialLogisticLoss", "", SCORES, LABELS),
    "PSROIPooling": single(
        "PSROIPooling", "psroi_pooling_param { output_dim: 2 group_size: 2 spatial_scale: 0.5 }", IMAGE, (3, 5)
    ),
    "Pooling": single("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }", IMAGE, tops=2),
    "ROIPooling": single("ROIPooling", "roi_pooling_param { pooled_h: 2 pooled_w: 3 }", IMAGE, (3, 5)),
    "SigmoidCrossEntropyLoss": single("SigmoidCrossEntropyLoss", "loss_param { ignore_label: -1 }", SCORES, SCORES),
    "SoftmaxWithLoss": single("SoftmaxWithLoss", "loss_param { normalization: FULL }", SCORES, LABELS, tops=2),
    "Upsample": Net(
        layer("Pooling", "x0", "y0 y1", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }", name="pool")
        + layer("Upsample", "y0 y1", "y2", "upsample_param { scale: 2 }"),
        [IMAGE],
    ),
}
CONV = 'layer {{ name: "conv" type: "Convolution" bottom: "x0" top: "c" convolution_param {{ {} }} }}\n'.format(
    "num_output: 5 kernel_h: 6 kernel_w: 8"
)
BEHIND_CONV = Net(CONV + layer("SoftmaxWithLoss", "c x1", "loss", name="loss"), [(4, 8, 6, 8), (4, 1, 1)])


def back(path: Path, **shapes: tuple[int, ...]) -> ToCaffe:
    return to_caffe(formats.Source((path,), shapes=tuple(shapes.items())).load())


def there(net: Net, folder: Path, *, dynamic: bool = False) -> Path:
    return converted(net, folder, dynamic=dynamic).path


def stated(prototxt: str) -> list[tuple[object, ...]]:
    """What a network's layers say."""
    return [
        (found.name, found.type, found.bottoms, found.tops, records.parameters(found))
        for found in layers(text.parse(prototxt))
    ]


@pytest.mark.parametrize("kind", NETS)
def test_a_layer_comes_back_word_for_word(kind: str, tmp_path: Path) -> None:
    net = NETS[kind]
    assert stated(back(there(net, tmp_path)).prototxt()) == stated(net.prototxt)


def test_what_only_its_own_caffe_has_is_said(tmp_path: Path) -> None:
    (note,) = back(there(NETS["DetectionOutput"], tmp_path)).notes
    assert "layer 'layer' (DetectionOutput)" in note
    assert "stock Caffe 1.0 has no such layer, caffe-ssd and opencv have it" in note
    assert back(there(NETS["Accuracy"], tmp_path / "stock")).notes == ()


def test_a_constant_bottom_becomes_a_blob(tmp_path: Path) -> None:
    prior = layer("PriorBox", "x2 x3", "priors", "prior_box_param { min_size: 2 variance: 0.1 }", name="priors")
    shapes = [(1, 24), (1, 18), (1, 2, 2, 3), (1, 3, 12, 18)]
    found = back(there(Net(prior + layer("DetectionOutput", "x0 x1 priors", "y0", DETECTION), shapes), tmp_path))
    made = {top: made for made in found.layers for top in made.tops}
    (detection,) = (made for made in found.layers if made.type == "DetectionOutput")
    assert made[detection.bottoms[2]].type == "Parameter"
    assert made[detection.bottoms[2]].blobs[0].shape == (1, 2, 24)


def test_with_a_dynamic_batch_a_layer_comes_back_for_any(tmp_path: Path) -> None:
    path = there(NETS["HingeLoss"], tmp_path, dynamic=True)
    assert back(path, x0=(7, 5), x1=(7,)).layers[-1].type == "HingeLoss"


def test_a_cut_elsewhere_leaves_the_record_valid(tmp_path: Path) -> None:
    model = formats.load([there(BEHIND_CONV, tmp_path)])
    plan = choose(survey(model), Request(methods=("svd-channel",), amount=Amount(rank=(2,)), force=True), "")
    cut = rewrite(model, plan).model
    (path,) = cut.format.save(cut, tmp_path, "cut")
    assert [made.type for made in back(path).layers] == [
        "Input",
        "Input",
        "Convolution",
        "Convolution",
        "SoftmaxWithLoss",
    ]


# ---- what is not as it was written is judged operator by operator --------------------------------------------------


def node_attribute(model: onnx.ModelProto) -> None:
    (softmax,) = (node for node in model.graph.node if node.op_type == "Softmax")
    softmax.attribute[0].i = 2


def constant(model: onnx.ModelProto) -> None:
    (floor,) = (t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and not t.dims)
    floor.CopyFrom(numpy_helper.from_array(np.asarray(0.5, np.float32), floor.name))


def inner_output(model: onnx.ModelProto) -> None:
    (softmax,) = (node for node in model.graph.node if node.op_type == "Softmax")
    model.graph.output.append(onnx.helper.make_tensor_value_info(softmax.output[0], 1, None))


def inner_reader(model: onnx.ModelProto) -> None:
    (softmax,) = (node for node in model.graph.node if node.op_type == "Softmax")
    model.graph.node.append(onnx.helper.make_node("Relu", [softmax.output[0]], ["r"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("r", 1, None))


def another_bottom(model: onnx.ModelProto) -> None:
    index = next(i for i, node in enumerate(model.graph.node) if "x1" in node.input)
    model.graph.node.insert(index, onnx.helper.make_node("Relu", ["x1"], ["r"]))
    model.graph.node[index + 1].input[0] = "r"


def another_record(**changes: object) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (entry,) = model.metadata_props
        (record,) = json.loads(entry.value)
        entry.value = json.dumps([{**record, **changes}])

    return change


def another_text(old: str, new: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (entry,) = model.metadata_props
        assert old in entry.value
        entry.value = entry.value.replace(old, new)

    return change


def metadata(value: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.metadata_props[0].value = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        node_attribute,
        constant,
        inner_output,
        inner_reader,
        another_bottom,
        another_record(sha256="0" * 64),
        another_record(nodes=3),
        another_record(nodes=-1),
        another_record(nodes=10**30),
        another_record(shapes=[[4, 6], [4]]),
        another_record(shapes=[[4, 5]]),
        another_record(layer="layer {"),
        another_record(layer="# nothing"),
        another_text("SoftmaxWithLoss", "Python"),
        another_text('top: \\"y0\\"', 'top: \\"y9\\"'),
        another_text("normalization: FULL", "normalization: ["),
        metadata("{}"),
        metadata("[7]"),
        metadata('[{"layer": "", "shapes": 1, "nodes": 1, "sha256": ""}]'),
        metadata('[{"layer": "", "shapes": [], "nodes": 1e999, "sha256": ""}]'),
        metadata("[" * 100_000),
        metadata("not JSON"),
    ],
)
def test_what_was_changed_is_not_put_back(change: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    path = there(single("SoftmaxWithLoss", "loss_param { normalization: FULL }", SCORES, LABELS), tmp_path)
    assert back(path).layers[-1].type == "SoftmaxWithLoss"
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    with pytest.raises(ConversionError, match="GatherElements"):
        back(path)


def test_two_records_of_one_group_count_once(tmp_path: Path) -> None:
    path = there(NETS["HingeLoss"], tmp_path)
    model = onnx.load(path)
    (entry,) = model.metadata_props
    entry.value = json.dumps(2 * json.loads(entry.value))
    onnx.save(model, path)
    assert [made.type for made in back(path).layers] == ["Input", "Input", "HingeLoss"]


def test_what_reads_a_size_that_only_the_data_tell_stops_it(tmp_path: Path) -> None:
    net = Net(layer("Filter", "x0 x1", "f", name="filter") + layer("ReLU", "f", "y"), [(4, 3), (4,)])
    with pytest.raises(ConversionError, match="Compress"):
        back(there(net, tmp_path))


def test_other_layers_have_no_record(tmp_path: Path) -> None:
    path = there(single("Pooling", "pooling_param { kernel_size: 2 stride: 2 }", IMAGE), tmp_path)
    assert [entry.key for entry in onnx.load(path).metadata_props if entry.key == KEY] == []
