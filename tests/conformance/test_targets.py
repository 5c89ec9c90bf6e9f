"""Real networks of the zoo, cut by every method at full rank, compute in real runtimes what they computed before."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.choose import Amount, Request, choose
from surgery.choose.request import DEFAULT_METHODS
from surgery.errors import EngineError
from surgery.factor import METHODS
from surgery.factor.response import needs_data
from surgery.model import Model, Reweigh
from surgery.rewriting import rewrite
from surgery.runtime import Array, Inputs, Job
from surgery.survey import survey
from surgery.verify import TOLERANCE, Comparison, comparable, compare, random_inputs
from tests.engines import require, require_caffe
from tests.shared import shared

Blobs = dict[str, Array]
Variant = tuple[str, Model, tuple[Path, ...]]  # method ("" for the original), model, files
Group = tuple[list[Variant], list[Inputs]]  # a pair's variants and what they are run on

AT_ONCE = 50  # pairs whose blobs are held in memory together


def pairs() -> dict[str, list[tuple[Path, Path]]]:
    """The pairs that load in the Caffe that the project builds, by the folder of their weights."""
    table = shared("zoo/caffemodel/PAIRS.tsv")
    found: dict[str, list[tuple[Path, Path]]] = {}
    with table.open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if "sdist" in row["loads_in"]:
                files = (table.parent / row["prototxt"], table.parent / row["weights"])
                found.setdefault(row["weights"].split("/")[0], []).append(files)
    return found


FOLDERS = [
    "caffe-onnx_test", "cifar10_quick_Simshang", "cifar10_quick_v1_everpeace", "cnn_3dobj_triplet", "deep-landmark",
    "lenet_JachinShen", "lenet_Mounika", "lenet_accelerometer", "lenet_caffe-tensorflow", "lenet_cc-guardian",
    "lenet_pruned_Auto_pruning", "lenet_rmsprop_danielhers", "lenet_timotiusnc", "lenet_v1_everpeace", "lenet_yaleB",
    "mtcnn_CongWeilin", "mtcnn_kpzhang93", "squeezenet_v1.0", "vanface_landmark", "vanillacnn_landmark",
    "wechat_qrcode",
]  # fmt: skip


def test_every_pair_that_loads_is_tried() -> None:
    assert sorted(pairs()) == sorted(FOLDERS)


def variants(files: tuple[Path, Path], folder: Path) -> Iterator[Variant]:
    """The original and its full-rank cut by each method that can cut a layer of it, and needs no search for it.

    What the others write runs, too: see test_factored.
    """
    model = formats.load(files)
    yield "", model, files
    surveyed = survey(model)
    for method in DEFAULT_METHODS:
        cuttable = [site.key for site in surveyed.sites if method in site.break_even]
        if not cuttable:
            continue
        plan = choose(surveyed, Request(methods=(method,), amount=Amount(rank=(0,)), force=True), "")
        assert [cut.key for cut in plan.cuts] == cuttable
        target = folder / method
        target.mkdir()
        paths = model.format.save(rewrite(model, plan).model, target, "net")
        yield method, formats.load(paths), paths


def run(engine: str, groups: Sequence[Group]) -> list[list[list[Blobs] | EngineError]]:
    """Run all variants of all groups in one start of the engine."""
    flat = [(variant, inputs) for made, inputs in groups for variant in made]
    jobs = [Job(paths, inputs, all_blobs=True) for (_, _, paths), inputs in flat]
    results = iter(require(engine).run_jobs(jobs))
    return [[next(results) for _ in made] for made, _ in groups]


def differences(made: Sequence[Variant], results: Sequence[list[Blobs]]) -> Iterator[tuple[str, Comparison]]:
    """The worst blob of each cut."""
    (_, original, _), first = made[0], results[0]
    for (method, cut, _), second in zip(made[1:], results[1:], strict=True):
        names = comparable((original, cut), first[0], second[0])
        assert names
        yield method, max(compare(first, second, names), key=lambda c: c.rel_l2)


@pytest.mark.parametrize("folder", FOLDERS)
def test_full_rank_cuts_compute_the_same(folder: str, tmp_path: Path) -> None:
    require_caffe()
    groups: list[Group] = []
    for number, files in enumerate(pairs()[folder]):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        made = list(variants(files, scratch))
        groups.append((made, random_inputs(made[0][1].format.runnable(made[0][1]).inputs, seed=number)))
    for start in range(0, len(groups), AT_ONCE):
        batch = groups[start : start + AT_ONCE]
        for (made, _), results in zip(batch, run("caffe", batch), strict=True):
            blobs = [checked(result) for result in results]
            outputs = [next(reversed(sample.values())) for sample in blobs[0]]
            assert not any(np.array_equal(outputs[0], other) for other in outputs[1:]), "the inputs do not matter"
            check(made, blobs)
        for (made, _), results in zip(batch, run("opencv", batch), strict=True):
            if not isinstance(results[0], EngineError):  # Else OpenCV lacks a layer of the original itself.
                check(made, [checked(result) for result in results])


def check(made: Sequence[Variant], blobs: Sequence[list[Blobs]]) -> None:
    assert len(made) > 1, "no method can cut a layer"
    for method, worst in differences(made, blobs):
        assert worst.rel_l2 <= TOLERANCE, (made[0][2], method, worst)


def checked(result: list[Blobs] | EngineError) -> list[Blobs]:
    assert not isinstance(result, EngineError), result
    return result


def test_one_weight_spoilt_by_one_percent_is_noticed(tmp_path: Path) -> None:
    require_caffe()
    files = pairs()["lenet_JachinShen"][0]
    model = formats.load(files)
    plan = choose(survey(model), Request(methods=("svd-channel",), amount=Amount(rank=(0,)), force=True), "")
    cut = rewrite(model, plan).model
    stage = cut.format.made(cut)["conv1"][0]
    op = cut.format.lift(cut, cut.node(stage))
    weight = op.weight.copy()
    spot = np.unravel_index(np.abs(weight).argmax(), weight.shape)
    weight[spot] *= 1.01
    spoilt = cut.edit(Reweigh(stage, type(op)(weight, op.bias)))
    paths = spoilt.format.save(spoilt, tmp_path, "net")
    made: list[Variant] = [("", model, files), ("svd-channel", formats.load(paths), paths)]
    inputs = random_inputs(model.format.runnable(model).inputs, seed=0)
    for engine in ("caffe", "opencv"):
        ((original, after),) = run(engine, [(made, inputs)])
        ((_, worst),) = differences(made, [checked(original), checked(after)])
        assert worst.rel_l2 > TOLERANCE, (engine, worst)


def test_inspect_counts_what_compress_cuts(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from surgery.cli import main

    files = [str(path) for path in pairs()["mtcnn_kpzhang93"][0]]
    listed = json.loads(CliRunner().invoke(main, ["inspect", *files, "--json"]).stdout)
    for method in (name for name, each in METHODS.items() if not needs_data(each)):
        expected = [layer["name"] for layer in listed["layers"] if method in layer["cuttable"]]
        output = tmp_path / method
        arguments = ["compress", *files, "-o", str(output), "--method", method, "--rank", "full", "--force"]
        result = CliRunner().invoke(main, [*arguments, "--verify", "none", "--json"])
        if not expected:
            assert result.exit_code == 1
            assert not output.exists()
            continue
        assert [layer["layer"] for layer in json.loads(result.stdout)["layers"]] == expected
