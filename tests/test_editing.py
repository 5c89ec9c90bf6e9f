"""Edits are verified: what computes something else is not written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.editing import Decision, carry_out, verify
from surgery.errors import PlanError, VerificationError
from surgery.folding import folding
from surgery.formats import Source
from surgery.model import Extract, Model
from surgery.ops.scale import Scale
from tests.engines import require_caffe
from tests.formats.caffe.test_fold import CONV, INPUT, NORM, RELU, C, layer, norm_blobs
from tests.nets import write_net


def source(folder: Path, text: str = CONV + NORM + RELU) -> Source:
    folder.mkdir(exist_ok=True)
    return Source(write_net(folder, INPUT + text, {**C, "n": norm_blobs()}))


def wrong(model: Model) -> Decision:
    folds = [replace(fold, scale=fold.scale.then(Scale.of(1.001))) for fold in folding(model).folds]
    return Decision(folds, [{"layer": fold.key, "absorbed": list(fold.absorbed)} for fold in folds])


@pytest.mark.parametrize("engines", [("caffe",), ()])
def test_a_wrong_result_is_not_written(engines: tuple[str, ...], tmp_path: Path) -> None:
    require_caffe()
    with pytest.raises(VerificationError, match=r"'c' is .* from the original's"):
        carry_out(source(tmp_path / "net"), "fold", wrong, tmp_path / "out", engines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net"]


def test_unverified_the_caller_gets_what_it_asked_for(tmp_path: Path) -> None:
    paths, report = carry_out(source(tmp_path / "net"), "fold", wrong, tmp_path / "out", None)
    assert report["verified"] is None
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert sorted(report["files"]) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [path.name for path in paths] == ["net.prototxt", "net.caffemodel"]


def test_a_result_that_does_not_run_is_not_written(tmp_path: Path) -> None:
    require_caffe()
    one, other = source(tmp_path / "one"), source(tmp_path / "other", CONV + layer("Odd", "n", "c", "c"))
    with pytest.raises(VerificationError, match="the original runs but the edited model does not"):
        verify((one.load(), other.load()), (one.files, other.files), ["caffe"])


def test_a_network_that_does_not_heed_its_input_shows_nothing(tmp_path: Path) -> None:
    require_caffe()
    dead = Source(write_net(tmp_path, INPUT + CONV, {"c": [np.zeros((8, 6, 3, 3), np.float32)]}))
    model = dead.load()
    with pytest.raises(VerificationError, match="different inputs give the same outputs"):
        verify((model, model), (dead.files, dead.files), ["caffe"])


def test_a_part_may_be_constant(tmp_path: Path) -> None:
    require_caffe()
    dead = Source(write_net(tmp_path, INPUT + CONV, {"c": [np.zeros((8, 6, 3, 3), np.float32)]}))
    model = dead.load()
    verdict = verify((model, model), (dead.files, dead.files), ["caffe"], [Extract(("c",))])
    assert verdict.reason == "different inputs give the same there"


def test_what_works_in_place_on_an_input_is_compared(tmp_path: Path) -> None:
    require_caffe()
    text = layer("ReLU", "r", "data", "data") + CONV
    given = Source(write_net(tmp_path, INPUT + text, C))
    model = given.load()
    part = model.edit(Extract(("data",)))
    (tmp_path / "part").mkdir()
    paths = part.format.save(part, tmp_path / "part", "net")
    verdict = verify((model, formats.load(paths)), (given.files, paths), ["caffe"])
    assert [comparison.blob for comparison in verdict.comparisons] == ["data"]


def test_an_inputs_folder_is_no_place_for_results(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="holds the input"):
        carry_out(source(tmp_path / "net"), "fold", wrong, tmp_path / "net", None)


def test_shapes_given_for_what_goes_are_not_asked_of_the_result(tmp_path: Path) -> None:
    bare = CONV + layer("ReLU", "r", "c", "d")
    (tmp_path / "net.prototxt").write_text('input: "data"\n' + bare)
    given = Source((tmp_path / "net.prototxt",), shapes=(("data", (1, 6, 9, 8)),))
    change = Extract(("d",), ("c",))
    paths, _ = carry_out(given, "extract", lambda model: Decision([change], [{}]), tmp_path / "out", ())
    part = formats.load(paths)
    assert dict(part.format.runnable(part).inputs) == {"c": (1, 8, 7, 6)}
