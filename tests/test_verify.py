"""Which engines are tried for which models, and what a cut ONNX model has to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.choose import Amount, Request, choose
from surgery.errors import VerificationError
from surgery.model import Model, Reweigh
from surgery.rewriting import Rewritten, rewrite
from surgery.survey import survey
from surgery.verify import AUTO_ENGINES, Verdict, compare, engine_pairs, verify_cut
from tests.engines import require
from tests.nets import conv_blobs, write_net
from tests.runtime.onnx_files import conv_relu

PROTOTXT = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 5 dim: 5 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
"""


@pytest.fixture
def onnx_model(tmp_path: Path) -> Model:
    return formats.load([conv_relu(tmp_path / "net.onnx")])


@pytest.fixture
def caffe_model(tmp_path: Path) -> Model:
    return formats.load(write_net(tmp_path, PROTOTXT, {"conv": conv_blobs(4, 2, 3, 3)}))


def test_models_of_one_format_are_tried_in_the_same_engine(caffe_model: Model, onnx_model: Model) -> None:
    same = [(name, name) for name in ("caffe", "onnxruntime", "opencv")]
    assert engine_pairs((caffe_model, caffe_model), (None, None)) == same
    assert engine_pairs((onnx_model, onnx_model), (None, None)) == same[1:]


def test_models_of_two_formats_are_tried_each_in_its_own_first(caffe_model: Model, onnx_model: Model) -> None:
    pairs = engine_pairs((caffe_model, onnx_model), (None, None))
    assert pairs[0] == ("caffe", "onnxruntime")
    assert set(pairs) == {(a, b) for a in ("caffe", "onnxruntime", "opencv") for b in ("onnxruntime", "opencv")}
    assert engine_pairs((onnx_model, caffe_model), (None, None))[0] == ("onnxruntime", "caffe")


def test_named_engines_are_the_only_ones(caffe_model: Model) -> None:
    models = (caffe_model, caffe_model)
    assert engine_pairs(models, ("opencv", "caffe")) == [("opencv", "caffe")]
    assert engine_pairs(models, ("opencv", None)) == [("opencv", name) for name in ("caffe", "onnxruntime", "opencv")]


def test_the_first_beyond_is_in_running_order_not_the_worst() -> None:
    blobs = {name: np.ones(4) for name in ("a", "b", "c")}
    others = {"a": np.ones(4), "b": 1.1 * np.ones(4), "c": 3 * np.ones(4)}
    verdict = Verdict("nowhere", compare([blobs], [others], ["a", "b", "c"]))
    first = verdict.first_beyond(1e-4)
    assert first is not None
    assert (first.blob, verdict.worst.blob) == ("b", "c")
    assert verdict.first_beyond(5) is None
    gone = replace(verdict, comparisons=compare([blobs], [{"a": np.full(4, np.nan)}], ["a"]))
    assert gone.first_beyond(1e9) is not None


def cut_at_full_rank(model: Model) -> Rewritten:
    plan = choose(survey(model), Request(methods=("svd-channel",), amount=Amount(rank=(0,)), force=True), "")
    assert plan.cuts
    return rewrite(model, plan)


@pytest.mark.parametrize("engine", ["onnxruntime", "opencv"])
def test_a_cut_onnx_model_is_checked_blob_by_blob(engine: str, onnx_model: Model, tmp_path: Path) -> None:
    version = require(engine).version()
    result = cut_at_full_rank(onnx_model)
    files = [
        model.format.save(model, tmp_path, stem)
        for model, stem in ((result.model, "cut"), (result.reference(), "reference"))
    ]
    made = result.model.format.made(result.model)
    cut = formats.load(files[0])
    verdict = verify_cut(cut, result.reference(), made, (files[0], files[1]), [engine])
    assert verdict.runtime == version
    assert [c.blob for c in verdict.comparisons] == ["conv", "relu", "out"]


def test_a_spoilt_cut_of_an_onnx_model_is_noticed(onnx_model: Model, tmp_path: Path) -> None:
    require("onnxruntime")
    result = cut_at_full_rank(onnx_model)
    made = result.model.format.made(result.model)
    stage = made["last"][0]
    op = result.model.format.lift(result.model, result.model.node(stage))
    spoilt = result.model.edit(Reweigh(stage, replace(op, weight=op.weight * np.float32(1.01))))
    files = [
        model.format.save(model, tmp_path, stem) for model, stem in ((spoilt, "cut"), (result.reference(), "reference"))
    ]
    with pytest.raises(VerificationError, match=r"blob 'out' is 1\.00e-02 "):
        verify_cut(formats.load(files[0]), result.reference(), made, (files[0], files[1]), AUTO_ENGINES)
