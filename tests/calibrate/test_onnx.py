from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from surgery.calibrate import calibration
from surgery.calibrate.gathering import is_held_out
from surgery.factor import METHODS
from surgery.formats import Source
from surgery.model import Splice
from tests.calibrate.nets import blobs_of, op_of, saved
from tests.onnx_nets import node

KEYS = ("one", "two", "fc1", "fc2")


def written(path: Path, *, computed: bool) -> Source:
    """A network with pads of its own at either end, and a Reshape whose target is computed, or stated."""
    rng = np.random.default_rng(0)
    arrays = {
        "w1": rng.standard_normal((6, 4, 3, 3)),
        "w2": rng.standard_normal((5, 6, 2, 2)),
        "w3": rng.standard_normal((10, 80)),
        "w4": rng.standard_normal((10, 5)),
    }
    numbers = {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1]), "stated": np.array([0, -1])}
    weights = [numpy_helper.from_array(a.astype("f"), n) for n, a in arrays.items()]
    weights += [numpy_helper.from_array(a.astype(np.int64), n) for n, a in numbers.items()]
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "w1"], ["a"], "one", pads=[0, 0, 1, 1], strides=[2, 2]),
        make("Relu", ["a"], ["b"]),
        make("Conv", ["b", "w2"], ["c"], "two", auto_pad="SAME_UPPER"),
        make("Shape", ["c"], ["shape"]),
        make("Gather", ["shape", "zero"], ["batch"]),
        make("Unsqueeze", ["batch", "axis"], ["first"]),
        make("Concat", ["first", "rest"], ["target"], axis=0),
        make("Reshape", ["c", "target" if computed else "stated"], ["flat"]),
        make("Gemm", ["flat", "w3"], ["d"], "fc1", transB=1),
        make("Relu", ["d"], ["e"]),
        make("MatMul", ["e", "w4"], ["y"], "fc2"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return Source((path,))


@pytest.mark.parametrize("computed", [True, False])
def test_inputs_and_outputs_are_those_that_the_runtime_computes(tmp_path: Path, computed: bool) -> None:
    source = written(tmp_path / "net.onnx", computed=computed)
    images = np.random.default_rng(1).standard_normal((20, 4, 8, 8)).astype("f")
    kept = [i for i in range(20) if not is_held_out(i, 20)]
    model, reads = source.load(), {"one": "x", "two": "b", "fc1": "flat", "fc2": "e"}
    makes, done = {"one": "a", "two": "c", "fc1": "d", "fc2": "y"}, {}
    original = blobs_of(source.files, images, "x")
    with calibration(source.load(), saved(tmp_path, images), KEYS, positions=100) as found:
        for key in KEYS:
            (tmp_path / key).mkdir()
            cut = model.edit(*(Splice(name, chain) for name, chain in done.items()))
            files = model.format.save(cut, tmp_path / key, "cut")
            halfway = [blobs[reads[key]] for blobs in blobs_of(files, images[kept], "x")]
            wanted = np.concatenate([_rows(original[i][makes[key]]) for i in kept])
            moments = found.statistics_for((key,), done).moments
            # Convolutions of float32, summed in other orders, through four layers.
            close = {"rtol": 1e-4, "atol": 1e-4 * np.abs(wanted).max()}
            np.testing.assert_allclose(moments.mean_y, wanted.mean(axis=0), **close)
            if key.startswith("fc"):
                np.testing.assert_allclose(moments.mean_x[0], np.concatenate(halfway).mean(axis=0), **close)
            op = op_of(model, key)
            done[key] = METHODS["svd" if key.startswith("fc") else "svd-channel"].factor(op, (3,)).chain


def _rows(y: np.ndarray) -> np.ndarray:
    return y.transpose(0, 2, 3, 1).reshape(-1, y.shape[1]) if y.ndim == 4 else y


def test_a_network_of_float64_gets_images_as_it_takes_them(tmp_path: Path) -> None:
    """Without a convolution: ONNX Runtime has none of float64."""
    rng, found = np.random.default_rng(0), []
    one, two = rng.standard_normal((6, 4)), rng.standard_normal((3, 6))
    for number in (np.float32, np.float64):
        nodes = (node("Gemm", "x a", "h", "one", transB=1), node("Gemm", "h b", "y", "two", transB=1))
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(number))
        shapes = (helper.make_tensor_value_info(name, kind, ["N", size]) for name, size in (("x", 4), ("y", 3)))
        weights = [numpy_helper.from_array(array.astype(number), name) for array, name in ((one, "a"), (two, "b"))]
        graph = helper.make_graph(nodes, "net", *([shape] for shape in shapes), weights)
        path = tmp_path / f"{np.dtype(number)}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
        images = saved(tmp_path, np.random.default_rng(1).standard_normal((20, 4)).astype(np.float32))
        with calibration(Source((path,)).load(), images, ("two",)) as calibrated:
            found.append(calibrated.statistics_for(("two",), {}))
    # Products of float32 in the one network, of float64 in the other.
    np.testing.assert_allclose(found[1].moments.xx, found[0].moments.xx, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[1].samples.y, found[0].samples.y, rtol=0, atol=1e-5)
