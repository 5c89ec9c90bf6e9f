"""Every cut of every method is told as a split with its shape and ranks, and nothing else is told."""

from __future__ import annotations

import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from surgery.diff.difference import Difference
from surgery.diff.models import compare_models
from surgery.factor import METHODS, Method, Rank
from surgery.formats import load
from surgery.model import Model, Share, Splice
from surgery.ops import Chain, Conv2d, Linear, Op, Scale
from surgery.ops.stack import stack, unstack
from surgery.survey import Site, survey
from tests.diff.networks import NETWORKS, network, written
from tests.nets import write_net

FORMATS = ("caffe", "onnx")


def difference(a: Model, b: Model) -> Difference:
    return compare_models(a, b, (("a",), ("b",))).difference


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


def chain_of(method: Method, op: Op, rank: Rank) -> Chain:
    """A chain of the method's shape with random weights: what it approximates does not matter here."""
    rng = np.random.default_rng(zlib.crc32(repr((op.weight.shape, rank)).encode()))
    stages = []
    for stage in method.template(op, rank).ops:
        if isinstance(stage, Scale):
            stages.append(Scale.of(rng.random(stage.channels) + 1))
        else:
            draw = rng.standard_normal(stage.weight.shape).astype(np.float32)
            ternary = method.name == "sdd"
            stages.append(replace(stage, weight=np.sign(draw) if ternary else draw))
    last = stages[-1]
    assert not isinstance(last, Scale)
    return Chain((*stages[:-1], replace(last, bias=op.bias)))


def expected(method: Method, op: Op, rank: Rank) -> tuple[str, Rank]:
    """What a chain of a method looks like: chains of several look alike, and a 1x1 kernel has no room for a core."""
    is_point = not isinstance(op, Conv2d) or op.kernel == (1, 1)
    if method.name in ("semi-nmf", "sdd", "response"):
        return ("svd-channel" if isinstance(op, Conv2d) else "svd"), rank
    if method.name in ("tucker2", "nmtf"):
        return ("three factors" if is_point else "tucker2"), rank
    if method.name == "response-3d" and is_point:
        return "three factors", rank[::-1]
    return method.name, rank


def rank_for(method: Method, op: Op) -> Rank:
    """A rank with different numbers where there are two, in the middle of what there is."""
    middle = [max(2, limit // 2) for limit in method.max_rank(op)]
    rank = tuple(min(limit, size + i) for i, (limit, size) in enumerate(zip(method.max_rank(op), middle, strict=True)))
    return tuple(min(size, 9 + i) for i, size in enumerate(rank))


def sites(model: Model, method: Method) -> list[Site]:
    return list(survey(model, [method]).sites)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("format_name", FORMATS)
def test_a_cut_network_differs_by_its_splits_alone(
    method: str, name: str, format_name: str, folder: Path, tmp_path: Path
) -> None:
    model, configured = network(name, folder, format_name), METHODS[method]
    cut_sites = sites(model, configured)
    ranks = {site.key: rank_for(configured, site.op) for site in cut_sites}
    cut = written(model.edit(*(Splice(s.key, chain_of(configured, s.op, ranks[s.key])) for s in cut_sites)), tmp_path)
    found = difference(model, cut)
    assert [(entry.kind, entry.a) for entry in found.differing] == [("split", (site.key,)) for site in cut_sites]
    assert not found.network
    assert not found.notes
    for entry, site in zip(found.differing, cut_sites, strict=True):
        (part,) = entry.parts
        assert (part.factored.shape, part.factored.ranks) == expected(configured, site.op, ranks[site.key]), site.key
        assert part.chain == entry.b
        assert not entry.changes
        assert not entry.weights
        linear = [key for key in entry.b if "Scale" not in key]
        assert set(part.factored.ternary) <= set(linear)
        assert bool(part.factored.ternary) == (method == "sdd")


@pytest.mark.parametrize("format_name", FORMATS)
def test_the_reverse_tells_the_same_chains_as_merged(format_name: str, folder: Path, tmp_path: Path) -> None:
    model, method = network("vgg", folder, format_name), METHODS["svd-spatial"]
    cut = written(model.edit(*(Splice(s.key, chain_of(method, s.op, (4,))) for s in sites(model, method))), tmp_path)
    forth, back = difference(model, cut), difference(cut, model)
    assert [entry.kind for entry in back.differing] == ["merged"] * len(forth.differing)
    assert [entry.parts for entry in back.differing] == [entry.parts for entry in forth.differing]


@pytest.mark.parametrize("format_name", FORMATS)
def test_heads_that_share_a_stem_are_one_split(format_name: str, folder: Path, tmp_path: Path) -> None:
    model, method = network("resnet", folder, format_name), METHODS["svd-channel"]
    pair = [site for site in survey(model, [method]).sites if site.key in ("res3a_branch1", "res3a_a")]
    keys, ops = tuple(site.key for site in pair), [site.op for site in pair]
    stem, heads = unstack(chain_of(method, stack(ops), (7,)), ops)
    cut = written(model.edit(Share(keys, stem, heads)), tmp_path)
    (entry,) = difference(model, cut).differing
    assert (entry.kind, entry.a) == ("split", keys)
    for part, key in zip(entry.parts, keys, strict=True):
        assert part.whole == key
        assert (part.factored.shape, part.factored.ranks) == ("svd-channel", (7,))
        assert part.factored.shared == part.chain[:-1]
    assert set(entry.b) == {name for part in entry.parts for name in part.chain}


def test_the_error_is_that_of_the_weights_multiplied_out(folder: Path, tmp_path: Path) -> None:
    model, method = network("lenet", folder), METHODS["svd-spatial"]
    (site,) = [site for site in survey(model, [method]).sites if site.key == "conv2"]
    fit = method.factor(site.op, (11,))
    (entry,) = difference(model, written(model.edit(Splice("conv2", fit.chain)), tmp_path)).differing
    # The factors are float32: their product is some 1e-7 of the weight off, and errors add like squares.
    assert entry.parts[0].factored.relative_error == pytest.approx(fit.relative_error, rel=1e-5)


def test_a_bias_that_was_changed_with_the_cut_is_told(folder: Path, tmp_path: Path) -> None:
    model = network("lenet", folder)
    op = model.format.lift(model, model.node("ip1"))
    assert isinstance(op, Linear)
    assert op.bias is not None
    *inner, last = chain_of(METHODS["svd"], op, (9,)).ops
    assert isinstance(last, Linear)
    chain = Chain((*inner, replace(last, bias=op.bias * np.float32(2))))
    (entry,) = difference(model, written(model.edit(Splice("ip1", chain)), tmp_path)).differing
    (bias,) = entry.weights
    assert (bias.blob, bias.relative_error) == ("bias", pytest.approx(1.0))


def renamed(model: Model, folder: Path) -> Model:
    """The Caffe network with every layer and blob, but for inputs, called by a number."""
    names: dict[str, str] = {}
    prototxt = model.native.files[0].read_text()
    for node in model.nodes:
        for name in (node.key, *node.outputs):
            if node.type != "Input":
                names.setdefault(name, f"n{len(names)}")
    text = re.sub(r'"([^"]+)"', lambda match: f'"{names.get(match[1], match[1])}"', prototxt)
    folder.mkdir()
    blobs = {
        names[entry.name]: model.native.weights.arrays(i)
        for i, entry in enumerate(model.native.weights.layers)
        if entry.name in names
    }
    return load(write_net(folder, text, blobs))


@pytest.mark.parametrize("method", ["svd", "svd-channel", "svd-spatial", "tucker2", "cp", "sdd"])
@pytest.mark.parametrize("name", NETWORKS)
def test_splits_are_found_without_names(method: str, name: str, folder: Path, tmp_path: Path) -> None:
    model, configured = network(name, folder), METHODS[method]
    cut_sites = sites(model, configured)
    ranks = {site.key: rank_for(configured, site.op) for site in cut_sites}
    cut = written(model.edit(*(Splice(s.key, chain_of(configured, s.op, ranks[s.key])) for s in cut_sites)), tmp_path)
    found = difference(model, renamed(cut, tmp_path / "renamed"))
    splits = [entry for entry in found.entries if entry.kind == "split"]
    assert [entry.a for entry in splits] == [(site.key,) for site in cut_sites]
    assert {entry.kind for entry in found.entries} <= {"split", "renamed", "same"}
    for entry, site in zip(splits, cut_sites, strict=True):
        factored = entry.parts[0].factored
        assert (factored.shape, factored.ranks) == expected(configured, site.op, ranks[site.key])
