"""`surgery tune --engine caffe` as a whole."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from surgery import ternary
from surgery.errors import PlanError
from surgery.formats import Source, digest
from surgery.plans import Cut, Plan, to_json
from surgery.rewriting import rewrite
from surgery.tune.asked import Asked
from surgery.tune.caffe.tuning import tune
from surgery.tune.data import Augment, is_held_back
from surgery.tune.recipe import BatchNorm, Recipe
from tests.engines import require_caffe
from tests.nets import dense_blobs, write_net
from tests.tune.caffe.digits import CUTS, DIGITS, ORIGINAL, lmdb, samples

# A rate at which six epochs of 405 digits show; the network was trained from ten times as much.
RECIPE = Recipe(epochs=6, rate=0.003, course="constant", warm_up=0, batch=45)


def asked(tmp_path: Path, cuts: tuple[Cut, ...] = CUTS, **more: object) -> Asked:
    """Cut the digits by a plan and return the request to tune them."""
    plan = Plan(digest(ORIGINAL.files), cuts)
    folder = tmp_path / "cut"
    folder.mkdir()
    model = rewrite(ORIGINAL.load(), plan).model
    cut = Source(model.format.save(model, folder, "small"))
    (folder / "plan.json").write_text(to_json(plan))
    samples(tmp_path)
    given = {"labels": tmp_path / "labels.txt", "plan": plan, "recipe": RECIPE, **more}
    return Asked(cut, ORIGINAL, tmp_path / "digits.npz", **given)  # type: ignore[arg-type]


def test_a_cut_network_gets_better_and_only_its_weights_change(tmp_path: Path) -> None:
    require_caffe()
    test = tmp_path / "test.npz"
    np.savez(test, data=np.load(DIGITS / "calibration.npz")["data"][:50])
    request = asked(tmp_path, test=test)
    outcome = tune(request, tmp_path / "out", ["onnxruntime"])
    rows = outcome.facts["scores"]["held back"]
    assert rows["original"]["accuracy"] == 1
    assert rows["tuned"]["accuracy"] > rows["cut"]["accuracy"] + 0.05
    assert rows["tuned"]["loss"] < rows["cut"]["loss"] / 1.5
    assert outcome.facts["scores"]["test"]["tuned"]["agreement"] > 0.8
    # What Caffe's own tests said: on as many samples, in other order of addition.
    step = outcome.facts["steps"][0]
    assert step["before"]["loss"] == pytest.approx(rows["cut"]["loss"], rel=1e-4)
    assert step["after"]["accuracy"] == pytest.approx(rows["tuned"]["accuracy"])
    assert [path.name for path in outcome.files] == ["small.prototxt", "small.caffemodel"]
    assert outcome.files[0].read_bytes() == request.cut.files[0].read_bytes()
    assert outcome.facts["verified"]["worst_rel_l2"] < 1e-5
    listed = set(json.loads((tmp_path / "out" / "report.json").read_text())["files"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == listed
    assert not (tmp_path / ".out.caffe").exists()
    again = tune(replace(request, target="mixed"), tmp_path / "out", None)
    assert again.facts["verified"] is None


def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    require_caffe()
    request = asked(tmp_path, recipe=replace(RECIPE, epochs=8))
    script = (
        "import pickle, sys; from pathlib import Path; from surgery.tune.caffe.tuning import tune\n"
        "tune(pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]), None)"
    )
    import pickle

    (tmp_path / "asked").write_bytes(pickle.dumps(request))
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path / "asked", tmp_path / "killed"])
    work = tmp_path / ".killed.caffe"
    deadline = time.monotonic() + 120
    while not list(work.glob("*.solverstate")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists()
    tune(request, tmp_path / "killed", None)
    tune(request, tmp_path / "whole", None)
    one, other = ((tmp_path / name / "small.caffemodel").read_bytes() for name in ("killed", "whole"))
    assert one == other


def test_weights_that_a_cut_binds_stay_as_they_are(tmp_path: Path) -> None:
    require_caffe()
    request = asked(tmp_path, (Cut("ip1", "semi-nmf", (8,)), Cut("conv2", "svd-spatial", (6,))))
    outcome = tune(request, tmp_path / "out", None)
    before, after = request.cut.load(), Source(outcome.files).load()
    same = {
        node.key: all(
            np.array_equal(a, b)
            for a, b in zip(*(m.native.weights.arrays(node.native.index) for m in (before, after)), strict=True)
        )
        for node in before.nodes
        if node.native.index is not None and before.native.weights.layers[node.native.index].shapes
    }
    assert [name for name, is_same in same.items() if is_same] == ["ip1_1"]
    assert any("ip1_1" in note for note in outcome.facts["notes"])


@pytest.mark.parametrize(("chosen", "stated"), [("fixed", ["true", "true"]), ("batch", [])])
def test_batch_norm_in_training_is_as_asked_for(
    chosen: BatchNorm, stated: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("h5py", reason="Caffe's samples are HDF5: h5py is not installed")
    monkeypatch.setenv("SURGERY_CAFFE", str(tmp_path / "none"))
    layers = (
        'input: "data"\ninput_shape { dim: 1 dim: 4 dim: 3 dim: 3 }\n'
        'layer { name: "a" type: "BatchNorm" bottom: "data" top: "a" batch_norm_param { use_global_stats: true } }\n'
        'layer { name: "b" type: "BatchNorm" bottom: "a" top: "b" }\n'
        'layer { name: "f" type: "InnerProduct" bottom: "b" top: "f" inner_product_param { num_output: 5 } }\n'
    )
    norm = [np.zeros(4, np.float32), np.ones(4, np.float32), np.ones(1, np.float32)]
    source = Source(write_net(tmp_path, layers, {"a": norm, "b": norm, "f": dense_blobs(5, 36)}))
    np.savez(tmp_path / "x.npz", data=np.random.default_rng(0).standard_normal((20, 4, 3, 3)).astype(np.float32))
    (tmp_path / "labels.txt").write_text("".join(f"{i % 5}\n" for i in range(20)))
    given = {"labels": tmp_path / "labels.txt", "recipe": Recipe(batchnorm=chosen)}
    tune(Asked(source, source, tmp_path / "x.npz", **given), tmp_path / "out", None)  # type: ignore[arg-type]
    # Unstated, Caffe takes each batch's own in training and those stored in tests.
    text = (tmp_path / "out" / "train_val.prototxt").read_text()
    assert re.findall(r"use_global_stats: (\w+)", text) == stated


def test_ternary_layers_are_written_beside_the_network_as_the_cut_had_them(tmp_path: Path) -> None:
    require_caffe()
    request = asked(tmp_path, (Cut("ip1", "sdd", (8,)),), recipe=replace(RECIPE, epochs=1))
    outcome = tune(request, tmp_path / "out", None)
    layers, _ = ternary.read(tmp_path / "out" / "small.ternary")
    model = Source(outcome.files[:2]).load()
    assert [path.name for path in outcome.files] == ["small.prototxt", "small.caffemodel", "small.ternary"]
    assert list(layers) == ["ip1_1", "ip1_3"]
    for name, layer in layers.items():
        weight = model.native.weights.arrays(model.node(name).native.index)[0]
        assert (layer.values == weight).all()
    assert "small.ternary" in outcome.facts["files"]


def test_without_caffe_the_files_to_train_with_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURGERY_CAFFE", str(tmp_path / "none"))
    outcome = tune(asked(tmp_path), tmp_path / "out", ["onnxruntime"])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"train_val.prototxt", "solver.prototxt", "start.caffemodel", "train.txt", "report.json"} <= names
    assert any(f"cd {tmp_path / 'out'} && caffe train" in note for note in outcome.facts["notes"])
    # The folder is this tool's own, and may be written again.
    tune(replace(asked_again(tmp_path), images=100), tmp_path / "out", None)


def test_where_the_build_of_caffe_has_no_such_data_layer_the_files_are_left(tmp_path: Path) -> None:
    require_caffe()
    base = lmdb(tmp_path / "lmdb", (3, 17))
    outcome = tune(replace(asked(tmp_path), data=base, labels=None), tmp_path / "out", None)
    assert "tune_data" in outcome.facts["verified"]["reason"]
    assert any("caffe train" in note for note in outcome.facts["notes"])
    assert any("no sample was held back" in note for note in outcome.facts["notes"])
    assert str(base) in (tmp_path / "out" / "train_val.prototxt").read_text()


def asked_again(tmp_path: Path) -> Asked:
    return Asked(
        Source((tmp_path / "cut" / "small.prototxt", tmp_path / "cut" / "small.caffemodel")),
        ORIGINAL,
        tmp_path / "digits.npz",
        labels=tmp_path / "labels.txt",
        recipe=RECIPE,
    )


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"schedule": "iterative"}, "--engine torch"),
        ({"layers": ("x*",)}, r"--layer x\*"),
        ({"target": "responses", "plan": None}, "--plan"),
        ({"labels": None, "target": "labels"}, "--labels"),
    ],
)
def test_what_caffe_cannot_do_is_said_before_anything_is_written(
    more: dict[str, object], reason: str, tmp_path: Path
) -> None:
    request = replace(asked(tmp_path), **more)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=reason):
        tune(request, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.caffe").exists()


def test_augmented_samples_are_trained_on(tmp_path: Path) -> None:
    require_caffe()
    trained = 4 * sum(not is_held_back(i, 57) for i in range(57))
    # An odd number of batches, more than forty, of which every second one tells its loss.
    recipe = replace(RECIPE, epochs=1, batch=next(size for size in (5, 4, 3) if -(-trained // size) % 2))
    request = asked(tmp_path, augment=Augment(1, mirror=False), recipe=recipe, images=57)
    outcome = tune(request, tmp_path / "out", None)
    assert outcome.facts["steps"][0]["epochs"][0]["loss"] > 0
    assert outcome.facts["data"]["trained"] == trained
