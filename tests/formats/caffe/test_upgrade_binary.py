"""Old caffemodels upgraded: real Caffe loads the old files and the new ones to the same network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from surgery.cli import main
from surgery.errors import EngineError
from surgery.formats.caffe import binary
from surgery.runtime import Job
from tests.engines import require_caffe
from tests.schema import parse_message
from tests.shared import shared

V0 = """name: "old"
input: "data" input_dim: 2 input_dim: 3 input_dim: 7 input_dim: 6
layers { layer { name: "pad1" type: "padding" pad: 1 } bottom: "data" top: "pad1" }
layers { layer { name: "conv1" type: "conv" num_output: 8 kernelsize: 3 stride: 1 BLOBS1
  blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0 } bottom: "pad1" top: "conv1" }
layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
layers { layer { name: "pool1" type: "pool" pool: MAX kernelsize: 2 stride: 2 } bottom: "conv1" top: "pool1" }
layers { layer { name: "fc1" type: "innerproduct" num_output: 20 BLOBS2 } bottom: "pool1" top: "fc1" }
"""


def blob_text(array: np.ndarray) -> str:
    """A blob with the legacy shape, as V0's time wrote it."""
    dims = (1,) * (4 - array.ndim) + array.shape
    head = " ".join(f"{name}: {n}" for name, n in zip(("num", "channels", "height", "width"), dims, strict=True))
    return "blobs { " + head + "".join(f" data: {x:.9g}" for x in array.ravel()) + " }"


@pytest.fixture
def v0_files(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, dtype=np.float32) for shape in ((8, 3, 3, 3), (8,), (20, 96), (20,))]
    blobs = [blob_text(array) for array in arrays]
    text = V0.replace("BLOBS1", " ".join(blobs[:2])).replace("BLOBS2", " ".join(blobs[2:]))
    prototxt, weights = tmp_path / "old.prototxt", tmp_path / "old.caffemodel"
    prototxt.write_text(V0.replace("BLOBS1", "").replace("BLOBS2", ""))
    weights.write_bytes(parse_message(text, "NetParameter").SerializeToString())
    return prototxt, weights


def outputs(*models: tuple[Path, Path], shape: tuple[int, ...], name: str = "data") -> list[np.ndarray]:
    """What real Caffe computes of one random input in each model: its output."""
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    results = require_caffe().run_jobs([Job(model, [{name: x}]) for model in models])
    values = []
    for result in results:
        assert not isinstance(result, EngineError), result
        values.append(next(iter(result[0].values())))
    return values


def test_v0_files_upgrade_to_the_same_network(v0_files: tuple[Path, Path], tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["upgrade", *map(str, v0_files), "-o", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    new = tmp_path / "new" / "old.prototxt", tmp_path / "new" / "old.caffemodel"
    assert [r.name for r in binary.read(new[1]).layers if r.blobs] == ["conv1", "fc1"]
    assert all(r.generation == 2 for r in binary.read(new[1]).layers)
    before, after = outputs(v0_files, new, shape=(2, 3, 7, 6))
    np.testing.assert_array_equal(before, after)


def test_v0_files_are_upgraded_before_a_cut_and_the_report_says_so(v0_files: tuple[Path, Path], tmp_path: Path) -> None:
    require_caffe()
    options = ["--rank", "full", "--force", "--method", "svd,svd-channel", "--verify", "caffe"]
    result = CliRunner().invoke(main, ["compress", *map(str, v0_files), "-o", str(tmp_path / "cut"), *options])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "cut" / "report.json").read_text())
    assert report["notes"] == [f"{path.name}: V0 layers were upgraded to V2" for path in v0_files]
    assert [layer["layer"] for layer in report["layers"]] == ["conv1", "fc1"]
    before, after = outputs(
        v0_files, (tmp_path / "cut" / "old.prototxt", tmp_path / "cut" / "old.caffemodel"), shape=(2, 3, 7, 6)
    )
    # 100 products of float32, in another order.
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_v0_files_are_copied_as_they_are(v0_files: tuple[Path, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    assert (
        CliRunner().invoke(main, ["compress", *map(str, v0_files), "-o", str(copy), "--method", "none"]).exit_code == 0
    )
    assert [(copy / path.name).read_bytes() for path in v0_files] == [path.read_bytes() for path in v0_files]


@pytest.mark.parametrize("folder", ["lenet_v1_everpeace", "cifar10_quick_v1_everpeace"])
def test_v1_files_of_the_zoo_upgrade_to_the_same_network(folder: str, tmp_path: Path) -> None:
    source = shared(f"zoo/caffemodel/{folder}")
    weights = max(source.glob("*.caffemodel"))
    prototxt = source / ("lenet.prototxt" if "lenet" in folder else "cifar10_quick.prototxt")
    result = CliRunner().invoke(main, ["upgrade", str(prototxt), str(weights), "-o", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    new = tmp_path / "new" / prototxt.name, tmp_path / "new" / weights.name
    message = parse_message("", "NetParameter")
    message.ParseFromString(new[1].read_bytes())
    assert not message.layers
    assert not message.input
    old = parse_message("", "NetParameter")
    old.ParseFromString(weights.read_bytes())
    assert [layer.name for layer in message.layer] == [layer.name for layer in old.layers]
    for before, after in zip(old.layers, message.layer, strict=True):
        assert list(before.blobs) == list(after.blobs)
        assert before.convolution_param == after.convolution_param
        assert list(before.blobs_lr) == [param.lr_mult for param in after.param]
    shape = (64, 1, 28, 28) if "lenet" in folder else (1, 3, 32, 32)
    first, second = outputs((prototxt, weights), new, shape=shape)
    np.testing.assert_array_equal(first, second)
