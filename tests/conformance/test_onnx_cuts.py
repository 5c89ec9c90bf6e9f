"""Every method at full rank on whole ONNX networks: every convolution and every Gemm is cut, and nothing changes.

The onnx package's light networks, with seeded weights: three of them here, all nine (some minutes) where the
environment variable SURGERY_EVERY_NETWORK is set. A network of one's own is tried where SURGERY_VGG_ONNX names it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from surgery import formats
from surgery.factor import METHODS
from surgery.factor.response import needs_data
from surgery.factor.threads import blas_threads
from surgery.formats.onnx.outputs import with_outputs
from surgery.model import Model, Refusal, Splice
from surgery.ops import Conv2d, Op
from tests.formats.onnx.engine import distance, run
from tests.onnx_nets import filled, pictures

TOLERANCE = 1e-4  # The same as of every verification: float32 sums in another order, through a deep network.

# Network -> its convolutions with a kernel above 1, and its Gemms.
QUICK = {"inception_v1": (20, 1), "shufflenet": (17, 1), "squeezenet": (9, 0)}
NETWORKS = QUICK | {
    "bvlc_alexnet": (5, 3),
    "densenet121": (59, 0),
    "inception_v2": (32, 1),
    "resnet50": (17, 1),
    "vgg19": (16, 3),
    "zfnet512": (5, 3),
}


def before_softmax(model: Model) -> str:
    last = [node for node in model.nodes if node.type == "Softmax"]
    return last[-1].inputs[0] if last else model.format.outputs(model)[0]


def value(path: Path, name: str, inputs: Mapping[str, np.ndarray], folder: Path) -> np.ndarray:
    tapped = folder / "tapped.onnx"
    with_outputs(path, [name], tapped)
    return run(tapped, inputs)[name]


def lifts(model: Model) -> dict[str, Op]:
    """Every Conv, Gemm and MatMul as an operation; none of them is refused."""
    found = {}
    for node in model.nodes:
        if node.type in ("Conv", "Gemm", "MatMul"):
            op = model.format.lift(model, node)
            assert not isinstance(op, Refusal), f"{node.key}: {op.reason}"
            found[node.key] = op
    return found


def check_every_method(path: Path, feeds: list[dict[str, np.ndarray]], folder: Path) -> dict[str, set[str]]:
    """Cut all that each method takes, at full rank; return the keys that each method cut."""
    model = formats.load([path])
    name = before_softmax(model)
    wanted = [value(path, name, feed, folder) for feed in feeds]
    assert distance(wanted[0], wanted[1]) > 0.1
    done: dict[str, set[str]] = {}
    for method in (each for each in METHODS.values() if each.is_exact and not needs_data(each)):
        ops = {key: op for key, op in lifts(model).items() if method.refusal(op) is None}
        done[method.name] = set(ops)
        if not ops:
            continue
        with blas_threads(1):
            edits = [Splice(key, method.factor(op, method.max_rank(op)).chain) for key, op in ops.items()]
        (file,) = model.format.save(model.edit(*edits), folder, method.name)
        onnx.checker.check_model(str(file), full_check=True)
        for feed, output in zip(feeds, wanted, strict=True):
            assert distance(output, value(file, name, feed, folder)) < TOLERANCE
        file.unlink()
    return done


@pytest.mark.parametrize("name", NETWORKS)
def test_every_method_at_full_rank_leaves_a_light_network_as_it_was(name: str, tmp_path: Path) -> None:
    if name not in QUICK and not os.environ.get("SURGERY_EVERY_NETWORK"):
        pytest.skip("SURGERY_EVERY_NETWORK is not set")
    path = filled(name, tmp_path)
    model = formats.load([path])
    (given,) = model.format.runnable(model).inputs
    done = check_every_method(path, [{given: pictures(seed)} for seed in (1, 2)], tmp_path)
    ops = lifts(model)
    spatial = {key for key, op in ops.items() if isinstance(op, Conv2d) and max(op.kernel) > 1}
    dense = {key for key, op in ops.items() if not isinstance(op, Conv2d)}
    assert (len(spatial), len(dense)) == NETWORKS[name]
    assert done["svd-channel"] == ops.keys() - dense
    assert done["svd-spatial"] == spatial
    assert done["svd"] == dense


def test_every_method_at_full_rank_leaves_a_network_of_ones_own_as_it_was(tmp_path: Path) -> None:
    path = os.environ.get("SURGERY_VGG_ONNX")
    if not path:
        pytest.skip("SURGERY_VGG_ONNX names no file")
    model = formats.load([Path(path)])
    rng = np.random.default_rng(0)
    shapes = model.format.runnable(model).inputs
    feeds = [{name: rng.uniform(0, 255, shape).astype(np.float32) for name, shape in shapes.items()} for _ in (1, 2)]
    feeds[1] = {name: array * np.float32(0.3) for name, array in feeds[1].items()}
    done = check_every_method(Path(path), feeds, tmp_path)
    assert set().union(*done.values()) == lifts(model).keys()
