"""What a comparison tells: all of what differs and nothing else, whichever way round."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from surgery.diff.difference import Change, Difference, Entry
from surgery.diff.models import compare_models, compare_weights
from surgery.formats import load
from surgery.model import Model
from tests.diff.networks import NETWORKS, conv, data, dense, layer, network, relu
from tests.nets import conv_blobs, dense_blobs, write_net

RNG = np.random.default_rng(0)
SMALL = [data(1, 2, 8, 8), conv("c1", "data", 3, 3), relu("c1"), conv("c2", "c1", 4, 3), dense("fc", "c2", 5)]
BLOBS = {"c1": conv_blobs(3, 2, 3, 3), "c2": conv_blobs(4, 3, 3, 3), "fc": dense_blobs(5, 256)}
REVERSED = {"added": "removed", "removed": "added", "split": "merged", "merged": "split"}


def model(
    folder: Path, lines: Sequence[str], blobs: Mapping[str, Sequence[np.ndarray]] | None = None, name: str = "net"
) -> Model:
    """A network of these lines; without blobs it has no file of weights."""
    (folder / name).mkdir(parents=True)
    prototxt, weights = write_net(folder / name, "\n".join(lines), blobs or {})
    return load([prototxt, weights] if blobs else [prototxt])


def difference(a: Model, b: Model) -> Difference:
    return compare_models(a, b, (("a",), ("b",))).difference


def changed(tmp_path: Path, old: str, new: str, lines: Sequence[str] = SMALL) -> Difference:
    """What the replacement of a piece of the text comes to."""
    text = [line.replace(old, new) for line in lines]
    assert text != list(lines)
    blobs = {**BLOBS, "k1": BLOBS["c1"]}
    return difference(model(tmp_path, lines, blobs, "a"), model(tmp_path, text, blobs, "b"))


def only(found: Difference) -> Entry:
    assert not found.network
    (entry,) = found.differing
    return entry


# ---- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_name", ["caffe", "onnx"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_the_same_as_itself(name: str, format_name: str, tmp_path: Path) -> None:
    found = difference(network(name, tmp_path, format_name), network(name, tmp_path, format_name))
    assert found.is_same
    assert not found.notes
    assert [(entry.a, entry.a) for entry in found.entries] == [(entry.a, entry.b) for entry in found.entries]


@pytest.mark.parametrize("other", NETWORKS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_in_one_entry_and_the_reverse_says_the_reverse(name: str, other: str, tmp_path: Path) -> None:
    a, b = network(name, tmp_path), network(other, tmp_path)
    forth, back = difference(a, b), difference(b, a)
    for found in (forth, back):
        for side, keys in ((found.a, [e.a for e in found.entries]), (found.b, [e.b for e in found.entries])):
            assert sorted(key for each in keys for key in each) == sorted(layer.key for layer in side.layers)
    assert forth.is_same == back.is_same == (name == other)
    if name == other:
        assert [entry.kind for entry in back.entries] == [REVERSED.get(e.kind, e.kind) for e in forth.entries]


@pytest.mark.parametrize(
    ("old", "new"), [("pad: 1", "pad: 1 engine: CAFFE"), ('type: "ReLU"', 'type: "TanH"'), ('"c1"', '"k1"')]
)
def test_the_reverse_of_a_change_leads_back(old: str, new: str, tmp_path: Path) -> None:
    forth, back = changed(tmp_path, old, new), changed(tmp_path / "x", new, old, [x.replace(old, new) for x in SMALL])
    assert [(e.kind, e.a, e.b) for e in forth.entries] == [(e.kind, e.b, e.a) for e in back.entries]
    for entry, reverse in zip(forth.entries, back.entries, strict=True):
        assert entry.changes == tuple(Change(c.field, c.after, c.before) for c in reverse.changes)


# ---- what is told -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ("stride: 1 pad: 1", "stride: 1 pad: 0", Change("convolution_param.pad", "1x1", None)),
        ("pad: 1", "pad_h: 1 pad_w: 2", Change("convolution_param.pad", "1x1", "1x2")),
        ("num_output: 3", "num_output: 3 engine: CAFFE", Change("convolution_param.engine", None, "CAFFE")),
        ("num_output: 3", "num_output: 3 novel: { a: 1 }", Change("convolution_param.novel", None, "{ a: 1 }")),
    ],
)
def test_a_field_is_told_from_what_to_what(old: str, new: str, change: Change, tmp_path: Path) -> None:
    lines = [conv("c1", "data", 3, 3), *SMALL[2:]]
    found = changed(tmp_path, old, new, [SMALL[0], *(line for line in lines if "c2" not in line and "fc" not in line)])
    assert only(found).changes == (change,)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kernel_size: 3", "kernel_h: 3 kernel_w: 3"),
        ("stride: 1 ", ""),
        ("stride: 1", "stride: 1 dilation: 1 group: 1 bias_term: true # as it is\n"),
        ("num_output: 3", "num_output: 0x3"),
        ("top:", "  top:"),
    ],
)
def test_what_caffe_reads_alike_is_the_same(old: str, new: str, tmp_path: Path) -> None:
    found = changed(tmp_path, old, new)
    assert found.is_same
    assert not found.is_identical


def test_a_small_change_of_one_weight_is_told_with_its_error(tmp_path: Path) -> None:
    weight, bias = BLOBS["c2"]
    new = {**BLOBS, "c2": [weight * np.float32(1.25), bias]}
    entry = only(difference(model(tmp_path, SMALL, BLOBS, "a"), model(tmp_path, SMALL, new, "b")))
    (blob,) = entry.weights
    # The factor is exact in float32, each product rounded by at most 2**-24 of itself.
    assert (entry.a, blob.blob, blob.relative_error) == (("c2",), "weight", pytest.approx(0.25, abs=2**-23))


def test_a_layer_put_between_two_is_added_and_nothing_else(tmp_path: Path) -> None:
    longer = [*SMALL[:3], layer("TanH", "new", "c1"), SMALL[3].replace('bottom: "c1"', 'bottom: "new"'), SMALL[4]]
    there = difference(model(tmp_path, SMALL, BLOBS, "a"), model(tmp_path, longer, BLOBS, "b"))
    assert (only(there).kind, only(there).b) == ("added", ("new",))
    assert [entry.b for entry in there.entries].index(("new",)) == 2


def test_another_connection_is_told(tmp_path: Path) -> None:
    lines = [data(1, 2, 8, 8), conv("c1", "data", 2, 3), conv("c2", "data", 2, 3), layer("TanH", "t", "c1")]
    blobs = {"c1": conv_blobs(2, 2, 3, 3), "c2": conv_blobs(2, 2, 3, 3, seed=1)}
    other = [*lines[:3], layer("TanH", "t", "c2")]
    found = difference(model(tmp_path, lines, blobs, "a"), model(tmp_path, other, blobs, "b"))
    (entry,) = found.differing
    assert (entry.a, entry.changes) == (("t",), (Change("bottom", "c1", "c2"),))
    assert found.network == (Change("outputs", "c2, t", "c1, t"),)


def test_a_new_name_is_told_once_and_a_place_in_the_order_too(tmp_path: Path) -> None:
    renamed = [line.replace('name: "c2"', 'name: "new"') for line in SMALL]
    blobs = {**BLOBS, "new": BLOBS["c2"]}
    entry = only(difference(model(tmp_path, SMALL, BLOBS, "a"), model(tmp_path, renamed, blobs, "b")))
    assert (entry.kind, entry.a, entry.b, entry.changes) == ("renamed", ("c2",), ("new",), ())
    branches = [data(1, 2, 8, 8), *(conv(name, "data", 3, 3) for name in "xyz")]
    moved = [branches[0], branches[3], branches[1], branches[2]]
    entry = only(difference(model(tmp_path, branches, None, "c"), model(tmp_path, moved, None, "d")))
    assert (entry.kind, entry.a) == ("reordered", ("z",))


def test_what_only_training_reads_leaves_the_network_the_same(tmp_path: Path) -> None:
    found = changed(tmp_path, "num_output: 3", 'num_output: 3 weight_filler { type: "xavier" }')
    assert found.is_same
    told = {entry.a: entry.training for entry in found.entries if entry.training}
    assert told == {("c1",): (Change("convolution_param.weight_filler.type", None, "xavier"),)}


def test_layers_of_another_phase_and_fields_of_the_net_are_noted(tmp_path: Path) -> None:
    rule = "include { phase: TRAIN }"
    other = ['name: "other"', *SMALL, layer("Dropout", "drop", "fc", rule)]
    found = difference(model(tmp_path, SMALL, BLOBS, "a"), model(tmp_path, other, BLOBS, "b"))
    assert found.is_same
    assert found.notes == ("name: not there -> other", "layers that do not run in phase TEST differ: drop")


def test_inputs_and_outputs_that_differ_are_the_networks(tmp_path: Path) -> None:
    wider = [data(2, 2, 8, 8), *SMALL[1:]]
    found = difference(model(tmp_path, SMALL, BLOBS, "a"), model(tmp_path, wider, BLOBS, "b"))
    assert not found.differing
    assert found.network == (Change("shape of input data", "1x2x8x8", "2x2x8x8"),)


def test_the_inputs_of_old_networks_are_the_same_as_input_layers(tmp_path: Path) -> None:
    old = ['input: "data" input_shape { dim: 1 dim: 2 dim: 8 dim: 8 }', *SMALL[1:]]
    assert difference(model(tmp_path, SMALL, BLOBS, "a"), model(tmp_path, old, BLOBS, "b")).is_same


def test_without_weights_shapes_are_compared_and_that_is_said(tmp_path: Path) -> None:
    bare = model(tmp_path, SMALL, None, "a")
    assert difference(bare, model(tmp_path, SMALL, BLOBS, "b")).is_same
    found = difference(bare, model(tmp_path, [x.replace("num_output: 5", "num_output: 6") for x in SMALL], None, "c"))
    assert [blob.after for blob in only(found).weights] == [(6, 256), (6,)]
    assert found.notes == ("a and b without weights: only the shapes of weights are compared",)


# ---- weights alone ----------------------------------------------------------------------------------------------


def test_lone_weights_are_compared_by_name_and_content(tmp_path: Path) -> None:
    fewer = {"c1": BLOBS["c1"], "c2": [BLOBS["c2"][0] + np.float32(1), BLOBS["c2"][1]]}
    models = model(tmp_path, SMALL, BLOBS, "a"), model(tmp_path, SMALL[:4], fewer, "b")
    found = compare_weights(*(each.native.files[1] for each in models)).difference
    assert [(entry.kind, entry.a) for entry in found.differing] == [("changed", ("c2",)), ("removed", ("fc",))]


# ---- cost -------------------------------------------------------------------------------------------------------


def test_weights_are_never_in_memory_whole(tmp_path: Path) -> None:
    size = 4096
    lines = [data(1, size), dense("fc", "data", size)]
    weight = RNG.standard_normal((size, size), dtype=np.float32)
    first = model(tmp_path, lines, {"fc": [weight, np.zeros(size, np.float32)]}, "a")
    weight[-1, -1] += 1
    second = model(tmp_path, lines, {"fc": [weight, np.zeros(size, np.float32)]}, "b")
    del weight
    tracemalloc.start()
    try:
        assert only(difference(first, second)).a == ("fc",)
        # Of 67 MB on each side a block of 2**20 numbers, as float64 and its differences, is 8 MB each.
        assert tracemalloc.get_traced_memory()[1] < 33_000_000
    finally:
        tracemalloc.stop()


def deep(count: int, prefix: str) -> list[str]:
    lines = [data(1, 4, 8, 8)]
    for i in range(count // 4):
        bottom, name = (f"{prefix}{i - 1}" if i else "data"), f"{prefix}{i}"
        lines.append(conv(name, bottom, 4, 3, extra="bias_term: false"))
        lines.append(layer("BatchNorm", f"{name}_bn", name, top=name))
        lines.append(layer("Scale", f"{name}_scale", name, "scale_param { bias_term: true }", top=name))
        lines.append(relu(name))
    return lines


@pytest.mark.parametrize("prefix", ["l", "x"])
def test_a_thousand_layers_take_less_than_two_seconds(prefix: str, tmp_path: Path) -> None:
    first, second = model(tmp_path, deep(1000, "l"), None, "a"), model(tmp_path, deep(1000, prefix), None, "b")
    start = time.process_time()  # Not of the machine's other work.
    found = difference(first, second)
    assert time.process_time() - start < 2
    assert {entry.kind for entry in found.entries} == {"same" if prefix == "l" else "renamed"}
