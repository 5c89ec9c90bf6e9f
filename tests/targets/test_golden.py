"""What is made ready computes, in the target's own runtime, what real Caffe computed with the network as it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from surgery.errors import EngineError, TargetError
from surgery.formats import Source
from surgery.runtime import ENGINES, Array, job_of
from surgery.targets import REWRITES, Prepared, prepare
from surgery.verify import random_inputs
from tests.engines import require
from tests.shared import shared

# Deploying takes the losses away, and with them all that these networks give.
LOSSES = {"net_shared_params", "sigmoidce", "softmaxloss"}
# OpenCV refuses or miscomputes what these have; each is refused with the reason.
LIMITS = {
    *("bn_batchstats", "conv_0d", "conv_3d", "conv_axis2", "deconv_1d", "deconv_dilation", "ip_transpose", "log_all"),
    *("log_base10", "lrn_size3_k2", "model_missing_layer", "mvn_eps", "pool_edge_max_k1s2_even", "pool_max_mask"),
    *("reshape_scalar", "scale_two_bottoms_bias", "slice_single_top", "split_explicit"),
}
# Its Eltwise overwrites what it has still to read: real Caffe computes the sum without it.
WRONG = "eltwise_inplace_first"


class Case:
    """One network with its inputs and the outputs of real Caffe."""

    def __init__(self, folder: Path) -> None:
        arrays = np.load(folder / "io.npz")
        self.name = folder.name
        self.inputs: Mapping[str, Array] = {key[3:]: arrays[key] for key in arrays.files if key.startswith("in:")}
        self.outputs = {key[4:]: arrays[key] for key in arrays.files if key.startswith("out:")}
        weights = [path for path in (folder / "net.caffemodel.h5", folder / "net.caffemodel") if path.exists()]
        self.source = Source(
            (folder / "net.prototxt", *weights[:1]), stages=("deploy",) if "stage" in self.name else ()
        )
        self.batch = next((array.shape[0] for array in self.inputs.values() if array.ndim > 1), 1)

    @property
    def is_loss(self) -> bool:
        return any(self.name.startswith(name) for name in LOSSES)

    def prepared(self, target: str, folder: Path) -> Prepared | TargetError:
        own = folder / self.name
        own.mkdir()
        try:
            return prepare(self.source, target, own, batch=self.batch, allow=REWRITES)
        except TargetError as error:
            assert not list(own.iterdir())
            return error


def cases() -> list[Case]:
    return [Case(folder) for folder in sorted(shared("golden").iterdir()) if folder.is_dir()]


def run(target: str, engine: str, folder: Path) -> dict[str, TargetError]:
    """Compare every network that is made ready with what Caffe gave; return those refused, with the reasons."""
    require(engine)
    found = [(case, case.prepared(target, folder)) for case in cases()]
    refused = {case.name: made for case, made in found if isinstance(made, TargetError)}
    ready = [(case, made) for case, made in found if isinstance(made, Prepared) and not case.is_loss]
    jobs = [job_of(Source(made.files).load(), made.files, [case.inputs], all_blobs=True) for case, made in ready]
    for (case, _), result in zip(ready, ENGINES[engine].run_jobs(jobs), strict=True):
        assert not isinstance(result, EngineError), (case.name, str(result))
        for blob, wanted in case.outputs.items():
            given = result[0][blob]
            if engine == "opencv" and wanted.ndim == 1:
                wanted = wanted[:, None]  # It has no blobs of one axis.
            # Float32 sums of some hundred terms in another order.
            np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-5, err_msg=f"{case.name} {blob}")
    return refused


def kinds(refused: Mapping[str, TargetError], *unless: str) -> set[str]:
    """The networks refused for something else than these words."""
    return {name for name, error in refused.items() if not all(any(w in r for w in unless) for r in error.reasons)}


def test_caffe_computes_the_same_of_all_that_is_made_ready(tmp_path: Path) -> None:
    refused = run("caffe-1.0", "caffe", tmp_path)
    assert kinds(refused, "no layer is left") == {WRONG}


def test_opencv_computes_the_same_of_all_that_is_made_ready_for_it(tmp_path: Path) -> None:
    refused = run("opencv", "opencv", tmp_path)
    assert kinds(refused, "no layer is left", "opencv has no such type") == {WRONG, *LIMITS}


@pytest.mark.parametrize(
    ("weights", "definition"),
    [
        ("lenet_v1_everpeace/lenet_iter_10000.caffemodel", "lenet.prototxt"),  # V1, input fields, a batch of 64
        ("mtcnn_CongWeilin/48net.caffemodel", "48net.prototxt"),
        ("cnn_3dobj_triplet/3d_triplet_iter_30000.caffemodel", "3d_triplet_testIMG.prototxt"),
    ],
)
def test_trained_networks_give_the_same_bits_in_caffe(weights: str, definition: str, tmp_path: Path) -> None:
    stored = shared("zoo/caffemodel") / weights
    given = Source((stored.with_name(definition), stored))
    made = prepare(given, "caffe-android-lib", tmp_path)
    assert made.files[1].read_bytes() == stored.read_bytes()
    model = Source(made.files).load()
    inputs = random_inputs(model.format.runnable(model).inputs, 0, 1)
    jobs = [job_of(each.load(), each.files, inputs) for each in (given, Source(made.files))]
    before, after = require("caffe").run_jobs(jobs)
    assert not isinstance(before, EngineError)
    assert not isinstance(after, EngineError)
    assert before[0].keys() == after[0].keys()
    for blob, values in before[0].items():
        np.testing.assert_array_equal(after[0][blob], values)
