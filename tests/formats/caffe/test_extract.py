"""Parts of networks: which layers and weights stay, byte for byte, and that real Caffe computes the same."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.errors import ModelError, PlanError, SurgeryError
from surgery.formats.caffe import binary
from surgery.formats.wiring import Wiring
from surgery.model import Extract, Model
from surgery.rewriting import rewrite
from tests.formats.caffe.test_caffe import full_rank
from tests.nets import conv_blobs, dense_blobs, layer_bytes, write_net
from tests.shared import shared

INPUT = 'input: "data"\ninput_shape { dim: 2 dim: 3 dim: 9 dim: 8 }\n'


def layer(kind: str, name: str, bottoms: str = "", tops: str = "", more: str = "") -> str:
    wires = [f'bottom: "{x}"' for x in bottoms.split()] + [f'top: "{x}"' for x in tops.split()]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(wires)} {more} }}\n'


CONV1 = "# the first\n" + layer(
    "Convolution", "conv1", "data", "a", "convolution_param { num_output: 4 kernel_size: 3 }"
)
RELU1 = layer("ReLU", "relu1", "a", "a", "# odd\n")
CONV2 = layer("Convolution", "conv2", "a", "b", "my_field: 3 convolution_param { num_output: 5 kernel_size: 1 }")
HEAD = layer("InnerProduct", "fc", "b", "c", "inner_product_param { num_output: 3 }") + layer("Softmax", "s", "c", "d")
SIDE = layer("Pooling", "pool", "a", "p", "pooling_param { kernel_size: 2 }")
NET = INPUT + CONV1 + RELU1 + CONV2 + HEAD + SIDE
BLOBS = {
    "conv1": conv_blobs(4, 3, 3, 3),
    "conv2": conv_blobs(5, 4, 1, 1),
    "fc": dense_blobs(3, 210),
    "other": [np.ones(2, np.float32)],
}


def load(folder: Path, text: str, blobs=None, **kwargs) -> Model:  # type: ignore[no-untyped-def]
    files = write_net(folder, text, BLOBS if blobs is None else blobs, **kwargs)
    return formats.load(files)


def bare(folder: Path, text: str, **kwargs) -> Model:  # type: ignore[no-untyped-def]
    (folder / "net.prototxt").write_text(text)
    return formats.load([folder / "net.prototxt"], **kwargs)


def save(model: Model, folder: Path) -> tuple[Path, ...]:
    folder.mkdir()
    return model.format.save(model, folder, "net")


def text_of(model: Model, *outputs: str, inputs: tuple[str, ...] = ()) -> str:
    return str(model.edit(Extract(outputs, inputs)).native.document.text)


def test_what_an_output_does_not_need_goes_and_nothing_else_changes(tmp_path: Path) -> None:
    paths = save(load(tmp_path, NET).edit(Extract(("b",))), tmp_path / "part")
    assert paths[0].read_text() == INPUT + CONV1 + RELU1 + CONV2
    expected = [layer_bytes(name, BLOBS[name]) for name in ("conv1", "conv2", "other")]
    assert paths[1].read_bytes() == b"".join(expected)


def test_an_extract_of_everything_changes_no_byte(tmp_path: Path) -> None:
    model = load(tmp_path, NET)
    paths = save(model.edit(Extract(("d", "p"))), tmp_path / "all")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in model.native.files]


def test_a_blob_means_its_last_value(tmp_path: Path) -> None:
    part = load(tmp_path, NET).edit(Extract(("a",)))
    assert [node.key for node in part.nodes] == ["conv1", "relu1"]
    assert "'a' is taken as 'relu1' (ReLU) leaves it" in part.format.notes(part)


def test_a_network_can_begin_in_its_middle(tmp_path: Path) -> None:
    model = load(tmp_path, NET)
    paths = save(model.edit(Extract(("d",), ("a",))), tmp_path / "part")
    shape = "input_param { shape { dim: 2 dim: 4 dim: 7 dim: 6 } }"
    expected = f'layer {{\n  name: "a"\n  type: "Input"\n  top: "a"\n  {shape}\n}}\n'
    # The comment stays where it stood: only layers were taken away.
    assert paths[0].read_text() == "# the first\n" + expected + CONV2 + HEAD
    assert [entry.name for entry in binary.read(paths[1]).layers] == ["conv2", "fc", "other"]


def test_a_v1_network_begins_at_input_fields(tmp_path: Path) -> None:
    v1 = 'input: "data" input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 8\n'
    conv = 'layers { name: "c" type: CONVOLUTION bottom: "data" top: "c"\n'
    conv += "convolution_param { num_output: 2 kernel_size: 3 } }\n"
    tail = 'layers { name: "r" type: RELU bottom: "c" top: "r" }\n'
    tail += 'layers { name: "f" type: FLATTEN bottom: "r" top: "f" }\n'
    model = bare(tmp_path, v1 + conv + tail)
    made = 'input: "c"\ninput_dim: 1\ninput_dim: 2\ninput_dim: 7\ninput_dim: 6\n'
    assert text_of(model, "f", inputs=("c",)) == made + tail
    assert text_of(model, "r") == v1 + conv + tail.splitlines(keepends=True)[0]


def test_input_fields_that_feed_nothing_go(tmp_path: Path) -> None:
    two = 'input: ["x", "y"]\ninput_dim: [1, 2, 3, 4, 5, 6, 7, 8]\n'
    model = bare(tmp_path, two + layer("ReLU", "r", "x", "rx") + layer("ReLU", "t", "y", "ry"))
    part = model.edit(Extract(("ry",)))
    assert dict(part.format.runnable(part).inputs) == {"y": (5, 6, 7, 8)}


def test_tops_of_an_input_layer_that_feed_nothing_go(tmp_path: Path) -> None:
    shapes = "input_param { shape { dim: 1 dim: 2 } shape { dim: 3 dim: 4 } }"
    model = bare(tmp_path, layer("Input", "in", "", "x y", shapes) + layer("ReLU", "r", "y", "ry"))
    part = model.edit(Extract(("ry",)))
    assert dict(part.format.runnable(part).inputs) == {"y": (3, 4)}


def test_layers_of_other_phases_go_and_that_is_said(tmp_path: Path) -> None:
    rule = "include { phase: TRAIN }"
    text = INPUT + layer("TanH", "t", "data", "data", rule) + layer("ReLU", "r", "data", "a", "include { phase: TEST }")
    part = bare(tmp_path, text).edit(Extract(("a",)))
    assert part.native.document.text == INPUT + layer("ReLU", "r", "data", "a", "include { phase: TEST }")
    assert "1 layers of other phases, levels or stages went" in part.format.notes(part)


def test_an_entry_of_weights_stays_for_another_layer_of_its_name(tmp_path: Path) -> None:
    rule = " include { phase: TRAIN }"
    model = load(tmp_path, NET + CONV2.replace(" my_field", rule + " my_field").replace('"b"', '"z"'))
    part = model.edit(Extract(("b",)))
    assert [entry.name for entry in part.native.weights.layers] == ["conv1", "conv2", "other"]


def test_silence_goes_on_hiding_what_is_left(tmp_path: Path) -> None:
    cut = layer("Slice", "slice", "data", "x y z", "slice_param { slice_point: [1, 2] }")
    text = INPUT + cut + layer("ReLU", "r", "z", "o") + layer("TanH", "t", "data", "u") + layer("Silence", "q", "y u")
    part = bare(tmp_path, text).edit(Extract(("o",)))
    assert [(node.key, node.inputs) for node in part.nodes] == [("slice", ("data",)), ("r", ("z",)), ("q", ("y",))]
    assert "'x' is an output too: 'slice' makes it beside what is needed" in part.format.notes(part)
    asked = bare(tmp_path, text).edit(Extract(("y",)))
    assert [node.key for node in asked.nodes] == ["slice"]


def test_an_output_on_the_way_is_named(tmp_path: Path) -> None:
    part = load(tmp_path, NET).edit(Extract(("a", "b")))
    assert "'a' is read by 'conv2': to be fetched by name, as no output of the network" in part.format.notes(part)


WRONG = [
    (("x",), (), "no blob is named 'x'; there are data, a, b, c, d, ..."),
    (("conv1",), (), "no blob is named 'conv1'; the layer of that name makes 'a'"),
    (("data",), (), "'data' is asked for as an output, but it is an input"),
    (("a",), ("a",), "'a' is asked for as an output, but it is an input"),
    (("d",), ("zz",), "no blob is named 'zz'"),
    (("p",), ("b",), "input 'b' does not lead to p"),
    (("d", "p"), ("b",), "d, p also need 'data', which these inputs do not replace"),
    ((), (), "no output is named"),
]


@pytest.mark.parametrize(("outputs", "inputs", "message"), WRONG)
def test_a_request_that_makes_no_network_is_refused(
    outputs: tuple[str, ...], inputs: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=re.escape(message)):
        load(tmp_path, NET).edit(Extract(outputs, inputs))


def test_an_input_whose_layer_is_needed_besides_is_refused(tmp_path: Path) -> None:
    text = (
        INPUT + layer("Slice", "s", "data", "x y", "slice_param { slice_point: 1 }") + layer("Eltwise", "e", "x x", "o")
    )
    text += layer("Concat", "k", "y o", "out")
    model = bare(tmp_path, text)
    with pytest.raises(PlanError, match=r"also need 'data'"):
        text_of(model, "out", inputs=("o",))
    with pytest.raises(PlanError, match="'x' cannot be an input: layer 's', which makes it, is needed besides"):
        text_of(model, "out", inputs=("x", "data"))


def test_an_input_without_a_shape_is_refused(tmp_path: Path) -> None:
    text = 'input: "data"\n' + CONV1 + RELU1
    with pytest.raises(PlanError, match=r"input 'a' has no known shape: .*give --shape data="):
        text_of(bare(tmp_path, text + CONV2), "b", inputs=("a",))
    given = bare(tmp_path, text + CONV2, input_shapes={"a": (1, 4, 5, 6)})
    assert "dim: 1 dim: 4 dim: 5 dim: 6" in text_of(given, "b", inputs=("a",))


def test_a_cut_model_must_be_saved_first(tmp_path: Path) -> None:
    from surgery.choose import choose
    from surgery.survey import survey

    model = load(tmp_path, NET)
    cut = rewrite(model, choose(survey(model), full_rank(model, "svd"), "")).model
    with pytest.raises(ModelError, match="was made by a cut; save the model and load that"):
        cut.edit(Extract(("b",)))


def shape_of(model: Model, name: str) -> object:
    end = Wiring(model.nodes).final[name]
    return model.format.facts(model)[model.nodes[end.node].key].shapes[end.slot]


def test_parts_of_public_networks_are_slices_of_their_files() -> None:
    rng = np.random.default_rng(0)
    count = 0
    for path in sorted(shared("zoo/prototxt").glob("*.prototxt"))[::9]:
        try:
            model = formats.load([path])
        except SurgeryError:
            continue  # Not for this test: the shapes of some contradict each other.
        wiring = Wiring(model.nodes)
        names = [name for name, value in wiring.final.items() if model.nodes[value.node].inputs]
        if not names:
            continue
        name = names[rng.integers(len(names))]
        part = model.edit(Extract((name,)))
        own = {model.native.document.slice(x.field).strip(" ,;\n") for x in model.native.layers}
        kept = [x for x in part.native.layers if x.type not in ("Input", "Silence")]
        assert {part.native.document.slice(x.field).strip(" ,;\n") for x in kept} <= own, path
        assert shape_of(part, name) == shape_of(model, name), path
        count += 1
    assert count > 50


def test_an_extract_of_all_outputs_of_public_networks_changes_no_byte() -> None:
    count = 0
    for path in sorted(shared("zoo/prototxt").glob("*.prototxt"))[::7]:
        try:
            model = formats.load([path])
        except SurgeryError:
            continue
        # A label that nothing reads is an output too, but not one that a layer computes.
        wiring = Wiring(model.nodes)
        outputs = [name for name in wiring.loose if model.nodes[wiring.final[name].node].inputs]
        is_whole = len(model.nodes) == len(model.native.layers) and 0 < len(outputs) == len(wiring.loose)
        unread = set(model.format.runnable(model).inputs) - {name for node in model.nodes for name in node.inputs}
        silences = any(node.type == "Silence" for node in model.nodes)  # What only leads there goes.
        if not is_whole or unread or silences or model.format.notes(model):  # V0 is upgraded on reading.
            continue
        assert model.edit(Extract(tuple(outputs))).native.document.encode() == path.read_bytes(), path
        count += 1
    assert count > 20
