"""Weights with some layers replaced: read like any other, and written as the file with just these layers changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from surgery.formats.caffe import weights
from surgery.formats.caffe.changed import Entry, changed, new_layer
from surgery.formats.caffe.weights import Weights
from tests.nets import conv_blobs, dense_blobs, layer_bytes, write_net

BLOBS = {"a": conv_blobs(2, 3, 1, 1), "b": dense_blobs(4, 5), "c": [np.ones(3, np.float32)]}


def stored(folder: Path) -> Weights:
    return weights.read(write_net(folder, "", BLOBS)[1])


def written(found: Weights, folder: Path, replacements=None) -> bytes:  # type: ignore[no-untyped-def]
    found.write(replacements or {}, folder / "out")
    return (folder / "out").read_bytes()


def convolution(found: Weights, index: int) -> Entry:
    weight, bias = found.arrays(index)
    return new_layer(found, index, "Convolution", (["x"], ["y"]), [weight.reshape(4, 5, 1, 1), bias])


def test_without_changes_the_weights_are_the_same_object(tmp_path: Path) -> None:
    found = stored(tmp_path)
    assert changed(found, {}) is found


def test_layers_go_and_are_replaced(tmp_path: Path) -> None:
    base = stored(tmp_path)
    found = changed(base, {0: None, 1: convolution(base, 1)})
    assert [(entry.name, entry.shapes) for entry in found.layers] == [("b", ((4, 5, 1, 1), (4,))), ("c", ((3,),))]
    np.testing.assert_array_equal(found.arrays(0)[0].reshape(4, 5), BLOBS["b"][0])
    np.testing.assert_array_equal(found.arrays(1)[0], BLOBS["c"][0])
    path = tmp_path / "result.caffemodel"
    path.write_bytes(written(found, tmp_path))
    again = weights.read(path)
    assert [(entry.name, entry.shapes) for entry in again.layers] == [(x.name, x.shapes) for x in found.layers]
    assert path.read_bytes().endswith(layer_bytes("c", BLOBS["c"]))


def test_changes_of_changes_add_up(tmp_path: Path) -> None:
    base = stored(tmp_path)
    first = changed(base, {1: convolution(base, 1)})
    second = changed(first, {0: None})
    assert [entry.name for entry in second.layers] == ["b", "c"]
    assert written(second, tmp_path) == written(changed(base, {0: None, 1: convolution(base, 1)}), tmp_path)
    assert written(changed(second, {0: None}), tmp_path) == layer_bytes("c", BLOBS["c"])


def test_a_changed_layer_can_be_reweighed_and_replaced_in_writing(tmp_path: Path) -> None:
    base = stored(tmp_path)
    found = changed(base, {0: None, 1: convolution(base, 1)})
    doubled = found.reweighed(0, [2 * array for array in found.arrays(0)])
    result = written(found, tmp_path, {0: [doubled], 1: []})
    path = tmp_path / "result.caffemodel"
    path.write_bytes(result)
    (only,) = weights.read(path).layers
    assert (only.name, only.shapes) == ("b", ((4, 5, 1, 1), (4,)))
    np.testing.assert_array_equal(weights.read(path).arrays(0)[1], 2 * BLOBS["b"][1])
