"""A network is the same in either format, and what differs is told across formats too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery.convert.to_caffe import to_caffe
from surgery.convert.to_onnx import to_onnx
from surgery.diff.difference import Difference
from surgery.diff.models import compare_models
from surgery.errors import ConversionError
from surgery.formats import load
from surgery.model import Model, Reweigh, Splice
from tests.diff.networks import NETWORKS, conv, data, layer, network, written
from tests.diff.test_splits import METHODS, chain_of, rank_for, sites
from tests.nets import conv_blobs, write_net
from tests.onnx_nets import filled, node, tiny
from tests.shared import shared


def difference(a: Model, b: Model) -> Difference:
    return compare_models(a, b, (("a",), ("b",))).difference


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_and_its_conversion_are_the_same_both_ways(name: str, tmp_path: Path) -> None:
    caffe, onnx = network(name, tmp_path), network(name, tmp_path, "onnx")
    for found in (difference(caffe, onnx), difference(onnx, caffe)):
        assert found.is_same
        assert {found.a.format, found.b.format} == {"caffe", "onnx"}


@pytest.mark.parametrize(("opset", "batch"), [(13, "dynamic"), (22, "fixed")])
def test_so_they_are_however_it_was_converted(opset: int, batch: str, tmp_path: Path) -> None:
    caffe, path = network("squeezenet", tmp_path), tmp_path / "other.onnx"
    to_onnx(caffe, opset=opset, batch=batch).save(path)  # type: ignore[arg-type]
    assert difference(caffe, load([path])).is_same


@pytest.mark.parametrize("name", ["inception_v1", "squeezenet"])
def test_a_foreign_onnx_network_and_its_conversion_are_the_same(name: str, tmp_path: Path) -> None:
    onnx = load([filled(name, tmp_path)])
    caffe = load(to_caffe(onnx).save(tmp_path, "back"))
    assert difference(onnx, caffe).is_same
    assert difference(caffe, onnx).is_same


def test_every_kind_of_layer_is_the_same_in_both_formats(tmp_path: Path) -> None:
    folders = sorted(path.parent for path in shared("golden").glob("*/net.prototxt"))
    assert len(folders) > 300
    for folder in folders:
        files = [path for name in ("net.prototxt", "net.caffemodel") if (path := folder / name).exists()]
        caffe = load(files, stages=("deploy",) if folder.name == "net_stage" else ())
        path = tmp_path / f"{folder.name}.onnx"
        to_onnx(caffe).save(path)
        found = difference(caffe, load([path]))
        assert found.is_same, (folder.name, found.differing, found.network)


@pytest.mark.parametrize("method", ["svd", "tucker2"])
def test_cuts_are_told_across_formats(method: str, tmp_path: Path) -> None:
    caffe, onnx = network("vgg", tmp_path), network("vgg", tmp_path, "onnx")
    cut_sites = sites(onnx, METHODS[method])
    edits = [Splice(s.key, chain_of(METHODS[method], s.op, rank_for(METHODS[method], s.op))) for s in cut_sites]
    found = difference(caffe, written(onnx.edit(*edits), tmp_path / "cut"))
    assert [(entry.kind, entry.a) for entry in found.differing] == [("split", (site.key,)) for site in cut_sites]
    back = difference(written(onnx.edit(*edits), tmp_path / "cut"), caffe)
    assert {entry.kind for entry in back.differing} == {"merged"}


def test_one_weight_is_told_across_formats(tmp_path: Path) -> None:
    caffe, onnx = network("lenet", tmp_path), network("lenet", tmp_path, "onnx")
    op = onnx.format.lift(onnx, onnx.node("ip2"))
    spoilt = op.weight.copy()  # type: ignore[union-attr]
    spoilt[3, 4] += np.float32(1)
    changed = onnx.edit(Reweigh("ip2", type(op)(spoilt, op.bias)))  # type: ignore[union-attr, call-arg, arg-type]
    (entry,) = difference(caffe, written(changed, tmp_path / "changed")).differing
    assert (entry.kind, entry.a, [blob.blob for blob in entry.weights]) == ("changed", ("ip2",), ["weight"])


def test_what_neither_format_can_express_of_the_other_is_refused_with_its_layers(tmp_path: Path) -> None:
    custom = write_net(tmp_path, "\n".join([data(1, 2, 4, 4), layer("Custom", "mine", "data")]), {})[0]
    foreign = tiny(tmp_path, [node("Gelu", "x", "y", "g")], inputs={"x": (1, 2, 4, 4)}, outputs=["y"], opset=20)
    with pytest.raises(ConversionError, match="'mine'"):
        difference(load([custom]), load([foreign]))


def test_another_version_of_the_operators_is_told(tmp_path: Path) -> None:
    nodes = [node("Softmax", "x", "y", "s")]
    models = [
        load([tiny(tmp_path, nodes, inputs={"x": (1, 2, 4, 4)}, outputs=["y"], opset=opset, name=f"v{opset}")])
        for opset in (11, 13)
    ]
    found = difference(*models)
    assert not found.is_same
    assert [(change.field, change.before, change.after) for change in found.network] == [("opset", "11", "13")]


def test_small_constants_of_onnx_are_fields_and_defaults_say_nothing(tmp_path: Path) -> None:
    def clipped(low: float, name: str, **attributes: int) -> Model:
        nodes = [
            node("Clip", "x low -", "c", "clip"),
            node("MaxPool", "c", "y", "pool", kernel_shape=[2, 2], **attributes),
        ]
        weights = {"low": np.float32(low)}
        return load([tiny(tmp_path, nodes, inputs={"x": (1, 2, 4, 4)}, outputs=["y"], weights=weights, name=name)])

    assert difference(clipped(0, "a"), clipped(0, "b", ceil_mode=0)).is_same
    (entry,) = difference(clipped(0, "c"), clipped(-1, "d")).differing
    assert [(change.field, change.before, change.after) for change in entry.changes] == [("input 1", "0.0", "-1.0")]


def test_outputs_that_changed_places_are_told_across_formats(tmp_path: Path) -> None:
    def net(first: str, second: str, name: str) -> Model:
        lines = [data(1, 2, 8, 8), conv("c1", "data", 3, 3), conv("c2", "data", 3, 3)]
        text = "\n".join(lines).replace('top: "c1"', f'top: "{first}"').replace('top: "c2"', f'top: "{second}"')
        blobs = {"c1": conv_blobs(3, 2, 3, 3), "c2": conv_blobs(3, 2, 3, 3, seed=1)}
        (tmp_path / name).mkdir()
        return load(write_net(tmp_path / name, text, blobs))

    path = tmp_path / "swapped.onnx"
    to_onnx(net("y", "x", "b")).save(path)
    found = difference(net("x", "y", "a"), load([path]))
    assert [(entry.kind, entry.a) for entry in found.differing] == [("renamed", ("c1",)), ("renamed", ("c2",))]


def test_an_output_that_is_a_constant_counts(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "y", "r"), node("Identity", "w", "z", "i")]

    def net(value: float, name: str) -> Model:
        weights = {"w": np.full(9, value, np.float32)}
        return load([tiny(tmp_path, nodes, inputs={"x": (1, 2)}, outputs=["y", "z"], weights=weights, name=name)])

    assert difference(net(1, "a"), net(1, "b")).is_same
    assert [change.field for change in difference(net(1, "c"), net(2, "d")).network] == ["output z"]
