"""Layers that read the same value: which are cut as one, and what that gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from surgery.choose import Amount, Request, choose
from surgery.choose.sharing import joined, together
from surgery.errors import PlanError
from surgery.formats import Source
from surgery.plans import Cut, Plan
from surgery.rewriting import rewrite
from surgery.survey import survey
from tests.cli.test_cut import run
from tests.nets import conv_blobs, write_net


def layer(name: str, bottom: str, top: str, param: str, kind: str = "Convolution") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" {param} }}\n'


HEAD = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 6 dim: 9 dim: 9 } } }\n'
TEXT = (
    HEAD
    + layer("a", "data", "a", "convolution_param { num_output: 12 kernel_size: 3 pad: 1 }")
    + layer("b", "data", "b", "convolution_param { num_output: 8 kernel_size: 3 pad: 1 bias_term: false }")
    + layer("c", "data", "c", "convolution_param { num_output: 8 kernel_size: 3 pad: 1 stride: 2 }")
    + layer("r", "a", "a", "", "ReLU")
    + layer("d", "a", "d", "convolution_param { num_output: 10 kernel_size: 3 pad: 1 }")
    + layer("e", "a", "e", "convolution_param { num_output: 10 kernel_size: 3 pad: 1 }")
)
BLOBS = {
    "a": conv_blobs(12, 6, 3, 3, seed=1),
    "b": conv_blobs(8, 6, 3, 3, seed=2, bias=False),
    "c": conv_blobs(8, 6, 3, 3, seed=3),
    "d": conv_blobs(10, 12, 3, 3, seed=4),
    "e": conv_blobs(10, 12, 3, 3, seed=5),
}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(write_net(tmp_path, TEXT, BLOBS))


def test_layers_that_read_one_value_in_one_geometry_are_together(source: Source) -> None:
    surveyed = survey(source.load())
    groups = together(surveyed.model, surveyed.sites)
    assert [[site.key for site in group] for group in groups] == [["a", "b"], ["c"], ["d", "e"]]
    one = joined(groups[0])
    assert one.op.out_channels == 20
    assert one.others == ("b",)
    assert one.facts.macs == sum(site.facts.macs or 0 for site in groups[0])


def test_a_ratio_is_of_all_together_and_buys_more_rank_than_each_alone(source: Source) -> None:
    surveyed = survey(source.load())
    alone, shared = (
        choose(surveyed, Request((), ("svd-channel",), Amount(macs=0.5), share=share, policy="uniform"), "")
        for share in (False, True)
    )
    ranks = {cut.key: cut.rank[0] for cut in alone.cuts}
    assert [(cut.keys) for cut in shared.cuts] == [("a", "b"), ("c",), ("d", "e")]
    assert shared.cuts[0].rank[0] > max(ranks["a"], ranks["b"])


@pytest.mark.parametrize("method", ["svd-channel", "svd-spatial", "tucker2", "cp", "nmtf"])
def test_any_method_shares_all_factors_but_the_last(source: Source, method: str, tmp_path: Path) -> None:
    words = ("--layer", f"[ab]={method}:macs=0.6", "--share", "--json")
    result = run("compress", *map(str, source.files), "-o", tmp_path / "out", *words)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    (row,) = report["layers"]
    assert row["layer"] == "a + b"
    assert report["verified"]["worst_rel_l2"] < 1e-4
    assert {"a", "b"} < set(row["became"])
    assert row["macs"][1] <= 0.6 * row["macs"][0]


def test_two_equal_layers_need_no_more_rank_than_one(source: Source, tmp_path: Path) -> None:
    twins = write_net(tmp_path, TEXT, {**BLOBS, "e": BLOBS["d"]})
    model = Source(twins).load()
    rank = 10  # of each of the twins, and of both
    plan = Plan(model.format.digest(model), (Cut("d", "svd-channel", (rank,), others=("e",)),))
    made = rewrite(model, plan).made[0]
    assert made.fitted.fit.relative_error < 1e-6
    np.testing.assert_array_equal(made.chains["d"].last.weight, made.chains["e"].last.weight)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (("a", "c"), "a: cannot share factors with c: stack: stride (2, 2) beside (1, 1)"),
        (("a", "d"), "a: does not read what d read"),
    ],
)
def test_layers_that_do_not_go_together_are_refused(source: Source, keys: tuple[str, str], said: str) -> None:
    model = source.load()
    plan = Plan(model.format.digest(model), (Cut(keys[0], "svd-channel", (3,), others=keys[1:]),))
    with pytest.raises(PlanError) as caught:
        rewrite(model, plan)
    assert said in str(caught.value)


def test_inspect_lists_them(source: Source) -> None:
    shown = run("inspect", *map(str, source.files)).stdout
    assert "can share a first layer (--share): a, b" in shown
    assert json.loads(run("inspect", *map(str, source.files), "--json").stdout)["shareable"] == [["a", "b"], ["d", "e"]]
